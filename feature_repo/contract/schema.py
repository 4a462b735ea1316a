"""The list of features that a model was made with, taken from Feast and carried by artifacts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from feature_repo.contract.artifacts import read_json, write_json
from feature_repo.contract.errors import ArtifactError, BadInput, SchemaMismatch


class Entity(StrEnum):
    """Whose feature it is."""

    USER = "user"
    ITEM = "item"
    PAIR = "pair"


class Encoding(StrEnum):
    """How a model reads a feature."""

    CATEGORICAL = "categorical"
    """Hashed into ``buckets`` rows of a table; row 0 means missing."""
    NUMERIC = "numeric"
    """Cut at quantiles of the training snapshot into ``buckets`` rows; row 0 means missing."""
    BAG = "bag"
    """A list of ids of ``of``, weighted by the list feature named ``weight``."""
    STATE = "state"
    """Read through the user state, not by itself."""
    NONE = "none"
    """Catalogue data that no model reads."""


class Derive(StrEnum):
    """What is made of a numeric value when it is encoded, at the time ``now``."""

    DAYS_SINCE = "days_since"
    """``now`` minus the value, which is epoch seconds; in days."""
    HOUR = "hour"
    """Of the day of ``now``, in UTC; no column is read."""
    WEEKDAY = "weekday"
    """Of ``now``, in UTC, Monday first; no column is read."""


REQUEST = "request"
"""View of the features that a request itself says; no store holds them."""
MOMENTS = {Derive.HOUR: 24, Derive.WEEKDAY: 7}
"""Derivations from ``now`` alone, and how many values they have."""


@dataclass(frozen=True)
class Feature:
    """One feature: a Feast ``Field`` with its tags, or a pair feature of the contract."""

    name: str
    entity: Entity
    view: str
    dtype: str
    encoding: Encoding
    buckets: int = 0
    derive: Derive | None = None
    bag_of: str | None = None
    bag_weight: str | None = None
    ttl_s: int | None = None
    """Seconds for which a value of its view holds; None: for ever."""

    def __post_init__(self) -> None:
        table = self.encoding in (Encoding.CATEGORICAL, Encoding.NUMERIC)
        if table and self.buckets < 2:
            raise BadInput(
                f"Feature {self.name} of {self.view} is {self.encoding} and needs a tag "
                f"'buckets' of at least 2; got {self.buckets}."
            )
        if self.encoding is Encoding.BAG and self.bag_of is None:
            raise BadInput(f"Feature {self.name} of {self.view} is a bag and needs a tag 'of'.")

    @staticmethod
    def from_tags(
        name: str, entity: Entity, view: str, dtype: str, tags: dict[str, str]
    ) -> Feature:
        """Read a feature from the tags of its Feast ``Field``.

        Raises:
            BadInput: an unknown tag or a value out of range, named with its feature.
        """
        known = {"encode", "transform", "buckets", "derive", "of", "weight"}
        unknown = sorted(set(tags) - known)
        if unknown or "encode" not in tags:
            raise BadInput(
                f"Feature {name} of view {view} has tags {tags}: it needs 'encode', "
                f"and may have {sorted(known - {'encode'})}."
            )
        try:
            return Feature(
                name=name,
                entity=entity,
                view=view,
                dtype=dtype,
                encoding=Encoding(tags["encode"]),
                buckets=int(tags.get("buckets", "0")),
                derive=Derive(tags["derive"]) if "derive" in tags else None,
                bag_of=tags.get("of"),
                bag_weight=tags.get("weight"),
            )
        except ValueError as error:
            raise BadInput(f"Feature {name} of view {view}: {error}.") from error


def context_feature(derive: Derive) -> Feature:
    """What a user tower reads of the moment of a request: ``request_hour``, ``request_weekday``."""
    return Feature(
        name=f"request_{derive.value}",
        entity=Entity.USER,
        view=REQUEST,
        dtype="Int64",
        encoding=Encoding.CATEGORICAL,
        buckets=MOMENTS[derive] + 1,
        derive=derive,
    )


@dataclass(frozen=True)
class Schema:
    """The features of one Feast service, in the service's order."""

    service: str
    features: tuple[Feature, ...]

    def __post_init__(self) -> None:
        names = [feature.name for feature in self.features]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise BadInput(f"Service {self.service} has two features named {twice}.")

    @property
    def fingerprint(self) -> str:
        """Hex digest that changes when any feature or its encoding changes."""
        text = json.dumps(self.to_json()["features"], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def of(self, entity: Entity) -> tuple[Feature, ...]:
        """The features of one entity."""
        return tuple(feature for feature in self.features if feature.entity is entity)

    def encoded(self, entity: Entity, *encodings: Encoding) -> tuple[Feature, ...]:
        """The features of one entity that are encoded in one of ``encodings``."""
        return tuple(feature for feature in self.of(entity) if feature.encoding in encodings)

    def extended(self, features: Iterable[Feature]) -> Schema:
        """This schema with more features at its end."""
        return Schema(self.service, (*self.features, *features))

    @property
    def stored(self) -> Schema:
        """This schema without what a request itself says."""
        return Schema(self.service, tuple(f for f in self.features if f.view != REQUEST))

    def require_same(self, other: Schema, what: str) -> None:
        """Check that ``other``, the schema of ``what``, is this one.

        Raises:
            SchemaMismatch: it is not; the differing features are named.
        """
        mine = {feature.name: feature for feature in self.features}
        theirs = {feature.name: feature for feature in other.features}
        differing = sorted(
            name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)
        )
        if differing:
            raise SchemaMismatch(
                f"{what} was made with other features than {self.service}: {differing} differ. "
                "Make it again from the present definitions."
            )

    def to_json(self) -> dict[str, Any]:
        """The schema as JSON values."""
        features = [
            {
                "name": feature.name,
                "entity": feature.entity.value,
                "view": feature.view,
                "dtype": feature.dtype,
                "encoding": feature.encoding.value,
                "buckets": feature.buckets,
                "derive": feature.derive.value if feature.derive else None,
                "bag_of": feature.bag_of,
                "bag_weight": feature.bag_weight,
                # Left out where there is none, so that older schemas keep their fingerprint.
                **({} if feature.ttl_s is None else {"ttl_s": feature.ttl_s}),
            }
            for feature in self.features
        ]
        return {"format": 1, "service": self.service, "features": features}

    @staticmethod
    def from_json(value: Any, source: str = "the schema") -> Schema:
        """Read a schema from JSON values.

        Raises:
            ArtifactError: they do not describe a schema of format 1.
        """
        try:
            if value["format"] != 1:
                raise ArtifactError(f"{source} has format {value['format']}; expected 1.")
            features = tuple(
                Feature(
                    **{
                        **row,
                        "entity": Entity(row["entity"]),
                        "encoding": Encoding(row["encoding"]),
                        "derive": Derive(row["derive"]) if row["derive"] else None,
                    }
                )
                for row in value["features"]
            )
            return Schema(value["service"], features)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{source} does not describe features: {error!r}") from error

    def save(self, path: Path) -> None:
        """Write the schema as JSON, atomically."""
        write_json(path, self.to_json())

    @staticmethod
    def load(path: Path) -> Schema:
        """Read a schema; see ``from_json``."""
        return Schema.from_json(read_json(path), str(path))
