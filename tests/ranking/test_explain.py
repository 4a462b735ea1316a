"""The reasons of an item are the features that raised it most, in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.errors import BadInput
from ranking.explain import Explainer, reasons
from ranking.features import numeric_features, numeric_matrix
from ranking.phrases import Facts
from ranking.reason import Reason
from ranking.scorer import Scorer
from tests.ranking import shop
from tests.ranking.explained import NOW_S, USER, VOCABULARY, request_of, scorer_in


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return scorer_in(tmp_path_factory.mktemp("ranker") / "bundle")


FACTS = Facts({"own_count": 6.0, "own_days_since": 5.0, "price": 2.0, "buyers_7d": 3.0})


def test_features_with_the_same_words_are_one_reason() -> None:
    found = reasons({"own_count": 0.2, "price": 0.4, "own_days_since": 0.3}, FACTS)

    assert found == [
        Reason("bought 6 times, last 5 days ago", "own_days_since", 0.2 + 0.3),
        Reason("priced at 2.00", "price", 0.4),
    ]


def test_what_pulled_an_item_down_or_hardly_moved_it_is_no_reason() -> None:
    found = reasons({"own_count": 1.0, "price": -2.0, "buyers_7d": 0.09}, FACTS)

    assert [reason.feature for reason in found] == ["own_count"]
    assert reasons({"price": -1.0}, FACTS) == []
    assert reasons({}, FACTS) == []


def test_there_are_at_most_three_reasons() -> None:
    effects = {"own_count": 0.4, "price": 0.3, "buyers_7d": 0.2, "colour": 0.1}

    found = reasons(effects, FACTS)

    assert [reason.feature for reason in found] == ["own_count", "price", "buyers_7d"]


@pytest.fixture
def found(scorer: Scorer) -> list[list[Reason]]:
    """The reasons of all candidates of a user."""
    rows = shop.user_rows().slice(USER, 1)
    candidates = shop.candidates(rows)
    every = np.arange(len(candidates.item_row))
    return Explainer(scorer).reasons(rows, candidates, VOCABULARY, NOW_S, every)


def test_every_reason_raised_its_candidate(scorer: Scorer, found: list[list[Reason]]) -> None:
    _, explained = request_of(scorer)
    total = explained.effects(np.arange(len(found))).total

    assert any(found)
    for place, own in enumerate(found):
        effects = [reason.effect or 0.0 for reason in own]
        assert effects == sorted(effects, reverse=True)
        assert all(total[reason.feature][place] > 0 for reason in own)


def test_what_all_candidates_share_is_no_reason(found: list[list[Reason]]) -> None:
    named = {reason.feature for own in found for reason in own}

    assert named
    assert not named & {"segment", "sessions_decayed", "last_event_s", "history_new_share"}


def test_words_are_read_from_the_candidates_own_values(scorer: Scorer) -> None:
    rows = shop.user_rows().slice(USER, 1)
    requests, _ = request_of(scorer)
    every = np.arange(len(requests.candidates.item_row))

    facts = Explainer(scorer).facts(requests, numeric_matrix(requests), every, [{}] * len(every))

    row = rows.to_pylist()[0]
    count = dict(zip(row["history_item_id"], row["history_count"], strict=True))
    items = shop.item_rows().to_pylist()
    for item_row, known in zip(requests.candidates.item_row.tolist(), facts, strict=True):
        item = items[item_row - 1]
        assert np.nan_to_num(known["own_count"]) == count.get(item["item_id"], 0)
        assert known.texts.get("brand") == item["brand"]


def test_the_favourite_category_is_the_one_of_the_largest_decayed_count(scorer: Scorer) -> None:
    requests, _ = request_of(scorer)
    every = np.arange(len(requests.candidates.item_row))

    facts = Explainer(scorer).facts(requests, numeric_matrix(requests), every, [{}] * len(every))

    names = [feature.name for feature in numeric_features(requests.candidates.sources)]
    share = numeric_matrix(requests)[:, names.index("category_share")]
    favourite = ["category" in known.favourites for known in facts]
    assert any(favourite)
    assert share[favourite].tolist() == [share.max()] * sum(favourite)


def test_a_user_without_a_history_has_reasons_too(scorer: Scorer) -> None:
    rows = shop.user_rows().slice(0, 1)
    candidates = shop.candidates(rows)

    found = Explainer(scorer).reasons(rows, candidates, VOCABULARY, NOW_S, np.arange(2))

    assert len(found) == 2


def test_items_that_the_catalogue_lacks_are_explained_as_unknown(tmp_path: Path) -> None:
    scorer = scorer_in(tmp_path / "bundle", num_items=3)
    rows = shop.user_rows().slice(USER, 1)
    candidates = shop.candidates(rows)
    every = np.arange(len(candidates.item_row))

    found = Explainer(scorer).reasons(rows, candidates, VOCABULARY, NOW_S, every)

    assert any(found)


def test_several_requests_at_once_are_refused(scorer: Scorer) -> None:
    rows = shop.user_rows()

    with pytest.raises(BadInput, match="One request is explained at a time; got 24"):
        Explainer(scorer).reasons(rows, shop.candidates(rows), VOCABULARY, NOW_S, np.arange(2))
