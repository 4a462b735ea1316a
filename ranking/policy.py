"""From scored candidates to lists: exclusions, filters, the shop's policy, the K that stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from feature_repo.contract.candidates import Candidates, user_keys
from feature_repo.contract.columns import AnyRows, list_column
from feature_repo.contract.errors import BadInput
from feature_repo.contract.vocabulary import Vocabulary
from ranking.policy_config import PolicyConfig, Relevance
from ranking.policy_items import PolicyItems
from ranking.rerank import Cap, Minimum, choose, relevance

Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

SEEN = "seen_item_id"
HISTORY = "history_item_id"
MAX_FILLERS = 10_000
"""Items that are weighed for the list of a user of whom nothing is known."""


class Filter(Protocol):
    """A rule that takes candidates out, such as "not available"."""

    def __call__(self, candidates: Candidates) -> Bools:
        """[N] whether each candidate may be shown."""


@dataclass(frozen=True)
class Lists:
    """The best K items of B users, best first."""

    item_row: Ints
    """[B, K]; 0 pads a list that is short."""
    score: Floats
    """[B, K]; NaN on padding."""
    source: Ints
    """[B, K] index into ``sources``; -1 on padding."""
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.item_row)

    def of(self, user: int) -> tuple[Ints, Floats, list[str]]:
        """Rows, scores and names of the main sources of one user's list, without padding."""
        kept = self.item_row[user] > 0
        names = [self.sources[index] for index in self.source[user][kept]]
        return self.item_row[user][kept], self.score[user][kept], names


@dataclass(frozen=True)
class Policy:
    """What a shop wants of its lists, and what that needs to know of items."""

    config: PolicyConfig
    items: PolicyItems

    def with_diversity(self, strength: float | None) -> Policy:
        """The policy with another strength of diversity; None leaves it as it is.

        Raises:
            ConfigError: it is not from 0 to 1.
        """
        if strength is None or strength == self.config.diversity:
            return self
        return replace(self, config=replace(self.config, diversity=strength))

    @property
    def reorders(self) -> bool:
        """Whether a list is more than the best scores after boosts."""
        dials = (self.config.diversity, self.config.novelty, self.config.serendipity)
        return any(dials) or bool(self.items.rules)

    def places(
        self, rows_BC: Ints, scores_BC: Doubles, k: int, history: Sequence[Ints] | None = None
    ) -> Ints:
        """[B, K] the places in ``rows_BC`` of the items that are shown; -1 pads.

        Args:
            rows_BC: item rows by falling score; 0 on padding.
            scores_BC: with boosts.
            k: places of a list.
            history: per user, the rows of what it bought, for serendipity.
        """
        caps, minima = self._rules(rows_BC, k)
        return choose(
            self._quality(rows_BC, scores_BC, history),
            rows_BC > 0,
            k,
            diversity=self.config.diversity,
            alike=self.items.alike(rows_BC) if self.config.diversity else None,
            caps=caps,
            minima=minima,
        )

    def fillers(self, shown: Ints, more: Ints, count: int) -> Ints:
        """Up to ``count`` indices into ``more``: items that fill a list up, best first.

        They are the first ones that the caps allow beside what is shown. A list that has nothing
        yet, of a user of whom nothing is known, is made by all of the policy but its boosts, which
        are in units of a ranker's score.

        Args:
            shown: item rows that the list has.
            more: other item rows, best first.
            count: places that are left.
        """
        if not self.reorders:
            return np.arange(min(count, len(more)))
        if not len(shown):
            rows = more[None, :MAX_FILLERS]
            falling = -np.arange(rows.shape[1], dtype=np.float64)[None]
            by_rank = replace(self, config=replace(self.config, relevance=Relevance.rank))
            places = by_rank.places(rows, falling, count, [np.zeros(0, np.int64)])[0]
            return np.asarray(places[places >= 0])
        rows = np.concatenate([shown, more])[None]
        caps = self._rules(rows, len(shown) + count)[0]
        falling = np.linspace(1.0, 0.0, rows.shape[1])[None]
        places = choose(falling, rows > 0, len(shown) + count, caps=caps)[0]
        return np.asarray(places[places >= len(shown)] - len(shown))

    def _rules(self, rows_BC: Ints, k: int) -> tuple[list[Cap], list[Minimum]]:
        rules = [(rule, rule.group_R[rows_BC]) for rule in self.items.rules]
        return (
            [Cap(group, rule.most) for rule, group in rules if rule.most is not None],
            [Minimum(group > 0, rule.fewest(k)) for rule, group in rules if rule.fewest(k)],
        )

    def _quality(
        self, rows_BC: Ints, scores_BC: Doubles, history: Sequence[Ints] | None
    ) -> Doubles:
        """[B, C] from 0 to 1: relevance, then the dials' share of novelty and of surprise."""
        quality = relevance(scores_BC, rows_BC > 0, self.config.relevance)
        novelty, serendipity = self.config.novelty, self.config.serendipity
        if novelty:
            quality = (1 - novelty) * quality + novelty * self.items.information_R[rows_BC]
        if serendipity:
            if history is None:
                raise BadInput("A policy with serendipity needs what the users bought before.")
            surprise = self.items.surprise(rows_BC, history)
            quality = (1 - serendipity) * quality + serendipity * surprise
        return quality


def users_of(candidates: Candidates) -> Ints:
    """[N] the user of each candidate, from 0."""
    return np.repeat(np.arange(len(candidates), dtype=np.int64), np.diff(candidates.offsets))


def main_source(candidates: Candidates) -> Ints:
    """[N] the source that places each candidate best; the first of equals."""
    places = np.where(np.isnan(candidates.rank), np.inf, candidates.rank)
    return np.asarray(places.argmin(axis=1), dtype=np.int64)


def rank_lists(
    candidates: Candidates,
    scores: Floats,
    k: int,
    *,
    excluded: Sequence[Ints] | None = None,
    filters: Sequence[Filter] = (),
    policy: Policy | None = None,
    history: Sequence[Ints] | None = None,
) -> Lists:
    """Keep what may be shown and take each user's best ``k``, the lower row first among equals.

    With a policy the items and their order are its choice; the scores stay the ranker's.

    Args:
        candidates: of B users.
        scores: [N] higher is better.
        k: places of a list.
        excluded: per user, item rows that must not be shown.
        filters: rules that every item shown must pass.
        policy: what a list must be beside relevant; None: nothing.
        history: per user, the rows of what it bought; a policy with serendipity needs it.

    Raises:
        BadInput: the scores are not one finite number a candidate, or ``k`` is below 1.
    """
    _require_scores(candidates, scores, k)
    users = users_of(candidates)
    keep = _kept(candidates, users, excluded, filters)
    boosted = scores if policy is None else scores + policy.items.boost_R[candidates.item_row]
    order = np.lexsort((candidates.item_row, -boosted, users))
    order = order[keep[order]]
    counts = np.bincount(users[order], minlength=len(candidates))
    first = np.cumsum(counts) - counts
    place = np.arange(len(order)) - np.repeat(first, counts)
    if policy is not None and policy.reorders and len(order):
        shape = (len(candidates), int(counts.max()))
        rows, worth = np.zeros(shape, np.int64), np.zeros(shape)
        rows[users[order], place] = candidates.item_row[order]
        worth[users[order], place] = boosted[order]
        order, place = _chosen(order, first, policy.places(rows, worth, k, history))
    order, place = order[place < k], place[place < k]
    return _filled(candidates, scores, order, (users[order], place), k)


def _chosen(order: Ints, first: Ints, picks_BK: Ints) -> tuple[Ints, Ints]:
    """The candidates that were chosen, and their places in the lists."""
    users, place = np.nonzero(picks_BK >= 0)
    return order[first[users] + picks_BK[users, place]], place


def _require_scores(candidates: Candidates, scores: Floats, k: int) -> None:
    if k < 1:
        raise BadInput(f"A list must have at least one place; got k={k}.")
    if scores.shape != candidates.item_row.shape:
        raise BadInput(
            f"There must be one score for each of {len(candidates.item_row)} candidates; "
            f"got {scores.shape}."
        )
    if not np.isfinite(scores).all():
        place = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise BadInput(f"The score of candidate {place} is {scores[place]}, not a finite number.")


def _kept(
    candidates: Candidates,
    users: Ints,
    excluded: Sequence[Ints] | None,
    filters: Sequence[Filter],
) -> Bools:
    keep = np.ones(len(users), dtype=np.bool_)
    for allowed in filters:
        keep &= allowed(candidates)
    if excluded is None:
        return keep
    if len(excluded) != len(candidates):
        raise BadInput(f"Exclusions are of {len(excluded)} users; expected {len(candidates)}.")
    most = max((int(rows.max(initial=0)) for rows in excluded), default=0)
    span = 1 + max(most, int(candidates.item_row.max(initial=0)))
    return keep & ~np.isin(users * span + candidates.item_row, user_keys(excluded, span))


def _filled(
    candidates: Candidates, scores: Floats, order: Ints, target: tuple[Ints, Ints], k: int
) -> Lists:
    shape = (len(candidates), k)
    rows, source = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
    best = np.full(shape, np.nan, np.float32)
    rows[target] = candidates.item_row[order]
    best[target] = scores[order]
    source[target] = main_source(candidates)[order]
    return Lists(rows, best, source, candidates.sources)


def seen_rows(user_rows: AnyRows, items: Vocabulary) -> list[Ints]:
    """Per user, the item rows that the user is known to have bought.

    Read from ``seen_item_id`` where the rows have it, else from the history, which may have
    forgotten the oldest items.
    """
    name = SEEN if SEEN in user_rows.column_names else HISTORY
    ids, offsets = list_column(user_rows, name)
    rows = items.rows(ids)
    parts = np.split(rows, offsets[1:-1]) if len(offsets) > 1 else []
    return [part[part > 0] for part in parts]
