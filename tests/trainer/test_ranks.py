"""Ranks of what was bought later, and the metrics made of them."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.contract.dataset import IdType
from feature_repo.contract.vocabulary import Vocabulary
from retrieval import metrics
from trainer.ranks import NEVER, Later, judge_vectors, ndcg_at_k, ranks, recall_at_k

ITEMS = Vocabulary.build(pa.array([10, 20, 30, 40]), IdType.INT64)
VECTORS = np.array([[9, 9], [1, 0], [0, 1], [0.8, 0.1], [0.5, 0]], dtype=np.float32)


def judged(*users: tuple[list[int], list[int]]) -> pa.Table:
    """Users by what they bought later and before."""
    later, before = zip(*users, strict=True)
    types = pa.list_(pa.int64())
    return pa.table(
        {"target_item_id": pa.array(later, types), "history_item_id": pa.array(before, types)}
    )


def test_a_rank_counts_the_items_that_score_higher() -> None:
    later = Later.of(judged(([20, 30, 99], [10, 40]), ([], []), ([10], [10])), ITEMS)

    every, fresh = ranks(np.array([[1, 0], [1, 1], [0, 1]], np.float32), VECTORS, later)

    # scores of user 0: 1, 0, 0.8, 0.5; of user 2: 0, 1, 0.1, 0, where item 40 ties with item 10
    assert every.tolist() == [3, 1, NEVER, 3]
    assert fresh[later.is_new].tolist() == [1, 0, NEVER]
    assert later.is_new.tolist() == [True, True, True, False]


def test_metrics_are_means_over_the_users_who_bought_something() -> None:
    rows = judged(([20, 30, 99], [10, 40]), ([], []), ([10, 20], [10]))
    users = np.array([[1, 0], [1, 1], [0, 1]], np.float32)

    found = judge_vectors(users, VECTORS, rows, ITEMS, (1, 2))

    ideal = 1 + 1 / math.log2(3)
    assert found == pytest.approx(
        {
            "recall_all_2": (1 / 3 + 1 / 2) / 2,
            "recall_new_1": (1 / 3 + 1) / 2,
            "ndcg_new_1": (1 + 1) / 2,
            "recall_new_2": (2 / 3 + 1) / 2,
            "ndcg_new_2": (ideal / ideal + 1) / 2,
        }
    )


def test_a_model_that_scores_all_items_alike_finds_nothing() -> None:
    flat = np.ones((5, 2), np.float32)

    found = judge_vectors(flat[:1], flat, judged(([20], [])), ITEMS, (1, 3))

    assert set(found.values()) == {0.0}


def test_an_item_without_a_row_is_new_unless_the_user_had_it() -> None:
    later = Later.of(judged(([98, 99], [98])), ITEMS)

    assert later.is_new.tolist() == [False, True]
    assert later.relevant.values.tolist() == [0, 0]
    assert later.known.values.tolist() == []


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(1, 30))
def test_ranks_give_the_metrics_of_the_rankings(seed: int, k: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.permuted(np.tile(np.arange(1.0, 21.0), (6, 1)), axis=1)
    ranked = 1 + np.argsort(-scores, axis=1)
    relevant = [random.choice(np.arange(1, 21), random.integers(0, 8), False) for _ in range(6)]
    offsets = np.cumsum([0, *map(len, relevant)])
    places = [np.argsort(line)[rows - 1] for line, rows in zip(ranked, relevant, strict=True)]
    rank = np.concatenate(places)

    for mine, theirs in ((recall_at_k, metrics.recall_at_k), (ndcg_at_k, metrics.ndcg_at_k)):
        assert mine(rank, offsets, k) == pytest.approx(theirs(ranked, relevant, k), nan_ok=True)
