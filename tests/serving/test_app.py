from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.recommender import Recommender
from tests.serving.http import client_of, server_of

USER, UNKNOWN = 1007, 999_999

pytestmark = pytest.mark.anyio


async def test_the_answer_is_the_recommenders(
    client: httpx.AsyncClient, recommender: Recommender
) -> None:
    response = await client.post("/recommend/", json={"user_id": USER, "n": 5})

    assert response.status_code == 200
    body = response.json()
    want = recommender.recommend(USER, 5)
    assert [(i["item_id"], i["score"]) for i in body["items"]] == [
        (i.item_id, i.score) for i in want.items
    ]
    assert body["items"][0]["title"] == want.items[0].title
    assert sorted(body) == [
        "cached",
        "degraded",
        "experiment",
        "index_version",
        "items",
        "model_version",
        "recommendation_id",
        "took_ms",
    ]


async def test_every_setting_reaches_the_recommender(
    client: httpx.AsyncClient, recommender: Recommender
) -> None:
    first = [item.item_id for item in recommender.recommend(USER, 3, exclude_seen=True).items]
    request = {
        "user_id": USER,
        "n": 4,
        "exclude_seen": True,
        "exclude": first,
        "filters": {"price_min": 2.0, "category": [f"C{i}" for i in range(6)]},
    }

    items = (await client.post("/recommend/", json=request)).json()["items"]

    assert 0 < len(items) <= 4
    assert not {item["item_id"] for item in items} & set(first)
    assert all(item["price"] >= 2.0 for item in items)


async def test_a_whole_number_may_be_written_with_a_point(client: httpx.AsyncClient) -> None:
    plain = await client.post("/recommend/", json={"user_id": USER, "n": 5})
    pointed = await client.post("/recommend/", json={"user_id": float(USER), "n": 5.0})

    assert pointed.json()["items"] == plain.json()["items"]


async def test_an_unknown_user_is_answered(client: httpx.AsyncClient) -> None:
    response = await client.post("/recommend/", json={"user_id": UNKNOWN})

    assert response.status_code == 200
    assert {item["source"] for item in response.json()["items"]} == {"popular"}


async def test_a_store_that_is_away_is_named(cut_off: Recommender, tmp_path: Path) -> None:
    async with client_of(server_of(cut_off, tmp_path)) as client:
        response = await client.post("/recommend/", json={"user_id": USER})
        ready = await client.get("/health/ready")

    assert response.status_code == 200
    assert response.json()["degraded"] == ["features"]
    assert len(response.json()["items"]) == 10
    assert ready.status_code == 200


@pytest.mark.parametrize(
    ("body", "field", "text"),
    [
        ({}, "user_id", "field required"),
        ({"user_id": None}, "user_id", "an id is an integer or a string, not NoneType"),
        ({"user_id": True}, "user_id", "an id is an integer or a string, not bool"),
        ({"user_id": "1007"}, "user_id", "user_id must be an integer, as in the shop's data"),
        ({"user_id": 2**70}, "user_id", "must fit into 64 bits"),
        ({"user_id": 1, "n": 0}, "n", "greater than or equal to 1; got 0"),
        ({"user_id": 1, "n": 101}, "n", "less than or equal to 100; got 101"),
        ({"user_id": 1, "n": "5"}, "n", "valid integer"),
        ({"user_id": 1, "exclude_seen": "yes"}, "exclude_seen", "valid boolean"),
        ({"user_id": 1, "explain": "yes"}, "explain", "valid boolean"),
        ({"user_id": 1, "exclude": [5, "6"]}, "exclude[1]", "must be an integer"),
        ({"user_id": 1, "exclude": 5}, "exclude", "valid array"),
        ({"user_id": 1, "limit": 5}, "limit", "extra inputs are not permitted"),
        ({"user_id": 1, "filters": {"colour": ["red"]}}, "filters.colour", "not permitted"),
        ({"user_id": 1, "filters": {"price_max": -1}}, "filters.price_max", "greater than"),
        (
            {"user_id": 1, "filters": {"price_min": 2, "price_max": 1}},
            "filters.price_min",
            "must not be above price_max",
        ),
        ({"user_id": 1, "filters": {"available": "no"}}, "filters.available", "valid boolean"),
        ({"user_id": 1, "context": {"mood": "good"}}, "context.mood", "not permitted"),
        ({"user_id": 1, "anchor_items": [1] * 51}, "anchor_items", "at most 50 items"),
        ({"user_id": 1, "candidate_items": ["a"]}, "candidate_items[0]", "must be an integer"),
        ({"user_id": 1, "session_id": "\ud800"}, "body", "not JSON: unexpected end of hex"),
        ({"user_id": 1, "\ud800": 1}, "body", "not JSON: unexpected end of hex"),
        ([1, 2], "body", "should be an object"),
    ],
)
async def test_a_wrong_request_is_refused_with_its_field(
    client: httpx.AsyncClient, body: Any, field: str, text: str
) -> None:
    headers = {"content-type": "application/json"}
    response = await client.post("/recommend/", content=json.dumps(body), headers=headers)

    assert response.status_code == 422, response.text
    (problem,) = response.json()["problems"]
    assert problem["field"] == field
    assert text in problem["message"]
    assert response.json()["error"] == problem["message"]
    assert problem["message"].endswith(".")


async def test_a_body_that_is_not_json_is_refused(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json"}

    response = await client.post("/recommend/", content=b'{"user_id": ', headers=headers)

    assert response.status_code == 422
    assert response.json()["error"].startswith("The body is not JSON:")


def event(event_id: str, **changes: Any) -> dict[str, Any]:
    return {"event_id": event_id, "user_id": USER, "item_id": 501, "event_type": "click", **changes}


async def test_feedback_is_on_disk_when_it_is_acknowledged(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    request = {"events": [event("a"), event("b", event_type="bought"), event("a"), event("c")]}

    response = await client.post("/feedback/", json=request)

    assert response.status_code == 202
    answer = response.json()
    assert (answer["accepted"], answer["duplicates"]) == (2, 1)
    assert [(r["index"], r["event_id"], r["field"]) for r in answer["rejected"]] == [
        (1, "b", "event_type")
    ]
    lines = (tmp_path / "feedback.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["event_id"] for line in lines] == ["a", "c"]


async def test_feedback_sent_again_is_not_counted_again(client: httpx.AsyncClient) -> None:
    request = {"events": [event("a")]}
    await client.post("/feedback/", json=request)

    answer = (await client.post("/feedback/", json=request)).json()

    assert (answer["accepted"], answer["duplicates"]) == (0, 1)


async def test_feedback_that_cannot_be_written_is_not_acknowledged(
    recommender: Recommender, tmp_path: Path
) -> None:
    (tmp_path / "feedback.jsonl").mkdir()  # a file cannot be opened there, whoever asks

    async with client_of(server_of(recommender, tmp_path)) as client:
        response = await client.post("/feedback/", json=event("a"))
        answer = await client.post("/recommend/", json={"user_id": USER})

    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert "none of them was taken; send them again" in response.json()["error"]
    assert (answer.status_code, answer.json()["degraded"]) == (200, [])


async def test_an_event_may_come_alone_or_in_a_list(client: httpx.AsyncClient) -> None:
    alone = await client.post("/feedback/", json=event("a"))
    many = await client.post("/feedback/", json=[event("b"), event("c")])

    assert (alone.status_code, alone.json()["accepted"]) == (202, 1)
    assert (many.status_code, many.json()["accepted"]) == (202, 2)


@pytest.mark.parametrize("body", [{}, {"events": []}, {"events": [event("a")] * 1001}])
async def test_feedback_without_events_or_with_too_many_is_refused(
    client: httpx.AsyncClient, body: Any
) -> None:
    response = await client.post("/feedback/", json=body)

    assert response.status_code == 422
    assert response.json()["problems"][0]["field"] == "events"


async def test_health_version_and_hint(client: httpx.AsyncClient, recommender: Recommender) -> None:
    version = recommender.release.about.version

    assert (await client.get("/health/live")).json() == {"status": "alive"}
    assert (await client.get("/health/ready")).json()["model_version"] == version
    assert "/docs" in (await client.get("/")).text
    about = (await client.get("/version")).json()
    assert about["model_version"] == version
    assert about["rankers"] == ["default"]
    assert about["clock"] == "as_of"


async def test_the_interface_describes_itself(client: httpx.AsyncClient) -> None:
    described = (await client.get("/openapi.json")).json()

    assert sorted(described["paths"]) == [
        "/experiments",
        "/feedback/",
        "/health/live",
        "/health/ready",
        "/items",
        "/items/{item_id}",
        "/metrics",
        "/rank/",
        "/recommend/",
        "/recommend/batch",
        "/similar/{item_id}",
        "/version",
    ]
    schemas = described["components"]["schemas"]
    user_id = schemas["RecommendRequest"]["properties"]["user_id"]
    assert (user_id["type"], user_id["maximum"]) == ("integer", 2**63 - 1)
    similar = described["paths"]["/similar/{item_id}"]["get"]["parameters"][0]
    assert similar["schema"]["type"] == "integer"
    assert "x-id-of" not in json.dumps(described)
    events = schemas["FeedbackRequest"]["properties"]["events"]["items"]
    assert events["required"] == ["event_id", "user_id", "item_id", "event_type"]
    assert "purchase" in events["properties"]["event_type"]["enum"]
    assert "$defs" not in json.dumps(described)
    assert (await client.get("/docs")).status_code == 200


async def test_an_answer_explains_itself_when_asked(client: httpx.AsyncClient) -> None:
    response = await client.post("/recommend/", json={"user_id": USER, "explain": True})

    assert response.status_code == 200
    answer = response.json()
    assert answer["degraded"] == []
    for item in answer["items"]:
        assert item["source"] in item["sources"]
        assert all(rank >= 1 for rank in item["sources"].values())
    first = answer["items"][0]["reasons"]
    assert 0 < len(first) <= 3
    assert sorted(first[0]) == ["effect", "feature", "text"]
    assert first[0]["effect"] > 0


async def test_an_answer_is_as_short_as_before_where_no_explanation_is_asked(
    client: httpx.AsyncClient,
) -> None:
    plain = (await client.post("/recommend/", json={"user_id": USER})).json()
    asked = (await client.post("/recommend/", json={"user_id": USER, "explain": True})).json()

    assert list(plain["items"][0]) == [
        "item_id",
        "score",
        "position",
        "source",
        "title",
        "department",
        "category",
        "subcategory",
        "brand",
        "brand_tier",
        "package_size",
        "price",
    ]
    for item in asked["items"]:
        del item["sources"], item["reasons"]
    assert asked["items"] == plain["items"]


async def test_popular_items_say_that_they_are(client: httpx.AsyncClient) -> None:
    request = {"user_id": UNKNOWN, "n": 2, "explain": True}

    items = (await client.post("/recommend/", json=request)).json()["items"]

    reason = {"text": "popular now", "feature": "popular", "effect": None}
    assert [item["reasons"] for item in items] == [[reason], [reason]]
    assert [item["sources"] for item in items] == [{"popular": 1}, {"popular": 2}]
