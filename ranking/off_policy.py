"""Off-policy evaluation: what another policy would have earned, by the logs of the one that ran.

N logged choices. Inverse propensity scoring (Horvitz and Thompson, 1952; Strehl et al., "Learning
from Logged Implicit Exploration Data", 2010), self-normalised (Swaminathan and Joachims, "The
Self-Normalized Estimator for Counterfactual Learning", 2015), by a reward model, and doubly robust
(Dudik et al., "Doubly Robust Policy Evaluation and Learning", 2011).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from feature_repo.contract.errors import BadInput

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Logged:
    """Choices that were made, and what another policy would make of them."""

    reward_N: Doubles
    propensity_N: Doubles
    """How likely the policy that ran was to make its choice."""
    target_N: Doubles
    """How likely the other policy is to make the same."""
    said_N: Doubles | None = None
    """What a reward model expects of the choice that was made; None: there is no model."""
    direct_N: Doubles | None = None
    """What the model expects of the other policy's choices, in the mean over them."""
    group_N: Ints | None = None
    """Choices of one group, such as of one user, depend on each other; None: they do not."""

    def __post_init__(self) -> None:
        if not len(self.reward_N):
            raise BadInput("There is no logged choice to evaluate a policy by.")
        for name in ("propensity_N", "target_N", "said_N", "direct_N", "group_N"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.reward_N):
                raise BadInput(
                    f"{name} has {len(values)} values; expected one for each of "
                    f"{len(self.reward_N)} rewards."
                )
        bad = np.flatnonzero(~((self.propensity_N > 0) & (self.propensity_N <= 1)))
        if len(bad):
            raise BadInput(
                f"Propensities must be above 0 and at most 1; that of choice {bad[0]} is "
                f"{self.propensity_N[bad[0]]}."
            )
        if not (self.target_N >= 0).all() or not (self.target_N <= 1).all():
            raise BadInput("target_N must be probabilities from 0 to 1.")

    def weights(self, clip: float | None = None) -> Doubles:
        """[N] target over propensity, at most ``clip``."""
        found = self.target_N / self.propensity_N
        return found if clip is None else np.minimum(found, clip)

    def take(self, chosen: Ints) -> Logged:
        """Some of the choices, each as often as it is named."""

        def some(values: npt.NDArray[np.float64] | None) -> Doubles | None:
            return None if values is None else values[chosen]

        rewards, propensities = self.reward_N[chosen], self.propensity_N[chosen]
        said, direct = some(self.said_N), some(self.direct_N)
        return Logged(rewards, propensities, self.target_N[chosen], said, direct)


class Estimator(Enum):
    """How the value of a policy is estimated."""

    ips = "ips"
    snips = "snips"
    direct = "direct"
    """By the reward model alone: no variance of weights, and all of the model's bias."""
    doubly_robust = "doubly_robust"


@dataclass(frozen=True)
class Diagnostics:
    """How far an estimate can be trusted: of the weights."""

    effective_size: float
    """(sum w)^2 / sum w^2: as many choices of the policy itself say as much (Kish, 1965)."""
    mean_weight: float
    """1 in expectation, where the policy that ran could have made every choice of the other."""
    largest: float
    clipped: float
    """Share of the choices whose weight is clipped."""


@dataclass(frozen=True)
class Estimate:
    """The mean reward of a choice of the other policy."""

    value: float
    low: float
    high: float
    """Ends of the interval, by default of 95%."""


def terms(logged: Logged, estimator: Estimator, clip: float | None = None) -> Doubles:
    """[N] whose mean is the estimate.

    Of ``snips``, the weighted rewards over the mean weight.

    Raises:
        BadInput: there is no reward model, and the estimator needs one; or all weights are 0.
    """
    weights = logged.weights(clip)
    match estimator:
        case Estimator.ips:
            return weights * logged.reward_N
        case Estimator.snips:
            return weights * logged.reward_N / _mean(weights)
        case Estimator.direct:
            return _model(logged)[1]
        case Estimator.doubly_robust:
            said, direct = _model(logged)
            return direct + weights * (logged.reward_N - said)


def estimate(
    logged: Logged, estimator: Estimator, clip: float | None = None, confidence: float = 0.95
) -> Estimate:
    """The value with a normal interval, by the spread of what choices, or groups, add to it.

    Raises:
        BadInput: see ``terms``.
    """
    parts = terms(logged, estimator, clip)
    value = float(parts.mean())
    influence = parts - value
    if estimator is Estimator.snips:  # of a ratio of two means, by the delta method
        weights = logged.weights(clip)
        influence = weights * (logged.reward_N - value) / _mean(weights)
    if logged.group_N is not None:
        groups_N = np.unique(logged.group_N, return_inverse=True)[1]
        influence = np.bincount(groups_N, influence).astype(np.float64)
    count = len(influence)
    spread = float(np.sqrt((influence**2).sum() * count / max(count - 1, 1))) / len(parts)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * spread
    return Estimate(value, value - half, value + half)


def bootstrap(
    logged: Logged,
    estimator: Estimator,
    random: Generator,
    clip: float | None = None,
    confidence: float = 0.95,
    rounds: int = 1000,
) -> Estimate:
    """The value with the percentiles of resampled choices, or groups, as its interval.

    Raises:
        BadInput: see ``terms``.
    """
    value = float(terms(logged, estimator, clip).mean())
    draw = _resampler(logged, random)
    found = [float(terms(logged.take(draw()), estimator, clip).mean()) for _ in range(rounds)]
    edges = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(found, edges).tolist()
    return Estimate(value, low, high)


def diagnose(logged: Logged, clip: float | None = None) -> Diagnostics:
    """What the weights say of an estimate."""
    weights = logged.weights(clip)
    squares = float((weights**2).sum())
    clipped = 0.0 if clip is None else float((logged.weights() > clip).mean())
    size = float(weights.sum()) ** 2 / squares if squares else 0.0
    return Diagnostics(size, float(weights.mean()), float(weights.max()), clipped)


def _mean(weights: Doubles) -> float:
    mean = float(weights.mean())
    if mean == 0:
        raise BadInput("The other policy makes none of the logged choices; it cannot be judged.")
    return mean


def _model(logged: Logged) -> tuple[Doubles, Doubles]:
    if logged.said_N is None or logged.direct_N is None:
        raise BadInput("This estimator needs a reward model: said_N and direct_N.")
    return logged.said_N, logged.direct_N


def _resampler(logged: Logged, random: Generator) -> Callable[[], Ints]:
    count = len(logged.reward_N)
    if logged.group_N is None:
        return lambda: random.integers(0, count, count)
    group = np.unique(logged.group_N, return_inverse=True)[1]
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)

    def drawn() -> Ints:
        picks = random.integers(0, len(parts), len(parts)).tolist()
        return np.concatenate([parts[pick] for pick in picks])

    return drawn
