"""Neural matrix factorisation: its parts, and what they are together."""

from __future__ import annotations

import torch

from retrieval.ncf import NeuMf


def made() -> NeuMf:
    """A network of two hidden layers, in evaluation."""
    torch.manual_seed(0)
    return NeuMf(dim=4, mlp_dim=3, hidden=[5, 2], alpha=0.25).eval()


def test_the_first_layer_is_one_layer_over_both_vectors() -> None:
    network, users, items = made(), torch.randn(6, 3), torch.randn(6, 3)
    weight = torch.cat([network.user_layer.weight, network.item_layer.weight], dim=1)
    hidden = torch.cat([users, items], dim=1) @ weight.T + network.user_layer.bias
    for layer in network.linear_layers():
        hidden = layer(hidden.relu())

    found = network.mlp(network.user_layer(users), network.item_layer(items))

    torch.testing.assert_close(found, hidden[:, 0])


def test_gmf_is_a_linear_layer_over_the_product_of_both_vectors() -> None:
    network, users, items = made(), torch.randn(6, 4), torch.randn(6, 4)

    found = network.gmf(network.weighted(users), items)

    torch.testing.assert_close(found, network.gmf_output(users * items)[:, 0])


def test_both_parts_are_weighted_into_one_logit() -> None:
    found = made().neumf(torch.tensor([4.0]), torch.tensor([8.0]))

    assert found.item() == 0.25 * 4 + 0.75 * 8
