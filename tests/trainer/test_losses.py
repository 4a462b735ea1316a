"""The sampled softmax: its value by hand, its gradients by autograd."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from feature_repo.contract.encoding import Bag
from trainer.losses import Shown, sampled_softmax

USERS = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
ITEMS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])


def loss(targets: Bag, log_q: list[float], weights: list[float], temperature: float = 1.0) -> float:
    shares = torch.tensor(weights) / sum(weights)
    owner = torch.from_numpy(np.repeat(np.arange(2), np.diff(targets.offsets)))
    place = torch.from_numpy(targets.values)
    return float(
        sampled_softmax(USERS, ITEMS, owner, place, torch.tensor(log_q), temperature, shares)
    )


def test_the_loss_is_softmax_over_the_candidates() -> None:
    found = loss(Bag(np.array([0, 1]), np.array([0, 1, 2])), [0.0] * 3, [1.0, 1.0])

    first = -log(exp(1) / (exp(1) + exp(0) + exp(0.5)))
    second = -log(exp(2) / (exp(0) + exp(2) + exp(1)))
    assert found == pytest.approx((first + second) / 2, rel=1e-5)


def test_a_negative_counts_as_often_as_it_is_rare() -> None:
    found = loss(Bag(np.array([0]), np.array([0, 1, 1])), [log(0.1), log(0.25), log(0.5)], [1.0])

    assert found == pytest.approx(-log(exp(1) / (exp(1) + exp(0) / 0.25 + exp(0.5) / 0.5)))


def test_other_targets_of_the_session_are_no_negatives() -> None:
    found = loss(Bag(np.array([0, 2]), np.array([0, 2, 2])), [0.0] * 3, [1.0, 1.0])

    first = -log(exp(1) / (exp(1) + exp(0)))
    second = -log(exp(0.5) / (exp(0.5) + exp(0)))
    assert found == pytest.approx((first + second) / 2, rel=1e-5)


def test_targets_weigh_as_they_are_told() -> None:
    targets = Bag(np.array([0, 1]), np.array([0, 1, 2]))

    assert loss(targets, [0.0] * 3, [1.0, 0.0]) == pytest.approx(
        loss(Bag(np.array([0]), np.array([0, 1, 1])), [0.0] * 3, [1.0])
    )


def test_temperature_divides_the_scores() -> None:
    found = loss(Bag(np.array([0]), np.array([0, 1, 1])), [0.0] * 3, [1.0], temperature=0.5)

    assert found == pytest.approx(-log(exp(2) / (exp(2) + exp(0) + exp(1))), rel=1e-5)


def by_autograd(
    users: Tensor, items: Tensor, owner: Tensor, place: Tensor, log_q: Tensor, weights: Tensor
) -> Tensor:
    """The definition, in double precision."""
    logits = users @ items.T / 0.1
    masked = torch.zeros_like(logits, dtype=torch.bool)
    masked[owner, place] = True
    negatives = torch.logsumexp((logits - log_q).masked_fill(masked, -torch.inf), dim=1)
    return (F.softplus(negatives[owner] - logits[owner, place]) * weights).sum()


def test_gradients_are_those_of_autograd() -> None:
    torch.manual_seed(0)
    users, items = (F.normalize(torch.randn(size, 8), dim=1) for size in (6, 20))
    owner, place = torch.tensor([0, 0, 1, 3, 5, 5]), torch.tensor([2, 7, 2, 0, 19, 1])
    log_q, weights = -torch.rand(20) * 3, torch.rand(6)
    mine = [vectors.clone().requires_grad_() for vectors in (users, items)]
    theirs = [vectors.double().requires_grad_() for vectors in (users, items)]

    found = sampled_softmax(mine[0], mine[1], owner, place, log_q, 0.1, weights)
    expected = by_autograd(theirs[0], theirs[1], owner, place, log_q.double(), weights.double())
    (found * 3).backward()
    (expected * 3).backward()

    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for one, other in zip(mine, theirs, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=1e-4, atol=1e-5)


def test_a_batch_whose_candidates_are_all_targets_has_no_loss() -> None:
    users = torch.ones(1, 2, requires_grad=True)
    items, both = torch.eye(2), torch.tensor([0, 1])

    found = sampled_softmax(users, items, both * 0, both, torch.zeros(2), 1.0, torch.ones(2))
    found.backward()

    assert found.item() == 0
    assert users.grad is not None
    assert users.grad.tolist() == [[0.0, 0.0]]


def with_shown(log_q: list[float], owner: list[int], place: list[int], weight: float) -> float:
    """The loss of one target of each user, with hard negatives."""
    one = torch.tensor([0, 1])
    rows = [torch.tensor(part, dtype=torch.int64) for part in (owner, place)]
    shown = Shown(rows[0], rows[1], weight)
    log_q_C = torch.tensor(log_q)
    return float(sampled_softmax(USERS, ITEMS, one, one, log_q_C, 1.0, torch.ones(2) / 2, shown))


def test_what_was_shown_is_a_negative_of_its_session_alone() -> None:
    found = with_shown([0.0, 0.0, torch.inf], [0], [2], 3.0)

    first = -log(exp(1) / (exp(1) + exp(0) + 3 * exp(0.5)))
    second = -log(exp(2) / (exp(2) + exp(0)))
    assert found == pytest.approx((first + second) / 2, rel=1e-5)


def test_a_target_that_was_shown_is_no_negative_of_its_session() -> None:
    assert with_shown([0.0] * 3, [0], [0], 5.0) == pytest.approx(with_shown([0.0] * 3, [], [], 5.0))


def test_gradients_with_hard_negatives_are_those_of_the_definition() -> None:
    torch.manual_seed(0)
    users, items = torch.randn(3, 4).double(), torch.randn(5, 4).double()
    owner, place, weights = torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([0.4, 0.6])
    log_q = torch.tensor([-1.0, -0.5, torch.inf, -2.0, torch.inf])
    shown = Shown(torch.tensor([0, 2, 2]), torch.tensor([2, 2, 4]), 2.0)
    vectors = users.float().requires_grad_(), items.float().requires_grad_()
    sampled_softmax(vectors[0], vectors[1], owner, place, log_q, 0.5, weights, shown).backward()

    exact = users.requires_grad_(), items.requires_grad_()
    logits = users @ items.T / 0.5
    negatives = (logits - log_q).index_put(
        (shown.owner_X, shown.place_X), logits[shown.owner_X, shown.place_X] + log(2.0)
    )
    masked = negatives.index_put((owner, place), torch.tensor(-torch.inf).double())
    excess = torch.logsumexp(masked, dim=1)[owner] - logits[owner, place]
    (F.softplus(excess) * weights).sum().backward()

    for mine, theirs in zip(vectors, exact, strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert mine.grad.numpy() == pytest.approx(theirs.grad.numpy(), abs=1e-5)
