"""Run folders: named by what decides the result, and never mixed up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ConfigError
from tests.trainer.shop import open_run, run_config
from trainer.distributed import Process
from trainer.runs import Run, differing, identity, run_name


def test_the_same_settings_find_the_same_folder(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    first = open_run(run_config(shop_dataset, tmp_path), process)
    again = open_run(run_config(shop_dataset, tmp_path), process)

    assert first.folder == again.folder
    assert first.name.startswith("two_tower-")
    assert (first.folder / "config.yaml").read_text(encoding="utf-8").count("history_length:") == 1


@pytest.mark.parametrize("override", ["trainer.log_every=3", "sharding.row_wise_from=9"])
def test_what_changes_nothing_of_the_result_changes_no_name(
    shop_dataset: Dataset, tmp_path: Path, override: str
) -> None:
    plain = identity(run_config(shop_dataset, tmp_path), {})
    other = identity(run_config(shop_dataset, tmp_path / "elsewhere", override), {})

    assert run_name(plain) == run_name(other)


@pytest.mark.parametrize("override", ["seed=1", "model.temperature=0.5", "cutoff=t2"])
def test_what_changes_the_result_changes_the_name(
    shop_dataset: Dataset, tmp_path: Path, override: str
) -> None:
    plain = identity(run_config(shop_dataset, tmp_path), {})
    other = identity(run_config(shop_dataset, tmp_path, override), {})

    assert run_name(plain) != run_name(other)


def test_other_data_change_the_name(shop_dataset: Dataset, tmp_path: Path) -> None:
    config = run_config(shop_dataset, tmp_path)

    assert run_name(identity(config, {"set": "a"})) != run_name(identity(config, {"set": "b"}))


def test_an_edge_and_its_time_are_one_cutoff(shop_dataset: Dataset, tmp_path: Path) -> None:
    by_name = identity(run_config(shop_dataset, tmp_path), {})
    time = shop_dataset.edges[1].isoformat()
    by_time = identity(run_config(shop_dataset, tmp_path, f"cutoff='{time}'"), {})

    assert by_name == by_time


def test_a_folder_of_other_settings_is_refused(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    folder = tmp_path / "chosen"
    Run.open(run_config(shop_dataset, tmp_path), {}, process, folder)

    with pytest.raises(ConfigError, match=r"model\.dim, seed differ"):
        Run.open(run_config(shop_dataset, tmp_path, "seed=4", "model.dim=16"), {}, process, folder)


def test_differing_keys_are_dotted() -> None:
    assert differing({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 0}) == ["a.c", "d"]


def test_metrics_are_lines_of_json(shop_dataset: Dataset, process: Process, tmp_path: Path) -> None:
    run = open_run(run_config(shop_dataset, tmp_path), process)
    run.record(5, "train", {"loss": 0.5})
    run.record(9, "evaluation", {"recall": 0.25})

    lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()

    assert [json.loads(line) for line in lines] == [
        {"step": 5, "kind": "train", "loss": 0.5},
        {"step": 9, "kind": "evaluation", "recall": 0.25},
    ]
    assert list((run.folder / "tensorboard").iterdir())


def test_a_run_is_finished_by_its_result(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    run = open_run(run_config(shop_dataset, tmp_path), process)
    assert run.result is None

    run.finish({"recall": 0.5})

    assert run.result == {"recall": 0.5}
