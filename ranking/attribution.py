"""What moved the logit of a candidate away from that of the request's mean candidate.

N candidates of one request, K of them explained, D inputs of the projection, H its width,
F features.

The wide side is a sum of one weight a cross, so its part is exact: the candidate's weight less the
mean one of the candidates. The deep side's part is by integrated gradients (Sundararajan et al.,
"Axiomatic Attribution for Deep Networks", 2017) along the straight line from the mean of the
candidates' inputs, whatever the kind of the ranker. Both are summed by feature. Their total is the
difference of the two logits, the deep one up to the error of the sum that stands for the integral.
The user is the same for all candidates of a request, so that user features move nothing by
themselves. A ranker's logit is the mean of its members', and so are the effects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ranking.crosses import Crosses
from ranking.network import RankerNetwork

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

STEPS = 128
"""Points of the line at which gradients are taken."""


@dataclass(frozen=True)
class Effects:
    """What each feature added to the logits of K candidates."""

    wide: Mapping[str, Doubles]
    """Feature -> [K]"""
    deep: Mapping[str, Doubles]
    """Feature -> [K]"""

    @property
    def total(self) -> dict[str, Doubles]:
        """Feature -> [K] wide and deep together."""
        found = dict(self.deep)
        for name, effects in self.wide.items():
            found[name] = found[name] + effects if name in found else effects
        return found


@dataclass(frozen=True)
class Reading:
    """The request of one user, as one member reads it."""

    network: RankerNetwork
    user_H: Tensor
    """[1, H] the user's part of the projection."""
    inputs_ND: Tensor
    """The candidates' own inputs of the projection."""

    def deep(self, chosen: Ints) -> Doubles:
        """[K, D] what each input added to the deep side's logits."""
        with torch.no_grad():
            layers = (self.network.item_layer, self.network.pair_layer)
            weight_HD = torch.cat([layer.weight for layer in layers], dim=1)
            mean_D = self.inputs_ND.mean(dim=0)
            moved_KD = self.inputs_ND[chosen] - mean_D
            start_H, move_KH = self.user_H + mean_D @ weight_HD.T, moved_KD @ weight_HD.T
        gradient_KH = mean_gradient(self.network.deep, start_H, move_KH)
        with torch.no_grad():
            return _doubles(moved_KD * (gradient_KH @ weight_HD))


@dataclass(frozen=True)
class Explained:
    """The request of one user, as the members of a ranker read it."""

    readings: tuple[Reading, ...]
    crosses: Crosses
    same: frozenset[str]
    """Features whose value is the same for all candidates."""
    owners: tuple[str, ...]
    """[D] the feature that each input belongs to."""
    wide: Tensor
    """[N, C] rows of the wide side."""

    def effects(self, chosen: Ints) -> Effects:
        """What moved the candidates ``chosen`` [K] away from the mean of all."""
        deep_KD = np.mean([reading.deep(chosen) for reading in self.readings], axis=0)
        return Effects(self._wide(chosen), summed_by(deep_KD, self.owners))

    def _wide(self, chosen: Ints) -> dict[str, Doubles]:
        tables = [reading.network.wide.weight.detach()[:, 0] for reading in self.readings]
        weights_NC = np.mean([_doubles(table[self.wide]) for table in tables], axis=0)
        moved_KC = weights_NC[chosen] - weights_NC.mean(axis=0)
        return wide_effects(moved_KC, [cross.features for cross in self.crosses.crosses], self.same)


def wide_effects(
    moved_KC: Doubles, crosses: Sequence[Sequence[str]], same: frozenset[str]
) -> dict[str, Doubles]:
    """Feature -> [K], from the difference that each cross makes.

    Args:
        moved_KC: the weight of each cross less that of the mean candidate.
        crosses: the features of each cross.
        same: features that all candidates share; the others of a cross share its effect equally.
    """
    found: dict[str, Doubles] = {}
    for column, features in zip(moved_KC.T, crosses, strict=True):
        differing = [name for name in features if name not in same]
        for name in differing:
            found[name] = found.get(name, 0.0) + column / len(differing)
    return found


def mean_gradient(
    network: Callable[[Tensor], Tensor], start_H: Tensor, move_KH: Tensor, steps: int = STEPS
) -> Tensor:
    """[K, H] mean gradient of a network's output on the lines from ``start`` by ``move``.

    Taken in the middle of ``steps`` equal parts: of a network that is linear in pieces only the
    parts in which a unit switches are wrong.
    """
    shares = (torch.arange(steps, dtype=move_KH.dtype) + 0.5) / steps
    points = (start_H + shares[:, None, None] * move_KH).requires_grad_()
    (gradient,) = torch.autograd.grad(network(points).sum(), points)
    return gradient.mean(dim=0)


def summed_by(effects_KD: Doubles, owners: Sequence[str]) -> dict[str, Doubles]:
    """Feature -> [K] sum over its inputs."""
    names = list(dict.fromkeys(owners))
    place = {name: index for index, name in enumerate(names)}
    totals = np.zeros((len(names), len(effects_KD)))
    np.add.at(totals, [place[owner] for owner in owners], effects_KD.T)
    return dict(zip(names, totals, strict=True))


def _doubles(values: Tensor) -> Doubles:
    return values.detach().numpy().astype(np.float64)
