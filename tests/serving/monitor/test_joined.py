from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np

from serving.monitor.config import MonitorConfig
from serving.monitor.joined import Shown, join
from tests.serving.monitor.files import NOW, event, exposure

CONFIG = MonitorConfig(recent_days=7, history_days=14, wait_hours=2)
RECENT, BEFORE = NOW - timedelta(days=1), NOW - timedelta(days=9)


def joined(exposures: list[Any], events: list[Any], most: int = 100) -> Shown:
    return join(CONFIG.windows(NOW), CONFIG.wait_hours, exposures, events, most)


def test_answers_are_put_into_windows_and_joined_with_their_feedback() -> None:
    shown = joined(
        [
            exposure("r1", 1, RECENT, [501, 502], [0.5, 0.4]),
            exposure("r2", 2, BEFORE, [502], [0.1]),
        ],
        [
            event("r1", 1, RECENT + timedelta(minutes=1), 502),
            event("r2", 2, BEFORE + timedelta(minutes=1), 502, "purchase"),
        ],
    )

    assert shown.window_A.tolist() == [0, 1]
    assert [shown.items[code] for code in shown.item_P] == [501, 502, 502]
    assert shown.clicked_P.tolist() == [False, True, False]
    assert shown.taken_P.tolist() == [False, False, True]
    assert shown.first_P.tolist() == [True, False, True]
    assert shown.sums(3, np.ones(3)).tolist() == [[2, 0], [0, 1], [0, 0]]


def test_feedback_counts_if_it_is_of_the_user_and_came_in_time() -> None:
    shown = joined(
        [exposure("r1", 1, RECENT, [501, 502, 503], [3.0, 2.0, 1.0])],
        [
            event("r1", 2, RECENT + timedelta(minutes=1), 501),
            event("r1", 1, RECENT + timedelta(hours=3), 502),
            event("r1", 1, RECENT - timedelta(minutes=1), 503),
        ],
    )

    assert not shown.clicked_P.any()


def test_answers_too_young_too_old_twice_or_asked_for_by_testers_do_not_count() -> None:
    shown = joined(
        [
            exposure("young", 1, NOW - timedelta(hours=1), [501], [1.0]),
            exposure("old", 1, NOW - timedelta(days=30), [501], [1.0]),
            exposure("tester", 1, RECENT, [501], [1.0], override=True),
            exposure("twice", 1, RECENT, [501], [1.0], experiment="a"),
            exposure("twice", 1, RECENT, [501], [1.0], experiment="b"),
        ],
        [],
    )

    assert len(shown.window_A) == 1


def test_too_many_answers_leave_out_whole_users() -> None:
    lines = [
        exposure(f"r{user}-{n}", user, RECENT, [501], [1.0]) for user in range(50) for n in range(4)
    ]

    shown = joined(lines, [], most=100)

    assert shown.share < 1
    assert set(np.bincount(shown.user_A).tolist()) == {4}
    assert len(shown.users) < 50


def test_logs_of_old_servers_have_no_scores() -> None:
    line = exposure("r1", 1, RECENT, [501], [1.0])
    del line["scores"]

    assert np.isnan(joined([line], []).score_P).all()


def test_nothing_at_all_is_no_failure() -> None:
    assert joined([], []).users == []
