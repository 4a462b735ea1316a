"""Find the least effort that reaches the wanted recall, on real users held back.

Half of the users choose the effort, the other half tell the recall that is reported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import faiss
import numpy as np
import numpy.typing as npt

from feature_repo.contract.errors import BadInput
from retrieval.index.built import Built, Effort
from retrieval.index.config import IndexConfig, IndexRefused, Kind
from retrieval.index.vectors import ItemVectors, recall

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

MOST_USERS = 1_024
TIMED = 128
"""Users that are timed one by one."""
K_FACTORS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 16.0)
STEP, LEAP, NOTHING = 1.1, 8, 2e-4
"""From one effort to the next; efforts that are leapt over; recall that is not worth a leap."""


@dataclass(frozen=True)
class Judges:
    """Users with their exact nearest items."""

    users: Floats
    """[B, V]"""
    exact: Ints
    """[B, k] item rows."""

    def __len__(self) -> int:
        return len(self.users)

    @property
    def k(self) -> int:
        """Length of the lists."""
        return int(self.exact.shape[1])

    def half(self, which: int) -> Judges:
        """Every second user, from the first or the second."""
        return Judges(self.users[which::2], self.exact[which::2])

    def recall(self, built: Built, effort: Effort) -> float:
        """Mean share of the exact nearest items that a search finds."""
        rows, _ = built.search_at(self.users, self.k, effort)
        return float(recall(rows, self.exact).mean())

    def query_us(self, built: Built, efforts: Sequence[Effort]) -> list[float]:
        """Microseconds a user by effort, one at a time on one core; the best of three rounds."""
        users = self.users[:TIMED]

        def once(effort: Effort) -> float:
            started = time.thread_time()
            for place in range(len(users)):
                built.search_at(users[place : place + 1], self.k, effort)
            return (time.thread_time() - started) / len(users) * 1e6

        with one_thread():
            rounds = [[once(effort) for effort in efforts] for _ in range(3)]
        return [min(times) for times in zip(*rounds, strict=True)]


@dataclass(frozen=True)
class Tuned:
    """An effort, and what it gives."""

    effort: Effort
    recall: float
    """Of users that did not choose the effort."""
    query_us: float
    num_queries: int


def judges(vectors: ItemVectors, users: Floats | None, config: IndexConfig) -> Judges:
    """At most ``MOST_USERS`` of the users, drawn without return, and their nearest items.

    Raises:
        BadInput: no users, too few, or of another width.
    """
    if users is None or len(users) < 2:
        raise BadInput(
            "An approximate index is measured on vectors of users held back; got "
            f"{0 if users is None else len(users)} of them. Give at least 2, better 1,000."
        )
    if users.ndim != 2 or users.shape[1] != vectors.dim:
        raise BadInput(
            f"User vectors must be [users, {vectors.dim}], as the items' are; got {users.shape}."
        )
    random = np.random.default_rng(config.seed)
    drawn = np.sort(random.permutation(len(users))[:MOST_USERS])
    chosen = np.ascontiguousarray(users[drawn], dtype=np.float32)
    return Judges(chosen, vectors.nearest(chosen, config.k))


def tune(built: Built, judging: Judges, config: IndexConfig) -> Tuned:
    """The effort that takes the least time among those that reach the wanted recall.

    Raises:
        IndexRefused: none reaches it.
    """
    choosing, telling = judging.half(0), judging.half(1)
    found = _enough(built, choosing, config)
    times = choosing.query_us(built, found)
    effort = found[int(np.argmin(times))]
    told = telling.recall(built, effort)
    while told < config.target_recall:
        effort = _more(built, effort, config, told, len(telling))
        told = telling.recall(built, effort)
    return Tuned(effort, told, choosing.query_us(built, [effort])[0], len(telling))


def _enough(built: Built, choosing: Judges, config: IndexConfig) -> list[Effort]:
    """Of each ladder the least effort that reaches the wanted recall.

    Raises:
        IndexRefused: none does.
    """
    found: list[Effort] = []
    start = 0
    for ladder in _ladders(built, choosing.k):
        rung = _least(ladder, lambda e: choosing.recall(built, e), config.target_recall, start)
        if rung is None:
            break
        found.append(ladder[rung])
        start = rung
    if not found:
        best = choosing.recall(built, next(_ladders(built, choosing.k))[-1])
        raise IndexRefused(_refusal(built.kind, best, config, len(choosing)))
    return found


def _ladders(built: Built, k: int) -> Iterator[list[Effort]]:
    """Efforts from little to all. Where one ladder fails, so do those after it; and they need at
    least the rung that it needs."""
    match built.kind:
        case Kind.ivf_pq:
            nlist = faiss.extract_index_ivf(built.index).nlist
            for factor in reversed(K_FACTORS):
                start = Effort(k_factor=factor, candidates=int(np.ceil(factor * k)))
                yield [replace(start, nprobe=nprobe) for nprobe in _steps(1, nlist)]
        case _:
            most = min(built.num_items, 1 << 14)
            yield [Effort(ef_search=breadth) for breadth in _steps(min(k, most), most)]


def _steps(least: int, most: int) -> list[int]:
    """Whole numbers from ``least`` to ``most``, each at most ``STEP`` times the one before."""
    found = [least]
    while found[-1] < most:
        found.append(min(most, max(found[-1] + 1, int(found[-1] * STEP))))
    return found


def _least(
    ladder: Sequence[Effort], measure: Callable[[Effort], float], target: float, start: int
) -> int | None:
    """The first rung from ``start`` on that reaches ``target``: by leaps up, then by halving.

    None where the last does not, or where a leap gained nothing, and the next would cost more.
    """
    low, high, reached = start, start, measure(ladder[start])
    while reached < target:
        low, before = high + 1, reached
        if low == len(ladder):
            return None
        high = min(high + LEAP, len(ladder) - 1)
        reached = measure(ladder[high])
        if reached < min(target, before + NOTHING):
            return None
    while low < high:
        middle = (low + high) // 2
        if measure(ladder[middle]) >= target:
            high = middle
        else:
            low = middle + 1
    return high


def _more(built: Built, effort: Effort, config: IndexConfig, told: float, num_users: int) -> Effort:
    """The next rung.

    Raises:
        IndexRefused: there is none.
    """
    if built.kind is Kind.hnsw:
        grown = replace(effort, ef_search=max(effort.ef_search + 1, int(effort.ef_search * STEP)))
        exhausted = effort.ef_search >= built.num_items
    else:
        nlist = faiss.extract_index_ivf(built.index).nlist
        nprobe = min(nlist, max(effort.nprobe + 1, int(effort.nprobe * STEP)))
        factor = effort.k_factor * STEP
        grown = replace(
            effort, nprobe=nprobe, k_factor=factor, candidates=int(effort.candidates * STEP)
        )
        exhausted = effort.nprobe == nlist and factor > 2 * K_FACTORS[-1]
    if exhausted:
        raise IndexRefused(_refusal(built.kind, told, config, num_users))
    return grown


def _refusal(kind: Kind, best: float, config: IndexConfig, num_users: int) -> str:
    return (
        f"The {kind.value} index finds at most {best:.3f} of the exact nearest {config.k} items of "
        f"{num_users} users; index.target_recall={config.target_recall} was asked for. Lower it, "
        "or choose index=flat, which is exact. Nothing was written."
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """FAISS on the calling thread alone."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
