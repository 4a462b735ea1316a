"""What sessions were shown and did not choose, as their negatives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.contract.artifacts import read_table, write_table
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.encoding import Encoder
from tests.retrieval import shop
from tests.trainer.shop import make_task, run_config
from trainer.data import SHOWN
from trainer.distributed import Process
from trainer.model_config import TwoTowerModelConfig
from trainer.two_tower import VECTORS, train, user_vectors

PUSHED = 100 + 2 * np.arange(5)
"""Popular items of the even taste, which every user of that taste is shown."""


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return a shop whose sessions say what they were shown; one item is not known."""
    dataset = shop.make_shop(tmp_path_factory.mktemp("exposed"))
    path = dataset.sets / "retrieval_v1-sessions-t1" / "users.parquet"
    table = read_table(path)
    pushed = [*PUSHED.tolist(), 999]
    lists = [pushed if user % 2 == 0 else [] for user in table.column("user_id").to_pylist()]
    write_table(path, table.append_column(SHOWN, pa.array(lists, pa.list_(pa.int64()))), 64)
    return dataset


def test_a_batch_holds_what_its_sessions_were_shown(
    exposed: Dataset, process: Process, tmp_path: Path
) -> None:
    task = make_task(run_config(exposed, tmp_path), process, tmp_path)
    known = task.encoder.items.rows(PUSHED).tolist()

    for batch in task.batches(0, 0):
        assert batch.shown is not None
        users = task.encoder.users.ids.take(pa.array(batch.users.bags["user_id"].values - 1))
        for place, user in enumerate(users.to_pylist()):
            rows = batch.shown.take(np.array([place])).values.tolist()
            assert rows == (known if user % 2 == 0 else [])


def test_shown_items_are_candidates_of_their_sessions_alone(
    exposed: Dataset, process: Process, tmp_path: Path
) -> None:
    task = make_task(run_config(exposed, tmp_path), process, tmp_path)
    batch = next(task.batches(0, 0))
    assert batch.shown is not None

    tensors = task.prepare(batch, 0).tensors

    drawn = task._candidates(batch.targets.values, 0)
    items = np.union1d(drawn, batch.shown.values)
    assert np.isfinite(tensors["log_q"].numpy()).tolist() == np.isin(items, drawn).tolist()
    assert items[tensors["shown_place"].numpy()].tolist() == batch.shown.values.tolist()
    assert items[tensors["place"].numpy()].tolist() == batch.targets.values.tolist()
    assert len(tensors["shown_owner"]) == len(batch.shown.values)


def test_items_that_are_shown_in_vain_score_lower(
    exposed: Dataset, process: Process, tmp_path: Path
) -> None:
    rows = read_table(exposed.sets / "ranking_v1-users-t1" / "users.parquet")
    even = np.asarray(rows.column("user_id")) % 2 == 0
    scores = []
    for weight in (0, 20):
        overrides = ["trainer.epochs=4", f"model.shown_weight={weight}"]
        config = run_config(exposed, tmp_path, *overrides)
        assert isinstance(config.model, TwoTowerModelConfig)
        folder = train(config, config.model, process) / "two_tower"
        encoder = Encoder.load(folder / "encoder")
        users = user_vectors(folder, encoder, rows, 56.0)[even]
        items = np.load(folder / VECTORS)[encoder.items.rows(PUSHED)]
        scores.append(float((users @ items.T).mean()))

    assert scores[1] < scores[0]
