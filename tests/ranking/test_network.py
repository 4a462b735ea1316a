"""What all rankers' networks share."""

from __future__ import annotations

import pytest
import torch

from feature_repo.contract.errors import ConfigError
from ranking.network import NetworkConfig, PairInputs, Widths, with_one_head
from ranking.wide_deep import WideDeep, WideDeepConfig

CONFIG = WideDeepConfig(bucket_dim=4, hidden=[6, 3], dropout=0.0)
WIDTHS = Widths(4, 2, 0, 0, 1, buckets=3, wide_rows=5)


def test_one_head_is_the_weighted_sum_of_several() -> None:
    torch.manual_seed(0)
    several, one = WideDeep(CONFIG, WIDTHS, heads=3), WideDeep(CONFIG, WIDTHS)
    several.wide.weight.data.normal_()
    one.load_state_dict(with_one_head(several, [2.0, 0.0, -1.0]))
    codes, scores = torch.tensor([[0], [2]]), torch.randn(2, 1)
    pairs = PairInputs(
        torch.tensor([0, 0]), torch.tensor([1, 0]), codes, scores, torch.tensor([[0, 4], [1, 1]])
    )
    users, items = torch.randn(1, 6), torch.randn(2, 6)

    logits, (found,) = several(users, items, pairs), one(users, items, pairs).T

    torch.testing.assert_close(found, 2 * logits[:, 0] - logits[:, 2])


def test_a_network_has_two_groups_of_parameters() -> None:
    network = WideDeep(CONFIG, WIDTHS)

    groups = network.parameter_groups()

    assert groups.wide == [network.wide.weight]
    assert len(groups.wide) + len(groups.deep) == len(list(network.parameters()))


def test_first_values_are_those_of_one_layer_over_all_inputs() -> None:
    network = WideDeep(CONFIG, WIDTHS)
    inputs = sum(
        layer.in_features for layer in (network.user_layer, network.item_layer, network.pair_layer)
    )

    assert float(network.wide.weight.detach().abs().max()) == 0.0
    assert float(network.item_layer.weight.detach().abs().max()) <= inputs**-0.5


def test_widths_that_tables_cannot_have_are_refused() -> None:
    with pytest.raises(ConfigError, match="id_dim must be a multiple of 4"):
        NetworkConfig(id_dim=6)
    with pytest.raises(ConfigError, match="feature_dim must be a multiple of 4"):
        NetworkConfig(feature_dim=0)
