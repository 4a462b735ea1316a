"""Several optimisers as one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.joint_optimizer import JointOptimizer


def parameters() -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))


def loss(first: Tensor, second: Tensor) -> Tensor:
    return (first**2).sum() + (second**3).sum()


def test_it_steps_as_its_parts_do_alone() -> None:
    (first, second), (alone, other) = parameters(), parameters()
    joint = JointOptimizer(
        [torch.optim.AdamW([first], lr=0.1), torch.optim.Adagrad([second], lr=0.1)]
    )
    parts = [torch.optim.AdamW([alone], lr=0.1), torch.optim.Adagrad([other], lr=0.1)]

    for _ in range(3):
        joint.zero_grad()
        loss(first, second).backward()
        joint.step()
        for part in parts:
            part.zero_grad()
        loss(alone, other).backward()
        for part in parts:
            part.step()

    assert torch.equal(first, alone)
    assert torch.equal(second, other)


def test_its_learning_rates_reach_the_parts() -> None:
    first, second = parameters()
    joint = JointOptimizer(
        [torch.optim.AdamW([first], lr=0.1), torch.optim.Adagrad([second], lr=0.1)]
    )

    for group in joint.param_groups:
        group["lr"] = 0.0
    loss(first, second).backward()
    joint.step()

    assert torch.equal(first, torch.ones(3))
    assert torch.equal(second, torch.ones(2))


def test_it_holds_the_state_of_every_part() -> None:
    first, second = parameters()
    joint = JointOptimizer(
        [torch.optim.AdamW([first], lr=0.1), torch.optim.Adagrad([second], lr=0.1)]
    )
    loss(first, second).backward()
    joint.step()

    assert {"exp_avg", "exp_avg_sq"} <= set(joint.state[first])
    assert "sum" in joint.state[second]
