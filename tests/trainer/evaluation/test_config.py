from __future__ import annotations

from pathlib import Path

import pytest

from feature_repo.contract.errors import ArtifactError, ConfigError
from tests.trainer.evaluation.shop import make_shop
from trainer.evaluation.config import Split, load_config


def test_what_is_not_set_has_a_default() -> None:
    config = load_config(["out=there"])

    assert (config.out, config.split, config.k, config.lists) == (
        "there",
        Split.validation,
        10,
        None,
    )
    assert config.data["name"] == "complete_journey"


def test_overrides_reach_the_settings() -> None:
    config = load_config(["out=x", "split=test", "k=5", "baselines.ease_l2=7", "lists=a.parquet"])

    assert (config.split, config.k, config.baselines.ease_l2) == (Split.test, 5, 7.0)
    assert config.lists == "a.parquet"


def test_the_data_set_is_found_by_its_root(tmp_path: Path) -> None:
    make_shop(tmp_path, [("ann", "tea", 1)])
    settings = ["out=x", "data=parquet", "data.name=shop", f"data.root={tmp_path}"]

    assert load_config(settings).dataset().root == tmp_path


def test_settings_of_the_ingest_are_passed_over() -> None:
    settings = ["out=x", "data=parquet", "data.events=e.csv", "data.columns.user_id=customer"]

    assert load_config(settings).data["name"] == "parquet"


def test_a_data_set_that_was_not_ingested_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"dataset\.json does not exist"):
        load_config(["out=x", f"data.root={tmp_path}"]).dataset()


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ([], "out=FOLDER is missing"),
        (["out=x", "split=tset"], "tset"),
        (["out=x", "fold=3"], "fold"),
        (["out=x", "data=nowhere"], "nowhere"),
        (["out=x", "k=0"], "k must be at least 1; got 0"),
        (["out=x", "k=many"], "many"),
        (["out=x", "baselines.neighbours=0"], r"baselines\.neighbours must be above zero; got 0"),
    ],
)
def test_a_wrong_setting_is_named(overrides: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load_config(overrides)
