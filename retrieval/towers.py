"""The two-tower model: users and items as vectors whose dot product says how well they match.

Covington et al., "Deep Neural Networks for YouTube Recommendations" (2016); Yi et al.,
"Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations" (2019).

Plain torch over pooled embeddings: the trainer feeds it from TorchRec's sharded tables, the
retriever from memory-mapped ones. Shapes: B examples, D width of a feature's vectors, F numeric
features, V width of the resulting vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from feature_repo.contract.artifacts import atomic_path, read_json, write_json
from feature_repo.contract.encoding import Encoded
from feature_repo.contract.errors import ArtifactError
from feature_repo.contract.tables import Tables


@dataclass(frozen=True)
class TowerConfig:
    """One tower's inputs and layers."""

    features: list[str]
    """In the order of concatenation."""
    widths: list[int]
    """Width of each feature's pooled vectors."""
    num_dense: int
    hidden: list[int]
    dim: int
    dropout: float = 0.0


@dataclass(frozen=True)
class TwoTowerConfig:
    """Both towers."""

    user: TowerConfig
    item: TowerConfig
    normalize: bool = True
    """Whether vectors have length 1: the dot product is then a cosine."""

    @property
    def similarity(self) -> str:
        """``cosine`` or ``dot``."""
        return "cosine" if self.normalize else "dot"


class Tower(nn.Module):
    """Features side by side, through a network, beside a linear short cut: [B, V]."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.config = config
        width = sum(config.widths) + config.num_dense
        self.shortcut = nn.Linear(width, config.dim, bias=False)
        layers: list[nn.Module] = []
        for hidden in config.hidden:
            layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(config.dropout)]
            width = hidden
        self.network = nn.Sequential(*layers, nn.Linear(width, config.dim))

    def forward(self, pooled: Mapping[str, Tensor], dense_BF: Tensor) -> Tensor:
        """[B, V] from the features' pooled vectors ([B, D] each) and numbers."""
        x = torch.cat([*(pooled[name] for name in self.config.features), dense_BF], dim=1)
        if not self.config.hidden:  # both are one layer: their sum is one product instead of two
            return F.linear(x, self.shortcut.weight + self.last.weight, self.last.bias)
        y: Tensor = self.shortcut(x) + self.network(x)
        return y

    @property
    def last(self) -> nn.Linear:
        """The network's last layer."""
        found = self.network[-1]
        assert isinstance(found, nn.Linear)
        return found

    def start_as_sum(self) -> None:
        """Let the tower be the sum of those features that are as wide as its vectors.

        Everything else begins at zero, as the last layer of a residual block (Goyal et al.,
        "Accurate, Large Minibatch SGD", 2017): ids of users, histories and items then lie in one
        space from the first step on, which random layers would have to learn.
        """
        with torch.no_grad():
            for weight in (self.shortcut.weight, self.last.weight, self.last.bias):
                weight.zero_()
            for end, width in zip(accumulate(self.config.widths), self.config.widths, strict=True):
                if width == self.config.dim:
                    self.shortcut.weight[:, end - width : end].fill_diagonal_(1.0)


class TwoTower(nn.Module):
    """User and item towers over the same space."""

    def __init__(self, config: TwoTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.user = Tower(config.user)
        self.item = Tower(config.item)

    def user_vectors(self, pooled: Mapping[str, Tensor], dense_BF: Tensor) -> Tensor:
        """[B, V] float32; of length 1 where the model is normalised."""
        return self._finish(self.user(pooled, dense_BF))

    def item_vectors(self, pooled: Mapping[str, Tensor], dense_BF: Tensor) -> Tensor:
        """[B, V] float32; of length 1 where the model is normalised."""
        return self._finish(self.item(pooled, dense_BF))

    def start_as_sum(self) -> None:
        """See ``Tower.start_as_sum``."""
        self.user.start_as_sum()
        self.item.start_as_sum()

    def _finish(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=1) if self.config.normalize else vectors

    def save(self, folder: Path) -> None:
        """Write ``towers.json`` and ``towers.safetensors``, atomically each."""
        write_json(folder / "towers.json", asdict(self.config))
        with atomic_path(folder / "towers.safetensors") as temporary:
            save_file({k: v.cpu().contiguous() for k, v in self.state_dict().items()}, temporary)

    @staticmethod
    def load(folder: Path) -> TwoTower:
        """Read a saved model, ready for inference.

        Raises:
            ArtifactError: a file is missing, truncated, or the two do not fit.
        """
        value = read_json(folder / "towers.json")
        try:
            config = TwoTowerConfig(
                TowerConfig(**value["user"]), TowerConfig(**value["item"]), value["normalize"]
            )
            model = TwoTower(config)
            model.load_state_dict(load_file(folder / "towers.safetensors"))
        except (OSError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise ArtifactError(f"{folder} holds no whole two-tower model: {error}") from error
        return model.eval()


def pooled_inputs(
    encoded: Encoded, tables: Tables, features: Iterable[str]
) -> tuple[dict[str, Tensor], Tensor]:
    """A tower's inputs from exported tables: feature -> [B, D], and the numbers [B, F]."""
    pooled = {name: torch.from_numpy(tables.pooled(name, encoded.bags[name])) for name in features}
    return pooled, torch.from_numpy(np.ascontiguousarray(encoded.dense))
