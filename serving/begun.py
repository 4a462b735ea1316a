"""Users of whom little is known: their lists are drawn towards what everybody begins with.

A ranker learns from users with long histories. After one or two items it knows less than the
popular list does, and both together know more than either: they are fused by places, the ranker's
with a weight of n / (n + 2) after n purchases. Chosen on Complete Journey's validation weeks, where
it raises hits, recall and NDCG after 1, 2 and 5 items (``benchmarks.first_session``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from serving.asked import Asked
from serving.candidates import Found
from serving.catalogue import Catalogue
from serving.experiments.config import NO_RANKER
from serving.popular import Popular

Floats = npt.NDArray[np.float32]

BEGUN = 20
"""Purchases from which on a history speaks for itself."""
DRAWN = 2.0
"""Purchases after which ranker and popularity count alike."""
FUSION = 10.0
"""Of reciprocal rank fusion (Cormack et al., 2009): less than their 60, for the heads matter."""


def drawn(
    found: Found, scores: Floats, asked: Sequence[Asked], popular: Popular, catalogue: Catalogue
) -> Floats:
    """[N] scores, of which those of users who have begun are fused with popularity.

    Args:
        found: candidates of B requests.
        scores: [N]
        asked: [B]
        popular: what new users get.
        catalogue: of all items.
    """
    histories = found.users.histories
    user_of = np.repeat(np.arange(len(histories)), np.diff(histories.offsets))
    sizes = np.bincount(user_of, histories.count, minlength=len(histories))
    begun = np.flatnonzero((sizes > 0) & (sizes < BEGUN)).tolist()
    begun = [user for user in begun if asked[user].ranker != NO_RANKER]
    if not begun:
        return scores
    fused = scores.copy()
    for user in begun:
        part = found.candidates.slice_of(user)
        theirs = popular.places(found.candidates.item_row[part], asked[user].preferred, catalogue)
        own = np.empty(len(theirs), np.float32)
        own[np.argsort(-scores[part], kind="stable")] = np.arange(1, len(own) + 1)
        weight = sizes[user] / (sizes[user] + DRAWN)
        fused[part] = weight / (FUSION + own) + (1.0 - weight) / (FUSION + theirs)
    return fused
