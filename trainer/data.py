"""Sessions as batches for the two-tower model: read by row groups, shared among processes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.contract.columns import list_column
from feature_repo.contract.encoding import Bag, Encoded, Encoder, query_times_s
from feature_repo.contract.schema import Encoding, Entity
from retrieval.inputs import HISTORY_TIME, HISTORY_WEIGHT, encode_users
from trainer.distributed import Process
from trainer.sets import TARGET, TrainingSet

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SessionBatch:
    """B sessions: the user just before each, and what was bought in it."""

    users: Encoded
    targets: Bag
    """Rows of the bought items that the vocabulary knows; weight 0 for those bought before."""

    def __len__(self) -> int:
        return len(self.users)

    def take(self, index: Ints) -> SessionBatch:
        """Some of the sessions."""
        return SessionBatch(self.users.take(index), self.targets.take(index))

    @staticmethod
    def concat(parts: list[SessionBatch]) -> SessionBatch:
        """The sessions of several batches, in their order."""
        if len(parts) == 1:
            return parts[0]
        users = [part.users for part in parts]
        bags = {name: _joined([part.bags[name] for part in users]) for name in users[0].bags}
        dense = np.concatenate([part.dense for part in users])
        return SessionBatch(Encoded(bags, dense), _joined([part.targets for part in parts]))


class SessionReader:
    """One process's share of a training set, in batches.

    Each row group is dealt out to the processes by the seed, so that all have equally many rows
    and batches: one that had more would wait for the others for ever. Row groups are read in
    random order and mixed, ``shuffle_rows`` rows at a time.
    """

    def __init__(
        self,
        sessions: TrainingSet,
        encoder: Encoder,
        process: Process,
        *,
        batch_size: int,
        half_life_days: float,
        seed: int,
        cache: bool,
        since_s: int | None = None,
        shuffle_rows: int = 262_144,
    ) -> None:
        """``since_s``: sessions before that time, in epoch seconds, are left out."""
        self.sessions = sessions
        self.encoder = encoder
        self.process = process
        self.batch_size = batch_size
        self.half_life_days = half_life_days
        self.seed = seed
        self.cache = cache
        self.shuffle_rows = shuffle_rows
        self._chunks: dict[int, SessionBatch] = {}
        self._file = sessions.users
        self._rows = [_rows_since(table, since_s) for table in sessions.chunks(["event_timestamp"])]

    def num_batches(self) -> int:
        """Batches an epoch, the same on every process."""
        return -(-sum(map(self._share_size, map(len, self._rows))) // self.batch_size)

    def batches(self, epoch: int) -> Iterator[SessionBatch]:
        """This process's batches of an epoch, in the order that seed and epoch give."""
        rng = np.random.default_rng([self.seed, epoch, self.process.rank])
        left: SessionBatch | None = None
        for mixed in self._mixed(epoch):
            rows = mixed.take(rng.permutation(len(mixed)))
            rows = rows if left is None else SessionBatch.concat([left, rows])
            stop = len(rows) - len(rows) % self.batch_size
            for start in range(0, stop, self.batch_size):
                yield rows.take(np.arange(start, start + self.batch_size))
            left = rows.take(np.arange(stop, len(rows)))
        if left is not None and len(left):
            yield left

    def _mixed(self, epoch: int) -> Iterator[SessionBatch]:
        """Row groups in the epoch's order, several at a time."""
        held: list[SessionBatch] = []
        for group in np.random.default_rng([self.seed, epoch]).permutation(len(self._rows)):
            if len(self._rows[group]):
                held.append(self._chunk(int(group)))
            if sum(map(len, held)) >= self.shuffle_rows:
                yield SessionBatch.concat(held)
                held = []
        if held:
            yield SessionBatch.concat(held)

    def _chunk(self, group: int) -> SessionBatch:
        if group in self._chunks:
            return self._chunks[group]
        table = self._file.read_row_group(group, columns=self.columns)
        chunk = self._encode(table.take(pa.array(self._share(group))))
        if self.cache:
            self._chunks[group] = chunk
        return chunk

    def _share_size(self, num_rows: int) -> int:
        return -(-num_rows // self.process.world_size)

    def _share(self, group: int) -> Ints:
        """This process's rows of a row group; where they do not divide, a few rows come twice."""
        rows = self._rows[group]
        if self.process.world_size == 1:
            return rows
        shuffled = np.random.default_rng([self.seed, group]).permutation(rows)
        mine = np.resize(shuffled, self._share_size(len(rows)) * self.process.world_size)
        return np.sort(mine[self.process.rank :: self.process.world_size])

    @property
    def columns(self) -> list[str]:
        """Columns that are read."""
        schema = self.encoder.schema
        encodings = (Encoding.CATEGORICAL, Encoding.NUMERIC, Encoding.BAG)
        features = [f.name for f in schema.encoded(Entity.USER, *encodings)]
        if schema.encoded(Entity.USER, Encoding.BAG):
            features += [HISTORY_WEIGHT, HISTORY_TIME]
        return list(dict.fromkeys(["user_id", "event_timestamp", *features, TARGET]))

    def _encode(self, table: pa.Table) -> SessionBatch:
        users = encode_users(self.encoder, self._shortened(table), None, self.half_life_days)
        ids, offsets = list_column(table, TARGET)
        targets = Bag(self.encoder.items.rows(ids), offsets)
        return SessionBatch(users, _known(targets, self._history(table)))

    def _shortened(self, table: pa.Table) -> pa.Table:
        """The rows with no more of each list than the encoder reads."""
        length = self.encoder.history_length
        for index, field in enumerate(table.schema):
            if pa.types.is_list(field.type) and field.name != TARGET:
                lists = pc.list_slice(table.column(index), 0, length, return_fixed_size_list=False)
                table = table.set_column(index, field.name, lists)
        return table

    def _history(self, table: pa.Table) -> Bag:
        for feature in self.encoder.schema.encoded(Entity.USER, Encoding.BAG):
            if feature.bag_of == "item_id":
                ids, offsets = list_column(table, feature.name)
                return Bag(self.encoder.items.rows(ids), offsets)
        return Bag(np.zeros(0, np.int64), np.zeros(len(table) + 1, np.int64))


def _rows_since(table: pa.Table, since_s: int | None) -> Ints:
    if since_s is None:
        return np.arange(len(table), dtype=np.int64)
    return np.flatnonzero(query_times_s(table) >= since_s).astype(np.int64)


def _known(targets: Bag, history: Bag) -> Bag:
    """Targets without unknown items; weight 0 for those in the history, 1 for new ones."""
    stride = int(max(targets.values.max(initial=0), history.values.max(initial=0))) + 1
    mine = _owners(targets) * stride + targets.values
    ordered = np.sort(mine)
    theirs = _owners(history) * stride + history.values
    place = np.minimum(np.searchsorted(ordered, theirs), max(len(ordered) - 1, 0))
    seen = np.zeros(len(ordered), dtype=np.bool_)
    if len(ordered):
        seen[place[ordered[place] == theirs]] = True
    new = ~seen[np.searchsorted(ordered, mine)]
    kept = targets.values > 0
    counts = np.bincount(_owners(targets)[kept], minlength=len(targets.offsets) - 1)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    return Bag(targets.values[kept], offsets, new[kept].astype(np.float32))


def _joined(bags: list[Bag]) -> Bag:
    lengths = np.concatenate([np.diff(bag.offsets) for bag in bags])
    weights = [bag.weights for bag in bags if bag.weights is not None]
    return Bag(
        np.concatenate([bag.values for bag in bags]),
        np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        np.concatenate(weights) if weights else None,
    )


def _owners(bag: Bag) -> Ints:
    return np.repeat(np.arange(len(bag.offsets) - 1), np.diff(bag.offsets))
