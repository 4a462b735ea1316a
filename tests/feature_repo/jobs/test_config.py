from __future__ import annotations

from pathlib import Path

import pytest

from feature_repo.contract.errors import ArtifactError, BadInput, ConfigError
from feature_repo.jobs.config import (
    CONF,
    ClockChoice,
    JobConfig,
    SetKind,
    Source,
    TrainingSetConfig,
    load_config,
)


@pytest.mark.parametrize("path", sorted((CONF / "data").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_data_set_composes(path: Path) -> None:
    assert load_config(JobConfig, [f"data={path.stem}"]).data.name


def test_the_default_is_complete_journey() -> None:
    data = load_config(JobConfig, []).data

    assert data.source is Source.complete_journey
    assert data.root == "data/complete_journey"
    assert data.zone.key == "America/New_York"
    assert (data.history_items, data.half_life_days, data.snapshot_days) == (500, 56.0, 7)


def test_overrides_reach_the_dataclass() -> None:
    config = load_config(
        JobConfig,
        ["data=parquet", "data.name=mine", "data.columns.user_id=customer", "data.clock=wall"],
    )

    assert config.data.root == "data/mine"
    assert config.data.columns.user_id == "customer"
    assert config.data.clock is ClockChoice.wall


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["kindd=users"], "There is no such setting: Key 'kindd'"),
        (["data.evnts=a.csv"], "There is no such setting: Key 'evnts'"),
        (["data.columns.user=u"], "There is no such setting: Key 'user'"),
        (["data=nowhere"], "There is no data set 'nowhere' in conf/data"),
        (["data.history_items=many"], "could not be converted to Integer"),
        (["data.history_items=0"], r"data\.history_items must be above zero; got 0"),
        (["data.max_users=-1"], r"data\.max_users must be above zero; got -1"),
        (["data.timezone=Mars/Olympus"], "is not a time zone such as"),
        (["data.name=my-shop"], "must be letters, digits and underscores"),
        (["data.clock=sundial"], "Invalid value 'sundial'"),
        (["memory_gb=0"], "memory_gb must be at least"),
    ],
)
def test_a_wrong_setting_is_a_sentence(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(JobConfig, overrides)


def test_a_cut_off_that_is_no_date_is_refused() -> None:
    with pytest.raises(BadInput, match="is not an ISO 8601"):
        load_config(JobConfig, ["data.cutoff=yesterday"])


def test_a_training_set_needs_service_and_cut_off() -> None:
    with pytest.raises(ConfigError, match="The setting service is missing"):
        load_config(TrainingSetConfig, ["cutoff=t0"])


def test_only_users_have_a_label_window() -> None:
    overrides = ["service=a", "cutoff=t0", "until=t1"]

    assert load_config(TrainingSetConfig, [*overrides, "kind=users"]).kind is SetKind.users
    with pytest.raises(ConfigError, match=r"until=\.\.\. belongs to kind=users"):
        load_config(TrainingSetConfig, overrides)


def test_a_data_set_that_was_not_ingested_is_named(tmp_path: Path) -> None:
    config = load_config(JobConfig, [f"data.root={tmp_path}"])

    with pytest.raises(ArtifactError, match=r"dataset\.json does not exist"):
        config.data.dataset()
