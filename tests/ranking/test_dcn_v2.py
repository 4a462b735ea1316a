"""Cross layers are the paper's formula; hidden layers stand behind or beside them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from feature_repo.contract.errors import ConfigError
from ranking.dcn_v2 import CrossLayers, DcnV2, DcnV2Config, Structure
from ranking.network import Widths


def filled(module: nn.Module, matrix: list[list[float]], bias: list[float]) -> None:
    """Give a layer these values."""
    assert isinstance(module, nn.Linear)
    module.weight.data, module.bias.data = torch.tensor(matrix), torch.tensor(bias)


def test_each_layer_multiplies_the_inputs_by_a_layer_of_the_last_and_adds_it() -> None:
    cross = CrossLayers(width=2, depth=2)
    filled(cross.layers[0], [[1.0, 2.0], [0.0, 1.0]], [0.5, 0.0])
    filled(cross.layers[1], [[0.0, 1.0], [1.0, 0.0]], [0.0, -1.0])

    found = cross(torch.tensor([[2.0, 3.0]]))

    first = [2 * (1 * 2 + 2 * 3 + 0.5) + 2, 3 * (1 * 3) + 3]
    second = [2 * first[1] + first[0], 3 * (first[0] - 1) + first[1]]
    assert found.tolist() == [second]


def test_a_low_rank_layer_is_the_full_one_of_the_product_of_its_matrices() -> None:
    torch.manual_seed(0)
    low, full = CrossLayers(4, 1, rank=2), CrossLayers(4, 1)
    (narrow, wide), (whole,) = low.layers[0].children(), full.layers
    assert isinstance(narrow, nn.Linear)
    assert isinstance(wide, nn.Linear)
    assert isinstance(whole, nn.Linear)
    whole.weight.data, whole.bias.data = wide.weight.data @ narrow.weight.data, wide.bias.data
    inputs = torch.randn(5, 4)

    torch.testing.assert_close(low(inputs), full(inputs))
    assert sum(p.numel() for p in low.parameters()) == 2 * 4 * 2 + 4


def test_without_layers_vectors_stay_as_they_are() -> None:
    inputs = torch.randn(3, 4)

    assert torch.equal(CrossLayers(4, 0)(inputs), inputs)


def test_gradients_reach_all_parameters_and_the_inputs() -> None:
    cross, inputs = CrossLayers(3, 2, rank=2), torch.randn(4, 3, requires_grad=True)

    cross(inputs).sum().backward()

    assert inputs.grad is not None
    assert all(parameter.grad is not None for parameter in cross.parameters())


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [((0, 1, None), "width above zero"), ((4, -1, None), "negative"), ((4, 1, 5), r"1\.\.4")],
)
def test_sizes_out_of_range_are_refused(sizes: tuple[int, int, int | None], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        CrossLayers(*sizes)


WIDTHS = Widths(4, 2, 0, 0, 1, 2, 1)


def test_stacked_hidden_layers_read_the_crosses() -> None:
    network = DcnV2(DcnV2Config(width=4, hidden=[3], dropout=0.0), WIDTHS)
    cross, deep = network.body.children()
    projected = torch.randn(5, 4)

    torch.testing.assert_close(network.deep(projected), network.head(deep(cross(projected))))


def test_parallel_hidden_layers_read_the_inputs() -> None:
    config = DcnV2Config(width=4, hidden=[3], dropout=0.0, structure=Structure.parallel)
    network = DcnV2(config, WIDTHS)
    (parts,) = network.body.children()
    cross, deep = parts.children()
    projected = torch.randn(5, 4)

    weight = network.head.weight
    crossed, hidden = cross(projected) @ weight[:, :4].T, deep(projected) @ weight[:, 4:].T
    torch.testing.assert_close(network.deep(projected), crossed + hidden + network.head.bias)


def test_without_declared_crosses_there_is_no_wide_side() -> None:
    assert not DcnV2Config().one_hot
    assert DcnV2Config().crosses == []


def test_a_structure_is_read_as_json_says_it() -> None:
    assert DcnV2Config(structure="parallel").structure is Structure.parallel  # type: ignore[arg-type]
