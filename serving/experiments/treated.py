"""What variants do to a list while it is made: which sources count, and how much.

B requests, N candidates of all of them, S sources.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from feature_repo.contract.candidates import Candidates
from ranking.policy import Policy
from serving.experiments.config import NO_RANKER, Settings
from serving.experiments.treatment import NOTHING, Levers, Treatment, levers_of

if TYPE_CHECKING:
    from serving.release import Release

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

EXPERIMENT = "experiment"
"""Name in ``degraded`` where the release lacks what a variant names."""
Weights = tuple[tuple[str, float], ...]

_TOLD: set[str] = set()
_TELLING = threading.Lock()


def fitting(
    treatment: Treatment | None, release: Release, policies: Mapping[Settings, Policy]
) -> tuple[Levers, bool]:
    """What a treatment changes, and whether a variant asks for what the release lacks.

    Such a variant changes nothing, and the log says so once a release.

    Args:
        treatment: of a request.
        release: with rankers and sources.
        policies: those that are ready, by their settings.
    """
    levers, lacking = NOTHING, False
    for arm in () if treatment is None else treatment.arms:
        own = levers_of(arm.changes)
        missing = _missing(own, release, policies)
        if missing:
            lacking = True
            _tell_once(f"{arm.label}, on the release {release.about.version}: {missing}")
            continue
        levers = Levers(
            own.ranker or levers.ranker, own.sources or levers.sources, own.policy or levers.policy
        )
    return levers, lacking


def _missing(levers: Levers, release: Release, policies: Mapping[Settings, Policy]) -> list[str]:
    found = []
    if levers.ranker not in (None, NO_RANKER) and levers.ranker not in release.scorers:
        found.append(f"ranker {levers.ranker}")
    sources = {source.name for source in release.retriever.sources} if levers.sources else set()
    found += [f"source {name}" for name, _ in levers.sources if name not in sources]
    if levers.policy and levers.policy not in policies:
        found.append(f"policy {' '.join(levers.policy)}")
    return found


def _tell_once(what: str) -> None:
    with _TELLING:
        if what in _TOLD:
            return
        _TOLD.add(what)
    log.error("The users of a variant get the usual lists, for what it names is lacking: %s.", what)


def from_sources(candidates: Candidates, chosen: Sequence[Weights]) -> Candidates:
    """Without what other sources than the chosen ones named.

    Args:
        candidates: of B requests.
        chosen: [B] the only sources that count, with their weights; empty: all.
    """
    if not any(chosen):
        return candidates
    off = np.array([_off(candidates.sources, own) for own in chosen])
    users = np.repeat(np.arange(len(candidates)), np.diff(candidates.offsets))
    off_NS = off[users]
    rank = np.where(off_NS, np.float32(np.nan), candidates.rank)
    score = np.where(off_NS, np.float32(np.nan), candidates.score)
    kept = ~np.isnan(rank).all(axis=1)
    counts = np.bincount(users[kept], minlength=len(candidates))
    return replace(
        candidates,
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
        item_row=candidates.item_row[kept],
        score=score[kept],
        rank=rank[kept],
    )


def _off(sources: Sequence[str], chosen: Weights) -> list[bool]:
    names = dict(chosen)
    return [bool(names) and source not in names for source in sources]


def source_weights(candidates: Candidates, chosen: Sequence[Weights]) -> Floats | None:
    """[N, S] weight of each source in fused ranks, by request; None: all 1.

    Args:
        candidates: of B requests.
        chosen: [B] sources with their weights; empty: all, of weight 1.
    """
    if not any(weight != 1.0 for own in chosen for _, weight in own):
        return None
    table = np.array([[dict(own).get(name, 1.0) for name in candidates.sources] for own in chosen])
    users = np.repeat(np.arange(len(candidates)), np.diff(candidates.offsets))
    return np.asarray(table[users], dtype=np.float32)
