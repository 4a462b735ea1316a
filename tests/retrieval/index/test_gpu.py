"""Indexes on GPUs: what fits, and, where there is a card, what is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.errors import BadInput
from retrieval.index import IndexConfig, ItemIndex, Kind, build_index
from retrieval.index.gpu import (
    GpuIndex,
    GpuKind,
    Spread,
    choose_gpu,
    exact_on_gpus,
    has_cagra,
    num_gpus,
)
from retrieval.index.vectors import ItemVectors
from tests.retrieval.index.made import clustered, exact, overlap

needs_gpu = pytest.mark.skipif(num_gpus() == 0, reason="needs a GPU")


@pytest.mark.parametrize(
    ("num_items", "gpus", "cagra", "expected"),
    [
        (10_000_000, 1, True, (GpuKind.cagra, Spread.replicated)),
        (10_000_000, 1, False, (GpuKind.flat, Spread.replicated)),
        (1_000_000_000, 1, False, None),
        (1_000_000_000, 4, False, (GpuKind.flat, Spread.sharded)),
        (900_000_000, 1, True, (GpuKind.ivf_pq, Spread.replicated)),
    ],
)
def test_the_fastest_structure_that_fits_is_chosen(
    num_items: int, gpus: int, cagra: bool, expected: tuple[GpuKind, Spread] | None
) -> None:
    if expected is None:
        with pytest.raises(BadInput, match="do not fit 1 GPUs of 75 GB"):
            choose_gpu(num_items, 64, gpus, 75e9, cagra=cagra)
    else:
        assert choose_gpu(num_items, 64, gpus, 75e9, cagra=cagra) == expected


def test_without_a_gpu_it_is_refused() -> None:
    with pytest.raises(BadInput, match="There is no GPU"):
        choose_gpu(1_000, 64, 0, 75e9, cagra=False)
    if num_gpus() == 0:
        with pytest.raises(BadInput, match="There is no GPU"):
            GpuIndex(ItemVectors.of(clustered(100)), GpuKind.flat, Spread.replicated)


@needs_gpu
@pytest.mark.parametrize("kind", list(GpuKind))
@pytest.mark.parametrize("spread", list(Spread))
def test_a_gpu_finds_the_nearest(kind: GpuKind, spread: Spread) -> None:
    if kind is GpuKind.cagra and not has_cagra():
        pytest.skip("needs FAISS with cuVS")
    items, users = clustered(20_000), clustered(50, seed=9)[1:]
    index = GpuIndex(ItemVectors.of(items), kind, spread)

    rows, _ = index.search(users, 20)

    assert overlap(rows, exact(items, users, 20)) > 0.7
    index.close()


def test_without_a_gpu_searches_stay_on_the_cpu() -> None:
    if num_gpus() == 0:
        assert exact_on_gpus(ItemVectors.of(clustered(100))) is None


@needs_gpu
def test_a_loaded_index_searches_exactly_on_the_gpu(tmp_path: Path) -> None:
    items, users = clustered(20_000), clustered(50, seed=9)[1:]
    build_index(items, tmp_path / "index", IndexConfig(kind=Kind.ivf_pq, target_recall=0.5), users)
    allowed = np.zeros(len(items), dtype=np.bool_)
    allowed[1:200] = True

    index = ItemIndex.load(tmp_path / "index", vectors=items)

    assert overlap(index.search(users, 20)[0], exact(items, users, 20)) > 0.98  # half precision
    assert (index.search(users, 20, allowed)[0] < 200).all()
    index.close()
