"""What a user buys again and again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from feature_repo.contract.candidates import TopK
from retrieval.sources.base import Floats, Ints, UserBatch, best_of, spans


@dataclass(frozen=True)
class BuyAgainSource:
    """What the user bought most, of late."""

    half_life_days: float
    name: str = "buy_again"

    @property
    def about(self) -> dict[str, Any]:
        """See ``Source``."""
        return {"kind": "buy_again", "half_life_days": self.half_life_days}

    def top(self, users: UserBatch, k: int) -> TopK:
        """See ``Source``; the score is the decayed count as of now."""
        histories = users.histories
        weights = histories.weight_at(users.now_s, self.half_life_days)
        return best_of(histories.offsets, histories.item_row, weights, k)

    def score(self, users: UserBatch, offsets: Ints, item_row: Ints) -> Floats:
        """See ``Source``; NaN for what the user never bought."""
        histories = users.histories
        weights = histories.weight_at(users.now_s, self.half_life_days)
        found = np.full(len(item_row), np.nan, dtype=np.float32)
        for user, part in spans(offsets):
            mine = slice(int(histories.offsets[user]), int(histories.offsets[user + 1]))
            known = dict(zip(histories.item_row[mine].tolist(), weights[mine], strict=True))
            found[part] = [known.get(row, np.nan) for row in item_row[part].tolist()]
        return found

    def save(self, folder: Path) -> None:
        """Nothing: the history is the user's."""
