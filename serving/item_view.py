"""What requests read of items, at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from feature_repo.contract.candidates import Candidates
from feature_repo.contract.vocabulary import Vocabulary
from ranking.policy import Policy
from ranking.policy_config import PolicyConfig
from ranking.scorer import Scorer
from retrieval.index.live import Fresh
from serving.catalogue import Catalogue
from serving.experiments.treatment import Settings
from serving.release import Release


@dataclass(frozen=True)
class ItemView:
    """The items of a release and what came since; replaced as a whole when items change."""

    vocabulary: Vocabulary
    """The release's items, then those that came since."""
    catalogue: Catalogue
    fresh: Fresh
    """Vectors of the items that came since."""
    scorers: Mapping[str, Scorer]
    scored: Vocabulary
    """The items whose attributes the scorers know; later ones are scored as unknown items."""
    policy: Policy
    num_changes: int = 0
    policies: Mapping[Settings, Policy] = field(default_factory=dict)
    """Those of experiments' variants that are ready, by what they change."""

    def scorable(self, candidates: Candidates) -> Candidates:
        """Candidates as the scorers know them: items that they do not know are row 0."""
        rows = candidates.item_row
        return replace(candidates, item_row=np.where(rows < self.scored.num_rows, rows, 0))


def first_view(release: Release, policy: PolicyConfig | None = None) -> ItemView:
    """The items as they were exported.

    Args:
        release: with the item rows.
        policy: of lists; None: the release's.

    Raises:
        ConfigError: a rule of the policy names what the release does not have.
    """
    items = release.retriever.items
    vectors = release.retriever.item_vectors
    width = 0 if vectors is None else vectors.shape[1]
    return ItemView(
        vocabulary=items,
        catalogue=Catalogue(release.items, items),
        fresh=Fresh(np.zeros(0, np.int64), np.zeros((0, width), np.float32)),
        scorers=release.scorers,
        scored=items,
        policy=release.policy(policy),
    )
