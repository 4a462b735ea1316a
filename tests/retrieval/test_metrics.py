"""Retrieval metrics, by hand."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest

from feature_repo.contract.errors import BadInput
from retrieval.metrics import ndcg_at_k, recall_at_k

RANKED = np.array([[5, 3, 9, 0], [1, 2, 3, 4]])


def test_recall_is_the_share_of_relevant_items_that_are_ranked() -> None:
    relevant = [np.array([3, 9, 7]), np.array([8])]

    assert recall_at_k(RANKED, relevant, 4).tolist() == [2 / 3, 0.0]
    assert recall_at_k(RANKED, relevant, 2).tolist() == [1 / 3, 0.0]


def test_ndcg_discounts_by_place() -> None:
    relevant = [np.array([3, 9, 7]), np.array([1])]

    gained = 1 / log2(3) + 1 / log2(4)
    ideal = 1 / log2(2) + 1 / log2(3) + 1 / log2(4)
    assert ndcg_at_k(RANKED, relevant, 3) == pytest.approx([gained / ideal, 1.0])


def test_a_user_without_relevant_items_has_no_value() -> None:
    relevant = [np.array([], dtype=np.int64), np.array([4])]

    assert np.isnan(recall_at_k(RANKED, relevant, 4)[0])
    assert np.isnan(ndcg_at_k(RANKED, relevant, 4)[0])


def test_padding_is_no_hit() -> None:
    assert recall_at_k(RANKED[:1], [np.array([0, 5])], 4).tolist() == [1 / 2]


def test_rankings_and_users_must_be_equally_many() -> None:
    with pytest.raises(BadInput, match="2 rankings and 1 users"):
        recall_at_k(RANKED, [np.array([1])], 3)
