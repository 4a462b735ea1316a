"""MovieLens-1M as click prediction: FM and our rankers' networks, beside published figures.

Labels and split are AutoInt's, example by example (``benchmarks._ctr_data``). Papers read other
fields with them, which decides more than the model does, so that there are two tables:

- ``ids``: user and item id, gender, age, occupation, zip code and genres. Wang et al., "DCN V2"
  (2021) embed the six of these that have one value, with a random split of their own; that two of
  them are the ids is told by their figure 6.
- ``attributes``: gender, age, occupation, zip code, year of release and genres. AutoInt's program
  reads these and the time of the rating, and no id: its features are 3,529. The time is left out
  here, as it is not among the data.

Settings, and the epoch that is kept, are chosen on validation; the test is judged once, on average
over the seeds. No model reads the history of the user.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._command import run_command
from benchmarks._ctr_data import Ctr, read_ctr
from benchmarks._ctr_models import CrossShape, RankerShape, Shape
from benchmarks._ctr_training import Judgement, Recipe, Trained, train
from benchmarks._report import save, table
from feature_repo.contract.errors import ConfigError
from ranking.wide_deep import WideDeepConfig
from trainer.distributed import set_up_logging

log = logging.getLogger("benchmarks.ctr")

HELP = """\
python -m benchmarks.ctr ml1m=DIR [KEY=VALUE ...]

  ml1m=DIR             GroupLens' users.dat, movies.dat and ratings.dat
  fields=[ids,attributes]           what is read
  models=[fm,wide_deep,dcn_v2]      what is trained
  seeds=[0,1,2]        of first values and of the order of examples
  split=test           or validation, to choose settings by: the test is then not looked at
  name=ctr             benchmarks/results/<name>.json
"""

FIELDS = {
    "ids": ("user_id", "item_id", "gender", "age", "occupation", "zip", "genres"),
    "attributes": ("gender", "age", "occupation", "zip", "year", "genres"),
}
NAMES = {"fm": "FM", "wide_deep": "Wide & Deep", "dcn_v2": "DCN-V2"}
AUTOINT = "Song et al. (2019), table 2"
DCN = "Wang et al. (2021), table 6"
PUBLISHED: dict[str, tuple[tuple[str, float, float, str], ...]] = {
    "ids": (
        ("DNN", 0.8929, 0.3201, DCN),
        ("DeepFM", 0.8932, 0.3202, DCN),
        ("AutoInt+", 0.8928, 0.3204, DCN),
        ("DCN-V2", 0.8950, 0.3170, DCN),
        ("DCN-Mix", 0.8964, 0.3160, DCN),
    ),
    "attributes": (
        ("LR", 0.7716, 0.4424, AUTOINT),
        ("FM", 0.8252, 0.3998, AUTOINT),
        ("DeepCrossing", 0.8448, 0.3814, AUTOINT),
        ("AutoInt", 0.8456, 0.3797, AUTOINT),
    ),
}
"""Fields -> model, AUC, logloss and source; those of ``attributes`` also read the time."""

RECIPES = {
    "fm": Recipe(Shape(), l2=1.6e-2, epochs=40),
    "wide_deep": Recipe(
        RankerShape(network=WideDeepConfig(hidden=[128, 64], dropout=0.0)), l2=1e-3
    ),
    "dcn_v2": Recipe(CrossShape(), l2=1e-3),
}
"""Model -> how it is trained."""


@dataclass
class Config:
    """Settings of the benchmark."""

    ml1m: str | None = None
    fields: list[str] = field(default_factory=lambda: list(FIELDS))
    models: list[str] = field(default_factory=lambda: list(RECIPES))
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    split: str = "test"
    name: str = "ctr"

    def __post_init__(self) -> None:
        if self.split not in ("validation", "test"):
            raise ConfigError(f"split must be validation or test; got {self.split}.")
        if not self.seeds:
            raise ConfigError("seeds must name at least one seed.")
        for name, known in (("fields", FIELDS), ("models", RECIPES)):
            unknown = sorted(set(getattr(self, name)) - set(known))
            if unknown:
                raise ConfigError(f"{name} must be of {list(known)}; got {unknown[0]}.")


def measure(config: Config) -> None:
    """Train everything, print the tables and keep them.

    Raises:
        ConfigError: the data's folder is not named.
    """
    set_up_logging()
    log.setLevel(logging.INFO)
    if config.ml1m is None:
        raise ConfigError("Name the folder of GroupLens' files: ml1m=DIR.")
    torch.set_num_threads(1)
    ctr = read_ctr(Path(config.ml1m))
    rows = []
    for fields in config.fields:
        found = [*published(fields), *trained(ctr, fields, config)]
        rows += found
        shown = [_shown(row) for row in found]
        sys.stdout.write(f"\n{fields}: {', '.join(FIELDS[fields])}; {config.split}\n\n")
        sys.stdout.write(table(shown))
    path = save(config.name, json.loads(json.dumps(asdict(config))), rows)
    sys.stdout.write(f"\n{path}\n")


def published(fields: str) -> Iterator[dict[str, Any]]:
    """Rows of other people's figures."""
    for model, auc, logloss, source in PUBLISHED[fields]:
        yield _row(fields, model, Judgement(auc, logloss), source=f"published: {source}")


def trained(ctr: Ctr, fields: str, config: Config) -> Iterator[dict[str, Any]]:
    """Rows of our models: the mean over the seeds, and the mean of the seeds' predictions."""
    judged = getattr(ctr, config.split)
    for model in config.models:
        runs = []
        for seed in config.seeds:
            log.info("%s, %s, seed %d", fields, model, seed)
            runs.append(train(ctr, FIELDS[fields], RECIPES[model], seed, judged))
        found = [Judgement.of(judged, run.predicted) for run in runs]
        yield _mean_row(fields, model, runs, found)
        if len(runs) > 1:
            mean = Judgement.of(judged, np.mean([run.predicted for run in runs], axis=0))
            source = f"mean of the predictions of {len(runs)} seeds"
            yield _row(fields, f"shoprec {NAMES[model]}, averaged", mean, source=source)


def _mean_row(
    fields: str, model: str, runs: Sequence[Trained], found: Sequence[Judgement]
) -> dict[str, Any]:
    auc, logloss = (np.array([getattr(one, name) for one in found]) for name in ("auc", "logloss"))
    row = _row(
        fields,
        f"shoprec {NAMES[model]}",
        Judgement(float(auc.mean()), float(logloss.mean())),
        source=f"mean of {len(runs)} seeds" if len(runs) > 1 else "1 seed",
    )
    if len(runs) > 1:
        deviations = auc.std(ddof=1), logloss.std(ddof=1)
        row["auc_deviation"], row["logloss_deviation"] = map(float, deviations)
    row["epochs"] = float(np.mean([run.epochs for run in runs]))
    row["seconds"] = float(np.mean([run.seconds for run in runs]))
    return row


def _row(fields: str, model: str, found: Judgement, source: str) -> dict[str, Any]:
    return {
        "fields": fields,
        "model": model,
        "auc": found.auc,
        "auc_deviation": None,
        "logloss": found.logloss,
        "logloss_deviation": None,
        "epochs": None,
        "seconds": None,
        "source": source,
    }


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row as it is printed: metrics to four places."""
    precise = ("auc", "logloss", "auc_deviation", "logloss_deviation")
    return {
        key: f"{value:.4f}" if key in precise and value is not None else value
        for key, value in row.items()
        if key != "fields"
    }


def main(arguments: Sequence[str]) -> int:
    """Measure; return the exit code."""
    return run_command(arguments, Config, HELP, measure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
