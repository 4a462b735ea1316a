"""Lists that explore, on the tiny shop."""

from __future__ import annotations

from collections import Counter

import pytest

from ranking.exploration.config import Algorithm
from ranking.policy_config import PolicyConfig
from serving.answers import Recommendation
from serving.exploration.running import Exploration
from serving.query import Query
from serving.recommender import Recommender
from serving.release import Release
from serving.stages import Run

USER = 1003
PLAIN = PolicyConfig()


def recommender_of(
    release: Release, other: Recommender, settings: list[str], seed: int = 0
) -> Recommender:
    found = Recommender(release, other._users._online, PLAIN.updated(settings))
    found.exploration = Exploration(seed=seed)
    return found


@pytest.fixture
def exploring(release: Release, recommender: Recommender) -> Recommender:
    """Return a recommender whose lists have two places for Thompson sampling."""
    setting = 'policy.exploration.default={"places": [2, 4], "arms": 12}'
    return recommender_of(release, recommender, [setting])


def answer_of(recommender: Recommender, query: Query) -> Recommendation:
    return recommender.answer([query], Run(strict=True))[0]


def ids(answer: Recommendation) -> list[int | str]:
    return [item.item_id for item in answer.items]


def test_places_that_are_not_explored_hold_the_best_items(
    exploring: Recommender, recommender: Recommender
) -> None:
    best = ids(recommender.recommend(USER, 6))

    for _ in range(5):
        found = answer_of(exploring, Query(USER, 6))
        assert [ids(found)[place] for place in (0, 2, 4, 5)] == best[:4]
        assert len(set(ids(found))) == 6


def test_explored_places_hold_items_of_the_head_in_turn(
    exploring: Recommender, recommender: Recommender
) -> None:
    head = ids(recommender.recommend(USER, 12))

    seen = Counter(ids(answer_of(exploring, Query(USER, 6)))[1] for _ in range(60))

    assert set(seen) <= set(head[4:])
    assert len(seen) > 2


def test_propensities_are_told_where_they_are_asked_for_and_kept_for_the_log(
    exploring: Recommender,
) -> None:
    plain, asked = (answer_of(exploring, Query(USER, 6, explain=own)) for own in (False, True))

    assert {item.propensity for item in plain.items} == {None}
    said = [item.propensity for item in asked.items]
    assert [said[place] for place in (0, 2, 4, 5)] == [1.0] * 4
    assert all(0 < (said[place] or 0) < 1 for place in (1, 3))
    assert plain.explored.item_ids == ids(plain)
    assert plain.explored.places == [2, 4]
    arms = plain.explored.arms
    assert [arms[own] for own in plain.explored.chosen] == [ids(plain)[1], ids(plain)[3]]


def test_a_list_without_exploration_is_as_it_was(
    release: Release, recommender: Recommender
) -> None:
    other = recommender_of(release, recommender, ["policy.exploration.discover=thompson"])

    found = answer_of(other, Query(USER, 6))

    assert found.items == recommender.recommend(USER, 6).items
    assert found.explored is None


def test_items_that_a_request_ranks_are_not_explored(exploring: Recommender) -> None:
    best = ids(answer_of(exploring, Query(USER, 12, explain=False)))

    answers = [exploring.rank(USER, best) for _ in range(3)]

    assert all(ids(answer) == ids(answers[0]) for answer in answers)
    assert answers[0].explored is None


def test_a_list_shorter_than_the_first_explored_place_is_as_it_was(
    exploring: Recommender, recommender: Recommender
) -> None:
    found = answer_of(exploring, Query(USER, 1))

    assert found.items == recommender.recommend(USER, 1).items
    assert found.explored is None


def test_an_unknown_user_gets_popular_items(exploring: Recommender) -> None:
    found = answer_of(exploring, Query(999_999, 6))

    assert len(found.items) == 6
    assert found.explored is None


def test_lists_explore_together_as_alone(exploring: Recommender) -> None:
    queries = [Query(1000 + user, 6) for user in range(8)] + [Query(999_999, 4)]

    answers = exploring.answer(queries, Run(strict=True))

    for answer in answers[:8]:
        assert answer.explored.item_ids == ids(answer)
    assert answers[8].explored is None


def test_exploration_that_fails_leaves_the_list_and_is_named(
    exploring: Recommender, recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise ValueError("broken")

    monkeypatch.setattr("serving.exploration.lists.worths", broken)

    found = exploring.answer([Query(USER, 6)])[0]

    assert found.items == recommender.recommend(USER, 6).items
    assert found.degraded == ["exploration"]


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_every_algorithm_makes_lists_with_caps(
    release: Release, recommender: Recommender, algorithm: Algorithm
) -> None:
    settings = [
        f'policy.exploration.default={{"algorithm": "{algorithm.value}", "places": []}}',
        "policy.max_per.brand=2",
    ]
    capped = recommender_of(release, recommender, settings)

    found = answer_of(capped, Query(USER, 6, explain=True))

    brands = Counter(item.brand for item in found.items if item.brand is not None)
    assert max(brands.values()) <= 2
    assert all(item.propensity and 0 < item.propensity <= 1 for item in found.items)
