"""Experiments of a running server, over HTTP and on the tiny shop's release."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from retrieval.sources import PopularSource
from serving.experiments import treated
from serving.experiments.assignment import variant_of
from serving.experiments.exposure import ExposureLog
from serving.experiments.running import Experiments
from serving.experiments.treatment import Arm, Treatment
from serving.online import OnlineStore
from serving.query import Query
from serving.recommender import Recommender
from serving.release import Release
from serving.server import Server
from tests.serving.experiments.files import NOW, experiment, write
from tests.serving.http import client_of, server_of

USER, UNKNOWN = 1007, 999_999
DIVERSE = ["policy.diversity=0.9"]


def treatment(**changes: Any) -> Treatment:
    """Return that of a variant."""
    variants = {"control": None, "other": changes}
    return Treatment((Arm("lists", "other", "0", experiment(variants=variants).variants["other"]),))


def asked(recommender: Recommender, user_id: int = USER, n: int = 10, **changes: Any) -> Any:
    """Return the answer by a variant."""
    recommender.items.offer({tuple(changes["policy"])} if "policy" in changes else set())
    query = Query(user_id, n, treatment=treatment(**changes))
    return recommender.answer([query])[0]


def ids(answer: Any) -> list[int | str]:
    return [item.item_id for item in answer.items]


def test_a_variant_of_one_source_shows_its_items_in_its_order(recommender: Recommender) -> None:
    sources = recommender.release.retriever.sources
    popular = next(source for source in sources if source.name == "popular")
    assert isinstance(popular, PopularSource)

    answer = asked(recommender, n=5, ranker="none", sources=["popular"])

    assert {item.source for item in answer.items} == {"popular"}
    order = recommender.ids_of(popular.rows)
    places = [order.index(item_id) for item_id in ids(answer)]
    assert places == sorted(places)
    assert answer.degraded == []


def test_a_variant_without_a_ranker_differs_from_the_ranked_list(recommender: Recommender) -> None:
    fused, ranked = asked(recommender, ranker="none"), recommender.recommend(USER)

    assert fused.items != ranked.items
    assert all(item.score < 1 for item in fused.items)


def test_a_variant_names_another_ranker(release: Release, store_url: str) -> None:
    about, scorer = release.about, release.scorers["default"]
    two = replace(release, scorers={"default": scorer, "wide_deep": scorer})
    store = OnlineStore(about.project, release.schema, about.user_id, url=store_url)
    recommender = Recommender(two, store)

    answer = asked(recommender, ranker="wide_deep")

    assert answer.degraded == []
    assert ids(answer) == ids(recommender.recommend(USER))


def test_a_variants_policy_is_laid_over_the_releases(recommender: Recommender) -> None:
    answer = asked(recommender, policy=DIVERSE)

    assert ids(answer) == ids(recommender.recommend(USER, diversity=0.9))
    assert ids(answer) != ids(recommender.recommend(USER))
    assert answer.degraded == []


def test_requests_of_all_variants_are_answered_together_as_one_by_one(
    recommender: Recommender,
) -> None:
    recommender.items.offer({tuple(DIVERSE)})
    plain = Query(USER)
    queries = [
        plain,
        replace(plain, treatment=treatment(ranker="none", sources={"ann": 2.0, "popular": 0.5})),
        replace(plain, treatment=treatment(policy=DIVERSE)),
        replace(plain, treatment=treatment(sources=["popular"])),
        replace(plain, user_id=1010, treatment=treatment(ranker="none")),
        replace(plain, user_id=UNKNOWN, treatment=treatment(policy=DIVERSE)),
    ]

    together = recommender.answer(queries)

    for query, answer in zip(queries, together, strict=True):
        alone = recommender.answer([query])[0]
        assert ids(answer) == ids(alone)
    assert len({tuple(ids(answer)) for answer in together}) == len(queries)


@pytest.mark.parametrize(
    "changes",
    [
        {"ranker": "transformer"},
        {"ranker": "none", "sources": ["ann", "horoscope"]},
        {"policy": ["policy.max_per.colour=1"]},
    ],
)
def test_a_variant_that_the_release_lacks_answers_as_the_control(
    recommender: Recommender, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    treated._TOLD.clear()
    answers = [asked(recommender, **changes) for _ in range(3)]

    for answer in answers:
        assert answer.degraded == ["experiment"]
        assert ids(answer) == ids(recommender.recommend(USER))
    assert caplog.text.count("The users of a variant get the usual lists") == 1
    assert "lists:other, on the release" in caplog.text


def test_a_list_without_a_ranker_is_explained_by_its_sources(recommender: Recommender) -> None:
    query = Query(USER, 5, explain=True, treatment=treatment(ranker="none"))

    (answer,) = recommender.answer([query])

    assert answer.degraded == []
    assert all(item.sources for item in answer.items)


def test_given_items_are_ranked_by_a_variant(recommender: Recommender) -> None:
    given = [501, 502, 777_777]
    only = treatment(ranker="none", sources=["popular"])

    answer = recommender.rank_all(Query(USER, 3, candidate_items=given, treatment=only))

    assert set(ids(answer)[:2]) == {501, 502}
    assert ids(answer)[2] == 777_777


def test_changed_items_reach_the_policies_of_variants(release: Release, store_url: str) -> None:
    about = release.about
    store = OnlineStore(about.project, release.schema, about.user_id, url=store_url)
    recommender = Recommender(release, store)
    recommender.items.offer({tuple(DIVERSE)})

    recommender.items.put([(9001, {"title": "New", "category": "C1"})], NOW)
    rows = recommender.view.vocabulary.num_rows
    assert len(recommender.view.policies[tuple(DIVERSE)].items.boost_R) == rows
    recommender.items.refresh()

    assert ids(asked(recommender, policy=DIVERSE)) == ids(
        recommender.recommend(USER, diversity=0.9)
    )
    recommender.items.offer(set())
    assert recommender.view.policies == {}


class Running:
    """A server with experiments in a folder."""

    def __init__(self, recommender: Recommender, folder: Path) -> None:
        self.conf, self.log = folder / "conf", folder / "exposures"
        self.conf.mkdir()
        self.server = server_of(recommender, folder)
        count = self.server.metrics.count_exposures
        exposures = ExposureLog(self.log, "shop", count)
        self.server.experiments = Experiments(self.conf, exposures, lambda: NOW)

    def lines(self) -> list[dict[str, Any]]:
        """Return what is logged by now."""
        log = self.server.experiments._exposures
        assert log is not None
        log.flush()
        paths = sorted(self.log.glob("*.jsonl"))
        return [json.loads(line) for path in paths for line in path.read_text().splitlines()]

    def look(self, **changes: Any) -> None:
        """Write the experiment's file and have it read."""
        write(self.conf, **changes)
        self.server.experiments.look()


@pytest.fixture
def running(recommender: Recommender, tmp_path: Path) -> Iterator[Running]:
    found = Running(recommender, tmp_path)
    yield found
    found.server.experiments.close()


def client(server: Server) -> httpx.AsyncClient:
    return client_of(server)


@pytest.mark.anyio
async def test_an_answer_names_its_experiment_and_is_logged(running: Running) -> None:
    running.look(variants={"control": None, "other": {"ranker": "none", "sources": ["popular"]}})
    async with client(running.server) as shop:
        answer = (await shop.post("/recommend/", json={"user_id": USER, "n": 3})).json()
        (line,) = running.lines()
        metrics = (await shop.get("/metrics")).text

    variant = variant_of(running.server.experiments.folder.experiments["lists"], USER)
    assert answer["experiment"] == f"lists:{variant}"
    assert line["recommendation_id"] == answer["recommendation_id"]
    assert line["item_ids"] == [item["item_id"] for item in answer["items"]]
    assert (line["variant"], line["took_ms"]) == (variant, answer["took_ms"])
    assert 'shoprec_exposures_total{outcome="logged"} 1.0' in metrics
    assert 'shoprec_exposures_total{outcome="lost"} 0.0' in metrics


@pytest.mark.anyio
async def test_every_route_of_lists_takes_part_and_logs_once(running: Running) -> None:
    running.look()
    async with client(running.server) as shop:
        one = {"user_id": USER, "n": 3}
        await shop.post("/recommend/", json={**one, "explain": True})
        await shop.post("/recommend/batch", json={"requests": [one, {"user_id": 1010}]})
        await shop.post("/rank/", json={"user_id": USER, "candidate_items": [501, 502]})
        similar = (await shop.get("/similar/501")).json()

    assert [line["user_id"] for line in running.lines()] == [USER, USER, 1010, USER]
    assert similar["experiment"] is None


@pytest.mark.anyio
async def test_the_kill_switch_works_without_a_restart(running: Running) -> None:
    running.look()
    running.server.experiments.watch(running.server.live.get)
    async with client(running.server) as shop:

        async def named() -> str | None:
            answer = (await shop.post("/recommend/", json={"user_id": USER, "n": 1})).json()
            return answer["experiment"]  # type: ignore[no-any-return]

        assert await named() is not None
        write(running.conf, enabled=False)
        await asyncio.sleep(0.9)
        assert await named() is None
        said = (await shop.get("/experiments")).json()
        assert not said["experiments"]["lists"]["enabled"]


@pytest.mark.anyio
async def test_a_tester_chooses_the_variant(running: Running) -> None:
    running.look(traffic=[0.0, 0.001])
    async with client(running.server) as shop:
        body = {"user_id": USER, "n": 1, "variant": {"lists": "other"}}
        answer = (await shop.post("/recommend/", json=body)).json()
        wrong = await shop.post("/recommend/", json={**body, "variant": {"lists": "third"}})
        described = (await shop.get("/openapi.json")).json()

    assert answer["experiment"] == "lists:other"
    assert [line["override"] for line in running.lines()] == [True]
    assert wrong.status_code == 422
    assert wrong.json()["problems"][0]["field"] == "variant"
    schemas = described["components"]["schemas"]
    assert "variant" in schemas["RecommendRequest"]["properties"]
    assert "attributes" in schemas["ContextRequest"]["properties"]


@pytest.mark.anyio
async def test_attributes_of_a_request_target_it(running: Running) -> None:
    running.look(targeting={"platform": ["app"]})
    async with client(running.server) as shop:
        body = {"user_id": USER, "n": 1, "context": {"attributes": {"platform": "app"}}}
        inside = (await shop.post("/recommend/", json=body)).json()
        outside = (await shop.post("/recommend/", json={"user_id": USER, "n": 1})).json()

    assert inside["experiment"] is not None
    assert outside["experiment"] is None


@pytest.mark.anyio
async def test_an_answer_that_is_late_belongs_to_its_variant(
    recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Running(recommender, tmp_path)
    running.look()
    server = server_of(recommender, tmp_path, deadline_ms=0.001)
    server.experiments = running.server.experiments
    async with client(server) as shop:
        answer = (await shop.post("/recommend/", json={"user_id": USER, "n": 1})).json()

    assert answer["experiment"].startswith("lists:")
    (line,) = running.lines()
    assert line["degraded"]


@pytest.mark.anyio
async def test_an_answer_given_again_is_logged_again(
    recommender: Recommender, tmp_path: Path
) -> None:
    running = Running(recommender, tmp_path)
    running.look()
    server = server_of(recommender, tmp_path, cache_s=60.0)
    server.experiments = running.server.experiments
    async with client(server) as shop:
        for _ in range(2):
            await shop.post("/recommend/", json={"user_id": USER, "n": 1})

    first, second = running.lines()
    assert (first["cached"], second["cached"]) == (False, True)
    assert first["recommendation_id"] != second["recommendation_id"]
