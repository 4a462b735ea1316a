"""The experiments of a running server: who takes part, and what they were shown."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.answers import Recommendation
from serving.experiments.assignment import takes_part, unit, variant_of
from serving.experiments.config import Experiment, Settings
from serving.experiments.exposure import Exposure, ExposureLog
from serving.experiments.folder import Folder
from serving.experiments.treatment import Arm, Treatment
from serving.ids import BadField
from serving.query import Query

if TYPE_CHECKING:
    from serving.recommender import Recommender

log = logging.getLogger(__name__)

EVERY_S = 0.5
"""Time between two looks at the folder."""
EXPOSURES = "exposures"
"""Folder of the log of exposures, beside the feedback log."""
VARIANT, SCENARIO = "variant", "scenario"
"""Field of a request, and an attribute that every request has."""


def _wall() -> datetime:
    return datetime.now(UTC)


class Experiments:
    """Deals users to variants and logs what they are shown."""

    def __init__(
        self,
        folder: Path | None = None,
        exposures: ExposureLog | None = None,
        now: Callable[[], datetime] = _wall,
        explored: Callable[[Recommendation], None] = lambda answer: None,
        share: float = 0.0,
    ) -> None:
        """Read nothing yet.

        Args:
            folder: of the experiments' files; None: there are none.
            exposures: where they are logged; None: nowhere.
            now: the wall clock.
            explored: is told of each answer that explored.
            share: of the users whose answers are logged though nothing is tried on them.
        """
        self.folder = Folder(folder)
        self._exposures, self._now, self._explored = exposures, now, explored
        self._share = share
        self._ended = threading.Event()

    def look(self) -> bool:
        """Take over what changed in the folder; whether there was anything."""
        return self.folder.look()

    def prepare(self, recommender: Recommender) -> None:
        """Have the policies of all variants ready."""
        recommender.items.offer(self._policies())

    def watch(self, current: Callable[[], Recommender]) -> None:
        """Follow the folder until the end.

        Args:
            current: the recommender that answers now.
        """
        if self.folder.path is None:
            return

        def working() -> None:
            while not self._ended.wait(EVERY_S):
                try:
                    self.look()
                    self.prepare(current())
                except Exception:
                    log.exception("Experiments go on as they are after a failure.")
                    self._ended.wait(1.0)

        threading.Thread(target=working, name="experiments", daemon=True).start()

    def close(self) -> None:
        """Write what waits to be logged."""
        self._ended.set()
        if self._exposures is not None:
            self._exposures.close()

    def assigned(self, query: Query) -> Query:
        """A checked request with the variants that its user sees; without, where no experiment is.

        Raises:
            BadField: it names an experiment or a variant that there is not.
        """
        found = self.folder.experiments
        if not found and not query.variant:
            return query
        given = [self._given(name, variant) for name, variant in query.variant.items()]
        taken = {experiment.layer for experiment, _ in given}
        arms = [_arm(*one) for one in [*self._dealt(query, found.values(), taken), *given]]
        if not arms:
            return query
        return replace(query, treatment=Treatment(tuple(arms), override=bool(given)))

    def shown(self, query: Query, answer: Recommendation) -> Recommendation:
        """The answer to a request, which names its experiment; logged, and so if it explored."""
        is_plain = query.treatment is None and answer.explored is None
        if is_plain and not (self._share and unit(EXPOSURES, query.user_id) < self._share):
            return answer
        if query.treatment is not None:
            answer = replace(answer, experiment=query.treatment.label)
        if self._exposures is not None:
            self._exposures.add(Exposure(query.user_id, query.treatment, answer, self._now()))
        if answer.explored is None:
            return answer
        self._explored(answer)
        return replace(answer, explored=None)

    def describe(self) -> dict[str, Any]:
        """What is in force, as JSON has it."""
        now = self._now()
        return {
            "experiments": {
                name: {
                    **one.model_dump(mode="json", exclude={"name"}, exclude_defaults=True),
                    "running": one.running(now),
                    "revision": one.revision,
                }
                for name, one in self.folder.experiments.items()
            },
            "refused": self.folder.refused,
        }

    def _dealt(
        self, query: Query, experiments: Iterable[Experiment], taken: set[str]
    ) -> list[tuple[Experiment, str]]:
        """The variants by the hash of the user's id, but of the layers that are taken."""
        now = self._now()
        return [
            (experiment, variant_of(experiment, query.user_id))
            for experiment in experiments
            if experiment.running(now)
            and experiment.layer not in taken
            and _targeted(experiment, query)
            and takes_part(experiment, query.user_id)
        ]

    def _given(self, name: str, variant: str) -> tuple[Experiment, str]:
        """What a tester asks for, whoever is meant to see it and when."""
        experiment = self.folder.experiments.get(name)
        if experiment is None or not experiment.enabled:
            there = sorted(key for key, one in self.folder.experiments.items() if one.enabled)
            raise BadField(VARIANT, f"variant: there is no experiment {name!r} now, but {there}.")
        if variant not in experiment.variants:
            names = list(experiment.variants)
            raise BadField(VARIANT, f"variant: {name} has the variants {names}; got {variant!r}.")
        return experiment, variant

    def _policies(self) -> set[Settings]:
        """All that variants may need."""
        return {
            variant.settings
            for experiment in self.folder.experiments.values()
            for variant in experiment.variants.values()
            if experiment.enabled and variant.settings
        }


def _arm(experiment: Experiment, variant: str) -> Arm:
    return Arm(experiment.name, variant, experiment.revision, experiment.variants[variant])


def _targeted(experiment: Experiment, query: Query) -> bool:
    """A request that names its ranker is of an experiment with rankers only if that says so."""
    names = query.scenario is not None and SCENARIO not in experiment.targeting
    if names and "ranker" in experiment.levers:
        return False
    if not experiment.targeting:
        return True
    said = {**query.attributes}
    if query.scenario is not None:
        said[SCENARIO] = query.scenario
    return all(said.get(name) in values for name, values in experiment.targeting.items())
