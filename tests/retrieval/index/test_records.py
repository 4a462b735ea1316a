"""The log of records that any number of processes write."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from feature_repo.contract.errors import ArtifactError
from retrieval.index.records import RecordLog

ABOUT = {"of": "shop"}


@pytest.fixture
def full_disk() -> Iterator[Callable[[int], None]]:
    """Return what keeps this process from writing past some size of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_log_opened_again_is_read_from_its_beginning(tmp_path: Path) -> None:
    RecordLog(tmp_path / "log", ABOUT).append(b"one")

    again = RecordLog(tmp_path / "log", ABOUT)
    again.append(b"")

    assert again.read() == [b"one", b""]
    assert again.read() == []


def test_a_record_that_does_not_fit_on_the_disk_is_no_part_of_the_log(
    tmp_path: Path, full_disk: Callable[[int], None]
) -> None:
    log = RecordLog(tmp_path / "log", ABOUT)
    log.append(b"one")
    size = log.path.stat().st_size

    full_disk(size + 10)
    with pytest.raises(OSError, match="File too large"):
        log.append(b"two" * 10)
    full_disk(resource.RLIM_INFINITY)
    log.append(b"three")

    assert log.read() == [b"one", b"three"]


def test_a_log_of_something_else_is_refused(tmp_path: Path) -> None:
    RecordLog(tmp_path / "log", ABOUT)

    with pytest.raises(ArtifactError, match=r"is a log of \{'of': 'shop'\}; expected one of"):
        RecordLog(tmp_path / "log", {"of": "another"})
