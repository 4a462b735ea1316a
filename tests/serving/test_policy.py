"""The list policy where it is served: requests, popular lists, batches and releases."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.contract.artifacts import read_json
from feature_repo.contract.errors import ConfigError
from ranking.policy_config import PolicyConfig, PromotionConfig
from serving import batch
from serving.answers import Item
from serving.ids import BadField
from serving.online import OnlineStore
from serving.recommender import Recommender
from serving.release import Release
from tests.serving.http import client_of, server_of
from tests.serving.shop import NAME, NUM_USERS, TinyShop
from trainer.export import ExportConfig, export

USER, UNKNOWN = 1007, 999_999


def ids(items: list[Item]) -> list[int | str]:
    return [item.item_id for item in items]


def most_alike(items: list[Item], column: str) -> int:
    """Return how many items have the value that most of them have."""
    return max(Counter(value for item in items if (value := getattr(item, column))).values())


def with_policy(release: Release, store_url: str, **settings: Any) -> Recommender:
    store = OnlineStore(release.about.project, release.schema, release.about.user_id, url=store_url)
    return Recommender(release, store, PolicyConfig(**settings))


def test_a_release_without_a_policy_answers_by_score(recommender: Recommender) -> None:
    plain = recommender.recommend(USER)

    assert ids(recommender.recommend(USER, diversity=0.0).items) == ids(plain.items)
    scores = [item.score for item in plain.items if item.score is not None]
    assert scores == sorted(scores, reverse=True)


def test_a_request_may_ask_for_unlike_items(recommender: Recommender) -> None:
    plain = recommender.recommend(USER, 8).items
    diverse = recommender.recommend(USER, 8, diversity=1.0).items

    assert ids(diverse) != ids(plain)
    assert diverse[0] == plain[0]
    assert len({item.category for item in diverse}) > len({item.category for item in plain})


def test_popular_items_for_an_unknown_user_are_unlike_too(recommender: Recommender) -> None:
    plain = recommender.recommend(UNKNOWN, 8).items
    diverse = recommender.recommend(UNKNOWN, 8, diversity=0.9).items

    assert diverse[0] == plain[0]
    assert {item.item_id for item in diverse} != {item.item_id for item in plain}
    assert {item.source for item in diverse} == {"popular"}


def test_a_diversity_out_of_range_is_refused(recommender: Recommender) -> None:
    with pytest.raises(BadField, match=r"must be from 0 to 1; got 1\.5"):
        recommender.recommend(USER, diversity=1.5)


@pytest.mark.parametrize("user_id", [USER, UNKNOWN])
def test_caps_hold_for_ranked_and_for_popular_items(
    release: Release, recommender: Recommender, store_url: str, user_id: int
) -> None:
    capped = with_policy(release, store_url, max_per={"category": 1, "brand": 3})

    items = capped.recommend(user_id, 20).items

    assert most_alike(recommender.recommend(user_id, 20).items, "category") > 1
    assert most_alike(items, "category") == 1
    assert most_alike(items, "brand") <= 3
    assert len(set(ids(items))) == len(items)


def test_one_row_is_answered_as_in_a_batch_under_a_policy(release: Release, store_url: str) -> None:
    policed = with_policy(
        release, store_url, diversity=0.4, novelty=0.2, serendipity=0.2, max_per={"brand": 3}
    )
    users = [1000, USER, UNKNOWN, 1033]
    lists = policed.recommend_rows(policed.read_rows(users))

    for place, user in enumerate(users):
        assert ids(policed.describe(lists)[place]) == ids(policed.recommend(user).items)


@pytest.mark.anyio
async def test_the_interface_takes_a_diversity(recommender: Recommender, tmp_path: Path) -> None:
    async with client_of(server_of(recommender, tmp_path)) as client:
        request = {"user_id": USER, "n": 8, "diversity": 1}
        answer = await client.post("/recommend/", json=request)
        refused = await client.post("/recommend/", json={**request, "diversity": 1.1})
        settings = (await client.get("/version")).json()["policy"]

    want = recommender.recommend(USER, 8, diversity=1.0).items
    assert [item["item_id"] for item in answer.json()["items"]] == ids(want)
    assert refused.status_code == 422
    assert refused.json()["problems"][0]["field"] == "diversity"
    assert settings["diversity"] == 0.0


def test_a_batch_takes_policy_settings(shop: TinyShop, tmp_path: Path) -> None:
    out = tmp_path / "lists.parquet"
    rows = shop.dataset.sets / "ranking_v1-users-t2" / "users.parquet"
    arguments = ["--release", str(shop.releases / "current"), "--user-rows", str(rows)]

    capped = [*arguments, "--out", str(out), "policy.max_per.category=1", "policy.diversity=0.1"]
    assert batch.main(capped) == 0

    catalogue = Release.load(shop.releases / "current").items.select(["item_id", "category"])
    category = dict(zip(*(column.to_pylist() for column in catalogue.columns), strict=True))
    lists = pq.read_table(out).to_pylist()
    shown = Counter((row["user_id"], category[row["item_id"]]) for row in lists)
    assert set(shown.values()) == {1}
    assert len({user for user, _ in shown}) == NUM_USERS


def test_a_batch_refuses_a_setting_that_does_not_hold(
    shop: TinyShop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--release", str(shop.releases / "current"), "--out", str(tmp_path / "lists")]

    assert batch.main([*arguments, "policy.max_per.colour=1"]) == 2
    assert "names the item column 'colour'" in capsys.readouterr().err


def settings_of(shop: TinyShop, out: Path, *policy: str) -> ExportConfig:
    parts = [f"retriever={shop.bundle('retriever@t2')}", f"ranker={shop.bundle('ranker')}"]
    data = [f"data={NAME}", f"data.root={shop.root}", f"out={out}"]
    return ExportConfig.parse([*parts, "cutoff=t2", *data, *policy])


def test_a_release_keeps_the_policy_that_it_was_exported_with(
    shop: TinyShop, tmp_path: Path
) -> None:
    folder = export(settings_of(shop, tmp_path, "policy.diversity=0.3", "policy.max_per.brand=2"))

    assert folder.name != (shop.releases / "current").resolve().name
    assert read_json(folder / "policy.json")["diversity"] == 0.3
    release = Release.load(folder)  # the golden rows hold without the policy
    assert release.policy_config == PolicyConfig(diversity=0.3, max_per={"brand": 2})
    assert release.policy().config is release.policy_config


def test_a_release_is_not_made_with_a_policy_about_what_its_items_lack(
    shop: TinyShop, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="colour"):
        export(settings_of(shop, tmp_path, "policy.max_per.colour=1"))

    assert list(tmp_path.iterdir()) == []


def test_what_is_not_available_is_never_shown_whatever_the_policy(
    release: Release, recommender: Recommender, store_url: str
) -> None:
    gone = ids(recommender.recommend(USER, 5).items)
    available = pa.array([item not in gone for item in release.items["item_id"].to_pylist()])
    names = [name for name in release.items.column_names if name != "available"]
    items = release.items.select(names).append_column("available", available)
    promoted = PromotionConfig(item_ids=[*gone], boost=50.0, slots=3)
    policed = with_policy(replace(release, items=items), store_url, promotions=[promoted])

    for user in (USER, UNKNOWN):
        assert not set(ids(policed.recommend(user, 20).items)) & set(gone)
