"""The window that lists are judged on: what came before it, and what was bought in it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.sparse as sp

from feature_repo.contract.artifacts import read_table
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ArtifactError, BadInput
from feature_repo.contract.events import EventType
from feature_repo.contract.vocabulary import Vocabulary
from ranking.item_groups import item_groups
from ranking.metrics import Relevant
from trainer.evaluation.config import Split

Ints = npt.NDArray[np.int64]

EVENT_COLUMNS = ["user_id", "item_id", "event_type", "event_timestamp"]
ATTRIBUTES = ("department", "category", "subcategory", "brand")
"""Item attributes by which the diversity of a list is measured."""


class Task(StrEnum):
    """What counts as relevant."""

    ALL = "all"
    """Every item that the user bought in the window and that is known from before."""
    NEW = "new"
    """Of those, the items that the user had not bought before."""


@dataclass(frozen=True)
class Purchases:
    """N purchases in the order of the events file."""

    user: Ints
    """[N] rows of the user vocabulary, from 1."""
    item: Ints
    """[N] rows of the item vocabulary, from 1; 0 where the item is unknown."""
    time_s: Ints
    """[N] epoch seconds."""

    def __len__(self) -> int:
        return len(self.user)

    def where(self, kept: npt.NDArray[np.bool_]) -> Purchases:
        """Some of the purchases."""
        return Purchases(self.user[kept], self.item[kept], self.time_s[kept])

    def matrix(
        self, num_users: int, num_items: int, weights: npt.NDArray[np.floating] | None = None
    ) -> sp.csr_matrix:
        """[num_users + 1, num_items + 1] summed weights (1 each by default), float32."""
        values = np.ones(len(self), np.float32) if weights is None else weights.astype(np.float32)
        shape = (num_users + 1, num_items + 1)
        return sp.csr_matrix((values, (self.user, self.item)), shape=shape)


@dataclass(frozen=True)
class Judged:
    """The users that one task judges."""

    users: Ints
    """[B] rows of the user vocabulary, rising."""
    relevant: Relevant
    """Rows of the item vocabulary that each of them should have been shown."""


@dataclass(frozen=True)
class Window:
    """Everything that lists are judged by; rows count from 1, 0 is "unknown"."""

    split: Split
    cutoff: datetime
    until: datetime
    users: Vocabulary
    """All users of the data set."""
    items: Vocabulary
    """The items with an event before the cut-off."""
    catalogue: Vocabulary
    """All items of the data set."""
    train: Purchases
    """Purchases before the cut-off."""
    bought: Purchases
    """Purchases in [cutoff, until)."""
    attributes: npt.NDArray[np.int32]
    """[items.num_rows, A] codes of the attributes that this shop has; 0 is missing."""
    brands: npt.NDArray[np.int32] | None = None
    """[items.num_rows] the brands among them; None: this shop has none."""

    @property
    def cutoff_s(self) -> int:
        """The cut-off in epoch seconds."""
        return int(self.cutoff.timestamp())

    @cached_property
    def groups(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Group of items that popularity leaves behind -> [items.num_rows] its members."""
        buyers = np.asarray(self.seen.sum(axis=0)).ravel()
        first_s = np.full(self.items.num_rows, np.inf)
        np.minimum.at(first_s, self.train.item, self.train.time_s.astype(np.float64))
        first_s[np.isinf(first_s)] = np.nan
        return item_groups(buyers, first_s, self.brands, self.cutoff_s)

    @cached_property
    def seen(self) -> sp.csr_matrix:
        """[users.num_rows, items.num_rows] 1 where the user bought the item before."""
        matrix = self.train.matrix(len(self.users), len(self.items))
        matrix.data[:] = 1.0
        return matrix

    def judged(self, task: Task, max_users: int | None = None, seed: int = 0) -> Judged:
        """The users with a relevant item, and what is relevant to them.

        Of more than ``max_users`` users with a relevant item in the task "all", as many are
        drawn; the task "new" takes those of them that have a new one.
        """
        known = self.bought.where(self.bought.item > 0)
        pairs = np.unique(np.stack([known.user, known.item], axis=1), axis=0)
        users = np.unique(pairs[:, 0])
        if max_users is not None and len(users) > max_users:
            users = np.random.default_rng(seed).choice(users, max_users, replace=False)
            pairs = pairs[np.isin(pairs[:, 0], users)]
        if task is Task.NEW:
            seen = np.asarray(self.seen[pairs[:, 0], pairs[:, 1]]).ravel()
            pairs = pairs[seen == 0]
        users, counts = np.unique(pairs[:, 0], return_counts=True)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        return Judged(users, Relevant(offsets, pairs[:, 1]))


def load_window(dataset: Dataset, split: Split) -> Window:
    """Read the events before the end of a split's window.

    Raises:
        ArtifactError: a canonical table is missing or broken.
        BadInput: nothing was bought before the window, or nothing in it that was known before.
    """
    start = 1 if split is Split.validation else 2
    cutoff, until = dataset.edges[start], dataset.edges[start + 1]
    events = _events_before(dataset, until)
    users = Vocabulary.build(_ids(dataset, "users", "user_id"), dataset.user_id)
    catalogue = Vocabulary.build(_ids(dataset, "items", "item_id"), dataset.item_id)
    time_s = np.asarray(events.column("event_timestamp").cast(pa.int64())) // 1_000_000
    before = time_s < int(cutoff.timestamp())
    item_ids = events.column("item_id")
    items = Vocabulary.build(item_ids.filter(pa.array(before)), dataset.item_id)
    every = Purchases(users.rows(events.column("user_id")), items.rows(item_ids), time_s)
    purchase = np.asarray(pc.equal(events.column("event_type"), EventType.PURCHASE.value))
    codes = _attributes(dataset, items, cutoff)
    window = Window(
        split,
        cutoff,
        until,
        users,
        items,
        catalogue,
        every.where(before & purchase),
        every.where(~before & purchase),
        np.stack(list(codes.values()), axis=1)
        if codes
        else np.zeros((items.num_rows, 0), np.int32),
        codes.get("brand"),
    )
    _require_something(window)
    return window


def _events_before(dataset: Dataset, until: datetime) -> pa.Table:
    path = dataset.canonical / "events.parquet"
    edge = pa.scalar(until, type=pa.timestamp("us", tz="UTC"))
    try:
        return pq.read_table(
            path, columns=EVENT_COLUMNS, filters=pc.field("event_timestamp") < edge
        )
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(f"{path} is not the events of a data set: {error}") from error


def _ids(dataset: Dataset, table: str, column: str) -> pa.ChunkedArray:
    return read_table(dataset.canonical / f"{table}.parquet", [column]).column(column)


def _attributes(
    dataset: Dataset, items: Vocabulary, cutoff: datetime
) -> dict[str, npt.NDArray[np.int32]]:
    """Codes of each item's attributes as of the cut-off; an all-missing attribute is left out."""
    columns = ["item_id", "event_timestamp", *ATTRIBUTES]
    table = read_table(dataset.canonical / "items.parquet", columns)
    table = table.filter(pc.field("event_timestamp") < pa.scalar(cutoff)).sort_by("event_timestamp")
    rows = items.rows(table.column("item_id"))
    codes = {}
    for name in ATTRIBUTES:
        encoded = pc.dictionary_encode(table.column(name).cast(pa.string()).combine_chunks())
        values = np.asarray(encoded.indices.fill_null(-1)).astype(np.int32) + 1
        code = np.zeros(items.num_rows, dtype=np.int32)
        code[rows] = values  # of several rows of an item, the latest is last
        code[0] = 0
        if code.any():
            codes[name] = code
    return codes


def _require_something(window: Window) -> None:
    span = f"[{window.cutoff.isoformat()}, {window.until.isoformat()})"
    if not len(window.train):
        raise BadInput(f"Nothing was bought before the {window.split.value} window {span}.")
    if not (window.bought.item > 0).any():
        raise BadInput(
            f"Nothing that was known before was bought in the {window.split.value} window {span}; "
            "there is nothing to judge lists by."
        )
