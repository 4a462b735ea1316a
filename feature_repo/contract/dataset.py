"""``dataset.json``: what the ingest job says of a data set, and everybody else reads."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from feature_repo.contract.artifacts import read_json, write_json
from feature_repo.contract.errors import ArtifactError, BadInput

FORMAT = 1
DATASET_VARIABLE = "SHOPREC_DATASET_JSON"
"""Environment variable that names the ``dataset.json`` in use."""

REPOSITORY = Path(__file__).resolve().parents[2]
"""The checkout that this code runs from."""


class IdType(StrEnum):
    """Types that a user or item id may have."""

    INT64 = "int64"
    STRING = "string"


class Clock(StrEnum):
    """What "now" means: the time of a historical data set, or the wall clock."""

    AS_OF = "as_of"
    WALL = "wall"


def parse_time(text: str) -> datetime:
    """Parse an ISO time; a time without a zone is read as UTC.

    Raises:
        BadInput: the text is not an ISO 8601 time.
    """
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(
            f"{text!r} is not an ISO 8601 time such as 2017-11-27T05:00:00+00:00."
        ) from None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


@dataclass(frozen=True)
class Dataset:
    """One shop's data on disk.

    ``edges`` are t0 < t1 < t2 < t3: the start of the ranker's latest label window, of the
    validation window, of the test window, and the end of the data.
    """

    name: str
    root: Path
    user_id: IdType
    item_id: IdType
    clock: Clock
    start: datetime
    end: datetime
    edges: tuple[datetime, datetime, datetime, datetime]
    earlier: tuple[datetime, ...] = ()
    """Rising starts of label windows before t0; the last is t-1, the one before it t-2."""
    history_items: int = 200
    half_life_days: float = 56.0
    columns: dict[str, list[str]] = field(default_factory=dict)
    """View or table name -> columns with at least one value in this shop."""
    counts: dict[str, int] = field(default_factory=dict)
    """Rows kept and rows dropped, by reason."""

    def __post_init__(self) -> None:
        every = (*self.earlier, *self.edges)
        if list(every) != sorted(set(every)):
            raise BadInput(f"The window edges of {self.name} must rise: got {every}.")

    @property
    def canonical(self) -> Path:
        """Folder of the canonical tables."""
        return self.root / "canonical"

    @property
    def features(self) -> Path:
        """Folder of the Feast sources."""
        return self.root / "features"

    @property
    def sets(self) -> Path:
        """Folder of the training sets."""
        return self.root / "sets"

    @property
    def named_edges(self) -> dict[str, datetime]:
        """Name -> time of every edge, rising: ``t-1`` and the like, then ``t0``..``t3``."""
        every = (*self.earlier, *self.edges)
        return {f"t{place - len(self.earlier)}": edge for place, edge in enumerate(every)}

    def edge(self, name: str) -> datetime:
        """The time of an edge by its name, or of an ISO time.

        Raises:
            BadInput: neither an edge's name nor a time.
        """
        named = self.named_edges
        if name in named:
            return named[name]
        if re.fullmatch(r"t-?[0-9]+", name):
            raise BadInput(f"The data set {self.name} has the edges {list(named)}; got {name!r}.")
        return parse_time(name)

    def save(self) -> Path:
        """Write ``dataset.json`` into the root, atomically."""
        value = asdict(self)
        value["format"] = FORMAT
        value["root"] = str(self.root.resolve())
        value["start"], value["end"] = self.start.isoformat(), self.end.isoformat()
        for name in ("edges", "earlier"):
            value[name] = [edge.isoformat() for edge in getattr(self, name)]
        path = self.root / "dataset.json"
        write_json(path, value)
        return path

    @staticmethod
    def load(path: Path) -> Dataset:
        """Read a ``dataset.json``; paths are taken from where the file lies now.

        Raises:
            ArtifactError: missing, truncated, or of another format.
        """
        value = read_json(path)
        if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
            raise ArtifactError(f"{path} is not a data set of format {FORMAT}; ingest it again.")
        value["root"] = path.resolve().parent
        try:
            value["user_id"], value["item_id"] = IdType(value["user_id"]), IdType(value["item_id"])
            value["clock"] = Clock(value["clock"])
            value["start"], value["end"] = parse_time(value["start"]), parse_time(value["end"])
            value.setdefault("earlier", ())
            for name in ("edges", "earlier"):
                value[name] = tuple(parse_time(edge) for edge in value[name])
            return Dataset(**value)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{path} does not describe a data set: {error!r}") from error


def dataset_path(name: str | None = None) -> Path:
    """Where the ``dataset.json`` in use lies: by name, by environment, or the default data set."""
    if name is not None:
        return REPOSITORY / "data" / name / "dataset.json"
    chosen = os.environ.get(DATASET_VARIABLE)
    return Path(chosen) if chosen else dataset_path("complete_journey")
