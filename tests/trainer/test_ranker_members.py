"""Members of a ranker: seeds of their own, one mean, calibrated and resumed together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.dataset import Dataset
from ranking.inputs import InputEncoder
from ranking.scorer import Scorer
from tests.trainer.ranker_shop import (
    make_members,
    make_run,
    make_window,
)
from trainer.config import LoopConfig
from trainer.distributed import Process
from trainer.loop import Stopped
from trainer.ranker_batches import ranking_metrics
from trainer.ranker_config import CalibrationConfig, Calibrator
from trainer.ranker_members import write_bundle
from trainer.ranker_rows import Rows
from trainer.runs import Run


def test_members_are_trained_from_seeds_of_their_own_and_averaged(
    ranker_dataset: Dataset, encoded: tuple[InputEncoder, Rows], process: Process, tmp_path: Path
) -> None:
    members = make_members(ranker_dataset, encoded, process, members=2)
    members = replace(members, config=replace(members.config, seed=3))
    run, window = Run(tmp_path, {}, process), make_window()

    metrics = write_bundle(members, run, ranker_dataset)
    scores = Scorer.load(tmp_path / "ranker", window.item_rows).score(
        window.user_rows, window.candidates, window.vocabulary
    )

    alone, own = [], []
    for index, seed in enumerate((2 * 3, 2 * 3 + 1)):
        task = members.task(index)
        assert task.seed == seed
        own.append(task.trainer(run.part(f"members/{index}"), members.config).train())
        alone.append(task.scores(encoded[1]))
    np.testing.assert_allclose(scores, (alone[0] + alone[1]) / 2, rtol=1e-4, atol=1e-4)
    assert np.abs(alone[0] - alone[1]).max() > 0.01
    assert metrics["ndcg@10_of_one"] == (own[0]["ndcg@10"] + own[1]["ndcg@10"]) / 2
    assert metrics["ndcg@10"] == pytest.approx(ranking_metrics(encoded[1], scores)["ndcg@10"])
    assert metrics["members"] == 2.0


def test_members_that_were_stopped_go_on_as_if_nothing_had_happened(
    ranker_dataset: Dataset, encoded: tuple[InputEncoder, Rows], process: Process, tmp_path: Path
) -> None:
    members = make_members(ranker_dataset, encoded, process, members=2)
    every = LoopConfig(epochs=3, batch_size=2, select="ndcg@10")
    members = replace(members, config=replace(members.config, trainer=every))
    whole = write_bundle(members, make_run(tmp_path / "whole", process), ranker_dataset)
    run = make_run(tmp_path / "cut", process)
    members.task(0).trainer(run.part("members/0"), members.config).train()
    (run.folder / "STOP").touch()
    with pytest.raises(Stopped):
        members.task(1).trainer(run.part("members/1"), members.config).train()

    run.forget_stop()
    metrics = write_bundle(members, run, ranker_dataset)

    assert metrics == whole
    for index in range(2):
        first, second = (
            tmp_path / name / "ranker" / "members" / str(index) / "network.safetensors"
            for name in ("whole", "cut")
        )
        assert first.read_bytes() == second.read_bytes()


def test_a_calibrated_ranker_ranks_as_before_and_has_probabilities(
    ranker_dataset: Dataset, encoded: tuple[InputEncoder, Rows], process: Process, tmp_path: Path
) -> None:
    window, scores, metrics = make_window(), {}, {}
    for method in (Calibrator.none, Calibrator.platt):
        calibration = CalibrationConfig(method)
        made = make_members(ranker_dataset, encoded, process, members=2, calibration=calibration)
        metrics[method] = write_bundle(
            made, make_run(tmp_path / method.value, process), ranker_dataset
        )
        scorer = Scorer.load(tmp_path / method.value / "ranker", window.item_rows)
        scores[method] = scorer.score(window.user_rows, window.candidates, window.vocabulary)

    logits = scores[Calibrator.platt]
    np.testing.assert_array_equal(logits, scores[Calibrator.none])
    said = scorer.probabilities(logits)
    assert said.mean() == pytest.approx(window.labels.mean(), rel=0.01)
    assert said[logits.argmax()] == said.max() > said.min()
    before, after = (metrics[method] for method in (Calibrator.none, Calibrator.platt))
    assert after.pop("ece") < after.pop("ece_before")
    assert after == before
