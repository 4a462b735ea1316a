"""A ranker of random weights over the made-up shop, and a request as its network reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ranking.attribution import Explained
from ranking.explain import Explainer
from ranking.features import Requests, numeric_matrix
from ranking.network import NetworkConfig
from ranking.scorer import Scorer
from tests.ranking import shop
from tests.ranking.made import WIDE_DEEP, make_ranker

USER = 3
VOCABULARY = shop.vocabulary()
NOW_S = np.array([shop.NOW_S])


def request_of(scorer: Scorer, user: int = USER) -> tuple[Requests, Explained]:
    """One user's request, and how the network reads it."""
    rows = shop.user_rows().slice(user, 1)
    explainer = Explainer(scorer)
    requests = explainer.requests(rows, shop.candidates(rows), VOCABULARY, NOW_S)
    return requests, explainer.explained(rows, requests, numeric_matrix(requests))


def scorer_in(
    folder: Path,
    config: NetworkConfig = WIDE_DEEP,
    num_members: int = 1,
    num_items: int = shop.NUM_ITEMS,
) -> Scorer:
    """A ranker whose catalogue holds the first items of the shop."""
    make_ranker(folder, config, num_members)
    return Scorer.load(folder, shop.item_rows(num_items))
