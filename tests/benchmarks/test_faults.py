"""The counts of the benchmark of faults; ``tests/serving`` breaks things one by one."""

from __future__ import annotations

import pytest

from benchmarks._faults_load import Answer, Load, counted
from benchmarks.faults import Config
from feature_repo.contract.errors import ConfigError


def test_answers_are_counted_by_what_became_of_them() -> None:
    load = Load("http://shop", [1], [2], clients=1, rate=1.0)
    load.answers = [
        Answer(10.0, 5.0, 0, (200,)),
        Answer(11.0, 6.0, 1, (0, 200)),
        Answer(12.0, 7.0, 0, (200,), ("features", "ann")),
        Answer(12.5, 8.0, 4, (503, 503, 0, 503)),
        Answer(13.0, 9.0, 0, (202,)),
    ]

    row = counted(load, over_at=11.5)

    assert row["requests"] == 5
    assert (row["failures"], row["failed_tries"]) == (1, 1 + 4)
    assert (row["degraded"], row["stages"]) == (1, "ann features")
    assert row["statuses"] == "none:2 503:3"
    assert row["recovery_s"] == 12.5 - 11.5
    assert row["p50_ms"] == 7.0


def test_a_fault_that_nothing_came_of_needs_no_recovery() -> None:
    load = Load("http://shop", [1], [2], clients=1, rate=1.0)
    load.answers = [Answer(10.0, 5.0, 1, (0, 200)), Answer(12.0, 5.0, 0, (200,))]

    assert counted(load, over_at=11.0)["recovery_s"] == 0.0


def test_an_unknown_scenario_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\['store eaten'\] are no scenarios"):
        Config(only="store killed,store eaten")
