"""The numeric columns of candidates."""

from __future__ import annotations

from dataclasses import replace
from math import log

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.contract.pairs import PAIR_FEATURES, pair_values
from ranking.features import (
    Requests,
    numeric_features,
    numeric_matrix,
)
from ranking.items import ItemSide, item_numbers
from tests.ranking import shop


@pytest.fixture(scope="module")
def requests() -> Requests:
    rows = shop.user_rows()
    side = ItemSide.of(shop.item_rows(), shop.vocabulary(), shop.encoder())
    now_s = np.full(len(rows), shop.NOW_S)
    return Requests.of(rows, shop.candidates(rows), now_s, side, shop.SCHEMA)


def column(requests: Requests, name: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    names = [feature.name for feature in numeric_features(shop.SOURCES)]
    found: np.ndarray[tuple[int], np.dtype[np.float32]]
    found = numeric_matrix(requests)[:, names.index(name)]
    return found


def test_columns_are_pair_features_then_sources_then_what_follows_from_them() -> None:
    names = [feature.name for feature in numeric_features(("a", "b"))]

    assert names[: len(PAIR_FEATURES)] == [feature.name for feature in PAIR_FEATURES]
    assert names[len(PAIR_FEATURES) :][:4] == ["a_score", "a_rank", "b_score", "b_rank"]
    assert len(set(names)) == len(names)


def test_the_matrix_has_a_row_a_candidate_and_a_column_a_feature(requests: Requests) -> None:
    shape = (len(requests.candidates.item_row), len(numeric_features(shop.SOURCES)))

    assert numeric_matrix(requests).shape == shape
    assert numeric_matrix(requests).dtype == np.float32


def test_pair_features_are_those_of_each_candidates_own_user(requests: Requests) -> None:
    user = 7
    mine = requests.candidates.slice_of(user)

    expected = pair_values(
        requests.histories.of(user),
        np.zeros(mine.stop - mine.start, np.int64),
        requests.candidates.item_row[mine],
        requests.items.catalogue,
        np.array([shop.NOW_S]),
    ).T

    np.testing.assert_array_equal(numeric_matrix(requests)[mine, : len(PAIR_FEATURES)], expected)


def test_a_gap_is_expected_from_the_users_own_and_everybodys(requests: Requests) -> None:
    own, usual = column(requests, "own_gap_mean"), requests.item("gap_usual")
    place = np.flatnonzero(~np.isnan(own) & ~np.isnan(usual))[0]
    gaps = column(requests, "own_count")[place] - 1
    logs = (gaps * log(own[place]) + 2 * log(usual[place])) / (gaps + 2)

    assert column(requests, "gap_expected")[place] == pytest.approx(np.exp(logs), rel=1e-5)
    days = column(requests, "own_days_since")[place]
    assert column(requests, "due_expected")[place] == pytest.approx(log(days) - logs, rel=1e-4)
    assert column(requests, "due_usual")[place] == pytest.approx(log(days / usual[place]), rel=1e-5)


def test_what_was_bought_at_the_last_visit_is_no_day_before_it(requests: Requests) -> None:
    days = column(requests, "own_days_since")
    bought = ~np.isnan(days)

    expected = days[bought] - requests.user("last_event_s")[bought]

    assert column(requests, "days_before_visit")[bought] == pytest.approx(expected)
    assert np.isnan(column(requests, "days_before_visit")[~bought]).all()


def test_sources_are_copied_with_missing_values(requests: Requests) -> None:
    candidates = requests.candidates

    np.testing.assert_array_equal(column(requests, "popular_score"), candidates.score[:, 1])
    np.testing.assert_array_equal(column(requests, "buy_again_rank"), candidates.rank[:, 0])


def test_sources_are_counted_and_their_ranks_summed_up(requests: Requests) -> None:
    rank = requests.candidates.rank
    both = np.flatnonzero(~np.isnan(rank).any(axis=1))[0]
    one = np.flatnonzero(np.isnan(rank[:, 0]))[0]

    assert column(requests, "num_sources")[[both, one]].tolist() == [2, 1]
    assert column(requests, "best_rank")[both] == min(rank[both])
    assert column(requests, "mean_reciprocal_rank")[[both, one]] == pytest.approx(
        [(1 / (10 + rank[both, 0]) + 1 / (10 + rank[both, 1])) / 2, 1 / (10 + rank[one, 1]) / 2]
    )


def test_visits_are_carried_from_the_last_event_to_now(requests: Requests) -> None:
    rows = shop.user_rows()
    place = int(np.flatnonzero(~np.isnan(column(requests, "own_weight")))[0])
    user = int(requests.user_of[place])
    days = (shop.NOW_S - rows["last_event_s"][user].as_py()) / 86_400
    visits = rows["sessions_decayed"][user].as_py() * 2 ** (-days / 56)

    assert column(requests, "own_share_of_visits")[place] == pytest.approx(
        column(requests, "own_weight")[place] / visits, rel=1e-5
    )
    assert column(requests, "visits_since")[place] == pytest.approx(
        column(requests, "own_days_since")[place] * visits * log(2) / 56, rel=1e-5
    )


def test_groups_have_their_share_of_buyers_and_items_theirs_of_the_groups() -> None:
    items = shop.item_rows()
    side = ItemSide.of(items, shop.vocabulary(), shop.encoder())
    groups, buyers = items["category"].to_pylist(), items["buyers_28d"].to_pylist()
    mine = sum(b for b, group in zip(buyers, groups, strict=True) if group == groups[4])

    assert side.number("all_category")[4 + 1] == pytest.approx(mine / sum(buyers))
    assert side.number("in_category")[4 + 1] == pytest.approx(buyers[4] / mine)
    assert np.isnan(side.number("all_category")[[0, shop.NUM_ITEMS]]).all()


def test_lift_compares_the_user_with_everybody(requests: Requests) -> None:
    place = int(np.flatnonzero(column(requests, "category_share") > 0)[0])
    row = int(requests.candidates.item_row[place])
    mine = column(requests, "category_share")[place]
    usual = requests.items.number("all_category")[row]

    assert column(requests, "category_lift")[place] == pytest.approx(
        log((mine + 1e-4) / (usual + 1e-4)), rel=1e-4
    )
    own = requests.items.number("in_subcategory")[row]
    assert column(requests, "share_of_subcategory_buyers")[place] == own
    assert column(requests, "expected_in_subcategory")[place] == pytest.approx(
        column(requests, "subcategory_weight")[place] * own, rel=1e-5
    )


def test_items_are_compared_with_their_own_past(requests: Requests) -> None:
    given = {"buyers_28d": 8.0, "buyers_7d": 3.0, "first_buyers_28d": 2.0}
    prices = {"price_28d": 3.0, "price_usual": 4.0}
    size = len(requests.items.encoded)
    values = {k: np.full(size, v, np.float32) for k, v in {**given, **prices}.items()}
    side = requests.items
    numbers = item_numbers(values, side.place, side.catalogue)
    compared = replace(requests, items=replace(side, numbers=numbers))

    assert column(compared, "first_share")[0] == 2 / 8
    assert column(compared, "trend_7d")[0] == pytest.approx(log((1 + 4 * 3) / (1 + 8)))
    assert column(compared, "price_change")[0] == pytest.approx(log(3 / 4))
    assert np.isnan(column(requests, "price_change")).all()


def test_a_feature_that_the_shop_lacks_is_missing() -> None:
    rows = shop.user_rows()
    schema = shop.SCHEMA
    without = type(schema)("s", tuple(f for f in schema.features if f.name != "sessions_decayed"))
    side = ItemSide.of(shop.item_rows(), shop.vocabulary(), shop.encoder())
    now_s = np.full(len(rows), shop.NOW_S)

    found = Requests.of(rows, shop.candidates(rows), now_s, side, without)

    assert np.isnan(column(found, "own_share_of_visits")).all()


def test_requests_without_candidates_have_an_empty_matrix() -> None:
    rows = shop.user_rows().slice(0, 0)
    side = ItemSide.of(shop.item_rows(), shop.vocabulary(), shop.encoder())

    found = Requests.of(rows, shop.candidates(rows), np.zeros(0, np.int64), side, shop.SCHEMA)

    assert numeric_matrix(found).shape == (0, len(numeric_features(shop.SOURCES)))


def test_candidates_find_their_item_row_by_id_not_by_order() -> None:
    rows = shop.item_rows()
    shuffled = rows.take(pa.array(np.random.default_rng(0).permutation(len(rows))))
    vocabulary, encoder = shop.vocabulary(), shop.encoder()

    first = ItemSide.of(rows, vocabulary, encoder)
    second = ItemSide.of(shuffled, vocabulary, encoder)

    np.testing.assert_array_equal(
        first.values["buyers_28d"][first.place], second.values["buyers_28d"][second.place]
    )


def test_an_item_without_a_row_is_the_unknown_item() -> None:
    side = ItemSide.of(shop.item_rows(30), shop.vocabulary(), shop.encoder())

    assert side.place[[0, 31, 40]].tolist() == [0, 0, 0]
    assert np.isnan(side.values["buyers_28d"][0])
    assert side.encoded.bags["item_id"].values[0] == 0
