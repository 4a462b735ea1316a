"""Users of simulated experiments: what they do in four weeks, and what they spent before.

Every user has a habit that does not change: how often they order, what they pay, how they click.
Orders are Poisson, baskets lognormal, so that revenue has a long tail and spend of the time before
explains a part of it, as in a shop.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from serving.experiments.outcomes import Outcomes

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

ORDERS, BASKET = 1.5, 20.0
"""Mean orders in the time of the experiment, and the middle basket's price."""
BEFORE = 2.0
"""Times as long as the experiment is the time before that is known."""
ITEMS = 10
"""Of an answer."""


def simulate(
    random: np.random.Generator, user_ids: list[int], variant_U: Ints, lift: float = 0.0
) -> Outcomes:
    """Users, of whom those of variant 1 order, click and put into baskets more often by ``lift``.

    Args:
        random: draws everything.
        user_ids: U ids.
        variant_U: from 0; the others differ in nothing.
        lift: 0.1 is a tenth more.
    """
    count = len(user_ids)
    more = 1.0 + lift * (variant_U == 1)
    habit = random.gamma(0.8, ORDERS / 0.8, count)
    level = BASKET * random.lognormal(0.0, 0.5, count)
    _, before = _orders(random, BEFORE * habit, level)
    orders, revenue = _orders(random, more * habit, level)
    answers = 1 + random.poisson(2 + 2 * habit)
    interest = random.beta(2, 38, count)
    clicks = random.binomial(ITEMS * answers, np.minimum(more * interest, 1.0))
    carted = (orders > 0) | (random.random(count) < more * 0.2)
    eligible = random.random(count) < 0.7
    returned = eligible & (random.random(count) < 1 - np.exp(-0.5 - habit))
    took = [random.gamma(4.0, 5.0, number).sum() for number in answers]
    columns = {
        "answers": answers,
        "shown": ITEMS * answers,
        "took_ms": took,
        "degraded": random.binomial(answers, random.beta(1, 99, count)),
        "clicks": clicks,
        "converted": orders > 0,
        "carted": carted,
        "orders": orders,
        "revenue": revenue,
        "eligible": eligible,
        "returned": returned,
        "spend": before + revenue,
        "before": before,
    }
    found = {name: np.asarray(values, np.float64) for name, values in columns.items()}
    return Outcomes(list(user_ids), variant_U, found, [])


def _orders(
    random: np.random.Generator, rate_U: Doubles, level_U: Doubles
) -> tuple[Doubles, Doubles]:
    """Number and price of each user's orders."""
    orders = random.poisson(rate_U)
    users = np.repeat(np.arange(len(orders)), orders)
    baskets = level_U[users] * random.lognormal(0.0, 0.8, len(users))
    spent = np.bincount(users, baskets, minlength=len(orders))
    return orders.astype(np.float64), spent.astype(np.float64)
