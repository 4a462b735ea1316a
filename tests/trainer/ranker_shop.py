"""The made-up shop of ``tests.ranking.shop`` as a ranker's training sees it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from feature_repo.contract.dataset import Clock, Dataset, IdType, parse_time
from feature_repo.contract.events import EventType, target_column
from ranking.dcn_v2 import DcnV2Config
from ranking.inputs import InputEncoder
from ranking.wide_deep import WideDeepConfig
from tests.ranking import shop
from trainer.config import LoopConfig, OptimizerConfig, RunConfig
from trainer.distributed import Device, Process
from trainer.ranker import RankerTask
from trainer.ranker_config import RankerModelConfig
from trainer.ranker_members import Members
from trainer.ranker_rows import Rows
from trainer.ranker_windows import Window, labelled, targets_of
from trainer.runs import Run
from trainer.sharding_config import ShardingConfig

EDGES = ("2020-08-01", "2020-08-15", "2020-09-13", "2020-10-15")
NETWORK = WideDeepConfig(
    id_dim=4,
    feature_dim=4,
    bucket_dim=4,
    hidden=[16, 8],
    without=[],
    crosses=[["own_weight", "own_due"], ["segment", "brand"]],
    max_cross_rows=50,
)
DCN_V2 = DcnV2Config(
    id_dim=4, feature_dim=4, bucket_dim=4, width=8, hidden=[8], without=[], cross_rank=4
)

VIEWED = target_column(EventType.VIEW)


def make_dataset(root: Path) -> Dataset:
    """A data set without data."""
    edges = tuple(parse_time(edge) for edge in EDGES)
    assert len(edges) == 4
    return Dataset(
        name="shop",
        root=root,
        user_id=IdType.INT64,
        item_id=IdType.INT64,
        clock=Clock.AS_OF,
        start=edges[0],
        end=edges[3],
        edges=edges,
    )


def make_window(num_users: int = shop.NUM_USERS) -> Window:
    """Some users' candidates, and what they bought."""
    users = shop.user_rows(num_users)
    candidates = shop.candidates(users)
    labels, counts = labelled(candidates, targets_of(users, shop.vocabulary()))
    return Window(
        users, shop.item_rows(), shop.SCHEMA, shop.vocabulary(), candidates, labels, counts
    )


def make_viewed() -> Window:
    """The same users, who viewed the first candidates of each other one too."""
    window = make_window()
    ids = window.vocabulary.ids_of(window.candidates.item_row)
    starts = window.candidates.offsets[:-1].tolist()
    views = [ids[start : start + 2 * (user % 2)] for user, start in enumerate(starts)]
    column = pa.array(views, pa.list_(pa.int64()))
    window = replace(window, user_rows=window.user_rows.append_column(VIEWED, column))
    return replace(window, others={EventType.VIEW: window.labels_of(EventType.VIEW)})


def make_config(dataset: Dataset, **settings: object) -> RunConfig:
    """Settings of a small run."""
    dataset.save()
    made = RunConfig(
        experiment="test",
        cutoff="t2",
        data={"name": dataset.name, "root": str(dataset.root)},
        model=RankerModelConfig(network=NETWORK, negatives=5),
        optimizer=OptimizerConfig(dense_lr=0.01, table_lr=0.1),
        trainer=LoopConfig(epochs=3, batch_size=4),
        sharding=ShardingConfig(device=Device.cpu),
    )
    return replace(made, **settings)  # type: ignore[arg-type]


def make_task(
    dataset: Dataset, encoded: tuple[InputEncoder, Rows], process: Process, **model: object
) -> RankerTask:
    """A ranker that is not trained yet; ``model`` are its settings."""
    inputs, rows = encoded
    made = make_config(dataset)
    assert isinstance(made.model, RankerModelConfig)
    settings = replace(made.model, **model)  # type: ignore[arg-type]
    return RankerTask(made, settings, inputs, rows, process, judged=rows)


def make_members(
    dataset: Dataset, encoded: tuple[InputEncoder, Rows], process: Process, **model: object
) -> Members:
    """A ranker's networks, judged on the rows that they are trained on."""
    task = make_task(dataset, encoded, process, **model)
    return Members(make_config(dataset), task.model, *encoded, encoded[1], None, process)


def make_run(folder: Path, process: Process) -> Run:
    """A run in a new folder."""
    folder.mkdir()
    return Run(folder, {}, process)
