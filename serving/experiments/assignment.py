"""Which variant a user sees: the same at every request, on every machine, without a memory.

The salted hash of a user id is a number below 1 that looks drawn at random. One number, by the
layer's salt, says which of the layer's experiments the user is part of; another, by the
experiment's own, says which variant. Numbers of different salts are independent, so that every
experiment of another layer is spread evenly over each variant (Tang et al., 2010, "Overlapping
experiment infrastructure").
"""

from __future__ import annotations

from bisect import bisect_right
from hashlib import blake2b

from serving.experiments.config import Experiment
from serving.ids import Id

BITS = 53
"""That a double holds exactly."""


def unit(salt: str, user_id: Id) -> float:
    """A number from 0 to below 1 of a user under a salt."""
    text = f"{salt}\0{user_id}".encode("utf-8", "surrogatepass")
    whole = int.from_bytes(blake2b(text, digest_size=8).digest(), "big")
    return float((whole >> (64 - BITS)) / (1 << BITS))


def layer_place(layer: str, user_id: Id) -> float:
    """Where a user stands in a layer, from 0 to below 1."""
    return unit(f"layer\0{layer}", user_id)


def takes_part(experiment: Experiment, user_id: Id) -> bool:
    """Whether a user is of the part of the layer that an experiment has."""
    low, high = experiment.traffic
    return low <= layer_place(experiment.layer, user_id) < high


def variant_of(experiment: Experiment, user_id: Id) -> str:
    """Name of the variant that a user has, who takes part."""
    place = unit(f"experiment\0{experiment.salt or experiment.name}", user_id)
    return list(experiment.variants)[bisect_right(experiment.edges[:-1], place)]
