"""Blends: weights by hand, and runs that are blended and served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.artifacts import read_json
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ConfigError
from retrieval.retriever import Retriever
from retrieval.sources.blend import comparable
from tests.retrieval import shop
from tests.trainer.shop import SMALL, sources_config
from trainer.__main__ import main
from trainer.blend import fit_listwise, weights_of
from trainer.sets import judged_users
from trainer.sources import make_bundle


def test_scores_become_deviations_and_ranks() -> None:
    scores = np.array([[3.0, np.nan], [1.0, 5.0], [2.0, 7.0]], dtype=np.float32)

    found = comparable(scores)

    deviation = np.sqrt(2 / 3)
    np.testing.assert_allclose(found[:, 0], [1 / deviation, -1 / deviation, 0], rtol=1e-5)
    np.testing.assert_allclose(found[:, 2], [-np.log(1), -np.log(3), -np.log(2)], atol=1e-6)
    np.testing.assert_allclose(found[:, 3], [-np.log(2), -np.log(3), -np.log(1)], atol=1e-6)


def test_the_part_that_tells_what_is_bought_gets_the_weight() -> None:
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(4000, 2)).astype(np.float32)
    sizes = np.full(400, 10)
    labels = np.zeros(4000, dtype=bool)
    labels[parts[:, 1].reshape(400, 10).argmax(axis=1) + np.arange(400) * 10] = True

    weights = fit_listwise(parts, labels, sizes, l2=1e-3)

    assert weights[1] > 2
    assert abs(weights[0]) < 0.1 * weights[1]


def run(capsys: pytest.CaptureFixture[str], *overrides: str) -> Path:
    assert main(["cutoff=t1", "sharding.device=cpu", "validate=true", *overrides]) == 0
    return Path(capsys.readouterr().out.strip())


def test_runs_are_blended_and_the_blend_is_served(
    shop_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shop.overrides(shop_dataset, tmp_path)
    towers = run(capsys, *SMALL, *data)
    ease = run(capsys, "model=ease", "model.items=30", *data)
    factors = run(capsys, "model=ials", "model.dim=8", *data)
    runs = f"+model.runs={{ann: '{towers}', ease: '{ease}', factors: '{factors}'}}"

    blend = run(capsys, "model=blend", runs, "model.depth=10", *data)

    assert 0 < read_json(blend / "result.json")["recall_new_20"] <= 1
    assert len(weights_of(blend, ["ann", "ease", "factors"])) == 2 * 3
    with pytest.raises(ConfigError, match="blended"):
        weights_of(blend, ["ease", "ann", "factors"])
    settings = [
        f"+sources.runs={{factors: '{factors}'}}",
        f"sources.blend='{blend}'",
        "+sources.quotas.blend=20",
        "sources.quotas.ease=0",
    ]
    retriever = Retriever.load(make_bundle(sources_config(shop_dataset, towers, *settings)))
    found = retriever.candidates(judged_users(shop_dataset, "t1").slice(0, 4))
    assert "ease" not in found.sources
    assert np.isfinite(found.score[:, found.sources.index("blend")]).any()


def test_a_blend_takes_over_the_weights_of_an_earlier_one(
    shop_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shop.overrides(shop_dataset, tmp_path)
    ease = run(capsys, "model=ease", "model.items=30", *data)
    popular = run(capsys, "model=popular", *data)
    runs = f"+model.runs={{ease: '{ease}', popular: '{popular}'}}"
    first = run(capsys, "model=blend", runs, *data)

    second = run(capsys, "model=blend", runs, f"model.weights='{first}'", *data)

    assert second != first
    assert read_json(second / "blend.json") == read_json(first / "blend.json")
