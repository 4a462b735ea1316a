"""Golden rows: users whose scores were computed at export, replayed whenever a release is loaded.

They prove that files, code and libraries still give the numbers that were judged. Equal to a
tolerance, for another processor adds in another order; policy is not part of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.contract.artifacts import read_table
from feature_repo.contract.encoding import query_times_s
from feature_repo.contract.errors import ArtifactError

if TYPE_CHECKING:
    from serving.release import Release

TOLERANCE = 1e-3
"""Largest difference of two scores that count as equal, absolute or relative."""

COLUMNS = ["ranker", "exclude_seen", "row", "rank", "item_id", "score"]

Scored = list[tuple[int | str, float]]
"""Items and scores, best first."""


def replay(release: Release, folder: Path) -> None:
    """Answer the golden rows of ``folder`` and compare with what is written beside them.

    Raises:
        ArtifactError: another item or score, named with its user; or no golden rows.
    """
    users = read_table(folder / "users.parquet")
    lists = read_table(folder / "lists.parquet", COLUMNS)
    if not len(users) or not len(lists):
        raise ArtifactError(f"{folder} holds no golden rows; export the release again.")
    for ranker, exclude_seen in _cases(lists):
        _replay_case(release, users, lists, ranker, exclude_seen)


def _cases(lists: pa.Table) -> list[tuple[str, bool]]:
    cases = lists.group_by(["ranker", "exclude_seen"]).aggregate([]).to_pylist()
    return [(case["ranker"], case["exclude_seen"]) for case in cases]


def _replay_case(
    release: Release, users: pa.Table, lists: pa.Table, ranker: str, exclude_seen: bool
) -> None:
    mine = lists.filter((pc.field("ranker") == ranker) & (pc.field("exclude_seen") == exclude_seen))
    k = int(pc.max(mine["rank"]).as_py())
    got = release.lists(users, query_times_s(users), k, ranker=ranker, exclude_seen=exclude_seen)
    for row, user_id in enumerate(users["user_id"].to_pylist()):
        expected = mine.filter(pc.field("row") == row).sort_by("rank")
        want: Scored = list(
            zip(expected["item_id"].to_pylist(), expected["score"].to_pylist(), strict=True)
        )
        rows, scores, _ = got.of(row)
        have: Scored = list(
            zip(release.retriever.encoder.items.ids_of(rows), scores.tolist(), strict=True)
        )
        problem = difference(want, have)
        if problem is not None:
            raise ArtifactError(
                f"Release {release.about.version} does not answer as it did when it was exported: "
                f"for user {user_id!r}, ranker {ranker!r}, exclude_seen={exclude_seen}, {problem}. "
                "Do not serve it; export it again with the installed versions."
            )


def difference(want: Scored, have: Scored) -> str | None:
    """What differs between two lists, None where nothing does; equal scores may change places."""
    if len(want) != len(have):
        return f"the list has {len(have)} items; expected {len(want)}"
    scores = dict(want)
    last = want[-1][1] if want else 0.0
    for place, ((_, score), (item_id, got)) in enumerate(zip(want, have, strict=True), start=1):
        if not _equal(score, got):
            return f"place {place} scores {got}; expected {score}"
        if not _equal(scores.get(item_id, last), got):
            return f"place {place} holds item {item_id!r}; expected {want[place - 1][0]!r}"
    return None


def _equal(first: float, second: float) -> bool:
    return bool(np.isclose(first, second, rtol=TOLERANCE, atol=TOLERANCE))
