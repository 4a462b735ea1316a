"""Item vectors from what is written of an item: its text and its attributes.

They are the answer for an item that nobody bought yet: its vector needs no purchases. All that
was fitted is plain arrays and JSON. Shapes: N items, T terms, D width of the projection, E width
of given vectors, P topics, G groups.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse as sp

from feature_repo.contract.artifacts import read_json, write_json
from feature_repo.contract.columns import column_of, list_column
from feature_repo.contract.errors import ArtifactError, BadInput
from retrieval.sources.base import load_arrays, save_arrays, unit_rows

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_WORD = re.compile(r"\w+")
Term = tuple[str, str]
"""A column, and a word of its text or a value of the attribute."""


def words(text: str) -> list[str]:
    """Runs of letters and digits, in lower case."""
    return _WORD.findall(text.lower())


def terms_of(items: pa.Table, texts: list[str], attributes: list[str]) -> Iterator[Counter[Term]]:
    """Each item's terms, and how often each occurs; what is missing has none.

    Raises:
        BadInput: the items lack a column, named.
    """
    columns = {
        name: column_of(items, name).cast(pa.string()).to_pylist() for name in (*texts, *attributes)
    }
    for place in range(len(items)):
        found: Counter[Term] = Counter()
        for name, values in columns.items():
            value = values[place]
            if value is not None:
                found.update((name, word) for word in (words(value) if name in texts else [value]))
        yield found


@dataclass(frozen=True)
class ContentEncoder:
    """Items as vectors whose inner product is about the cosine of their terms.

    Terms weighted by how rare they are, projected to their leading singular vectors (latent
    semantic analysis: Deerwester et al., 1990), beside vectors that came with the items. What the
    projection loses is not made up for: stretched to length 1, items of rare terms would come
    near to everybody (recall of hidden items fell by half and more).
    """

    texts: list[str]
    """Columns that are cut into words."""
    attributes: list[str]
    """Columns whose whole value is one term."""
    terms: list[Term]
    """T"""
    scales: Floats
    """[T] weight of one occurrence."""
    projection: Floats
    """[T, D]"""
    given: str | None = None
    """Column of vectors, such as a sentence encoder's, that the items come with."""
    given_share: float = 0.5
    """Share of the given vector in a cosine; the rest is the terms'."""

    @cached_property
    def places(self) -> dict[Term, int]:
        """Term -> its row of the projection."""
        return {term: place for place, term in enumerate(self.terms)}

    def matrix(self, items: pa.Table) -> sp.csr_matrix:
        """[N, T] weighted terms, ``(1 + log count) * scale``, each item's of length 1.

        Raises:
            BadInput: the items lack a column, named.
        """
        entries = [
            (row, self.places[term], count)
            for row, found in enumerate(terms_of(items, self.texts, self.attributes))
            for term, count in found.items()
            if term in self.places
        ]
        rows, columns, counts = np.array(entries, dtype=np.int64).reshape(-1, 3).T
        values = (1 + np.log(np.maximum(counts, 1))) * self.scales[columns]
        squares = np.bincount(rows, values**2, minlength=len(items))
        values = (values / np.sqrt(squares[rows])).astype(np.float32)
        return sp.csr_matrix((values, (rows, columns)), (len(items), len(self.terms)))

    def vectors_of(self, items: pa.Table) -> Floats:
        """[N, D + E] vectors of length up to 1; zero for an item of which nothing is known.

        Args:
            items: rows with the text and attribute columns, of items known or new.

        Raises:
            BadInput: the items lack a column, named, or given vectors are not all as wide.
        """
        own = np.asarray(self.matrix(items) @ self.projection, dtype=np.float32)
        if self.given is None:
            return own
        share = np.float32(self.given_share)
        given = given_vectors(items, self.given)
        return np.hstack([np.sqrt(1 - share) * own, np.sqrt(share) * given])

    def save(self, folder: Path) -> None:
        """Write ``content.json`` and the arrays."""
        about = {
            "texts": self.texts,
            "attributes": self.attributes,
            "given": self.given,
            "given_share": self.given_share,
            "terms": self.terms,
        }
        write_json(folder / "content.json", about)
        save_arrays(folder, scales=self.scales, projection=self.projection)

    @staticmethod
    def load(folder: Path) -> ContentEncoder:
        """Read a saved encoder.

        Raises:
            ArtifactError: a file is missing, truncated, or does not fit the others.
        """
        about: dict[str, Any] = read_json(folder / "content.json")
        arrays: dict[str, Any] = load_arrays(folder, "scales", "projection")
        about["terms"] = [(str(column), str(value)) for column, value in about["terms"]]
        if not len(about["terms"]) == len(arrays["scales"]) == len(arrays["projection"]):
            raise ArtifactError(
                f"{folder} has {len(about['terms'])} terms, {len(arrays['scales'])} weights and "
                f"{len(arrays['projection'])} rows of the projection; expected as many of each."
            )
        return ContentEncoder(**about, **arrays)


def given_vectors(items: pa.Table, column: str) -> Floats:
    """[N, E] vectors of length 1 from a column of lists; zero where an item has none.

    Raises:
        BadInput: there is no such column, or the vectors are not all as wide.
    """
    values, offsets = list_column(items, column)
    sizes = np.diff(offsets)
    width = int(sizes.max(initial=0))
    if not np.isin(sizes, (0, width)).all():
        row = int(np.flatnonzero((sizes > 0) & (sizes != width))[0])
        raise BadInput(
            f"Row {row} of the items has a vector of {sizes[row]} numbers in {column!r}; others "
            f"have {width}. All must be of one encoder."
        )
    found = np.zeros((len(items), width), dtype=np.float32)
    found[sizes > 0] = np.asarray(values, dtype=np.float32).reshape(-1, max(width, 1))[:, :width]
    return unit_rows(found)


@dataclass(frozen=True)
class Topics:
    """Users as mixtures of topics, which are groups of items that are bought together.

    Lee and Seung, "Learning the parts of objects by non-negative matrix factorization" (1999),
    over users and groups of items. A user's mixture is found from the history alone.
    """

    attribute: str
    """Column whose value is an item's group."""
    groups: list[str]
    """G"""
    topics: Floats
    """[P, G] not negative."""
    scales: Floats
    """[G] factor of a group's column in the vectors of its items: a group's demand is shared by
    its items."""

    @cached_property
    def places(self) -> dict[str, int]:
        """Group -> its column, from 1; 0 stands for any other."""
        return {group: 1 + place for place, group in enumerate(self.groups)}

    def groups_of(self, items: pa.Table) -> npt.NDArray[np.int32]:
        """[N] group of each item, from 1; 0 where it has none that is known.

        Raises:
            BadInput: the items lack the column.
        """
        values = column_of(items, self.attribute).cast(pa.string()).to_pylist()
        return np.array([self.places.get(value, 0) for value in values], dtype=np.int32)

    def vectors_of(self, items: pa.Table) -> Floats:
        """[N, P] topics of each item; zero for an unknown group."""
        scaled = np.hstack([np.zeros((len(self.topics), 1)), self.topics * self.scales])
        return np.asarray(scaled[:, self.groups_of(items)].T, dtype=np.float32)

    def mixtures(self, counts_BG: Floats, steps: int = 30) -> Floats:
        """[B, P] mixtures of length 1 that explain users' counts.

        By the multiplicative updates of Lee and Seung, "Algorithms for Non-negative Matrix
        Factorization" (2001), of the square roots.

        Args:
            counts_BG: [B, G + 1] not negative; column 0, unknown groups, is left out.
            steps: number of updates.
        """
        pulled = np.sqrt(counts_BG[:, 1:]) @ self.topics.T
        gram = self.topics @ self.topics.T
        found = np.ones(pulled.shape, dtype=np.float32)
        for _ in range(steps):
            found *= pulled / np.maximum(found @ gram, 1e-9)
        return unit_rows(found)

    def save(self, folder: Path) -> None:
        """Write ``topics.json`` and the arrays."""
        write_json(folder / "topics.json", {"attribute": self.attribute, "groups": self.groups})
        save_arrays(folder, topics=self.topics, topic_scales=self.scales)

    @staticmethod
    def load(folder: Path) -> Topics:
        """Read saved topics.

        Raises:
            ArtifactError: a file is missing or truncated.
        """
        about: dict[str, Any] = read_json(folder / "topics.json")
        arrays = load_arrays(folder, "topics", "topic_scales")
        return Topics(about["attribute"], about["groups"], arrays["topics"], arrays["topic_scales"])
