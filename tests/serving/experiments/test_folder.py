from __future__ import annotations

import os
from pathlib import Path

import pytest

from serving.experiments.folder import Folder
from tests.serving.experiments.files import write


def looked(path: Path) -> Folder:
    folder = Folder(path)
    folder.look()
    return folder


def enabled(folder: Folder) -> dict[str, bool]:
    return {name: one.enabled for name, one in folder.experiments.items()}


def test_a_folder_that_is_not_there_has_no_experiments(tmp_path: Path) -> None:
    assert looked(tmp_path / "nowhere").experiments == {}
    (tmp_path / ".lists.yaml").write_text("start: [")
    assert (looked(tmp_path).experiments, looked(tmp_path).refused) == ({}, {})
    assert not Folder(None).look()


def test_files_that_come_change_and_go_are_followed(tmp_path: Path) -> None:
    path = write(tmp_path)
    folder = looked(tmp_path)
    assert enabled(folder) == {"lists": True}
    assert not folder.look()

    write(tmp_path, enabled=False)
    assert folder.look()
    assert enabled(folder) == {"lists": False}

    path.unlink()
    assert folder.look()
    assert folder.experiments == {}


def test_a_malformed_file_is_refused_and_what_it_said_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path)
    folder = looked(tmp_path)

    write(tmp_path, variants={"control": {"wieght": 5}, "other": None})
    write(tmp_path, "second", traffic=[0.0, 0.5], layer="other")
    folder.look()

    assert list(folder.experiments["lists"].variants["control"].levers) == []
    assert set(folder.experiments) == {"lists", "second"}
    assert f"{path}: variants.control.wieght" in caplog.text
    assert "what it said before goes on" in caplog.text


def test_a_refusal_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "wrong.yaml").write_text("variants: 5")
    folder = looked(tmp_path)
    write(tmp_path)
    folder.look()

    assert caplog.text.count("The experiment wrong is refused, and it does not run") == 1


def test_of_two_that_contradict_each_other_the_one_in_force_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "zebra")
    folder = looked(tmp_path)
    write(tmp_path, "ant")
    folder.look()

    assert set(folder.experiments) == {"zebra"}
    assert "ant and zebra have users of the layer 'default' in common" in caplog.text

    write(tmp_path, "zebra", enabled=False)
    folder.look()
    assert folder.experiments["ant"].enabled
    assert folder.refused == {}


def test_switching_off_works_beside_a_malformed_file(tmp_path: Path) -> None:
    write(tmp_path)
    folder = looked(tmp_path)

    (tmp_path / "wrong.yaml").write_text("variants: [")
    write(tmp_path, enabled=False)
    folder.look()

    assert not folder.experiments["lists"].enabled


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path, layer="a")
    folder = looked(tmp_path)
    about = path.stat()

    other = write(tmp_path / "new", layer="b")
    os.utime(other, ns=(about.st_atime_ns, about.st_mtime_ns))
    other.replace(path)

    assert folder.look()
    assert folder.experiments["lists"].layer == "b"
