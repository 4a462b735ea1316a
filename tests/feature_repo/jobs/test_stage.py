from __future__ import annotations

from pathlib import Path

import pytest

from feature_repo.contract.artifacts import write_json
from feature_repo.jobs import windows
from feature_repo.jobs.stage import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    (tmp_path / "in").write_text("a")
    (tmp_path / "out").write_text("b")
    return make(tmp_path)


def make(folder: Path, **settings: int) -> Stage:
    return Stage("work", folder, [folder / "in"], settings, [folder / "out"], [windows])


def test_a_stage_is_current_once_it_is_done(stage: Stage) -> None:
    assert not stage.is_current()
    stage.done()
    assert stage.is_current()


def test_changed_inputs_settings_or_code_make_it_stale(stage: Stage) -> None:
    stage.done()

    assert not make(stage.folder, size=2).is_current()
    assert not Stage("work", stage.folder, stage.inputs, {}, stage.outputs).is_current()
    stage.inputs[0].write_text("other")
    assert not make(stage.folder).is_current()


@pytest.mark.parametrize("change", ["missing", "truncated"])
def test_an_output_that_is_not_whole_makes_it_stale(stage: Stage, change: str) -> None:
    stage.done()
    if change == "missing":
        stage.outputs[0].unlink()
    else:
        stage.outputs[0].write_text("")

    assert not stage.is_current()


def test_a_broken_record_makes_it_stale(stage: Stage) -> None:
    write_json(stage.record, {"digest": stage.digest})
    assert not stage.is_current()
    stage.record.write_text("{")
    assert not stage.is_current()
