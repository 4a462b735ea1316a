"""Lists of users who have only begun: between the ranker and what everybody begins with."""

from __future__ import annotations

import numpy as np
import pytest

from feature_repo.contract.columns import Rows
from ranking.policy import Policy
from serving.anchors import with_anchors
from serving.answers import Item
from serving.asked import Asked
from serving.begun import BEGUN, DRAWN, FUSION, drawn
from serving.candidates import Found, find
from serving.catalogue import Filters
from serving.experiments.config import NO_RANKER
from serving.popular import PREFERENCE, Popular
from serving.recommender import Recommender
from serving.stages import Run

UNKNOWN = 999_999


def ids(items: list[Item]) -> list[int | str]:
    return [item.item_id for item in items]


@pytest.fixture
def popular(recommender: Recommender) -> Popular:
    return Popular.of(recommender.release.retriever, recommender.read_rows([UNKNOWN]))


def begun(recommender: Recommender, count: int) -> Found:
    """The candidates of a new user after some items."""
    now_s = int(recommender.release.about.now().timestamp())
    row = recommender.read_rows([UNKNOWN])
    row = with_anchors(row, list(range(500, 500 + count)), now_s, 56.0)
    return find(
        recommender.release.retriever, Rows.of(row), np.array([now_s]), [], Run(strict=True)
    )


def asked(policy: Policy, ranker: str = "default", preferred: tuple[str, ...] = ()) -> Asked:
    return Asked(10, ranker, policy, Filters(), np.zeros(0, np.int64), preferred=preferred)


def test_after_two_items_ranker_and_popularity_count_alike(
    recommender: Recommender, popular: Popular
) -> None:
    found, view = begun(recommender, 2), recommender.view
    rows = found.candidates.item_row
    scores = np.linspace(1, 0, len(rows), dtype=np.float32)

    got = drawn(found, scores, [asked(view.policy)], popular, view.catalogue)

    place = {row: place for place, row in enumerate(popular.rows.tolist(), 1)}
    assert DRAWN == 2.0
    assert got.tolist() == pytest.approx(
        [
            0.5 / (FUSION + own) + 0.5 / (FUSION + place.get(row, np.inf))
            for own, row in enumerate(rows.tolist(), 1)
        ]
    )


@pytest.mark.parametrize(("count", "ranker"), [(BEGUN, "default"), (2, NO_RANKER)])
def test_long_histories_and_lists_without_a_ranker_stay_as_they_are(
    recommender: Recommender, popular: Popular, count: int, ranker: str
) -> None:
    found, view = begun(recommender, count), recommender.view
    scores = np.linspace(1, 0, len(found.candidates.item_row), dtype=np.float32)

    got = drawn(found, scores, [asked(view.policy, ranker)], popular, view.catalogue)

    assert got is scores


def test_places_follow_preferences_and_unknown_items_have_none(
    recommender: Recommender, popular: Popular
) -> None:
    catalogue = recommender.view.catalogue

    plain = popular.places(popular.rows, (), catalogue)
    preferring = popular.places(popular.rows, ("C3",), catalogue)

    liked = catalogue.in_categories(popular.rows, ("C3",))
    worth = popular.scores * np.where(liked, PREFERENCE, 1.0)
    assert plain.tolist() == list(range(1, len(plain) + 1))
    assert popular.rows[np.argsort(preferring)].tolist() == (
        popular.rows[np.argsort(-worth, kind="stable")].tolist()
    )
    assert popular.places(np.array([10**6]), (), catalogue).tolist() == [np.inf]


def test_a_new_user_who_looks_at_items_keeps_preferences(recommender: Recommender) -> None:
    plain, preferring = (
        recommender.recommend(UNKNOWN, 20, anchor_items=[503], preferred_categories=names)
        for names in ((), ["C5"])
    )

    def liked(items: list[Item]) -> float:
        return sum(1 / item.position for item in items if item.category == "C5")

    assert ids(preferring.items) != ids(plain.items)
    assert liked(preferring.items) > liked(plain.items)


def test_where_popularity_fails_the_sources_order_the_items(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(Popular, "places", broken)
    answer = recommender.recommend(UNKNOWN, anchor_items=[500, 501])

    assert answer.degraded == ["ranking"]
    assert len(answer.items) == 10
