"""Random numbers as functions of a seed and a place, never of a process or of what was drawn
before: the same for any number of processes, and after a resumption."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]


def mixed(keys: Keys) -> Keys:
    """[N] 64-bit keys whose bits look random: the finaliser of SplitMix64 (Steele et al., 2014)."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def key(seed: int, *counters: int) -> np.uint64:
    """One 64-bit key of a seed and counters, such as a stream and a step."""
    found = np.array([seed % (1 << 64)], dtype=np.uint64)
    for counter in counters:
        found = mixed(found * np.uint64(0x9E3779B97F4A7C15) + np.uint64(counter % (1 << 64) + 1))
    return np.uint64(mixed(found)[0])


def uniform(start: np.uint64, places: Ints) -> npt.NDArray[np.float64]:
    """[N] numbers in [0, 1), one for each place, whichever places are asked for together."""
    keys = places.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start
    return (mixed(keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53
