"""Settings of the jobs: dataclasses that ``conf/`` and the command line fill, checked here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from feature_repo.contract.dataset import REPOSITORY, Dataset, parse_time
from feature_repo.contract.errors import ConfigError

CONF = REPOSITORY / "conf"
DEFAULT_DATA = "complete_journey"


class Source(Enum):
    """Where a data set comes from."""

    complete_journey = "complete_journey"
    parquet = "parquet"
    synthetic = "synthetic"
    interactions = "interactions"
    """Id-only train and test files of a published benchmark: the job ``interactions``."""


class InteractionFormat(Enum):
    """Lines of a benchmark's files; values are separated by white space."""

    lists = "lists"
    """A user and all of the user's items."""
    triples = "triples"
    """A user, an item and a rating."""


class ClockChoice(Enum):
    """How the data set's clock is chosen."""

    auto = "auto"
    """Historical where the last event is more than 7 days old, else the wall clock."""
    as_of = "as_of"
    wall = "wall"


class SetKind(Enum):
    """What one row of a training set is."""

    sessions = "sessions"
    """A user just before one of the user's baskets; the target is that basket."""
    users = "users"
    """A user at the cut-off; the target is what the user bought between it and ``until``."""


@dataclass
class Columns:
    """The shop's column for each canonical column; null: the column of the canonical name."""

    user_id: str | None = None
    item_id: str | None = None
    event_timestamp: str | None = None
    event_type: str | None = None
    quantity: str | None = None
    price: str | None = None
    """Paid per unit."""
    list_price: str | None = None
    """Per unit, before discounts."""
    session_id: str | None = None
    position: str | None = None
    """Of an impression: the place, from 1, at which the item was shown."""
    propensity: str | None = None
    """Of an impression: the probability with which the item was shown."""

    user_timestamp: str | None = None
    """In the users file: since when a row holds; null: since the start of the data."""
    age_band: str | None = None
    gender: str | None = None
    income_band: str | None = None
    household_size: str | None = None
    household_type: str | None = None
    home_ownership: str | None = None
    marital_status: str | None = None
    children: str | None = None
    region: str | None = None
    segment: str | None = None

    item_timestamp: str | None = None
    """In the items file: since when a row holds; null: since the start of the data."""
    title: str | None = None
    department: str | None = None
    category: str | None = None
    subcategory: str | None = None
    brand: str | None = None
    brand_tier: str | None = None
    package_size: str | None = None
    item_price: str | None = None
    """In the items file: the present price."""
    available: str | None = None


@dataclass
class DataConfig:
    """One shop's data: where it comes from, where it goes, and how time is cut."""

    name: str = MISSING
    """Folder, Feast project and key prefix of the data set: letters, digits, underscores."""
    source: Source = Source.parquet
    root: str = "data/${.name}"
    """Output folder, relative to the current folder."""

    events: str | None = None
    """Parquet or CSV file of purchases and other events (source=parquet)."""
    users: str | None = None
    """Parquet or CSV file of users; null: made from the events."""
    items: str | None = None
    """Parquet or CSV file of items; null: made from the events."""
    columns: Columns = field(default_factory=Columns)
    time_format: str | None = None
    """strptime format of event times in a CSV file; null: ISO 8601."""
    cancelled_column: str | None = None
    """Lines whose value here starts with ``cancelled_prefix`` are dropped."""
    cancelled_prefix: str = "C"
    max_users: int | None = None
    """Keep about this many users, evenly spread over the sorted ids; null: all."""

    train: str | None = None
    """File that is learnt from (source=interactions)."""
    test: str | None = None
    """File that is judged on (source=interactions)."""
    format: InteractionFormat = InteractionFormat.lists
    """Of both files."""

    num_users: int = 10_000
    """Of a made-up shop (source=synthetic)."""
    num_items: int = 1_000
    num_events: int = 200_000
    seed: int = 0

    timezone: str = "UTC"
    """Days and weeks begin at midnight there."""
    cutoff: str | None = None
    """t2, where the test window begins; null: one window before the last event."""
    window_days: int | None = None
    """Length of a window; null: 28, or less where under 8 windows of history would remain."""
    snapshot_days: int = 7
    """Days between two snapshots of the features."""
    history_items: int = 200
    """Most distinct items in a user's history."""
    half_life_days: float = 56.0
    clock: ClockChoice = ClockChoice.auto

    def __post_init__(self) -> None:
        if self.name == MISSING:
            return
        self._check_name()
        for name in (
            *("snapshot_days", "history_items", "half_life_days"),
            *("num_users", "num_items", "num_events"),
        ):
            _require_positive(name, getattr(self, name))
        for name in ("max_users", "window_days"):
            if getattr(self, name) is not None:
                _require_positive(name, getattr(self, name))
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ConfigError(
                f"data.timezone={self.timezone} is not a time zone such as America/New_York."
            ) from None
        if self.cutoff is not None:
            parse_time(self.cutoff)

    def _check_name(self) -> None:
        if not self.name.isascii() or not self.name.replace("_", "a").isalnum():
            raise ConfigError(
                f"data.name={self.name!r} must be letters, digits and underscores: it names the "
                "folder, the Feast project and the keys of the online store."
            )

    @property
    def folder(self) -> Path:
        """The data set's folder, absolute."""
        return Path(self.root).resolve()

    @property
    def zone(self) -> ZoneInfo:
        """Where days begin at midnight."""
        return ZoneInfo(self.timezone)

    def dataset(self) -> Dataset:
        """The ingested data set.

        Raises:
            ArtifactError: it was not ingested.
        """
        return Dataset.load(self.folder / "dataset.json")


def _require_positive(name: str, value: float) -> None:
    if value <= 0:
        raise ConfigError(f"data.{name} must be above zero; got {value}.")


def _default_data() -> list[Any]:
    return ["_self_", {"data": DEFAULT_DATA}]


@dataclass
class JobConfig:
    """Settings that every job has."""

    defaults: list[Any] = field(default_factory=_default_data)
    data: DataConfig = field(default_factory=DataConfig)
    force: bool = False
    """Do the work even where the result is there and its inputs are unchanged."""
    memory_gb: float = 2.0
    """DuckDB's memory limit; past it, it spills to disk."""
    threads: int | None = None
    """DuckDB's threads; null: all cores."""

    def __post_init__(self) -> None:
        if self.memory_gb < 0.25:
            raise ConfigError(f"memory_gb must be at least 0.25; got {self.memory_gb}.")


@dataclass
class TrainingSetConfig(JobConfig):
    """Settings of the job ``training-set``."""

    service: str = MISSING
    """Feast feature service, such as retrieval_v1."""
    kind: SetKind = SetKind.sessions
    cutoff: str = MISSING
    """t0..t3 or an ISO time: nothing from then on reaches a feature."""
    until: str | None = None
    """t1..t3 or an ISO time: end of the label window of kind=users; null: no labels."""
    chunk_rows: int = 10_000
    """Entity rows that Feast joins at a time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk_rows <= 0:
            raise ConfigError(f"chunk_rows must be above zero; got {self.chunk_rows}.")
        if self.until is not None and self.kind is not SetKind.users:
            raise ConfigError("until=... belongs to kind=users; a session's target is its basket.")


@dataclass
class SyntheticSetConfig(JobConfig):
    """Settings of the job ``synthetic-set``."""

    sessions: int = 100_000
    """Rows that are trained on."""
    judged: int = 2_000
    """Users on which a model is judged."""
    history: int = 50
    """Items of a history; 0 for none."""
    later: int = 5
    """Items that a judged user buys next."""
    categories: bool = False
    """Whether an item's category, which is its cluster, is a feature."""
    group_rows: int = 16_384
    """Rows of a row group."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sessions", "judged", "later", "group_rows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be above zero; got {getattr(self, name)}.")
        if self.history < 0:
            raise ConfigError(f"history must not be negative; got {self.history}.")


@dataclass
class InteractionsConfig(JobConfig):
    """Settings of the job ``interactions``."""

    validation: float = 0.1
    """Share of each user's items of train that is held back to choose settings by."""
    min_items: int = 5
    """Users with fewer items of train keep them all."""
    folds: int = 1
    """Sessions that a user's items are cut into, at most one an item, each with the other items
    as its history; 1: one session whose history and targets are all of the items."""
    neighbours: int = 20
    """Items bought by the same users that are a feature of each item; 0: there is none."""
    group_rows: int = 16_384
    """Rows of a row group."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neighbours < 0:
            raise ConfigError(f"neighbours must not be negative; got {self.neighbours}.")
        for name in ("folds", "group_rows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be above zero; got {getattr(self, name)}.")
        if not 0 < self.validation <= 0.5:
            raise ConfigError(f"validation must be in (0, 0.5]; got {self.validation}.")
        if self.min_items < 2:
            raise ConfigError(f"min_items must be at least 2; got {self.min_items}.")


@dataclass
class CapacityConfig(JobConfig):
    """Settings of the job ``capacity``."""

    users: int = 100_000_000
    """How many users the memory is told for."""
    sample: int = 10_000
    """Users that are written into a server of the job's own."""
    caps: list[int] = field(default_factory=lambda: [50, 100, 200])
    """Lengths of the history whose cost is told."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("users", self.users), ("sample", self.sample)):
            if value < 1:
                raise ConfigError(f"{name} must be above zero; got {value}.")
        if min(self.caps, default=1) < 1:
            raise ConfigError(f"caps must be above zero; got {self.caps}.")


@dataclass
class CompactConfig(JobConfig):
    """Settings of the job ``compact``."""

    feedback: list[str] = field(default_factory=lambda: [str(REPOSITORY / "data" / "feedback")])
    """Folders of the servers' feedback logs, one a machine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.feedback:
            raise ConfigError("feedback must name a folder, such as feedback=[data/feedback].")

    @property
    def logs(self) -> list[Path]:
        """The shop's log in each folder."""
        return [Path(folder).resolve() / f"{self.data.name}.jsonl" for folder in self.feedback]


@dataclass
class SkewConfig(JobConfig):
    """Settings of the job ``skew``."""

    service: str = "ranking_v1"
    """Feast feature service that was served."""
    rows: str | None = None
    """Parquet file of served rows (``feature_repo.contract.served_rows``)."""
    users: str | None = None
    """Parquet file with a column user_id, such as ``serving.batch`` writes: these users are read
    from the online store now."""
    now: str | None = None
    """With ``users``: t0..t3 or an ISO time as of which they are read; null: the wall clock, or
    t2 of historical data."""
    out: str | None = None
    """With ``users``: also write what was read, as served rows."""
    sample: int = 10_000
    """Most rows that are compared."""
    most: float = 0.01
    """The job fails where a feature differs in a larger share of the rows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sample < 1:
            raise ConfigError(f"sample must be above zero; got {self.sample}.")
        if not 0 <= self.most <= 1:
            raise ConfigError(f"most must be in [0, 1]; got {self.most}.")


AnyConfig = TypeVar("AnyConfig", bound=JobConfig)


def load_config(config_type: type[AnyConfig], overrides: Sequence[str]) -> AnyConfig:
    """Compose ``conf/`` and ``overrides`` into a checked config.

    Raises:
        ConfigError: an unknown key or data set, a value of a wrong type, or a missing one.
    """
    name = f"_jobs_{config_type.__name__}"
    ConfigStore.instance().store(name=name, node=config_type, provider="feature_repo.jobs")
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = compose(name, overrides=list(overrides))
        config = OmegaConf.to_object(composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error, config_type)) from error
    assert isinstance(config, config_type)
    return config


def _explain(error: Exception, config_type: type[JobConfig]) -> str:
    """Say which setting is wrong, and what there is."""
    reason = str(error.__cause__ or error).splitlines()[0].strip()
    missing = re.search(r"missing mandatory value: (\w+)", reason)
    if missing is not None:
        return f"The setting {missing[1]} is missing; give {missing[1]}=VALUE."
    if isinstance(error, MissingConfigException):
        found = ", ".join(sorted(path.stem for path in (CONF / "data").glob("*.yaml")))
        missing_name = reason.rpartition("data/")[2].rstrip("'")
        return (
            f"There is no data set {missing_name!r} in conf/data; there are {found}. "
            "Add your own as conf/data/NAME.yaml."
        )
    if "not in" in reason:
        mine = ", ".join(item.name for item in fields(config_type) if item.name != "defaults")
        data = ", ".join(item.name for item in fields(DataConfig))
        return f"There is no such setting: {reason}. There are {mine}; of data: {data}."
    first = str(error).splitlines()[0]
    return first if first == reason else f"{first}: {reason}."
