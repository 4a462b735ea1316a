"""A process group of one."""

from __future__ import annotations

import pytest
import torch

from feature_repo.contract.errors import ConfigError
from trainer.distributed import Device, Process, process_group


def test_a_process_alone_is_the_first_of_one(process: Process) -> None:
    assert process.is_first
    assert process.world_size == 1
    assert process.device == torch.device("cpu")


def test_collectives_of_one_give_what_they_got(process: Process) -> None:
    process.barrier()

    assert process.any(True)
    assert not process.any(False)
    assert process.max(3) == 3
    assert process.mean(2.5) == 2.5
    assert process.share({"recall": 0.5}) == {"recall": 0.5}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_missing_is_said() -> None:
    with (
        pytest.raises(ConfigError, match="torch finds no GPU"),
        process_group(Device.cuda),
    ):
        pass
