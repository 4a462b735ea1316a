from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from feature_repo.contract.artifacts import sha256_file
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ArtifactError, BadInput
from feature_repo.contract.schema import Entity, Schema
from feature_repo.contract.state import HISTORY_COLUMNS
from feature_repo.jobs.config import JobConfig, TrainingSetConfig, load_config
from feature_repo.jobs.feast_repo import write_settings
from feature_repo.jobs.state import make_state
from feature_repo.jobs.training_set import make_training_set
from tests.feature_repo.conftest import AppliedShop, feast_apply, shop_settings
from tests.feature_repo.jobs.shops import context, day, purchase, write_shop

Row = dict[str, Any]
T0, T1 = day(28), day(35)
MICROSECOND = timedelta(microseconds=1)
SESSION = day(22.5)
"""A basket of user 1, half-way through a week."""

PAST = [
    purchase(1, 10, day(1), price=2.0, list_price=4.0),
    purchase(1, 11, day(9)),
    purchase(1, 10, day(16)),
    purchase(1, 12, SESSION - timedelta(seconds=1)),
    purchase(2, 10, day(20), price=4.0, list_price=4.0),
    purchase(2, 13, day(27.9)),
]
BASKET = [purchase(1, 10, SESSION), purchase(1, 14, SESSION)]
LATER = [purchase(1, 15, day(50)), purchase(2, 15, day(51))]
"""Past every cut-off of these tests; they keep the edges."""


class Shop:
    """A shop under one path, so that one registry serves all of its contents."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(
        self,
        events: Sequence[Row],
        promotions: Sequence[Row] = (),
        profiles: Sequence[Row] = (),
    ) -> Dataset:
        """Replace everything that the shop knows."""
        dataset = write_shop(self.root, events, promotions, profiles)
        write_settings(dataset)
        make_state(load_config(JobConfig, [*shop_settings(self.root), "force=true"]))
        return dataset

    def make(self, *overrides: str) -> Path:
        """Make a training set."""
        settings = [*shop_settings(self.root), *overrides]
        return make_training_set(load_config(TrainingSetConfig, settings))

    def rows(self, *overrides: str) -> tuple[list[Row], list[Row]]:
        """User rows and item rows of a training set made anew."""
        folder = self.make(*overrides, "force=true")
        users, items = (
            pq.read_table(folder / f"{table}.parquet").to_pylist() for table in ("users", "items")
        )
        users.sort(key=lambda row: (row["user_id"], row["event_timestamp"]))
        return users, items


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Shop:
    found = Shop(tmp_path_factory.mktemp("planted"))
    dataset = found.write([*PAST, *LATER])
    result = feast_apply(dataset, repository / "feature_repo")
    assert result.returncode == 0, result.stderr
    return found


SESSIONS = ("service=ranking_v1", "kind=sessions", "cutoff=t0")
USERS = ("service=ranking_v1", "kind=users", "cutoff=t0")


def row_of_session(users: Sequence[Row]) -> Row:
    at = SESSION - MICROSECOND
    (row,) = [row for row in users if (row["user_id"], row["event_timestamp"]) == (1, at)]
    return row


def test_neither_its_own_basket_nor_anything_later_reaches_a_session(shop: Shop) -> None:
    shop.write([*PAST, *BASKET, *LATER])
    expected = row_of_session(shop.rows(*SESSIONS)[0])

    shop.write(
        [
            *PAST,
            *BASKET,
            *LATER,
            purchase(1, 16, SESSION, price=99.0),  # at the very time
            purchase(1, 10, SESSION + timedelta(seconds=1)),
            purchase(1, 17, day(23)),
            purchase(2, 14, SESSION),
        ],
        [context(10, "display", SESSION, day(29)), context(10, "coupon", SESSION, day(40))],
        [{"user_id": 1, "event_timestamp": SESSION, "segment": "planted"}],
    )
    found = row_of_session(shop.rows(*SESSIONS)[0])

    assert found.pop("target_item_id") == [10, 14, 16]
    assert expected.pop("target_item_id") == [10, 14]
    assert found == expected
    assert found["history_item_id"] == [10, 11]  # as of the snapshot at day 21
    assert found["segment"] is None


def test_nothing_from_the_cut_off_on_reaches_a_set(shop: Shop) -> None:
    known = [context(10, "mailer", day(21), T0, 0.5), context(10, "coupon", day(27), day(40))]
    shop.write([*PAST, *BASKET, *LATER], known)
    expected = shop.rows(*USERS), shop.rows(*SESSIONS)

    shop.write(
        [
            *PAST,
            *BASKET,
            *LATER,
            purchase(1, 10, T0, price=99.0, list_price=100.0),
            purchase(2, 18, T0),  # an item that nobody bought before
            purchase(3, 10, T0),  # a user without a past
            purchase(1, 11, T0 + timedelta(days=3)),
        ],
        [
            *known,
            context(10, "display", T0, T1),  # the promotions of the week that begins
            context(10, "mailer", T0, T1, 1.0),
            context(10, "coupon", T0, T1),  # a campaign that starts now
            context(11, "coupon", day(30), day(60)),
        ],
        [
            {"user_id": 1, "event_timestamp": T0, "segment": "planted"},
            {"user_id": 2, "event_timestamp": day(29), "segment": "planted"},
        ],
    )

    assert (shop.rows(*USERS), shop.rows(*SESSIONS)) == expected


def test_what_is_known_by_the_cut_off_is_there(shop: Shop) -> None:
    known = [context(10, "mailer", day(21), T0, 0.5), context(10, "coupon", day(27), day(40))]
    profiles = [{"user_id": 2, "event_timestamp": T0 - MICROSECOND, "segment": "loyal"}]
    shop.write([*PAST, *BASKET, *LATER], known, profiles)

    users, items = shop.rows(*USERS)

    assert [row["user_id"] for row in users] == [1, 2]
    assert {row["event_timestamp"] for row in users} == {T0 - MICROSECOND}
    assert users[0]["events_total"] == 6
    assert users[0]["history_item_id"] == [10, 14, 12, 11]
    assert users[1]["segment"] == "loyal"
    assert [row["item_id"] for row in items] == [10, 11, 12, 13, 14]
    assert items[0]["buyers_total"] == 2
    assert items[0]["mailer_share"] == pytest.approx(0.5)
    assert items[0]["coupons_active"] == 1


def test_targets_are_the_distinct_items_of_the_label_window(shop: Shop) -> None:
    window = [
        purchase(1, 12, T0),
        purchase(1, 12, T0 + timedelta(days=1)),
        purchase(1, 11, T0 + timedelta(days=2)),
        purchase(1, 13, T1),
    ]
    shop.write([*PAST, *window, *LATER])

    users, _ = shop.rows(*USERS, "until=t1")
    assert [row["target_item_id"] for row in users] == [[11, 12], []]

    users, _ = shop.rows(*USERS)
    assert [row["target_item_id"] for row in users] == [None, None]


def test_other_events_and_what_was_shown_are_lists_where_the_shop_has_them(shop: Shop) -> None:
    past = [{**event, "position": None} for event in PAST]
    window = [
        purchase(1, 12, T0),
        purchase(1, 13, T0, event_type="view"),
        purchase(1, 13, T0 + timedelta(hours=1), event_type="view"),
        purchase(1, 12, T0, event_type="view"),
        purchase(2, 11, T0, event_type="impression", position=4),
        purchase(2, 11, T0 + timedelta(days=1), event_type="impression", position=2),
        purchase(2, 10, T0, event_type="impression"),
        purchase(2, 14, T1, event_type="add_to_cart"),
    ]
    shop.write([*past, *window, *LATER])

    users, _ = shop.rows(*USERS, "until=t1")

    assert [row["target_item_id"] for row in users] == [[12], []]
    assert [row["target_view_item_id"] for row in users] == [[12, 13], []]
    assert [row["exposed_item_id"] for row in users] == [[], [10, 11]]
    assert [row["exposed_position"] for row in users] == [[], [None, 2]]
    assert [row["exposed_propensity"] for row in users] == [[], [None, None]]
    assert "target_add_to_cart_item_id" not in users[0]  # there was none before t1


def test_a_set_says_what_it_is(shop: Shop) -> None:
    dataset = shop.write([*PAST, *LATER])

    folder = shop.make(*USERS, "until=t1", "force=true")

    about = json.loads((folder / "set.json").read_text(encoding="utf-8"))
    schema = Schema.load(folder / "schema.json")
    assert folder == dataset.sets / "ranking_v1-users-t0"
    assert about["fingerprint"] == schema.fingerprint
    assert about["cutoff"] == T0.isoformat()
    assert about["until"] == T1.isoformat()
    assert about["counts"] == {"users": 2, "items": 4}
    assert about["sha256"]["users.parquet"] == sha256_file(folder / "users.parquet")
    columns = pq.read_schema(folder / "users.parquet").names
    features = [feature.name for feature in schema.of(Entity.USER)]
    assert columns == ["user_id", "event_timestamp", *features, "target_item_id"]
    assert set(HISTORY_COLUMNS) <= set(columns)


def test_an_unchanged_set_is_reused_and_a_changed_one_is_not(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    shop.write([*PAST, *LATER])
    shop.make(*USERS, "force=true")

    shop.make(*USERS)
    assert "ranking_v1-users-t0" in caplog.text
    assert "inputs unchanged, reused" in caplog.text

    caplog.clear()
    shop.write([*PAST, *BASKET, *LATER])
    shop.make(*USERS)
    assert "reused" not in caplog.text


def test_sessions_of_an_earlier_edge_are_not_joined_again(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    between = [purchase(2, 10, T0 + timedelta(days=1))]
    shop.write([*PAST, *BASKET, *between, *LATER])
    later = ("service=retrieval_v1", "kind=sessions", "cutoff=t1")
    whole, _ = shop.rows(*later)

    shop.make("service=retrieval_v1", "kind=sessions", "cutoff=t0")
    (shop.root / "sets" / ".retrieval_v1-sessions-t1.stage.json").unlink()
    folder = shop.make(*later)

    assert "retrieval_v1-sessions-t0" in caplog.text
    pieced = pq.read_table(folder / "users.parquet").to_pylist()
    assert sorted(pieced, key=lambda row: (row["user_id"], row["event_timestamp"])) == whole


def test_small_chunks_give_the_same_rows(shop: Shop) -> None:
    shop.write([*PAST, *BASKET, *LATER])

    assert shop.rows(*SESSIONS, "chunk_rows=2") == shop.rows(*SESSIONS)


def test_an_unknown_service_is_named(shop: Shop) -> None:
    with pytest.raises(BadInput, match=r"no feature service 'best_v9'; the registry has"):
        shop.make("service=best_v9", "kind=users", "cutoff=t0")


def test_a_label_window_must_follow_the_cut_off(shop: Shop) -> None:
    with pytest.raises(BadInput, match="until=t0 must be later than cutoff=t1"):
        shop.make("service=ranking_v1", "kind=users", "cutoff=t1", "until=t0")


def test_a_cut_off_before_the_data_is_refused(shop: Shop) -> None:
    with pytest.raises(BadInput, match="No purchase lies before the cut-off"):
        shop.make("service=ranking_v1", "kind=users", "cutoff=2019-01-01")

    assert not (shop.root / "sets" / "ranking_v1-users-20190101T000000Z").exists()


def test_without_a_registry_the_command_to_run_is_named(tmp_path: Path) -> None:
    dataset = write_shop(tmp_path, [*PAST, *LATER])
    write_settings(dataset)

    with pytest.raises(ArtifactError, match="Run `feast -c feature_repo apply`"):
        Shop(tmp_path).make("service=ranking_v1", "kind=users", "cutoff=t0")


def test_every_row_of_a_shop_is_strictly_before_its_session(applied_shop: AppliedShop) -> None:
    folder = Shop(applied_shop.root).make("service=retrieval_v1", "kind=sessions", "cutoff=t2")

    rows = pq.read_table(folder / "users.parquet").to_pylist()
    assert len(rows) == 6 * 4  # weeks before t2, users
    for row in rows:
        now_s = (row["event_timestamp"] + MICROSECOND).timestamp()
        assert all(last_s < now_s for last_s in row["history_last_s"] or [])
        assert row["last_event_s"] is None or row["last_event_s"] < now_s
        week = int((row["event_timestamp"] - day(0)).days // 7)
        assert (row["events_total"] or 0) == 2 * week
