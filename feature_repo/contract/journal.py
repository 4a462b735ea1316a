"""Folding purchases into a user's row in whatever order they come, each once.

Beside the row a journal is kept: the purchases of late that feedback brought, and what the row
was without them. A late one is put in its place in time, by folding again from there; one that
comes twice is known. After a materialisation has replaced the row, those that the new row lacks
are folded into it. Purchases are settled, which is to say forgotten, a week of the user's time
later; one that comes in later still, or before the last event of a materialised row, is counted
in without knowing what it stood between, until a materialisation brings the exact state.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from feature_repo.contract.activity import Activity, advance, decay, insert
from feature_repo.contract.marks import SECOND_US, Marks
from feature_repo.contract.purchases import Purchase, baskets, latest_first, totals
from feature_repo.contract.state import DAY_S, Id, ItemState, UserState, fold_all

HISTORY, ACTIVITY, SEEN = "user_history", "user_activity", "user_seen"
VIEWS = (HISTORY, ACTIVITY, SEEN)
SEEN_ITEMS = 2_000
"""Most distinct items that ``user_seen`` remembers."""

LATE_S = 7 * 86_400
"""A purchase that is so much older than the user's latest is settled."""
MOST_KEPT = 256
"""So many are not settled, at most."""
MOST_DONE = 256
"""Ids of settled purchases that are remembered."""
ROUNDING = 1e-5
"""Relative, of sums that are stored with 24 bits."""
PROVISIONAL_US = SECOND_US
"""Time of rows of users whose materialised row was lost: any materialisation replaces them."""


@dataclass(frozen=True)
class Rules:
    """How a shop's state is made."""

    history_items: int = 200
    half_life_days: float = 56.0


@dataclass(frozen=True)
class UserRow:
    """What the store has of a user."""

    history: UserState = field(default_factory=UserState)
    activity: Activity | None = None
    seen: tuple[Id, ...] = ()


@dataclass(frozen=True)
class Kept:
    """A purchase that is not settled."""

    purchase: Purchase
    inside: frozenset[str] = frozenset()
    """Views whose base contains it."""


@dataclass(frozen=True)
class Journal:
    """What a row was made of."""

    stamps_us: Mapping[str, int] = field(default_factory=dict)
    """View -> time that its row was written with; with another one, somebody else wrote it."""
    bases_us: Mapping[str, int] = field(default_factory=dict)
    """View -> time of its base, which is the row without the kept purchases."""
    undo: Mapping[Id, ItemState | None] = field(default_factory=dict)
    """Items whose state the kept purchases changed -> the state in the base; None: not in it."""
    activity: Activity | None = None
    """The base."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """View -> digest of its base, where ``undo`` and the row have to make it again."""
    kept: tuple[Kept, ...] = ()
    done: tuple[str, ...] = ()
    """Keys of settled purchases, latest last."""

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        activity = self.activity
        return {
            "stamps": dict(self.stamps_us),
            "bases": dict(self.bases_us),
            "undo": [[item, _values(state)] for item, state in self.undo.items()],
            "activity": None if activity is None else list(activity.to_row().values()),
            "digests": dict(self.digests),
            "kept": [
                [*_values(one.purchase), [VIEWS.index(v) for v in sorted(one.inside)]]
                for one in self.kept
            ],
            "done": list(self.done),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Journal:
        """Read what ``to_json`` made."""
        activity = value["activity"]
        return Journal(
            value["stamps"],
            value["bases"],
            {item: None if s is None else ItemState(*s) for item, s in value["undo"]},
            None if activity is None else Activity(*activity),
            value["digests"],
            tuple(
                Kept(Purchase(*values), frozenset(VIEWS[v] for v in inside))
                for *values, inside in value["kept"]
            ),
            tuple(value["done"]),
        )


def _values(one: Any) -> Any:
    return None if one is None else list(vars(one).values())


@dataclass(frozen=True)
class StoredUser:
    """A user's row, the times of its views, and its journal."""

    row: UserRow = field(default_factory=UserRow)
    stamps_us: Mapping[str, int] = field(default_factory=dict)
    """View -> time of its row; views that were never written are missing."""
    journal: Journal = field(default_factory=Journal)


def fold_purchases(
    stored: StoredUser,
    purchases: Sequence[Purchase],
    marks: Marks,
    rules: Rules,
    *,
    known: bool = False,
) -> StoredUser:
    """The user after some more purchases; the same object where nothing changes.

    Args:
        stored: what the store has.
        purchases: in any order; those that were folded before change nothing.
        marks: of the compactions.
        rules: of the shop.
        known: the user should have a materialised row; what is written in its absence is replaced
            by whichever is materialised next.
    """
    folding = _Folding(stored, marks, rules)
    folding.take_over()
    folding.add(purchases)
    if not folding.changed:
        return stored
    folding.settle()
    return folding.result(known=known)


class _Folding:
    """One call of ``fold_purchases``."""

    def __init__(self, stored: StoredUser, marks: Marks, rules: Rules) -> None:
        self._stored, self._marks, self._rules = stored, marks, rules
        journal = stored.journal
        self._bases_us = dict(journal.bases_us)
        self._revisions = {v: us % SECOND_US for v, us in journal.stamps_us.items()}
        self._kept = list(journal.kept)
        self._done = list(journal.done)
        self._base = UserRow(
            _undone(stored.row.history, journal.undo),
            journal.activity,
            _without(stored.row.seen, self._kept_items()),
        )
        self.changed = False

    def _kept_items(self) -> tuple[Id, ...]:
        """Items of kept purchases that the base of the seen items lacks."""
        return latest_first(self._outside(SEEN))

    def _outside(self, view: str, kept: Sequence[Kept] | None = None) -> list[Purchase]:
        """The kept purchases that a view's base lacks."""
        some = self._kept if kept is None else kept
        return [one.purchase for one in some if view not in one.inside]

    def take_over(self) -> None:
        """Make rows that somebody else wrote the bases.

        One that is what the journal makes of the compacted purchases leaves the base as it is,
        so that later ones can still be put in their place.
        """
        for view, stamp in self._stored.stamps_us.items():
            if stamp == self._stored.journal.stamps_us.get(view):
                continue
            self.changed = True
            self._revisions[view] = stamp % SECOND_US
            if self._explains(view, stamp):
                if not all(self._marks.contains(stamp, one) for one in self._outside(view)):
                    self._revise(view)
                continue
            self._bases_us[view] = stamp
            self._base = _with_view(self._base, view, self._stored.row)
            self._kept = [self._placed(one, view) for one in self._kept]
        self._finish_inside()

    def _explains(self, view: str, stamp: int) -> bool:
        """Whether a view's row is its base and those kept purchases that a compaction took."""
        journal = self._stored.journal
        if view not in journal.stamps_us or _digests(self._base).get(view) != journal.digests.get(
            view
        ):
            return False
        taken = [one for one in self._kept if self._marks.contains(stamp, one.purchase)]
        return _alike(view, self._row(taken), self._stored.row)

    def _placed(self, one: Kept, view: str) -> Kept:
        """A kept purchase after a view's base was replaced."""
        outside = replace(one, inside=one.inside - {view})
        if self._marks.contains(self._bases_us.get(view), one.purchase):
            return replace(one, inside=one.inside | {view})
        self._revise(view)
        last_s = self._last_s(view)
        if last_s is None or one.purchase.time_s > last_s:
            return outside
        self._count_in(view, one.purchase)
        return replace(one, inside=one.inside | {view})

    def _last_s(self, view: str) -> int | None:
        """Time of the last event of a view's base."""
        stamp = self._bases_us.get(view)
        times = [None if stamp is None else stamp // SECOND_US]
        if view == HISTORY:
            times.append(self._base.history.last_s)
        elif view == ACTIVITY and self._base.activity is not None:
            times.append(self._base.activity.last_event_s)
        return max((time for time in times if time is not None), default=None)

    def _revise(self, view: str) -> None:
        """The view's row will hold what no compaction has brought."""
        self._revisions[view] = max(2 * self._marks.begun + 1, self._revisions.get(view, 0))

    def _count_in(self, view: str, late: Purchase) -> None:
        """Put a purchase into a base that is later than it."""
        base, half_life = self._base, self._rules.half_life_days
        if view == HISTORY:
            self._base = replace(base, history=_inserted(base.history, late, self._rules))
        elif view == ACTIVITY:
            (basket,) = totals([late])
            self._base = replace(base, activity=insert(base.activity, basket, half_life))
        elif late.item_id not in base.seen:
            self._base = replace(base, seen=(*base.seen, late.item_id)[:SEEN_ITEMS])

    def add(self, purchases: Sequence[Purchase]) -> None:
        """Keep those that are new."""
        known = {one.purchase.key for one in self._kept} | set(self._done)
        for purchase in purchases:
            if purchase.key in known:
                continue
            known.add(purchase.key)
            self.changed = True
            one = Kept(purchase)
            for view in VIEWS:
                one = self._placed(one, view)
            self._kept.append(one)
        self._finish_inside()

    def _finish_inside(self) -> None:
        """Purchases that every base has are done."""
        inside = [one for one in self._kept if len(one.inside) == len(VIEWS)]
        self._done += [one.purchase.key for one in inside]
        self._kept = [one for one in self._kept if len(one.inside) < len(VIEWS)]

    def settle(self) -> None:
        """Move purchases of long ago into the bases."""
        times = sorted(one.purchase.time_s for one in self._kept)
        if not times:
            return
        until = times[-1] - LATE_S - 1
        if len(times) > MOST_KEPT:
            until = max(until, times[-MOST_KEPT - 1])
        old = [one for one in self._kept if one.purchase.time_s <= until]
        if not old:
            return
        self._base = self._row(old)
        for view in VIEWS:
            last_us = max((p.time_s for p in self._outside(view, old)), default=0) * SECOND_US
            base_us = self._bases_us.get(view, 0)
            if last_us > base_us:
                self._bases_us[view] = last_us + base_us % SECOND_US
        self._done += [one.purchase.key for one in old]
        self._kept = [one for one in self._kept if one.purchase.time_s > until]

    def _row(self, kept: Sequence[Kept] | None = None) -> UserRow:
        """The bases and the kept purchases, or some of them, together."""
        base, rules = self._base, self._rules
        activity = base.activity
        for basket in totals(self._outside(ACTIVITY, kept)):
            activity = advance(activity, basket, rules.half_life_days)
        history = fold_all(
            base.history,
            baskets(self._outside(HISTORY, kept)),
            history_items=rules.history_items,
            half_life_days=rules.half_life_days,
        )
        first = latest_first(self._outside(SEEN, kept))
        return UserRow(history, activity, (*first, *_without(base.seen, first))[:SEEN_ITEMS])

    def result(self, *, known: bool) -> StoredUser:
        """The row and its journal."""
        row = self._row()
        stamps = {view: self._stamp(view, known=known) for view in VIEWS}
        journal = Journal(
            {view: us for view, us in stamps.items() if us is not None},
            self._bases_us,
            _undo(self._base.history, row.history),
            self._base.activity,
            # What the next call takes for the base of the seen items, which no undo tells.
            _digests(replace(self._base, seen=_without(row.seen, self._kept_items()))),
            tuple(self._kept),
            tuple(self._done[-MOST_DONE:]),
        )
        return StoredUser(row, journal.stamps_us, journal)

    def _stamp(self, view: str, *, known: bool) -> int | None:
        times = [purchase.time_s for purchase in self._outside(view)]
        base_us = self._bases_us.get(view)
        if base_us is None and not times:
            return None
        if known and not self._has_base(view):
            return PROVISIONAL_US + self._revisions.get(view, 0)
        last_s = max([*times, (base_us or 0) // SECOND_US])
        return last_s * SECOND_US + self._revisions.get(view, 0)

    def _has_base(self, view: str) -> bool:
        stamp = self._stored.stamps_us.get(view)
        return stamp is not None and stamp >= PROVISIONAL_US + SECOND_US


def _digests(base: UserRow) -> dict[str, str]:
    """Of the bases that a journal does not hold, without what is rounded."""
    history = [(item, s.count, s.first_s, s.last_s) for item, s in base.history.items]
    return {
        view: hashlib.blake2b(repr(values).encode(), digest_size=8).hexdigest()
        for view, values in ((HISTORY, history), (SEEN, base.seen))
    }


def _with_view(base: UserRow, view: str, row: UserRow) -> UserRow:
    """A base with one view of another row."""
    if view == HISTORY:
        return replace(base, history=row.history)
    if view == ACTIVITY:
        return replace(base, activity=row.activity)
    return replace(base, seen=row.seen)


def _alike(view: str, one: UserRow, other: UserRow) -> bool:
    """Whether two rows of a view differ in nothing but the rounding of decayed sums."""
    if view == SEEN:
        return one.seen == other.seen
    if view == ACTIVITY:
        return _close(_values(one.activity), _values(other.activity))
    mine, theirs = one.history.items, other.history.items
    return [item for item, _ in mine] == [item for item, _ in theirs] and all(
        _close(_values(a), _values(b)) for (_, a), (_, b) in zip(mine, theirs, strict=True)
    )


def _close(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return all(
        a == b
        or (isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, rel_tol=ROUNDING))
        for a, b in zip(one, other, strict=True)
    )


def _without(items: Sequence[Id], others: Sequence[Id]) -> tuple[Id, ...]:
    out = set(others)
    return tuple(item for item in items if item not in out)


def _undone(history: UserState, undo: Mapping[Id, ItemState | None]) -> UserState:
    """A history with some items as they were."""
    if not undo:
        return history
    items = [entry for entry in history.items if entry[0] not in undo]
    items += [(item, state) for item, state in undo.items() if state is not None]
    return UserState(tuple(sorted(items, key=_place)))


def _place(entry: tuple[Id, ItemState]) -> Any:
    return (-entry[1].last_s, entry[0])


def _undo(base: UserState, now: UserState) -> dict[Id, ItemState | None]:
    """What ``_undone`` needs to make ``base`` of ``now``."""
    before, after = dict(base.items), dict(now.items)
    changed = [item for item in (before | after) if before.get(item) != after.get(item)]
    return {item: before.get(item) for item in changed}


def _inserted(history: UserState, late: Purchase, rules: Rules) -> UserState:
    """A history with a purchase that is older than its last event.

    Only the gaps around it are not known, where it lies between two purchases of its item; and
    whether its item had been there before, where the history is full.
    """
    known = dict(history.items)
    known[late.item_id] = _counted(known.get(late.item_id), late.time_s, rules.half_life_days)
    return UserState(tuple(sorted(known.items(), key=_place)[: rules.history_items]))


def _counted(old: ItemState | None, time_s: int, half_life_days: float) -> ItemState:
    if old is None:
        return ItemState(count=1, weight=1.0, first_s=time_s, last_s=time_s, gap_sq=0.0)
    if time_s == old.last_s:
        return old  # equal lines are one
    if time_s > old.last_s:
        state = UserState(((0, old),))
        return fold_all(state, [(time_s, [0])], half_life_days=half_life_days).items[0][1]
    before_days = max(old.first_s - time_s, 0) / DAY_S
    return replace(
        old,
        count=old.count + 1,
        weight=old.weight + decay(old.last_s - time_s, half_life_days),
        first_s=min(old.first_s, time_s),
        gap_sq=old.gap_sq + before_days**2,
        gap_last=before_days if old.count == 1 else old.gap_last,
    )
