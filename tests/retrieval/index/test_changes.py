"""The log of changes: order, other processes, torn ends, damage."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.errors import ArtifactError
from retrieval.index.changes import Change, ChangeLog

ADDED = Change((7, 8), np.array([[1, 2], [3, 4]], dtype=np.float32))
REMOVED = Change(("shoe",), None)


def test_changes_are_read_in_the_order_they_were_written(tmp_path: Path) -> None:
    log = ChangeLog(tmp_path / "log", "one", 2)
    log.append(ADDED)
    log.append(REMOVED)

    added, removed = log.read()

    assert added.ids == (7, 8)
    assert added.vectors is not None
    assert added.vectors.tolist() == [[1, 2], [3, 4]]
    assert removed == REMOVED
    assert log.read() == []


def test_what_another_one_writes_is_seen(tmp_path: Path) -> None:
    mine, theirs = (ChangeLog(tmp_path / "log", "one", 2) for _ in range(2))
    assert not mine.is_behind()

    theirs.append(REMOVED)

    assert mine.is_behind()
    assert mine.read() == [REMOVED]
    assert not mine.is_behind()


def test_a_change_that_was_not_finished_is_cut_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log"
    log = ChangeLog(path, "one", 2)
    log.append(REMOVED)
    whole = path.stat().st_size
    log.append(ADDED)
    path.write_bytes(path.read_bytes()[:-3])

    with caplog.at_level(logging.WARNING):
        again = ChangeLog(path, "one", 2)

    assert again.read() == [REMOVED]
    assert path.stat().st_size == whole
    assert "was not finished; cut off" in caplog.text


def test_a_writer_cuts_off_what_a_killed_one_left(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = ChangeLog(path, "one", 2)
    with path.open("ab") as file:
        file.write(b"\x40\x00\x00\x00half of a")

    log.append(REMOVED)

    assert ChangeLog(path, "one", 2).read() == [REMOVED]


def test_a_writer_killed_at_any_moment_leaves_whole_changes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = (
        "import sys, pathlib, numpy as np\n"
        "from retrieval.index.changes import Change, ChangeLog\n"
        "log = ChangeLog(pathlib.Path(sys.argv[1]), 'one', 2)\n"
        "for item in range(10**9):\n"
        "    log.append(Change((item,), np.full((1, 2), item, dtype=np.float32)))\n"
        "    print(item, flush=True)\n"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", writer, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    told = [int(running.stdout.readline()) for _ in range(20)]
    running.kill()
    told += [int(line) for line in running.stdout.read().split()]
    running.wait()

    found = [change.ids[0] for change in ChangeLog(path, "one", 2).read()]

    assert found[: len(told)] == told
    assert len(found) <= len(told) + 1


def test_damage_before_the_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = ChangeLog(path, "one", 2)
    log.append(ADDED)
    damaged = bytearray(path.read_bytes())
    log.append(REMOVED)
    rest = path.read_bytes()[len(damaged) :]
    damaged[-1] ^= 1
    path.write_bytes(bytes(damaged) + rest)

    with pytest.raises(ArtifactError, match="checksum does not match"):
        ChangeLog(path, "one", 2)


def test_the_log_of_another_index_is_refused(tmp_path: Path) -> None:
    ChangeLog(tmp_path / "log", "one", 2)

    with pytest.raises(ArtifactError, match=r"is a log of .*'one'.*; expected one of .*'two'"):
        ChangeLog(tmp_path / "log", "two", 2)
