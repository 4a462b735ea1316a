"""The numbers that a ranker reads of each candidate, as one matrix with named columns.

B requests, N candidates of all of them, S sources, F columns. Columns are the pair features of
``feature_repo.contract.pairs``, what each source says, and what follows from both; nothing is
declared twice: ``numeric_features`` lists them for given sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from feature_repo.contract.candidates import Candidates
from feature_repo.contract.columns import AnyRows
from feature_repo.contract.encoding import numeric_values
from feature_repo.contract.pairs import PAIR_FEATURES, pair_values
from feature_repo.contract.schema import Encoding, Entity, Feature, Schema
from feature_repo.contract.state import Histories
from ranking.items import ItemSide
from ranking.policy import users_of

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

BUCKETS = 24
"""Rows of one column's table: missing, and ranges between quantiles."""
GAPS_OF_ALL = 2.0
"""Of a user's own gaps, that the usual gap of an item's buyers counts as."""


@dataclass(frozen=True)
class Requests:
    """B requests with everything that their candidates' columns are made of."""

    candidates: Candidates
    histories: Histories
    now_s: Ints
    """[B] epoch seconds."""
    user_values: Mapping[str, Floats]
    """Numeric user feature -> [B]; NaN where missing."""
    items: ItemSide
    half_life_days: float

    @staticmethod
    def of(
        user_rows: AnyRows,
        candidates: Candidates,
        now_s: Ints,
        items: ItemSide,
        schema: Schema,
        half_life_days: float = 56.0,
    ) -> Requests:
        """Read the user rows of B requests; ``items`` knows the candidates' vocabulary."""
        values = {
            feature.name: numeric_values(user_rows, feature, now_s)
            for feature in schema.encoded(Entity.USER, Encoding.NUMERIC)
        }
        histories = Histories.from_table(user_rows, items.vocabulary)
        return Requests(candidates, histories, now_s, values, items, half_life_days)

    @cached_property
    def user_of(self) -> Ints:
        """[N] the request of each candidate."""
        return users_of(self.candidates)

    @cached_property
    def item_of(self) -> Ints:
        """[N] each candidate's row of the item side."""
        return self.items.place[self.candidates.item_row]

    @cached_property
    def pairs(self) -> dict[str, Floats]:
        """Pair feature -> [N]."""
        values = pair_values(
            self.histories,
            self.user_of,
            self.candidates.item_row,
            self.items.catalogue,
            self.now_s,
            self.half_life_days,
        )
        return {f.name: column for f, column in zip(PAIR_FEATURES, values, strict=True)}

    def user(self, name: str) -> Floats:
        """[N] a numeric feature of each candidate's user; NaN if the schema lacks it."""
        values = self.user_values.get(name)
        return self._nothing if values is None else values[self.user_of]

    def item(self, name: str) -> Floats:
        """[N] a numeric feature of each candidate's item; NaN if the schema lacks it."""
        values = self.items.values.get(name)
        return self._nothing if values is None else values[self.item_of]

    @property
    def _nothing(self) -> Floats:
        return np.full(len(self.candidates.item_row), np.nan, dtype=np.float32)

    def decayed(self, name: str) -> Floats:
        """[N] a decayed sum of the user, carried from the last event to now."""
        days = self.user("last_event_s")
        return _floats(self.user(name) * np.exp2(-days / self.half_life_days))


def _floats(values: npt.ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float32)


def _num_sources(requests: Requests) -> Floats:
    return _floats((~np.isnan(requests.candidates.rank)).sum(axis=1))


def _best_rank(requests: Requests) -> Floats:
    return _floats(np.fmin.reduce(requests.candidates.rank, axis=1, initial=np.nan))


def _mean_reciprocal_rank(requests: Requests) -> Floats:
    return _floats(np.nan_to_num(1.0 / (10.0 + requests.candidates.rank)).mean(axis=1))


def _own_share_of_visits(requests: Requests) -> Floats:
    """Decayed purchases of the item over decayed visits."""
    visits = np.maximum(requests.decayed("sessions_decayed"), 1e-3)
    return _floats(requests.pairs["own_weight"] / visits)


def _visits_since(requests: Requests) -> Floats:
    """Days since the item was last bought, in the user's usual days between visits."""
    a_day = requests.decayed("sessions_decayed") * np.log(2.0) / requests.half_life_days
    return _floats(requests.pairs["own_days_since"] * np.maximum(a_day, 1e-3))


def _days_before_visit(requests: Requests) -> Floats:
    """Days from the item's last purchase to the user's last visit: 0, it was bought then."""
    return _floats(requests.pairs["own_days_since"] - requests.user("last_event_s"))


def _gap_expected(requests: Requests) -> Floats:
    """Days between purchases: the user's usual gap, the less of them the nearer to the item's.

    A geometric mean in which the item's usual gap counts as ``GAPS_OF_ALL`` of the user's own.
    """
    own, usual = requests.pairs["own_gap_mean"], requests.item("gap_usual")
    num_own = np.where(np.isnan(own), 0.0, requests.pairs["own_count"] - 1.0)
    num_usual = np.where(np.isnan(usual), 0.0, GAPS_OF_ALL)
    logs = num_own * np.log(np.maximum(np.nan_to_num(own), 0.5)) + num_usual * np.log(
        np.maximum(np.nan_to_num(usual), 0.5)
    )
    return _floats(np.exp(logs / (num_own + num_usual)))


def _due(gap: Callable[[Requests], Floats]) -> Callable[[Requests], Floats]:
    """Log of the days since the last purchase over a gap: 0 is exactly due."""

    def due(requests: Requests) -> Floats:
        days = np.maximum(requests.pairs["own_days_since"], 0.25)
        return _floats(np.log(days / np.maximum(gap(requests), 0.5)))

    return due


def _lift(group: str) -> Callable[[Requests], Floats]:
    """Log of the user's share of purchases in the group over all users'."""

    def lift(requests: Requests) -> Floats:
        usual = requests.items.group_share[group][requests.candidates.item_row]
        return _floats(np.log((requests.pairs[f"{group}_share"] + 1e-4) / (usual + 1e-4)))

    return lift


def _share_of_group(group: str) -> Callable[[Requests], Floats]:
    """The item's share of its group's recent buyers."""

    def share(requests: Requests) -> Floats:
        return requests.items.share_of_group[group][requests.candidates.item_row]

    return share


def _expected(group: str) -> Callable[[Requests], Floats]:
    """Purchases of the item if the user chose within the group as everybody does."""

    def expected(requests: Requests) -> Floats:
        share = requests.items.share_of_group[group][requests.candidates.item_row]
        return _floats(requests.pairs[f"{group}_weight"] * share)

    return expected


def _first_share(requests: Requests) -> Floats:
    """Share of the item's recent buyers who had not bought it before."""
    buyers = np.maximum(requests.item("buyers_28d"), 1.0)
    return _floats(requests.item("first_buyers_28d") / buyers)


def _trend_7d(requests: Requests) -> Floats:
    """Log of the last week's buyers over a week's usual share of the last four's."""
    return _floats(
        np.log((1.0 + 4.0 * requests.item("buyers_7d")) / (1.0 + requests.item("buyers_28d")))
    )


def _price_change(requests: Requests) -> Floats:
    """Log of the recent price over the usual one."""
    return _floats(np.log(requests.item("price_28d") / requests.item("price_usual")))


_DERIVED: dict[str, Callable[[Requests], Floats]] = {
    "num_sources": _num_sources,
    "best_rank": _best_rank,
    "mean_reciprocal_rank": _mean_reciprocal_rank,
    "own_share_of_visits": _own_share_of_visits,
    "visits_since": _visits_since,
    "days_before_visit": _days_before_visit,
    "gap_expected": _gap_expected,
    "due_expected": _due(_gap_expected),
    "due_usual": _due(lambda requests: requests.item("gap_usual")),
    "due_last": _due(lambda requests: requests.pairs["own_gap_last"]),
    "department_lift": _lift("department"),
    "category_lift": _lift("category"),
    "subcategory_lift": _lift("subcategory"),
    "brand_lift": _lift("brand"),
    "share_of_category_buyers": _share_of_group("category"),
    "share_of_subcategory_buyers": _share_of_group("subcategory"),
    "share_of_brand_subcategory_buyers": _share_of_group("brand_subcategory"),
    "expected_in_subcategory": _expected("subcategory"),
    "expected_in_brand_subcategory": _expected("brand_subcategory"),
    "first_share": _first_share,
    "trend_7d": _trend_7d,
    "price_change": _price_change,
}


def _feature(name: str, view: str) -> Feature:
    return Feature(name, Entity.PAIR, view, "float32", Encoding.NUMERIC, buckets=BUCKETS)


def numeric_features(sources: tuple[str, ...]) -> tuple[Feature, ...]:
    """The schema of the columns of ``numeric_matrix`` for candidates of ``sources``."""
    said = [_feature(f"{source}_{what}", "source") for source in sources for what in SAID]
    return (*PAIR_FEATURES, *said, *(_feature(name, "derived") for name in _DERIVED))


SAID = ("score", "rank")
"""What a source says of an item that it names."""


def numeric_matrix(requests: Requests) -> Floats:
    """[N, F] values of ``numeric_features(requests.candidates.sources)``; NaN where missing."""
    candidates = requests.candidates
    said = [
        values[:, source]
        for source in range(len(candidates.sources))
        for values in (candidates.score, candidates.rank)
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        derived = [function(requests) for function in _DERIVED.values()]
    columns = [*requests.pairs.values(), *said, *derived]
    return np.stack(columns).astype(np.float32, copy=False).T
