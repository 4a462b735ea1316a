"""Items that another model teaches a session, and what they change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from feature_repo.contract.columns import list_column
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.encoding import Encoder, query_times_s
from feature_repo.contract.errors import ArtifactError, ConfigError
from feature_repo.contract.vocabulary import Vocabulary
from retrieval.sources import UserBatch
from tests.retrieval import shop
from tests.trainer.shop import make_task, run_config
from trainer.config import compose
from trainer.distributed import Process
from trainer.fitted import train
from trainer.judge import histories_of
from trainer.model_config import TeacherConfig
from trainer.sets import SERVICE, TrainingSet
from trainer.source_config import FittedModelConfig
from trainer.teacher import Teacher


@pytest.fixture
def run(shop_dataset: Dataset, tmp_path: Path, process: Process) -> Path:
    """A finished run of a fitted model."""
    chosen = ["model=ease", "cutoff=t1", "sharding.device=cpu"]
    config = compose([*chosen, *shop.overrides(shop_dataset, tmp_path)])
    assert isinstance(config.model, FittedModelConfig)
    return train(config, config.model, process)


def loaded(run: Path, dataset: Dataset, items: int = 5, temperature: float = 0.1) -> Teacher:
    config = TeacherConfig(str(run), items=items, temperature=temperature)
    found = Teacher.load(config, run_items(run), dataset.edge("t1").isoformat())
    assert found is not None
    return found


def run_items(run: Path) -> Vocabulary:
    """The run's own items in another order: none has the row that it has in the run."""
    own = Encoder.load(run / "source" / "encoder").items
    return Vocabulary.build(own.ids.take(pa.array(np.arange(len(own))[::-1])), own.id_type)


def sessions(dataset: Dataset) -> pa.Table:
    found = TrainingSet.open(dataset, SERVICE, "sessions", "t1")
    return found.read_group(0, found.users.schema_arrow.names)


def test_new_items_are_taught_by_their_scores(run: Path, shop_dataset: Dataset) -> None:
    teacher, rows = loaded(run, shop_dataset), sessions(shop_dataset)

    taught = teacher.taught(rows)

    items = run_items(run)
    histories, offsets = list_column(rows, "history_item_id")
    assert taught.weights is not None
    for session in range(len(rows)):
        part = slice(taught.offsets[session], taught.offsets[session + 1])
        mine = set(items.ids_of(taught.values[part]))
        assert len(mine) <= 5
        assert not mine & set(histories[offsets[session] : offsets[session + 1]].to_pylist())
        if mine:
            assert taught.weights[part].sum() == pytest.approx(1.0, abs=1e-5)
            assert (np.diff(taught.weights[part]) <= 1e-6).all()  # best first


def test_weights_fall_with_the_score_as_said(run: Path, shop_dataset: Dataset) -> None:
    teacher, rows = loaded(run, shop_dataset, temperature=0.5), sessions(shop_dataset)
    lengths = np.diff(list_column(rows, "history_item_id")[1])
    rows = rows.slice(int(lengths.argmax()), 1)
    users = UserBatch(histories_of(rows, teacher.encoder), query_times_s(rows))
    scores = teacher.source.top(users, 5).score[0]
    expected = np.exp(-(1 - scores / scores[0]) / 0.5)

    taught = teacher.taught(rows)

    assert taught.weights == pytest.approx(expected / expected.sum(), rel=1e-5)


def test_items_that_the_taught_model_lacks_are_left_out(run: Path, shop_dataset: Dataset) -> None:
    whole = loaded(run, shop_dataset)
    lacking = replace(whole, row_of=np.where(whole.row_of % 2 == 0, whole.row_of, 0))

    taught = lacking.taught(sessions(shop_dataset))

    assert len(taught.values)
    assert (taught.values % 2 == 0).all()
    assert (taught.values > 0).all()


def test_a_teacher_of_another_cut_off_is_refused(run: Path, shop_dataset: Dataset) -> None:
    other = shop_dataset.edge("t2").isoformat()

    with pytest.raises(ConfigError, match=r"was fitted before .*; the cut-off is"):
        Teacher.load(TeacherConfig(str(run)), run_items(run), other)


def test_a_run_that_is_not_finished_is_no_teacher(run: Path, shop_dataset: Dataset) -> None:
    (run / "result.json").unlink()

    with pytest.raises(ArtifactError, match="not a finished run of a model that is fitted"):
        loaded(run, shop_dataset)


def test_without_a_run_nothing_is_taught(run: Path, shop_dataset: Dataset) -> None:
    assert Teacher.load(TeacherConfig(), run_items(run), "never") is None


def test_what_is_taught_weighs_against_the_targets(
    run: Path, shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    chosen = [f"model.teacher.run={run}", "model.teacher.weight=3", "model.teacher.items=4"]
    task = make_task(run_config(shop_dataset, tmp_path, *chosen), process, tmp_path)
    batch = next(task.batches(0, 0))
    assert batch.taught is not None

    inputs = task.prepare(batch, 0)

    weight, size = inputs.tensors["weight"], len(batch.targets.values)
    taught_sessions = np.count_nonzero(np.diff(batch.taught.offsets))
    assert float(weight[:size].sum()) == pytest.approx(1.0, rel=1e-5)
    assert float(weight[size:].sum()) == pytest.approx(3 * taught_sessions / len(batch), rel=1e-4)
    drawn = set(task._candidates(batch.targets.values, 0).tolist())
    alone = [row for row in set(batch.taught.values.tolist()) if row not in drawn]
    infinite = torch.isinf(inputs.tensors["log_q"]).sum()
    assert int(infinite) == len(alone)  # no negatives of the sessions that they do not belong to
