"""Several optimisers, each of its own parameters, behind the interface of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


class JointOptimizer(torch.optim.Optimizer):
    """Steps all of its parts; learning rates and states are shared with them."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        groups = [group for part in parts for group in part.param_groups]
        super().__init__(groups, {})
        self.parts = tuple(parts)
        for part in parts:
            self.state.update(part.state)
            part.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step of every part."""
        loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss
