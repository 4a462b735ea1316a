"""The bandits: what each arm may be worth, by what was learned so far.

C arms, D numbers of a context, S draws. All algorithms answer with rows of worths: each row's best
arm is one choice that the algorithm may make, all rows alike. UCB1, LinUCB and the greedy ones have
one row; Thompson sampling has a row for each draw of what the rates might be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from ranking.exploration.config import Algorithm, ExplorationConfig
from ranking.exploration.sums import COUNT, EXPECTED, REWARD, Id, Sums

Doubles = npt.NDArray[np.float64]

LEAST_RATE = 1e-3
"""Of rewards, in the variance of one."""


@dataclass(frozen=True)
class Arms:
    """The items among which is chosen, in the ranker's order."""

    item_ids: Sequence[Id]
    context_CD: Doubles
    expected_C: Doubles
    """Reward that the ranker expects."""

    def __len__(self) -> int:
        return len(self.item_ids)


@dataclass(frozen=True)
class Model:
    """What follows from the sums: the hybrid linear model of Li et al. ("A Contextual-Bandit
    Approach to Personalized News Article Recommendation", 2010), with one offset for each item.

    The reward is the ranker's expectation + theta x + an offset of the item, both with a normal
    prior around 0, so that a new item is judged by its context and the ranker at first. The sums of
    an item are eliminated from the equations of theta: A0 = prior I + sum x x^T - sum B B^T / a.
    """

    sums: Sums
    prior: float
    mean_D: Doubles
    """Of theta."""
    covariance_DD: Doubles
    """Of theta, but for the factor ``noise``."""
    root_DD: Doubles
    """A factor of the covariance: root root^T."""
    noise: float
    """Variance of one reward."""
    total: float
    """How often any item was shown, of weight 1."""

    @staticmethod
    def of(sums: Sums, config: ExplorationConfig) -> Model:
        """The model as of now."""
        dim, items = sums.dim, sums.items[1 : sums.num_items + 1]
        xx_DD = sums.shared[: dim * dim].reshape(dim, dim)
        xy_D, xe_D = sums.shared[dim * dim :].reshape(2, dim)
        a_I, x_ID = items[:, COUNT] + config.prior, items[:, 3:]
        left_I = items[:, REWARD] - items[:, EXPECTED]
        precision = config.prior * np.eye(dim) + xx_DD - (x_ID / a_I[:, None]).T @ x_ID
        covariance = np.linalg.inv(precision).astype(np.float64)
        covariance = (covariance + covariance.T) / 2
        mean = covariance @ (xy_D - xe_D - x_ID.T @ (left_I / a_I))
        total = float(items[:, COUNT].sum())
        rate = (items[:, REWARD].sum() + config.prior * config.expected) / (total + config.prior)
        rate = float(np.clip(rate, LEAST_RATE, 0.5))
        root = np.linalg.cholesky(covariance).astype(np.float64)
        return Model(sums, config.prior, mean, covariance, root, rate * (1 - rate), total)

    def known(self, arms: Arms) -> Doubles:
        """[C, 3 + D] the arms' sums."""
        return self.sums.items[self.sums.rows(arms.item_ids)]


@dataclass(frozen=True)
class _Linear:
    """The linear model at the arms of one request."""

    mean_C: Doubles
    direction_CD: Doubles
    """How an arm's worth moves with theta: x - B / a."""
    own_C: Doubles
    """Variance of the offset of which theta says nothing, but for the noise: 1 / a."""

    @staticmethod
    def of(model: Model, arms: Arms) -> _Linear:
        known = model.known(arms)
        own_C = 1.0 / (known[:, COUNT] + model.prior)
        direction = arms.context_CD - own_C[:, None] * known[:, 3:]
        left = own_C * (known[:, REWARD] - known[:, EXPECTED])
        return _Linear(arms.expected_C + direction @ model.mean_D + left, direction, own_C)


def worths(config: ExplorationConfig, model: Model, arms: Arms, random: Generator) -> Doubles:
    """[S, C] of which each row's best arm is a choice that the algorithm may make.

    Args:
        config: names the algorithm.
        model: what was learned.
        arms: of one request.
        random: draws what Thompson sampling draws.
    """
    match config.algorithm:
        case Algorithm.greedy | Algorithm.epsilon_greedy:
            return _rates(model, arms)[None]
        case Algorithm.ucb1:
            return _upper(model, arms, config.alpha)[None]
        case Algorithm.lin_ucb:
            return _linear_upper(model, arms, config.alpha)[None]
        case Algorithm.thompson:
            return _linear_draws(model, arms, config.draws, random)
        case Algorithm.beta_thompson:
            return _beta_draws(model, arms, config.draws, random)


def _rates(model: Model, arms: Arms) -> Doubles:
    """[C] mean rewards, with the ranker's expectation as that of ``prior`` times before."""
    known = model.known(arms)
    return np.asarray(
        (known[:, REWARD] + model.prior * arms.expected_C) / (known[:, COUNT] + model.prior)
    )


def _upper(model: Model, arms: Arms, alpha: float) -> Doubles:
    """UCB1 (Auer et al., "Finite-time Analysis of the Multiarmed Bandit Problem", 2002): an arm
    that was never shown comes first, the ranker's best first."""
    known = model.known(arms)
    count_C = known[:, COUNT]
    tried = count_C > 0
    shown_C = np.where(tried, count_C, 1.0)
    width = alpha * np.sqrt(2.0 * np.log(max(model.total, 1.0)) / shown_C)
    return np.where(tried, known[:, REWARD] / shown_C + width, np.inf)


def _linear_upper(model: Model, arms: Arms, alpha: float) -> Doubles:
    linear = _Linear.of(model, arms)
    spread = ((linear.direction_CD @ model.covariance_DD) * linear.direction_CD).sum(axis=1)
    return np.asarray(linear.mean_C + alpha * np.sqrt(model.noise * (spread + linear.own_C)))


def _linear_draws(model: Model, arms: Arms, draws: int, random: Generator) -> Doubles:
    """Agrawal and Goyal, "Thompson Sampling for Contextual Bandits with Linear Payoffs", 2013."""
    linear, deviation = _Linear.of(model, arms), np.sqrt(model.noise)
    theta_SD = random.standard_normal((draws, len(model.mean_D))) @ model.root_DD.T
    offset_SC = random.standard_normal((draws, len(arms))) * np.sqrt(linear.own_C)
    drawn = linear.mean_C + deviation * (theta_SD @ linear.direction_CD.T + offset_SC)
    return np.asarray(drawn)


def _beta_draws(model: Model, arms: Arms, draws: int, random: Generator) -> Doubles:
    """Chapelle and Li, "An Empirical Evaluation of Thompson Sampling", 2011; the prior is worth
    ``prior`` times of being shown, at the ranker's expectation."""
    known = model.known(arms)
    hits = known[:, REWARD] + model.prior * arms.expected_C
    misses = known[:, COUNT] - known[:, REWARD] + model.prior * (1.0 - arms.expected_C)
    least = 1e-3  # weights of places may take misses below what a rate allows
    return random.beta(np.maximum(hits, least), np.maximum(misses, least), (draws, len(arms)))
