"""A release on disk: models, item tables and golden rows, checked before anything is answered."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.artifacts import read_json, read_table
from feature_repo.contract.columns import column_of
from feature_repo.contract.errors import ArtifactError, ConfigError
from feature_repo.contract.schema import Schema
from ranking.policy import Filter, Lists, Policy, rank_lists, seen_rows
from ranking.policy_config import PolicyConfig
from ranking.policy_items import PolicyItems
from ranking.scorer import Scorer
from retrieval.retriever import Retriever
from serving.about import About, require_release
from serving.golden import replay

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]

DEFAULT_RANKER = "default"
DISCOVER_RANKER = "discover"
"""The ranker of lists without what the user bought before, where a release has one."""


@dataclass(frozen=True)
class Release:
    """A release in memory; its large arrays are memory-mapped."""

    folder: Path
    about: About
    schema: Schema
    """The features that are read of users and items."""
    items: pa.Table
    retriever: Retriever
    scorers: Mapping[str, Scorer]
    policy_config: PolicyConfig = field(default_factory=PolicyConfig)
    """Of its lists, where a request does not say otherwise."""

    @staticmethod
    def load(path: Path | str) -> Release:
        """Load a release, verify its hashes and replay its golden rows.

        Raises:
            ArtifactError: it is missing, changed, or answers otherwise than when it was exported.
        """
        folder = require_release(Path(path))
        about = About.read(folder)
        items = read_table(folder / "items.parquet")
        scorers = {name: Scorer.load(folder / "rankers" / name, items) for name in about.rankers}
        schema = Schema.load(folder / "schema.json")
        retriever = Retriever.load(folder / "retriever", verify=False)  # the release's manifest did
        policy = _policy_config(folder / "policy.json")
        release = Release(folder, about, schema, items, retriever, scorers, policy)
        replay(release, folder / "golden")
        log.info("Loaded release %s; its golden rows are answered as expected.", about.version)
        return release

    def lists(
        self,
        user_rows: pa.Table,
        now_s: Ints,
        k: int,
        *,
        ranker: str,
        exclude_seen: bool = False,
        excluded: Sequence[Ints] | None = None,
        filters: Sequence[Filter] = (),
        policy: Policy | None = None,
    ) -> Lists:
        """The best ``k`` items of B users: candidates, scores, policy.

        Args:
            user_rows: B rows of user features.
            now_s: [B] epoch seconds.
            k: places of a list.
            ranker: name of the ranker.
            exclude_seen: leave out what the user is known to have bought.
            excluded: per user, item rows to leave out as well.
            filters: rules that every item must pass.
            policy: what a list must be beside relevant; None: nothing.
        """
        vocabulary = self.retriever.encoder.items
        barred = list(excluded) if excluded is not None else None
        if exclude_seen:
            seen = seen_rows(user_rows, vocabulary)
            barred = seen if barred is None else _joined(seen, barred)
        candidates = self.retriever.candidates(user_rows, now_s, barred)
        scores = self.scorers[ranker].score(user_rows, candidates, vocabulary, now_s)
        unlike = policy is not None and policy.config.serendipity > 0
        history = seen_rows(user_rows, vocabulary) if unlike else None
        return rank_lists(candidates, scores, k, filters=filters, policy=policy, history=history)

    def policy(self, config: PolicyConfig | None = None) -> Policy:
        """A policy over the release's items; by default its own.

        Raises:
            ConfigError: a rule names a column or an item that the release does not have.
        """
        config = config or self.policy_config
        encoder, vectors = self.retriever.encoder, self.retriever.item_vectors
        facts = PolicyItems.of(config, self.items, encoder.items, len(encoder.users), vectors)
        return Policy(config, facts)

    def user_ids(self) -> pa.Array:
        """The users that the release was made with."""
        return column_of(read_table(self.folder / "users.parquet", ["user_id"]), "user_id")

    def ranker_for(self, *, exclude_seen: bool) -> str:
        """Name of the ranker that answers a request."""
        if exclude_seen and DISCOVER_RANKER in self.scorers:
            return DISCOVER_RANKER
        return DEFAULT_RANKER

    def settings(self) -> dict[str, Any]:
        """What ``/version`` says."""
        about = self.about
        return {
            "model_version": about.version,
            "dataset": about.dataset,
            "cutoff": about.cutoff.isoformat(),
            "clock": about.clock.value,
            "now": about.now().isoformat(),
            "rankers": list(about.rankers),
            "items": len(self.items),
            "policy": self.policy_config.to_json(),
            "git": about.git,
            "fingerprints": about.fingerprints,
        }


def _policy_config(path: Path) -> PolicyConfig:
    """A release without the file has no policy of its own."""
    try:
        return PolicyConfig.from_json(read_json(path) if path.exists() else {})
    except ConfigError as error:
        raise ArtifactError(f"{path} is not of this version: {error}") from error


def _joined(first: Sequence[Ints], second: Sequence[Ints]) -> list[Ints]:
    return [np.concatenate(pair) for pair in zip(first, second, strict=True)]
