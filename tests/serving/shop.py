"""A tiny shop taken the whole way: its own files to an exported release and a filled store.

Run as ``python -m tests.serving.shop FOLDER``, one process for all stages but Feast's own CLI.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.contract.dataset import Dataset

NUM_USERS, NUM_ITEMS, NUM_WEEKS = 60, 50, 26
START = datetime(2020, 1, 6, tzinfo=UTC)
NAME = "tiny_shop"
DEPARTMENTS = ["DAIRY", "BAKERY", "PRODUCE"]


@dataclass(frozen=True)
class TinyShop:
    """Where everything of the shop lies."""

    folder: Path

    @property
    def root(self) -> Path:
        """The data set."""
        return self.folder / "data"

    @property
    def releases(self) -> Path:
        """Exported releases, one of them published."""
        return self.folder / "releases"

    @property
    def online(self) -> Path:
        """Data of the embedded store."""
        return self.folder / "online"

    @property
    def dataset(self) -> Dataset:
        """The ingested data set."""
        return Dataset.load(self.root / "dataset.json")

    def bundle(self, name: str) -> Path:
        """One of retriever@t1, retriever@t2, ranker."""
        return Path((self.folder / f"{name}.path").read_text(encoding="utf-8"))


def write_files(folder: Path) -> None:
    """Write the shop's files: users buy their favourites weekly, and popular items."""
    random = np.random.default_rng(7)
    lines: list[tuple[int, int, datetime, int]] = []
    for user in range(NUM_USERS):
        favourites = random.choice(NUM_ITEMS, size=6, replace=False)
        for week in range(NUM_WEEKS):
            if random.random() < 0.25:
                continue
            time = START + timedelta(weeks=week, hours=int(random.integers(150)), minutes=user)
            popular = random.geometric(0.08, size=2) % NUM_ITEMS
            basket = {*random.choice(favourites, 3).tolist(), *popular.tolist()}
            lines += [(1000 + user, 500 + item, time, 1 + item % 3) for item in sorted(basket)]
    users, items, times, quantities = (list(column) for column in zip(*lines, strict=True))
    events = {
        "customer": users,
        "product": items,
        "bought_at": pa.array(times, pa.timestamp("us", tz="UTC")),
        "pieces": quantities,
        "price": [1.0 + item % 7 for item in items],
    }
    pq.write_table(pa.table(events), folder / "orders.parquet")
    ids = range(NUM_ITEMS)
    catalogue = {
        "product": [500 + i for i in ids],
        "title": [f"Product {i}" for i in ids],
        "department": [DEPARTMENTS[i % 3] if i % 11 else None for i in ids],
        "category": [f"C{i % 8}" for i in ids],
        "brand": [f"B{i % 5}" if i % 4 else None for i in ids],
    }
    pq.write_table(pa.table(catalogue), folder / "products.parquet")
    profiles = {
        "customer": [1000 + u for u in range(NUM_USERS)],
        "age_band": ["19-24" if u % 3 else None for u in range(NUM_USERS)],
        "region": [f"R{u % 4}" for u in range(NUM_USERS)],
    }
    pq.write_table(pa.table(profiles), folder / "customers.parquet")


def data_settings(folder: Path) -> list[str]:
    """Overrides that describe the shop to every stage."""
    return [
        "data=parquet",
        f"data.name={NAME}",
        f"data.root={folder / 'data'}",
        f"data.events={folder / 'orders.parquet'}",
        f"data.items={folder / 'products.parquet'}",
        f"data.users={folder / 'customers.parquet'}",
        "data.columns.user_id=customer",
        "data.columns.item_id=product",
        "data.columns.event_timestamp=bought_at",
        "data.columns.quantity=pieces",
    ]


def build(folder: Path) -> TinyShop:
    """Take the shop's files to a published release and a filled store."""
    shop = TinyShop(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_files(folder)
    settings = data_settings(folder)
    _jobs("ingest", *settings)
    _jobs("state", *settings)
    feast(shop, "apply")
    for edge in ("t1", "t2"):
        sessions = ["service=retrieval_v1", "kind=sessions", f"cutoff={edge}"]
        _jobs("training-set", *settings, *sessions)
    for edge, until in (("t1", "t2"), ("t2", "t3")):
        users = ["service=ranking_v1", "kind=users", f"cutoff={edge}", f"until={until}"]
        _jobs("training-set", *settings, *users)
    _train(shop)
    dataset = shop.dataset
    feast(shop, "materialize", dataset.start.isoformat(), dataset.edge("t2").isoformat())
    return shop


def _jobs(*arguments: str) -> None:
    from feature_repo.jobs.cli import main

    assert main(list(arguments)) == 0, arguments


def feast(shop: TinyShop, *arguments: str) -> None:
    """Run Feast's own command line on the shop."""
    from feature_repo.jobs.feast_repo import feast_environment

    repository = Path(__file__).resolve().parents[2]
    environment = {**os.environ, **feast_environment(shop.dataset)}
    environment["SHOPREC_ONLINE"] = str(shop.online)
    environment.pop("REDIS_URL", None)
    command = [str(Path(sys.executable).with_name("feast")), "-c", str(repository / "feature_repo")]
    subprocess.run([*command, *arguments], env=environment, check=True, stdout=sys.stderr)


def _train(shop: TinyShop) -> None:
    """Fit a retriever at t1 and at t2, a ranker between them, and publish the release at t2."""
    data = ["data=parquet", f"data.name={NAME}", f"++data.root={shop.root}"]
    paths = [f"paths.runs={shop.folder / 'runs'}"]
    bundles = {}
    for edge in ("t1", "t2"):
        fitting = [*data, *paths, f"cutoff={edge}"]
        towers = ["experiment=two_tower", "trainer.epochs=2", "model.context=[HOUR,WEEKDAY]"]
        run = _trainer("trainer", *towers, *fitting)
        bundles[f"retriever@{edge}"] = _trainer("trainer.sources", *fitting, f"two_tower={run}")
    ranking = ["experiment=wide_deep", f"retriever={bundles['retriever@t1']}", "trainer.epochs=2"]
    run = _trainer("trainer", *ranking, *data, *paths, "cutoff=t2")
    bundles["ranker"] = str(Path(run) / "ranker")
    for name, bundle in bundles.items():
        (shop.folder / f"{name}.path").write_text(bundle, encoding="utf-8")
    _export(shop, bundles)


def _trainer(module: str, *arguments: str) -> str:
    """Run a trainer's command in a process of its own; return its last line."""
    command = [sys.executable, "-m", module, *arguments]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return result.stdout.strip().splitlines()[-1]


def _export(shop: TinyShop, bundles: dict[str, str]) -> None:
    from trainer.export import ExportConfig, export, publish

    parts = [f"retriever={bundles['retriever@t2']}", f"ranker={bundles['ranker']}"]
    settings = [*parts, "cutoff=t2", f"data={NAME}", f"data.root={shop.root}"]
    publish(export(ExportConfig.parse([*settings, f"out={shop.releases}"])))


if __name__ == "__main__":
    build(Path(sys.argv[1]))
