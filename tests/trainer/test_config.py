"""Settings: every experiment composes, and mistakes get a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ArtifactError, ConfigError
from retrieval.index import Kind
from trainer.config import RunConfig, choices, compose, name_of
from trainer.distributed import Process
from trainer.ranker_config import RankerModelConfig
from trainer.runs import Run


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment_composes(experiment: str) -> None:
    config = compose([f"experiment={experiment}", "cutoff=t1"])

    file = experiment.rpartition("/")[2]
    assert file.startswith(name_of(config.model))
    assert config.experiment != RunConfig.experiment


@pytest.mark.parametrize("debug", choices("debug"))
def test_every_debug_setting_composes(debug: str) -> None:
    assert compose(["experiment=two_tower", "cutoff=t1", f"debug={debug}"]).trainer.max_steps


def test_the_command_line_wins_over_the_files() -> None:
    config = compose(["experiment=two_tower", "cutoff=t1", "trainer.epochs=17", "index=hnsw"])

    assert config.trainer.epochs == 17
    assert config.index.kind is Kind.hnsw


def test_settings_of_a_run_hold_where_nothing_else_is_said(
    shop_dataset: Dataset, tmp_path: Path
) -> None:
    root = f"data.root={shop_dataset.root}"
    settings = ["cutoff=t1", "seed=3", "trainer.epochs=17", "+model.tasks.view=0.5"]
    first = compose(["experiment=wide_deep_new", *settings, "model.earlier=[/a]", root])
    run = Run.open(first, {}, Process(0, 1, 0, torch.device("cpu")), tmp_path)

    again = compose([f"like={run.folder}", "cutoff=t2", "data=parquet", "data.name=mine"])
    other = compose([f"like={run.folder}", "cutoff=t2", "model.earlier=[/b, /c]", "seed=4"])

    assert again.model == first.model
    assert (again.experiment, again.seed, again.trainer) == ("wide_deep_new", 3, first.trainer)
    assert again.optimizer == first.optimizer
    assert (again.cutoff, again.data["name"], again.data["root"]) == ("t2", "mine", "data/mine")
    assert isinstance(other.model, RankerModelConfig)
    assert (other.model.earlier, other.seed, other.trainer.epochs) == (["/b", "/c"], 4, 17)


def test_settings_of_a_run_say_which_model_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"leave out \['experiment=two_tower'\]"):
        compose([f"like={tmp_path}", "experiment=two_tower", "cutoff=t1"])
    with pytest.raises(ArtifactError, match=r"run\.json does not exist"):
        compose([f"like={tmp_path}", "cutoff=t1"])


def test_a_data_set_is_named_and_placed_from_the_command_line() -> None:
    config = compose(
        ["experiment=two_tower", "cutoff=t1", "data=parquet", "data.name=mine", "data.root=/x/y"]
    )

    assert str(config.dataset_folder) == "/x/y"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.temprature=1", "temprature"),
        ("optimizer.dense_lr=fast", "dense_lr"),
        ("experiment=nothing", "experiment/nothing"),
        ("model.temperature=0", "model.temperature must be above zero; got 0"),
        ("model.dim=30", "model.dim must be a multiple of 4"),
        ("trainer.epochs=0", "trainer.epochs must be above zero; got 0"),
        ("trainer.patience=2", "trainer.patience needs trainer.select"),
        ("optimizer.schedule=sometimes", "schedule"),
        ("==", "=="),
    ],
)
def test_a_mistake_is_named(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["experiment=two_tower", "cutoff=t1", override])

    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_cutoff_is_named() -> None:
    with pytest.raises(ConfigError, match="cutoff"):
        compose(["experiment=two_tower"])
