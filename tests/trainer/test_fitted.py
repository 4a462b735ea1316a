"""Models that are fitted in closed form, as runs of ``python -m trainer``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.artifacts import read_json
from feature_repo.contract.dataset import Dataset
from tests.retrieval import shop
from trainer.__main__ import main
from trainer.fitted import load_fitted
from trainer.judge import Judged
from trainer.sets import judged_users

MODELS = [
    ["ease"],
    ["item_knn"],
    ["graph_filter"],
    ["groups", "model.groups=[category]"],
    ["popular"],
    ["popular", "model.half_life_days=7"],
    ["popular", "model.by=category"],
    ["trending", "model.days=10", "model.earlier_days=20"],
    ["similar_users"],
    ["similar_users", "model.exact_users=0", "model.clusters=2"],
    ["content", "model.topics_of=category", "model.topics=1", "~model.weights.brand_tier"],
]


def overrides(model: str, dataset: Dataset, runs: Path) -> list[str]:
    chosen = [f"model={model}", "cutoff=t1", "validate=true"]
    return [*chosen, "sharding.device=cpu", *shop.overrides(dataset, runs)]


@pytest.mark.parametrize("settings", MODELS)
def test_a_fitted_model_is_written_judged_and_read_back(
    settings: list[str], shop_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*overrides(settings[0], shop_dataset, tmp_path), *settings[1:]]) == 0

    run = Path(capsys.readouterr().out.strip())
    result = read_json(run / "result.json")
    assert 0 < result["recall_new_20"] <= result["recall_new_200"] <= 1
    source, encoder = load_fitted(run)
    judged = Judged.of(judged_users(shop_dataset, "t1"), encoder)
    top = source.top(judged.users, 5)
    for user, rows in enumerate(top.item_row):
        assert not set(rows[rows > 0]) & set(judged.users.known(user))


@pytest.mark.parametrize("settings", MODELS)
def test_given_items_are_scored_as_in_the_lists(
    settings: list[str], shop_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*overrides(settings[0], shop_dataset, tmp_path), *settings[1:]])
    source, encoder = load_fitted(Path(capsys.readouterr().out.strip()))
    judged = Judged.of(judged_users(shop_dataset, "t1"), encoder)
    top = source.top(judged.users, 5)
    offsets = np.arange(len(judged.users) + 1, dtype=np.int64) * 5

    scores = source.score(judged.users, offsets, top.item_row.ravel())

    named = top.item_row.ravel() > 0
    np.testing.assert_allclose(scores[named], top.score.ravel()[named], rtol=1e-6)


def test_a_finished_run_is_found_and_not_fitted_again(
    shop_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(overrides("ease", shop_dataset, tmp_path))
    first = Path(capsys.readouterr().out.strip())
    made = (first / "source" / "source.json").stat().st_mtime_ns

    main(overrides("ease", shop_dataset, tmp_path))

    assert Path(capsys.readouterr().out.strip()) == first
    assert (first / "source" / "source.json").stat().st_mtime_ns == made
