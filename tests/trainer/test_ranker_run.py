"""What a ranker is trained from."""

from __future__ import annotations

import pytest

from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ConfigError
from tests.trainer.ranker_shop import (
    make_config,
)
from trainer.distributed import Process
from trainer.ranker_config import RankerModelConfig
from trainer.ranker_run import train


def test_training_without_a_retriever_is_refused(ranker_dataset: Dataset, process: Process) -> None:
    made = make_config(ranker_dataset)
    assert isinstance(made.model, RankerModelConfig)

    with pytest.raises(ConfigError, match="needs retriever=DIR"):
        train(made, made.model, process)
