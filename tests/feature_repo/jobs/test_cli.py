from __future__ import annotations

from pathlib import Path

import pytest

from feature_repo.contract.dataset import REPOSITORY
from feature_repo.jobs.cli import COMMANDS, main
from tests.feature_repo.jobs.shops import day, purchase, write_shop


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])

    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


def test_an_error_is_one_sentence_and_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ingest", "data=nowhere"]) == 2

    captured = capsys.readouterr()
    assert captured.err.startswith("There is no data set 'nowhere'")
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_state_without_ingest_names_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["state", f"data.root={tmp_path}"]) == 2
    assert "dataset.json does not exist" in capsys.readouterr().err


def test_feast_env_answers_what_a_shell_can_evaluate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "my shop"
    write_shop(root, [purchase(1, 10, day(50))])

    assert main(["feast-env", "data=parquet", f"data.root='{root}'"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"export SHOPREC_DATASET_JSON='{root}/dataset.json'"
    assert lines[1] == f"export FEAST_FS_YAML_FILE_PATH='{root}/feature_store.yaml'"
    assert lines[2].startswith(f"export PYTHONPATH={REPOSITORY}")
