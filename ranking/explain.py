"""Why an item stands where it does, in words: the features that raised it most.

N candidates of one request, K of them explained, D inputs of the projection, F numeric columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from feature_repo.contract.candidates import Candidates
from feature_repo.contract.columns import AnyRows
from feature_repo.contract.errors import BadInput
from feature_repo.contract.schema import Encoding, Entity
from feature_repo.contract.vocabulary import Vocabulary
from ranking.attribution import Explained, Reading
from ranking.features import Requests, numeric_matrix
from ranking.inputs import Side
from ranking.network import PairInputs
from ranking.numeric import Columns
from ranking.phrases import TEXTS, Facts, phrase
from ranking.reason import Reason
from ranking.scorer import Member, Scorer

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

MOST_REASONS = 3
LEAST_SHARE = 0.1
"""A reason counts if its effect is at least this share of the greatest one's,"""
LEAST_EFFECT = 1e-4
"""and at least this large."""


def reasons(effects: Mapping[str, float], facts: Facts) -> list[Reason]:
    """The greatest movers of one candidate, in words; features with the same words are one.

    Args:
        effects: feature -> what it added to the logit.
        facts: of the candidate.
    """
    said: dict[str, dict[str, float]] = {}
    for name, effect in effects.items():
        said.setdefault(phrase(name, facts), {})[name] = float(effect)
    totals = {text: sum(parts.values()) for text, parts in said.items()}
    best = sorted(totals, key=lambda text: -totals[text])[:MOST_REASONS]
    least = max(LEAST_SHARE * max(totals.values(), default=0.0), LEAST_EFFECT)
    return [
        Reason(text, max(said[text], key=lambda name: said[text][name]), round(totals[text], 4))
        for text in best
        if totals[text] >= least
    ]


class Explainer:
    """Explains the scores of one scorer."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._inputs = scorer.inputs

    def reasons(
        self,
        user_rows: AnyRows,
        candidates: Candidates,
        item_vocabulary: Vocabulary,
        now_s: Ints,
        chosen: Ints,
        together: Sequence[Mapping[str, str]] = (),
    ) -> list[list[Reason]]:
        """The reasons of each of ``chosen``, the greatest first.

        Args:
            user_rows: the user's row, with the ranker's features.
            candidates: of this one request.
            item_vocabulary: the one that they are named in.
            now_s: [1] epoch seconds.
            chosen: [K] places among the candidates.
            together: K times source -> title of the item of the history that led to the candidate.

        Raises:
            BadInput: the candidates are of more than one request, or a feature is missing.
        """
        if len(candidates) != 1:
            raise BadInput(f"One request is explained at a time; got {len(candidates)}.")
        requests = self.requests(user_rows, candidates, item_vocabulary, now_s)
        values_NF = numeric_matrix(requests)
        total = self.explained(user_rows, requests, values_NF).effects(chosen).total
        facts = self.facts(requests, values_NF, chosen, together or [{}] * len(chosen))
        return [
            reasons({name: effects[place] for name, effects in total.items()}, known)
            for place, known in enumerate(facts)
        ]

    def requests(
        self, user_rows: AnyRows, candidates: Candidates, item_vocabulary: Vocabulary, now_s: Ints
    ) -> Requests:
        """The request with everything that its columns are made of; see ``reasons``."""
        side = self._scorer.prepare(item_vocabulary).side
        schema, days = self._inputs.encoder.schema, self._inputs.half_life_days
        return Requests.of(user_rows, candidates, now_s, side, schema, days)

    def explained(self, user_rows: AnyRows, requests: Requests, values_NF: Floats) -> Explained:
        """One request as the ranker reads it; ``values_NF`` is its numeric matrix."""
        inputs = self._inputs.encode_matrix(user_rows, requests, values_NF)
        items = self._scorer.prepare(requests.items.vocabulary).items.take(inputs.item_of)
        every = np.arange(len(values_NF))
        pairs = self._inputs.pair_inputs(inputs.users, items, inputs.user_of, every, inputs.columns)
        members = self._scorer.members
        readings = tuple(self._reading(member, inputs.users, items, pairs) for member in members)
        same = self._same(inputs.columns, items.columns)
        return Explained(readings, self._inputs.crosses, same, self._owners(), pairs.wide)

    def _reading(self, member: Member, users: Side, items: Side, pairs: PairInputs) -> Reading:
        """The request as one member reads it; the user's part of the projection is apart."""
        network, inputs_of = member.network, self._scorer.inputs_of
        with torch.no_grad():
            user_H = network.users(inputs_of(member, users, Entity.USER))
            own = network.item_inputs(inputs_of(member, items, Entity.ITEM))
            inputs_ND = torch.cat([own, network.pair_inputs(pairs)], dim=1)
        return Reading(network, user_H, inputs_ND)

    def _owners(self) -> tuple[str, ...]:
        """[D] the feature of each column of a reading's inputs."""
        keys = self._inputs.keys(Entity.ITEM, self._scorer.config.without)
        tables = self._scorer.members[0].tables
        pooled = [key for key in keys for _ in range(tables.dim(key))]
        numbers = [
            name
            for entity in (Entity.ITEM, Entity.PAIR)
            for name in self._number_owners(self._inputs.numeric[entity].names)
        ]
        return (*pooled, *numbers)

    def _number_owners(self, names: list[str]) -> list[str]:
        """The vectors of all columns, then their normal scores, as in ``Numbers``."""
        return [name for name in names for _ in range(self._scorer.config.bucket_dim)] + names

    def _same(self, pairs: Columns, items: Columns) -> frozenset[str]:
        """Features that all candidates share: the user's, and those of one bucket."""
        users = self._inputs.encoder.schema.encoded(
            Entity.USER, Encoding.CATEGORICAL, Encoding.NUMERIC
        )
        found = {feature.name for feature in users}
        for entity, columns in ((Entity.PAIR, pairs), (Entity.ITEM, items)):
            one = (columns.codes == columns.codes[:1]).all(axis=0).tolist()
            names = self._inputs.numeric[entity].names
            found |= {name for name, alike in zip(names, one, strict=True) if alike}
        return frozenset(found)

    def facts(
        self,
        requests: Requests,
        values_NF: Floats,
        chosen: Ints,
        together: Sequence[Mapping[str, str]],
    ) -> list[Facts]:
        """What is known of each of ``chosen``."""
        numeric = self._inputs.numeric
        columns = dict(zip(numeric[Entity.PAIR].names, values_NF[chosen].T, strict=True))
        columns |= {name: requests.item(name)[chosen] for name in numeric[Entity.ITEM].names}
        favourites = _favourites(requests, chosen)
        texts = self._texts(requests.item_of[chosen])
        return [
            Facts(
                {name: float(values[place]) for name, values in columns.items()},
                texts[place],
                favourites[place],
                together[place],
            )
            for place in range(len(chosen))
        ]

    def _texts(self, place_K: Ints) -> list[dict[str, str]]:
        """What the item rows say; ``place_K`` are rows of the item side, 0 where unknown."""
        items = self._scorer.rows
        schema = self._inputs.encoder.schema
        coded = [feature.name for feature in schema.encoded(Entity.ITEM, Encoding.CATEGORICAL)]
        names = [name for name in dict.fromkeys([*TEXTS, *coded]) if name in items.column_names]
        rows = items.select(names).take(pa.array(place_K - 1, mask=place_K == 0)).to_pylist()
        return [
            {name: str(value) for name, value in row.items() if value is not None}
            for row in rows or [{}] * len(place_K)
        ]


def _favourites(requests: Requests, chosen: Ints) -> list[frozenset[str]]:
    """Groups in which each of ``chosen`` belongs to what the user buys most."""
    history = requests.histories
    weights = history.weight_at(requests.now_s, requests.half_life_days)
    item_row = requests.candidates.item_row[chosen]
    found: dict[str, Ints] = {}
    for group, codes in requests.items.catalogue.codes.items():
        totals = np.bincount(codes[history.item_row], weights, minlength=2)
        totals[0] = 0.0
        found[group] = (codes[item_row] == totals.argmax()) & (totals.max() > 0)
    return [
        frozenset(group for group, favourite in found.items() if favourite[place])
        for place in range(len(chosen))
    ]
