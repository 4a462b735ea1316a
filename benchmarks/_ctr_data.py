"""MovieLens-1M as click prediction, by AutoInt's protocol.

Song et al., "AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks"
(2019), and the program that goes with it (DeepGraphLearning/RecommenderSystems @ 3608702,
featureRec/movielens/data/preprocess.py): a rating above 3 is 1, below 3 is 0, and those of 3 are
left out, which leaves 739,012 examples. They are shuffled, from the order of GroupLens' file, by
Python's ``random.shuffle`` after ``random.seed(2019)``; the first 80% are trained on, the next 10%
validate, the rest is the test. As it is Python's own generator, the split here is theirs, example
by example.

Shapes: E users or items, F fields, N examples.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv

from feature_repo.contract.errors import BadInput

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

SPLIT_SEED = 2019
USER_FIELDS = ("user_id", "gender", "age", "occupation", "zip")
ITEM_FIELDS = ("item_id", "year", "genres")
MOST_GENRES = 6
"""Of a film."""
DECADES = (1930, 1940, 1950, 1960, 1970)
"""Films before 1970 are told apart by these bounds, later ones by their year."""


@dataclass(frozen=True)
class Side:
    """The features of users, or of items, by their row: GroupLens' id."""

    codes: dict[str, Ints]
    """Field -> [E] codes from 1; of ``genres`` [E, 6], where 0 pads."""

    def sizes(self, fields: tuple[str, ...]) -> list[int]:
        """Codes of each field, 0 included."""
        return [int(self.codes[field].max()) + 1 for field in fields]


@dataclass(frozen=True)
class Examples:
    """N examples."""

    user: Ints
    item: Ints
    label: Floats

    def __len__(self) -> int:
        return len(self.label)

    def take(self, index: Ints) -> Examples:
        """Some of them."""
        return Examples(self.user[index], self.item[index], self.label[index])


@dataclass(frozen=True)
class Ctr:
    """The data set, split."""

    users: Side
    items: Side
    train: Examples
    validation: Examples
    test: Examples


def read_ctr(folder: Path) -> Ctr:
    """Read GroupLens' files and split them as AutoInt does.

    Args:
        folder: holds ``users.dat``, ``movies.dat``, and ``ratings.dat`` or, of the same ratings in
            the same order, ``ratings_no_timestamp.csv`` with columns u, i and r.

    Raises:
        BadInput: a file is missing or malformed.
    """
    users = _users(_lines(folder / "users.dat"))
    items = _items(_lines(folder / "movies.dat"))
    user, item, rating = _ratings(folder)
    kept = np.flatnonzero(rating != 3)
    every = Examples(user[kept], item[kept], (rating[kept] > 3).astype(np.float32))
    parts = split(len(every))
    return Ctr(users, items, *(every.take(part) for part in parts))


def split(size: int) -> tuple[Ints, Ints, Ints]:
    """Places of the examples of train, validation and test."""
    order = list(range(size))
    random.Random(SPLIT_SEED).shuffle(order)
    first, second = int(size * 0.8), int(size * 0.9)
    places = np.array(order, dtype=np.int64)
    return places[:first], places[first:second], places[second:]


def _lines(path: Path) -> list[list[str]]:
    try:
        lines = path.read_text(encoding="ISO-8859-1").splitlines()
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read ({error.strerror}); ml1m=DIR names a folder with GroupLens' "
            "users.dat, movies.dat and ratings."
        ) from error
    return [line.split("::") for line in lines]


def _users(lines: list[list[str]]) -> Side:
    columns = list(zip(*lines, strict=True))
    rows = np.array(columns[0], dtype=np.int64)
    return Side({name: _coded(rows, columns[i]) for i, name in enumerate(USER_FIELDS)})


def _items(lines: list[list[str]]) -> Side:
    rows = np.array([line[0] for line in lines], dtype=np.int64)
    years = [int(line[1][-5:-1]) for line in lines]
    names = sorted({genre for line in lines for genre in line[2].split("|")})
    genres = np.zeros((int(rows.max()) + 1, MOST_GENRES), dtype=np.int64)
    for row, line in zip(rows, lines, strict=True):
        mine = [1 + names.index(genre) for genre in line[2].split("|")]
        genres[row, : len(mine)] = mine
    spans = [
        str(np.searchsorted(DECADES, year, "right") if year < 1970 else year) for year in years
    ]
    ids = [str(row) for row in rows]
    return Side({"item_id": _coded(rows, ids), "year": _coded(rows, spans), "genres": genres})


def _coded(rows: Ints, values: Sequence[str] | Sequence[int] | Ints) -> Ints:
    """[E] codes from 1 of an attribute, by the row of who has it."""
    _, codes = np.unique(np.array(values), return_inverse=True)
    found = np.zeros(int(rows.max()) + 1, dtype=np.int64)
    found[rows] = codes + 1
    return found


def _ratings(folder: Path) -> tuple[Ints, Ints, Ints]:
    """User, item and rating of each line, in the file's order."""
    path, names = folder / "ratings.dat", ["u", "i", "r", "t"]
    if not path.exists():
        path, names = folder / "ratings_no_timestamp.csv", []
    try:
        text = BytesIO(path.read_bytes().replace(b"::", b","))
        table = pa_csv.read_csv(text, pa_csv.ReadOptions(column_names=names or None))
        user, item, rating = (np.asarray(table.column(name), dtype=np.int64) for name in "uir")
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise BadInput(f"{path} does not hold GroupLens' ratings: {error}") from error
    return user, item, rating
