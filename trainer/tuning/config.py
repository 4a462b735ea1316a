"""Settings of a search: which metric is sought, over which values, with how many trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.trial import Trial

from feature_repo.contract.errors import ConfigError, require
from trainer.config import CONF, choices

GROUP = "hparams_search"
"""Folder of ``conf/``, and prefix on the command line."""
FIXED = ("cutoff", "data", "experiment", "paths", "trainer.epochs", "trainer.select", "validate")
"""Settings, and groups of them, that all trials of a study share."""


class Kind(Enum):
    """Of a searched setting's values."""

    float = "float"
    int = "int"
    categorical = "categorical"


class Direction(Enum):
    """Which values of the metric are better."""

    maximize = "maximize"
    """A trial's value is that of its best epoch, which the run keeps (``trainer.select``)."""
    minimize = "minimize"
    """A trial's value is that of its last epoch."""


@dataclass
class Setting:
    """The values of one searched setting."""

    type: Kind = MISSING
    low: float | None = None
    """Smallest value, included."""
    high: float | None = None
    """Largest value, included."""
    log: bool = False
    """Whether values are drawn evenly on a logarithmic scale."""
    choices: list[Any] = field(default_factory=list)
    """Of a categorical setting: numbers, texts, true, false or null. A list is written as the text
    that the command line takes, such as "[128, 64]"."""

    def __post_init__(self) -> None:
        if self.type is Kind.categorical:
            self._check_choices()
        else:
            self._check_range()

    def _check_choices(self) -> None:
        require(
            len(self.choices) > 0 and self.low is None and self.high is None and not self.log,
            f"A categorical setting has choices, and neither low, high nor log; got {self}.",
        )
        for choice in self.choices:
            require(
                choice is None or isinstance(choice, bool | int | float | str),
                "A choice must be a number, text, true, false or null, and a list is written as "
                f'text, such as "[128, 64]"; got {choice}.',
            )

    def _check_range(self) -> None:
        low, high = self.low, self.high
        if low is None or high is None or self.choices:
            raise ConfigError(
                f"A setting of type {self.type.value} has low and high, and no choices; got {self}."
            )
        require(low <= high, f"low must not be above high; got {low} and {high}.")
        require(not self.log or low > 0, f"With log, low must be above zero; got {low}.")
        whole = float(low).is_integer() and float(high).is_integer()
        require(
            self.type is Kind.float or whole,
            f"low and high of an int must be whole numbers; got {low} and {high}.",
        )

    @property
    def extremes(self) -> list[Any]:
        """Values that a trial may get, among them the smallest and the largest."""
        match self.type:
            case Kind.categorical:
                return self.choices
            case Kind.int:
                return [int(self.low or 0), int(self.high or 0)]
            case Kind.float:
                return [self.low, self.high]

    def suggest(self, trial: Trial, name: str) -> Any:
        """The trial's value: the one it has, or a new one."""
        match self.type:
            case Kind.categorical:
                return trial.suggest_categorical(name, self.choices)
            case Kind.int:
                low, high = self.extremes
                return trial.suggest_int(name, low, high, log=self.log)
            case Kind.float:
                low, high = self.extremes
                return trial.suggest_float(name, low, high, log=self.log)


@dataclass
class SearchConfig:
    """A search by asynchronous successive halving (ASHA; Li et al., 2020).

    After ``min_epochs`` epochs, and after each ``reduction_factor`` times as many, a trial goes on
    only if it is among the best ``1 / reduction_factor`` of the trials that came so far.
    """

    metric: str = MISSING
    """A metric of the validation."""
    direction: Direction = Direction.maximize
    trials: int = 40
    """Of the whole study, over all its processes. May be raised later: the study goes on."""
    reduction_factor: int = 3
    min_epochs: int = 1
    """Epochs that every trial gets."""
    seed: int = 0
    """Of the drawn values."""
    grace_s: float = 120.0
    """Seconds without a sign of life after which a trial's process is taken for dead."""
    max_failures: int = 3
    """Failed trials after which a process gives up, and processes that may die of one trial before
    it fails. Failed trials are replaced by others."""
    space: dict[str, Setting] = field(default_factory=dict)
    """Setting of ``python -m trainer`` -> its values."""

    def __post_init__(self) -> None:
        for name in ("trials", "min_epochs", "max_failures"):
            value = getattr(self, name)
            require(value > 0, f"{name} must be above zero; got {value}.")
        require(
            self.reduction_factor > 1,
            f"reduction_factor must be at least 2; got {self.reduction_factor}.",
        )
        require(self.grace_s >= 1, f"grace_s must be at least 1; got {self.grace_s}.")
        require(len(self.space) > 0, "space is empty: name at least one setting to search.")
        for key in self.space:
            fixed = any(key == name or key.startswith(f"{name}.") for name in FIXED)
            require(not fixed, f"space.{key} cannot be searched: all trials of a study share it.")

    def identity(self) -> dict[str, Any]:
        """What must not change while a study goes on, as JSON values."""
        value = asdict(self)
        for name in ("trials", "grace_s", "max_failures"):
            del value[name]
        value["direction"] = self.direction.value
        value["space"] = {
            key: {**asdict(setting), "type": setting.type.value}
            for key, setting in self.space.items()
        }
        return value


def load_search(name: str, overrides: Sequence[str]) -> SearchConfig:
    """Read ``conf/hparams_search/<name>.yaml``, or another file.

    Args:
        name: of the file, or its path where it ends in .yaml.
        overrides: ``KEY=VALUE`` that win over the file.

    Raises:
        ConfigError: there is no such search, an unknown key, or a value that does not hold.
    """
    path = Path(name) if name.endswith(".yaml") else CONF / GROUP / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(
            f"There is no {GROUP}={name}; choose of {', '.join(choices(GROUP))}, or write {path}."
        )
    try:
        merged = OmegaConf.merge(
            OmegaConf.structured(SearchConfig),
            OmegaConf.load(path),
            OmegaConf.from_dotlist(list(overrides)),
        )
        config = OmegaConf.to_object(merged)
    except ConfigError as error:
        raise ConfigError(f"{GROUP}={name} does not hold: {error}") from error
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"{GROUP}={name} does not hold: {_reason(error)}") from error
    assert isinstance(config, SearchConfig)
    if OmegaConf.is_missing(merged, "metric"):
        raise ConfigError(f"{GROUP}={name} has no metric.")
    return config


def _reason(error: Exception) -> str:
    cause = error.__cause__
    return str(cause if isinstance(cause, ConfigError) else str(error).splitlines()[0])


def as_override(key: str, value: Any) -> str:
    """``KEY=VALUE`` as the command line takes it."""
    match value:
        case None:
            return f"{key}=null"
        case bool():
            return f"{key}={str(value).lower()}"
        case float():
            return f"{key}={value!r}"
        case _:
            return f"{key}={value}"
