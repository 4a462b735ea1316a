"""The training loop: resumption, stopping, schedules and the best epoch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from math import cos, pi
from pathlib import Path

import pytest
import torch
from torch import Tensor

from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ArtifactError, ConfigError
from tests.trainer.shop import make_task, open_run, run_config
from trainer import checkpoints
from trainer.config import PathsConfig, RunConfig, Schedule
from trainer.data import SessionBatch
from trainer.distributed import Process
from trainer.loop import Stopped, Trainer
from trainer.runs import Run
from trainer.two_tower import TwoTowerTask


def trainer(config: RunConfig, process: Process) -> Trainer[SessionBatch]:
    run = open_run(config, process)
    task = make_task(config, process, run.folder)
    return Trainer(task, run, config.trainer, config.optimizer, process)


def values(made: Trainer[SessionBatch]) -> list[Tensor]:
    """Everything that was trained."""
    tables = [torch.from_numpy(made.task.tables.rows_of("item_id", 0, 41))]
    return tables + [value.detach().clone() for value in made.task.dense.parameters()]


def losses(made: Trainer[SessionBatch]) -> dict[int, float]:
    """Step -> loss, as recorded."""
    lines = (made.run.folder / "metrics.jsonl").read_text().splitlines()
    found = [line for line in map(json.loads, lines) if line["kind"] == "train"]
    assert len({line["step"] for line in found}) == len(found)
    return {line["step"]: line["loss"] for line in found}


def assert_equal(first: list[Tensor], second: list[Tensor]) -> None:
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    whole = trainer(run_config(shop_dataset, tmp_path / "whole"), process)
    whole.train()
    config = run_config(shop_dataset, tmp_path / "cut", "trainer.checkpoint_every=7")

    cut = trainer(config, process)
    step = cut.step

    def fail() -> None:
        if cut.progress.step == 30:
            raise KeyboardInterrupt
        step()

    cut.step = fail  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    resumed = trainer(config, process)
    resumed.train()

    assert resumed.progress == whole.progress
    assert_equal(values(resumed), values(whole))
    assert losses(resumed) == pytest.approx(losses(whole), rel=1e-6)


def test_the_pipeline_that_gpus_run_trains_alike(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    plain = trainer(run_config(shop_dataset, tmp_path / "plain"), process)
    plain.train()
    piped = trainer(run_config(shop_dataset, tmp_path / "piped"), process)
    piped._steps = piped._pipelined  # type: ignore[method-assign]

    piped.train()

    assert_equal(values(piped), values(plain))
    assert losses(piped) == losses(plain)


def test_bfloat16_differs_by_its_rounding_alone(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    single = trainer(run_config(shop_dataset, tmp_path / "fp32"), process)
    single.train()
    half = trainer(run_config(shop_dataset, tmp_path / "bf16", "trainer.compute=bf16"), process)
    half.train()

    assert losses(half) == pytest.approx(losses(single), abs=0.05)
    assert losses(half) != losses(single)


def test_a_file_stop_ends_the_run_with_a_checkpoint(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    config = run_config(shop_dataset, tmp_path)
    made = trainer(config, process)
    step = made.step

    def stop() -> None:
        step()
        (made.run.folder / "STOP").touch()

    made.step = stop  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        made.train()
    assert checkpoints.latest(made.folder) == made.folder / "step-10"
    resumed = trainer(config, process)
    resumed.train()

    assert resumed.progress.epoch == config.trainer.epochs
    assert not (made.run.folder / "STOP").exists()


def test_rates_fall_in_a_line_and_rise_while_warming_up(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    made = trainer(run_config(shop_dataset, tmp_path, "optimizer.warmup_steps=4"), process)
    total = 2 * made.batches_per_epoch
    half = total // 2

    assert made._rate(0, Schedule.linear) == pytest.approx(1 / 4)
    assert made._rate(half, Schedule.linear) == pytest.approx(1 - half / total)
    assert made._rate(half, Schedule.cosine) == pytest.approx((1 + cos(pi * half / total)) / 2)
    assert made._rate(half, Schedule.constant) == 1.0
    assert made._rate(total, Schedule.linear) == made._rate(total, Schedule.cosine) == 0.0


def test_tables_may_have_a_schedule_of_their_own(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    made = trainer(run_config(shop_dataset, tmp_path, "optimizer.table_schedule=constant"), process)
    made.train()

    assert [group["lr"] for group in made.task.tables.fused_optimizer.param_groups] == (
        made.task.tables._lrs
    )
    assert made.adam.param_groups[0]["lr"] < 0.1 * made.optimizer.dense_lr


def test_old_checkpoints_are_removed(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    made = trainer(
        run_config(
            shop_dataset, tmp_path, "trainer.checkpoint_every=5", "trainer.keep_checkpoints=1"
        ),
        process,
    )
    made.train()

    assert [path.name for path in made.folder.iterdir()] == [f"step-{made.progress.step}"]


def test_a_checkpoint_of_another_model_is_refused(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    made = trainer(run_config(shop_dataset, tmp_path), process)
    made._save("step-1")
    other = trainer(run_config(shop_dataset, tmp_path, "model.hidden=[12]"), process)

    with pytest.raises(ArtifactError, match="not a checkpoint of this run"):
        checkpoints.load(made.folder / "step-1", other.task.tables, other.task.dense, other.adam)


class Judged(TwoTowerTask):
    """A model whose evaluations are given."""

    given: Iterator[float]

    def evaluate(self) -> dict[str, float]:
        return {"quality": next(self.given)}


def judged(config: RunConfig, process: Process, given: list[float]) -> Trainer[SessionBatch]:
    run = open_run(config, process)
    task = make_task(config, process, run.folder)
    task.__class__ = Judged
    assert isinstance(task, Judged)
    task.given = iter(given)
    return Trainer(task, run, config.trainer, config.optimizer, process)


def test_the_best_epoch_is_kept_and_patience_ends_the_run(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    config = run_config(shop_dataset, tmp_path, "trainer.select=quality", "trainer.patience=2")
    config = replace(config, trainer=replace(config.trainer, epochs=9))
    made = judged(config, process, [0.1, 0.3, 0.2, 0.25, 0.9])

    metrics = made.train()

    assert metrics == {"quality": 0.3, "epochs": 2.0}
    assert made.progress.epoch == 2


class StoppedLater(Run):
    """A run that is asked to stop at the sixth look for it: at step 60."""

    looks = 0

    @property
    def stop_asked(self) -> bool:
        self.looks += 1
        return self.looks == 6


def test_the_best_epoch_is_kept_through_an_interruption(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    config = run_config(shop_dataset, tmp_path / "whole", "trainer.select=quality")
    config = replace(config, trainer=replace(config.trainer, epochs=3))
    whole = judged(config, process, [0.1, 0.9, 0.2])
    whole.train()
    config = replace(config, paths=PathsConfig(runs=str(tmp_path / "cut")))
    first = judged(config, process, [0.1, 0.9])
    first.run.__class__ = StoppedLater
    with pytest.raises(Stopped):
        first.train()
    assert first.progress.epoch == 2  # the best one is over

    again = judged(config, process, [0.2])
    metrics = again.train()

    assert metrics == {"quality": 0.9, "epochs": 2.0}
    assert_equal(values(again), values(whole))


def test_a_metric_that_is_not_measured_is_named(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    config = run_config(shop_dataset, tmp_path, "trainer.select=recal")

    with pytest.raises(ConfigError, match="recal is not measured; choose of"):
        judged(config, process, [0.1]).train()
