"""What a run tells whoever started it."""

from __future__ import annotations

from pathlib import Path

import pytest

from feature_repo.contract.dataset import Dataset
from tests.trainer.shop import open_run, run_config
from trainer.distributed import Process
from trainer.run_file import STOPPED, VARIABLE, RunFile, tell, tell_stopped


def test_a_run_tells_its_folder_as_soon_as_it_is_opened(
    shop_dataset: Dataset, process: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "told"
    monkeypatch.setenv(VARIABLE, str(path))
    assert RunFile.read(path) == RunFile(None, None)

    run = open_run(run_config(shop_dataset, tmp_path), process)

    assert RunFile.read(path) == RunFile(run.folder, None)


def test_a_run_that_stopped_tells_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "told"
    monkeypatch.setenv(VARIABLE, str(path))
    tell(Path("/runs/a"))

    tell_stopped(STOPPED)

    assert path.read_text() == "/runs/a\n75\n"
    assert RunFile.read(path) == RunFile(Path("/runs/a"), 75)


def test_a_run_that_stopped_before_it_was_opened_has_nothing_to_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "told"))

    tell_stopped(STOPPED)

    assert not list(tmp_path.iterdir())


def test_nobody_who_asks_means_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)

    tell(Path("/runs/a"))
    tell_stopped(STOPPED)

    assert not list(tmp_path.iterdir())
