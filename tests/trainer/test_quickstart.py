"""The command line of the quickstart: which shop, and what its stages are told."""

from __future__ import annotations

import pytest

from feature_repo.contract.dataset import REPOSITORY
from feature_repo.contract.errors import BadInput
from trainer.quickstart import Shop


def test_without_settings_it_is_the_default_data_set() -> None:
    shop = Shop.from_overrides(())

    assert shop.is_default
    assert shop.name == "complete_journey"
    assert shop.root == REPOSITORY / "data" / "complete_journey"


@pytest.mark.parametrize("setting", ["data.max_users=200", "data=parquet", "data.name=sample"])
def test_a_sample_or_another_shop_never_writes_the_readme(setting: str) -> None:
    assert not Shop.from_overrides((setting,)).is_default


def test_a_shop_is_named_and_its_settings_reach_the_jobs() -> None:
    shop = Shop.from_overrides(("data=parquet", "data.name=my_shop", "data.events=orders.csv"))

    root = REPOSITORY / "data" / "my_shop"
    assert shop.named == ("data=parquet", "data.name=my_shop", f"data.root={root}")
    assert "data.events=orders.csv" in shop.overrides


def test_the_default_data_set_has_experiments_of_its_own_and_other_shops_the_general_ones() -> None:
    assert Shop.from_overrides(()).experiment("two_tower") == "complete_journey/two_tower"
    assert Shop.from_overrides(("data=parquet",)).experiment("two_tower") == "two_tower"


@pytest.mark.parametrize("override", ["model.dim=64", "data.events", "cutoff"])
def test_a_setting_that_is_not_the_datas_is_refused_by_name(override: str) -> None:
    with pytest.raises(BadInput, match=override):
        Shop.from_overrides((override,))
