"""A ranker's training rows: encoded candidates of users, and which of them were bought.

B requests, N candidates of all of them, I items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from feature_repo.contract.encoding import Bag, Encoded
from feature_repo.contract.events import EventType
from ranking.inputs import Inputs, Side
from ranking.numeric import Columns

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Encoded candidates of the users of one or more windows, with labels."""

    inputs: Inputs
    items: Side
    """[I] rows that ``inputs.item_of`` names."""
    offsets: Ints
    """[B+1] user b owns candidates ``[offsets[b], offsets[b+1])``."""
    labels: Bools
    """[N] whether the candidate was bought."""
    num_relevant: Ints
    """[B] items that were bought, among candidates or not."""
    gains: Floats
    """[N] what the candidate's labels count for; 1 where all count alike."""
    weights: Floats
    """[B] what the request counts for; 1 where all count alike."""
    others: Mapping[EventType, Bools] = field(default_factory=dict)
    """Other event -> [N] whether there was one; see ``Window``."""

    def labels_of(self, event: EventType) -> Bools:
        """[N] whether there was such an event with the candidate."""
        return self.labels if event is EventType.PURCHASE else self.others[event]

    def __len__(self) -> int:
        return len(self.num_relevant)

    @staticmethod
    def joined(parts: Sequence[Rows]) -> Rows:
        """The users of all parts, one after the other."""
        users = np.cumsum([0, *(len(part) for part in parts)])
        items = np.cumsum([0, *(len(part.items) for part in parts)])
        starts = np.cumsum([0, *(len(part.labels) for part in parts)])
        inputs = Inputs(
            joined_sides([part.inputs.users for part in parts]),
            _shifted([part.inputs.user_of for part in parts], users),
            _shifted([part.inputs.item_of for part in parts], items),
            Columns.joined([part.inputs.columns for part in parts]),
        )
        offsets = _shifted([part.offsets[:-1] for part in parts], starts)
        return Rows(
            inputs,
            joined_sides([part.items for part in parts]),
            np.append(offsets, starts[-1]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.num_relevant for part in parts]),
            np.concatenate([part.gains for part in parts]),
            np.concatenate([part.weights for part in parts]),
            {
                event: np.concatenate([part.others[event] for part in parts])
                for event in parts[0].others
            },
        )


def _shifted(parts: Sequence[Ints], starts: Ints) -> Ints:
    return np.concatenate([part + start for part, start in zip(parts, starts, strict=False)])


def joined_sides(parts: Sequence[Side]) -> Side:
    """The users or items of all parts, one after the other."""
    return Side(
        joined_encoded([part.encoded for part in parts]),
        Columns.joined([part.columns for part in parts]),
    )


def joined_encoded(parts: Sequence[Encoded]) -> Encoded:
    """The examples of all parts, one after the other."""
    bags = {}
    for name, first in parts[0].bags.items():
        mine = [part.bags[name] for part in parts]
        sizes = np.concatenate([np.diff(bag.offsets) for bag in mine])
        weights = [bag.weights for bag in mine if bag.weights is not None]
        bags[name] = Bag(
            np.concatenate([bag.values for bag in mine]),
            np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]),
            None if first.weights is None else np.concatenate(weights),
        )
    return Encoded(bags, np.concatenate([part.dense for part in parts]))
