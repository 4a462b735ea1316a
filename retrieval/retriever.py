"""The retriever: a bundle of files that finds candidates for users.

The trainer evaluates and makes the ranker's rows with it, serving answers with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from feature_repo.contract.artifacts import read_manifest, read_table
from feature_repo.contract.candidates import Candidates, TopK, merge
from feature_repo.contract.columns import AnyRows, column_of
from feature_repo.contract.encoding import Encoder, query_times_s
from feature_repo.contract.errors import ArtifactError
from feature_repo.contract.schema import Entity
from feature_repo.contract.state import Histories
from feature_repo.contract.tables import Tables
from feature_repo.contract.vocabulary import Vocabulary
from retrieval.inputs import encode_users
from retrieval.sources import AnnSource, PopularSource, Source, UserBatch, load_sources
from retrieval.towers import TwoTower, pooled_inputs

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

KIND = "retriever"
STARTERS = "starters"
"""The source that answers users of whom nothing is known, and names nobody else candidates."""


@dataclass(frozen=True)
class Retriever:
    """Candidates of any user, from all sources of one bundle."""

    about: dict[str, Any]
    """The manifest's description: data set, cut-off, quotas, similarity, fingerprint."""
    encoder: Encoder
    tables: Tables
    towers: TwoTower
    sources: tuple[Source, ...]
    quotas: dict[str, int]
    """Source -> most candidates that it names."""
    catalogue: pa.Table
    """``item_id`` and attributes, as of the cut-off."""
    starters: PopularSource | None = None
    """The list of users of whom nothing is known; bundles of old have none."""

    @staticmethod
    def load(folder: Path, *, verify: bool = True) -> Retriever:
        """Read a bundle.

        Args:
            folder: the bundle.
            verify: whether to check every file against its hash.

        Raises:
            ArtifactError: a file is missing, truncated, changed, or does not fit the others.
        """
        about = read_manifest(folder, KIND, verify=verify)
        encoder = Encoder.load(folder / "encoder")
        if encoder.schema.fingerprint != about["fingerprint"]:
            raise ArtifactError(f"{folder} and its encoder have different lists of features.")
        every = load_sources(folder, about["sources"])
        sources = tuple(source for source in every if source.name in about["quotas"])
        starters = next((source for source in every if source.name == STARTERS), None)
        assert starters is None or isinstance(starters, PopularSource)
        return Retriever(
            about,
            encoder,
            Tables.load(folder / "tables"),
            TwoTower.load(folder),
            sources,
            {name: int(k) for name, k in about["quotas"].items()},
            read_table(folder / "items.parquet"),
            starters,
        )

    @property
    def items(self) -> Vocabulary:
        """The item vocabulary, whose rows candidates are."""
        return self.encoder.items

    @property
    def item_vectors(self) -> Floats | None:
        """[R, V] of the item tower, which ``ann`` searches; None where the bundle is without."""
        found = (source for source in self.sources if isinstance(source, AnnSource))
        return next((source.item_vectors for source in found), None)

    @property
    def half_life_days(self) -> float:
        """Half-life of the decayed counts of user states."""
        return float(self.about["half_life_days"])

    def user_vectors(self, user_rows: AnyRows, now_s: Ints | None = None) -> Floats:
        """[B, V] of the user tower; see ``candidates`` for the arguments."""
        encoded = encode_users(self.encoder, user_rows, now_s, self.half_life_days)
        inputs = pooled_inputs(encoded, self.tables, self.towers.config.user.features)
        with torch.inference_mode():
            return self.towers.user_vectors(*inputs).numpy()

    def new_item_vectors(self, items: pa.Table, now_s: Ints) -> Floats:
        """[N, V] of the item tower, for items that no training saw: their ids count as unknown.

        Args:
            items: ``item_id`` and the item features of the schema.
            now_s: [N] epoch seconds.

        Raises:
            BadInput: a feature's column is missing or of a wrong type, named.
        """
        encoded = self.encoder.encode(items, Entity.ITEM, now_s)
        inputs = pooled_inputs(encoded, self.tables, self.towers.config.item.features)
        with torch.inference_mode():
            return self.towers.item_vectors(*inputs).numpy()

    def batch(
        self,
        user_rows: AnyRows,
        now_s: Ints | None = None,
        excluded: list[Ints] | None = None,
        *,
        vectors: bool = True,
    ) -> UserBatch:
        """What sources need to know of B users; see ``candidates`` for the arguments.

        Without ``vectors`` of the user tower, sources that search by them name nothing.
        """
        now = query_times_s(user_rows) if now_s is None else now_s
        histories = Histories.from_table(user_rows, self.items)
        user_row = self.encoder.users.rows(column_of(user_rows, "user_id"))
        found = self.user_vectors(user_rows, now) if vectors else None
        return UserBatch(histories, now, found, excluded, user_row, user_rows)

    def lists(self, users: UserBatch) -> dict[str, TopK]:
        """Source -> the best items of each user, by the bundle's quotas."""
        return {source.name: source.top(users, self.quotas[source.name]) for source in self.sources}

    def candidates(
        self,
        user_rows: AnyRows,
        now_s: Ints | None = None,
        excluded: list[Ints] | None = None,
    ) -> Candidates:
        """Distinct candidates of B users from all sources.

        Args:
            user_rows: ``user_id``, ``event_timestamp`` and the user features of the schema.
            now_s: [B] epoch seconds; by default the rows' ``event_timestamp``.
            excluded: per user, item rows that must not become candidates.

        Raises:
            BadInput: a feature's column is missing or of a wrong type, named.
        """
        return merge(self.lists(self.batch(user_rows, now_s, excluded)), excluded)
