"""The benchmark of first sessions: who comes, what is right, what is known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks._hidden import HiddenShop, hide
from benchmarks._newcomers import Newcomer, Rows, most_visited, newcomers
from benchmarks._starters import list_rows
from benchmarks.first_session import (
    NAMED,
    REST,
    SCENES,
    SESSION,
    WINDOW,
    Config,
    Scene,
    _estimates,
    answers,
    draw,
    shown,
    told,
)
from feature_repo.contract.artifacts import read_table
from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.vocabulary import Vocabulary
from tests.benchmarks.test_cold_start import made_up_shop
from tests.retrieval import shop

NEWCOMER = Newcomer(
    user_id=7,
    session=(5, 3, 8),
    prices=(1.0, 2.0, 0.0),
    later=frozenset({3, 9}),
    named=("MILK",),
    bought_from=("BREAD",),
    profile={"age_band": "19-24"},
)


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> HiddenShop:
    folder = tmp_path_factory.mktemp("first_session")
    return hide(made_up_shop(folder / "whole"), folder, 0, 0.2, 0.0)


def test_users_alone_are_hidden(hidden: HiddenShop) -> None:
    assert len(hidden.items) == 0 < len(hidden.users)


def test_a_first_session_is_the_first_visit_of_the_window(hidden: HiddenShop) -> None:
    events = read_table(hidden.whole.canonical / "events.parquet").to_pylist()
    start, stop = hidden.whole.edge("t1"), hidden.whole.edge("t2")
    bought = [event for event in events if event["event_type"] == "purchase"]
    items = Vocabulary.build(pa.array(sorted({e["item_id"] for e in bought})), IdType.INT64)

    found = newcomers(hidden, "t1", items, names=2, seed=0)

    assert {one.user_id for one in found} <= set(hidden.users.to_pylist())
    for one in found:
        mine = [event for event in bought if event["user_id"] == one.user_id]
        inside = [event for event in mine if start <= event["event_timestamp"] < stop]
        first = min(event["event_timestamp"] for event in inside)
        session = {e["item_id"] for e in inside if e["event_timestamp"] == first}
        later = {e["item_id"] for e in inside if e["event_timestamp"] > first}
        assert set(one.session) == session
        assert set(one.later) == later
        assert len(one.session) == len(session)
        assert len(one.named) <= 2


def test_the_categories_of_most_visits_are_named() -> None:
    categories = {1: "MILK", 2: "MILK", 3: "BREAD", 4: "EGGS"}
    visits = [{1: 0.0, 2: 0.0, 3: 0.0}, {3: 0.0, 9: 0.0}, {3: 0.0, 4: 0.0}]

    assert most_visited(visits, categories, 2) == ("BREAD", "EGGS")


def test_right_answers_are_what_is_not_known_yet() -> None:
    after_one = Scene("", begun=1)

    assert answers(NEWCOMER, after_one, SESSION) == {3, 8}
    assert answers(NEWCOMER, after_one, WINDOW) == {3, 8, 9}
    assert answers(NEWCOMER, Scene("", begun=2), WINDOW) == {8, 9}
    assert answers(NEWCOMER, after_one, REST) == set()


def test_a_begun_row_is_the_fold_of_the_first_items(tmp_path: Path) -> None:
    dataset = shop.make_shop(tmp_path)

    row = NEWCOMER.row(2, 1_000, dataset)

    assert (row["history_item_id"], row["seen_item_id"]) == ([3, 5], [3, 5])
    assert (row["events_total"], row["sessions_total"], row["spend_decayed"]) == (2, 1, 1.0 + 2.0)
    assert row["last_event_s"] == 999
    assert NEWCOMER.row(0, 1_000, dataset) == {}


def test_rows_are_read_as_from_the_online_store(tmp_path: Path) -> None:
    rows = Rows(shop.SCHEMA, shop.make_shop(tmp_path), {7: {"segment": "taste 1"}})
    now = datetime(2021, 1, 1, tzinfo=UTC)

    found = rows.read([7, 8], now)

    assert found.found == [True, False]
    assert found.table.column("segment").to_pylist() == ["taste 1", None]
    assert found.table.column("event_timestamp").to_pylist() == [now, now]


def test_a_release_is_held_against_popular_user_by_user() -> None:
    found = _estimates("hit@50", np.array([1.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0]))

    assert found["hit@50"] == pytest.approx(2 / 3)
    assert found["popular hit@50"] == pytest.approx(1 / 3)
    assert found["difference hit@50"] == pytest.approx((0 + 1 + 0) / 3)


def test_every_scene_is_shown_and_drawn(tmp_path: Path) -> None:
    metrics: dict[str, float] = {}
    for metric in ("hit@50", "recall@50", "ndcg@50"):
        metrics |= _estimates(metric, np.array([1.0, 0.0]), np.array([0.0, 0.0]))
    rows = [{"known": one.name, "answers": REST, "users": 2, **metrics} for one in SCENES]

    draw(rows, tmp_path / "plot.png")

    assert (told(0), told(1), told(2, NAMED)) == ("nothing", "1 item", "2 items, named categories")
    assert shown(rows)[0]["difference"] == "+0.500 [+0.000, +1.000]"
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_lists_of_nobody_are_judged_on_the_first_visits_of_every_window(
    hidden: HiddenShop,
) -> None:
    whole = hidden.whole

    rows = list(list_rows(whole, whole.edge("t1"), 2, 5))

    assert [row["window"] for row in rows] == [
        f"{whole.edge('t1') - weeks * timedelta(days=28):%Y-%m-%d}" for weeks in (0, 1)
    ]
    for row in rows:
        assert 0 < row["starters"] <= 1
        assert row["difference"] == pytest.approx(row["starters"] - row["popular"])


def test_mistaken_settings_get_a_sentence() -> None:
    with pytest.raises(ConfigError, match="split must be one of"):
        Config(split="train")
    with pytest.raises(ConfigError, match="names must be above zero"):
        Config(names=0)
