"""Losses of rankers over the candidates of requests.

B requests, N candidates of all of them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ints = npt.NDArray[np.int64]


def listwise_loss(
    logits_N: Tensor, labels_N: Tensor, user_of_N: Tensor, weights_B: Tensor
) -> Tensor:
    """Weighted sum over requests of -log softmax of the bought candidates, each of a request's
    alike: ListNet's top-one cross-entropy (Cao et al., 2007) with binary relevance.

    Args:
        logits_N: of all candidates.
        labels_N: 1 where bought.
        user_of_N: int64, the request of each candidate.
        weights_B: of each request; see ``request_weights``.
    """
    log_p = logits_N - _log_sums(logits_N, user_of_N, len(weights_B))[user_of_N]
    bought = torch.zeros_like(weights_B).index_add(0, user_of_N, labels_N)
    return -(log_p * labels_N * (weights_B / bought.clamp_min(1.0))[user_of_N]).sum()


def request_weights(bought_B: Ints, balance: float) -> npt.NDArray[np.float64]:
    """A request with n bought candidates weighs n ** ``balance``, one without weighs nothing: 0
    makes requests equal, 1 purchases."""
    return np.where(bought_B > 0, np.maximum(bought_B, 1).astype(np.float64) ** balance, 0.0)


def _log_sums(logits_N: Tensor, user_of_N: Tensor, num_users: int) -> Tensor:
    """[B] log of the sum of the exponentials of each request's logits."""
    largest = torch.full((num_users,), -torch.inf, device=logits_N.device)
    largest = largest.scatter_reduce(0, user_of_N, logits_N.detach(), "amax")
    shifted = (logits_N - largest[user_of_N]).exp()
    sums = torch.zeros(num_users, device=logits_N.device).index_add(0, user_of_N, shifted)
    return largest + sums.log()
