from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.contract.encoding import query_times_s
from serving.answers import Item
from serving.catalogue import Filters
from serving.ids import BadField
from serving.recommender import Recommender
from tests.serving.shop import TinyShop

USER, UNKNOWN = 1007, 999_999


def ids(items: list[Item]) -> list[int | str]:
    return [item.item_id for item in items]


def test_a_known_user_gets_a_ranked_list(recommender: Recommender) -> None:
    answer = recommender.recommend(USER, n=8)

    assert [item.position for item in answer.items] == list(range(1, 9))
    assert len(set(ids(answer.items))) == 8
    scores = [item.score for item in answer.items if item.score is not None]
    assert scores == sorted(scores, reverse=True)
    assert (answer.degraded, answer.cached) == ([], False)
    assert answer.model_version == recommender.release.about.version
    assert answer.took_ms > 0


def test_items_carry_their_catalogue_columns(recommender: Recommender) -> None:
    for item in recommender.recommend(USER).items:
        number = int(item.item_id) - 500
        assert item.title == f"Product {number}"
        assert item.category == f"C{number % 8}"
        assert item.brand == (f"B{number % 5}" if number % 4 else None)
        assert item.price is not None


def test_every_answer_has_an_id_of_its_own(recommender: Recommender) -> None:
    first, second = recommender.recommend(USER), recommender.recommend(USER)

    assert first.recommendation_id != second.recommendation_id
    assert ids(first.items) == ids(second.items)


def test_ids_keep_the_type_of_the_data(recommender: Recommender) -> None:
    assert all(type(item.item_id) is int for item in recommender.recommend(USER).items)


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_an_unknown_user_gets_popular_items(recommender: Recommender, exclude_seen: bool) -> None:
    answer = recommender.recommend(UNKNOWN, exclude_seen=exclude_seen)

    assert len(answer.items) == 10
    assert {item.source for item in answer.items} == {"popular"}
    scores = [item.score for item in answer.items if item.score is not None]
    assert len(scores) == 10
    assert scores == sorted(scores, reverse=True)
    assert answer.degraded == []


def test_without_the_store_the_answer_is_popular_items_and_says_so(
    recommender: Recommender, cut_off: Recommender
) -> None:
    answer = cut_off.recommend(USER)

    assert answer.degraded == ["features"]
    assert ids(answer.items) == ids(recommender.recommend(UNKNOWN).items)


def test_what_was_bought_can_be_left_out(recommender: Recommender) -> None:
    rows = recommender.read_rows([USER])
    bought = set(rows["history_item_id"].to_pylist()[0])

    everything = recommender.recommend(USER)
    new = recommender.recommend(USER, exclude_seen=True)

    assert set(ids(everything.items)) & bought
    assert not set(ids(new.items)) & bought
    assert len(new.items) == 10


def test_items_can_be_left_out_by_name(recommender: Recommender) -> None:
    first = ids(recommender.recommend(USER, n=3).items)

    rest = recommender.recommend(USER, exclude=[*first, 777_777])

    assert not set(ids(rest.items)) & set(first)
    assert len(rest.items) == 10


def test_only_what_passes_the_filters_is_recommended(recommender: Recommender) -> None:
    answer = recommender.recommend(USER, filters=Filters(department=["DAIRY"], price_max=3.0))

    assert answer.items
    for item in answer.items:
        assert item.department == "DAIRY"
        assert item.price is not None
        assert item.price <= 3.0


def test_a_list_is_short_where_few_items_pass(recommender: Recommender) -> None:
    answer = recommender.recommend(USER, filters=Filters(category=["C1"], department=["DAIRY"]))

    assert 0 < len(answer.items) < 10


def test_popular_items_fill_a_list_that_ranking_leaves_short(recommender: Recommender) -> None:
    answer = recommender.recommend(USER, n=100)
    catalogue_size = len(recommender.release.retriever.encoder.items)

    assert len(answer.items) == catalogue_size
    assert len(set(ids(answer.items))) == catalogue_size
    filled = [item for item in answer.items if item.score is None]
    assert {item.source for item in filled} <= {"popular"}
    assert filled == answer.items[len(answer.items) - len(filled) :]


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_one_row_is_answered_as_in_a_batch(recommender: Recommender, exclude_seen: bool) -> None:
    users = [1000, USER, UNKNOWN, 1033]
    rows = recommender.read_rows(users)

    together = recommender.recommend_rows(rows, exclude_seen=exclude_seen)

    for place, user in enumerate(users):
        alone = recommender.recommend(user, exclude_seen=exclude_seen).items
        batch = recommender.describe(together)[place]
        assert ids(batch) == ids(alone)
        assert [i.score for i in batch] == pytest.approx([i.score for i in alone], abs=1e-5)
        assert [i.source for i in batch] == [i.source for i in alone]


def test_now_is_the_releases_clock(recommender: Recommender, shop: TinyShop) -> None:
    cutoff = shop.dataset.edge("t2")

    assert recommender.release.about.now() == cutoff
    assert query_times_s(recommender.read_rows([USER])).tolist() == [int(cutoff.timestamp())]


def test_no_row_is_no_list(recommender: Recommender) -> None:
    rows = recommender.read_rows([USER]).slice(0, 0)

    assert len(recommender.recommend_rows(rows)) == 0


def test_a_profile_alone_makes_no_user_known(recommender: Recommender) -> None:
    rows = recommender.read_rows([UNKNOWN, UNKNOWN])
    place = rows.column_names.index("region")
    rows = rows.set_column(place, "region", pa.array([None, "R1"], pa.string()))

    assert recommender.known(rows).tolist() == [False, False]
    lists = recommender.recommend_rows(rows)
    assert (lists.item_row > 0).all()
    assert np.isfinite(lists.score).all()


@pytest.mark.parametrize("n", [0, -1, 101])
def test_a_length_out_of_range_is_refused(recommender: Recommender, n: int) -> None:
    with pytest.raises(BadField, match="n must be from 1 to 100"):
        recommender.recommend(USER, n=n)


def test_ids_of_another_type_are_refused(recommender: Recommender) -> None:
    with pytest.raises(BadField, match="user_id must be an integer"):
        recommender.recommend(str(USER))
    with pytest.raises(BadField, match=r"exclude\[0\] must be an integer"):
        recommender.recommend(USER, exclude=["500"])
