"""Vectors of items and users by a two-tower model that was trained on a made-up shop."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from feature_repo.contract.dataset import IdType
from feature_repo.contract.encoding import Encoder
from feature_repo.contract.errors import ArtifactError
from feature_repo.contract.tables import Tables
from feature_repo.contract.vocabulary import Vocabulary
from feature_repo.jobs.config import SyntheticSetConfig, load_config
from feature_repo.jobs.synthetic_set import make_synthetic_set
from retrieval.inputs import encode_users
from retrieval.towers import TwoTower, pooled_inputs
from trainer.config import RunConfig, compose
from trainer.runs import identity, run_name
from trainer.sets import SERVICE, TrainingSet, fit_encoder, judged_users
from trainer.two_tower import FOLDER, VECTORS

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

CUTOFF = "t1"


@dataclass(frozen=True)
class Shop:
    """A made-up shop, and how long a model is trained on it."""

    folder: str
    users: int
    items: int
    sessions: int
    judged: int
    history: int = 20
    dim: int = 64
    batch: int = 4096
    epochs: int = 2
    seed: int = 0

    @property
    def path(self) -> Path:
        """Of this shop alone."""
        name = f"vectors-{self.users}-{self.items}-{self.sessions}-{self.judged}-{self.seed}"
        return Path(self.folder).resolve() / name


def trained_vectors(shop: Shop) -> tuple[Path, Path]:
    """Files of item vectors [R, V], row 0 left zero, and of judged users' vectors [U, V].

    The judged users' items came after all that was trained on. Made once a shop.
    """
    users, items = shop.path / "user_vectors.npy", shop.path / VECTORS
    if not (users.exists() and items.exists()):
        run = _trained(shop)
        os.replace(run / FOLDER / VECTORS, items)
        np.save(users, _user_vectors(run, run_config(shop)))
    return items, users


def run_config(shop: Shop) -> RunConfig:
    """The run that makes the vectors."""
    return compose(_overrides(shop))


def _overrides(shop: Shop) -> list[str]:
    return [
        *("experiment=two_tower", "data=synthetic", f"data.root={shop.path}", f"cutoff={CUTOFF}"),
        *(f"paths.runs={shop.path}/runs", f"seed={shop.seed}", "sharding.device=cpu"),
        *(f"model.id_dim={shop.dim}", f"model.dim={shop.dim}", "model.min_buyers=1"),
        *(f"model.history_length={shop.history}", "optimizer.table_lr=0.1"),
        *(f"trainer.batch_size={shop.batch}", f"trainer.epochs={shop.epochs}"),
        "trainer.cache_encoded=false",
    ]


def _trained(shop: Shop) -> Path:
    make_shop(shop)
    config = run_config(shop)
    dataset = config.dataset()
    sessions = TrainingSet.open(dataset, SERVICE, "sessions", CUTOFF)
    run = Path(config.paths.runs) / run_name(identity(config, {"sessions": sessions.digest}))
    shutil.rmtree(run, ignore_errors=True)
    fitted = fit_encoder(sessions, dataset, 1, shop.history)
    known = [
        Vocabulary.build(np.arange(1, size + 1), IdType.INT64) for size in (shop.users, shop.items)
    ]
    Encoder(fitted.schema, known[0], known[1], fitted.quantiles, shop.history).save(
        run / FOLDER / "encoder"
    )
    log.info("Training a two-tower model; its log is %s.", shop.path / "trainer.log")
    with (shop.path / "trainer.log").open("a") as file:
        command = [sys.executable, "-W", "ignore", "-m", "trainer", *_overrides(shop)]
        code = subprocess.run(command, stdout=file, stderr=file, check=False).returncode
    if code:
        raise ArtifactError(f"Training ended with code {code}; see {shop.path / 'trainer.log'}.")
    return run


def make_shop(shop: Shop) -> None:
    """Write the shop's training sets, if they are not there."""
    if not (shop.path / "dataset.json").exists():
        settings = [
            *("data=synthetic", f"data.root={shop.path}", f"data.num_users={shop.users}"),
            *(f"data.num_items={shop.items}", f"data.seed={shop.seed}"),
            *(f"sessions={shop.sessions}", f"judged={shop.judged}", f"history={shop.history}"),
            "categories=true",
        ]
        make_synthetic_set(load_config(SyntheticSetConfig, settings))


def _user_vectors(run: Path, config: RunConfig) -> Floats:
    folder = run / FOLDER
    encoder, towers = Encoder.load(folder / "encoder"), TwoTower.load(folder)
    dataset = config.dataset()
    encoded = encode_users(encoder, judged_users(dataset, CUTOFF), None, dataset.half_life_days)
    inputs = pooled_inputs(encoded, Tables.load(folder / "tables"), towers.config.user.features)
    with torch.inference_mode():
        found: Floats = towers.user_vectors(*inputs).numpy()
    return found
