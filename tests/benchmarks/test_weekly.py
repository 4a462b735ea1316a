"""The benchmark week by week: how time goes by, what is judged, what is compared."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from benchmarks._replay import Replay, weeks_from
from benchmarks.weekly import EVERY, METRICS, Config, Judged, Week, compared, draw, judge, shown
from feature_repo.contract.artifacts import read_table
from feature_repo.contract.errors import ConfigError
from tests.retrieval import shop

MONDAYS = [datetime(2021, 1, day, tzinfo=UTC) for day in (4, 11, 18, 25)]


def week(system: str, number: int, *, test: bool = False) -> Week:
    return Week(system, "all", MONDAYS[number], test)


def judged(system: str, number: int, *, test: bool = False, **ndcg: float) -> Judged:
    values = np.array(list(ndcg.values()))
    return Judged(week(system, number, test=test), tuple(ndcg), dict.fromkeys(METRICS, values))


def test_weeks_begin_on_mondays_after_the_first() -> None:
    start = datetime(2021, 1, 4, 5, tzinfo=UTC)

    assert weeks_from(start, 2) == [(start, MONDAYS[1]), (MONDAYS[1], MONDAYS[2])]


def test_events_reach_to_a_moment_and_then_further(tmp_path: Path) -> None:
    whole = shop.make_shop(tmp_path / "whole")
    replay = Replay(whole, tmp_path / "replayed")
    every = read_table(whole.canonical / "events.parquet")

    for end in whole.edges[1:3]:
        replay.reach(end)

        known = read_table(replay.seen.canonical / "events.parquet")
        before = pc.less(every.column("event_timestamp"), pa.scalar(end))
        assert known.equals(every.filter(before))
        assert replay.seen.end == end
    assert replay.seen.name == whole.name


def test_only_users_who_bought_are_judged_and_an_empty_list_scores_nothing() -> None:
    users = pa.table(
        {
            "user_id": [1, 2, 3],
            "target_item_id": [[7, 8], [9], []],
            "seen_item_id": [[7], [9], []],
        }
    )
    lists = pa.table({"user_id": [1, 1, 3], "item_id": [7, 5, 7], "rank": [1, 2, 1]})

    everything = judge(lists, users, week("frozen", 0))
    new = judge(lists, users, Week("frozen", "new", MONDAYS[0], False))

    assert everything.users == (1, 2)
    ideal = 1 + 1 / np.log2(3)
    assert everything.values["ndcg@10"].tolist() == [pytest.approx(1 / ideal), 0.0]
    assert everything.values["p@10"].tolist() == [1 / 10, 0.0]
    assert (new.users, new.values["p@10"].tolist()) == ((1,), [0.0])


def test_weeks_of_a_window_are_means_by_user_without_the_first_week() -> None:
    found = [
        judged("frozen", 0, a=0.5, b=0.5),
        judged("updated", 0, a=0.5, b=0.5),
        judged("frozen", 1, a=0.2, b=0.4),
        judged("updated", 1, a=0.4, b=0.4),
        judged("frozen", 2, a=0.2),
        judged("updated", 2, a=0.3),
        judged("frozen", 3, test=True, b=0.1),
        judged("updated", 3, test=True, b=0.4),
    ]

    rows = {row["week"]: row for row in compared(found)}

    assert list(rows) == [
        *("2021-01-04", "2021-01-11", "2021-01-18", "2021-01-25"),
        *EVERY.values(),
    ]
    validation, test = rows[EVERY[False]], rows[EVERY[True]]
    assert (validation["users"], test["users"]) == (2, 1)
    assert validation["difference ndcg@10"] == pytest.approx(((0.2 + 0.1) / 2 + 0) / 2)
    assert test["difference ndcg@10"] == pytest.approx(0.3)


def test_rows_are_shown_and_drawn(tmp_path: Path) -> None:
    found = []
    for task in ("all", "new"):
        for system in ("frozen", "updated"):
            made = judged(system, 0, a=0.5, b=0.5)
            found.append(Judged(Week(system, task, MONDAYS[0], False), made.users, made.values))
    rows = list(compared(found))

    draw(rows, tmp_path / "plot.png")

    assert shown(rows)[0]["difference ndcg@10"] == "+0.0000 [+0.0000, +0.0000]"
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_mistaken_settings_get_a_sentence() -> None:
    with pytest.raises(ConfigError, match="weeks must be above zero"):
        Config(weeks=0)
