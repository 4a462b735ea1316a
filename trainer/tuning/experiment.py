"""What all trials of a study share: the experiment, its data, and the window they are judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feature_repo.contract.artifacts import MANIFEST, read_json, read_manifest, sha256_file
from feature_repo.contract.dataset import Dataset, parse_time
from feature_repo.contract.errors import ConfigError
from trainer.config import RunConfig, compose
from trainer.model_config import ModelConfig, TwoTowerModelConfig
from trainer.ranker_config import RankerModelConfig
from trainer.runs import identity
from trainer.sets import TrainingSet
from trainer.tuning.config import GROUP, Direction, SearchConfig, as_override, load_search

METRICS: dict[type[ModelConfig], tuple[str, ...]] = {
    TwoTowerModelConfig: (
        "recall_all_200",
        "recall_new_200",
        "recall_new_20",
        "ndcg_new_20",
        "ndcg_new_200",
    ),
    RankerModelConfig: ("ndcg@10", "precision@10"),
}
"""What each model measures on the window after its cut-off."""


@dataclass(frozen=True)
class Experiment:
    """A search over the settings of one experiment."""

    name: str
    """Of the file in ``conf/experiment/``."""
    search_name: str
    search: SearchConfig
    overrides: tuple[str, ...]
    """Given on the command line."""
    config: RunConfig
    """Without any trial's values."""

    @staticmethod
    def of(arguments: Sequence[str]) -> Experiment:
        """Read a command line, and check all of it that can be checked before the first trial.

        Raises:
            ConfigError: an unknown setting, search or metric, a value that a trial could get and
                that does not hold, or a window that trials must not be judged on.
            ArtifactError: the data set, or a set of it, was not made.
        """
        named = {name: _value_of(name, arguments) for name in ("experiment", GROUP)}
        own = [text.removeprefix(f"{GROUP}.") for text in arguments if text.startswith(f"{GROUP}.")]
        search = load_search(named[GROUP], own)
        rest = tuple(text for text in arguments if not text.startswith((f"{GROUP}=", f"{GROUP}.")))
        found = Experiment(
            named["experiment"], named[GROUP], search, rest, compose(_shared(search, rest))
        )
        found._check()
        return found

    def trial_overrides(self, values: Sequence[str]) -> list[str]:
        """What a trial's run is started with."""
        return [*_shared(self.search, self.overrides), *values]

    def _check(self) -> None:
        config, search = self.config, self.search
        measured = METRICS.get(type(config.model))
        if measured is not None and search.metric not in measured:
            raise ConfigError(
                f"{GROUP}={self.search_name} seeks {search.metric}, which {self.name} does not "
                f"measure; choose of {', '.join(measured)}."
            )
        if isinstance(config.model, RankerModelConfig) and config.model.members > 1:
            raise ConfigError("A trial trains one member: leave model.members to the final run.")
        if not config.validate:
            raise ConfigError("Trials are judged on validation: leave validate=false out.")
        expected = search.metric if search.direction is Direction.maximize else None
        if config.trainer.select != expected:
            raise ConfigError(
                f"trainer.select is {config.trainer.select}, but trials keep the epoch that is "
                f"chosen by {expected}: leave trainer.select out."
            )
        self._check_space()
        self._check_windows()

    def _check_space(self) -> None:
        given = {text.partition("=")[0] for text in self.overrides}
        for key in self.search.space:
            if key in given:
                raise ConfigError(f"{key} is given and searched; leave it out of one of the two.")
        for place in range(max(len(setting.extremes) for setting in self.search.space.values())):
            together = [
                as_override(key, setting.extremes[place % len(setting.extremes)])
                for key, setting in self.search.space.items()
            ]
            if self._fault(together) is not None:
                self._check_each()

    def _check_each(self) -> None:
        """Check the settings by themselves: values that only clash with others' are left to the
        trials."""
        for key, setting in self.search.space.items():
            for value in setting.extremes:
                error = self._fault([as_override(key, value)])
                if error is not None:
                    raise ConfigError(
                        f"{GROUP}={self.search_name} searches {key}, which cannot be {value}: "
                        f"{error}"
                    ) from error

    def _fault(self, values: Sequence[str]) -> ConfigError | None:
        """Why a trial cannot have these values."""
        try:
            compose(self.trial_overrides(values))
        except ConfigError as error:
            return error
        return None

    def _check_windows(self) -> None:
        dataset = self.config.dataset()
        test = dataset.edges[2]
        for judged in self._judged(dataset):
            until = read_json(judged.folder / "set.json").get("until")
            if until is None:
                raise ConfigError(
                    f"Nothing is known of the time after the cut-off of {judged.folder}: trials "
                    "cannot be judged on it. Take an earlier cut-off."
                )
            if parse_time(until) > test:
                raise ConfigError(
                    f"Trials would be judged on {judged.folder.name}, whose window ends at {until} "
                    f"and so reaches into the test window, from {test.isoformat()} on. Settings "
                    "are never chosen on the test: take cutoff=t1 or an earlier one."
                )

    def _judged(self, dataset: Dataset) -> list[TrainingSet]:
        """Sets whose windows the trials are judged on."""
        match self.config.model:
            case RankerModelConfig(validation=None):
                raise ConfigError(
                    "Tuning a ranker needs model.validation=DIR: the retriever bundle, fitted at "
                    "the cut-off, whose window each epoch is judged on."
                )
            case RankerModelConfig(validation=str(folder)):
                from retrieval.retriever import KIND

                cutoff = str(read_manifest(Path(folder), KIND, verify=False)["cutoff"])
            case _:
                cutoff = self.config.cutoff
        return [TrainingSet.open(dataset, "ranking_v1", "users", cutoff)]

    def _inputs(self, dataset: Dataset) -> dict[str, str]:
        """Name -> digest of what trials read."""
        found = {judged.folder.name: judged.digest for judged in self._judged(dataset)}
        match self.config.model:
            case RankerModelConfig() as model:
                bundles = [self.config.retriever, *model.earlier, model.validation]
                paths = [Path(name) / MANIFEST for name in bundles if name is not None]
                found |= {f"bundle {i}": sha256_file(path) for i, path in enumerate(paths)}
            case _:
                sessions = TrainingSet.open(dataset, "retrieval_v1", "sessions", self.config.cutoff)
                found[sessions.folder.name] = sessions.digest
        return found

    def settings(self) -> dict[str, Any]:
        """What the study's folder keeps; see ``Study.open``."""
        return {
            "experiment": self.name,
            "search_name": self.search_name,
            "overrides": list(self.overrides),
            "run": identity(self.config, self._inputs(self.config.dataset())),
            "search": self.search.identity(),
        }


def _value_of(name: str, arguments: Sequence[str]) -> str:
    found = [text.partition("=")[2] for text in arguments if text.startswith(f"{name}=")]
    if not found:
        raise ConfigError(f"{name}=NAME is missing. See `python -m trainer.tune --help`.")
    return found[-1]


def _shared(search: SearchConfig, overrides: Sequence[str]) -> list[str]:
    """Overrides of every trial; those that are given win."""
    chosen = search.metric if search.direction is Direction.maximize else "null"
    ours = ["validate=true", f"trainer.select={chosen}", "trainer.evaluate_every=1"]
    return [*ours, "trainer.keep_checkpoints=1", *overrides]
