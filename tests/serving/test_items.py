"""Items that change after the release was made: in process, over HTTP, in every worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from feature_repo.contract.dataset import Clock, IdType
from feature_repo.contract.schema import Entity
from feature_repo.contract.vocabulary import Vocabulary
from ranking.policy_config import PolicyConfig
from serving.answers import Item
from serving.catalogue import Filters
from serving.item_changes import grown
from serving.item_log import ItemLog
from serving.online import OnlineStore
from serving.recommender import Recommender
from serving.release import Release
from tests.serving.http import client_of, server_of

USER, UNKNOWN = 1007, 999_999
NOW = datetime(2020, 7, 1, tzinfo=UTC)
NEW = {"title": "Oat milk", "department": "DAIRY", "category": "C3", "brand": "B1", "price": 2.0}


def ids(items: list[Item]) -> list[int | str]:
    return [item.item_id for item in items]


def open_recommender(
    release: Release,
    store_url: str,
    path: Path | None = None,
    policy: PolicyConfig | None = None,
) -> Recommender:
    """Return a recommender of its own, so that others keep the items as they were."""
    about = release.about
    store = OnlineStore(about.project, release.schema, about.user_id, url=store_url)
    log = None if path is None else ItemLog(path, about.project)
    return Recommender(release, store, policy, log)


@pytest.fixture
def changing(release: Release, store_url: str) -> Recommender:
    """Return a recommender whose items may be changed."""
    return open_recommender(release, store_url)


def test_a_price_changes_what_is_shown_and_what_passes(changing: Recommender) -> None:
    first = changing.recommend(USER).items[0]

    changing.items.put([(first.item_id, {"price": 99.5})], NOW)

    answer = changing.recommend(USER)
    assert answer.items[0].item_id == first.item_id
    assert (answer.items[0].price, answer.items[0].title) == (99.5, first.title)
    dear = changing.recommend(USER, filters=Filters(price_min=90.0)).items
    assert ids(dear) == [first.item_id]
    assert answer.index_version.endswith("+1")


def test_an_item_that_is_not_available_is_left_out_until_it_is_again(changing: Recommender) -> None:
    first = changing.recommend(USER).items[0].item_id
    changing.items.put([(first, {"available": False})], NOW)
    assert first not in ids(changing.recommend(USER, 100).items)
    assert first not in ids(changing.recommend(UNKNOWN, 100).items)

    changing.items.put([(first, {"price": 1.0})], NOW)  # which says nothing of availability
    assert first not in ids(changing.recommend(USER, 100).items)
    changing.items.put([(first, {"available": True})], NOW)
    assert first in ids(changing.recommend(USER, 100).items)


def test_an_item_that_is_gone_comes_back_when_something_is_said_of_it(
    changing: Recommender,
) -> None:
    first = changing.recommend(USER).items[0].item_id

    changing.items.remove([first], NOW)
    assert first not in ids(changing.recommend(USER, 100).items)
    assert first not in ids(changing.similar(503, 100).items)
    changing.items.put([(first, {"price": 1.0})], NOW)
    assert first in ids(changing.recommend(USER, 100).items)


def test_removing_what_never_was_changes_nothing(changing: Recommender) -> None:
    changing.items.remove([777_777], NOW)

    assert len(changing.view.vocabulary) == len(changing.release.retriever.items)


def test_an_attribute_changes_what_passes(changing: Recommender) -> None:
    changing.items.put([(512, {"category": "NEW", "brand": None})], NOW)

    answer = changing.recommend(USER, filters=Filters(category=["NEW"]))

    assert [(i.item_id, i.category, i.brand) for i in answer.items] == [(512, "NEW", None)]


def as_known(release: Release, item_id: int) -> dict[str, object]:
    """What is known of an item of the release."""
    place = release.items["item_id"].to_pylist().index(item_id)
    names = [f.name for f in release.retriever.encoder.schema.of(Entity.ITEM)]
    return {name: release.items[name][place].as_py() for name in ("title", *names)}


def test_a_new_item_is_found_by_the_item_tower(changing: Recommender) -> None:
    changing.items.put([(9_000, {**NEW})], NOW)

    answer = changing.recommend(USER, 100)

    new = next(item for item in answer.items if item.item_id == 9_000)
    assert (new.title, new.price, new.source) == ("Oat milk", 2.0, "ann")
    assert new.score is not None
    assert answer.degraded == []


def test_a_new_item_has_the_vector_of_one_with_the_same_attributes_and_an_unknown_id(
    changing: Recommender, release: Release
) -> None:
    twins = [(9_000 + place, as_known(release, 512)) for place in range(2)]
    changing.items.put(twins, NOW)

    near = changing.similar(9_000, 3)
    vectors = changing.view.fresh.vectors

    np.testing.assert_allclose(vectors[0], vectors[1], rtol=1e-4, atol=1e-6)
    assert near.items[0].item_id == 9_001
    assert near.items[0].score == pytest.approx(float(vectors[0] @ vectors[1]), rel=1e-5)


def test_a_new_item_can_be_ranked_filtered_excluded_and_removed(changing: Recommender) -> None:
    changing.items.put([(9_000, {**NEW}), (9_001, {"title": "Thing"})], NOW)

    assert sorted(ids(changing.rank(USER, [9_000, 512]).items)) == [512, 9_000]
    assert 9_000 in ids(changing.recommend(USER, 100, filters=Filters(category=["C3"])).items)
    assert 9_000 not in ids(changing.recommend(USER, 100, exclude=[9_000]).items)
    assert 9_000 not in ids(changing.recommend(USER, 100, anchor_items=[9_000]).items)
    changing.items.remove([9_000], NOW)
    assert 9_000 not in ids(changing.recommend(USER, 100).items)


def test_an_item_that_the_release_describes_and_cannot_find_is_new_with_what_is_known_of_it(
    release: Release, store_url: str
) -> None:
    unsold = release.items.slice(12, 1).set_column(0, "item_id", pa.array([9_000], pa.int64()))
    described = replace(release, items=pa.concat_tables([release.items, unsold]))
    changing = open_recommender(described, store_url)
    changing.items.put([(9_000, {"price": 2.0})], NOW)

    (item,) = changing.rank(USER, [9_000]).items
    changing.items.refresh()

    assert (item.title, item.category, item.price) == ("Product 12", "C4", 2.0)
    rows = changing.view.scorers["default"].rows.filter(pc.field("item_id") == 9_000)
    assert rows.select(["title", "price"]).to_pylist() == [{"title": "Product 12", "price": 2.0}]


def test_scorers_that_are_made_again_know_a_new_items_attributes(
    changing: Recommender, release: Release
) -> None:
    changing.items.put([(9_000, as_known(release, 512)), (512, {"price": 3.5})], NOW)
    before = changing.recommend(USER, 100, explain=True)

    changing.items.refresh()
    after = changing.recommend(USER, 100, explain=True)

    def scores(items: list[Item]) -> dict[int | str, float | None]:
        return {item.item_id: item.score for item in items}

    assert scores(after.items)[9_000] != scores(before.items)[9_000]
    scorer = changing.view.scorers["default"]
    assert scorer.rows["item_id"].to_pylist()[-1] == 9_000
    place = scorer.rows["item_id"].to_pylist().index(512)
    assert scorer.rows["price"][place].as_py() == 3.5
    assert scorer.rows["category"][-1].as_py() == scorer.rows["category"][place].as_py()
    assert len(release.items) == len(scorer.rows) - 1  # the release's own stay as they were
    assert after.degraded == before.degraded == []


def test_a_policy_holds_for_new_items_once_it_is_made_again(
    release: Release, store_url: str
) -> None:
    changing = open_recommender(
        release, store_url, policy=PolicyConfig(diversity=0.3, novelty=0.2, max_per={"category": 1})
    )
    changing.items.put([(9_000 + place, {**NEW}) for place in range(20)], NOW)
    assert changing.recommend(USER, 20).degraded == []

    changing.items.refresh()

    categories = [item.category for item in changing.recommend(USER, 20).items]
    assert len(set(categories)) == len(categories)
    assert changing.recommend(USER, 20).degraded == []


def test_every_worker_sees_a_change_that_is_on_disk(
    release: Release, store_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "items" / "shop.log"
    one, other = (open_recommender(release, store_url, path) for _ in range(2))

    one.items.put([(9_000, {**NEW}), (512, {"price": 7.25})], NOW)
    other.items.catch_up()
    other.items.remove([513], NOW)
    one.items.catch_up()
    later = open_recommender(release, store_url, path)

    for recommender in (one, other, later):
        answer = recommender.rank(USER, [9_000, 512, 513])
        assert {i.item_id: i.price for i in answer.items} == {9_000: 2.0, 512: 7.25}
        assert answer.index_version.endswith("+3")


def test_what_a_release_of_today_was_made_with_is_not_changed_back(
    release: Release, store_url: str
) -> None:
    about = replace(release.about, clock=Clock.WALL, cutoff=NOW)
    changing = open_recommender(replace(release, about=about), store_url)
    shown = {i.item_id: i.price for i in changing.rank(USER, [512]).items}
    before, after = NOW - timedelta(days=1), NOW + timedelta(days=1)

    changing.items.put([(512, {"price": 77.0}), (9_000, {**NEW})], before)
    assert {i.item_id: i.price for i in changing.rank(USER, [512, 9_000]).items} == {
        **shown,
        9_000: 2.0,
    }
    changing.items.put([(512, {"price": 78.0})], after)
    assert changing.rank(USER, [512]).items[0].price == 78.0


@pytest.mark.parametrize("kind", [IdType.INT64, IdType.STRING])
def test_a_grown_vocabulary_is_as_one_made_anew(kind: IdType) -> None:
    known, new = [-5, 3, 70, 12], [4, -9, 1000]
    if kind is IdType.STRING:
        known, new = [f"k{i}" for i in known], [f"n{i}" for i in new]  # type: ignore[misc]
    base = Vocabulary.build(known, kind)

    found = grown(grown(base, new[:2]), new[2:])

    assert found.rows(pa.array(known)).tolist() == base.rows(pa.array(known)).tolist()
    assert found.rows(pa.array(new)).tolist() == [5, 6, 7]
    assert found.ids_of(np.array([5, 6, 7])) == new
    assert (found.keys[1:] > found.keys[:-1]).all()


@pytest.fixture
async def client(changing: Recommender, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of the app."""
    async with client_of(server_of(changing, tmp_path)) as client:
        yield client


@pytest.mark.anyio
async def test_items_are_changed_over_http(client: httpx.AsyncClient) -> None:
    body = {"items": [{"item_id": 9_000, **NEW}, {"item_id": 512, "price": 9.75}]}

    put = await client.put("/items", json=body)
    ranked = await client.post("/rank/", json={"user_id": USER, "candidate_items": [512, 9_000]})
    removed = await client.delete("/items/9000")
    absent = await client.delete("/items/777777")
    after = await client.post("/rank/", json={"user_id": USER, "candidate_items": [512, 9_000]})

    assert put.status_code == 200
    assert (put.json()["changed"], put.json()["new"]) == (1, 1)
    assert {i["item_id"]: i["price"] for i in ranked.json()["items"]} == {512: 9.75, 9_000: 2.0}
    assert (removed.json()["changed"], absent.json()["changed"]) == (1, 0)
    assert [i["item_id"] for i in after.json()["items"]] == [512]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"items": []}, "items"),
        ({"items": [{"item_id": 1}, {"item_id": "a"}]}, "items.1.item_id"),
        ({"items": [{"item_id": 1, "price": -1}]}, "items.0.price"),
        ({"items": [{"item_id": 1, "colour": "red"}]}, "items.0.colour"),
        ({"items": [{"item_id": 1, "available": "yes"}]}, "items.0.available"),
        ({"items": [{"price": 1}]}, "items.0.item_id"),
    ],
)
async def test_a_wrong_item_is_refused_and_named(
    client: httpx.AsyncClient, changing: Recommender, body: object, field: str
) -> None:
    response = await client.put("/items", json=body)

    assert response.status_code == 422
    assert response.json()["problems"][0]["field"] == field
    assert changing.view.num_changes == 0


@pytest.mark.anyio
async def test_a_change_that_cannot_be_written_is_not_made(
    release: Release, store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing = open_recommender(release, store_url, tmp_path / "items.log")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    async with client_of(server_of(changing, tmp_path)) as client:
        monkeypatch.setattr("retrieval.index.records.os.write", full)
        response = await client.put("/items", json={"items": [{"item_id": 512, "price": 9.75}]})
        monkeypatch.undo()

    assert response.status_code == 503
    assert "No space left on device" in response.json()["error"]
    changing.items.catch_up()
    assert changing.rank(USER, [512]).items[0].price != 9.75
