"""The batches that a ranker trains on: requests with samples of their candidates.

B requests, I distinct items of their candidates, N candidates, T tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from feature_repo.contract.encoding import Bag
from feature_repo.contract.events import EventType
from ranking.inputs import InputEncoder, Side
from ranking.metrics import ndcg_of_hits
from ranking.network import PairInputs
from trainer.ranker_rows import Rows

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

TOP = 10
"""Places of the lists that are judged."""


@dataclass(frozen=True)
class RankerBatch:
    """B requests with some of their candidates."""

    users: Side
    items: Side
    """[I] the distinct items of the candidates."""
    pairs: PairInputs
    labels: Tensor
    """[N, T] float32, 1 where there was the task's event, such as a purchase."""
    gains: Tensor
    """[N] float32; see ``Rows``."""
    weights: Tensor
    """[B] float32; see ``Rows``."""
    total: int = 0
    """Requests in the batch of all processes."""


def make_batch(
    rows: Rows,
    inputs: InputEncoder,
    users: Ints,
    kept: Bools,
    events: Sequence[EventType] = (EventType.PURCHASE,),
) -> RankerBatch:
    """The kept candidates of some requests, in rising order of the requests; labels by event."""
    own = Bag(np.arange(len(rows.labels), dtype=np.int64), rows.offsets).take(users)
    user_of = np.repeat(np.arange(len(users), dtype=np.int64), np.diff(own.offsets))
    chosen = kept[own.values]
    place, user_of = own.values[chosen], user_of[chosen]
    distinct, item_of = np.unique(rows.inputs.item_of[place], return_inverse=True)
    mine, items = rows.inputs.users.take(users), rows.items.take(distinct)
    pairs = inputs.pair_inputs(mine, items, user_of, item_of, rows.inputs.columns.take(place))
    labels = np.stack([rows.labels_of(event)[place] for event in events], axis=1)
    return RankerBatch(
        mine,
        items,
        pairs,
        torch.from_numpy(labels.astype(np.float32)),
        torch.from_numpy(rows.gains[place]),
        torch.from_numpy(rows.weights[users]),
    )


def wanted_in(rows: Rows, events: Iterable[EventType]) -> Bools:
    """[N] candidates that the user had any of the events with."""
    return np.asarray(np.any([rows.labels_of(event) for event in events], axis=0))


def counts_of(rows: Rows, chosen: Bools) -> Ints:
    """[B] chosen candidates of each request."""
    return np.bincount(rows.inputs.user_of, chosen, minlength=len(rows)).astype(np.int64)


def sampled(rows: Rows, wanted: Bools, negatives: int, rng: np.random.Generator) -> Bools:
    """[N] the wanted candidates, and ``negatives`` others of each request, drawn evenly."""
    draws = np.where(wanted, -1.0, rng.random(len(wanted)))
    order = np.lexsort((draws, rows.inputs.user_of))
    place = np.arange(len(order)) - rows.offsets[rows.inputs.user_of]
    kept = np.empty(len(order), dtype=np.bool_)
    kept[order] = place < (counts_of(rows, wanted) + negatives)[rows.inputs.user_of]
    return kept


def hits_of(rows: Rows, scores: Floats, k: int) -> Bools:
    """[B, k] whether the candidate at each place of a request's list was bought."""
    order = np.lexsort((-scores, rows.inputs.user_of))
    place = rows.offsets[:-1, None] + np.arange(k)
    inside = place < rows.offsets[1:, None]
    return rows.labels[order[np.where(inside, place, 0)]] & inside


def ranking_metrics(rows: Rows, scores: Floats) -> dict[str, float]:
    """NDCG and precision at 10 of the requests with a purchase, ranked by ``scores`` [N]."""
    judged = np.flatnonzero(rows.num_relevant > 0)
    places = hits_of(rows, scores, TOP)[judged]
    ndcg = ndcg_of_hits(places, rows.num_relevant[judged], TOP)
    return {f"ndcg@{TOP}": float(ndcg.mean()), f"precision@{TOP}": float(places.mean())}
