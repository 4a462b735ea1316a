"""Fitting a filter of the graph of users and items, served as neighbours of each item.

With X the purchases and D the degrees of users and items, ``N = D_u^-a X D_i^-b`` is the
normalised graph, and ``N'N = V S^2 V'`` links items by their buyers. A filter lets pass what
varies little along the links, the vectors of large S: ``F = V f(S^2) V'``. Here f is the response
of ridge regression, ``f(x) = x / (x + l2)``, for the leading singular vectors, and a straight line
for all others, which then need not be known:

    F = V (f(S^2) - slope S^2) V' + slope N'N,    slope = f(x) / x at the last x of S^2

and an item j is worth ``d_i^-c F_ij d_j^d (1 - F_jj)^-e`` to those who bought i.

- Shen et al., "How Powerful is Graph Convolution for Recommendation?" (2021) is this with a step
  for the leading vectors and a line for all (GF-CF); Choi et al., "Blurring-Sharpening Process
  Models for Collaborative Filtering" (2023), has polynomials.
- Steck, "Embarrassingly Shallow Autoencoders for Sparse Data" (2019) is this for e = 1 and
  c = d = b: dividing by ``1 - F_jj`` takes back what an item explains of itself.
- Fu et al., "Revisiting Neighborhood-based Link Prediction for Collaborative Filtering" (2022):
  the exponents of degrees as settings.

Limits: a pair that nobody bought together gets no weight. The graph, R x rank float32 numbers some
times over (``trainer.singular``) and R x neighbours pairs are in memory, so that ten million items
need rank=64 and neighbours=100. The time is that of all products of co-bought pairs, and at most
``R x rank x 4 neighbours`` for the filter: two minutes of one core for 41,000 items, of which the
singular vectors take a quarter.

Shapes: U users, R rows of the item vocabulary, K singular vectors, M neighbours an item.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from feature_repo.contract.errors import BadInput
from trainer.graph_filter_config import GraphFilterConfig
from trainer.neighbours import (
    Floats,
    Purchases,
    Table,
    co_bought,
    empty_table,
    fill,
    normalised,
    power,
    sums,
)
from trainer.singular import leading_singular

LARGEST_SELF = 0.98
"""Of ``F_jj``, for an item whose buyers buy little else."""
CONSIDERED = 4
"""Times the neighbours that are kept: as many co-bought items of the largest products get exact
weights. They hold all of the 100 largest weights, and 99.9% of the 300 largest, on the public data
sets Gowalla and Amazon-CDs."""


@dataclass(frozen=True)
class GraphFilter:
    """F, in parts."""

    graph: sp.csr_matrix
    """N, [U, R]"""
    vectors: Floats
    """V, [R, K]"""
    gains: Floats
    """[K] ``f(S^2) - slope S^2``"""
    slope: float

    @staticmethod
    def of(graph: sp.csr_matrix, rank: int, half_rank: int, seed: int) -> GraphFilter:
        """The ridge filter that halves singular vector ``half_rank`` (from 1), or the last one.

        Raises:
            BadInput: nobody bought two items, so that no item has neighbours.
        """
        values, vectors = leading_singular(graph, rank, np.random.default_rng(seed))
        if not len(values) or values[0] == 0:
            raise BadInput("A graph filter needs purchases before the cut-off; there are none.")
        values, vectors = values[values > 0], vectors[:, values > 0]
        squares = values**2
        l2 = squares[min(half_rank, len(squares)) - 1]
        response = squares / (squares + l2)
        slope = response[-1] / squares[-1]
        return GraphFilter(graph, vectors, response - slope * squares, float(slope))

    def diagonal(self) -> Floats:
        """[R] F_jj: how far an item explains itself."""
        own = self.slope * sums(self.graph.multiply(self.graph), 0)
        return np.asarray(self.vectors**2 @ self.gains + own, dtype=np.float32)

    def row(self, item: int, others: npt.NDArray[np.int32], products: Floats) -> Floats:
        """F from one item to others, given their products in N'N."""
        mine = self.vectors[item] * self.gains
        return np.asarray(self.vectors[others] @ mine + self.slope * products, dtype=np.float32)


def fit_graph_filter(purchases: Purchases, config: GraphFilterConfig) -> Table:
    """The ``config.neighbours`` largest positive weights of each item, to items co-bought with it.

    With 300 of them a full ranking is as good as with all weights, of either sign.

    Raises:
        BadInput: there are no purchases.
    """
    matrix = purchases.matrix(config.transform)
    bought = sums(matrix, 0)
    graph = normalised(matrix, config.user_exponent, config.item_exponent)
    found = GraphFilter.of(graph, config.rank, config.half_rank, config.seed)
    to = power(bought, config.popularity_exponent) * _raised(found, config.self_exponent)
    source = power(bought, -config.history_exponent)
    table = empty_table(purchases.num_rows, config.neighbours)
    considered = CONSIDERED * config.neighbours
    for item, others, products in co_bought(graph):
        if len(others) > considered:
            largest = np.argpartition(-products * to[others], considered)[:considered]
            others, products = others[largest], products[largest]
        weights = np.maximum(found.row(item, others, products) * to[others], 0.0)
        fill(table, item, others, source[item] * weights**config.sharpness)
    return table


def _raised(found: GraphFilter, exponent: float) -> Floats:
    """[R] what an item's weights are multiplied by, against those who explain themselves."""
    left = 1.0 - np.minimum(found.diagonal(), LARGEST_SELF)
    return np.asarray(left**-exponent, dtype=np.float32)
