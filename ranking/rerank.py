"""Choosing K of C candidates by more than their scores: diversity, caps and minimum exposure.

B users at once, C candidates padded to the longest request, K places. All of a user's numbers
come from its own row, so that a user alone and in a batch gets the same list to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ranking.policy_config import Relevance

Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

Alike = Callable[[Ints], Doubles]
"""[B] a candidate's place in each row -> [B, C] its similarity to every candidate, 0 to 1."""


@dataclass(frozen=True)
class Cap:
    """At most ``most`` items of one group in a list."""

    group_BC: npt.NDArray[np.integer]
    """Each candidate's group; 0 is none, and has no limit."""
    most: int


@dataclass(frozen=True)
class Minimum:
    """At least ``least`` items of a group in a list, where the candidates allow it."""

    member_BC: Bools
    least: int


def relevance(scores_BC: Doubles, valid_BC: Bools, kind: Relevance) -> Doubles:
    """[B, C] what each candidate is worth, 1 for the best of its request down to 0.

    Scores of two users are on different scales: a ranker that is trained by a softmax over the
    candidates of a request may add any number to all of them, and an average of rankers has a
    scale of its own. ``rank`` needs no scale: it is 1 / log2(place + 1), the discount of NDCG
    (Jarvelin and Kekalainen, 2002), so that a strength means the same for all users and rankers.
    ``probability`` is exp(score - best score), the top-one probability (Luce, 1959; ListNet, Cao
    et al., 2007) over that of the best one; where a ranker is unsure of a user's candidates,
    another one costs little. It takes scores for logits. On the validation weeks of
    complete_journey ``rank`` costs less NDCG for as much diversity, novelty and serendipity
    (``python -m benchmarks.policy``).

    Args:
        scores_BC: falling along a row.
        valid_BC: False on padding.
        kind: which of the two.
    """
    if kind is Relevance.rank:
        discounts = 1.0 / np.log2(np.arange(2, scores_BC.shape[1] + 2))
        return np.where(valid_BC, discounts, 0.0)
    best = np.where(valid_BC, scores_BC, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    away = np.where(valid_BC, scores_BC, 0.0) - np.where(np.isfinite(best), best, 0.0)
    return np.where(valid_BC, np.exp(np.minimum(away, 0.0)), 0.0)


def choose(
    quality_BC: Doubles,
    valid_BC: Bools,
    k: int,
    *,
    diversity: float = 0.0,
    alike: Alike | None = None,
    caps: Sequence[Cap] = (),
    minima: Sequence[Minimum] = (),
) -> Ints:
    """[B, K] places of the chosen candidates, best first; -1 where no other may be shown.

    Maximal marginal relevance (Carbonell and Goldstein, 1998) fills place after place with the
    candidate of the largest (1 - diversity) quality - diversity max similarity to those chosen;
    of equals, the first. Caps always hold. A minimum that the list lacks is reached by exchanges,
    each the one that loses least: with one cap and one minimum the list is the best there is
    without diversity (Gabow and Tarjan, 1984: the caps are a matroid, in which such exchanges lead
    from one best list to the next); with several, a good one.

    Args:
        quality_BC: from 0 to 1.
        valid_BC: False where there is no candidate.
        k: places.
        diversity: strength, 0 to 1.
        alike: similarities; needed where ``diversity`` is above zero.
        caps: most items of a group.
        minima: fewest items of a group.
    """
    if not quality_BC.size:
        return np.full((len(quality_BC), k), -1, np.int64)
    chooser = _Chooser(quality_BC, valid_BC, k, diversity, alike, caps)
    chooser.fill()
    for minimum in minima:
        chooser.reach(minimum, minima)
    return chooser.ordered()


class _Chooser:
    """The lists in the making."""

    def __init__(
        self,
        quality_BC: Doubles,
        valid_BC: Bools,
        k: int,
        diversity: float,
        alike: Alike | None,
        caps: Sequence[Cap],
    ) -> None:
        num_users = len(quality_BC)
        self._users = np.arange(num_users)
        self._relevant_BC = (1.0 - diversity) * quality_BC
        self._diversity, self._alike, self._caps = diversity, alike, caps
        self._free_BC = valid_BC.copy()
        self._nearest_BC = np.zeros(quality_BC.shape)
        self._used = [np.zeros(quality_BC.shape, np.int64) for _ in caps]
        """Of each cap, [B, C] how many chosen items have the candidate's group."""
        self._picks_BK = np.full((num_users, k), -1, np.int64)
        self._worth_BK = np.full((num_users, k), -np.inf)

    def _values(self) -> Doubles:
        """[B, C] what each candidate would add to its list."""
        return self._relevant_BC - self._diversity * self._nearest_BC

    def fill(self) -> None:
        """Take the best candidate that the caps allow, place after place."""
        for place in range(min(self._picks_BK.shape[1], self._free_BC.shape[1])):
            allowed = self._free_BC.copy()
            for cap, used in zip(self._caps, self._used, strict=True):
                allowed &= used < cap.most
            value = np.where(allowed, self._values(), -np.inf)
            picks = value.argmax(axis=1)
            worth = value[self._users, picks]
            users = np.flatnonzero(np.isfinite(worth))
            if not len(users):
                return
            self._put(users, np.full(len(users), place), picks[users], worth[users])

    def _put(self, users: Ints, places: Ints, picks: Ints, worth: Doubles) -> None:
        self._picks_BK[users, places] = picks
        self._worth_BK[users, places] = worth
        self._free_BC[users, picks] = False
        for cap, used in zip(self._caps, self._used, strict=True):
            used[users] += _same_group(cap.group_BC[users], picks)
        if self._diversity > 0 and self._alike is not None:
            every = np.maximum(self._picks_BK[self._users, 0], 0)
            every[users] = picks
            np.maximum(self._nearest_BC, self._alike(every), out=self._nearest_BC)

    def reach(self, minimum: Minimum, minima: Sequence[Minimum]) -> None:
        """Exchange items until every list has the minimum, or no exchange leads there."""
        lacking = self._users
        for _ in range(min(minimum.least, self._picks_BK.shape[1])):
            have = self._members(minimum)[lacking].sum(axis=1)
            lacking = lacking[have < minimum.least]
            if not len(lacking):
                return
            loss = self._losses(lacking, minimum, minima)
            best = loss.reshape(len(lacking), -1).argmin(axis=1)
            places, picks = np.divmod(best, self._free_BC.shape[1])
            possible = np.isfinite(loss[np.arange(len(lacking)), places, picks])
            lacking = lacking[possible]
            self._exchange(lacking, places[possible], picks[possible])

    def _members(self, minimum: Minimum) -> Bools:
        """[B, K] whether a place holds an item of the group."""
        found = np.take_along_axis(minimum.member_BC, np.maximum(self._picks_BK, 0), axis=1)
        return found & (self._picks_BK >= 0)

    def _losses(self, users: Ints, minimum: Minimum, minima: Sequence[Minimum]) -> Doubles:
        """[U, K, C] what a list loses by one item for another; inf where it may not be done."""
        goes = ~self._members(minimum)[users] & (self._picks_BK[users] >= 0)
        comes = minimum.member_BC[users] & self._free_BC[users]
        allowed = goes[:, :, None] & comes[:, None, :]
        for other in minima:
            mine = self._members(other)[users]
            needed = mine & (mine.sum(axis=1, keepdims=True) <= other.least)
            allowed &= ~needed[:, :, None] | other.member_BC[users][:, None, :]
        picks = np.maximum(self._picks_BK[users], 0)
        for cap, used in zip(self._caps, self._used, strict=True):
            groups = cap.group_BC[users]
            left = np.take_along_axis(groups, picks, axis=1)
            room = (used[users] < cap.most)[:, None, :]
            allowed &= room | (left[:, :, None] == groups[:, None, :])
        value = self._values()[users]
        with np.errstate(invalid="ignore"):
            loss = self._worth_BK[users][:, :, None] - value[:, None, :]
        return np.where(allowed, loss, np.inf)

    def _exchange(self, users: Ints, places: Ints, picks: Ints) -> None:
        gone = self._picks_BK[users, places]
        self._free_BC[users, gone] = True
        for cap, used in zip(self._caps, self._used, strict=True):
            used[users] -= _same_group(cap.group_BC[users], gone)
        self._put(users, places, picks, self._values()[users, picks])

    def ordered(self) -> Ints:
        """The lists by what each item was worth when it came, best first."""
        place = np.where(self._picks_BK >= 0, self._picks_BK, self._free_BC.shape[1])
        order = np.lexsort((place, -self._worth_BK), axis=1)
        return np.asarray(np.take_along_axis(self._picks_BK, order, axis=1))


def _same_group(group_UC: npt.NDArray[np.integer], picks: Ints) -> Ints:
    """[U, C] 1 where a candidate is in the same group as the pick, else 0."""
    mine = np.take_along_axis(group_UC, picks[:, None], axis=1)
    return np.asarray((group_UC == mine) & (group_UC > 0), dtype=np.int64)
