"""The index that sources and servers search: built rows, changes since, and filters."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import BadInput
from feature_repo.contract.vocabulary import Vocabulary
from retrieval.index.allowed import Allowed
from retrieval.index.built import Built, Hidden
from retrieval.index.changes import Change, ChangeLog, Id
from retrieval.index.files import About, load_built
from retrieval.index.gpu import MOST_K, GpuIndex, exact_on_gpus
from retrieval.index.live import Live
from retrieval.index.memory import exact_index
from retrieval.index.vectors import ItemVectors, require_directions

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

Which = Allowed | npt.NDArray[Any]
"""A set of items, or what makes one: a mask over rows, or rows."""


@dataclass(frozen=True)
class _View:
    """What one search sees."""

    live: Live
    hidden: Hidden | None


class ItemIndex:
    """Items by inner product with a user's vector; may be searched and changed by many threads.

    Rows are those of the item vocabulary. Items that it does not know get rows after its last, in
    the order in which they were added. Every process that opens the same log of changes sees them
    at its next search.
    """

    def __init__(
        self,
        built: Built,
        items: Vocabulary | None = None,
        changes: ChangeLog | None = None,
        gpu: GpuIndex | None = None,
    ) -> None:
        """Search ``built`` as changed by ``changes``; both need ``items`` to be told by id. What is
        neither filtered nor hidden is searched on ``gpu``, where there is one."""
        self.built = built
        self._gpu = gpu
        self.items = items
        self._changes = changes
        self._reading = threading.Lock()
        self._view = _View(Live.unchanged(built.num_items, built.dim), None)
        self._catch_up()

    @staticmethod
    def load(
        folder: Path,
        items: Vocabulary | None = None,
        changes: Path | None = None,
        vectors: npt.NDArray[Any] | None = None,
    ) -> ItemIndex:
        """Memory-map a built index.

        Args:
            folder: what ``build_index`` wrote.
            items: the vocabulary whose rows were indexed; None: the one that was saved, if any.
            changes: log of changes, which is begun if it is not there; None: nothing changes.
            vectors: [R, V] that were indexed; GPUs that hold them search them exactly.

        Raises:
            ArtifactError: missing, truncated, of another vocabulary, or the log is another's.
        """
        about, built = About.read(folder), load_built(folder)
        if items is None:
            items = about.vocabulary(folder)
        opened = None if changes is None else ChangeLog(changes, about.name, built.dim)
        gpu = None if vectors is None else exact_on_gpus(ItemVectors.of(vectors))
        return ItemIndex(built, items, opened, gpu)

    @staticmethod
    def exact(item_vectors: npt.NDArray[Any], items: Vocabulary | None = None) -> ItemIndex:
        """An exact index in memory, over the rows from 1 of [R, V]."""
        return ItemIndex(exact_index(item_vectors), items)

    def __len__(self) -> int:
        """Items that can be found."""
        live = self._seen().live
        return self.built.num_items - live.num_hidden + len(live.fresh.rows)

    def search(
        self,
        user_vectors: npt.NDArray[Any],
        k: int,
        allowed: Which | Sequence[Which | None] | None = None,
    ) -> tuple[Ints, Floats]:
        """The nearest items of B users.

        Args:
            user_vectors: [B, V]
            k: length of the lists.
            allowed: the items that may be found, for all users or a list of one a user; None: any.

        Returns:
            [B, k] item rows, best first, and their inner products; 0 and NaN where there are fewer.

        Raises:
            BadInput: vectors of another width, or as many filters as there are not users.
        """
        users_BV = np.ascontiguousarray(user_vectors, dtype=np.float32)
        self._require_width(users_BV)
        view = self._seen()
        if isinstance(allowed, Sequence):
            rows, scores = self._each(view, users_BV, k, allowed)
        else:
            rows, scores = self._together(view, users_BV, k, allowed)
        return rows, np.where(rows > 0, scores, np.float32(np.nan))

    def add(self, ids: Sequence[Id], vectors: npt.NDArray[Any]) -> Ints:
        """Add items, or give them new vectors; found by every search that begins after.

        Args:
            ids: [N] their ids; those that the vocabulary lacks get rows of their own.
            vectors: [N, V]

        Returns:
            [N] their rows.

        Raises:
            BadInput: an id is given twice or of a wrong type, or a vector is zero or not finite.
        """
        matrix = np.ascontiguousarray(vectors, dtype=np.float32)
        if matrix.shape != (len(ids), self.built.dim):
            raise BadInput(
                f"{len(ids)} items need vectors of shape {(len(ids), self.built.dim)}; got "
                f"{matrix.shape}."
            )
        names = self._checked(ids)
        require_directions(matrix, lambda place: f"item {names[place]!r}")
        self._change(Change(names, matrix))
        return self.rows_of(names)

    def remove(self, ids: Sequence[Id]) -> None:
        """Remove items; no search that begins after finds them. Removed ones may be named again.

        Raises:
            BadInput: an id is given twice, of a wrong type, or never was in the index.
        """
        names = self._checked(ids)
        unknown = [name for name, row in zip(names, self.rows_of(names), strict=True) if row == 0]
        if unknown:
            raise BadInput(f"The index has no items {unknown[:5]}; nothing was removed.")
        self._change(Change(names, None))

    def rows_of(self, ids: Sequence[Id]) -> Ints:
        """[N] the rows of ids; 0 for those that never were in the index."""
        return self._rows_of(ids, self._seen().live)

    def ids_of(self, rows: Ints) -> list[Id]:
        """The ids of rows.

        Raises:
            BadInput: a row is 0 or past the end.
        """
        items, new = self._vocabulary(), list(self._seen().live.new_rows)
        if len(rows) and (rows.min() < 1 or rows.max() > len(items) + len(new)):
            raise BadInput(
                f"Rows must be in 1..{len(items) + len(new)}; got {rows.min()}..{rows.max()}."
            )
        known = iter(items.ids_of(rows[rows <= len(items)]))
        return [
            next(known) if row <= len(items) else new[row - len(items) - 1] for row in rows.tolist()
        ]

    def close(self) -> None:
        """Release the log of changes, and GPUs."""
        if self._gpu is not None:
            self._gpu.close()
        if self._changes is not None:
            self._changes.close()

    def _together(
        self, view: _View, users_BV: Floats, k: int, which: Which | None
    ) -> tuple[Ints, Floats]:
        allowed = which if which is None or isinstance(which, Allowed) else Allowed(which)
        if self._gpu is not None and allowed is None and view.hidden is None and k <= MOST_K:
            rows, scores = self._gpu.search(users_BV, k)
        else:
            rows, scores = self.built.search_allowed(users_BV, k, allowed, view.hidden)
        if not len(view.live.fresh.rows):
            return rows, scores
        return merged((rows, scores), view.live.fresh.top(users_BV, k, allowed), k)

    def _each(
        self, view: _View, users_BV: Floats, k: int, allowed: Sequence[Which | None]
    ) -> tuple[Ints, Floats]:
        if len(allowed) != len(users_BV):
            raise BadInput(f"{len(users_BV)} users need as many filters; got {len(allowed)}.")
        found = [
            self._together(view, users_BV[user : user + 1], k, which)
            for user, which in enumerate(allowed)
        ]
        if not found:
            return np.zeros((0, k), dtype=np.int64), np.zeros((0, k), dtype=np.float32)
        return np.concatenate([rows for rows, _ in found]), np.concatenate([s for _, s in found])

    def _seen(self) -> _View:
        if self._changes is not None and self._changes.is_behind():
            self._catch_up()
        return self._view

    def _change(self, change: Change) -> None:
        if self._changes is None:
            with self._reading:
                self._apply([change])
        else:
            self._changes.append(change)
            self._catch_up()

    def _catch_up(self) -> None:
        if self._changes is not None:
            with self._reading:
                self._apply(self._changes.read())

    def _apply(self, changes: Sequence[Change]) -> None:
        """Only what was said last of an item counts."""
        if not changes:
            return
        live, last = self._view.live, dict[Id, Floats | None]()
        for change in changes:
            for place, name in enumerate(change.ids):
                last[name] = None if change.vectors is None else change.vectors[place]
        rows = self._rows_of(list(last), live)
        live = live.named([name for name, row in zip(last, rows, strict=True) if row == 0])
        rows = self._rows_of(list(last), live)
        vectors = [vector for vector in last.values() if vector is not None]
        there = np.array([vector is not None for vector in last.values()], dtype=np.bool_)
        live = live.removed(rows[~there])
        if vectors:
            live = live.added(rows[there], np.stack(vectors))
        self._view = _View(live, self.built.hide(live.hidden))

    def _rows_of(self, ids: Sequence[Id], live: Live) -> Ints:
        rows = self._vocabulary().rows(list(ids))
        for place in np.flatnonzero(rows == 0).tolist():
            rows[place] = live.new_rows.get(ids[place], 0)
        return rows

    def _checked(self, ids: Sequence[Id]) -> tuple[Id, ...]:
        kind = int if self._vocabulary().id_type is IdType.INT64 else str
        names = tuple(name.item() if isinstance(name, np.generic) else name for name in ids)
        wrong = [name for name in names if type(name) is not kind]
        if wrong:
            raise BadInput(f"Item ids are of type {kind.__name__}; got {wrong[0]!r}.")
        if len(set(names)) < len(names):
            twice = next(name for place, name in enumerate(names) if name in names[:place])
            raise BadInput(f"Item {twice!r} is given twice.")
        return names

    def _vocabulary(self) -> Vocabulary:
        if self.items is None:
            raise BadInput("This index has rows and no ids; load it with the item vocabulary.")
        return self.items

    def _require_width(self, users_BV: Floats) -> None:
        if users_BV.ndim != 2 or users_BV.shape[1] != self.built.dim:
            raise BadInput(
                f"User vectors must be [users, {self.built.dim}], as the items' are; got "
                f"{users_BV.shape}."
            )


def merged(first: tuple[Ints, Floats], second: tuple[Ints, Floats], k: int) -> tuple[Ints, Floats]:
    """[B, k] the best of two lists, by score; the first wins where scores are equal."""
    rows = np.concatenate([first[0], second[0]], axis=1)
    scores = np.concatenate([first[1], second[1]], axis=1)
    scores = np.where(rows > 0, scores, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
