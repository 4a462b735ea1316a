"""``make quickstart``: from raw data to a served, measured recommendation, stage by stage.

Every stage is a command that can be run alone; this module only strings them together, skips
those whose inputs did not change (``trainer.stages``), and shows what came out. It starts the
other packages as processes and imports none of them.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from feature_repo.contract.dataset import DATASET_VARIABLE, REPOSITORY, Clock, Dataset
from feature_repo.contract.embedded import URL_VARIABLE, online_url
from feature_repo.contract.errors import BadInput, ShoprecError
from trainer.showcase import show_answers, show_results, show_stages
from trainer.stages import Stage, Stages

log = logging.getLogger(__name__)

PYTHON = sys.executable
JOBS = ("feature_repo",)
FITTING = ("feature_repo", "retrieval", "trainer", "conf")


@dataclass(frozen=True)
class Shop:
    """The data set of this run and where its files lie."""

    data: str
    """Name of the YAML in ``conf/data``."""
    name: str
    root: Path
    overrides: tuple[str, ...]
    """All ``data...`` settings of the command line, for the jobs."""

    @staticmethod
    def from_overrides(overrides: Sequence[str]) -> Shop:
        """Read ``data=``, ``data.name=`` and ``data.root=`` from a command line.

        Raises:
            BadInput: an override that is none of the data's.
        """
        settings = {}
        for override in overrides:
            key, equals, value = override.partition("=")
            if not equals or not (key == "data" or key.startswith("data.")):
                raise BadInput(
                    f"{override!r} is not a setting of the data, such as data=parquet or "
                    "data.events=orders.parquet; --help lists the rest."
                )
            settings[key] = value
        data = settings.get("data", "complete_journey")
        name = settings.get("data.name", data)
        root = Path(settings.get("data.root", REPOSITORY / "data" / name)).resolve()
        kept = [o for o in overrides if not o.startswith(("data=", "data.root="))]
        return Shop(data, name, root, (f"data={data}", f"data.root={root}", *kept))

    @property
    def dataset_json(self) -> Path:
        """Written last by ingest."""
        return self.root / "dataset.json"

    @property
    def environment(self) -> dict[str, str]:
        """What Feast and the definitions need to find this shop."""
        found = {DATASET_VARIABLE: str(self.dataset_json)}
        own = self.root / "feature_store.yaml"
        if own.exists():
            found["FEAST_FS_YAML_FILE_PATH"] = str(own)
        return found

    def experiment(self, model: str) -> str:
        """The shop's own experiment of a model, or the one that suits any shop."""
        own = REPOSITORY / "conf" / "experiment" / self.data / f"{model}.yaml"
        return f"{self.data}/{model}" if own.exists() else model


class Quickstart:
    """The stages of one run, in order."""

    def __init__(self, shop: Shop, stages: Stages, runs: Path, releases: Path) -> None:
        self.shop = shop
        self.stages = stages
        self.runs = runs / shop.name
        self.releases = releases

    @property
    def dataset(self) -> Dataset:
        """The ingested data set."""
        return Dataset.load(self.shop.dataset_json)

    def prepare(self, last_edge: int) -> None:
        """Ingest, compute features, register them, and join the training sets."""
        shop, root = self.shop, self.shop.root
        self._job("ingest", "Reading the raw data", (), (root / "canonical", shop.dataset_json))
        self._job(
            "state",
            "Computing user states and item activity",
            (root / "canonical", shop.dataset_json),
            (root / "features",),
        )
        self._feast("apply", "Registering the features with Feast", ("apply",), ())
        for edge in range(last_edge + 1):
            self._set("retrieval_v1", "sessions", edge)
            self._set("ranking_v1", "users", edge)

    def _job(
        self, job: str, about: str, inputs: tuple[Path, ...], outputs: tuple[Path, ...]
    ) -> None:
        command = (PYTHON, "-m", "feature_repo.jobs", job, *self.shop.overrides)
        self.stages.run(Stage(job, about, command, (*inputs, *self._files()), outputs, JOBS))

    def _files(self) -> tuple[Path, ...]:
        """The shop's own input files, named on the command line."""
        names = ("data.events=", "data.users=", "data.items=")
        return tuple(
            Path(override.partition("=")[2]).resolve()
            for override in self.shop.overrides
            if override.startswith(names) and not override.endswith("=null")
        )

    def _feast(
        self, name: str, about: str, arguments: tuple[str, ...], outputs: tuple[Path, ...]
    ) -> None:
        feast = Path(PYTHON).with_name("feast")
        command = (str(feast), "-c", str(REPOSITORY / "feature_repo"), *arguments)
        inputs = (self.shop.root / "features", self.shop.dataset_json)
        registry = (self.shop.root / "registry.db",)
        self.stages.run(
            Stage(name, about, command, inputs, outputs or registry, JOBS, self.shop.environment)
        )

    def set_folder(self, service: str, kind: str, edge: int) -> Path:
        """Where a training set lies."""
        return self.shop.root / "sets" / f"{service}-{kind}-t{edge}"

    def _set(self, service: str, kind: str, edge: int) -> None:
        command = [PYTHON, "-m", "feature_repo.jobs", "training-set", *self.shop.overrides]
        command += [f"service={service}", f"kind={kind}", f"cutoff=t{edge}"]
        if kind == "users" and edge < 3:
            command.append(f"until=t{edge + 1}")
        folder = self.set_folder(service, kind, edge)
        about = f"Joining the {service} features of {kind} before {self._day(edge)}"
        inputs = (self.shop.root / "features", self.shop.root / "canonical", self.shop.dataset_json)
        self.stages.run(
            Stage(
                folder.name,
                about,
                tuple(command),
                inputs,
                (folder,),
                JOBS,
                self.shop.environment,
            )
        )

    def _day(self, edge: int) -> str:
        return f"{self.dataset.edges[edge]:%Y-%m-%d}"
