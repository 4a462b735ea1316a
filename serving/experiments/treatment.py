"""What the variants of a user's experiments change of one list."""

from __future__ import annotations

from dataclasses import dataclass, field

from serving.experiments.config import Settings, Variant

__all__ = ["NOTHING", "Arm", "Levers", "Settings", "Treatment", "levers_of"]


@dataclass(frozen=True)
class Arm:
    """One experiment that a request is part of, and the user's variant in it."""

    experiment: str
    variant: str
    revision: str
    """Of the experiment's file."""
    changes: Variant = field(repr=False)

    @property
    def label(self) -> str:
        """As answers name it."""
        return f"{self.experiment}:{self.variant}"

    @property
    def names(self) -> dict[str, str]:
        """As the log of exposures has it."""
        return {
            "experiment": self.experiment,
            "variant": self.variant,
            "revision": self.revision,
        }


@dataclass(frozen=True)
class Treatment:
    """The experiments that a request is part of; those of different layers together."""

    arms: tuple[Arm, ...]
    override: bool = False
    """Whether the request named a variant itself, as testers do: reports leave it out."""

    @property
    def label(self) -> str:
        """As answers name it."""
        return ",".join(arm.label for arm in self.arms)


@dataclass(frozen=True)
class Levers:
    """What is changed of a list; nothing by default."""

    ranker: str | None = None
    sources: tuple[tuple[str, float], ...] = ()
    """The only ones that are used, with their weights; empty: all."""
    policy: Settings = ()


def levers_of(changes: Variant) -> Levers:
    """What a variant changes."""
    return Levers(changes.ranker, tuple(changes.sources.items()), changes.settings)


NOTHING = Levers()
