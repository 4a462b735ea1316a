"""Training and judging of one model of ``benchmarks.ctr``."""

from __future__ import annotations

import copy
import logging
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.metrics import log_loss, roc_auc_score

from benchmarks._ctr_data import Ctr, Examples
from benchmarks._ctr_models import CtrModel, Rows, Shape, make_model

log = logging.getLogger("benchmarks.ctr")

Doubles = npt.NDArray[np.float64]

SCORED = 1 << 14
"""Examples that are scored at once."""


@dataclass(frozen=True)
class Recipe:
    """A model, and how it is trained."""

    shape: Shape
    l2: float
    """Times the squared length of an example's vectors, on average over a batch."""
    learning_rate: float = 3e-3
    """Adam's."""
    batch_size: int = 4096
    epochs: int = 20
    """At most."""
    patience: int = 2
    """Epochs without a smaller loss on validation after which training stops."""


@dataclass(frozen=True)
class Judgement:
    """Of predicted probabilities."""

    auc: float
    logloss: float

    @staticmethod
    def of(examples: Examples, predicted: Doubles) -> Judgement:
        """Judge [N] probabilities."""
        label = examples.label
        return Judgement(float(roc_auc_score(label, predicted)), float(log_loss(label, predicted)))


@dataclass(frozen=True)
class Trained:
    """What a trained model says, as it was after its best epoch."""

    validation: Judgement
    predicted: Doubles
    """[N] probabilities of the judged examples."""
    epochs: int
    """At the best one."""
    seconds: float


def train(
    ctr: Ctr, fields: tuple[str, ...], recipe: Recipe, seed: int, judged: Examples
) -> Trained:
    """Train until the loss on validation gets no smaller, and predict the judged examples."""
    torch.manual_seed(seed)
    started = time.monotonic()
    model = make_model(ctr, fields, recipe.shape)
    adam = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    best, kept, epochs = Judgement(0.0, np.inf), model.state_dict(), 0
    for epoch in range(1, recipe.epochs + 1):
        _epoch(model, adam, ctr.train, recipe, np.random.default_rng([seed, epoch]))
        found = Judgement.of(ctr.validation, predict(model, ctr.validation))
        log.info("epoch %d: validation AUC %.4f, logloss %.4f", epoch, found.auc, found.logloss)
        if found.logloss < best.logloss:
            best, kept, epochs = found, copy.deepcopy(model.state_dict()), epoch
        elif epoch - epochs >= recipe.patience:
            break
    model.load_state_dict(kept)
    return Trained(best, predict(model, judged), epochs, time.monotonic() - started)


def _epoch(
    model: CtrModel,
    adam: torch.optim.Optimizer,
    examples: Examples,
    recipe: Recipe,
    rng: np.random.Generator,
) -> None:
    order = rng.permutation(len(examples))
    for start in range(0, len(order), recipe.batch_size):
        batch = examples.take(order[start : start + recipe.batch_size])
        logits, length = model(_rows(batch))
        loss = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(batch.label))
        adam.zero_grad()
        (loss + recipe.l2 * length).backward()
        adam.step()


def predict(model: CtrModel, examples: Examples) -> Doubles:
    """[N] probabilities."""
    model.eval()
    parts = []
    with torch.no_grad():
        for start in range(0, len(examples), SCORED):
            part = examples.take(np.arange(start, min(start + SCORED, len(examples))))
            parts.append(torch.sigmoid(model(_rows(part))[0].double()))
    model.train()
    return torch.cat(parts).numpy()


def _rows(examples: Examples) -> Rows:
    return Rows(torch.from_numpy(examples.user), torch.from_numpy(examples.item))
