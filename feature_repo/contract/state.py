"""A user's live state and the fold that advances it by one time step.

The state keeps the ``history_items`` distinct items that were bought last (by time, then by
lowest id). An item that was evicted and comes back starts anew. Whatever depends on "now" is
computed when the state is read, never stored. DuckDB computes the same state in bulk
(``feature_repo.jobs.state``); a property test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.contract.columns import AnyRows, list_column, once
from feature_repo.contract.errors import BadInput
from feature_repo.contract.vocabulary import Vocabulary

DAY_S = 86_400.0

HISTORY_COLUMNS = (
    "history_item_id",
    "history_count",
    "history_weight",
    "history_first_s",
    "history_last_s",
    "history_gap_sq",
    "history_gap_last",
)
"""The parallel lists of the view ``user_history``, most recent item first."""

Id = int | str


@dataclass(frozen=True)
class ItemState:
    """What one user did with one item.

    ``weight`` is the sum over purchases of 2^-(age/half-life) as of ``last_s``; ``gap_sq`` is
    the sum of the squared gaps between consecutive purchases, in days squared; ``gap_last`` is the
    latest of those gaps in days, 0 where there is none.
    """

    count: int
    weight: float
    first_s: int
    last_s: int
    gap_sq: float
    gap_last: float = 0.0


@dataclass(frozen=True)
class UserState:
    """One user's history, most recent first: at most ``history_items`` items."""

    items: tuple[tuple[Id, ItemState], ...] = ()

    @property
    def last_s(self) -> int | None:
        """Time of the last event that the state contains, in epoch seconds."""
        return self.items[0][1].last_s if self.items else None

    def to_row(self) -> dict[str, list[Any]]:
        """The lists of the view ``user_history``."""
        states = [state for _, state in self.items]
        return {
            "history_item_id": [item_id for item_id, _ in self.items],
            "history_count": [state.count for state in states],
            "history_weight": [state.weight for state in states],
            "history_first_s": [state.first_s for state in states],
            "history_last_s": [state.last_s for state in states],
            "history_gap_sq": [state.gap_sq for state in states],
            "history_gap_last": [state.gap_last for state in states],
        }

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> UserState:
        """Read the lists or arrays of the view ``user_history``; null ones are an empty history."""
        columns = [_as_list(row.get(name)) for name in HISTORY_COLUMNS]
        if len({len(column) for column in columns}) != 1:
            lengths = {n: len(c) for n, c in zip(HISTORY_COLUMNS, columns, strict=True)}
            raise BadInput(f"The history lists must be equally long; got {lengths}.")
        return UserState(
            tuple((item_id, ItemState(*values)) for item_id, *values in zip(*columns, strict=True))
        )


def _as_list(values: Any) -> list[Any]:
    """Python values of a list or an array; null is empty."""
    if values is None:
        return []
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def fold(
    state: UserState,
    item_ids: Sequence[Id],
    time_s: int,
    *,
    history_items: int = 200,
    half_life_days: float = 56.0,
) -> UserState:
    """Advance ``state`` by the distinct items of one basket, all bought at ``time_s``.

    Raises:
        BadInput: the basket is not later than the state's last event.
    """
    if state.last_s is not None and time_s <= state.last_s:
        raise BadInput(f"A basket at {time_s} s is not later than the state's {state.last_s} s.")
    known = dict(state.items)
    for item_id in set(item_ids):
        known[item_id] = _bought(known.get(item_id), time_s, half_life_days)
    return UserState(tuple(_latest(known)[:history_items]))


def fold_all(
    state: UserState,
    baskets: Sequence[tuple[int, Sequence[Id]]],
    *,
    history_items: int = 200,
    half_life_days: float = 56.0,
) -> UserState:
    """``fold`` over baskets of rising times, (time_s, item_ids), at once.

    Raises:
        BadInput: one is not later than the one before it, or than the state's last event.
    """
    known, last_s = dict(state.items), state.last_s
    for time_s, item_ids in baskets:
        if last_s is not None and time_s <= last_s:
            raise BadInput(f"A basket at {time_s} s is not later than the one at {last_s} s.")
        last_s = time_s
        for item_id in set(item_ids):
            known[item_id] = _bought(known.get(item_id), time_s, half_life_days)
        if len(known) > history_items:
            known = dict(_latest(known)[:history_items])
    return UserState(tuple(_latest(known)))


def _latest(known: Mapping[Id, ItemState]) -> list[tuple[Id, ItemState]]:
    """Most recent first, by the lowest id within one time."""
    return sorted(known.items(), key=lambda entry: (-entry[1].last_s, entry[0]))


def _bought(old: ItemState | None, time_s: int, half_life_days: float) -> ItemState:
    if old is None:
        return ItemState(count=1, weight=1.0, first_s=time_s, last_s=time_s, gap_sq=0.0)
    gap_days = (time_s - old.last_s) / DAY_S
    return replace(
        old,
        count=old.count + 1,
        weight=1.0 + old.weight * 2.0 ** (-gap_days / half_life_days),
        last_s=time_s,
        gap_sq=old.gap_sq + gap_days**2,
        gap_last=gap_days,
    )


@dataclass(frozen=True)
class Histories:
    """The histories of B users as flat arrays; user b owns ``[offsets[b], offsets[b+1])``."""

    offsets: npt.NDArray[np.int64]
    """[B+1]"""
    item_row: npt.NDArray[np.int64]
    """[N] rows of the item vocabulary; 0 is an item that it does not know."""
    count: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32]
    """[N] decayed count as of ``last_s``."""
    first_s: npt.NDArray[np.int64]
    last_s: npt.NDArray[np.int64]
    gap_sq: npt.NDArray[np.float32]
    """[N] days squared."""
    gap_last: npt.NDArray[np.float32]
    """[N] days; 0 where the item was bought once."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, user: int) -> Histories:
        """The history of one user, as a batch of one."""
        return self.part(user, user + 1)

    def part(self, start: int, stop: int) -> Histories:
        """The histories of the users from ``start`` on, to before ``stop``."""
        offsets = self.offsets[start : stop + 1]
        part = slice(int(offsets[0]), int(offsets[-1]))
        return Histories(
            offsets - offsets[0],
            self.item_row[part],
            self.count[part],
            self.weight[part],
            self.first_s[part],
            self.last_s[part],
            self.gap_sq[part],
            self.gap_last[part],
        )

    def weight_at(
        self, now_s: npt.NDArray[np.int64] | int, half_life_days: float
    ) -> npt.NDArray[np.float32]:
        """[N] decayed counts at ``now_s`` ([B] or one time for all)."""
        now = np.broadcast_to(np.asarray(now_s, dtype=np.int64), (len(self),))
        age_days = (np.repeat(now, np.diff(self.offsets)) - self.last_s) / DAY_S
        return (self.weight * np.exp2(-age_days / half_life_days)).astype(np.float32)

    @staticmethod
    def from_table(table: AnyRows, items: Vocabulary) -> Histories:
        """Read the ``history_*`` columns of B rows; a null list is an empty history."""
        return once(table, ("histories", id(items)), lambda: Histories._read(table, items))

    @staticmethod
    def _read(table: AnyRows, items: Vocabulary) -> Histories:
        ids, offsets = list_column(table, "history_item_id")
        return Histories(
            offsets,
            items.rows(ids),
            _numbers(table, "history_count", offsets, np.float32),
            _numbers(table, "history_weight", offsets, np.float32),
            _numbers(table, "history_first_s", offsets, np.int64),
            _numbers(table, "history_last_s", offsets, np.int64),
            _numbers(table, "history_gap_sq", offsets, np.float32),
            _numbers(table, "history_gap_last", offsets, np.float32),
        )


def _numbers(
    table: AnyRows, name: str, offsets: npt.NDArray[np.int64], dtype: Any
) -> npt.NDArray[Any]:
    values, own = list_column(table, name)
    if not np.array_equal(own, offsets):
        row = int(np.flatnonzero(np.diff(own) != np.diff(offsets))[0])
        raise BadInput(f"Row {row}: {name} has not as many values as history_item_id.")
    return np.asarray(values).astype(dtype, copy=False)
