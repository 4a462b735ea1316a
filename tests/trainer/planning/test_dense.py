"""What dense layers cost, by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest

from feature_repo.contract.dataset import Dataset
from trainer.hardware import KNOWN
from trainer.plan import compose_plan
from trainer.planning.dense import SCORE_BYTES, Dense
from trainer.planning.workload import Workload


def dense(dataset: Dataset, *overrides: str) -> Dense:
    given = ["users=30", "items=1000", f"data.root={dataset.root}", "trainer.batch_size=100"]
    return Workload.of(compose_plan([*given, "world_size=2", "targets=3", *overrides])).dense


def test_towers_and_scores_are_products(shop_dataset: Dataset) -> None:
    sizes = ["model.id_dim=8", "model.feature_dim=4", "model.hidden=[16]", "model.dim=12"]
    found = dense(shop_dataset, "experiment=two_tower", "model.num_negatives=50", *sizes)

    user_width = 8 + 8 + 4 + 4 + 1  # id, history, segment, last event and its number
    item_width = 8 + 4 + 4 + 1  # id, category, price and its number
    user, item = (
        width * 12 + (width * 16 + 16) + (16 * 12 + 12)  # short cut, hidden layer, output
        for width in (user_width, item_width)
    )
    items = 3 * 100 + 50
    assert found.num_weights == user + item
    assert found.scores == 100 / 2 * items
    assert found.operations == pytest.approx(6 * (user * 100 + item * items) / 2)
    assert found.score_operations == pytest.approx(6 * 100 / 2 * items * 12)
    assert found.bytes == int(16 * (user + item) + 4 * found.scores)


def test_a_batch_has_no_more_items_than_there_are(shop_dataset: Dataset) -> None:
    found = dense(shop_dataset, "experiment=two_tower", "trainer.batch_size=5000")

    assert found.scores == 5000 / 2 * 1000


def test_a_ranker_scores_its_own_candidates_alone(shop_dataset: Dataset) -> None:
    few, many = (
        dense(shop_dataset, "experiment=wide_deep", f"model.negatives={negatives}")
        for negatives in (7, 17)
    )

    assert few.scores == 0
    assert few.num_weights == many.num_weights
    assert few.operations < many.operations < 2 * few.operations


def test_a_step_takes_as_long_as_its_operations() -> None:
    found = Dense(operations=67e9, score_operations=134e9, num_weights=1, scores=0)

    assert found.ms(KNOWN["h100"], bf16=False) == pytest.approx(1.0 + 2.0)
    assert found.ms(KNOWN["h100"], bf16=True) == pytest.approx(67 / 989 + 2.0)


PEAK = """\
import torch
from trainer.losses import sampled_softmax

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

users = torch.randn(1024, 8, requires_grad=True)
items = torch.randn(65536, 8, requires_grad=True)
rows = torch.arange(1024)
before = peak()
loss = sampled_softmax(users, items, rows, rows, torch.zeros(65536), 0.1, torch.ones(1024))
loss.backward()
print((peak() - before) / (1024 * 65536))
"""


def test_the_bytes_of_a_score_are_those_of_the_loss() -> None:
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)

    assert float(done.stdout) == pytest.approx(SCORE_BYTES, rel=0.1)
