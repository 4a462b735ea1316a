"""Factor models: trained by ``python -m trainer``, judged, exported, and exact in their parts."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from feature_repo.contract.artifacts import read_json
from feature_repo.contract.dataset import Dataset
from feature_repo.jobs.config import InteractionsConfig, load_config
from feature_repo.jobs.interactions import make_interactions
from retrieval.sources import FactorSource
from tests.retrieval import shop
from trainer.__main__ import main
from trainer.config import compose
from trainer.distributed import Process
from trainer.factor_config import MfConfig
from trainer.fitted import load_fitted
from trainer.judge import Judged
from trainer.mf import MfTask
from trainer.sets import SERVICE, TrainingSet, judged_users

SMALL = [
    "cutoff=t1",
    "sharding.device=cpu",
    "trainer.batch_size=16",
    "trainer.epochs=2",
    "model.dim=8",
    "validate=true",
]


def trained(capsys: pytest.CaptureFixture[str], *overrides: str) -> Path:
    """The folder of a finished run."""
    assert main([*SMALL, *overrides]) == 0
    return Path(capsys.readouterr().out.strip())


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=mf", "model.num_negatives=10"],
        ["model=mf", "model.loss=multinomial", "model.num_negatives=null", "model.l2=0.01"],
        ["model=mf", "model.loss=bpr", "model.num_negatives=3", "model.dropout=0.1"],
        ["model=mf", "model.normalize=true", "model.temperature=0.1"],
        ["model=mf", "model.loss=logistic", "model.num_negatives=10", "model.l2=0.01"],
        ["model=lightgcn", "model.layers=2", "model.num_negatives=10"],
        ["model=lightgcn", "model.loss=bpr", "model.num_negatives=1", "model.l2=0.01"],
    ],
)
def test_a_factor_model_is_trained_judged_and_read_back(
    overrides: list[str],
    shop_dataset: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = trained(capsys, *overrides, *shop.overrides(shop_dataset, tmp_path))

    result = read_json(run / "result.json")
    source, encoder = load_fitted(run)
    judged = Judged.of(judged_users(shop_dataset, "t1"), encoder)
    top = source.top(judged.users, 5)
    assert 0 < result["recall_new_20"] <= result["recall_new_200"] <= 1
    assert (top.item_row > 0).any()
    assert not (run / "evaluation").exists()


def test_alternating_least_squares_gives_a_stranger_what_it_gives_its_twin(
    shop_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path
    assert (
        main(
            [
                *("model=ials", "cutoff=t1", "sharding.device=cpu", "validate=true"),
                *("model.dim=8", "model.alpha=1"),
                *shop.overrides(shop_dataset, run),
            ]
        )
        == 0
    )
    source, encoder = load_fitted(Path(capsys.readouterr().out.strip()))
    assert isinstance(source, FactorSource)
    users = Judged.of(judged_users(shop_dataset, "t1"), encoder).users
    known = source.vectors(users)
    assert users.user_row is not None

    strangers = FactorSource("ials", source.user_vectors * 0, source.item_vectors, source.fold_in)
    folded = strangers.vectors(users)

    cosines = (
        (known * folded).sum(1) / np.linalg.norm(known, axis=1) / np.linalg.norm(folded, axis=1)
    )
    assert np.median(cosines) > 0.8


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """60 users and 40 items: a rating is 3, more or less by the user and by the item."""
    folder = tmp_path_factory.mktemp("ratings")
    rng = np.random.default_rng(0)
    users, items = rng.normal(0, 0.7, 60), rng.normal(0, 0.7, 40)
    lines = [
        f"{user + 1} {item + 1} {3 + users[user] + items[item]:.3f}\n"
        for user in range(60)
        for item in rng.choice(40, 20, replace=False)
    ]
    rng.shuffle(lines)
    (folder / "train.txt").write_text("".join(lines[:1000]))
    (folder / "test.txt").write_text("".join(lines[1000:]))
    config = load_config(
        InteractionsConfig,
        [
            "data=interactions",
            "data.name=ratings",
            f"data.root={folder / 'ratings'}",
            f"data.train={folder / 'train.txt'}",
            f"data.test={folder / 'test.txt'}",
            "data.format=triples",
        ],
    )
    return make_interactions(config)


def test_explicit_ratings_are_predicted_better_than_by_their_mean(
    ratings: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = judged_users(ratings, "t1").column("target_rating").to_pylist()
    values = np.concatenate([np.array(row) for row in rows])

    run = trained(
        capsys,
        *("model=mf", "model.loss=squared", "model.l2=0.001", "trainer.epochs=30"),
        *("optimizer.table_lr=0.1", f"data.root={ratings.root}", "data=interactions"),
        *("data.name=ratings", f"paths.runs={tmp_path}"),
    )

    assert read_json(run / "result.json")["rmse"] < 0.6 * values.std()


def test_ratings_are_asked_for_where_there_are_none(
    shop_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = shop.overrides(shop_dataset, tmp_path)

    assert main([*SMALL, "model=mf", "model.loss=squared", *overrides]) == 1

    assert "target_rating" in capsys.readouterr().err


def test_the_logistic_loss_sets_each_target_against_all_items(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    overrides = ["model=mf", "model.loss=logistic", "model.num_negatives=null"]
    config = compose([*SMALL, *overrides, *shop.overrides(shop_dataset, tmp_path)])
    sessions = TrainingSet.open(shop_dataset, SERVICE, "sessions", config.cutoff)
    assert isinstance(config.model, MfConfig)
    task = MfTask(config, config.model, shop_dataset, sessions, process, tmp_path)
    (batch, *_) = task.batches(0, 0)
    tensors = task.prepare(batch, 0).tensors
    users, items = torch.randn(len(batch), 12), torch.randn(task.encoder.items.num_rows - 1, 12)

    found = task.loss(users, items, tensors)

    logits = users @ items.T
    targets = list(zip(tensors["owner"].tolist(), tensors["place"].tolist(), strict=True))
    losses = [
        math.log1p(math.exp(-logits[user, item]))
        + 8 * np.mean([math.log1p(math.exp(logit)) for logit in logits[user].tolist()])
        for user, item in targets
    ]
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-4)
