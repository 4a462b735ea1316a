"""The losses of rankers, by hand."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest
import torch

from trainer.ranker_losses import listwise_loss, request_sums, request_weights


def test_the_loss_is_the_cross_entropy_of_each_requests_softmax() -> None:
    logits = torch.tensor([1.0, 2.0, 0.0, 3.0, 1.0])
    labels = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    user_of = torch.tensor([0, 0, 0, 1, 1])
    first = log(exp(1) + exp(2) + exp(0))
    second = log(exp(3) + exp(1))
    requests = (first - 1 + first - 0) / 2, second - 3

    found = listwise_loss(logits, labels, user_of, torch.tensor([2.0, 0.5]))

    assert found.item() == pytest.approx(2 * requests[0] + 0.5 * requests[1], rel=1e-6)


def test_requests_weigh_alike_or_by_their_purchases() -> None:
    bought = np.array([2.0, 0.0, 1.0])

    assert request_weights(bought, 0.0).tolist() == [1.0, 0.0, 1.0]
    assert request_weights(bought, 1.0).tolist() == [2.0, 0.0, 1.0]


def test_a_request_without_a_purchase_adds_nothing_to_the_loss() -> None:
    logits = torch.tensor([1.0, 2.0, 5.0], requires_grad=True)

    labels, user_of = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0, 0, 1])
    loss = listwise_loss(logits, labels, user_of, torch.tensor([1.0, 0.0]))
    loss.backward()

    assert loss.item() == pytest.approx(log(exp(1) + exp(2)) - 1)
    assert logits.grad is not None
    assert logits.grad[2] == 0


def test_a_candidate_of_a_larger_gain_counts_more() -> None:
    logits, user_of = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([0, 0, 0])
    total = log(exp(1) + exp(2) + exp(0))

    found = listwise_loss(logits, torch.tensor([0.3, 0.0, 0.1]), user_of, torch.tensor([2.0]))

    assert found.item() == pytest.approx(2 * (0.3 * (total - 1) + 0.1 * (total - 0)) / 0.4)


def test_sums_are_those_of_each_requests_candidates() -> None:
    values = np.array([[1.0, 0.0], [0.5, 2.0], [0.0, 3.0]], np.float32)

    found = request_sums(values, np.array([0, 0, 2]), 3)

    assert found.tolist() == [[1.5, 2.0], [0.0, 0.0], [0.0, 3.0]]
