"""What a request may say beside its user: scenarios, anchors, given items; and similar items."""

from __future__ import annotations

from dataclasses import replace

import httpx
import numpy as np
import pytest

from serving.answers import Item
from serving.catalogue import Filters
from serving.ids import BadField
from serving.online import OnlineStore
from serving.popular import PREFERENCE
from serving.recommender import Recommender
from serving.release import Release

USER, UNKNOWN = 1007, 999_999


def ids(items: list[Item]) -> list[int | str]:
    return [item.item_id for item in items]


def test_an_unknown_user_who_looks_at_items_gets_what_goes_with_them(
    recommender: Recommender,
) -> None:
    nothing_known = recommender.recommend(UNKNOWN)
    looking = recommender.recommend(UNKNOWN, anchor_items=[503, 510])

    assert ids(looking.items) != ids(nothing_known.items)
    assert not set(ids(looking.items)) & {503, 510}
    assert {item.source for item in looking.items} != {"popular"}


def test_anchors_move_a_known_users_list(recommender: Recommender) -> None:
    plain = recommender.recommend(USER, exclude=[503])
    looking = recommender.recommend(USER, anchor_items=[503])

    assert [i.score for i in looking.items] != [i.score for i in plain.items]
    assert 503 not in ids(looking.items)


def test_a_list_holds_given_items_alone(recommender: Recommender) -> None:
    given = [549, 512, 530, 777_777, 512]

    answer = recommender.recommend(USER, candidate_items=given)

    assert sorted(ids(answer.items)) == [512, 530, 549]
    scores = [item.score for item in answer.items if item.score is not None]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)


def test_given_items_of_an_unknown_user_are_in_the_order_of_popularity(
    recommender: Recommender,
) -> None:
    popular = ids(recommender.recommend(UNKNOWN, 50).items)
    given = [popular[30], popular[4], popular[12]]

    answer = recommender.recommend(UNKNOWN, candidate_items=given)

    assert ids(answer.items) == [popular[4], popular[12], popular[30]]


def test_an_empty_list_of_given_items_is_an_empty_list(recommender: Recommender) -> None:
    assert recommender.recommend(USER, candidate_items=[]).items == []


def test_ranking_keeps_every_given_item_and_unknown_ones_last(recommender: Recommender) -> None:
    given = [777_777, 549, 512, 888_888, 530]

    answer = recommender.rank(USER, given)

    assert sorted(ids(answer.items)[:3]) == [512, 530, 549]
    assert ids(answer.items)[3:] == [777_777, 888_888]
    assert [item.position for item in answer.items] == [1, 2, 3, 4, 5]
    assert [(i.score, i.source) for i in answer.items[3:]] == [(None, "given")] * 2


def test_a_ranked_item_has_the_score_that_it_has_in_the_users_list(
    recommender: Recommender,
) -> None:
    scores = {i.item_id: i.score for i in recommender.recommend(USER, 5).items}

    for item in recommender.rank(USER, list(scores), explain=True).items:
        assert item.score == pytest.approx(scores[item.item_id], abs=1e-5)
        assert item.sources


def test_items_of_preferred_categories_count_more_for_unknown_users(
    recommender: Recommender,
) -> None:
    plain = recommender.recommend(UNKNOWN, 50)
    answer = recommender.recommend(UNKNOWN, 50, preferred_categories=["C3", "C5"])

    def worth(item: Item) -> float:
        assert item.score is not None
        return item.score * (PREFERENCE if item.category in ("C3", "C5") else 1.0)

    assert ids(answer.items) == ids(sorted(plain.items, key=worth, reverse=True))
    assert ids(answer.items) != ids(plain.items)


def test_an_unknown_user_gets_what_visits_buy_small_ones_counting_more(
    recommender: Recommender,
) -> None:
    starters = recommender.release.retriever.starters

    answer = recommender.recommend(UNKNOWN, 10)

    assert starters is not None
    assert ids(answer.items) == recommender.ids_of(starters.rows[:10])
    assert [item.source for item in answer.items] == ["popular"] * 10


def test_preferred_categories_change_nothing_for_known_users(recommender: Recommender) -> None:
    plain, preferring = (
        recommender.recommend(USER, preferred_categories=names) for names in ((), ["C3"])
    )

    assert ids(preferring.items) == ids(plain.items)


def test_a_scenario_names_the_ranker(release: Release, store_url: str) -> None:
    about, scorer = release.about, release.scorers["default"]
    two = replace(release, scorers={"default": scorer, "discover": scorer})
    store = OnlineStore(about.project, release.schema, about.user_id, url=store_url)
    recommender = Recommender(two, store)

    assert recommender.recommend(USER, scenario="discover").degraded == []
    assert recommender.recommend(USER, scenario="basket").degraded == ["scenario"]
    assert recommender.recommend(USER, scenario="basket").items


@pytest.mark.parametrize(("available", "count"), [(True, 47), (False, 3), (None, 50)])
def test_availability_can_be_asked_for(
    release: Release, store_url: str, available: bool | None, count: int
) -> None:
    about = release.about
    store = OnlineStore(about.project, release.schema, about.user_id, url=store_url)
    recommender = Recommender(release, store)
    for row in (1, 2, 3):
        recommender.view.catalogue.put(row, {"available": False})

    items = recommender.recommend(USER, 100, filters=Filters(available=available)).items

    assert len(items) == count


def test_similar_items_are_the_nearest_by_the_item_tower(recommender: Recommender) -> None:
    vectors = recommender.release.retriever.item_vectors
    assert vectors is not None
    products = vectors[1:] @ vectors[1 + 12]  # rows are in the order of the ids
    products[12] = -np.inf
    want = [500 + int(place) for place in np.argsort(-products, kind="stable")[:5]]

    answer = recommender.similar(512, 5)

    assert ids(answer.items) == want
    assert {item.source for item in answer.items} == {"ann"}


def test_similar_items_pass_the_filters(recommender: Recommender) -> None:
    items = recommender.similar(512, 5, Filters(category=["C1"])).items

    assert len(items) == 5
    assert {item.category for item in items} == {"C1"}


def test_nothing_is_near_to_an_unknown_item_but_popular_ones(recommender: Recommender) -> None:
    answer = recommender.similar(777_777, 5)

    assert ids(answer.items) == ids(recommender.recommend(UNKNOWN, 5).items)


@pytest.mark.parametrize(("item_id", "n", "field"), [("512", 5, "item_id"), (512, 0, "n")])
def test_a_wrong_question_for_similar_items_is_refused(
    recommender: Recommender, item_id: int | str, n: int, field: str
) -> None:
    with pytest.raises(BadField) as caught:
        recommender.similar(item_id, n)

    assert caught.value.field == field


@pytest.mark.anyio
async def test_every_field_of_a_request_reaches_the_recommender(
    client: httpx.AsyncClient, recommender: Recommender
) -> None:
    request = {
        "user_id": UNKNOWN,
        "anchor_items": [503],
        "candidate_items": list(range(500, 520)),
        "scenario": "basket",
        "filters": {"category": ["C3", "C4", "C5"]},
        "context": {"preferred_categories": ["C4"]},
    }
    answer = (await client.post("/recommend/", json=request)).json()

    want = recommender.recommend(
        UNKNOWN,
        filters=Filters(category=["C3", "C4", "C5"]),
        scenario="basket",
        anchor_items=[503],
        candidate_items=range(500, 520),
        preferred_categories=["C4"],
    )
    assert [item["item_id"] for item in answer["items"]] == ids(want.items)
    assert answer["degraded"] == ["scenario"]
    assert answer["experiment"] is None
    assert answer["index_version"].endswith("+0")


@pytest.mark.anyio
async def test_a_batch_is_answered_as_one_by_one(client: httpx.AsyncClient) -> None:
    requests = [
        {"user_id": USER, "n": 5, "diversity": 0.5},
        {"user_id": UNKNOWN, "n": 3},
        {"user_id": 1010, "n": 7, "exclude_seen": True, "explain": True},
        {"user_id": 1010, "n": 4, "filters": {"category": ["C1", "C2"]}},
    ]

    answers = (await client.post("/recommend/batch", json={"requests": requests})).json()["answers"]

    assert len(answers) == len(requests)
    for request, answer in zip(requests, answers, strict=True):
        alone = (await client.post("/recommend/", json=request)).json()
        for one, other in zip(answer["items"], alone["items"], strict=True):
            assert one.pop("score") == pytest.approx(other.pop("score"), abs=1e-5)
            assert [r["text"] for r in one.pop("reasons", [])] == [
                r["text"] for r in other.pop("reasons", [])
            ]
            assert one == other


@pytest.mark.anyio
async def test_the_wrong_request_of_a_batch_is_named(client: httpx.AsyncClient) -> None:
    wrong_type = {"requests": [{"user_id": USER}, {"user_id": USER, "exclude": ["a"]}]}
    wrong_range = {"requests": [{"user_id": USER}, {"user_id": USER, "n": 0}]}

    for body, field in ((wrong_type, "requests.1.exclude[0]"), (wrong_range, "requests.1.n")):
        response = await client.post("/recommend/batch", json=body)
        assert response.status_code == 422
        assert response.json()["problems"][0]["field"] == field


@pytest.mark.anyio
async def test_given_items_are_ranked_over_http(
    client: httpx.AsyncClient, recommender: Recommender
) -> None:
    given = [777_777, *range(500, 540)]

    response = await client.post("/rank/", json={"user_id": USER, "candidate_items": given})

    assert response.status_code == 200
    want = recommender.rank(USER, given)
    assert [item["item_id"] for item in response.json()["items"]] == ids(want.items)


@pytest.mark.anyio
async def test_similar_items_over_http(client: httpx.AsyncClient, recommender: Recommender) -> None:
    answer = await client.get("/similar/512", params={"n": 5})
    wrong = await client.get("/similar/milk")
    none = await client.get("/similar/512", params={"n": 0})

    assert [i["item_id"] for i in answer.json()["items"]] == ids(recommender.similar(512, 5).items)
    assert (wrong.status_code, wrong.json()["problems"][0]["field"]) == (422, "item_id")
    assert (none.status_code, none.json()["problems"][0]["field"]) == (422, "n")
