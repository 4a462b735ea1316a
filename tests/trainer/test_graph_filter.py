"""The graph filter, against plain dense algebra."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from feature_repo.contract.errors import BadInput, ConfigError
from feature_repo.contract.state import Histories
from retrieval.sources import NeighbourSource, Transform, UserBatch
from tests.trainer.made_purchases import dense, made_purchases
from trainer.ease import fit_ease
from trainer.graph_filter import GraphFilter, fit_graph_filter
from trainer.graph_filter_config import GraphFilterConfig
from trainer.neighbours import Purchases, normalised

Doubles = npt.NDArray[np.float64]

WHOLE = GraphFilterConfig(rank=8, half_rank=3, neighbours=8)
"""All singular vectors and all weights of the made-up purchases."""


def matrix_of(purchases: Purchases) -> Doubles:
    x = np.asarray(purchases.matrix(Transform.BINARY).toarray()[:, 1:], dtype=np.float64)
    return x[x.any(axis=1)]


def graph_of(x: Doubles, config: GraphFilterConfig) -> Doubles:
    users: Doubles = x.sum(axis=1, keepdims=True) ** -config.user_exponent
    items: Doubles = x.sum(axis=0) ** -config.item_exponent
    return x * users * items


def expected_weights(purchases: Purchases, config: GraphFilterConfig) -> Doubles:
    """All weights but those of items to themselves, with every singular vector."""
    x = matrix_of(purchases)
    graph, bought = graph_of(x, config), x.sum(axis=0)
    link = graph.T @ graph
    l2 = np.linalg.svd(graph, compute_uv=False)[config.half_rank - 1] ** 2
    passed = link @ np.linalg.inv(link + l2 * np.eye(len(link)))
    weights = passed * bought**config.popularity_exponent
    weights *= (1.0 - np.diag(passed)) ** -config.self_exponent
    weights = np.maximum(weights, 0.0) ** config.sharpness
    weights *= bought[:, None] ** -config.history_exponent
    np.fill_diagonal(weights, 0.0)
    return np.asarray(weights)


@pytest.mark.parametrize(
    "config",
    [
        WHOLE,
        replace(WHOLE, half_rank=8),
        replace(WHOLE, user_exponent=0.5, item_exponent=0.5),
        replace(WHOLE, self_exponent=0.0, sharpness=1.5),
        replace(WHOLE, history_exponent=0.0, popularity_exponent=-0.2),
    ],
)
def test_weights_are_those_of_the_ridge_filter(config: GraphFilterConfig) -> None:
    found = dense(*fit_graph_filter(made_purchases(), config))

    expected = expected_weights(made_purchases(), config)
    np.testing.assert_allclose(found[1:, 1:], expected, rtol=1e-3, atol=1e-4)


def test_beyond_the_leading_vectors_the_response_is_a_line() -> None:
    x = matrix_of(made_purchases())
    graph = graph_of(x, WHOLE)

    found = GraphFilter.of(
        normalised(made_purchases().matrix(Transform.BINARY), 0.15, 0.3),
        rank=4,
        half_rank=2,
        seed=0,
    )

    _, values, vectors = np.linalg.svd(graph)
    squares = values**2
    response = squares / (squares + squares[1])
    response[4:] = squares[4:] * response[3] / squares[3]
    expected = vectors.T @ np.diag(response) @ vectors
    link = (graph.T @ graph).astype(np.float32)
    others = np.arange(1, 9, dtype=np.int32)
    filtered = [found.row(item + 1, others, link[item]) for item in range(8)]
    np.testing.assert_allclose(filtered, expected, atol=1e-4)
    np.testing.assert_allclose(found.diagonal()[1:], np.diag(expected), atol=1e-4)


def test_with_the_right_exponents_it_is_ease() -> None:
    config = replace(
        WHOLE, item_exponent=0.3, history_exponent=0.3, popularity_exponent=0.3, user_exponent=0.0
    )
    graph = graph_of(matrix_of(made_purchases()), config)
    l2 = float(np.linalg.svd(graph, compute_uv=False)[config.half_rank - 1] ** 2)

    found = dense(*fit_graph_filter(made_purchases(), config))

    ease = fit_ease(made_purchases(), Transform.BINARY, 8, l2, kept=8, item_exponent=0.3)
    np.testing.assert_allclose(found, np.maximum(dense(*ease), 0.0), rtol=1e-3, atol=1e-4)


def test_only_the_largest_weights_are_kept() -> None:
    whole = dense(*fit_graph_filter(made_purchases(), WHOLE))

    found = dense(*fit_graph_filter(made_purchases(), replace(WHOLE, neighbours=2)))

    for row in range(1, 9):
        kept = np.argsort(-whole[row])[:2]
        assert found[row, kept] == pytest.approx(whole[row, kept])
        assert np.count_nonzero(found[row]) <= 2


def test_items_that_were_not_bought_together_are_no_neighbours() -> None:
    user, item = np.array([0, 0, 1, 1]), np.array([1, 2, 3, 4])
    made = Purchases(user, item, np.ones(4, np.float32), 2, 6)

    found = dense(*fit_graph_filter(made, replace(WHOLE, half_rank=1)))

    assert np.argwhere(found > 0).tolist() == [[1, 2], [2, 1], [3, 4], [4, 3]]


def test_served_scores_are_those_of_the_filter() -> None:
    table = fit_graph_filter(made_purchases(), WHOLE)
    source = NeighbourSource("graph_filter", *table, Transform.BINARY, 28.0, new_only=True)
    ones, zeros = np.ones(2, np.float32), np.zeros(2, np.int64)
    history = Histories(np.array([0, 2]), np.array([3, 6]), ones, ones, zeros, zeros, ones, ones)

    top = source.top(UserBatch(history, np.zeros(1, np.int64)), 3)

    expected = expected_weights(made_purchases(), WHOLE)[[2, 5]].sum(axis=0)
    expected[[2, 5]] = 0.0
    best = np.argsort(-expected)[:3]
    assert top.item_row[0].tolist() == (best + 1).tolist()
    np.testing.assert_allclose(top.score[0], expected[best], rtol=1e-3)


def test_a_shop_without_purchases_is_refused() -> None:
    empty = Purchases(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32), 3, 4)

    with pytest.raises(BadInput, match="needs purchases"):
        fit_graph_filter(empty, WHOLE)


@pytest.mark.parametrize(
    ("rank", "half_rank", "neighbours", "sharpness"),
    [(0, 0, 8, 1.0), (8, 9, 8, 1.0), (8, 3, 0, 1.0), (8, 3, 8, 0.0)],
)
def test_impossible_settings_are_refused(
    rank: int, half_rank: int, neighbours: int, sharpness: float
) -> None:
    with pytest.raises(ConfigError, match="graph_filter"):
        GraphFilterConfig(rank, half_rank, neighbours=neighbours, sharpness=sharpness)


def test_of_many_co_bought_items_those_of_the_largest_products_are_considered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(WHOLE, neighbours=2)
    exact = dense(*fit_graph_filter(made_purchases(), config))
    monkeypatch.setattr("trainer.graph_filter.CONSIDERED", 1)

    found = dense(*fit_graph_filter(made_purchases(), config))

    graph = normalised(
        made_purchases().matrix(Transform.BINARY), config.user_exponent, config.item_exponent
    )
    bought = made_purchases().buyers().clip(min=1) ** config.popularity_exponent
    raised = (1.0 - GraphFilter.of(graph, 8, 3, seed=0).diagonal()) ** -config.self_exponent
    products = (graph.T @ graph).toarray() * bought * raised
    np.fill_diagonal(products, 0.0)
    for row in range(1, 9):
        considered = np.argsort(-products[row])[:2]
        assert set(np.flatnonzero(found[row])) <= set(considered)
        agreed = np.intersect1d(np.flatnonzero(exact[row]), np.flatnonzero(found[row]))
        assert found[row, agreed] == pytest.approx(exact[row, agreed], rel=1e-4)
