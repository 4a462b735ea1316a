"""The user-item graph, by hand."""

from __future__ import annotations

from math import sqrt

import numpy as np
import torch

from retrieval.graph import Graph


def graph() -> Graph:
    """User 1 bought items 1 and 2, user 2 item 2; row 0 is nobody."""
    return Graph.of(np.array([1, 1, 2, 2]), np.array([1, 2, 2, 2]), 3, 3)


def test_an_edge_weighs_one_by_the_roots_of_both_degrees() -> None:
    expected = np.zeros((3, 3))
    expected[1, 1], expected[1, 2], expected[2, 2] = 1 / sqrt(2 * 1), 1 / sqrt(2 * 2), 1 / sqrt(2)

    np.testing.assert_allclose(graph().to_users.to_dense().numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(graph().to_items.to_dense().numpy(), expected.T, rtol=1e-6)
    assert graph().item_degrees.tolist() == [0, 1, 2]


def test_layers_are_added_by_their_weights() -> None:
    users, items = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [3.0], [4.0]])
    first_user = 3 / sqrt(2) + 4 / 2
    first_items = np.array([1 / sqrt(2), 1 / 2 + 2 / sqrt(2)])
    second_user = first_items[0] / sqrt(2) + first_items[1] / 2

    found, _ = graph().propagate(users, items, torch.tensor([0.5, 0.3, 0.2]))

    assert found[1].item() == np.float32(0.5 * 1 + 0.3 * first_user + 0.2 * second_user)
    assert found[0].item() == 0.0


def test_gradients_go_along_the_graph_as_autograd_finds_them() -> None:
    users = torch.randn(3, 2, dtype=torch.float32, requires_grad=True)
    items = torch.randn(3, 2, dtype=torch.float32, requires_grad=True)
    weights, made = torch.tensor([0.2, 0.3, 0.5]), graph()
    to_users, to_items = made.to_users.to_dense(), made.to_items.to_dense()

    u1, i1 = to_users @ items, to_items @ users
    expected = 0.2 * users + 0.3 * u1 + 0.5 * (to_users @ i1)
    wanted = torch.autograd.grad(expected.square().sum(), [users, items])
    found, _ = made.propagate(users, items, weights)
    got = torch.autograd.grad(found.square().sum(), [users, items])

    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)
