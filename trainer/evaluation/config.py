"""Settings of ``python -m trainer.evaluate``: a checked dataclass that the command line fills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from feature_repo.contract.dataset import REPOSITORY, Dataset
from feature_repo.contract.errors import ConfigError

CONF = REPOSITORY / "conf"


class Split(Enum):
    """Which window the lists are judged on."""

    validation = "validation"
    """[t1, t2), lists made from what happened before t1. Everything is chosen here."""
    test = "test"
    """[t2, t3), lists made from what happened before t2. Looked at once."""


@dataclass
class BaselineConfig:
    """Settings of the baselines; chosen on the validation weeks of complete_journey."""

    recent_days: float = 28.0
    """Span of "recent" popularity."""
    half_life_days: float = 56.0
    """Age at which a purchase weighs half, in own frequency and iALS."""
    max_items: int = 10_000
    """Items with most buyers that item-kNN and EASE know."""
    neighbours: int = 100
    """Most similar items that item-kNN keeps of each item."""
    ease_l2: float = 1_000.0
    ials_factors: int = 64
    ials_l2: float = 30.0
    ials_alpha: float = 2.0
    """Confidence that one purchase of today adds."""
    ials_iterations: int = 15
    seed: int = 0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name != "seed" and value <= 0:
                raise ConfigError(f"baselines.{item.name} must be above zero; got {value}.")


def _default_data() -> list[Any]:
    return ["_self_", {"data": "complete_journey"}]


@dataclass
class EvaluateConfig:
    """What is judged, on which window, and where the answer goes."""

    defaults: list[Any] = field(default_factory=_default_data)
    lists: str | None = None
    """Parquet file of ``serving.batch``; null: the baselines alone."""
    lists_new: str | None = None
    """The same, made with --exclude-seen: judged on items new to the user."""
    split: Split = Split.validation
    out: str = MISSING
    """Folder for evaluation.json, evaluation.md and the plots."""
    name: str = "shoprec"
    """What the judged system is called in the table."""
    k: int = 10
    """Places of a list that are judged; further ones are cut off."""
    max_users: int | None = 20_000
    """Judge this many users, drawn by ``seed``, where there are more; null: all."""
    samples: int = 1000
    """Bootstrap samples of the intervals."""
    seed: int = 0
    baselines: BaselineConfig = field(default_factory=BaselineConfig)
    data: dict[str, Any] = field(default_factory=dict)
    """The data set: ``name`` and, where it is not data/<name>, ``root``."""

    def __post_init__(self) -> None:
        for name in ("k", "samples", "max_users"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1; got {value}.")

    def dataset(self) -> Dataset:
        """The ingested data set.

        Raises:
            ArtifactError: it was not ingested.
        """
        name = str(self.data["name"])
        root = Path(str(self.data.get("root") or f"data/{name}"))
        return Dataset.load(root.resolve() / "dataset.json")


def load_config(overrides: Sequence[str]) -> EvaluateConfig:
    """Compose ``conf/data`` and ``overrides`` into checked settings.

    Raises:
        ConfigError: an unknown key or data set, a value out of range or of a wrong type, or
            ``out`` is missing.
    """
    store = ConfigStore.instance()
    store.store(name="_evaluate", node=EvaluateConfig, provider="trainer.evaluation")
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = compose("_evaluate", overrides=[_allowed(text) for text in overrides])
        if OmegaConf.is_missing(composed, "out"):
            raise ConfigError("out=FOLDER is missing: say where evaluation.json shall go.")
        config = OmegaConf.to_object(composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error)) from error
    assert isinstance(config, EvaluateConfig)
    return config


def _allowed(override: str) -> str:
    """Any setting of the data may be given: those that only ingest reads are passed over."""
    return f"++{override}" if override.startswith("data.") else override


def _explain(error: Exception) -> str:
    cause = error.__cause__ or error
    known = [item.name for item in fields(EvaluateConfig) if item.name != "defaults"]
    baselines = [item.name for item in fields(BaselineConfig)]
    return (
        f"The settings do not hold: {str(error).splitlines()[0]} ({str(cause).splitlines()[0]}). "
        f"Settings are {', '.join(known)}; of baselines: {', '.join(baselines)}; data sets: "
        f"{', '.join(sorted(path.stem for path in (CONF / 'data').glob('*.yaml')))}."
    )
