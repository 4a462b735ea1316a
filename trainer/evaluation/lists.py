"""Reading the lists of ``serving.batch`` and refusing those that cannot be judged."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.artifacts import read_table
from feature_repo.contract.columns import column_of
from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import BadInput
from feature_repo.contract.vocabulary import Vocabulary
from trainer.evaluation.window import Window

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]

COLUMNS = ["user_id", "item_id", "rank"]


@dataclass(frozen=True)
class _Entries:
    """The N lines of a file, as rows of all users and of the catalogue."""

    path: Path
    user: Ints
    item: Ints
    rank: Ints

    def fail(self, line: int, what: str) -> BadInput:
        return BadInput(f"{self.path}, row {line}: {what}.")


def read_lists(path: Path, window: Window, users: Ints, k: int) -> Ints:
    """[B, k] item rows of the [B] ``users``, best first; 0 where a list is short or missing.

    Items without an event before the cut-off hold their place, as row 0: they cannot be relevant.

    Raises:
        ArtifactError: the file is missing, broken, or lacks a column.
        BadInput: it is empty; an id has a wrong type or is not in the data set; a rank is missing
            or occurs twice; a list names an item twice. The first bad row is named.
    """
    entries = _read(path, window)
    longest = int(entries.rank.max())
    if longest > k:
        log.info("%s: lists have up to %d places; the first %d are judged.", path, longest, k)
    kept = entries.rank <= k
    return _place(_in_train(entries.item[kept], window), entries, kept, users, k)


def _in_train(catalogue_rows: Ints, window: Window) -> Ints:
    """Rows of the item vocabulary for rows of the catalogue."""
    rows = np.concatenate([np.zeros(1, np.int64), window.items.rows(window.catalogue.ids)])
    return np.asarray(rows[catalogue_rows])


def _place(
    item_rows: Ints, entries: _Entries, kept: npt.NDArray[np.bool_], users: Ints, k: int
) -> Ints:
    position = np.searchsorted(users, entries.user[kept])
    position = np.minimum(position, len(users) - 1)
    judged = users[position] == entries.user[kept]
    lists = np.zeros((len(users), k), dtype=np.int64)
    lists[position[judged], entries.rank[kept][judged] - 1] = item_rows[judged]
    return lists


def _read(path: Path, window: Window) -> _Entries:
    table = read_table(path, COLUMNS)
    if not len(table):
        raise BadInput(f"{path} holds no list; expected one row for each place of each list.")
    for name in COLUMNS:
        _require_whole(path, name, column_of(table, name))
    rank = column_of(table, "rank")
    if not pa.types.is_integer(rank.type):
        raise BadInput(f"{path}: ranks must be integers from 1; got {rank.type}.")
    entries = _Entries(
        path,
        _rows(path, "user_id", column_of(table, "user_id"), window.users),
        _rows(path, "item_id", column_of(table, "item_id"), window.catalogue),
        np.asarray(rank).astype(np.int64),
    )
    _require_ranks(entries, window)
    _require_distinct_items(entries, window)
    return entries


def _require_whole(path: Path, name: str, column: pa.Array) -> None:
    if column.null_count:
        line = int(np.flatnonzero(~np.asarray(column.is_valid()))[0])
        raise BadInput(f"{path}, row {line}: {name} is null.")


def _rows(path: Path, name: str, column: pa.Array, vocabulary: Vocabulary) -> Ints:
    """Rows of ids that all must be known."""
    fits = {IdType.INT64: pa.types.is_integer, IdType.STRING: _is_text}[vocabulary.id_type]
    if not fits(column.type):
        raise BadInput(
            f"{path}: {name} holds {column.type}; the data set's are {vocabulary.id_type.value}."
        )
    rows = vocabulary.rows(column)
    unknown = np.flatnonzero(rows == 0)
    if len(unknown):
        raise BadInput(
            f"{path}, row {unknown[0]}: {name} {column[int(unknown[0])].as_py()!r} is not in the "
            f"data set ({len(unknown)} such rows); is the file of another data set?"
        )
    return rows


def _is_text(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_string(dtype) or pa.types.is_large_string(dtype))


def _require_ranks(entries: _Entries, window: Window) -> None:
    """Every user's ranks must be 1, 2, ... n."""
    order = np.lexsort((entries.rank, entries.user))
    user, rank = entries.user[order], entries.rank[order]
    first = np.concatenate([[True], user[1:] != user[:-1]])
    start = np.maximum.accumulate(np.where(first, np.arange(len(user)), 0))
    expected = np.arange(len(user)) - start + 1
    bad = np.flatnonzero(rank != expected)
    if len(bad):
        place = int(bad[0])
        owner = window.users.ids_of(user[place : place + 1])[0]
        raise entries.fail(
            int(order[place]),
            f"the list of user {owner!r} has rank {rank[place]} where rank {expected[place]} was "
            "expected; the ranks of a list must be 1, 2, 3, ... once each",
        )


def _require_distinct_items(entries: _Entries, window: Window) -> None:
    order = np.lexsort((entries.rank, entries.item, entries.user))
    user, item = entries.user[order], entries.item[order]
    twice = np.flatnonzero((user[1:] == user[:-1]) & (item[1:] == item[:-1]))
    if len(twice):
        place = int(twice[0]) + 1
        owner = window.users.ids_of(user[place : place + 1])[0]
        name = window.catalogue.ids_of(item[place : place + 1])[0]
        raise entries.fail(
            int(order[place]), f"the list of user {owner!r} names item {name!r} twice"
        )
