"""Releases that take each other's place, and those that are refused."""

from __future__ import annotations

import logging
import os
import shutil
import weakref
from pathlib import Path

import pytest

from feature_repo.contract.artifacts import MANIFEST, read_json, write_json, write_manifest
from feature_repo.contract.errors import ArtifactError
from serving.feedback import FeedbackLog
from serving.live import RETRY_S, Live
from serving.online import OnlineStore
from serving.problems import NotReady
from serving.recommender import Recommender
from serving.release import Release
from serving.server import Server
from tests.serving.http import client_of
from tests.serving.shop import TinyShop

USER = 1007


class Ticks:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def releases(shop: TinyShop, tmp_path: Path) -> Path:
    """Return a folder with two releases, of which ``current`` names the first."""
    shutil.copytree((shop.releases / "current").resolve(), tmp_path / "first")
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    sign(tmp_path / "first", version="first")
    sign(tmp_path / "second", version="second")
    publish(tmp_path, "first")
    return tmp_path


def sign(folder: Path, **changes: object) -> None:
    """Write a manifest that fits the files as they are now."""
    about = {**read_json(folder / MANIFEST)["about"], **changes}
    write_manifest(folder, "release", about)


def publish(releases: Path, name: str) -> None:
    """Let ``current`` name another release, in one step."""
    (releases / "next").symlink_to(name)
    os.replace(releases / "next", releases / "current")


@pytest.fixture
def live(releases: Path, store_url: str) -> Live:
    """Return the first release, loaded."""
    live = live_of(releases, store_url)
    live.load()
    return live


def live_of(
    releases: Path, store_url: str, shared: Path | None = None, clock: Ticks | None = None
) -> Live:
    def load(folder: Path) -> Recommender:
        release = Release.load(folder)
        about = release.about
        store = OnlineStore(about.project, release.schema, about.user_id, url=store_url)
        return Recommender(release, store)

    return Live(releases / "current", load, shared=shared, clock=clock or Ticks())


def version(live: Live) -> str:
    return live.get().release.about.version


def test_nothing_is_answered_before_the_release_is_loaded(releases: Path, store_url: str) -> None:
    live = live_of(releases, store_url)

    states = [live.ready]
    with pytest.raises(NotReady, match="being verified and warmed"):
        live.get()
    live.load()
    states.append(live.ready)

    assert states == [False, True]
    assert live.get().recommend(USER).degraded == []


def test_a_server_that_ends_is_ready_no_more_and_answers_still(live: Live) -> None:
    live.end()

    assert not live.ready
    assert live.get().recommend(USER).items


def test_a_release_that_the_link_names_takes_the_place_of_the_one_before(
    live: Live, releases: Path
) -> None:
    told: list[tuple[str | None, str | None]] = []
    live.tell(lambda old, new: told.append((old, new)))
    before = live.get()

    live.look()
    assert live.get() is before
    publish(releases, "second")
    live.look()

    assert version(live) == "second"
    assert told == [(None, "first"), ("first", "second")]
    assert before.recommend(USER).items  # of a request that had begun


def test_the_release_before_is_forgotten_when_its_last_request_is_over(
    live: Live, releases: Path
) -> None:
    before = live.get()
    gone = weakref.ref(before.release)
    publish(releases, "second")

    live.look()
    held = gone() is not None
    del before
    live.look()

    assert held
    assert gone() is None


def damage(folder: Path, kind: str) -> None:
    """Make a release that must not be served."""
    vectors = folder / "retriever" / "item_vectors.npy"
    match kind:
        case "corrupt":
            content = bytearray(vectors.read_bytes())
            content[-1] ^= 1
            vectors.write_bytes(bytes(content))
        case "truncated":
            vectors.write_bytes(vectors.read_bytes()[:200])
        case "truncated and signed":
            vectors.write_bytes(vectors.read_bytes()[:200])
            sign(folder)
        case "without a manifest":
            (folder / MANIFEST).unlink()
        case "half a manifest":
            (folder / MANIFEST).write_text("{", encoding="utf-8")
        case "another shop's":
            sign(folder, dataset="other", project="other")
        case "with strings as ids":
            sign(folder, user_id="string")
        case "not a release":
            sign(folder)
            write_json(folder / MANIFEST, {**read_json(folder / MANIFEST), "kind": "ranker"})
        case "gone":
            shutil.rmtree(folder)


@pytest.mark.parametrize(
    "kind",
    [
        "corrupt",
        "truncated",
        "truncated and signed",
        "without a manifest",
        "half a manifest",
        "another shop's",
        "with strings as ids",
        "not a release",
        "gone",
    ],
)
def test_a_bad_release_is_refused_and_the_one_before_goes_on(
    live: Live, releases: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage(releases / "second", kind)
    publish(releases, "second")

    with caplog.at_level(logging.ERROR):
        live.look()
        live.look()

    assert version(live) == "first"
    assert live.get().recommend(USER).degraded == []
    refused = [r for r in caplog.records if "is refused, the one before goes on" in r.message]
    assert len(refused) == 1


def test_a_release_that_was_refused_is_taken_when_it_is_mended(
    releases: Path, store_url: str
) -> None:
    clock = Ticks()
    live = live_of(releases, store_url, clock=clock)
    live.load()
    vectors = releases / "second" / "retriever" / "item_vectors.npy"
    whole = vectors.read_bytes()
    damage(releases / "second", "truncated")
    publish(releases, "second")
    live.look()

    vectors.write_bytes(whole)
    live.look()
    assert version(live) == "first"
    clock.now += RETRY_S
    live.look()
    assert version(live) == "second"


def test_a_bad_first_release_is_an_error(releases: Path, store_url: str) -> None:
    damage(releases / "first", "corrupt")

    with pytest.raises(ArtifactError, match="does not match its hash"):
        live_of(releases, store_url).load()


def test_a_worker_that_starts_anew_takes_the_last_good_release(
    releases: Path, store_url: str, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    live_of(releases, store_url, shared).load()
    damage(releases / "second", "corrupt")
    publish(releases, "second")

    started_again = live_of(releases, store_url, shared)
    started_again.load()
    started_again.look()

    assert version(started_again) == "first"


@pytest.mark.anyio
async def test_until_it_is_loaded_a_server_says_when_to_come_back(
    releases: Path, store_url: str, tmp_path: Path
) -> None:
    live = live_of(releases, store_url)
    server = Server(live, FeedbackLog(tmp_path / "feedback.jsonl"))
    async with client_of(server) as client:
        early = [await client.get("/health/ready"), await client.get("/version")]
        early.append(await client.post("/recommend/", json={"user_id": USER}))
        alive = await client.get("/health/live")
        live.load()
        ready = await client.get("/health/ready")
        live.end()
        ending = await client.get("/health/ready")

    assert [response.status_code for response in (*early, ending)] == [503] * 4
    assert {response.headers["retry-after"] for response in (*early, ending)} == {"1"}
    assert [response.status_code for response in (alive, ready)] == [200, 200]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
