"""The items of a release as they are now: what changed is read from a log, by every worker.

A change is seen at once where it was made, and by other workers when their thread next looks.
Scorers and the policy read attributes from tables that are made as a whole: after changes they are
made again beside the old ones, seldom enough to take a small share of a processor.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

import pyarrow as pa

from feature_repo.contract.errors import ShoprecError
from ranking.policy import Policy
from ranking.policy_config import PolicyConfig
from ranking.policy_items import PolicyItems
from ranking.scorer import Scorer
from serving.experiments.treatment import Settings
from serving.ids import Id
from serving.item_changes import ChangedItems, all_padded, padded
from serving.item_log import ItemChange, ItemLog, Values
from serving.item_view import ItemView, first_view
from serving.release import Release

log = logging.getLogger(__name__)

REST = 20.0
"""Scorers are made again after this many times the time that it took the last time."""


class LiveItems:
    """What requests read of items, and how it is changed; may be used by many threads."""

    def __init__(
        self, release: Release, policy: PolicyConfig | None = None, log: ItemLog | None = None
    ) -> None:
        """The items of a release after all changes of a log; None: changes are not kept."""
        self._release, self._log = release, log
        self._changed = ChangedItems(release)
        self.view = first_view(release, policy)
        """What requests read."""
        self._lock = threading.Lock()
        self._scored_changes = 0
        self._rested_at = float("-inf")
        self._refused: set[Settings] = set()
        self.catch_up()
        self.refresh()

    def put(self, items: Sequence[tuple[Id, Values]], at: datetime) -> None:
        """Change values of items, or add items.

        Args:
            items: ids of the shop's type, with the values that change.
            at: the wall clock's time.

        Raises:
            StorageFailed: the change could not be written, and was not made.
        """
        if self._log is not None:
            self._log.put(items, at)
            self.catch_up()
        else:
            self._apply([ItemChange(item_id, values, at) for item_id, values in items])

    def remove(self, item_ids: Sequence[Id], at: datetime) -> None:
        """Take items out of all lists until they are put again; see ``put``."""
        if self._log is not None:
            self._log.remove(item_ids, at)
            self.catch_up()
        else:
            self._apply([ItemChange(item_id, None, at) for item_id in item_ids])

    def catch_up(self) -> None:
        """Read what others wrote."""
        if self._log is not None and self._log.is_behind():
            with self._lock:
                self.view = self._changed.apply(self.view, self._log.read())

    def _apply(self, changes: Sequence[ItemChange]) -> None:
        with self._lock:
            self.view = self._changed.apply(self.view, changes)

    def refresh_if_due(self) -> None:
        """As ``refresh``, unless it was just done."""
        if time.monotonic() >= self._rested_at:
            self.refresh()

    def refresh(self) -> None:
        """Make scorers and policy again, if anything changed since."""
        if self._scored_changes == self.view.num_changes:
            return
        started = time.monotonic()
        with self._lock:
            view, values = self.view, dict(self._changed.values)
        table = self._changed.items(view.vocabulary, values)
        scorers = {name: self._scorer(name, view, table) for name in view.scorers}
        policy = self._policy(view, table, view.policy.config)
        policies = {
            settings: self._policy(view, table, own.config)
            for settings, own in view.policies.items()
        }
        with self._lock:
            num_rows = self.view.vocabulary.num_rows
            self.view = replace(
                self.view,
                scorers=scorers,
                scored=view.vocabulary,
                policy=padded(policy, num_rows),
                policies=all_padded(policies, num_rows),
            )
            self._scored_changes = view.num_changes
        ended = time.monotonic()
        self._rested_at = ended + REST * (ended - started)

    def offer(self, wanted: Collection[Settings]) -> None:
        """Have the policies of experiments' variants ready, and no others; by one thread.

        One that does not hold for the release is told of in the log, and is not there.
        """
        with self._lock:
            view, values = self.view, dict(self._changed.values)
        missing = sorted(set(wanted) - set(view.policies) - self._refused)
        if not missing and len(view.policies) == len(set(wanted) - self._refused):
            return
        table = self._changed.items(view.vocabulary, values) if missing else None
        made: dict[Settings, Policy] = {}
        for settings in missing:
            try:
                made[settings] = self._policy(view, table, view.policy.config.updated(settings))
            except ShoprecError as error:
                self._refused.add(settings)
                log.error("The policy %s of a variant does not hold: %s", " ".join(settings), error)
        with self._lock:
            every = {**self.view.policies, **all_padded(made, self.view.vocabulary.num_rows)}
            kept = {settings: every[settings] for settings in wanted if settings in every}
            self.view = replace(self.view, policies=kept)

    def _scorer(self, name: str, view: ItemView, table: pa.Table) -> Scorer:
        old = self._release.scorers[name]
        found = Scorer(old.inputs, old.config, old.members, table, old.calibration)
        found.prepare(view.vocabulary)
        return found

    def _policy(self, view: ItemView, table: pa.Table, config: PolicyConfig) -> Policy:
        retriever = self._release.retriever
        num_users = len(retriever.encoder.users)
        items = PolicyItems.of(config, table, view.vocabulary, num_users, retriever.item_vectors)
        return padded(Policy(config, items), view.vocabulary.num_rows)
