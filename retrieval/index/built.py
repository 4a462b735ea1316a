"""An index as it was built: FAISS over the rows of a table, never changed after.

Its positions are the rows' places in ``order``; of clusters, one cluster's items follow each other,
so that what a search re-ranks lies close together in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from retrieval.index.allowed import Allowed, Bits, pack
from retrieval.index.config import Kind

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

SCAN_US = 0.1
"""Microseconds to fetch a vector and score it; what a scan of allowed items is reckoned at."""
FULL_SCAN = 0.5
"""Share of the clusters from which on a search looks at nearly everything."""


@dataclass(frozen=True)
class Effort:
    """How much of an approximate index a search looks at."""

    nprobe: int = 0
    """Clusters, of ivf_pq."""
    candidates: int = 0
    """Items that ivf_pq re-ranks at least, whatever the length of the list."""
    k_factor: float = 1.0
    """Items that ivf_pq re-ranks, for each place of the list."""
    ef_search: int = 0
    """Length of the queue of hnsw."""

    def re_ranked(self, k: int) -> float:
        """Candidates for each place of a list of ``k``."""
        return max(self.k_factor, self.candidates / k)


@dataclass(frozen=True)
class Hidden:
    """Rows that searches of one ``Built`` leave out."""

    mask: Bools
    """[R] whether a row is hidden."""
    visible: Bits
    """The positions of the others."""


@dataclass(frozen=True)
class _Wide:
    """What a search among many allowed items needs."""

    bits: Bits
    effort: Effort
    clusters: Ints | None = None


@dataclass(frozen=True)
class Built:
    """A searchable table of item vectors."""

    index: Any
    """FAISS, inner product; position p holds row ``order[p]``."""
    kind: Kind
    order: npt.NDArray[np.int32] | None
    """[N] rows, each once; None: position p holds row p + 1."""
    effort: Effort = Effort()
    query_us: float = 0.0
    """Microseconds that a search for one user took when the effort was chosen."""
    kept: Any = None
    """What the index's memory belongs to."""
    _said: dict[tuple[Effort, int], Any] = field(default_factory=dict, repr=False, compare=False)
    """FAISS's form of efforts, by effort and length of the list."""

    @property
    def num_items(self) -> int:
        """Rows without row 0."""
        return int(self.index.ntotal)

    @property
    def dim(self) -> int:
        """Width V of the vectors."""
        return int(self.index.d)

    def search(self, users_BV: Floats, k: int) -> tuple[Ints, Floats]:
        """[B, k] rows, best first, and their scores; 0 and -inf where none was found."""
        return self.search_at(users_BV, k, self.effort)

    def search_at(self, users_BV: Floats, k: int, effort: Effort) -> tuple[Ints, Floats]:
        """As ``search``, with another effort."""
        said = self._said.get((effort, k))  # making one takes half as long as a search
        if said is None:
            said = self._said[effort, k] = self._parameters(effort, k)
        return self._found(users_BV, k, said)

    def search_allowed(
        self, users_BV: Floats, k: int, allowed: Allowed | None, hidden: Hidden | None
    ) -> tuple[Ints, Floats]:
        """As ``search``, among items that are allowed and not hidden.

        Few allowed items are scored one by one; of many, an approximate search looks at as many as
        it does of all items when nothing is forbidden.

        Args:
            users_BV: [B, V]
            k: length of the lists.
            allowed: None: all.
            hidden: None: none.
        """
        if allowed is None:
            if hidden is None:
                return self.search(users_BV, k)
            return self._selected(users_BV, k, hidden.visible, self.effort)
        rows = allowed.of_table(self.num_items)
        if hidden is not None:
            rows = rows[~hidden.mask[rows]]
        if self._scan_is_cheaper(len(users_BV), len(rows), k):
            return self._scan(users_BV, k, rows)
        wide = allowed.kept(id(self), lambda: self._wide(allowed))
        bits = wide.bits if hidden is None else wide.bits & hidden.visible
        if wide.clusters is None:
            return self._selected(users_BV, k, bits, wide.effort)
        return self._probed(users_BV, k, bits, wide.effort, wide.clusters)

    def hide(self, mask: Bools) -> Hidden | None:
        """Rows to leave out of searches, from a mask [R]; None where it is empty."""
        if not mask.any():
            return None
        return Hidden(mask, pack(self._places(np.flatnonzero(~mask[1:]) + 1), self.num_items))

    def vectors(self, rows: Ints) -> Floats:
        """[N, V] as the index holds them."""
        return np.asarray(self.index.reconstruct_batch(self._places(rows)))

    def _found(self, users_BV: Floats, k: int, parameters: Any) -> tuple[Ints, Floats]:
        scores, places = self.index.search(users_BV, k, params=parameters)
        rows = places + 1 if self.order is None else self._rows(places)
        return rows, scores

    def _rows(self, places: Ints) -> Ints:
        assert self.order is not None
        return np.where(places < 0, 0, self.order[places]).astype(np.int64, copy=False)

    def _places(self, rows: Ints) -> Ints:
        return rows - 1 if self.order is None else self._place_of[rows].astype(np.int64)

    @cached_property
    def _place_of(self) -> npt.NDArray[np.int32]:
        """[R] position of each row."""
        assert self.order is not None
        found = np.zeros(self.num_items + 1, dtype=np.int32)
        found[self.order] = np.arange(self.num_items, dtype=np.int32)
        return found

    @cached_property
    def _starts(self) -> Ints:
        """[L] position of each cluster's first item, in the order of clusters."""
        inner = faiss.extract_index_ivf(self.index)
        sizes = [inner.invlists.list_size(place) for place in range(inner.nlist)]
        return np.cumsum([0, *sizes])[:-1]

    def _scan_is_cheaper(self, num_users: int, num_allowed: int, k: int) -> bool:
        if num_allowed <= 4 * k:
            return True
        share = num_allowed / self.num_items
        scan = num_allowed * SCAN_US * (1 + num_users / 8)
        return scan < num_users * self.query_us * min(1 / share, self._most_boost)

    @cached_property
    def _most_boost(self) -> float:
        """How many times the usual effort looks at everything."""
        match self.kind:
            case Kind.ivf_pq:
                return float(faiss.extract_index_ivf(self.index).nlist / self.effort.nprobe)
            case Kind.hnsw:
                return self.num_items / max(self.effort.ef_search, 1)
            case _:
                return 1.0

    def _scan(self, users_BV: Floats, k: int, rows: Ints) -> tuple[Ints, Floats]:
        scores = users_BV @ self.vectors(rows).T
        return _best(np.broadcast_to(rows, scores.shape), scores, k)

    def _selected(
        self, users_BV: Floats, k: int, bits: Bits, effort: Effort
    ) -> tuple[Ints, Floats]:
        return self._found(users_BV, k, self._parameters(effort, k, _selector(bits)))

    def _probed(
        self, users_BV: Floats, k: int, bits: Bits, effort: Effort, clusters: Ints
    ) -> tuple[Ints, Floats]:
        """As ``_selected``, in the nearest of some clusters of ivf_pq."""
        some = faiss.SearchParameters(sel=faiss.IDSelectorBatch(clusters))
        nearness, nearest = centroids(self.index).search(users_BV, effort.nprobe, params=some)
        size = (len(users_BV), int(np.ceil(k * effort.re_ranked(k))))
        scores, places = np.empty(size, dtype=np.float32), np.empty(size, dtype=np.int64)
        pointers = (faiss.swig_ptr(array) for array in (nearest, nearness, scores, places))
        chosen = faiss.SearchParametersIVF(nprobe=effort.nprobe, sel=_selector(bits))
        faiss.extract_index_ivf(self.index).search_preassigned_c(
            len(users_BV), faiss.swig_ptr(users_BV), size[1], *pointers, False, chosen
        )
        found = self.index.reconstruct_batch(np.maximum(places, 0).ravel())
        exact = np.einsum("bv,bcv->bc", users_BV, found.reshape(*size, self.dim))
        rows = np.where(places < 0, 0, self._rows(places))
        return _best(rows, np.where(places < 0, -np.inf, exact).astype(np.float32), k)

    def _wide(self, allowed: Allowed) -> _Wide:
        """How an approximate search finds allowed items: by as many of them as a search of all
        items looks at. They may be spread thinly, or fill clusters that are far from what the user
        would find first, so that clusters without any are passed over."""
        places = self._places(allowed.of_table(self.num_items))
        bits, share = pack(places, self.num_items), len(places) / self.num_items
        if self.kind is not Kind.ivf_pq:
            return _Wide(bits, replace(self.effort, ef_search=int(self.effort.ef_search / share)))
        cluster = np.searchsorted(self._starts, places, side="right") - 1
        clusters = np.unique(cluster)
        usual = self.effort.nprobe * self.num_items / len(self._starts)
        nprobe = max(self.effort.nprobe, int(np.ceil(usual * len(clusters) / len(places))))
        return _Wide(bits, replace(self.effort, nprobe=min(nprobe, len(clusters))), clusters)

    def _parameters(self, effort: Effort, k: int, selector: Any = None) -> Any:
        match self.kind:
            case Kind.ivf_pq:
                return faiss.IndexRefineSearchParameters(
                    k_factor=effort.re_ranked(k),
                    base_index_params=faiss.SearchParametersIVF(nprobe=effort.nprobe, sel=selector),
                )
            case Kind.hnsw:
                return faiss.SearchParametersHNSW(efSearch=max(effort.ef_search, k), sel=selector)
            case _:
                return None if selector is None else faiss.SearchParameters(sel=selector)


def centroids(index: Any) -> Any:
    """The exact index over the centres of an ivf_pq index's clusters."""
    quantizer = faiss.downcast_index(faiss.extract_index_ivf(index).quantizer)
    if isinstance(quantizer, faiss.IndexRefine):
        return faiss.downcast_index(quantizer.refine_index)
    return quantizer


def _selector(bits: Bits) -> Any:
    return faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))


def _best(rows_BC: Ints, scores_BC: Floats, k: int) -> tuple[Ints, Floats]:
    """[B, k] the rows of the highest scores, best first; 0 and -inf where there are fewer."""
    shape = (len(scores_BC), k)
    rows, scores = np.zeros(shape, dtype=np.int64), np.full(shape, -np.inf, dtype=np.float32)
    length = min(k, scores_BC.shape[1])
    if length:
        best = np.argpartition(-scores_BC, length - 1, axis=1)[:, :length]
        values = np.take_along_axis(scores_BC, best, axis=1)
        best = np.take_along_axis(best, np.argsort(-values, axis=1, kind="stable"), axis=1)
        rows[:, :length] = np.take_along_axis(rows_BC, best, axis=1)
        scores[:, :length] = np.take_along_axis(scores_BC, best, axis=1)
    return rows, scores
