from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.contract.errors import BadInput
from serving.experiments.outcomes import Lines, Outcomes, Window, gather
from tests.serving.experiments.files import END, START, event, experiment, exposure

WINDOW = Window(START, END)


def joined(exposures: list[Any], feedback: list[Any], **changes: Any) -> Outcomes:
    window = Window(START, END, **changes)
    return gather(experiment(), window, exposures, feedback)


def of(found: Outcomes, name: str) -> list[float]:
    return found.columns[name].tolist()  # type: ignore[no-any-return]


def test_exposures_are_summed_by_user() -> None:
    found = joined(
        [
            exposure(7, "control", 1),
            exposure(8, "other", 1, took_ms=30.0, degraded=["features"]),
            exposure(7, "control", 2, item_ids=[5, 6], took_ms=20.0),
        ],
        [],
    )

    assert found.users == [7, 8]
    assert found.variant_U.tolist() == [0, 1]
    assert of(found, "answers") == [2, 1]
    assert of(found, "shown") == [4 + 2, 4]
    assert of(found, "took_ms") == [10 + 20, 30]
    assert of(found, "degraded") == [0, 1]
    assert [took.tolist() for took in found.took_ms] == [[10, 20], [30]]
    assert found.notes == []


def test_what_follows_the_first_exposure_counts() -> None:
    found = joined(
        [exposure(7, "control", 5), exposure(8, "other", 5)],
        [
            event(7, "purchase", 4, price=100.0),  # before the user was exposed
            event(7, "purchase", 6, price=2.0, quantity=3, session_id="s"),
            event(7, "purchase", 6.1, price=1.0, session_id="s"),
            event(7, "purchase", 7, price=5.0),
            event(8, "add_to_cart", 6),
            event(8, "purchase", 32),  # after the end
            event(9, "purchase", 6),  # not exposed
        ],
    )

    assert of(found, "converted") == [1, 0]
    assert of(found, "carted") == [0, 1]
    assert of(found, "orders") == [2, 0]
    assert of(found, "revenue") == [2 * 3 + 1 + 5, 0]
    assert of(found, "spend") == [100 + 2 * 3 + 1 + 5, 0]
    assert of(found, "before") == [0, 0]


def test_a_click_counts_once_and_on_what_was_shown_to_the_user() -> None:
    found = joined(
        [exposure(7, "control", 1), exposure(8, "other", 1)],
        [
            event(7, "click", 2, recommendation_id="r7-1", item_id=3),
            event(7, "click", 3, recommendation_id="r7-1", item_id=3),
            event(7, "click", 3, recommendation_id="r7-1", item_id=4),
            event(7, "click", 3, recommendation_id="r7-1", item_id=99),
            event(7, "click", 3, recommendation_id="r8-1", item_id=3),
            event(8, "click", 3),
        ],
    )

    assert of(found, "clicks") == [2, 0]


def test_a_user_came_back_who_is_seen_in_the_second_week() -> None:
    found = joined(
        [
            exposure(1, "control", 0),
            exposure(1, "control", 6.9),
            exposure(2, "control", 0),
            exposure(2, "control", 13),
            exposure(3, "other", 0),
            exposure(4, "other", 31 - 13),  # less than two weeks before the end
        ],
        [event(3, "view", 7.5)],
    )

    assert of(found, "eligible") == [1, 1, 1, 0]
    assert of(found, "returned") == [0, 1, 1, 0]


def test_the_feedback_log_is_the_history_where_no_events_are_given() -> None:
    found = joined(
        [exposure(7, "control", 5)],
        [
            event(7, "purchase", -1, price=3.0),
            event(7, "purchase", -60, price=40.0),
            event(7, "view", -2),
        ],
    )

    assert of(found, "before") == [3]
    assert of(found, "spend") == [3 + 40]
    assert of(found, "revenue") == [0]


def test_events_that_came_in_late_are_no_history() -> None:
    late = event(7, "purchase", -1, received_at=(START + timedelta(days=6)).isoformat())

    found = joined([exposure(7, "control", 5)], [late])
    assert of(found, "before") == of(found, "spend") == [0]
    assert "1 events came in since the start" in found.notes[0]
    assert of(joined([exposure(7, "control", 5)], [late], by="received_at"), "revenue") == [2]


def test_events_of_the_time_before_are_read_from_parquet(tmp_path: Path) -> None:
    rows = {
        "user_id": [7, 7, 7, 9, 7],
        "item_id": [1, 1, 1, 1, 1],
        "event_type": ["purchase", "purchase", "view", "purchase", "purchase"],
        "event_timestamp": pa.array(
            [START + timedelta(days=day) for day in (-1, -100, -1, -1, 1)],
            pa.timestamp("us", tz="UTC"),
        ),
        "quantity": [2, None, 1, 1, 1],
        "price": [1.5, 4.0, 9.0, 9.0, 9.0],
    }
    pq.write_table(pa.table(rows), tmp_path / "events.parquet")

    found = gather(
        experiment(),
        WINDOW,
        [exposure(7, "control", 5)],
        [event(7, "purchase", -1, price=1000.0)],
        tmp_path / "events.parquet",
    )

    assert of(found, "before") == [1.5 * 2]
    assert of(found, "spend") == [1.5 * 2 + 4]


def test_events_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "events.parquet").write_text("no")

    with pytest.raises(BadInput, match="does not hold canonical events"):
        gather(experiment(), WINDOW, [exposure(7, "control")], [], tmp_path / "events.parquet")


def test_overridden_answers_and_other_experiments_are_left_out() -> None:
    found = joined(
        [
            exposure(7, "control", 1),
            exposure(8, "other", 1, override=True),
            exposure(9, "other", 1, experiment="else"),
            exposure(10, "gone", 1),
        ],
        [],
    )

    assert found.users == [7]


def test_a_user_of_two_variants_is_left_out() -> None:
    found = joined(
        [exposure(7, "control", 1), exposure(7, "other", 2), exposure(8, "other", 1)], []
    )

    assert found.users == [8]
    assert "1 users saw more than one variant" in found.notes[0]


def test_only_the_last_revision_is_told_of() -> None:
    found = joined([exposure(7, "control", 1, revision="old"), exposure(8, "other", 2)], [])

    assert found.users == [8]
    assert "The file changed while the experiment ran" in found.notes[0]


def test_answers_of_another_revision_than_the_file_are_told() -> None:
    found = joined([exposure(7, "control", 1, revision="old")], [])

    assert "The answers are of revision old" in found.notes[0]


def test_purchases_without_a_price_are_told() -> None:
    found = joined([exposure(7, "control", 1)], [event(7, "purchase", 2, price=None)])

    assert found.notes == ["1 purchases have no price and count as 0."]
    assert of(found, "converted") == [1]


def test_nobody_exposed_is_an_error() -> None:
    with pytest.raises(BadInput, match="No answer of lists was logged"):
        joined([], [])


def test_half_a_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a": 1}\n[2]\n\xff\n{"a": 2')

    lines = Lines([path])
    assert list(lines) == list(lines) == [{"a": 1}]
