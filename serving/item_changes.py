"""Putting changes of items into what requests read.

Prices, availability and texts change at once. An item that the release does not know gets the
vector that the item tower gives to it under the unknown id, and is found from then on; until the
scorers are made again, it is ranked as an item of which only the sources' word is known.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.contract.columns import column_of
from feature_repo.contract.dataset import Clock, IdType
from feature_repo.contract.online import arrow_type
from feature_repo.contract.schema import Entity
from feature_repo.contract.vocabulary import Vocabulary, hash_strings
from ranking.policy import Policy
from retrieval.index.ids import vocabulary_in_order
from retrieval.index.live import Fresh
from serving.asked import rows_of
from serving.catalogue import TEXTS
from serving.experiments.treatment import Settings
from serving.ids import Id
from serving.item_log import ItemChange, Values
from serving.item_view import ItemView
from serving.release import Release

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]

AVAILABLE = "available"
NUMBERS = ("price", AVAILABLE)


class ChangedItems:
    """What was said of a release's items, all together."""

    def __init__(self, release: Release) -> None:
        self._release = release
        self._known = release.retriever.items
        self._beside = _Beside(release.items, self._known)
        self._gone: set[Id] = set()
        self.values: dict[Id, Values] = {}
        """Item -> the values that it has now in place of the release's."""

    def apply(self, view: ItemView, changes: Sequence[ItemChange]) -> ItemView:
        """The items after some more changes, oldest first."""
        taken = [change.item_id for change in changes if self._take(change)]
        ids = list(dict.fromkeys(taken))
        rows = rows_of(view.vocabulary, ids)
        new = [item_id for item_id, row in zip(ids, rows.tolist(), strict=True) if row == 0]
        vocabulary = grown(view.vocabulary, new)
        rows = rows_of(vocabulary, ids)
        for item_id, row in zip(ids, rows.tolist(), strict=True):
            view.catalogue.put(row, self.values[item_id])
        return replace(
            view,
            vocabulary=vocabulary,
            policy=padded(view.policy, vocabulary.num_rows),
            policies=all_padded(view.policies, vocabulary.num_rows),
            fresh=self._fresh(view.fresh, ids, rows),
            num_changes=view.num_changes + len(changes),
        )

    def _take(self, change: ItemChange) -> bool:
        """Keep what was said; whether it says anything new of an item that there is."""
        item_id, about = change.item_id, self._release.about
        indexed = bool(rows_of(self._known, [item_id])[0] > 0)
        known = indexed or item_id in self._beside
        if change.values is None:
            if known or item_id in self.values:
                self._gone.add(item_id)
                self.values[item_id] = {**self.values.get(item_id, {}), AVAILABLE: False}
            return item_id in self.values
        if known and about.clock is Clock.WALL and change.at < about.cutoff:
            return False  # the release was made of later data
        back = {AVAILABLE: True} if item_id in self._gone else {}
        self._gone.discard(item_id)
        before = self.values.get(item_id)
        if before is None:
            before = {} if indexed else self._beside.values(item_id)
        self.values[item_id] = {**before, **back, **change.values}
        return True

    def _fresh(self, fresh: Fresh, ids: Sequence[Id], rows: Ints) -> Fresh:
        """With the vectors of those items that the release does not know."""
        if self._release.retriever.item_vectors is None:
            return fresh
        places = np.flatnonzero(rows >= self._known.num_rows)
        if not len(places):
            return fresh
        some = [ids[place] for place in places.tolist()]
        now_s = np.full(len(some), int(self._release.about.now().timestamp()), np.int64)
        try:
            vectors = self._release.retriever.new_item_vectors(self._tower_rows(some), now_s)
        except Exception:
            log.exception("%d new items have no vectors, and are only found by name.", len(some))
            return fresh
        return fresh.without(rows[places]).plus(rows[places], vectors)

    def _tower_rows(self, ids: Sequence[Id]) -> pa.Table:
        """Items as the item tower reads them; what was not said is unknown."""
        features = self._release.retriever.encoder.schema.of(Entity.ITEM)
        columns = {
            feature.name: pa.array(
                [self.values[item_id].get(feature.name) for item_id in ids], arrow_type(feature)
            )
            for feature in features
        }
        return pa.table({"item_id": pa.array(ids, self._known.ids.type), **columns})

    def items(self, vocabulary: Vocabulary, values: Mapping[Id, Values]) -> pa.Table:
        """The release's item rows with some values in place of theirs, then those of new items."""
        items = self._release.items
        ids = column_of(items, "item_id")
        changed = pa.array(list(values), ids.type)
        place = pc.index_in(ids, changed)  # of each item among the changed ones; null for most
        items = _with_values(items, place, list(values.values()))
        count = len(self._known)
        since = vocabulary.ids.slice(count, len(vocabulary) - count).to_pylist()
        new = [item_id for item_id in since if item_id not in self._beside]
        rows = [{**values[item_id], "item_id": item_id} for item_id in new]
        names = items.column_names
        times = [self._release.about.now()] * len(rows)
        columns = {
            name: pa.array([row.get(name) for row in rows], items.schema.field(name).type)
            for name in names
            if name != "event_timestamp"
        }
        columns["event_timestamp"] = pa.array(times, items.schema.field("event_timestamp").type)
        added = pa.table({name: columns[name] for name in names}, items.schema)
        return pa.concat_tables([items, added])


class _Beside:
    """Items that a release describes and its retriever does not know, such as unsold ones."""

    def __init__(self, items: pa.Table, known: Vocabulary) -> None:
        ids = column_of(items, "item_id")
        self._places = np.flatnonzero(known.rows(ids) == 0)
        self._items = items
        self._ids = vocabulary_in_order(ids.take(pa.array(self._places)))

    def __contains__(self, item_id: Id) -> bool:
        return bool(rows_of(self._ids, [item_id])[0] > 0)

    def values(self, item_id: Id) -> Values:
        """What the release says of one of them; nothing of others."""
        row = int(rows_of(self._ids, [item_id])[0])
        if row == 0:
            return {}
        names = [name for name in (*TEXTS, *NUMBERS) if name in self._items.column_names]
        found = self._items.select(names).slice(int(self._places[row - 1]), 1).to_pylist()[0]
        return {name: value for name, value in found.items() if value is not None}


def _with_values(items: pa.Table, place: pa.Array, values: Sequence[Values]) -> pa.Table:
    """Item rows with changed values.

    Args:
        items: [I] rows.
        place: [I] where an item's changes stand among ``values``; null where it has none.
        values: of the changed items.
    """
    for index, field in enumerate(items.schema):
        said = pa.array([field.name in own for own in values], pa.bool_())
        if not pc.any(said).as_py():
            continue
        new = pa.array([own.get(field.name) for own in values], field.type).take(place)
        mask = said.take(place).fill_null(False)
        column = pc.if_else(mask, new, column_of(items, field.name))
        items = items.set_column(index, field, column)
    return items


def grown(vocabulary: Vocabulary, new: Sequence[Id]) -> Vocabulary:
    """A vocabulary with more ids after its last; it is not sorted anew."""
    if not new:
        return vocabulary
    ids = pa.array(new, vocabulary.ids.type)
    text = vocabulary.id_type is IdType.STRING
    keys = hash_strings(ids) if text else np.asarray(ids).view(np.uint64)
    rows = np.arange(len(vocabulary) + 1, len(vocabulary) + len(new) + 1, dtype=np.int32)
    order = np.argsort(keys, kind="stable")
    place = np.searchsorted(vocabulary.keys, keys[order])
    return Vocabulary(
        vocabulary.id_type,
        np.insert(vocabulary.keys, place, keys[order]),
        np.insert(vocabulary.key_rows, place, rows[order]),
        pa.concat_arrays([vocabulary.ids, ids]),
    )


def all_padded(policies: Mapping[Settings, Policy], num_rows: int) -> dict[Settings, Policy]:
    """See ``padded``."""
    return {settings: padded(policy, num_rows) for settings, policy in policies.items()}


def padded(policy: Policy, num_rows: int) -> Policy:
    """A policy for more rows, about which its rules say nothing."""
    items = policy.items

    def longer(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        more = num_rows - len(array)
        if more <= 0 or not len(array):
            return array
        return np.concatenate([array, np.zeros((more, *array.shape[1:]), array.dtype)])

    if num_rows <= len(items.boost_R):
        return policy
    return replace(
        policy,
        items=replace(
            items,
            attributes_RA=longer(items.attributes_RA),
            boost_R=longer(items.boost_R),
            information_R=longer(items.information_R),
            rules=tuple(replace(rule, group_R=longer(rule.group_R)) for rule in items.rules),
            vectors_RD=None if items.vectors_RD is None else longer(items.vectors_RD),
        ),
    )
