"""What a release promises to answer."""

from __future__ import annotations

from feature_repo.contract.artifacts import read_table
from serving.release import Release

Scored = list[tuple[int, float]]
"""Items and their scores, best first."""


def golden_lists(release: Release, exclude_seen: bool, k: int = 10) -> dict[int, Scored]:
    """Return user -> the first ``k`` items and scores that the release promises."""
    users = read_table(release.folder / "golden" / "users.parquet")["user_id"].to_pylist()
    found: dict[int, Scored] = {user: [] for user in users}
    for row in read_table(release.folder / "golden" / "lists.parquet").to_pylist():
        if row["exclude_seen"] == exclude_seen and row["rank"] <= k:
            found[users[row["row"]]].append((row["item_id"], row["score"]))
    return found
