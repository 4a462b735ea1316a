"""List metrics against arithmetic by hand."""

from __future__ import annotations

from math import log2, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.contract.errors import BadInput
from ranking import metrics
from ranking.metrics import Relevant

# Two users, four places; the second list is short.
LISTS = np.array([[3, 7, 1, 9], [5, 2, 0, 0]])
RELEVANT = Relevant.of([[7, 9, 4], [8]])


def test_relevant_items_count_once() -> None:
    assert Relevant.of([[4, 4, 2], []]).counts.tolist() == [2, 0]


def test_hits_mark_the_relevant_places_and_never_padding() -> None:
    found = metrics.hits(LISTS, Relevant.of([[7, 9, 4], [2, 3]]))

    assert found.tolist() == [[False, True, False, True], [False, True, False, False]]


def test_a_relevant_item_of_one_user_is_no_hit_for_another() -> None:
    assert not metrics.hits(np.array([[1], [2]]), Relevant.of([[2], [1]])).any()


def test_precision_counts_empty_places_as_misses() -> None:
    both = Relevant.of([[7, 9, 4], [2]])

    assert metrics.precision_at_k(LISTS, both, 4).tolist() == [2 / 4, 1 / 4]
    assert metrics.precision_at_k(LISTS, both, 2).tolist() == [1 / 2, 1 / 2]


def test_recall_is_over_all_relevant_items() -> None:
    assert metrics.recall_at_k(LISTS, RELEVANT, 4).tolist() == [2 / 3, 0.0]
    assert metrics.recall_at_k(LISTS, RELEVANT, 2).tolist() == [1 / 3, 0.0]


def test_hit_rate_is_one_for_any_hit() -> None:
    assert metrics.hit_rate_at_k(LISTS, RELEVANT, 4).tolist() == [1.0, 0.0]
    assert metrics.hit_rate_at_k(LISTS, RELEVANT, 1).tolist() == [0.0, 0.0]


def test_reciprocal_rank_is_of_the_first_hit() -> None:
    assert metrics.mrr_at_k(LISTS, RELEVANT, 4).tolist() == [1 / 2, 0.0]


def test_ndcg_is_over_the_best_order_possible() -> None:
    gained = 1 / log2(2 + 1) + 1 / log2(4 + 1)
    ideal = 1 / log2(1 + 1) + 1 / log2(2 + 1) + 1 / log2(3 + 1)

    assert metrics.ndcg_at_k(LISTS, RELEVANT, 4) == pytest.approx([gained / ideal, 0.0])


def test_ndcg_is_one_when_all_places_hit_though_more_is_relevant() -> None:
    many = Relevant.of([[3, 7, 1, 9, 4, 5]])

    assert metrics.ndcg_at_k(LISTS[:1], many, 4) == pytest.approx([1.0])


def test_ndcg_is_one_when_few_relevant_items_come_first() -> None:
    assert metrics.ndcg_at_k(LISTS[:1], Relevant.of([[7, 3]]), 4) == pytest.approx([1.0])


def test_users_without_a_relevant_item_are_refused() -> None:
    with pytest.raises(BadInput, match="User 1 has no relevant item"):
        metrics.ndcg_at_k(LISTS, Relevant.of([[7], []]), 4)


def test_a_list_that_names_an_item_twice_is_refused() -> None:
    with pytest.raises(BadInput, match="List 0 names item row 3 twice"):
        metrics.precision_at_k(np.array([[3, 7, 3]]), Relevant.of([[3]]), 3)


def test_lists_of_other_users_are_refused() -> None:
    with pytest.raises(BadInput, match=r"for the 1 users .* got \(2, 4\)"):
        metrics.hits(LISTS, Relevant.of([[1]]))


def test_coverage_is_the_share_of_the_catalogue_that_is_shown() -> None:
    assert metrics.catalogue_coverage(np.array([[1, 2], [2, 0]]), 8) == 2 / 8


def test_an_empty_catalogue_has_no_coverage() -> None:
    with pytest.raises(BadInput, match="must hold an item"):
        metrics.catalogue_coverage(LISTS, 0)


def test_diversity_is_the_mean_share_of_differing_attributes() -> None:
    # Item rows 1, 2, 3 with department, brand.
    attributes = np.array([[0, 0], [1, 5], [1, 6], [2, 6]])

    found = metrics.attribute_diversity(np.array([[1, 2, 3]]), attributes)

    assert found == pytest.approx([(1 / 2 + 2 / 2 + 1 / 2) / 3])


def test_unknown_attributes_differ() -> None:
    attributes = np.array([[0], [0], [0]])

    assert metrics.attribute_diversity(np.array([[1, 2]]), attributes).tolist() == [1.0]


def test_diversity_of_one_item_is_undefined() -> None:
    attributes = np.array([[0], [1]])

    assert np.isnan(metrics.attribute_diversity(np.array([[1, 0]]), attributes)).all()


def test_diversity_of_vectors_is_one_minus_the_cosine() -> None:
    vectors = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])

    found = metrics.vector_diversity(np.array([[1, 2, 3]]), vectors)

    assert found == pytest.approx([((1 - 0) + 2 * (1 - sqrt(0.5))) / 3])


def test_novelty_is_the_mean_self_information() -> None:
    buyers = np.array([0, 4, 1, 0])

    found = metrics.novelty(np.array([[1, 2], [3, 0]]), buyers, num_users=8)

    assert found.tolist() == [(-log2(4 / 8) - log2(1 / 8)) / 2, -log2(1 / 8)]


def test_serendipity_counts_hits_that_were_not_expected() -> None:
    expected = np.array([[7, 100], [5, 0]])

    assert metrics.serendipity_at_k(LISTS, RELEVANT, expected, 4).tolist() == [1 / 4, 0.0]


def test_the_bootstrap_interval_holds_the_mean_and_shrinks_with_users() -> None:
    few, many = np.arange(10.0), np.tile(np.arange(10.0), 100)

    narrow, wide = metrics.bootstrap(many, seed=0), metrics.bootstrap(few, seed=0)

    assert narrow.mean == wide.mean == 4.5
    assert wide.low < narrow.low < 4.5 < narrow.high < wide.high


def test_the_bootstrap_of_equal_values_has_no_width() -> None:
    found = metrics.bootstrap(np.full(5, 0.25), seed=3, num_samples=20)

    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)


def test_the_bootstrap_leaves_undefined_values_out() -> None:
    assert metrics.bootstrap(np.array([1.0, np.nan, 3.0]), seed=0).mean == 2.0


def test_the_bootstrap_of_nobody_is_refused() -> None:
    with pytest.raises(BadInput, match="no user"):
        metrics.bootstrap(np.array([np.nan]), seed=0)


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_no_order_has_a_better_ndcg_than_hits_first(seed: int, k: int) -> None:
    random = np.random.default_rng(seed)
    shown = random.permutation(np.arange(1, 13))[None]
    relevant = Relevant.of([random.choice(np.arange(1, 20), 5, replace=False)])
    hit = metrics.hits(shown, relevant)[0]
    best = np.concatenate([shown[0][hit], shown[0][~hit]])[None]

    value, ideal = (metrics.ndcg_at_k(order, relevant, k)[0] for order in (shown, best))

    assert 0.0 <= value <= ideal + 1e-12 <= 1.0 + 1e-9
