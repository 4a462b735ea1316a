"""Id-only interaction files of published benchmarks, read in parts with their errors by line.

Two formats are common: ``lists`` has a user and all of the user's items a line (NGCF, LightGCN),
``triples`` one user, item and rating a line (NCF). Values are separated by white space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from feature_repo.contract.errors import BadInput
from feature_repo.jobs.config import InteractionFormat

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

PART = 50_000
"""Lines that are parsed at once."""


@dataclass(frozen=True)
class Interactions:
    """N pairs of a user and an item."""

    user: Ints
    item: Ints
    rating: Floats | None = None
    """None where the file has none."""

    def __len__(self) -> int:
        return len(self.user)

    def take(self, index: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Interactions:
        """Some of the pairs."""
        rating = None if self.rating is None else self.rating[index]
        return Interactions(self.user[index], self.item[index], rating)


def read_interactions(path: Path, file_format: InteractionFormat) -> Interactions:
    """All pairs of a file, in its order.

    Raises:
        BadInput: the file is missing or holds no pair, or a line is malformed (named by number).
    """
    parse = _parse_list if file_format is InteractionFormat.lists else _parse_triple
    try:
        with path.open(encoding="ascii") as lines:
            numbered = enumerate(tqdm(lines, desc=path.name, unit="line", disable=None), start=1)
            parts = list(_parts(numbered, parse, path))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as lines of numbers: {error}.") from error
    if not sum(len(part) for part in parts):
        raise BadInput(f"{path} holds no interaction; expected lines such as '7 12 4 9'.")
    return Interactions(
        np.concatenate([part.user for part in parts]),
        np.concatenate([part.item for part in parts]),
        None
        if file_format is InteractionFormat.lists
        else np.concatenate([part.rating for part in parts if part.rating is not None]),
    )


Parsed = tuple[list[int], list[float] | None]
"""User and items, and the ratings of those."""


def _parts(
    numbered: Iterator[tuple[int, str]], parse: Callable[[list[str]], Parsed], path: Path
) -> Iterator[Interactions]:
    while part := list(islice(numbered, PART)):
        found = [_parsed(number, line, parse, path) for number, line in part if line.strip()]
        counts = [len(ids) - 1 for ids, _ in found]
        users = np.array([ids[0] for ids, _ in found], dtype=np.int64)
        items = np.array([item for ids, _ in found for item in ids[1:]], dtype=np.int64)
        ratings = [value for _, values in found if values is not None for value in values]
        rating = np.array(ratings, dtype=np.float32) if ratings else None
        yield Interactions(np.repeat(users, counts), items, rating)


def _parsed(number: int, line: str, parse: Callable[[list[str]], Parsed], path: Path) -> Parsed:
    try:
        return parse(line.split())
    except (ValueError, OverflowError) as error:
        raise BadInput(
            f"Line {number} of {path} is malformed ({error}): {line.strip()[:80]!r}. Expected the "
            "lines of data.format."
        ) from error


def _parse_list(values: list[str]) -> Parsed:
    return [_id(value) for value in values], None


def _parse_triple(values: list[str]) -> Parsed:
    """What follows the rating, such as a time, is not read."""
    if len(values) < 3:
        raise ValueError(f"expected user, item and rating, got {len(values)} values")
    rating = float(values[2])
    if not np.isfinite(rating):
        raise ValueError("the rating is not a finite number")
    return [_id(values[0]), _id(values[1])], [rating]


def _id(value: str) -> int:
    found = int(value)
    if not -(2**63) <= found < 2**63:
        raise ValueError(f"{value} is not a 64-bit integer")
    return found
