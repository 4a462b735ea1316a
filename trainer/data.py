"""Sessions as batches for the two-tower model: read by row groups, shared among processes.

A training set is dealt out to a few streams, each a sequence of row groups. Every batch takes the
next rows of every stream, so that what is in a batch depends on seed, epoch and place alone; a
process reads the streams that its part of the batch lies in.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.contract.columns import list_column
from feature_repo.contract.encoding import Bag, Encoded, Encoder, query_times_s
from feature_repo.contract.events import EXPOSED_ITEM
from feature_repo.contract.schema import Encoding, Entity
from retrieval.inputs import HISTORY_TIME, HISTORY_WEIGHT, encode_users
from trainer.distributed import Process
from trainer.sets import RATING, TARGET, TrainingSet
from trainer.teacher import Teacher

log = logging.getLogger(__name__)

SHOWN = EXPOSED_ITEM
"""Items that a session was shown, chosen or not: a column of sets of shops that log impressions."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SessionBatch:
    """B sessions: the user just before each, and what was bought in it."""

    users: Encoded
    targets: Bag
    """Rows of the bought items that the vocabulary knows; weight 0 for those bought before."""
    first: int = 0
    """Place of the first session in the batch of all processes."""
    total: int = 0
    """Sessions in the batch of all processes."""
    ratings: Floats | None = None
    """Of the targets, where they are explicit."""
    shown: Bag | None = None
    """Known items that the session was shown, where they are read."""
    taught: Bag | None = None
    """Items that a teacher names for the session, with weights that sum to one."""

    def __len__(self) -> int:
        return len(self.users)

    def take(self, index: Ints) -> SessionBatch:
        """Some of the sessions."""
        ratings = None
        if self.ratings is not None:
            ratings = Bag(self.targets.values, self.targets.offsets, self.ratings).take(index)
        return SessionBatch(
            self.users.take(index),
            self.targets.take(index),
            ratings=None if ratings is None else ratings.weights,
            shown=None if self.shown is None else self.shown.take(index),
            taught=None if self.taught is None else self.taught.take(index),
        )

    @staticmethod
    def concat(parts: list[SessionBatch]) -> SessionBatch:
        """The sessions of several batches, in their order."""
        if len(parts) == 1:
            return parts[0]
        users = [part.users for part in parts]
        bags = {name: _joined([part.bags[name] for part in users]) for name in users[0].bags}
        dense = np.concatenate([part.dense for part in users])
        ratings = [part.ratings for part in parts if part.ratings is not None]
        shown = [part.shown for part in parts if part.shown is not None]
        taught = [part.taught for part in parts if part.taught is not None]
        return SessionBatch(
            Encoded(bags, dense),
            _joined([part.targets for part in parts]),
            ratings=np.concatenate(ratings) if ratings else None,
            shown=_joined(shown) if shown else None,
            taught=_joined(taught) if taught else None,
        )


class SessionReader:
    """One process's part of a training set's batches.

    All processes have equally many batches, whose parts differ by one session at most. Memory is
    bounded by ``shuffle_rows``, or by one row group a stream where that is more.
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
        streams: int = 8,
        shuffle_rows: int = 262_144,
        ratings: bool = False,
        shown: bool = False,
        teacher: Teacher | None = None,
    ) -> None:
        """Look at the row groups' sizes.

        Args:
            sessions: the set.
            encoder: makes the inputs.
            process: this one.
            batch_size: sessions a batch, of all processes together.
            half_life_days: of decayed counts.
            seed: of the order.
            cache: whether to keep encoded row groups in memory.
            since_s: sessions before that time, in epoch seconds, are left out.
            streams: how many sequences the row groups form; at most one a row group.
            shuffle_rows: rows that are mixed with one another, over all streams.
            ratings: whether to read the targets' ratings.
            shown: whether to read what was shown, where the set has it.
            teacher: names further items of a session.
        """
        self.sessions = sessions
        self.encoder = encoder
        self.process = process
        self.half_life_days = half_life_days
        self.seed = seed
        self.cache = cache
        self.ratings = ratings
        self.teacher = teacher
        self.shown = shown and SHOWN in sessions.users.schema_arrow.names
        self._chunks: dict[int, SessionBatch] = {}
        self._kept = None if since_s is None else _rows_since(sessions, since_s)
        self._sizes = (
            sessions.group_sizes()
            if self._kept is None
            else np.array([len(rows) for rows in self._kept], dtype=np.int64)
        )
        filled = np.flatnonzero(self._sizes)
        order = np.random.default_rng(seed).permutation(filled)
        num_streams = max(1, min(streams, len(filled)))
        self._streams = [order[index::num_streams] for index in range(num_streams)]
        self._window = max(1, shuffle_rows // num_streams)
        self._num_batches = -(-self.num_rows // batch_size)

    @property
    def num_rows(self) -> int:
        """Sessions of an epoch, over all processes."""
        return int(self._sizes.sum())

    def num_batches(self) -> int:
        """Batches an epoch, the same on every process."""
        return self._num_batches

    def batches(self, epoch: int, first: int = 0) -> Iterator[SessionBatch]:
        """This process's parts of an epoch's batches from ``first`` on."""
        streams = [self._stream(epoch, index) for index in range(len(self._streams))]
        for batch in range(first, self._num_batches):
            yield self._batch(streams, batch)

    def _batch(self, streams: list[_StreamRows], batch: int) -> SessionBatch:
        bounds = [stream.bounds(batch, self._num_batches) for stream in streams]
        ends = np.cumsum([0, *(stop - start for start, stop in bounds)])
        mine = self.process.share_of(int(ends[-1]))
        parts: list[SessionBatch] = []
        for stream, (start, stop), before in zip(streams, bounds, ends, strict=False):
            low = max(start, start + mine.start - int(before))
            high = min(stop, start + mine.stop - int(before))
            if low < high:
                parts.extend(stream.rows(low, high))
        found = SessionBatch.concat(parts) if parts else self._chunk(self._any_group).take(_NONE)
        return replace(found, first=mine.start, total=int(ends[-1]))

    @property
    def _any_group(self) -> int:
        return int(self._streams[0][0])

    def _stream(self, epoch: int, index: int) -> _StreamRows:
        groups = np.random.default_rng([self.seed, epoch, index]).permutation(self._streams[index])
        windows: list[list[int]] = [[]]
        for group in groups:
            if sum(self._sizes[g] for g in windows[-1]) >= self._window:
                windows.append([])
            windows[-1].append(int(group))
        sizes = [int(self._sizes[window].sum()) for window in windows]
        ends = np.cumsum([0, *sizes])
        return _StreamRows(self, windows, ends, epoch, index, len(self._streams))

    def chunk(self, groups: list[int]) -> SessionBatch:
        """The sessions of some row groups."""
        return SessionBatch.concat([self._chunk(group) for group in groups])

    def _chunk(self, group: int) -> SessionBatch:
        if group in self._chunks:
            return self._chunks[group]
        table = self.sessions.read_group(group, self.columns)
        if self._kept is not None:
            table = table.take(pa.array(self._kept[group]))
        chunk = self._encode(table)
        if self.cache:
            self._chunks[group] = chunk
        return chunk

    @property
    def columns(self) -> list[str]:
        """Columns that are read."""
        schema = self.encoder.schema
        encodings = (Encoding.CATEGORICAL, Encoding.NUMERIC, Encoding.BAG)
        features = [f.name for f in schema.stored.encoded(Entity.USER, *encodings)]
        if any(f.bag_weight for f in schema.encoded(Entity.USER, Encoding.BAG)):
            features += [HISTORY_WEIGHT, HISTORY_TIME]
        if self.ratings:
            features.append(RATING)
        if self.shown:
            features.append(SHOWN)
        if self.teacher is not None:
            there = self.sessions.users.schema_arrow.names
            features += [name for name in there if name.startswith("history_")]
        return list(dict.fromkeys(["user_id", "event_timestamp", *features, TARGET]))

    def _encode(self, table: pa.Table) -> SessionBatch:
        users = encode_users(self.encoder, self._shortened(table), None, self.half_life_days)
        ids, offsets = list_column(table, TARGET)
        targets = Bag(self.encoder.items.rows(ids), offsets)
        ratings = None
        if self.ratings:
            values = np.asarray(list_column(table, RATING)[0], dtype=np.float32)
            ratings = values[targets.values > 0]
        shown = self._shown(table) if self.shown else None
        taught = None if self.teacher is None else self.teacher.taught(table)
        targets = _known(targets, self._history(users))
        return SessionBatch(users, targets, ratings=ratings, shown=shown, taught=taught)

    def _shown(self, table: pa.Table) -> Bag:
        ids, offsets = list_column(table, SHOWN)
        rows = self.encoder.items.rows(ids)
        known = np.concatenate([np.zeros(1, np.int64), np.cumsum(rows > 0)])
        return Bag(rows[rows > 0], known[offsets])

    def _shortened(self, table: pa.Table) -> pa.Table:
        """The rows with no more of each list than the encoder reads."""
        length = self.encoder.history_length
        for index, field in enumerate(table.schema):
            if pa.types.is_list(field.type) and field.name not in (TARGET, RATING):
                lists = pc.list_slice(table.column(index), 0, length, return_fixed_size_list=False)
                table = table.set_column(index, field.name, lists)
        return table

    def _history(self, users: Encoded) -> Bag:
        for feature in self.encoder.schema.encoded(Entity.USER, Encoding.BAG):
            if feature.bag_of == "item_id":
                return users.bags[feature.name]
        return Bag(np.zeros(0, np.int64), np.zeros(len(users) + 1, np.int64))


_NONE = np.zeros(0, dtype=np.int64)


class _StreamRows:
    """One stream's sessions in one epoch, mixed window by window; one window is held."""

    def __init__(
        self,
        reader: SessionReader,
        windows: list[list[int]],
        ends: Ints,
        epoch: int,
        index: int,
        num_streams: int,
    ) -> None:
        self._reader = reader
        self._index = index
        self._num_streams = num_streams
        self._windows = windows
        self._ends = ends
        self._seed = (reader.seed, epoch, index)
        self._held: tuple[int, SessionBatch, Ints] | None = None

    def bounds(self, batch: int, num_batches: int) -> tuple[int, int]:
        """First and last (excluded) of the stream's sessions that a batch has.

        Streams are rounded at different batches, so that batches are of nearly one size.
        """
        size, whole = int(self._ends[-1]), num_batches * self._num_streams
        start, stop = (
            (place * size * self._num_streams + self._index * num_batches) // whole
            for place in (batch, batch + 1)
        )
        return start, stop

    def rows(self, start: int, stop: int) -> Iterator[SessionBatch]:
        """The sessions from ``start`` to ``stop``, a part for each window that they lie in."""
        while start < stop:
            window = int(np.searchsorted(self._ends, start, side="right")) - 1
            sessions, order = self._read(window)
            begin, end = start - self._ends[window], min(stop, self._ends[window + 1])
            yield sessions.take(order[begin : end - self._ends[window]])
            start = int(end)

    def _read(self, window: int) -> tuple[SessionBatch, Ints]:
        if self._held is None or self._held[0] != window:
            self._held = None  # so that two windows are never in memory
            sessions = self._reader.chunk(self._windows[window])
            order = np.random.default_rng([*self._seed, window]).permutation(len(sessions))
            self._held = (window, sessions, order)
        return self._held[1], self._held[2]


def _rows_since(sessions: TrainingSet, since_s: int) -> list[Ints]:
    """Per row group, the rows that are not older."""
    return [
        np.flatnonzero(query_times_s(table) >= since_s).astype(np.int64)
        for table in sessions.chunks(["event_timestamp"])
    ]


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
