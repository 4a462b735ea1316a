"""An explained list is the same list, with where its items come from and what raised them."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.contract.state import Histories
from ranking.explain import Explainer
from retrieval.sources import NeighbourSource, Transform, UserBatch
from serving.answers import Item
from serving.catalogue import Filters
from serving.explanation import origins
from serving.recommender import Recommender

USER, UNKNOWN = 1007, 999_999


def sources_of(recommender: Recommender, item: Item) -> dict[str, int]:
    """Source -> rank of an item, from the lists of the sources themselves."""
    retriever = recommender.release.retriever
    lists = retriever.lists(retriever.batch(recommender.read_rows([USER])))
    row = int(retriever.items.rows(pa.array([item.item_id]))[0])
    rows = {name: top.item_row[0].tolist() for name, top in lists.items()}
    return {name: own.index(row) + 1 for name, own in rows.items() if row in own}


def test_every_item_names_its_sources_and_its_rank_in_each(recommender: Recommender) -> None:
    items = recommender.recommend(USER, explain=True).items

    for item in items:
        assert item.sources == sources_of(recommender, item)
        assert item.sources is not None
        assert list(item.sources.values()) == sorted(item.sources.values())


def test_reasons_are_in_words_and_the_greatest_is_first(recommender: Recommender) -> None:
    items = recommender.recommend(USER, explain=True).items

    bought = dict(zip(*history(recommender), strict=True))
    for item in items:
        assert item.reasons
        effects = [reason.effect or 0.0 for reason in item.reasons]
        assert effects == sorted(effects, reverse=True)
        for reason in item.reasons:
            if reason.text.startswith("bought ") and "time" in reason.text:
                assert reason.text.startswith(f"bought {bought[int(item.item_id)]} time")


def history(recommender: Recommender) -> tuple[list[int], list[int]]:
    """What the user bought, and how often."""
    row = recommender.read_rows([USER]).to_pylist()[0]
    return row["history_item_id"], row["history_count"]


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_an_explained_list_is_the_same_list(recommender: Recommender, exclude_seen: bool) -> None:
    plain = recommender.recommend(USER, 12, exclude_seen, [500, 501])
    asked = recommender.recommend(USER, 12, exclude_seen, [500, 501], explain=True)

    assert [i.item_id for i in asked.items] == [i.item_id for i in plain.items]
    assert [i.score for i in asked.items] == [i.score for i in plain.items]
    assert all(i.sources for i in asked.items)
    assert all(i.sources is None and i.reasons is None for i in plain.items)


def test_items_that_fill_up_a_list_are_popular(recommender: Recommender) -> None:
    items = recommender.recommend(USER, n=100, explain=True).items

    filled = [item for item in items if item.score is None]
    for item in filled:
        assert item.reasons is not None
        assert [reason.text for reason in item.reasons] == ["popular now"]


def test_without_the_store_popular_items_are_explained(cut_off: Recommender) -> None:
    answer = cut_off.recommend(USER, explain=True)

    assert answer.degraded == ["features"]
    assert {reason.text for item in answer.items for reason in item.reasons or ()} == {
        "popular now"
    }


def test_an_empty_list_is_explained(recommender: Recommender) -> None:
    answer = recommender.recommend(USER, filters=Filters(brand=["none"]), explain=True)

    assert (answer.items, answer.degraded) == ([], [])


def test_a_list_that_cannot_be_explained_is_answered_with_its_sources(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Explainer, *_: object) -> None:
        raise RuntimeError("no words")

    monkeypatch.setattr(Explainer, "reasons", broken)
    with caplog.at_level(logging.ERROR):
        answer = recommender.recommend(USER, explain=True)

    assert answer.degraded == ["explain"]
    assert all(item.sources and item.reasons == [] for item in answer.items)
    assert "no words" in caplog.text


def test_a_neighbour_source_goes_back_to_the_item_that_adds_most() -> None:
    neighbours = np.array([[0, 0], [3, 4], [4, 3], [0, 0], [0, 0]], dtype=np.int32)
    weights = np.array([[0, 0], [0.5, 0.1], [0.3, 0.2], [0, 0], [0, 0]], dtype=np.float32)
    source = NeighbourSource("ease", neighbours, weights, Transform.BINARY, 56.0)
    whole = np.array([1, 2], dtype=np.int64)
    ones = np.ones(2, dtype=np.float32)
    histories = Histories(np.array([0, 2]), whole, ones, ones, whole, whole, ones, ones)

    found = origins(source, UserBatch(histories, np.array([10])), np.array([3, 4, 1]))

    # Of item 3, 0.5 > 0.2; of item 4, 0.1 < 0.3; nothing leads to item 1.
    assert found.tolist() == [1, 2, 0]
