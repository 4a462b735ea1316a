"""A release on disk: models, item tables and golden rows, checked before anything is answered."""

from __future__ import annotations

import logging
from collections.abc import Mapping
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
from ranking.policy import Lists, Policy, rank_lists, seen_rows
from ranking.policy_config import PolicyConfig
from ranking.policy_items import PolicyItems
from ranking.scorer import Scorer
from retrieval.index.files import About as IndexAbout
from retrieval.retriever import Retriever
from serving.about import About, require_release
from serving.candidates import find
from serving.golden import replay
from serving.stages import Run

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
    index_version: str = ""
    """Of the build of the item index; empty where there is none."""

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
        index = _index_version(folder / "retriever" / "index")
        release = Release(folder, about, schema, items, retriever, scorers, policy, index)
        replay(release, folder / "golden")
        log.info("Loaded release %s; its golden rows are answered as expected.", about.version)
        return release

    def lists(
        self, user_rows: pa.Table, now_s: Ints, k: int, *, ranker: str, exclude_seen: bool = False
    ) -> Lists:
        """The best ``k`` items of B users by score alone, as golden rows are answered.

        Args:
            user_rows: B rows of user features.
            now_s: [B] epoch seconds.
            k: places of a list.
            ranker: name of the ranker.
            exclude_seen: leave out what the user is known to have bought.
        """
        items = self.retriever.items
        seen = seen_rows(user_rows, items) if exclude_seen else []
        candidates = find(self.retriever, user_rows, now_s, seen, Run(strict=True)).candidates
        scores = self.scorers[ranker].score(user_rows, candidates, items, now_s)
        return rank_lists(candidates, scores, k)

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
            "index_version": self.index_version,
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


def _index_version(folder: Path) -> str:
    return IndexAbout.read(folder).name if folder.is_dir() else ""


def _policy_config(path: Path) -> PolicyConfig:
    """A release without the file has no policy of its own."""
    try:
        return PolicyConfig.from_json(read_json(path) if path.exists() else {})
    except ConfigError as error:
        raise ArtifactError(f"{path} is not of this version: {error}") from error
