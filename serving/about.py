"""What a release says of itself; read without loading any model."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from feature_repo.contract.artifacts import read_manifest
from feature_repo.contract.dataset import Clock, IdType, parse_time
from feature_repo.contract.errors import ArtifactError

KIND = "release"


@dataclass(frozen=True)
class About:
    """What a release's manifest says of it."""

    version: str
    dataset: str
    project: str
    """Feast project: the shop's part of the online store."""
    cutoff: datetime
    """Nothing from then on was seen by the models."""
    clock: Clock
    as_of: datetime
    """"Now" of a historical data set."""
    user_id: IdType
    item_id: IdType
    rankers: tuple[str, ...]
    git: str | None
    fingerprints: dict[str, str]
    """Part -> fingerprint of its list of features."""
    history_items: int = 200
    """Most distinct items of a user's history."""

    @staticmethod
    def read(folder: Path, *, verify: bool = True) -> About:
        """Check a release's files against its manifest.

        Args:
            folder: the release.
            verify: whether to check every file against its hash.

        Raises:
            ArtifactError: no release is there, or a file is missing or changed.
        """
        value = read_manifest(folder, KIND, verify=verify)
        try:
            return About(
                version=value["version"],
                dataset=value["dataset"],
                project=value["project"],
                cutoff=parse_time(value["cutoff"]),
                clock=Clock(value["clock"]),
                as_of=parse_time(value["as_of"]),
                user_id=IdType(value["user_id"]),
                item_id=IdType(value["item_id"]),
                rankers=tuple(value["rankers"]),
                git=value["git"],
                fingerprints=value["fingerprints"],
                history_items=int(value.get("history_items", 200)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"The manifest of {folder} does not describe a release ({error!r}); export it "
                "again."
            ) from error

    def now(self) -> datetime:
        """The time at which requests are answered."""
        return self.as_of if self.clock is Clock.AS_OF else datetime.now(UTC)


def require_release(path: Path) -> Path:
    """The folder of a release, symbolic links followed.

    Raises:
        ArtifactError: there is none yet.
    """
    folder = path.resolve()
    if not (folder / "manifest.json").is_file():
        raise ArtifactError(
            f"There is no release at {path}. Run `make quickstart` to make one, or name another: "
            "--release releases/<version>."
        )
    return folder
