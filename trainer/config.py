"""Settings of a training run: checked dataclasses that ``conf/`` and the command line fill.

``compose`` is where Hydra ends: everything past it takes a ``RunConfig``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from feature_repo.contract.artifacts import read_json
from feature_repo.contract.dataset import REPOSITORY, Dataset
from feature_repo.contract.errors import ConfigError, require
from feature_repo.contract.tables import TableForm
from ranking.rankers import RANKERS
from retrieval.index import IndexConfig
from trainer.factor_config import IalsConfig, LightGcnConfig, MfConfig
from trainer.graph_filter_config import GraphFilterConfig
from trainer.model_config import (
    GraphSageModelConfig,
    ModelConfig,
    TwoTowerModelConfig,
)
from trainer.ncf_config import NcfConfig
from trainer.ranker_config import RankerModelConfig
from trainer.sharding_config import ShardingConfig
from trainer.source_config import (
    BlendConfig,
    ContentConfig,
    EaseConfig,
    GroupConfig,
    KnnConfig,
    PopularConfig,
    SimilarUsersConfig,
    TrendingConfig,
)

CONF = REPOSITORY / "conf"
MODELS: dict[str, type[ModelConfig]] = {
    "two_tower": TwoTowerModelConfig,
    "graphsage": GraphSageModelConfig,
    "mf": MfConfig,
    "lightgcn": LightGcnConfig,
    "ncf": NcfConfig,
    "ials": IalsConfig,
    "ease": EaseConfig,
    "item_knn": KnnConfig,
    "graph_filter": GraphFilterConfig,
    "groups": GroupConfig,
    "popular": PopularConfig,
    "trending": TrendingConfig,
    "content": ContentConfig,
    "similar_users": SimilarUsersConfig,
    "blend": BlendConfig,
}
"""``model=NAME``, and the settings of it; those of rankers are in ``ranking.rankers``."""


def name_of(model: ModelConfig) -> str:
    """What ``model=`` calls it."""
    if isinstance(model, RankerModelConfig):
        return model.kind
    return next(name for name, kind in MODELS.items() if kind is type(model))


class Schedule(Enum):
    """How learning rates change over the steps of a run."""

    constant = "constant"
    linear = "linear"
    """Falls in a straight line to zero at the last step."""
    cosine = "cosine"
    """Falls along half a cosine to zero at the last step."""


class Precision(Enum):
    """Of numbers in memory."""

    fp32 = "fp32"
    fp16 = "fp16"
    """Half the memory; FBGEMM rounds stochastically, so that small updates are not lost."""


class Compute(Enum):
    """Of the dense layers' products."""

    fp32 = "fp32"
    bf16 = "bf16"
    """By torch's autocast."""


@dataclass
class OptimizerConfig:
    """Adam for the dense layers, fused row-wise Adagrad for the tables."""

    dense_lr: float = 1e-3
    weight_decay: float = 0.0
    """Of the dense layers, decoupled (AdamW)."""
    table_lr: float = 0.05
    table_lrs: dict[str, float] = field(default_factory=dict)
    """Table -> its learning rate, where it is not ``table_lr``: {user_id: 0.1}."""
    table_dtype: Precision = Precision.fp32
    table_eps: float = 1e-8
    init_std: float = 0.05
    """Standard deviation of a table's first values."""
    schedule: Schedule = Schedule.linear
    table_schedule: Schedule | None = None
    """Of the tables' rates; null: as ``schedule``."""
    warmup_steps: int = 0
    """Steps over which rates rise from zero."""
    clip_norm: float | None = None
    """Largest norm of the dense gradients; null: any."""

    def __post_init__(self) -> None:
        for name in ("dense_lr", "table_lr", "table_eps", "init_std"):
            value = getattr(self, name)
            require(value > 0, f"optimizer.{name} must be above zero; got {value}.")
        for name in ("weight_decay", "warmup_steps"):
            value = getattr(self, name)
            require(value >= 0, f"optimizer.{name} must not be negative; got {value}.")
        for table, rate in self.table_lrs.items():
            require(rate >= 0, f"optimizer.table_lrs.{table} must not be negative; got {rate}.")
        require(
            self.clip_norm is None or self.clip_norm > 0,
            f"optimizer.clip_norm must be above zero or null; got {self.clip_norm}.",
        )


@dataclass
class LoopConfig:
    """The training loop."""

    epochs: int = 3
    batch_size: int = 256
    """Examples a step, over all processes: sessions for two_tower, users for rankers."""
    max_steps: int | None = None
    """Stop each epoch after this many steps; null: at its end."""
    evaluate_every: int = 1
    """Epochs between evaluations; 0: only after the last."""
    select: str | None = None
    """Metric of the evaluation whose best epoch is kept; null: the last epoch."""
    patience: int = 0
    """Epochs without a better ``select`` after which training stops; 0: never."""
    log_every: int = 50
    """Steps between lines of the log and of the metrics."""
    checkpoint_every: int | None = None
    """Steps between checkpoints, beside those at the ends of epochs; null: none."""
    keep_checkpoints: int = 2
    compute: Compute = Compute.fp32
    streams: int = 8
    """Sequences that the row groups of a training set form; a process reads those that its part
    of a batch lies in. On a cluster: as many as there are processes."""
    shuffle_rows: int = 262_144
    """Examples that are mixed with one another; bounds the reader's memory."""
    cache_encoded: bool = True
    """Keep encoded examples in memory after the first epoch."""

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "batch_size",
            "log_every",
            "keep_checkpoints",
            "streams",
            "shuffle_rows",
        ):
            value = getattr(self, name)
            require(value > 0, f"trainer.{name} must be above zero; got {value}.")
        for name in ("evaluate_every", "patience"):
            value = getattr(self, name)
            require(value >= 0, f"trainer.{name} must not be negative; got {value}.")
        for name in ("max_steps", "checkpoint_every"):
            value = getattr(self, name)
            require(
                value is None or value > 0,
                f"trainer.{name} must be above zero or null; got {value}.",
            )
        require(
            self.patience == 0 or self.select is not None,
            "trainer.patience needs trainer.select, the metric that is watched.",
        )


@dataclass
class PathsConfig:
    """Where things are written, relative to the current folder."""

    runs: str = "runs"


@dataclass
class DataChoice:
    """Which data set is read."""

    data: dict[str, Any] = field(default_factory=dict)
    """The data set: ``name`` and, where it is not data/<name>, ``root``."""

    @property
    def dataset_folder(self) -> Path:
        """The data set's folder, absolute."""
        name = str(self.data["name"])
        return Path(str(self.data.get("root") or f"data/{name}")).resolve()

    def dataset(self) -> Dataset:
        """The ingested data set.

        Raises:
            ArtifactError: it was not ingested.
        """
        return Dataset.load(self.dataset_folder / "dataset.json")


@dataclass
class RunConfig(DataChoice):
    """Everything that a run is made from."""

    experiment: str = "run"
    """First part of the run's name."""
    cutoff: str = MISSING
    """t0..t3 or an ISO time: nothing from then on is seen."""
    retriever: str | None = None
    """For rankers: the retriever bundle, fitted one window before the cut-off."""
    seed: int = 0
    warm_start: str | None = None
    """Folder of an earlier run of the same model, whose vocabularies, values and optimiser state
    this run begins with: known ids keep their rows, new ones get rows after them."""
    export_tables: TableForm = TableForm.fp32
    """How the finished run's tables are written: fp32, fp16, or int8 with a factor a row."""
    validate: bool = False
    """Measure on what was bought in the window after the cut-off, to choose settings by. Never
    where that window is the test."""
    model: ModelConfig = MISSING
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: LoopConfig = field(default_factory=LoopConfig)
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)


def register() -> None:
    """Tell Hydra the types behind ``conf/``: YAML can set them, never invent."""
    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunConfig, provider="trainer")
    for name, node in MODELS.items():
        store.store(group="model", name=f"{name}_schema", node=node, provider="trainer")
    for name, kind in RANKERS.items():
        ranker = RankerModelConfig(network=kind.config())
        store.store(group="model", name=f"{name}_schema", node=ranker, provider="trainer")
    store.store(group="optimizer", name="schema", node=OptimizerConfig, provider="trainer")
    store.store(group="trainer", name="schema", node=LoopConfig, provider="trainer")
    store.store(group="sharding", name="schema", node=ShardingConfig, provider="trainer")
    store.store(group="index", name="schema", node=IndexConfig, provider="trainer")
    store.store(group="paths", name="schema", node=PathsConfig, provider="trainer")


Settled = DictConfig | ListConfig
LIKE = "like="
OF_A_RUN = (
    *("experiment", "seed", "export_tables", "model"),
    *("optimizer", "trainer", "sharding", "index"),
)
"""What ``like=RUN`` takes over: all but the data, the times and the places."""


def compose(overrides: Sequence[str]) -> RunConfig:
    """Compose ``conf/config.yaml`` and ``overrides``; see ``compose_as``.

    With ``like=RUN`` among them, what is not said is as in the folder of that run.
    """
    register()
    likes = [override.removeprefix(LIKE) for override in overrides if override.startswith(LIKE)]
    if not likes:
        return compose_as(RunConfig, "config", overrides)
    said = [override for override in overrides if not override.startswith(LIKE)]
    chosen = [override for override in said if override.startswith(("experiment=", "model="))]
    require(not chosen, f"like=RUN says which model it is; leave out {chosen}.")
    record = read_json(Path(likes[-1]) / "run.json")
    saved = OmegaConf.load(Path(likes[-1]) / "config.yaml")
    own = {key: OmegaConf.select(saved, key) for key in OF_A_RUN if key in saved}

    def settle(composed: DictConfig) -> Settled:
        OmegaConf.set_struct(composed, False)  # a run may have keys that its file has not
        settled = OmegaConf.merge(composed, own)
        for override in said:
            key = override.partition("=")[0].lstrip("+")
            OmegaConf.update(settled, key, OmegaConf.select(composed, key), merge=False)
        return settled

    return compose_as(RunConfig, "config", [f"model={record['model']['type']}", *said], settle)


Composed = TypeVar("Composed")


def compose_as(
    expected: type[Composed],
    name: str,
    overrides: Sequence[str],
    settle: Callable[[DictConfig], Settled] = lambda composed: composed,
) -> Composed:
    """Compose ``conf/<name>.yaml`` and ``overrides`` into a checked config.

    Args:
        expected: what it must be.
        name: of the file.
        overrides: settings of a command line.
        settle: what becomes of it before it is checked.

    Raises:
        ConfigError: an unknown key or choice, a value out of range or of a wrong type, or a
            setting that is missing.
    """
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = hydra_compose(name, overrides=list(overrides))
        config = OmegaConf.to_object(settle(composed))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error)) from error
    if not isinstance(config, expected):
        raise ConfigError(f"{CONF / name}.yaml does not begin with a schema of {expected}.")
    return config


def choices(group: str) -> list[str]:
    """Names that ``conf/<group>/`` offers, such as the experiments."""
    folder = CONF / group
    found = sorted(path.relative_to(folder).with_suffix("") for path in folder.rglob("*.yaml"))
    return [path.as_posix() for path in found]


def _explain(error: Exception) -> str:
    cause = error.__cause__ or error
    if isinstance(cause.__cause__, ConfigError):
        return str(cause.__cause__)
    lines = [line for line in str(error).splitlines() if line.strip()]
    reason = str(cause).splitlines()[0] if str(cause) else ""
    text = lines[0] if lines else type(error).__name__
    if reason and reason not in text:
        text = f"{text} ({reason})"
    return f"The settings do not hold: {text.rstrip('.')}. See `python -m trainer --help`."
