"""Training a ranker: batches, and parity of the trained and the exported model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from feature_repo.contract.artifacts import read_manifest
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.events import EventType
from feature_repo.contract.schema import Entity
from ranking.inputs import InputEncoder
from ranking.network import NetworkConfig
from ranking.rankers import kind_of
from ranking.scorer import Scorer
from tests.ranking import shop
from tests.trainer.ranker_shop import (
    DCN_V2,
    NETWORK,
    make_config,
    make_members,
    make_run,
    make_task,
    make_viewed,
    make_window,
)
from trainer.distributed import Process
from trainer.embeddings import pooled_of
from trainer.ranker_batches import make_batch
from trainer.ranker_inputs import encode_windows
from trainer.ranker_members import write_bundle
from trainer.ranker_rows import Rows
from trainer.runs import Run


@pytest.mark.parametrize("network", [NETWORK, DCN_V2], ids=kind_of)
def test_the_exported_ranker_scores_as_the_trained_one(
    network: NetworkConfig, ranker_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    encoded = encode_windows([make_window()], network, ranker_dataset)
    members = make_members(ranker_dataset, encoded, process, network=network)
    before = members.task(0).evaluate()
    after = write_bundle(members, Run(tmp_path, {}, process), ranker_dataset)
    window = make_window()

    scores = Scorer.load(tmp_path / "ranker", window.item_rows).score(
        window.user_rows, window.candidates, window.vocabulary
    )

    again = members.task(0)
    again.trainer(Run(tmp_path, {}, process), members.config).train()
    np.testing.assert_allclose(scores, again.scores(encoded[1]), rtol=1e-4, atol=1e-4)
    assert np.ptp(scores) > 0.1
    assert after["ndcg@10"] > before["ndcg@10"]
    about = read_manifest(tmp_path / "ranker", "ranker")
    assert about["sources"] == list(shop.SOURCES)
    assert about["cutoff"] == ranker_dataset.edges[2].isoformat()


def test_a_side_may_have_no_table_at_all(
    ranker_dataset: Dataset, encoded: tuple[InputEncoder, Rows], process: Process
) -> None:
    of_items = ["item_id", "department", "category", "subcategory", "brand"]

    task = make_task(
        ranker_dataset, encoded, process, network=replace(NETWORK, without=of_items, crosses=[])
    )

    assert "item_id" not in task.keys[Entity.ITEM]
    assert np.isfinite(task.scores(encoded[1])).all()
    everything = [*of_items, "user_id", "segment", "history_item_id"]
    with pytest.raises(ConfigError, match="leaves no feature"):
        make_task(ranker_dataset, encoded, process, network=replace(NETWORK, without=everything))


def test_the_same_seed_trains_the_same_ranker(
    ranker_dataset: Dataset, encoded: tuple[InputEncoder, Rows], process: Process, tmp_path: Path
) -> None:
    made, scores = make_config(ranker_dataset), []
    for name in ("first", "second"):
        task = make_task(ranker_dataset, encoded, process)
        (tmp_path / name).mkdir()
        run = Run(tmp_path / name, {}, process)
        task.trainer(run, made).train()
        scores.append(task.scores(encoded[1]))

    np.testing.assert_array_equal(scores[0], scores[1])


def test_every_process_gets_as_many_batches_of_different_requests(
    ranker_dataset: Dataset, encoded: tuple[InputEncoder, Rows], process: Process
) -> None:
    task = make_task(ranker_dataset, encoded, process)
    counts, users = [], set()
    for rank in range(3):
        task.process = replace(process, rank=rank, world_size=3)
        batches = list(task.batches(0, 0))
        counts.append(len(batches))
        assert len(batches) == task.num_batches()
        users |= {int(row) for b in batches for row in b.users.encoded.bags["user_id"].values}

    assert len(set(counts)) == 1
    bought = np.bincount(encoded[1].inputs.user_of, encoded[1].labels)
    assert len(users) == int((bought > 0).sum())


def test_batches_of_an_epoch_are_the_same_when_asked_again(
    ranker_dataset: Dataset, encoded: tuple[InputEncoder, Rows], process: Process
) -> None:
    task = make_task(ranker_dataset, encoded, process)

    first, again, other = (next(task.batches(epoch, 0)) for epoch in (4, 4, 5))

    assert torch.equal(first.pairs.codes, again.pairs.codes)
    assert not torch.equal(first.pairs.codes[:20], other.pairs.codes[:20])


def test_tasks_have_heads_of_their_own_and_one_score(
    ranker_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    window = make_viewed()
    encoded = encode_windows([window], NETWORK, ranker_dataset)
    tasks, score = {"purchase": 1.0, "view": 0.5}, {"purchase": 0.25, "view": 0.75}
    task = make_task(ranker_dataset, encoded, process, tasks=tasks, score=score)
    task.trainer(make_run(tmp_path / "run", process), make_config(ranker_dataset)).train()
    together = task.scores(encoded[1])
    task.score = [1.0, 0.0]
    bought = task.scores(encoded[1])
    task.score = [0.0, 1.0]
    viewed = task.scores(encoded[1])

    np.testing.assert_allclose(together, 0.25 * bought + 0.75 * viewed, rtol=1e-4, atol=1e-5)
    views = encoded[1].others[EventType.VIEW]
    assert viewed[views].mean() - viewed[~views].mean() > 0.5
    assert viewed[views].mean() - viewed[~views].mean() > (
        bought[views].mean() - bought[~views].mean()
    )


def test_the_loss_of_several_tasks_is_their_weighted_sum(
    ranker_dataset: Dataset, process: Process
) -> None:
    encoded = encode_windows([make_viewed()], NETWORK, ranker_dataset)
    settings = {"pointwise": 0.5, "score": {"purchase": 0.0, "view": 1.0}}

    def loss(**tasks: float) -> float:
        task = make_task(ranker_dataset, encoded, process, tasks=tasks, **settings)
        task.network.eval()
        batch = make_batch(
            encoded[1], encoded[0], np.arange(9), np.ones(len(encoded[1].labels), bool), task.events
        )
        inputs = task.prepare(batch, 0)
        pooled = pooled_of(task.tables.sharded(inputs.features))
        return float(task.head(pooled, inputs).detach())

    both, view = loss(purchase=1.0, view=1.0), loss(purchase=1.0, view=3.0)

    assert loss(purchase=2.0, view=2.0) == pytest.approx(2 * both)
    assert view > both


def test_labels_and_requests_count_as_the_rows_say(
    ranker_dataset: Dataset, encoded: tuple[InputEncoder, Rows], process: Process
) -> None:
    inputs, rows = encoded
    everything, users = np.ones(len(rows.labels), dtype=np.bool_), np.arange(9)

    def loss(gain: float, weight: float) -> float:
        counted = replace(
            rows,
            gains=np.full(len(rows.labels), gain, np.float32),
            weights=np.full(len(rows), weight, np.float32),
        )
        task = make_task(ranker_dataset, (inputs, counted), process, pointwise=0.0)
        task.network.eval()
        found = task.prepare(make_batch(counted, inputs, users, everything), 0)
        pooled = pooled_of(task.tables.sharded(found.features))
        return float(task.head(pooled, found).detach())

    assert loss(1.0, 1.0) > 0
    assert loss(3.0, 0.5) == pytest.approx(3.0 * 0.5 * loss(1.0, 1.0))
