"""What a release says of the items and users that a monitor reads of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.contract.artifacts import read_table
from feature_repo.contract.columns import column_of
from feature_repo.contract.schema import Schema
from feature_repo.contract.snapshot import FILE, Snapshot
from ranking.item_groups import NEW, groups_of_table
from serving.about import About, require_release
from serving.ids import Id

Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ReleaseFacts:
    """Of R items, by the rows of the release's table, from 1; row 0 is any other item."""

    about: About
    schema: Schema
    snapshot: Snapshot | None
    """None: the release was exported before there were any."""
    item_ids: pa.Array
    user_ids: pa.Array
    bits_R: Doubles
    """Novelty: minus log2 of the share of users who bought the item; of row 0 NaN."""
    groups: dict[str, Bools]

    @staticmethod
    def read(path: Path, now_s: float) -> ReleaseFacts:
        """Read a release without its models.

        Args:
            path: the release's folder.
            now_s: epoch seconds of the wall clock; a release of the past has its own.

        Raises:
            ArtifactError: it is missing or broken.
        """
        folder = require_release(path)
        about = About.read(folder, verify=False)
        items = read_table(folder / "items.parquet")
        users = column_of(read_table(folder / "users.parquet", ["user_id"]), "user_id")
        snapshot = folder / FILE
        now_s = min(now_s, about.now().timestamp())
        return ReleaseFacts(
            about,
            Schema.load(folder / "schema.json"),
            Snapshot.load(snapshot) if snapshot.exists() else None,
            column_of(items, "item_id"),
            users,
            _bits(items, len(users)),
            _groups(items, now_s),
        )

    def rows_of(self, item_ids: list[Id]) -> Ints:
        """[N] rows of items; 0 where the release has none."""
        wanted = pa.array(item_ids, self.item_ids.type)
        return np.asarray(pc.index_in(wanted, self.item_ids).fill_null(-1), dtype=np.int64) + 1

    def known(self, user_ids: list[Id]) -> Bools:
        """[N] whether the release was made with a user."""
        wanted = pa.array(user_ids, self.user_ids.type)
        return np.asarray(pc.is_in(wanted, self.user_ids), dtype=np.bool_)


def _bits(items: pa.Table, num_users: int) -> Doubles:
    if "buyers_total" not in items.column_names:
        return np.full(len(items) + 1, np.nan)
    buyers = np.asarray(column_of(items, "buyers_total").fill_null(0), dtype=np.float64)
    bits = -np.log2(np.clip(buyers, 1, num_users) / num_users)
    return np.concatenate([[np.nan], bits])


def _groups(items: pa.Table, now_s: float) -> dict[str, Bools]:
    """What is sold since the release is new."""
    groups = groups_of_table(items, now_s)
    if NEW in groups:
        groups[NEW][0] = True
    return groups
