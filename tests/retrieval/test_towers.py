"""The two-tower network and its files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from feature_repo.contract.errors import ArtifactError
from retrieval.towers import TowerConfig, TwoTower, TwoTowerConfig

USER = TowerConfig(["user_id", "age"], [8, 4], 2, [16], 8)
ITEM = TowerConfig(["item_id"], [8], 0, [], 8)


def inputs(num: int = 5) -> tuple[dict[str, Tensor], Tensor]:
    random = torch.Generator().manual_seed(0)
    pooled = {
        name: torch.randn(num, width, generator=random)
        for name, width in [("user_id", 8), ("age", 4), ("item_id", 8)]
    }
    return pooled, torch.randn(num, 2, generator=random)


def model(normalize: bool = True) -> TwoTower:
    torch.manual_seed(1)
    return TwoTower(TwoTowerConfig(USER, ITEM, normalize)).eval()


def test_a_saved_model_gives_the_same_vectors(tmp_path: Path) -> None:
    made, (pooled, dense) = model(), inputs()
    made.save(tmp_path)

    loaded = TwoTower.load(tmp_path)

    assert torch.equal(loaded.user_vectors(pooled, dense), made.user_vectors(pooled, dense))
    assert torch.equal(
        loaded.item_vectors(pooled, dense[:, :0]), made.item_vectors(pooled, dense[:, :0])
    )
    assert loaded.config == made.config


def test_features_keep_their_order_through_a_file(tmp_path: Path) -> None:
    model().save(tmp_path)

    assert TwoTower.load(tmp_path).config.user.features == ["user_id", "age"]


def test_vectors_of_a_normalised_model_have_length_one() -> None:
    lengths = model().user_vectors(*inputs()).norm(dim=1)

    assert lengths.tolist() == pytest.approx([1.0] * 5)
    assert model().config.similarity == "cosine"


def test_vectors_of_another_model_are_as_they_are() -> None:
    lengths = model(normalize=False).user_vectors(*inputs()).norm(dim=1)

    assert lengths.tolist() != pytest.approx([1.0] * 5)
    assert model(normalize=False).config.similarity == "dot"


def test_a_truncated_model_is_refused(tmp_path: Path) -> None:
    model().save(tmp_path)
    path = tmp_path / "towers.safetensors"
    path.write_bytes(path.read_bytes()[:50])

    with pytest.raises(ArtifactError, match="no whole two-tower model"):
        TwoTower.load(tmp_path)


def test_a_tower_that_starts_as_a_sum_adds_the_features_of_its_own_width() -> None:
    user = TowerConfig(["user_id", "age", "history"], [8, 4, 8], 2, [16], 8)
    made = TwoTower(TwoTowerConfig(user, ITEM, normalize=False))
    pooled, dense = inputs()
    pooled["history"] = torch.randn(5, 8)

    made.start_as_sum()

    found = made.user_vectors(pooled, dense)
    assert torch.equal(found, pooled["user_id"] + pooled["history"])
    assert torch.equal(made.item_vectors(pooled, dense[:, :0]), pooled["item_id"])
    found.square().sum().backward()
    assert all(weight.grad is not None for weight in made.user.parameters())


def test_a_tower_without_hidden_layers_is_its_short_cut_and_its_layer_together() -> None:
    made, (pooled, dense) = model(normalize=False), inputs()

    found = made.item_vectors(pooled, dense[:, :0])

    x = pooled["item_id"]
    expected = made.item.shortcut(x) + made.item.network(x)
    assert found.detach().numpy() == pytest.approx(expected.detach().numpy(), abs=1e-6)
