"""Searching, filtering and changing an index, across restarts and processes."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.errors import BadInput
from retrieval.index import Allowed, IndexConfig, ItemIndex, Kind, build_index
from tests.retrieval.index.made import built, clustered, exact, overlap

ITEMS, USERS = clustered(20_000), clustered(100, seed=9)[1:]
KINDS = [Kind.flat, Kind.ivf_pq, Kind.hnsw]


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, ItemIndex]:
    folder = tmp_path_factory.mktemp("indexes")
    return {kind: built(folder / kind.value, ITEMS, kind) for kind in KINDS}


def test_an_exact_index_ranks_by_inner_product() -> None:
    items = clustered(300) * np.linspace(0.1, 5, 301, dtype=np.float32)[:, None]

    rows, scores = ItemIndex.exact(items).search(USERS[:5], 10)

    assert rows.tolist() == exact(items, USERS[:5], 10).tolist()
    assert scores == pytest.approx((USERS[:5, None] * items[rows]).sum(axis=2), rel=1e-5)


def test_the_unknown_item_is_never_found_and_missing_places_are_padded() -> None:
    items = np.array([[9, 9], [1, 0], [0, 1]], dtype=np.float32)

    rows, scores = ItemIndex.exact(items).search(np.array([[1, 0.5]]), 4)

    assert rows.tolist() == [[1, 2, 0, 0]]
    assert scores[0, :2].tolist() == [1, 0.5]
    assert np.isnan(scores[0, 2:]).all()


@pytest.mark.parametrize("share", [0.01, 0.1, 0.6])
@pytest.mark.parametrize("kind", KINDS)
def test_a_filter_keeps_recall(kind: Kind, share: float, indexes: dict[Kind, ItemIndex]) -> None:
    mask = np.random.default_rng(1).random(len(ITEMS)) < share
    rows = np.flatnonzero(mask)[np.flatnonzero(mask) > 0]

    found, _ = indexes[kind].search(USERS, 20, mask)

    assert np.isin(found, rows).all()
    assert overlap(found, exact(ITEMS, USERS, 20, rows)) > 0.88


@pytest.mark.parametrize("kind", KINDS)
def test_a_filter_of_what_lies_far_from_the_user_keeps_recall(
    kind: Kind, indexes: dict[Kind, ItemIndex]
) -> None:
    """A category is one corner of the space, which an unfiltered search would not look at."""
    direction = clustered(30, seed=3)[7]
    rows = np.sort(np.argsort(-(ITEMS[1:] @ direction))[:2_000]) + 1
    users = USERS[np.argsort(USERS @ direction)[:30]]

    found, _ = indexes[kind].search(users, 20, rows)

    assert np.isin(found, rows).all()
    assert overlap(found, exact(ITEMS, users, 20, rows)) > 0.88


@pytest.mark.parametrize("kind", KINDS)
def test_each_user_may_have_a_filter(kind: Kind, indexes: dict[Kind, ItemIndex]) -> None:
    few, half = np.array([40, 7, 7, 9_000]), np.arange(len(ITEMS)) % 2 == 0

    rows, scores = indexes[kind].search(USERS[:3], 5, [few, None, Allowed(half)])

    assert sorted(rows[0].tolist()) == [0, 0, 7, 40, 9_000]
    assert np.isnan(scores[0, 3:]).all()
    assert rows[1].tolist() == indexes[kind].search(USERS[1:2], 5)[0][0].tolist()
    assert (rows[2] % 2 == 0).all()


def test_an_empty_filter_finds_nothing(indexes: dict[Kind, ItemIndex]) -> None:
    rows, _ = indexes[Kind.ivf_pq].search(USERS[:2], 3, np.zeros(0, dtype=np.int64))

    assert rows.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_filters_and_users_that_do_not_fit_are_refused(indexes: dict[Kind, ItemIndex]) -> None:
    index = indexes[Kind.flat]

    with pytest.raises(BadInput, match="2 users need as many filters; got 1"):
        index.search(USERS[:2], 5, [None])
    with pytest.raises(BadInput, match="mask over rows or an array of rows"):
        index.search(USERS[:2], 5, np.zeros(3))
    with pytest.raises(BadInput, match=r"must be \[users, 16\]"):
        index.search(USERS[:2, :4], 5)


@pytest.mark.parametrize("kind", KINDS)
def test_removed_items_are_gone_and_new_ones_found_at_once(kind: Kind, tmp_path: Path) -> None:
    index = built(tmp_path / "index", clustered(2_000), kind)
    user = USERS[:1]
    best = index.search(user, 5)[0][0]

    index.remove([int(best[0]) * 10, int(best[2]) * 10])
    rows = index.add([77], user)
    found, scores = index.search(user, 4)

    assert found[0].tolist() == [2_001, best[1], best[3], best[4]]
    assert rows.tolist() == [2_001]
    assert scores[0, 0] == pytest.approx(1.0)
    assert index.ids_of(found[0]) == [77, best[1] * 10, best[3] * 10, best[4] * 10]
    assert len(index) == 2_000 - 2 + 1


def test_a_new_vector_of_an_item_replaces_the_old_one_and_keeps_its_row(tmp_path: Path) -> None:
    index = built(tmp_path / "index", clustered(2_000), Kind.ivf_pq)
    user = USERS[:1]
    best = int(index.search(user, 1)[0][0, 0])

    index.add([best * 10], -user)
    assert best not in index.search(user, 20)[0]
    index.add([best * 10], user)

    assert index.search(user, 1)[0][0, 0] == best
    assert len(index) == 2_000


def test_filters_hold_for_new_and_removed_items(tmp_path: Path) -> None:
    index = built(tmp_path / "index", clustered(2_000), Kind.ivf_pq)
    new = index.add([77, 78], np.repeat(USERS[:1], 2, axis=0))
    index.remove([50])

    rows, _ = index.search(USERS[:1], 4, np.array([4, 5, int(new[1])]))

    assert rows[0, 0] == new[1]
    assert sorted(rows[0].tolist()) == [0, 0, 4, new[1]]


@pytest.mark.parametrize("kind", KINDS)
def test_changes_outlive_a_restart(kind: Kind, tmp_path: Path) -> None:
    log = tmp_path / "changes.log"
    index = built(tmp_path / "index", clustered(2_000), kind, log)
    best = index.search(USERS[:1], 3)[0][0]
    index.add([5_001, 5_002], np.stack([USERS[0], USERS[1]]))
    index.remove([int(best[0]) * 10, 5_001])
    before = index.search(USERS[:5], 10)
    index.close()

    again = ItemIndex.load(tmp_path / "index", changes=log)

    assert again.search(USERS[:5], 10)[0].tolist() == before[0].tolist()
    assert again.rows_of([5_001, 5_002, 123_456]).tolist() == [2_001, 2_002, 0]
    assert again.ids_of(np.array([2_002, 3])) == [5_002, 30]


def test_another_process_sees_changes_at_its_next_search(tmp_path: Path) -> None:
    log = tmp_path / "changes.log"
    mine = built(tmp_path / "index", clustered(2_000), Kind.ivf_pq, log)
    theirs = ItemIndex.load(tmp_path / "index", changes=log)

    theirs.add([5_001], USERS[:1])
    mine.add([5_002], USERS[1:2])

    for index in (mine, theirs):
        assert index.search(USERS[:2], 1)[0].tolist() == [[2_001], [2_002]]
        assert index.ids_of(np.array([2_001, 2_002])) == [5_001, 5_002]


def test_threads_search_while_others_change(tmp_path: Path) -> None:
    log = tmp_path / "changes.log"
    index = built(tmp_path / "index", clustered(2_000), Kind.ivf_pq, log)
    wrong: list[str] = []
    done = threading.Event()

    def search() -> None:
        while not done.is_set():
            rows, scores = index.search(USERS[:4], 10)
            if len(np.unique(rows[0])) < 10 or (np.diff(scores, axis=1) > 0).any():
                wrong.append(str(rows[0]))

    def change(first: int) -> None:
        for item in range(first, first + 20):
            index.add([item], USERS[item % 50 : item % 50 + 1])
            index.remove([item])

    searching = [threading.Thread(target=search) for _ in range(2)]
    changing = [threading.Thread(target=change, args=(start,)) for start in (100_001, 200_001)]
    for thread in searching + changing:
        thread.start()
    for thread in changing:
        thread.join()
    done.set()
    for thread in searching:
        thread.join()

    assert wrong == []
    assert len(index) == 2_000


def test_ids_may_be_strings(tmp_path: Path) -> None:
    names = [f"item {row}" for row in range(1, 301)]
    build_index(clustered(300), tmp_path / "index", IndexConfig(), ids=names)
    index = ItemIndex.load(tmp_path / "index", changes=tmp_path / "log")

    index.add(["hat", "item 7"], USERS[:2])
    index.remove(["item 9"])

    again = ItemIndex.load(tmp_path / "index", changes=tmp_path / "log")
    assert again.ids_of(again.search(USERS[:2], 1)[0][:, 0]) == ["hat", "item 7"]
    assert again.rows_of(["hat", "item 9", "coat"]).tolist() == [301, 9, 0]
    assert 9 not in again.search(USERS[:1], 299)[0]


@pytest.mark.parametrize(
    ("ids", "vectors", "sentence"),
    [
        ([1, 1], USERS[:2], "Item 1 is given twice"),
        (["1"], USERS[:1], "ids are of type int; got '1'"),
        ([True], USERS[:1], "ids are of type int; got True"),
        ([1], USERS[:1] * np.nan, "vector of item 1 holds NaN"),
        ([1, 2], np.stack([USERS[0], USERS[0] * 0]), "vector of item 2 is zero"),
        ([1], USERS[:2], r"1 items need vectors of shape \(1, 16\); got \(2, 16\)"),
    ],
)
def test_items_that_cannot_be_added_are_named(
    ids: list[int], vectors: np.ndarray, sentence: str, tmp_path: Path
) -> None:
    index = built(tmp_path / "index", clustered(300), Kind.flat, tmp_path / "log")

    with pytest.raises(BadInput, match=sentence):
        index.add(ids, vectors)

    assert len(index) == 300


def test_an_item_that_never_was_there_cannot_be_removed(tmp_path: Path) -> None:
    index = built(tmp_path / "index", clustered(300), Kind.flat)

    with pytest.raises(BadInput, match=r"has no items \[11\]; nothing was removed"):
        index.remove([10, 11])

    assert len(index) == 300
    index.remove([10])
    index.remove([10])
    assert len(index) == 299


def test_an_index_without_ids_says_so() -> None:
    with pytest.raises(BadInput, match="load it with the item vocabulary"):
        ItemIndex.exact(clustered(10)).add([1], USERS[:1])
