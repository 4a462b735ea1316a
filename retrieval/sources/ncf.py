"""Neural matrix factorisation (``retrieval.ncf``) as a source: every item is scored by a network.

No index finds the best items of such a model: ``top`` scores all of them, which costs R times
``H1 H2 + H2 H3 + ...`` multiplications a user (R items, H widths of the hidden layers): a
millisecond for 4,000 items and layers of 32, 16 and 8, seconds for some millions. Where there are
that many, leave it to ``score`` what others found. Shapes: B users, N pairs, U rows of users, R of
items, D width of the vectors of the dot product, H of the first hidden layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from feature_repo.contract.candidates import TopK
from retrieval.sources.base import (
    Floats,
    Ints,
    UserBatch,
    best,
    load_arrays,
    save_arrays,
    stacked,
)

TABLES = ("user_vectors", "item_vectors", "user_hidden", "item_hidden")
PAIRS = 1 << 16
"""Pairs whose hidden layers are in memory at once."""


@dataclass(frozen=True)
class Layer:
    """One layer behind the first one."""

    weight: Floats
    """[H, next H]"""
    bias: Floats
    """[next H]"""


@dataclass(frozen=True)
class NcfSource:
    """The items with the largest logits.

    A user that the tables lack has their row 0, which was trained on users whose id was hidden.
    """

    name: str
    user_vectors: Floats
    """[U, D] whose dot products with ``item_vectors`` are one part of the logits; this and the
    other tables may be memory-mapped."""
    item_vectors: Floats
    """[R, D]"""
    user_hidden: Floats
    """[U, H] the user's part of the first hidden layer."""
    item_hidden: Floats
    """[R, H] the item's part of it."""
    layers: tuple[Layer, ...]
    """The network behind it; the last one is 1 wide."""
    new_only: bool = False

    @property
    def about(self) -> dict[str, Any]:
        """See ``Source``."""
        return {"kind": "ncf", "layers": len(self.layers), "new_only": self.new_only}

    def logits(self, user_row: Ints, item_row: Ints) -> Floats:
        """[N] logits of pairs of rows."""
        found = np.empty(len(user_row), dtype=np.float32)
        for start in range(0, len(user_row), PAIRS):
            part = slice(start, start + PAIRS)
            users, items = user_row[part], item_row[part]
            found[part] = (self.user_vectors[users] * self.item_vectors[items]).sum(axis=1)
            found[part] += self._network(self.user_hidden[users] + self.item_hidden[items])
        return found

    def _network(self, hidden: Floats) -> Floats:
        """[N] from [N, H], which is overwritten."""
        for layer in self.layers:
            np.maximum(hidden, 0.0, out=hidden)
            hidden = hidden @ layer.weight
            hidden += layer.bias
        return hidden[:, 0]

    def top(self, users: UserBatch, k: int) -> TopK:
        """See ``Source``; scores every item, in blocks of bounded memory."""
        rows = self._rows(users)
        every = np.arange(len(self.item_vectors), dtype=np.int64)
        lists = []
        for user, row in enumerate(rows):
            scores = np.concatenate(list(self._blocks(int(row))))
            kept = np.ones(len(every), dtype=np.bool_)
            kept[0] = False
            if self.new_only:
                kept[users.known(user)] = False
            lists.append(best(every[kept], scores[kept], k))
        return stacked(lists, k)

    def _blocks(self, user: int) -> Iterator[Floats]:
        """Logits of all items for the row of one user, block by block."""
        for start in range(0, len(self.item_vectors), PAIRS):
            part = slice(start, start + PAIRS)
            scores = self.item_vectors[part] @ self.user_vectors[user]
            yield scores + self._network(self.item_hidden[part] + self.user_hidden[user])

    def score(self, users: UserBatch, offsets: Ints, item_row: Ints) -> Floats:
        """See ``Source``."""
        return self.logits(np.repeat(self._rows(users), np.diff(offsets)), item_row)

    def _rows(self, users: UserBatch) -> Ints:
        return np.zeros(len(users), np.int64) if users.user_row is None else users.user_row

    def save(self, folder: Path) -> None:
        """Write tables and layers."""
        save_arrays(folder, **{name: getattr(self, name) for name in TABLES})
        for index, layer in enumerate(self.layers):
            save_arrays(folder, **{f"weight_{index}": layer.weight, f"bias_{index}": layer.bias})

    @staticmethod
    def load(folder: Path, name: str, num_layers: int, new_only: bool) -> NcfSource:
        """Memory-map what ``save`` wrote.

        Raises:
            ArtifactError: a file is missing or truncated.
        """
        tables = load_arrays(folder, *TABLES)
        layers = []
        for index in range(num_layers):
            found = load_arrays(folder, f"weight_{index}", f"bias_{index}")
            layers.append(Layer(found[f"weight_{index}"], found[f"bias_{index}"]))
        return NcfSource(name, **tables, layers=tuple(layers), new_only=new_only)
