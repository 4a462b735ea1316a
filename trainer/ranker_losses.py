"""Losses of rankers over the candidates of requests.

B requests, N candidates of all of them, T tasks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def listwise_loss(
    logits_N: Tensor, gains_N: Tensor, user_of_N: Tensor, weights_B: Tensor
) -> Tensor:
    """Weighted sum over requests of -log softmax of the bought candidates, each of a request's
    by its share of the gains: ListNet's top-one cross-entropy (Cao et al., 2007).

    Args:
        logits_N: of all candidates.
        gains_N: above zero where bought: 1, or more of one candidate than of another.
        user_of_N: int64, the request of each candidate.
        weights_B: of each request; see ``request_weights``.
    """
    log_p = logits_N - _log_sums(logits_N, user_of_N, len(weights_B))[user_of_N]
    gained = torch.zeros_like(weights_B).index_add(0, user_of_N, gains_N)
    gained = torch.where(gained > 0, gained, 1.0)
    return -(log_p * gains_N * (weights_B / gained)[user_of_N]).sum()


def request_weights(gained: Doubles, balance: float) -> Doubles:
    """Of a request whose bought candidates have the gain g: g ** ``balance``, or 0 without one.
    Where each has a gain of 1, 0 makes requests equal and 1 purchases."""
    return np.where(gained > 0, np.where(gained > 0, gained, 1.0) ** balance, 0.0)


def request_sums(values_NT: Floats, user_of_N: Ints, num_users: int) -> Doubles:
    """[B, T] sums over the candidates of each request."""
    columns = [np.bincount(user_of_N, values, num_users) for values in values_NT.T]
    return np.stack(columns, axis=1)


def _log_sums(logits_N: Tensor, user_of_N: Tensor, num_users: int) -> Tensor:
    """[B] log of the sum of the exponentials of each request's logits."""
    largest = torch.full((num_users,), -torch.inf, device=logits_N.device)
    largest = largest.scatter_reduce(0, user_of_N, logits_N.detach(), "amax")
    shifted = (logits_N - largest[user_of_N]).exp()
    sums = torch.zeros(num_users, device=logits_N.device).index_add(0, user_of_N, shifted)
    return largest + sums.log()
