"""The benchmark of cold start: what is hidden, who is asked, and all of it on a small shop."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from benchmarks._cold import Universe, _first_baskets, _items_by_user, _state
from benchmarks._hidden import ITEMS, USERS, HiddenShop, hidden_ids, hide
from benchmarks.cold_start import AMONG_NEW, NEW_ITEMS, NEW_USERS, Config, after, run, summary
from feature_repo.contract.artifacts import read_table
from feature_repo.contract.dataset import Dataset
from feature_repo.jobs.config import JobConfig, load_config
from feature_repo.jobs.ingest import ingest
from tests.retrieval import shop

T0 = datetime(2021, 1, 1, tzinfo=UTC)


def events(*lines: tuple[int, int, int]) -> pa.Table:
    """(user, item, day) lines."""
    return pa.table(
        {
            "user_id": [line[0] for line in lines],
            "item_id": [line[1] for line in lines],
            "event_timestamp": pa.array([T0 + timedelta(days=line[2]) for line in lines]),
        }
    )


def test_a_share_of_the_ids_is_hidden_by_a_hash_of_each() -> None:
    ids = pa.array(range(10_000))

    found = hidden_ids(ids, 0, ITEMS, 0.1)

    assert 900 < len(found) < 1_100
    assert found.to_pylist() == sorted(found.to_pylist())
    assert hidden_ids(pa.array([*range(5_000)] * 2), 0, ITEMS, 0.1).to_pylist() == [
        number for number in found.to_pylist() if number < 5_000
    ]


def test_another_seed_and_another_stream_hide_others() -> None:
    ids = pa.array(range(1_000))
    found = [
        hidden_ids(ids, *place, 0.1).to_pylist() for place in ((0, USERS), (0, ITEMS), (1, USERS))
    ]

    assert found[0] != found[1] != found[2] != found[0]


def test_items_are_listed_once_in_the_order_of_purchase() -> None:
    found = _items_by_user(events((1, 7, 0), (1, 5, 1), (1, 7, 2), (2, 5, 0)))

    assert found == {1: [7, 5], 2: [5]}


def test_the_first_items_keep_their_baskets() -> None:
    found = _first_baskets(events((1, 7, 0), (1, 8, 0), (1, 7, 1), (1, 9, 1), (1, 4, 1)), 3)

    assert found == {1: {T0: [7, 8], T0 + timedelta(days=1): [9]}}


def test_a_begun_user_has_the_state_of_the_first_baskets(tmp_path: Path) -> None:
    dataset = shop.make_shop(tmp_path)

    found = _state({T0: [7, 8], T0 + timedelta(days=56): [7]}, dataset)

    last_s = int(T0.timestamp()) + 56 * 86_400
    assert found["history_item_id"] == [7, 8]
    assert found["history_weight"] == [1 + 1 / 2, 1.0]
    assert (found["events_total"], found["sessions_total"]) == (3, 2)
    assert (found["events_decayed"], found["sessions_decayed"]) == (2 / 2 + 1, 1 / 2 + 1)
    assert found["event_timestamp"] == datetime.fromtimestamp(last_s + 1, UTC)


def test_means_are_over_seeds_and_the_best_source_comes_first() -> None:
    rows = [
        {
            "seed": 0,
            "question": "q",
            "source": "low",
            "users": 3,
            "recall@50": 0.1,
            "recall@200": 0.2,
        },
        {
            "seed": 0,
            "question": "q",
            "source": "high",
            "users": 3,
            "recall@50": 0.1,
            "recall@200": 0.4,
        },
        {
            "seed": 1,
            "question": "q",
            "source": "high",
            "users": 3,
            "recall@50": 0.3,
            "recall@200": 0.6,
        },
    ]

    found = summary(rows)

    assert [row["source"] for row in found] == ["high", "low"]
    assert found[0]["recall@50"] == pytest.approx((0.1 + 0.3) / 2)
    assert found[0]["± 50"] == pytest.approx(np.std([0.1, 0.3], ddof=1))
    assert found[1]["± 50"] is None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_shop_is_hidden_in_part_and_every_source_is_asked(tmp_path: Path) -> None:
    whole = made_up_shop(tmp_path / "whole")
    config = Config(
        split="validation",
        seeds=[0],
        share=0.2,
        segment=None,
        data=str(whole.root),
        folder=str(tmp_path),
        runs=str(tmp_path / "runs"),
    )

    rows = run(config)

    hidden = hide(whole, tmp_path, 0, 0.2)
    universe = Universe.at(hidden, "t1")
    require_no_past(hidden)
    require_right_answers(universe)
    recall = {(row["question"], row["source"]): row["recall@50"] for row in rows}
    assert recall[NEW_ITEMS, "popular"] == 0 < recall[AMONG_NEW, "content"]
    assert recall[NEW_ITEMS, "two_tower"] > 0
    assert recall[NEW_USERS, "ease"] == 0 < recall[NEW_USERS, "popular"] <= 1
    assert recall[after(0), "similar users"] == 0 < recall[after(5), "similar users"]


def made_up_shop(root: Path) -> Dataset:
    settings = ("data.num_users=80", "data.num_items=60", "data.num_events=20000")
    return ingest(load_config(JobConfig, ["data=synthetic", f"data.root={root}", *settings]), T0)


def require_no_past(hidden: HiddenShop) -> None:
    seen = read_table(hidden.seen.canonical / "events.parquet")
    assert 0 < len(hidden.users) < 40
    assert 0 < len(hidden.items) < 30
    assert not pc.any(pc.is_in(seen.column("user_id"), hidden.users)).as_py()
    assert not pc.any(pc.is_in(seen.column("item_id"), hidden.items)).as_py()


def require_right_answers(universe: Universe) -> None:
    rows = universe.encoder.items.rows(universe.shop.items)
    assert set(rows[rows > 0]) == set(universe.hidden)
    assert all(np.isin(rows, universe.hidden).all() for rows in universe.known_users().relevant)
    strangers = universe.new_users()
    assert all((rows <= universe.num_known).all() for rows in strangers.relevant)
    assert strangers.users.user_row is not None
    assert not strangers.users.user_row.any()
    begun = [universe.begun_users(count) for count in (0, 1, 5)]
    assert [set(np.diff(part.users.histories.offsets)) for part in begun] == [{0}, {1}, {5}]
    answers = [[rows.tolist() for rows in part.relevant] for part in begun]
    assert answers[0] == answers[1] == answers[2]
