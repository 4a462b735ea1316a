from __future__ import annotations

import logging

import pytest

from feature_repo.contract.errors import StoreUnavailable
from serving.stages import RANKING, SHARES, SOURCE_SHARE, Deadline, Run


class Ticks:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def broken() -> int:
    raise RuntimeError("no memory")


def test_a_stage_that_works_is_what_it_returns() -> None:
    run = Run()

    assert run.attempt("ann", lambda: 1, lambda: 2) == 1
    assert run.degraded == []
    assert list(run.seconds) == ["ann"]


def test_a_stage_that_fails_is_done_without_named_once_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = Run()

    with caplog.at_level(logging.ERROR):
        assert run.attempt("failing", broken, lambda: 2) == 2
        assert run.attempt("failing", broken, lambda: 2) == 2

    assert run.degraded == ["failing"]
    assert [record.exc_text is not None for record in caplog.records] == [True]
    assert "no memory" in caplog.text


def test_a_store_that_is_away_is_not_told_of_again(caplog: pytest.LogCaptureFixture) -> None:
    def away() -> int:
        raise StoreUnavailable("no answer")

    run = Run()
    assert run.attempt("features", away, lambda: 2) == 2

    assert run.degraded == ["features"]
    assert caplog.records == []


def test_in_a_strict_run_a_failure_is_raised() -> None:
    with pytest.raises(RuntimeError, match="no memory"):
        Run(strict=True).attempt("ann", broken, lambda: 2)


def test_a_stage_begins_only_before_its_share_of_the_deadline() -> None:
    clock = Ticks()
    run = Run(Deadline.after(1.0, clock))

    clock.now = 100.0 + SOURCE_SHARE - 0.01
    assert run.attempt("ann", lambda: 1, lambda: 2) == 1
    clock.now = 100.0 + SOURCE_SHARE
    assert run.attempt("ease", lambda: 1, lambda: 2) == 2
    assert run.attempt(RANKING, lambda: 1, lambda: 2) == 1
    clock.now = 100.0 + SHARES[RANKING]
    assert run.attempt(RANKING, lambda: 1, lambda: 2) == 2

    assert run.degraded == ["ease", RANKING]
