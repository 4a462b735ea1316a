"""Two ways to the same numbers: trained and exported models, offline and online rows, HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from feature_repo.contract.artifacts import read_table
from feature_repo.contract.encoding import Encoded, query_times_s
from feature_repo.contract.schema import Entity
from ranking.scorer import Scorer
from retrieval.retriever import Retriever
from serving.recommender import Recommender
from serving.release import Release
from tests.serving.shop import TinyShop
from trainer.export import answer

K = 10


@pytest.fixture(scope="session")
def point_in_time_rows(shop: TinyShop) -> pa.Table:
    """Return the users' rows of the training set at the release's cut-off."""
    return read_table(shop.dataset.sets / "ranking_v1-users-t2" / "users.parquet")


@pytest.fixture(scope="session")
def online_rows(recommender: Recommender, point_in_time_rows: pa.Table) -> pa.Table:
    """Return the same users' rows, read from the store that Feast's CLI filled."""
    return recommender.read_rows(point_in_time_rows["user_id"].to_pylist())


def assert_same(first: Encoded, second: Encoded) -> None:
    np.testing.assert_array_equal(first.dense, second.dense)
    assert first.bags.keys() == second.bags.keys()
    for name, bag in first.bags.items():
        other = second.bags[name]
        np.testing.assert_array_equal(bag.values, other.values, err_msg=name)
        np.testing.assert_array_equal(bag.offsets, other.offsets, err_msg=name)
        if bag.weights is None:
            assert other.weights is None
        else:
            np.testing.assert_array_equal(bag.weights, other.weights, err_msg=name)


def test_an_online_row_is_the_offline_row(
    release: Release, point_in_time_rows: pa.Table, online_rows: pa.Table
) -> None:
    for feature in release.schema.of(Entity.USER):
        offline, online = point_in_time_rows[feature.name], online_rows[feature.name]
        assert online.type == offline.type, feature.name
        assert online.to_pylist() == offline.to_pylist(), feature.name


@pytest.mark.parametrize("part", ["retriever", "ranker"])
def test_an_online_row_is_encoded_as_the_offline_row(
    release: Release, point_in_time_rows: pa.Table, online_rows: pa.Table, part: str
) -> None:
    encoder = (
        release.retriever.encoder
        if part == "retriever"
        else release.scorers["default"].inputs.encoder
    )

    assert_same(
        encoder.encode(point_in_time_rows, Entity.USER),
        encoder.encode(online_rows, Entity.USER),
    )


def golden_lists(release: Release, exclude_seen: bool) -> dict[int, list[tuple[int, float]]]:
    """Return user -> the items and scores that the release promises."""
    users = read_table(release.folder / "golden" / "users.parquet")["user_id"].to_pylist()
    found: dict[int, list[tuple[int, float]]] = {user: [] for user in users}
    for row in read_table(release.folder / "golden" / "lists.parquet").to_pylist():
        if row["exclude_seen"] == exclude_seen and row["rank"] <= K:
            found[users[row["row"]]].append((row["item_id"], row["score"]))
    return found


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_the_bundles_in_the_run_folders_answer_the_golden_rows(
    release: Release, shop: TinyShop, exclude_seen: bool
) -> None:
    users = read_table(release.folder / "golden" / "users.parquet")
    retriever = Retriever.load(shop.bundle("retriever@t2"))
    scorer = Scorer.load(shop.bundle("ranker"), release.items)

    lists = answer(retriever, scorer, users, K, exclude_seen=exclude_seen)

    for place, want in enumerate(golden_lists(release, exclude_seen).values()):
        rows, scores, _ = lists.of(place)
        assert retriever.encoder.items.ids_of(rows) == [item for item, _ in want]
        np.testing.assert_allclose(scores, [score for _, score in want], rtol=1e-5, atol=1e-6)


def assert_golden(body: dict[str, Any], want: list[tuple[int, float]]) -> None:
    """The list begins with the golden rows; popular items fill up where they are fewer than K."""
    assert body["degraded"] == []
    ranked, filled = body["items"][: len(want)], body["items"][len(want) :]
    assert [item["item_id"] for item in ranked] == [item for item, _ in want]
    assert all((item["score"], item["source"]) == (None, "popular") for item in filled)
    scores = [item["score"] for item in ranked]
    np.testing.assert_allclose(scores, [score for _, score in want], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def server(
    shop: TinyShop,
    store_url: str,
    repository: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """Return the address of ``python -m serving`` on the release."""
    folder = tmp_path_factory.mktemp("server")
    port = 20_000 + os.getpid() % 20_000
    command = [sys.executable, "-m", "serving", "--port", str(port)]
    command += ["--release", str(shop.releases / "current"), "--feedback", str(folder)]
    environment = {**os.environ, "REDIS_URL": store_url}
    with (folder / "server.log").open("w") as output:
        process = subprocess.Popen(command, cwd=repository, env=environment, stderr=output)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(address, process, folder / "server.log")
        yield address
    finally:
        process.terminate()
        process.wait(30)


def wait_until_ready(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text(encoding="utf-8")
        try:
            if httpx.get(f"{address}/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(log.read_text(encoding="utf-8"))


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_the_answer_over_http_is_that_of_the_golden_rows(
    server: str, release: Release, exclude_seen: bool
) -> None:
    for user, want in golden_lists(release, exclude_seen).items():
        request = {"user_id": user, "n": K, "exclude_seen": exclude_seen}
        response = httpx.post(f"{server}/recommend/", json=request)

        assert response.status_code == 200, response.text
        assert_golden(response.json(), want)


def test_the_server_takes_feedback(server: str, release: Release) -> None:
    event = {"event_id": "1", "user_id": 1007, "item_id": 501, "event_type": "click"}

    response = httpx.post(f"{server}/feedback/", json={"events": [event]})

    assert (response.status_code, response.json()["accepted"]) == (202, 1)
    assert httpx.get(f"{server}/version").json()["model_version"] == release.about.version


def test_golden_rows_were_asked_at_the_releases_time(release: Release) -> None:
    users = read_table(release.folder / "golden" / "users.parquet")

    assert set(query_times_s(users).tolist()) == {int(release.about.as_of.timestamp())}
    assert "target_item_id" not in users.column_names
