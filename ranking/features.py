"""The numbers that a ranker reads of each candidate, as one matrix with named columns.

B requests, N candidates of all of them, S sources, F columns. Columns are the pair features of
``feature_repo.contract.pairs``, what each source says, and what follows from both
(``ranking.derived``); nothing is declared twice: ``numeric_features`` lists them for given sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from feature_repo.contract.candidates import Candidates
from feature_repo.contract.columns import AnyRows, writable
from feature_repo.contract.encoding import numeric_values
from feature_repo.contract.pair_kernels import NAMES as PAIR_NAMES
from feature_repo.contract.pairs import PAIR_FEATURES, pair_values
from feature_repo.contract.schema import Encoding, Entity, Feature, Schema
from feature_repo.contract.state import Histories
from ranking.derived import NAMES as DERIVED
from ranking.derived import Visits, write_derived
from ranking.items import ItemSide
from ranking.policy import users_of

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

BUCKETS = 24
"""Rows of one column's table: missing, and ranges between quantiles."""
SAID = ("score", "rank")
"""What a source says of an item that it names."""


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
    def matrix(self) -> Floats:
        """[F, N] values of ``numeric_features(candidates.sources)``; NaN where missing."""
        candidates = self.candidates
        num_pairs, num_said = len(PAIR_NAMES), len(SAID) * len(candidates.sources)
        shape = num_pairs + num_said + len(DERIVED), len(candidates.item_row)
        found = np.empty(shape, np.float32)
        rows = self.user_of, writable(candidates.item_row, np.int64)
        days = self.half_life_days
        catalogue, now_s = self.items.catalogue, self.now_s
        pairs = pair_values(self.histories, *rows, catalogue, now_s, days, found[:num_pairs])
        said = found[num_pairs : num_pairs + num_said]
        said[::2], said[1::2] = candidates.score.T, candidates.rank.T
        visits = Visits(self._of_users("sessions_decayed"), self._of_users("last_event_s"))
        ranks = writable(candidates.rank, np.float32)
        derived = found[num_pairs + num_said :]
        write_derived(derived, pairs, ranks, rows, visits, self.items.numbers, days)
        return found

    def _of_users(self, name: str) -> Floats:
        """[B] a numeric feature of the users; NaN if the schema lacks it."""
        values = self.user_values.get(name)
        if values is None:
            return np.full(len(self.now_s), np.nan, np.float32)
        return writable(values, np.float32)

    def user(self, name: str) -> Floats:
        """[N] a numeric feature of each candidate's user; NaN if the schema lacks it."""
        return self._of_users(name)[self.user_of]

    def item(self, name: str) -> Floats:
        """[N] a numeric feature of each candidate's item; NaN if the schema lacks it."""
        values = self.items.values.get(name)
        if values is None:
            return np.full(len(self.item_of), np.nan, np.float32)
        return values[self.item_of]


def _feature(name: str, view: str) -> Feature:
    return Feature(name, Entity.PAIR, view, "float32", Encoding.NUMERIC, buckets=BUCKETS)


def numeric_features(sources: tuple[str, ...]) -> tuple[Feature, ...]:
    """The schema of the columns of ``numeric_matrix`` for candidates of ``sources``."""
    said = [_feature(f"{source}_{what}", "source") for source in sources for what in SAID]
    return (*PAIR_FEATURES, *said, *(_feature(name, "derived") for name in DERIVED))


def numeric_matrix(requests: Requests) -> Floats:
    """[N, F] values of ``numeric_features(requests.candidates.sources)``; NaN where missing."""
    return requests.matrix.T
