"""The methods that a recommender must beat: popularity, own frequency, item-kNN, EASE, iALS.

All are fitted on the purchases before the cut-off. A method scores items for users; what it does
not score, or not above zero where zero says nothing, is filled up with recently popular items.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

from feature_repo.contract.state import DAY_S
from trainer.evaluation.config import BaselineConfig
from trainer.evaluation.window import Purchases, Task, Window

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

CHUNK_USERS = 256
"""Users whose scores are in memory at a time."""
CHUNK_ITEMS = 1_000
"""Items whose similarities to all others are in memory at a time."""

LABELS = {
    "popular": "popular",
    "recent_popular": "recent popular",
    "own_frequency": "own frequency",
    "item_knn": "item-kNN",
    "ease": "EASE",
    "ials": "iALS",
}
"""Name -> what it is called in a table; in the order of the table."""


@dataclass(frozen=True)
class Scorer:
    """A fitted method: scores of C items for any users; -inf says "not recommended"."""

    items: Ints
    """[C] rows of the item vocabulary."""
    score: Callable[[Ints], Floats]
    """[B] user rows -> [B, C] scores."""


def popularity(purchases: Purchases, num_items: int) -> Ints:
    """All item rows by distinct buyers among ``purchases``, most first; equals by row."""
    pairs = np.unique(np.stack([purchases.user, purchases.item], axis=1), axis=0)
    buyers = np.bincount(pairs[:, 1], minlength=num_items + 1)[1:]
    return np.argsort(-buyers, kind="stable").astype(np.int64) + 1


def recent(purchases: Purchases, cutoff_s: int, days: float) -> Purchases:
    """The purchases of the last days before the cut-off."""
    return purchases.where(purchases.time_s >= cutoff_s - days * DAY_S)


def decayed(purchases: Purchases, cutoff_s: int, half_life_days: float) -> Floats:
    """[N] weights 2^-(age / half-life) at the cut-off."""
    age_days = (cutoff_s - purchases.time_s) / DAY_S
    return np.exp2(-age_days / half_life_days).astype(np.float32)


def fit_own_frequency(weights: sp.csr_matrix, order: Ints) -> Scorer:
    """Every item that the user bought, by its decayed count; equals by popularity.

    Args:
        weights: [users + 1, items + 1] decayed counts.
        order: all item rows, most popular first.
    """
    items = np.arange(1, weights.shape[1], dtype=np.int64)
    standing = np.zeros(weights.shape[1], np.float32)
    standing[order] = np.linspace(1.0, 0.0, len(order), dtype=np.float32)
    ordered = weights.copy()
    ordered.data = weights.data * (1.0 + 1e-5 * standing[weights.indices])
    return Scorer(items, lambda users: _above_zero(ordered[users].toarray()[:, 1:]))


def _above_zero(scores: npt.NDArray[np.floating]) -> Floats:
    return np.where(scores > 0, scores, -np.inf).astype(np.float32)


def most_bought(seen: sp.csr_matrix, max_items: int) -> Ints:
    """Rising rows of the ``max_items`` items with most buyers."""
    buyers = np.asarray(seen.sum(axis=0)).ravel()[1:]
    best = np.argsort(-buyers, kind="stable")[:max_items]
    return np.sort(best[buyers[best] > 0]).astype(np.int64) + 1


def fit_item_knn(seen: sp.csr_matrix, items: Ints, neighbours: int) -> Scorer:
    """Item-based kNN: the sum of the cosines between a candidate and the user's items.

    Of each bought item only the ``neighbours`` most similar ones count (Deshpande and Karypis,
    2004). The cosine is of the columns of ``seen``, [users + 1, items + 1] of zeros and ones.
    """
    bought = seen[:, items].tocsc()
    norms = np.sqrt(np.maximum(np.asarray(bought.sum(axis=0)).ravel(), 1.0))
    unit = (bought @ sp.diags(1.0 / norms)).tocsc()
    blocks = [
        _nearest((unit[:, start : start + CHUNK_ITEMS].T @ unit).toarray(), start, neighbours)
        for start in range(0, len(items), CHUNK_ITEMS)
    ]
    similarity = sp.vstack(blocks).tocsr()
    bought = bought.tocsr()
    return Scorer(items, lambda users: _above_zero((bought[users] @ similarity).toarray()))


def _nearest(cosines_BC: npt.NDArray[np.floating], start: int, neighbours: int) -> sp.csr_matrix:
    """The largest cosines of each row, the item's own left out; row 0 is item ``start``."""
    own = np.arange(len(cosines_BC))
    cosines_BC[own, start + own] = 0.0
    count = min(neighbours, cosines_BC.shape[1])
    best = np.argpartition(-cosines_BC, count - 1, axis=1)[:, :count]
    values = np.take_along_axis(cosines_BC, best, axis=1)
    rows = np.repeat(own, count)
    matrix = sp.csr_matrix((values.ravel(), (rows, best.ravel())), shape=cosines_BC.shape)
    matrix.eliminate_zeros()
    return matrix


def fit_ease(seen: sp.csr_matrix, items: Ints, l2: float) -> Scorer:
    """EASE (Steck, 2019): the item-to-item regression with a zero diagonal, in closed form.

    With X [U, C] and P = (X'X + l2 I)^-1 the weights are B = I - P diag(1 / diag P). Where users
    are fewer than items the same scores X B are found from the [U, U] matrix K = XX' + l2 I: the
    push-through identity gives X P = K^-1 X and diag P = (1 - diag(X' K^-1 X)) / l2.
    """
    bought = seen[:, items].tocsr()
    active = np.flatnonzero(np.diff(bought.indptr)).astype(np.int64)
    if len(active) <= len(items):
        return _ease_by_users(bought, active, items, l2)
    return _ease_by_items(bought, items, l2)


def _ease_by_users(bought: sp.csr_matrix, active: Ints, items: Ints, l2: float) -> Scorer:
    X = bought[active].toarray().astype(np.float32)
    K = (bought[active] @ bought[active].T).toarray().astype(np.float32)
    K[np.diag_indices_from(K)] += l2
    XP = scipy.linalg.solve(K, X, assume_a="pos", overwrite_a=True, check_finite=False)
    diagonal = (1.0 - np.einsum("uc,uc->c", X, XP)) / l2
    place = np.full(bought.shape[0], -1, dtype=np.int64)
    place[active] = np.arange(len(active))
    X -= XP / diagonal

    def score(users: Ints) -> Floats:
        known = place[users] >= 0
        scores = np.full((len(users), len(items)), -np.inf, np.float32)
        scores[known] = X[place[users[known]]]
        return scores

    return Scorer(items, score)


def _ease_by_items(bought: sp.csr_matrix, items: Ints, l2: float) -> Scorer:
    G = (bought.T @ bought).toarray().astype(np.float32)
    G[np.diag_indices_from(G)] += l2
    factor = scipy.linalg.cho_factor(G, lower=True, overwrite_a=True, check_finite=False)
    P = scipy.linalg.cho_solve(factor, np.eye(len(G), dtype=np.float32), check_finite=False)
    B = P / -np.diag(P)
    np.fill_diagonal(B, 0.0)
    return Scorer(items, lambda users: _of_active(bought[users], bought[users] @ B))


def _of_active(bought: sp.csr_matrix, scores_BC: npt.NDArray[np.floating]) -> Floats:
    """-inf for the users who bought nothing."""
    scores = np.asarray(scores_BC, dtype=np.float32)
    scores[np.diff(bought.indptr) == 0] = -np.inf
    return scores


def fit_ials(weights: sp.csr_matrix, config: BaselineConfig) -> Scorer:
    """Implicit-feedback matrix factorisation (Hu, Koren and Volinsky, 2008), library implicit.

    Args:
        weights: [users + 1, items + 1] decayed counts; confidence is 1 + alpha * weight.
        config: factors, l2, alpha, iterations and seed.
    """
    from implicit.cpu.als import AlternatingLeastSquares

    with threadpool_limits(1, "blas"):  # implicit has threads of its own
        model = AlternatingLeastSquares(
            factors=config.ials_factors,
            regularization=config.ials_l2,
            alpha=config.ials_alpha,
            iterations=config.ials_iterations,
            random_state=config.seed,
        )
        model.fit(weights, show_progress=False)
    users_UD, items_RD = model.user_factors, model.item_factors[1:]
    items = np.arange(1, weights.shape[1], dtype=np.int64)
    return Scorer(items, lambda users: _of_active(weights[users], users_UD[users] @ items_RD.T))


def top_lists(scorer: Scorer, users: Ints, seen: sp.csr_matrix | None, k: int) -> Ints:
    """[B, k] best items of the users, equals by row; 0 where a user has fewer.

    Args:
        scorer: the fitted method.
        users: [B] user rows.
        seen: where given, items that a user's list must not hold.
        k: length of a list.
    """
    lists = np.zeros((len(users), k), dtype=np.int64)
    for start in range(0, len(users), CHUNK_USERS):
        chunk = users[start : start + CHUNK_USERS]
        scores = scorer.score(chunk)
        if seen is not None:
            scores[seen[chunk][:, scorer.items].toarray() > 0] = -np.inf
        lists[start : start + len(chunk)] = _best(scores, scorer.items, k)
    return lists


def _best(scores_BC: Floats, items: Ints, k: int) -> Ints:
    count = min(k, scores_BC.shape[1])
    if count == 0:
        return np.zeros((len(scores_BC), k), dtype=np.int64)
    best = np.sort(np.argpartition(-scores_BC, count - 1, axis=1)[:, :count], axis=1)
    values = np.take_along_axis(scores_BC, best, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    rows = items[np.take_along_axis(best, order, axis=1)]
    rows = np.where(np.take_along_axis(values, order, axis=1) == -np.inf, 0, rows)
    return np.pad(rows, ((0, 0), (0, k - count)))


def fill(lists_BK: Ints, order: Ints, users: Ints, seen: sp.csr_matrix | None) -> Ints:
    """The lists with their empty places, at their ends, taken by the first items of ``order``.

    An item that the list holds, or that ``seen`` forbids the user, is passed over.
    """
    filled = lists_BK.copy()
    short = np.flatnonzero((lists_BK == 0).any(axis=1))
    for start in range(0, len(short), CHUNK_USERS):
        chunk = short[start : start + CHUNK_USERS]
        filled[chunk] = _fill(lists_BK[chunk], order, None if seen is None else seen[users[chunk]])
    return filled


def _fill(lists_BK: Ints, order: Ints, seen: sp.csr_matrix | None) -> Ints:
    k = lists_BK.shape[1]
    longest = 0 if seen is None else int(np.diff(seen.indptr).max(initial=0))
    heads = order[: 2 * k + longest]
    free = np.ones((len(lists_BK), len(heads)), dtype=bool)
    if seen is not None:
        free = seen[:, heads].toarray() == 0
    for place in range(k):
        free &= heads[None, :] != lists_BK[:, place : place + 1]
    spare = np.where(free, heads[None, :], 0)
    joined = np.concatenate([lists_BK, spare], axis=1)
    first = np.argsort(joined == 0, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(joined, first, axis=1)


def fit_all(
    window: Window, seen: sp.csr_matrix, recent_order: Ints, config: BaselineConfig
) -> Iterator[tuple[str, Scorer | None]]:
    """Fit one method after the other; None stands for an order that is the same for everybody."""
    age = decayed(window.train, window.cutoff_s, config.half_life_days)
    weights = window.train.matrix(len(window.users), len(window.items), age)
    items = most_bought(seen, config.max_items)
    yield "popular", None
    yield "recent_popular", None
    yield "own_frequency", fit_own_frequency(weights, recent_order)
    yield "item_knn", fit_item_knn(seen, items, config.neighbours)
    yield "ease", fit_ease(seen, items, config.ease_l2)
    yield "ials", fit_ials(weights, config)


def baseline_lists(
    window: Window, users: Mapping[Task, Ints], k: int, config: BaselineConfig
) -> dict[Task, dict[str, Ints]]:
    """Lists of every baseline for both tasks: task -> method -> [B, k] item rows."""
    seen = window.seen
    ever = popularity(window.train, len(window.items))
    latest = recent(window.train, window.cutoff_s, config.recent_days)
    lately = popularity(latest, len(window.items))
    lists: dict[Task, dict[str, Ints]] = {task: {} for task in Task}
    started = time.monotonic()
    for name, scorer in fit_all(window, seen, lately, config):
        order = ever if name == "popular" else lately
        for task in Task:
            hidden = seen if task is Task.NEW else None
            found = np.zeros((len(users[task]), k), dtype=np.int64)
            if scorer is not None and not (name == "own_frequency" and task is Task.NEW):
                found = top_lists(scorer, users[task], hidden, k)
            lists[task][name] = fill(found, order, users[task], hidden)
        log.info("baseline %s: %.1f s", LABELS[name], time.monotonic() - started)
        started = time.monotonic()
    return lists
