from __future__ import annotations

from pathlib import Path

import pytest

from feature_repo.contract.artifacts import read_json, write_json
from feature_repo.contract.errors import ArtifactError
from tests.trainer.evaluation.test_markdown import evaluation
from trainer.evaluation.result import METRICS, Evaluation


@pytest.mark.parametrize("with_system", [True, False])
def test_a_saved_evaluation_comes_back_equal(tmp_path: Path, with_system: bool) -> None:
    found = evaluation(with_system=with_system)
    found.save(tmp_path / "evaluation.json")

    loaded = Evaluation.load(tmp_path / "evaluation.json")

    assert loaded == found
    assert list(loaded.tasks["all"].methods[0].metrics) == list(METRICS)


def test_another_format_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "evaluation.json", {"format": 2})

    with pytest.raises(ArtifactError, match="not an evaluation of format 1"):
        Evaluation.load(tmp_path / "evaluation.json")


@pytest.mark.parametrize("key", ["tasks", "dataset", "k"])
def test_a_missing_part_is_refused(tmp_path: Path, key: str) -> None:
    path = tmp_path / "evaluation.json"
    evaluation().save(path)
    value = read_json(path)
    del value[key]
    write_json(path, value)

    with pytest.raises(ArtifactError, match="does not describe an evaluation"):
        Evaluation.load(path)
