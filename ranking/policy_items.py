"""What the list policy knows of items, by row of the vocabulary that candidates are named in.

R rows; row 0 is the unknown item, which no rule is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.contract.columns import column_of
from feature_repo.contract.encoding import query_times_s
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.state import DAY_S
from feature_repo.contract.vocabulary import Vocabulary
from ranking.policy_config import PREFIX, ItemGroup, PolicyConfig, Similarity
from ranking.rerank import Alike

Bools = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int32]
Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rule:
    """A limit on how many items of a group, or of each of many groups, a list has."""

    group_R: Codes
    """The item's group; 0 is none."""
    most: int | None = None
    least: int = 0
    share: float = 0.0
    """Of the list's places, as a minimum."""

    def fewest(self, k: int) -> int:
        """The minimum in a list of ``k`` places."""
        # 0.1 * 30 is a little above 3, and must not become 4
        return max(self.least, int(np.ceil(round(self.share * k, 9))))


@dataclass(frozen=True)
class PolicyItems:
    """Items as the rules of one policy see them."""

    attributes_RA: Codes
    """Codes of the attributes that are compared; 0 is unknown and equals nothing."""
    boost_R: Floats
    """Added to scores."""
    information_R: Floats
    """Self-information of each item's popularity, over the most that there can be: 0 to 1."""
    rules: tuple[Rule, ...]
    vectors_RD: Floats | None
    """For similarity; None where attributes are compared."""

    @staticmethod
    def of(
        config: PolicyConfig,
        items: pa.Table,
        vocabulary: Vocabulary,
        num_users: int,
        vectors_RD: Floats | None = None,
    ) -> PolicyItems:
        """Read what the rules need.

        Args:
            config: the policy.
            items: ``item_id``, ``event_timestamp`` and the columns that the rules name.
            vocabulary: of the candidates.
            num_users: of the shop, for self-information.
            vectors_RD: the release's item vectors, where it has any.

        Raises:
            ConfigError: a rule names a column or an item that there is none of, or the release
                has no item vectors and similarity is by them.
        """
        table = _Table(items, vocabulary)
        names = [name for name in config.attributes if name in items.column_names]
        codes = [table.codes(name) for name in names]
        boost = np.zeros(vocabulary.num_rows, dtype=np.float32)
        for promotion in config.promotions:
            boost[table.members(promotion)] += np.float32(promotion.boost)
        by_vectors = config.similarity is Similarity.vectors
        if by_vectors and vectors_RD is None:
            raise ConfigError(
                f"{PREFIX}similarity=vectors needs item vectors, but the release has none; use "
                "similarity=attributes."
            )
        return PolicyItems(
            np.stack(codes, axis=1) if codes else np.zeros((vocabulary.num_rows, 0), np.int32),
            boost,
            table.information(config, num_users),
            _rules(config, table),
            vectors_RD if by_vectors else None,
        )

    def alike(self, rows_BC: Ints) -> Alike:
        """How alike the candidates of ``rows_BC`` are; see ``ranking.rerank.Alike``."""
        users = np.arange(len(rows_BC))
        if self.vectors_RD is not None:
            unit_BCD = _unit(self.vectors_RD[rows_BC])

            def cosine(picks: Ints) -> Doubles:
                # not a matrix product, which would add in another order in another batch
                cosines = (unit_BCD * unit_BCD[users, picks][:, None]).sum(axis=2)
                return np.asarray(np.clip(cosines, 0.0, 1.0), dtype=np.float64)

            return cosine
        codes_BCA = self.attributes_RA[rows_BC]
        num_attributes = max(codes_BCA.shape[2], 1)

        def share_equal(picks: Ints) -> Doubles:
            equal = (codes_BCA == codes_BCA[users, picks][:, None]) & (codes_BCA > 0)
            return np.asarray(equal.sum(axis=2) / num_attributes)

        return share_equal

    def surprise(self, rows_BC: Ints, history: Sequence[Ints]) -> Doubles:
        """[B, C] the share of attributes in which an item is like nothing in the user's history.

        The distance from the profile by content, one measure of unexpectedness (Kaminskas and
        Bridge, 2016): 1 is another department, category and brand than any of before. An unknown
        attribute says nothing, and counts as known from before.
        """
        surprise = np.zeros(rows_BC.shape)
        owner = np.repeat(np.arange(len(history)), [len(rows) for rows in history])
        past = np.concatenate([np.zeros(0, np.int64), *history])
        for codes_R in self.attributes_RA.T.astype(np.int64):
            span = int(codes_R.max(initial=0)) + 1
            known = np.unique(owner * span + codes_R[past])
            mine = np.arange(len(rows_BC))[:, None] * span + codes_R[rows_BC]
            surprise += ~np.isin(mine, known) & (codes_R[rows_BC] > 0)
        return np.asarray(surprise / max(self.attributes_RA.shape[1], 1))


class _Table:
    """Columns of the item rows, by row of the vocabulary."""

    def __init__(self, items: pa.Table, vocabulary: Vocabulary) -> None:
        self._items, self._vocabulary = items, vocabulary
        self._rows = vocabulary.rows(column_of(items, "item_id"))

    def _column(self, name: str, what: str) -> pa.Array:
        if name not in self._items.column_names:
            raise ConfigError(
                f"{PREFIX}{what} names the item column {name!r}, but the release's items have "
                f"{self._items.column_names}."
            )
        return column_of(self._items, name)

    def _by_row(self, values: npt.NDArray[Any], missing: Any) -> npt.NDArray[Any]:
        found = np.full(self._vocabulary.num_rows, missing, dtype=values.dtype)
        found[self._rows] = values
        found[0] = missing
        return found

    def codes(self, name: str) -> Codes:
        """[R] codes of the values from 1; 0 where unknown."""
        coded = self._column(name, "max_per").cast(pa.string()).dictionary_encode()
        return self._by_row(np.asarray(coded.indices.fill_null(-1)).astype(np.int32) + 1, 0)

    def members(self, group: ItemGroup) -> Bools:
        """[R] whether an item is of the group."""
        if group.column is None:
            return self._named(group.item_ids)
        column = self._column(group.column, "promotions or exposure")
        found = np.ones(len(self._items), dtype=np.bool_)
        if group.values:
            wanted = pa.array(group.values, pa.string())
            found &= np.asarray(pc.is_in(column.cast(pa.string()), wanted))
            return self._by_row(found, False)
        values = _numbers(column, group.column)
        with np.errstate(invalid="ignore"):
            if group.at_least is not None:
                found &= values >= group.at_least
            if group.at_most is not None:
                found &= values <= group.at_most
            if group.within_days is not None:
                found &= values >= query_times_s(self._items) - group.within_days * DAY_S
        if (group.at_least, group.at_most, group.within_days) == (None, None, None):
            found &= values != 0
        return self._by_row(found & ~np.isnan(values), False)

    def _named(self, item_ids: Sequence[Any]) -> Bools:
        rows = self._vocabulary.rows(pa.array(item_ids, self._vocabulary.ids.type))
        if not rows.all():
            unknown = item_ids[int(np.flatnonzero(rows == 0)[0])]
            raise ConfigError(f"A policy names item {unknown!r}, which the release does not know.")
        found = np.zeros(self._vocabulary.num_rows, dtype=np.bool_)
        found[rows] = True
        return found

    def information(self, config: PolicyConfig, num_users: int) -> Floats:
        """[R] -log2(buyers / users) over log2(users); an item without a buyer counts as one."""
        if not config.novelty:
            return np.zeros(0, dtype=np.float32)
        counts = _numbers(self._column(config.popularity, "novelty"), config.popularity)
        buyers = np.maximum(np.nan_to_num(self._by_row(counts, np.nan)), 1.0)
        information = 1.0 - np.log2(buyers) / np.log2(max(num_users, 2))
        return np.asarray(np.clip(information, 0.0, 1.0), dtype=np.float32)


def _unit(vectors: Floats) -> Floats:
    norms = np.sqrt((vectors * vectors).sum(axis=-1, keepdims=True))
    return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)


def _numbers(column: pa.Array, name: str) -> Doubles:
    try:
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int8())
        return np.array(column.cast(pa.float64()).fill_null(np.nan))
    except pa.ArrowException as error:
        raise ConfigError(
            f"A policy reads {name!r} as numbers, but it is {column.type}."
        ) from error


def _rules(config: PolicyConfig, table: _Table) -> tuple[Rule, ...]:
    found = [Rule(table.codes(column), most) for column, most in config.max_per.items()]
    for promotion in config.promotions:
        if promotion.slots or promotion.most is not None:
            group = table.members(promotion).astype(np.int32)
            found.append(Rule(group, promotion.most, promotion.slots))
    for exposure in config.exposure:
        found.append(Rule(table.members(exposure).astype(np.int32), share=exposure.share))
    return tuple(found)
