"""One training step as TorchRec's pipelines want it: inputs made on the host, then a module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from trainer.config import Compute
from trainer.embeddings import pooled_of


@dataclass
class StepInputs(Pipelineable):
    """Everything that one process needs for one step."""

    features: KeyedJaggedTensor
    """What is looked up in the tables; of the same stride on every process."""
    tensors: dict[str, Tensor]
    """The rest, by the names that the model's head knows."""
    sizes: dict[str, int]
    """Numbers that the head needs on the host; ``examples``: those of all processes."""

    def to(self, device: torch.device, non_blocking: bool = False) -> StepInputs:
        """The inputs on a device."""
        moved = {k: v.to(device, non_blocking=non_blocking) for k, v in self.tensors.items()}
        features = self.features.to(device, non_blocking=non_blocking)
        return StepInputs(features, moved, self.sizes)

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the memory until ``stream`` is done with it."""
        self.features.record_stream(stream)
        for tensor in self.tensors.values():
            tensor.record_stream(stream)

    def pin_memory(self) -> StepInputs:
        """The inputs in page-locked memory, for copies that do not block."""
        pinned = {name: tensor.pin_memory() for name, tensor in self.tensors.items()}
        return StepInputs(self.features.pin_memory(), pinned, self.sizes)


Head = Callable[[dict[str, Tensor], StepInputs], Tensor]
"""A model behind the tables: pooled rows and inputs to this process's loss."""


class _Leaf(nn.Module):
    """Everything behind the tables; a pipeline does not look inside."""

    def __init__(self, dense: nn.Module, head: Head, device: torch.device, compute: Compute):
        super().__init__()
        self.dense = dense
        self._head = head
        self._device = device
        self._compute = compute

    def forward(self, pooled: Any, inputs: StepInputs) -> Tensor:
        found = pooled_of(pooled)
        with torch.autocast(
            self._device.type, torch.bfloat16, enabled=self._compute is Compute.bf16
        ):
            return self._head(found, inputs)


class TrainStep(nn.Module):
    """From inputs to the loss: tables, then the model's head."""

    def __init__(
        self,
        tables: nn.Module,
        dense: nn.Module,
        head: Head,
        device: torch.device,
        compute: Compute,
    ) -> None:
        super().__init__()
        self.tables = tables
        self.leaf = _Leaf(dense, head, device, compute)

    def forward(self, inputs: StepInputs) -> tuple[Tensor, Tensor]:
        """(loss to be differentiated, the same to be kept): what a pipeline returns."""
        loss = self.leaf(self.tables(inputs.features), inputs)
        return loss, loss.detach()
