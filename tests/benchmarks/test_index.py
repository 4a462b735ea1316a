"""The arithmetic of benchmark ``index``, and its smallest run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks._index_engines import Shoprec
from benchmarks._index_plot import frontier
from benchmarks.index import BATCHED, SINGLE, cheapest, merge_rounds, per_second, summary
from tests.retrieval.index.made import clustered, exact, overlap


def row(recall: float, single: float, batched: float) -> dict[str, Any]:
    times = {SINGLE: single, BATCHED: batched}
    return {
        "queries": "users",
        "effort": str(recall),
        "recall": recall,
        **{mode: {"cpu_us": us, "wall_us": 2 * us} for mode, us in times.items()},
    }


def test_the_cheapest_setting_that_reaches_a_recall_counts() -> None:
    rows = [row(0.94, 50, 40), row(0.96, 200, 80), row(0.97, 100, 90), {"recall": 0.9999}]

    assert cheapest(rows, SINGLE, 0.95) == rows[2]
    assert cheapest(rows, BATCHED, 0.95) == rows[1]
    assert cheapest(rows, SINGLE, 0.99) is None


def test_two_threads_answer_twice_the_queries_of_a_second_of_processor_time() -> None:
    assert per_second(row(0.95, 100, 50), SINGLE) == 1e6 / 100
    assert per_second(row(0.95, 100, 50), BATCHED) == 2 * 1e6 / 50
    assert per_second(None, SINGLE) is None


def test_of_several_rounds_the_least_time_counts() -> None:
    rounds = [{"rows": [row(0.95, 100, 70)]}, {"rows": [row(0.95, 90, 80)]}]

    (merged,) = merge_rounds(rounds)

    assert (merged[SINGLE]["cpu_us"], merged[BATCHED]["cpu_us"]) == (90, 70)


def test_engines_are_ranked_by_their_rate_at_95() -> None:
    def result(rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {"memory": {"own_gb": 0.1, "mapped_gb": 0.2}, "build_cpu_s": 3.0, "rows": rows}

    lines = summary(
        {"slow": result([row(0.96, 200, 1)]), "fast": result([row(0.96, 100, 1)])}, "users", SINGLE
    )

    assert [line["engine"] for line in lines] == ["fast", "slow"]
    assert lines[0]["q/s at 0.95"] == 1e6 / 100
    assert lines[0]["q/s at 0.99"] is None


def test_points_that_are_worse_in_both_are_left_out() -> None:
    points = [(0.90, 100.0), (0.92, 90.0), (0.91, 80.0), (0.95, 50.0), (0.94, 50.0)]

    assert frontier(points) == [(0.90, 100.0), (0.92, 90.0), (0.95, 50.0)]


@pytest.mark.parametrize("kind", [Shoprec])
def test_an_engine_builds_saves_and_finds(kind: type[Shoprec], tmp_path: Path) -> None:
    items, users = clustered(2_000), clustered(50, seed=9)[1:]
    kind().build(items[1:], users, tmp_path, threads=1)
    engine = kind()
    engine.load(tmp_path)

    found = engine.search(users, 10, list(engine.efforts())[-1], 1)

    assert overlap(found + 1, exact(items, users, 10)) == 1.0
    assert np.all(found >= 0)
