from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from feature_repo.contract.dataset import Clock, Dataset, IdType
from feature_repo.jobs.complete_journey import map_titles, source_files
from feature_repo.jobs.config import JobConfig, load_config
from feature_repo.jobs.ingest import ingest


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return the sample of 200 households."""
    root = tmp_path_factory.mktemp("journey")
    config = load_config(JobConfig, [f"data.root={root}", "data.max_users=200"])
    return ingest(config, datetime(2024, 1, 1, tzinfo=UTC))


def rows(dataset: Dataset, name: str) -> Any:
    return pq.read_table(dataset.canonical / f"{name}.parquet")


def test_the_windows_are_those_of_the_weeks(sample: Dataset) -> None:
    assert [edge.isoformat() for edge in sample.edges] == [
        "2017-10-02T04:00:00+00:00",
        "2017-10-30T04:00:00+00:00",
        "2017-11-27T05:00:00+00:00",
        "2017-12-25T05:00:00+00:00",
    ]
    assert sample.clock is Clock.AS_OF
    assert (sample.user_id, sample.item_id) == (IdType.INT64, IdType.INT64)


def test_lines_that_are_left_out_are_counted_by_their_first_reason(sample: Dataset) -> None:
    counts = {name: count for name, count in sample.counts.items() if ":" in name}

    assert sample.counts["lines"] == 1_469_307
    assert counts == {
        "dropped: category COUPON/MISC ITEMS": 15_997,
        "dropped: category FUEL": 1_164,
        "dropped: department MISCELLANEOUS": 1_364,
        "dropped: quantity of zero or less": 8_869,
    }


def test_a_sample_has_whole_households(sample: Dataset) -> None:
    events, users = rows(sample, "events"), rows(sample, "users")

    assert len(users) == sample.counts["users"] == 200
    assert set(pc.unique(events["user_id"]).to_pylist()) == set(users["user_id"].to_pylist())


def test_what_was_paid_leaves_out_the_coupon_and_the_list_price_adds_the_discounts(
    sample: Dataset,
) -> None:
    transactions = next(path for path in source_files() if path.stem == "transactions")
    line = duckdb.execute(
        f"""
        SELECT household_id, product_id, quantity, sales_value, retail_disc, coupon_disc,
               coupon_match_disc
        FROM read_parquet('{transactions}')
        WHERE coupon_match_disc > 0 AND quantity > 1 AND household_id IN (
            SELECT user_id FROM read_parquet('{sample.canonical / "users.parquet"}'))
        ORDER BY ALL LIMIT 1"""
    ).fetchall()[0]
    user, item, quantity, sales, retail, coupon, match = line
    events = rows(sample, "events")

    mine = pc.and_(pc.equal(events["user_id"], user), pc.equal(events["item_id"], item))
    found = [(row["price"], row["list_price"]) for row in events.filter(mine).to_pylist()]

    expected = ((sales - coupon) / quantity, (sales + retail + match) / quantity)
    assert any(pair == pytest.approx(expected) for pair in found)


def test_events_are_unique_and_sorted(sample: Dataset) -> None:
    events = rows(sample, "events").to_pylist()
    keys = [(e["user_id"], e["event_timestamp"], e["item_id"], e["event_type"]) for e in events]

    assert keys == sorted(set(keys))
    assert min(event["quantity"] for event in events) > 0
    assert min(event["price"] for event in events) >= 0


def test_promotions_hold_for_a_week_and_are_shares_of_stores(sample: Dataset) -> None:
    context = rows(sample, "item_context")
    display = context.filter(pc.equal(context["kind"], "display")).slice(0, 1000).to_pylist()

    assert set(pc.unique(context["kind"]).to_pylist()) == {"coupon", "display", "mailer"}
    assert all(0 < row["share"] <= 1 for row in display)
    # Weeks are 7 days of local time: an hour more or less where the clocks change.
    days = {
        round((r["valid_until"] - r["event_timestamp"]).total_seconds() / 86_400) for r in display
    }
    assert days == {7}


def test_titles_are_readable() -> None:
    assert map_titles(["FRZN FRENCH FRIES", "EGGS - LARGE", "COOKIES: GOURMET"]) == [
        "Frozen French Fries",
        "Eggs – Large",
        "Cookies: Gourmet",
    ]
    assert map_titles(["BREAD:ITALIAN/FRENCH", "BINDERS & PORTFOLIOS"]) == [
        "Bread: Italian/French",
        "Binders & Portfolios",
    ]
