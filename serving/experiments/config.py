"""Experiments as their YAML files state them, checked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    field_validator,
    model_validator,
)

from feature_repo.contract.artifacts import sha256_text
from feature_repo.contract.dataset import parse_time
from feature_repo.contract.errors import BadInput, ConfigError
from ranking.policy_config import PolicyConfig

NO_RANKER = "none"
"""In place of a ranker's name: candidates are ordered by their places in the sources."""
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
LEVERS = ("ranker", "sources", "policy")
"""What a variant may change; each belongs to one layer at a time."""


def _time(value: Any) -> Any:
    """YAML has dates, times with and without a zone, and texts."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value
    try:
        return parse_time(value)
    except (BadInput, TypeError):
        raise ValueError(f"must be a time such as 2026-03-01T00:00:00Z; got {value!r}") from None


def _weights(value: Any) -> Any:
    """A list of sources gives each the same weight."""
    return dict.fromkeys(value, 1.0) if isinstance(value, list) else value


Share = Annotated[float, Field(ge=0, le=1, strict=True)]
Time = Annotated[datetime, BeforeValidator(_time)]
Weight = Annotated[float, Field(gt=0, le=1e6, strict=True, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1, max_length=128, strict=True)]
Settings = tuple[str, ...]
"""``policy.KEY=VALUE``, laid over the release's policy."""


class Checked(BaseModel):
    """A part of a file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Variant(Checked):
    """What some users' lists are made by; one that says nothing changes nothing."""

    weight: Weight = 1.0
    """Share of the experiment's users, in proportion to the other variants' weights."""
    ranker: Text | None = None
    """Name of one of the release's rankers; ``none``: by fused places in the sources; by default
    the one that answers where there is no experiment."""
    sources: Annotated[dict[Text, Weight], BeforeValidator(_weights)] = {}
    """The only candidate sources that are used, a list of names; or names with the weights that
    they have where there is no ranker. Empty: all."""
    policy: list[Text] = []
    """``policy.KEY=VALUE`` settings that are laid over the release's."""

    @field_validator("policy")
    @classmethod
    def _known_settings(cls, value: list[str]) -> list[str]:
        try:
            PolicyConfig().updated(value)
        except ConfigError as error:
            raise ValueError(str(error).rstrip(".")) from None
        return value

    @model_validator(mode="after")
    def _weights_are_read(self) -> Self:
        if len(set(self.sources.values())) > 1 and self.ranker != NO_RANKER:
            raise ValueError("weights of sources are read where the variant says `ranker: none`")
        return self

    @property
    def settings(self) -> Settings:
        """Of the policy."""
        return tuple(self.policy)

    @property
    def levers(self) -> set[str]:
        """What it changes."""
        return {lever for lever in LEVERS if getattr(self, lever)}


class Guardrails(Checked):
    """How much worse than the control a variant may be."""

    latency: Annotated[float, Field(gt=0, strict=True)] = 0.1
    """Of the mean time of an answer, as a share of the control's."""
    degraded: Annotated[float, Field(gt=0, strict=True)] = 0.01
    """Of the share of answers that did without a stage, as a difference."""


class Experiment(Checked):
    """Two variants or more, and who sees them when."""

    name: str
    """That of the file."""
    enabled: StrictBool = True
    """false ends it at once, wherever a server runs."""
    layer: Text = "default"
    """Experiments of one layer have different users; those of two layers share them at random."""
    traffic: Annotated[list[Share], Field(min_length=2, max_length=2)] = [0.0, 1.0]
    """Which part of the layer's users take part: from and up to, of 1."""
    start: Time
    end: Time
    """Of the wall clock; a time without a zone is UTC."""
    targeting: dict[Text, Annotated[list[Text], Field(min_length=1)]] = {}
    """Attribute of a request -> the values that take part; ``scenario`` is the request's own."""
    salt: Text | None = None
    """Users are dealt anew under another one; by default the name."""
    variants: Annotated[dict[Text, Variant], Field(min_length=2, max_length=20)]
    """The first one is what others are compared with."""
    guardrails: Guardrails = Guardrails()

    @field_validator("variants", mode="before")
    @classmethod
    def _empty_is_plain(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: {} if own is None else own for name, own in value.items()}

    @field_validator("variants")
    @classmethod
    def _plain_names(cls, value: dict[str, Variant]) -> dict[str, Variant]:
        for name in value:
            _require(bool(NAME.fullmatch(name)), f"the name {name!r} is not letters, digits, _, -")
        return value

    @model_validator(mode="after")
    def _order(self) -> Self:
        _require(self.start < self.end, "end must be after start")
        low, high = self.traffic
        _require(low < high, f"traffic must rise; got {low} to {high}")
        return self

    @property
    def control(self) -> str:
        """Name of the variant that others are compared with."""
        return next(iter(self.variants))

    @property
    def levers(self) -> set[str]:
        """What its variants change."""
        return {lever for variant in self.variants.values() for lever in variant.levers}

    @cached_property
    def edges(self) -> list[float]:
        """Where each variant's users end, of 1."""
        rising = list(accumulate(variant.weight for variant in self.variants.values()))
        return [edge / rising[-1] for edge in rising]

    @cached_property
    def revision(self) -> str:
        """Eight hex digits that change when users are dealt anew or a variant changes."""
        told = self.model_dump_json(include={"name", "layer", "salt", "variants"})
        return sha256_text(told)[:8]

    def running(self, now: datetime) -> bool:
        """Whether users take part at a time."""
        return self.enabled and self.start <= now < self.end


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise ValueError(sentence)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses a mapping that names a key twice, of which YAML would keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for place, key in enumerate(keys) if key in keys[:place]]
        if twice:
            raise yaml.constructor.ConstructorError(
                problem=f"the key {twice[0]!r} is there twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)


def read_experiment(path: Path) -> Experiment:
    """Read one file.

    Raises:
        ConfigError: it is no YAML, or a key is missing, unknown or wrong: file and key named.
    """
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    return parse_experiment(value, path)


def parse_experiment(value: Any, path: Path) -> Experiment:
    """What a file says; see ``read_experiment``."""
    if not NAME.fullmatch(path.stem):
        raise ConfigError(f"{path}: an experiment is named by letters, digits, _ and -.")
    if not isinstance(value, dict) or "name" in value:
        raise ConfigError(f"{path} must hold the keys of an experiment, and not its name.")
    try:
        return Experiment.model_validate({**value, "name": path.stem})
    except ValidationError as error:
        raise ConfigError(" ".join(_sentences(path, error))) from None


def _sentences(path: Path, error: ValidationError) -> Iterator[str]:
    for one in error.errors(include_url=False):
        key = ".".join(str(part) for part in one["loc"] if part != "[key]")
        said = one["msg"].removeprefix("Value error, ")
        said = said[:1].lower() + said[1:]
        got = f"; got {one['input']!r}" if one["type"] not in ("missing", "value_error") else ""
        yield f"{path}: {key}: {said}{got}." if key else f"{path}: {said}."


def require_apart(one: Experiment, other: Experiment) -> None:
    """Check that two experiments can run beside each other.

    Raises:
        ConfigError: they run at the same time, and share users of a layer, or a lever of two.
    """
    both = one.enabled and other.enabled
    if not both or one.end <= other.start or other.end <= one.start:
        return
    if one.layer == other.layer:
        if max(one.traffic[0], other.traffic[0]) < min(one.traffic[1], other.traffic[1]):
            raise ConfigError(
                f"traffic: {one.name} and {other.name} have users of the layer {one.layer!r} in "
                f"common: {one.traffic} and {other.traffic}. Give them parts that do not overlap."
            )
        return
    shared = sorted(one.levers & other.levers)
    if shared:
        raise ConfigError(
            f"layer: {one.name} and {other.name} both set {shared} in different layers, so that "
            "their effects could not be told apart. Put them into one layer."
        )
