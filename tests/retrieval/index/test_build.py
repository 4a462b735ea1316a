"""Building: what is found, in streams as in memory, what is refused and what stays behind."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.errors import ArtifactError, BadInput
from retrieval.index import IndexConfig, IndexRefused, ItemIndex, Kind, build_index
from retrieval.index import vectors as vectors_module
from tests.retrieval.index.made import clustered, exact, overlap

ITEMS, USERS = clustered(3_000), clustered(300, seed=9)[1:]
SMALL = IndexConfig(kind=Kind.ivf_pq, k=20, target_recall=0.9)


@pytest.mark.parametrize("kind", [Kind.flat, Kind.ivf_pq, Kind.hnsw])
def test_what_is_loaded_finds_as_many_of_the_nearest_as_was_measured(
    kind: Kind, tmp_path: Path
) -> None:
    config = IndexConfig(kind=kind, k=20, target_recall=0.9)
    about = build_index(ITEMS, tmp_path / "index", config, USERS)

    rows, scores = ItemIndex.load(tmp_path / "index").search(USERS, 20)

    assert overlap(rows, exact(ITEMS, USERS, 20)) == pytest.approx(about.recall, abs=0.03)
    assert about.recall >= 0.9
    assert scores == pytest.approx((USERS[:, None] * ITEMS[rows]).sum(axis=2), abs=0.02)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_an_index_says_what_it_is(tmp_path: Path) -> None:
    build_index(ITEMS, tmp_path / "index", SMALL, USERS)

    about = json.loads((tmp_path / "index" / "index.json").read_text())

    assert (about["kind"], about["num_items"], about["dim"]) == ("ivf_pq", 3_000, 16)
    assert about["factory"].startswith("IVF")
    assert about["recall"] >= about["target_recall"] == 0.9
    assert about["num_queries"] == 150
    assert about["effort"]["nprobe"] >= 1
    files = [p for p in (tmp_path / "index").rglob("*") if p.is_file() and p.name != "index.json"]
    assert about["num_bytes"] == sum(path.stat().st_size for path in files)


@pytest.mark.parametrize("kind", [Kind.flat, Kind.ivf_pq, Kind.hnsw])
def test_built_from_parts_on_disk_it_is_the_index_built_from_memory(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors_module, "CHUNK", 700)
    np.save(tmp_path / "a.npy", ITEMS[:1_234])
    np.save(tmp_path / "b.npy", ITEMS[1_234:])
    config = IndexConfig(kind=kind, k=20, target_recall=0.9)

    for name, source in (("memory", ITEMS), ("parts", [tmp_path / "a.npy", tmp_path / "b.npy"])):
        build_index(source, tmp_path / name, config, USERS)

    memory, parts = (ItemIndex.load(tmp_path / name).built for name in ("memory", "parts"))
    effort = memory.effort  # which was chosen by time: another build may choose another
    rows = [built.search_at(USERS, 20, effort)[0].tolist() for built in (memory, parts)]
    assert rows[0] == rows[1]


def test_an_index_below_its_target_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    hard = IndexConfig(kind=Kind.hnsw, k=100, target_recall=0.9999999)
    noise = np.random.default_rng(0).normal(size=(3_001, 16)).astype(np.float32)

    with pytest.raises(IndexRefused, match=r"at most 0\.\d+ of the exact nearest 100 items"):
        build_index(noise, tmp_path / "index", hard, noise[1:100])

    assert list(tmp_path.iterdir()) == []


def test_a_build_in_place_of_an_index_leaves_it_when_it_is_refused(tmp_path: Path) -> None:
    build_index(ITEMS, tmp_path / "index", SMALL, USERS)
    before = ItemIndex.load(tmp_path / "index").search(USERS, 5)[0].tolist()

    with pytest.raises(BadInput):
        build_index(np.zeros((50, 16), np.float32), tmp_path / "index", SMALL, USERS)

    assert ItemIndex.load(tmp_path / "index").search(USERS, 5)[0].tolist() == before


def test_an_item_without_a_direction_is_named_by_its_id(tmp_path: Path) -> None:
    items = clustered(4)
    items[2] = np.nan

    with pytest.raises(BadInput, match="vector of item 'hat' holds NaN"):
        build_index(items, tmp_path / "i", IndexConfig(), ids=["shoe", "hat", "coat", "sock"])


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [([5, 6, 5, 7], "Item 5 is given twice"), ([1, 2], "4 items need as many ids")],
)
def test_ids_that_do_not_fit_are_refused(ids: list[int], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=sentence):
        build_index(clustered(4), tmp_path / "i", IndexConfig(), ids=ids)


@pytest.mark.parametrize(
    ("items", "users", "sentence"),
    [
        (clustered(50), USERS, "at least 1,000 items"),
        (ITEMS, None, "measured on vectors of users held back; got 0"),
        (ITEMS, USERS[:, :8], r"must be \[users, 16\]"),
    ],
)
def test_a_compressed_index_needs_enough_items_and_users(
    items: np.ndarray, users: np.ndarray | None, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=sentence):
        build_index(items, tmp_path / "index", SMALL, users)


@pytest.mark.parametrize("name", ["base.faiss", "vectors.npy", "order.npy"])
def test_a_truncated_file_is_refused(name: str, tmp_path: Path) -> None:
    build_index(ITEMS, tmp_path / "index", SMALL, USERS)
    path = tmp_path / "index" / name
    path.write_bytes(path.read_bytes()[:100])

    with pytest.raises(ArtifactError, match=f"{name} is not a whole"):
        ItemIndex.load(tmp_path / "index")


def test_few_items_are_searched_exactly_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        about = build_index(ITEMS, tmp_path / "index", IndexConfig(), USERS)

    assert about.kind == "flat"
    assert "flat for 3,000 items of width 16: exact search takes" in caplog.text
    assert "within index.max_exact_ms=0.2" in caplog.text


@pytest.mark.parametrize(
    ("config", "kind", "reason"),
    [
        (IndexConfig(max_exact_ms=0, k=20), "ivf_pq", "above index.max_exact_ms=0"),
        (IndexConfig(memory_gb=1e-4, k=20), "ivf_pq", "its vectors take 0.0 GB"),
    ],
)
def test_where_exact_search_is_too_slow_or_large_clusters_are_chosen(
    config: IndexConfig, kind: str, reason: str, tmp_path: Path
) -> None:
    about = build_index(ITEMS, tmp_path / "index", config, USERS)

    assert about.kind == kind
    assert reason in about.choice
    assert f"it finds {about.recall:.1%} of the exact nearest items of 150 users" in about.choice


def test_without_clusters_the_graph_is_chosen(tmp_path: Path) -> None:
    items, users = clustered(900), clustered(50, seed=9)[1:]

    about = build_index(items, tmp_path / "index", IndexConfig(max_exact_ms=0, k=20), users)

    assert about.kind == "hnsw"
