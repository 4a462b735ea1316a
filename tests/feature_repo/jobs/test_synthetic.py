"""Shops with planted preferences: whole tables, the same however they are made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.contract.dataset import REPOSITORY, Clock, Dataset, IdType
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.schema import Schema
from feature_repo.jobs.config import JobConfig, SyntheticSetConfig, load_config
from feature_repo.jobs.ingest import OUTPUTS, ingest
from feature_repo.jobs.planted import PlantedShop
from feature_repo.jobs.synthetic import DAYS, START, chunks, event_chunks, item_attributes, shop_of
from feature_repo.jobs.synthetic_set import make_synthetic_set
from trainer.sets import TrainingSet

NAMES = ("retrieval_v1", "sessions", "t1")
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def overrides(root: Path, users: int = 200, items: int = 300, events: int = 5_000) -> list[str]:
    return [
        "data=synthetic",
        f"data.root={root}",
        f"data.num_users={users}",
        f"data.num_items={items}",
        f"data.num_events={events}",
        "data.seed=11",
    ]


def made(root: Path, *more: str) -> Dataset:
    return ingest(load_config(JobConfig, [*overrides(root), *more]), NOW)


def table_of(root: Path, name: str) -> pa.Table:
    return pq.read_table(root / "canonical" / f"{name}.parquet")


@pytest.fixture(scope="module")
def shop_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic")
    made(root)
    return root


@pytest.mark.parametrize(("total", "size"), [(0, 3), (1, 3), (3, 3), (10, 3)])
def test_parts_cover_everything_once_in_order(total: int, size: int) -> None:
    found = [part.tolist() for part in chunks(total, size)]

    assert [value for part in found for value in part] == list(range(total))
    assert all(0 < len(part) <= size for part in found)


@settings(max_examples=40, deadline=None)
@given(
    num_users=st.integers(1, 40),
    events_a_user=st.integers(1, 20),
    surplus=st.integers(0, 39),
    size=st.integers(1, 900),
    seed=st.integers(0, 1_000),
)
def test_events_do_not_depend_on_how_many_are_made_at_once(
    num_users: int, events_a_user: int, surplus: int, size: int, seed: int
) -> None:
    shop = PlantedShop(num_users, 60, seed)
    num_events = num_users * events_a_user + surplus % num_users
    whole = pa.concat_tables(event_chunks(shop, num_events))

    parts = list(event_chunks(shop, num_events, size))

    assert len(whole) == num_events
    assert pa.concat_tables(parts).combine_chunks().equals(whole.combine_chunks())
    bound = max(size, events_a_user + 1) + num_users  # counts differ by one
    assert max(len(part) for part in parts) <= bound


@settings(max_examples=40, deadline=None)
@given(num_users=st.integers(1, 50), events_a_user=st.integers(1, 30), surplus=st.integers(0, 49))
def test_users_have_equally_many_events_or_one_more(
    num_users: int, events_a_user: int, surplus: int
) -> None:
    num_events = num_users * events_a_user + surplus % num_users

    users = np.concatenate(
        [
            np.asarray(part.column("user_id"))
            for part in event_chunks(PlantedShop(num_users, 50), num_events, size=64)
        ]
    )

    counts = np.bincount(users, minlength=num_users + 1)[1:]
    assert counts.sum() == num_events
    assert set(counts.tolist()) <= {events_a_user, events_a_user + 1}
    assert (np.diff(users) >= 0).all()


def test_a_users_purchases_are_the_planted_ones_and_rise_in_time(shop_root: Path) -> None:
    shop = PlantedShop(200, 300, seed=11)
    found = table_of(shop_root, "events")
    users = np.asarray(found.column("user_id"))

    for user in (1, 98, 200):
        mine = found.filter(pa.array(users == user))
        planted = shop.item_ids(shop.items(np.array([user - 1]), np.arange(25)[None, :])[0])
        assert mine.column("item_id").to_pylist() == planted.tolist()
        times = np.asarray(mine.column("event_timestamp")).astype("datetime64[us]")
        assert (np.diff(times) > np.timedelta64(0, "us")).all()


def test_the_data_set_has_exactly_what_was_asked_for(shop_root: Path) -> None:
    dataset = Dataset.load(shop_root / "dataset.json")

    assert dataset.counts == {
        "lines": 5_000,
        "events": 5_000,
        "users": 200,
        "items": 300,
        "item_context": 0,
    }
    assert (dataset.user_id, dataset.item_id) == (IdType.INT64, IdType.INT64)
    assert dataset.clock is Clock.AS_OF
    assert table_of(shop_root, "users").column("user_id").to_pylist() == list(range(1, 201))
    assert table_of(shop_root, "items").column("item_id").to_pylist() == list(range(1, 301))
    assert pc.unique(table_of(shop_root, "events").column("event_type")).to_pylist() == ["purchase"]


def test_purchases_spread_over_the_year_and_every_window_has_some(shop_root: Path) -> None:
    dataset = Dataset.load(shop_root / "dataset.json")
    times = table_of(shop_root, "events").column("event_timestamp")
    seconds = np.asarray(times.cast(pa.int64())) / 1e6 - START.timestamp()

    counts, _ = np.histogram(seconds / 86_400, bins=DAYS // 28, range=(0, DAYS))
    assert counts.min() > 0.5 * counts.mean()
    assert counts.max() < 2 * counts.mean()
    stamps = [START, *dataset.edges]
    inside, _ = np.histogram(seconds, bins=[(edge - START).total_seconds() for edge in stamps])
    assert inside.min() > 0
    assert inside.sum() == 5_000


def test_an_items_category_is_its_planted_cluster() -> None:
    shop = PlantedShop(10, 300, seed=0)

    found = item_attributes(shop, np.array([0, 1, 2, 3, 299]))

    names = [f"category {cluster + 1}" for cluster in (0, 1, 2, 0, 2)]
    assert found.column("category").to_pylist() == names
    assert shop.items_of(np.asarray(found.column("item_id"))).tolist() == [0, 1, 2, 3, 299]
    assert min(found.column("price").to_pylist()) > 0


def test_purchases_follow_the_planted_preferences(shop_root: Path) -> None:
    shop = PlantedShop(200, 300, seed=11)
    found = table_of(shop_root, "events")
    users = np.asarray(found.column("user_id")) - 1
    items = shop.items_of(np.asarray(found.column("item_id")))

    liked = (shop.tastes(users) == (items % 3)[:, None]).any(axis=1)

    every = np.broadcast_to(np.arange(300), (200, 300))
    chances = shop.probabilities(np.arange(200), every)
    of_taste = (shop.tastes(np.arange(200))[:, :, None] == np.arange(300) % 3).any(axis=1)
    assert liked.mean() == pytest.approx((chances * of_taste).sum(axis=1).mean(), abs=0.02)


def test_the_price_paid_is_that_of_the_item(shop_root: Path) -> None:
    with duckdb.connect() as connection:
        folder = shop_root / "canonical"
        wrong = connection.sql(
            f"SELECT count(*) FROM '{folder}/events.parquet' e "
            f"JOIN '{folder}/items.parquet' i USING (item_id) WHERE e.price <> i.price"
        ).fetchone()

    assert wrong == (0,)


def test_the_same_settings_write_the_same_bytes_and_another_seed_does_not(
    shop_root: Path, tmp_path: Path
) -> None:
    made(tmp_path / "same")
    made(tmp_path / "other", "data.seed=12")

    for name in OUTPUTS:
        file = Path("canonical") / f"{name}.parquet"
        assert (shop_root / file).read_bytes() == (tmp_path / "same" / file).read_bytes()
    first, second = (table_of(root, "events") for root in (shop_root, tmp_path / "other"))
    assert not first.column("item_id").equals(second.column("item_id"))
    assert shop_of(load_config(JobConfig, overrides(tmp_path)).data) == PlantedShop(200, 300, 11)


def test_made_again_it_is_found_until_a_setting_changes(tmp_path: Path) -> None:
    made(tmp_path)
    events = tmp_path / "canonical" / "events.parquet"
    written = events.stat().st_mtime_ns

    made(tmp_path)
    assert events.stat().st_mtime_ns == written

    assert made(tmp_path, "data.num_events=6000").counts["events"] == 6_000
    assert events.stat().st_mtime_ns > written


def kill_while_events_are_written(root: Path, events: int) -> None:
    """Start the job, and end it with SIGKILL in the middle of its largest table."""
    command = [sys.executable, "-m", "feature_repo.jobs", "ingest", *overrides(root, events=events)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((root / "canonical").glob(".events.parquet.*")):
        assert process.poll() is None, "the job ended before it wrote its events"
        assert time.monotonic() < deadline, "the job wrote nothing"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_killed_run_leaves_no_half_of_a_table(tmp_path: Path) -> None:
    kill_while_events_are_written(tmp_path, events=1_000_000)

    assert not (tmp_path / "dataset.json").exists()
    assert not any((tmp_path / "canonical" / f"{name}.parquet").exists() for name in OUTPUTS)

    assert made(tmp_path).counts["events"] == 5_000
    assert len(table_of(tmp_path, "events")) == 5_000


def test_a_run_killed_over_an_older_shop_leaves_the_older_tables_but_no_data_set(
    tmp_path: Path,
) -> None:
    made(tmp_path)
    before = (tmp_path / "canonical" / "events.parquet").read_bytes()

    kill_while_events_are_written(tmp_path, events=1_000_000)

    assert not (tmp_path / "dataset.json").exists()
    assert (tmp_path / "canonical" / "events.parquet").read_bytes() == before
    assert made(tmp_path).counts["events"] == 5_000


def test_other_data_is_not_overwritten(tmp_path: Path) -> None:
    config = load_config(SyntheticSetConfig, ["data=parquet", f"data.root={tmp_path}"])

    with pytest.raises(ConfigError, match="give data=synthetic"):
        make_synthetic_set(config)
    assert list(tmp_path.iterdir()) == []


def synthetic_set(root: Path, **sizes: int) -> tuple[Path, Path]:
    """Small sets of a shop of 50 users."""
    shop = ["data=synthetic", f"data.root={root}", "data.num_users=50", "data.num_items=300"]
    sizes = {"sessions": 1000, "judged": 40, "history": 6, "later": 3, "group_rows": 300} | sizes
    given = [f"{name}={size}" for name, size in sizes.items()]
    return make_synthetic_set(load_config(SyntheticSetConfig, [*shop, *given]))


def test_a_set_holds_events_of_its_users_the_latest_first(tmp_path: Path) -> None:
    folder, judged = synthetic_set(tmp_path)
    shop = PlantedShop(50, 300, seed=0)

    for path, later in ((folder, 1), (judged, 3)):
        rows = pq.read_table(path / "users.parquet").to_pylist()
        for row in rows[::37]:
            user = np.array([row["user_id"] - 1])
            items = [*row["history_item_id"][::-1], *row["target_item_id"]]
            assert len(items) == 6 + later
            chances = shop.probabilities(user, shop.items_of(np.array([items])))
            assert (chances > 0).all()
    sizes = TrainingSet.open(Dataset.load(tmp_path / "dataset.json"), *NAMES).group_sizes()
    assert sizes.tolist() == [300, 300, 300, 100]


def test_a_set_is_the_same_in_row_groups_of_any_size(tmp_path: Path) -> None:
    tables = [
        pq.read_table(synthetic_set(tmp_path / str(size), group_rows=size)[0] / "users.parquet")
        for size in (300, 64)
    ]

    assert tables[0].equals(tables[1])


def test_judged_users_are_those_of_sessions_and_targets_follow_their_tastes(
    tmp_path: Path,
) -> None:
    folder, judged = synthetic_set(tmp_path)
    shop = PlantedShop(50, 300, seed=0)
    sessions, later = (pq.read_table(path / "users.parquet") for path in (folder, judged))

    assert set(later["user_id"].to_pylist()) <= set(sessions["user_id"].to_pylist())
    users = np.asarray(sessions["user_id"]) - 1
    targets = shop.items_of(np.asarray(pc.list_flatten(sessions["target_item_id"])))
    assert (shop.tastes(users) == (targets % 3)[:, None]).any(axis=1).mean() > 0.85


def test_sets_of_other_settings_have_other_digests(tmp_path: Path) -> None:
    digests = set()
    for history in (5, 6):
        folder, _ = synthetic_set(tmp_path / str(history), history=history)
        digests.add(TrainingSet(folder, Schema.load(folder / "schema.json")).digest)

    assert len(digests) == 2


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [("sessions=0", "sessions must be above zero"), ("history=-1", "history must not be negative")],
)
def test_sizes_out_of_range_are_named(wrong: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(SyntheticSetConfig, ["data=synthetic", wrong])
