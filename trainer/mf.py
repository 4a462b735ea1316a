"""Training matrix factorisation with biases, on purchases or on explicit ratings.

Koren, Bell and Volinsky, "Matrix Factorization Techniques for Recommender Systems" (2009). Rendle
et al., "Neural Collaborative Filtering vs. Matrix Factorization Revisited" (2020): well tuned, the
dot product beats the networks that were to replace it.

A row of a table holds D values and a bias, ``[p, b, 0, 0, 0]``; the vectors are
``[p, 1, b + mean, 0, 0]`` and ``[q, b, 1, 0, 0]``, so that their dot product is the whole
prediction. Shapes: B sessions, C candidate items, V = D + 4 width of the vectors.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feature_repo.contract.columns import list_column
from feature_repo.contract.encoding import Bag
from retrieval.sources import FactorSource
from trainer.config import name_of
from trainer.data import SessionBatch
from trainer.distributed import gather_rows
from trainer.embeddings import stack
from trainer.factors import FactorTask
from trainer.sets import RATING, TrainingSet
from trainer.step import StepInputs

EXTRA = 4
"""Values of a row beside its vector: the bias, and what makes the width a multiple of 4."""


class Biases(nn.Module):
    """What factor models train beside their tables."""

    def __init__(self, mean: float, normalize: bool) -> None:
        super().__init__()
        self.normalize = normalize
        self.mean = nn.Parameter(torch.tensor(mean))
        """Of the ratings."""

    def users(self, rows_BV: Tensor) -> Tensor:
        """[B, V] vectors of looked-up user rows."""
        if self.normalize:
            return _of_length_1(rows_BV)
        one, bias = torch.ones_like(rows_BV[:, :1]), rows_BV[:, -EXTRA : 1 - EXTRA] + self.mean
        return _beside(rows_BV, one, bias)

    def items(self, rows_CV: Tensor) -> Tensor:
        """[C, V] vectors of looked-up item rows."""
        if self.normalize:
            return _of_length_1(rows_CV)
        one, bias = torch.ones_like(rows_CV[:, :1]), rows_CV[:, -EXTRA : 1 - EXTRA]
        return _beside(rows_CV, bias, one)


def _beside(rows: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return torch.cat([rows[:, :-EXTRA], first, second, torch.zeros_like(rows[:, :2])], dim=1)


def _of_length_1(rows: Tensor) -> Tensor:
    return F.pad(F.normalize(rows[:, :-EXTRA], dim=1), (0, EXTRA))


class MfTask(FactorTask):
    """Matrix factorisation, its data and its loss, for ``trainer.loop``."""

    @property
    def width(self) -> int:
        """V"""
        return self.model.dim + EXTRA

    @property
    def dense(self) -> Biases:
        """See ``Task``."""
        return self._biases

    def _make_dense(self, sessions: TrainingSet) -> None:
        mean = mean_rating(sessions) if self.explicit else 0.0
        self._biases = Biases(mean, self.model.normalize).to(self.process.device)

    def prepare(self, batch: SessionBatch, step: int) -> StepInputs:
        """See ``Task``; each process looks up its share of the batch's candidates."""
        targets = self.process.together(batch.targets.values)
        pairs = self._pairs(batch, step)
        items = self._candidates(targets, self.process.together(pairs.ravel()), step)
        mine = items[self.process.share_of(len(items))]
        stride = self.process.largest_share(batch.total) + self.process.largest_share(len(items))
        bags = stack({"user_id": batch.users.bags["user_id"]}, {"item_id": Bag.single(mine)})
        arrays = self._arrays(batch, items, len(targets), pairs)
        sizes = {"users": len(batch), "mine": len(mine), "items": len(items)}
        return StepInputs(
            self.tables.features(bags, stride),
            {name: torch.from_numpy(array) for name, array in arrays.items()},
            {"examples": batch.total, **sizes},
        )

    def head(self, pooled: dict[str, Tensor], inputs: StepInputs) -> Tensor:
        """See ``Task``."""
        sizes = inputs.sizes
        split, stop = sizes["users"], sizes["users"] + sizes["mine"]
        users, mine = pooled["user_id"][:split], pooled["item_id"][split:stop]
        items = gather_rows(mine, sizes["items"], self.process)
        found = self.loss(self.dense.users(users), self.dense.items(items), inputs.tensors)
        return found + self._penalty(users, items) if self.model.l2 else found

    def source_of(self, rows_UD: Tensor, rows_RD: Tensor) -> FactorSource:
        """See ``FactorTask``; a stranger's vector is the sum of the items', without biases."""
        rows_UD[0] = rows_RD[0] = 0.0  # the unknown user and item add nothing to the mean
        users = self.dense.users(rows_UD).cpu().numpy()
        items = self.dense.items(rows_RD).cpu().numpy()
        fold_in = items.copy()
        fold_in[:, -EXTRA:] = 0.0
        return FactorSource(name_of(self.model), users, items, fold_in, new_only=True)


def mean_rating(sessions: TrainingSet) -> float:
    """Mean of all ratings of a set."""
    total = count = 0.0
    for chunk in sessions.chunks([RATING]):
        values = np.asarray(list_column(chunk, RATING)[0], dtype=np.float64)
        total, count = total + float(values.sum()), count + len(values)
    return total / max(count, 1.0)
