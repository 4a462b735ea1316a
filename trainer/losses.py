"""Losses over vectors, with gradients that are found along with the values.

B users, C candidates, T targets, X items that were shown and not chosen, V width of the vectors.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST = 1e-30


class Shown(NamedTuple):
    """Items that a session was shown and did not choose, as negatives of that session alone.

    Where an item is a candidate only for having been shown, its ``log_q`` is infinite: it is then
    no negative of the other sessions.
    """

    owner_X: Tensor
    """int64, the session of each."""
    place_X: Tensor
    """int64, its place among the candidates."""
    weight: float
    """How often it counts in its session."""


def sampled_softmax(
    users_BV: Tensor,
    items_CV: Tensor,
    owner_T: Tensor,
    place_T: Tensor,
    log_q_C: Tensor,
    temperature: float,
    weights_T: Tensor,
    shown: Shown | None = None,
) -> Tensor:
    """Weighted sum over the targets of -log softmax, by a sample of the items; float32.

    A negative counts ``1 / q``, where q is its probability to be among the candidates; a target
    is there always and counts once (Khrylchenko et al., "Correcting the LogQ Correction", 2025).
    Other targets of the same session are no negatives (accidental hits).

    Args:
        users_BV: user vectors.
        items_CV: vectors of the candidates.
        owner_T: int64, the session of each target.
        place_T: int64, the place of each target among the candidates.
        log_q_C: logarithms of the probabilities q.
        temperature: scores are divided by it.
        weights_T: weight of each target.
        shown: hard negatives.
    """
    with torch.autocast(users_BV.device.type, enabled=False):
        found: Tensor = _SampledSoftmax.apply(  # type: ignore[no-untyped-call]
            users_BV.float(),
            items_CV.float(),
            owner_T,
            place_T,
            log_q_C,
            temperature,
            weights_T,
            shown,
        )
    return found


class _SampledSoftmax(torch.autograd.Function):
    """One [B, C] matrix holds logits, then probabilities, then their gradients: left to autograd,
    the loss would keep and read half a dozen of that size."""

    @staticmethod
    def forward(
        context: Any,
        users_BV: Tensor,
        items_CV: Tensor,
        owner_T: Tensor,
        place_T: Tensor,
        log_q_C: Tensor,
        temperature: float,
        weights_T: Tensor,
        shown: Shown | None,
    ) -> Tensor:
        scale = 1.0 / temperature
        users_TV, items_TV = users_BV[owner_T], items_CV[place_T]
        targets_T = (users_TV * items_TV).sum(dim=1) * scale
        matrix_BC = torch.addmm(-log_q_C, users_BV, items_CV.T, alpha=scale)
        if shown is not None:
            own_X = (users_BV[shown.owner_X] * items_CV[shown.place_X]).sum(dim=1) * scale
            matrix_BC[shown.owner_X, shown.place_X] = own_X + math.log(shown.weight)
        matrix_BC[owner_T, place_T] = -torch.inf
        largest_B = matrix_BC.amax(dim=1).clamp_min(torch.finfo(torch.float32).min)
        matrix_BC.sub_(largest_B[:, None]).exp_()
        sums_B = matrix_BC.sum(dim=1).clamp_min(SMALLEST)
        excess_T = (largest_B + sums_B.log())[owner_T] - targets_T

        slopes_T = torch.sigmoid(excess_T) * weights_T
        slopes_B = torch.zeros_like(sums_B).index_add_(0, owner_T, slopes_T)
        matrix_BC.mul_((slopes_B / sums_B)[:, None])
        gradient_BV = torch.mm(matrix_BC, items_CV)
        gradient_BV.index_add_(0, owner_T, items_TV * -slopes_T[:, None]).mul_(scale)
        gradient_CV = torch.mm(matrix_BC.T, users_BV)
        gradient_CV.index_add_(0, place_T, users_TV * -slopes_T[:, None]).mul_(scale)
        context.save_for_backward(gradient_BV, gradient_CV)
        return (F.softplus(excess_T) * weights_T).sum()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradient_BV, gradient_CV = context.saved_tensors
        return gradient_BV * gradient, gradient_CV * gradient, None, None, None, None, None, None
