"""Stages run when something changed, and only then."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trainer.stages import Stage, StageFailed, Stages, stage_key

COPY = "import shutil, sys; shutil.copyfile(sys.argv[1], sys.argv[2])"


def copying(source: Path, target: Path) -> Stage:
    command = (sys.executable, "-c", COPY, str(source), str(target))
    return Stage("copy", "Copying", command, (source,), (target,), code=())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.txt"
    path.write_text("one")
    return path


def run(stage: Stage, tmp_path: Path, *, force: bool = False) -> bool:
    """Run a stage as a new process would; return whether it was reused."""
    return Stages(tmp_path / "stamps", force=force).run(stage).reused


def test_a_stage_runs_once_and_is_reused_while_nothing_changes(
    tmp_path: Path, source: Path
) -> None:
    stage = copying(source, tmp_path / "target.txt")
    assert not run(stage, tmp_path)
    assert run(stage, tmp_path)
    assert (tmp_path / "target.txt").read_text() == "one"


def test_a_changed_input_runs_the_stage_again(tmp_path: Path, source: Path) -> None:
    stage = copying(source, tmp_path / "target.txt")
    run(stage, tmp_path)
    source.write_text("two")
    assert not run(stage, tmp_path)
    assert (tmp_path / "target.txt").read_text() == "two"


def test_an_input_written_again_with_the_same_content_changes_nothing(
    tmp_path: Path, source: Path
) -> None:
    stage = copying(source, tmp_path / "target.txt")
    run(stage, tmp_path)
    source.write_text("one")
    assert run(stage, tmp_path)


def test_a_folder_that_a_later_stage_adds_to_is_still_what_its_stage_made(
    tmp_path: Path, source: Path
) -> None:
    folder = tmp_path / "made"
    make = "import os, shutil, sys; os.makedirs(sys.argv[2], exist_ok=True); "
    make += "shutil.copy(sys.argv[1], sys.argv[2])"
    command = (sys.executable, "-c", make, str(source), str(folder))
    stage = Stage("make", "Making", command, (source,), (folder,), code=())
    run(stage, tmp_path)

    (folder / "later.txt").write_text("more")
    assert run(stage, tmp_path)
    (folder / "source.txt").write_text("other")
    assert not run(stage, tmp_path)


@pytest.mark.parametrize("damage", ["delete", "truncate"])
def test_a_damaged_output_runs_the_stage_again(tmp_path: Path, source: Path, damage: str) -> None:
    target = tmp_path / "target.txt"
    stage = copying(source, target)
    run(stage, tmp_path)
    if damage == "delete":
        target.unlink()
    else:
        target.write_text("o")
    assert not run(stage, tmp_path)
    assert target.read_text() == "one"


def test_force_runs_an_unchanged_stage(tmp_path: Path, source: Path) -> None:
    stage = copying(source, tmp_path / "target.txt")
    run(stage, tmp_path)
    assert not run(stage, tmp_path, force=True)


def test_a_lost_result_outside_the_outputs_runs_the_stage_again(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "pass")
    stage = Stage("store", "Storing", command, code=(), holds=lambda: False)
    run(stage, tmp_path)
    assert not run(stage, tmp_path)


def test_the_path_that_a_command_answers_is_an_output(tmp_path: Path) -> None:
    made = tmp_path / "made"
    code = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('x'); print(sys.argv[1])"
    command = (sys.executable, "-c", code, str(made))
    stage = Stage("make", "Making", command, answers_path=True, code=())
    result = Stages(tmp_path / "stamps").run(stage)
    assert result.path == made
    again = Stages(tmp_path / "stamps").run(stage)
    assert again.reused
    assert again.path == made
    made.unlink()
    assert not Stages(tmp_path / "stamps").run(stage).reused


def test_a_failing_command_leaves_no_stamp_and_says_how_to_run_it_alone(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "import sys; print('the reason'); sys.exit(3)")
    stage = Stage("fail", "Failing", command, code=())
    with pytest.raises(StageFailed, match=r"(?s)code 3.*the reason.*Run it alone with: python -c"):
        run(stage, tmp_path)
    assert not (tmp_path / "stamps" / "fail.json").exists()


def test_a_command_that_does_not_make_its_output_is_a_failure(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "pass")
    stage = Stage("idle", "Idling", command, outputs=(tmp_path / "never",), code=())
    with pytest.raises(StageFailed, match="did not make"):
        run(stage, tmp_path)


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    stage = copying(tmp_path / "nowhere.txt", tmp_path / "target.txt")
    with pytest.raises(StageFailed, match=r"needs .*nowhere\.txt"):
        stage_key(stage)


def test_the_key_depends_on_the_code_that_runs() -> None:
    command = (sys.executable, "-c", "pass")
    keys = {
        stage_key(Stage("s", "s", command, code=code)) for code in ((), ("conf",), ("ranking",))
    }
    assert len(keys) == 3
