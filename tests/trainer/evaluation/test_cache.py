from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.dataset import Dataset
from tests.trainer.evaluation.shop import make_shop, random_shop
from trainer.evaluation import baselines, cache
from trainer.evaluation.cache import Lists, cached_baselines
from trainer.evaluation.config import BaselineConfig, Split
from trainer.evaluation.window import Task, load_window

CONFIG = BaselineConfig(ials_factors=4, ials_iterations=2)


def lists_of(shop: Dataset, k: int = 4, config: BaselineConfig = CONFIG) -> Lists:
    window = load_window(shop, Split.validation)
    users = {task: window.judged(task).users for task in Task}
    return cached_baselines(shop, window, users, k, config)


def files(shop: Dataset) -> list[Path]:
    return sorted((shop.root / "baselines").glob("*.parquet"))


@pytest.fixture
def shop(tmp_path: Path) -> Dataset:
    return random_shop(tmp_path)


def refuse(*_: object) -> Lists:
    raise AssertionError("The baselines were fitted again.")


def test_the_second_time_the_lists_are_read(shop: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    first = lists_of(shop)
    monkeypatch.setattr(baselines, "baseline_lists", refuse)

    second = lists_of(shop)

    for task in Task:
        assert list(first[task]) == list(second[task])
        for name in first[task]:
            np.testing.assert_array_equal(first[task][name], second[task][name])


def test_other_settings_or_lengths_are_other_lists(shop: Dataset) -> None:
    lists_of(shop)
    lists_of(shop, k=3)
    lists_of(shop, config=BaselineConfig(ials_factors=4, ials_iterations=2, ease_l2=5.0))

    assert len(files(shop)) == 3


def test_other_events_are_other_lists(tmp_path: Path) -> None:
    lists_of(make_shop(tmp_path, [("ann", "tea", 1), ("ann", "tea", 85)]))
    lists_of(make_shop(tmp_path, [("ann", "tea", 2), ("ann", "tea", 85)]))

    assert len(files(load_dataset(tmp_path))) == 2


def load_dataset(root: Path) -> Dataset:
    return Dataset.load(root / "dataset.json")


def test_a_broken_file_is_made_again(shop: Dataset) -> None:
    first = lists_of(shop)
    files(shop)[0].write_bytes(b"half of a file")

    second = lists_of(shop)

    np.testing.assert_array_equal(first[Task.ALL]["ease"], second[Task.ALL]["ease"])


def test_only_the_latest_files_are_kept(shop: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "KEPT", 2)
    for k in (1, 2, 3):
        lists_of(shop, k=k)

    assert len(files(shop)) == 2
