"""Lists from scored candidates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.contract.candidates import Candidates
from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import BadInput
from feature_repo.contract.vocabulary import Vocabulary
from ranking.policy import Floats, Lists, Policy, main_source, rank_lists, seen_rows, users_of
from ranking.policy_config import ExposureConfig, PolicyConfig, PromotionConfig
from ranking.policy_items import PolicyItems

NAN = np.nan
SCORES = np.array([0.5, 2.0, 1.0, 3.0, -1.0], dtype=np.float32)


@pytest.fixture
def candidates() -> Candidates:
    """Return three users: rows 2, 4, 7 of the first, none of the second, 1, 4 of the third."""
    rank = np.array([[1, NAN], [NAN, 1], [2, 3], [4, 4], [NAN, 2]], dtype=np.float32)
    return Candidates(
        ("buy_again", "popular"),
        np.array([0, 3, 3, 5]),
        np.array([2, 4, 7, 1, 4]),
        np.where(np.isnan(rank), NAN, -rank).astype(np.float32),
        rank,
    )


def test_each_candidate_has_its_user(candidates: Candidates) -> None:
    assert users_of(candidates).tolist() == [0, 0, 0, 2, 2]


def test_the_main_source_places_the_item_best_and_the_first_wins_ties(
    candidates: Candidates,
) -> None:
    assert main_source(candidates).tolist() == [0, 1, 0, 0, 1]


def test_lists_hold_the_best_first_with_their_sources(candidates: Candidates) -> None:
    lists = rank_lists(candidates, SCORES, 2)

    assert lists.item_row.tolist() == [[4, 7], [0, 0], [1, 4]]
    assert lists.score[0].tolist() == [2.0, 1.0]
    assert np.isnan(lists.score[1]).all()
    assert lists.source.tolist() == [[1, 0], [-1, -1], [0, 1]]
    rows, scores, names = lists.of(0)
    assert (rows.tolist(), scores.tolist(), names) == ([4, 7], [2.0, 1.0], ["popular", "buy_again"])


def test_a_short_list_is_padded(candidates: Candidates) -> None:
    lists = rank_lists(candidates, SCORES, 4)

    assert lists.item_row.tolist() == [[4, 7, 2, 0], [0, 0, 0, 0], [1, 4, 0, 0]]
    assert lists.of(1)[2] == []


def test_equal_scores_are_ordered_by_item_row(candidates: Candidates) -> None:
    lists = rank_lists(candidates, np.zeros(5, np.float32), 3)

    assert lists.item_row.tolist() == [[2, 4, 7], [0, 0, 0], [1, 4, 0]]


def test_excluded_items_are_left_out_of_their_own_users_list(candidates: Candidates) -> None:
    nothing = np.zeros(0, np.int64)

    lists = rank_lists(candidates, SCORES, 3, excluded=[np.array([4, 9]), nothing, nothing])

    assert lists.item_row.tolist() == [[7, 2, 0], [0, 0, 0], [1, 4, 0]]


def test_every_filter_must_let_an_item_pass(candidates: Candidates) -> None:
    lists = rank_lists(
        candidates,
        SCORES,
        3,
        filters=[lambda found: found.item_row != 4, lambda found: found.item_row > 1],
    )

    assert lists.item_row.tolist() == [[7, 2, 0], [0, 0, 0], [0, 0, 0]]


def test_scores_that_are_no_numbers_are_refused(candidates: Candidates) -> None:
    scores = SCORES.copy()
    scores[3] = NAN

    with pytest.raises(BadInput, match="candidate 3 is nan"):
        rank_lists(candidates, scores, 3)


def test_too_few_scores_are_refused(candidates: Candidates) -> None:
    with pytest.raises(BadInput, match="each of 5 candidates"):
        rank_lists(candidates, SCORES[:4], 3)


def test_exclusions_of_other_users_are_refused(candidates: Candidates) -> None:
    with pytest.raises(BadInput, match="of 1 users; expected 3"):
        rank_lists(candidates, SCORES, 3, excluded=[np.array([1])])


def test_a_list_without_places_is_refused(candidates: Candidates) -> None:
    with pytest.raises(BadInput, match="k=0"):
        rank_lists(candidates, SCORES, 0)


def test_seen_items_are_read_from_their_own_list_where_there_is_one() -> None:
    items = Vocabulary.build(pa.array([10, 20, 30]), IdType.INT64)
    rows = pa.table(
        {
            "history_item_id": pa.array([[10], None], pa.list_(pa.int64())),
            "seen_item_id": pa.array([[10, 30, 99], [20]], pa.list_(pa.int64())),
        }
    )

    assert [row.tolist() for row in seen_rows(rows, items)] == [[1, 3], [2]]
    history = rows.select(["history_item_id"])
    assert [row.tolist() for row in seen_rows(history, items)] == [[1], []]


NUM_ROWS = 30
MANY = Vocabulary.build(pa.array(np.arange(NUM_ROWS)), IdType.INT64)


def policy_of(**settings: Any) -> Policy:
    """Return a policy over items 0..29 of ten categories and four brands, some unknown."""
    rows = np.arange(NUM_ROWS)
    items = pa.table(
        {
            "item_id": rows,
            "event_timestamp": pa.array([0] * NUM_ROWS, pa.timestamp("us", tz="UTC")),
            "category": [None if row % 9 == 0 else f"c{row % 10}" for row in rows],
            "brand": [f"b{row % 4}" for row in rows],
            "small": rows % 5 == 0,
            "buyers_total": rows + 1,
        }
    )
    config = PolicyConfig(**settings)
    return Policy(config, PolicyItems.of(config, items, MANY, 100))


def shop_of(seed: int) -> tuple[Candidates, Floats]:
    """Return candidates of four users, one without any, and scores on scales of their own."""
    random = np.random.default_rng(seed)
    sizes = [0, *random.integers(1, 20, 3)]
    offsets = np.cumsum([0, *sizes])
    rows = [np.sort(random.choice(np.arange(1, NUM_ROWS + 1), n, replace=False)) for n in sizes]
    rank = np.ones((offsets[-1], 1), dtype=np.float32)
    scores = random.normal(size=offsets[-1]) + np.repeat([0, 50, -9, 3], sizes)
    return (
        Candidates(("popular",), offsets, np.concatenate(rows).astype(np.int64), -rank, rank),
        scores.astype(np.float32),
    )


def same(first: Lists, second: Lists) -> bool:
    return all(
        np.array_equal(getattr(first, name), getattr(second, name), equal_nan=name == "score")
        for name in ("item_row", "score", "source")
    )


seeds = st.integers(0, 10_000)
SOME = settings(max_examples=40, deadline=None)
RULES: dict[str, Any] = {
    "diversity": 0.3,
    "novelty": 0.2,
    "serendipity": 0.3,
    "max_per": {"category": 2},
    "promotions": [PromotionConfig(item_ids=[3, 4], boost=0.7, most=1)],
    "exposure": [ExposureConfig(column="small", share=0.2)],
}


@SOME
@given(seeds)
def test_a_policy_of_strength_zero_is_the_plain_order(seed: int) -> None:
    candidates, scores = shop_of(seed)
    plain = rank_lists(candidates, scores, 6)

    assert same(plain, rank_lists(candidates, scores, 6, policy=policy_of()))
    never = policy_of(max_per={"category": 6, "brand": 6})
    assert same(plain, rank_lists(candidates, scores, 6, policy=never))


@SOME
@given(seeds)
def test_a_policy_answers_a_user_alone_as_in_a_batch(seed: int) -> None:
    candidates, scores = shop_of(seed)
    history = [np.array([1, 2]), np.array([5]), np.zeros(0, np.int64), np.array([30])]
    policy = policy_of(**RULES)
    together = rank_lists(candidates, scores, 6, policy=policy, history=history)

    for user in range(len(candidates)):
        mine = candidates.slice_of(user)
        offsets = np.array([0, mine.stop - mine.start])
        own = Candidates(
            candidates.sources,
            offsets,
            candidates.item_row[mine],
            candidates.score[mine],
            candidates.rank[mine],
        )
        alone = rank_lists(own, scores[mine], 6, policy=policy, history=[history[user]])
        assert alone.item_row[0].tolist() == together.item_row[user].tolist()


@SOME
@given(seeds, st.floats(-1000, 1000))
def test_a_strength_means_the_same_wherever_the_scores_lie(seed: int, shift: float) -> None:
    candidates, scores = shop_of(seed)
    exact = (np.round(scores * 64) / 64).astype(np.float32)  # so that no shift rounds them
    policy = policy_of(diversity=0.4)

    here = rank_lists(candidates, exact, 5, policy=policy)
    there = rank_lists(candidates, exact + np.float32(round(shift)), 5, policy=policy)

    assert here.item_row.tolist() == there.item_row.tolist()


def test_the_scores_of_a_list_stay_the_rankers(candidates: Candidates) -> None:
    policy = policy_of(promotions=[PromotionConfig(item_ids=[1], boost=5.0)])

    lists = rank_lists(candidates, SCORES, 2, policy=policy)

    assert lists.item_row.tolist() == [[2, 4], [0, 0], [1, 4]]
    assert lists.score[0].tolist() == [0.5, 2.0]
    assert lists.source[0].tolist() == [0, 1]


def test_promoted_items_have_their_places_and_no_more() -> None:
    candidates, scores = shop_of(1)
    promoted = PromotionConfig(column="small", boost=100.0, slots=1, most=2)

    lists = rank_lists(candidates, scores, 6, policy=policy_of(promotions=[promoted]))

    small = ((lists.item_row - 1) % 5 == 0) & (lists.item_row > 0)
    of_candidates = np.bincount(
        users_of(candidates), weights=(candidates.item_row - 1) % 5 == 0, minlength=4
    )
    assert small.sum(axis=1).tolist() == np.minimum(of_candidates, 2).tolist()
    assert max(of_candidates) > 2


def test_novelty_of_one_shows_the_least_bought_items() -> None:
    candidates, scores = shop_of(2)

    lists = rank_lists(candidates, scores, 3, policy=policy_of(novelty=1.0))

    for user in (1, 2, 3):
        mine = candidates.item_row[candidates.slice_of(user)]
        # buyers rise with the rows
        assert set(lists.item_row[user]) - {0} == set(mine[:3])


def test_serendipity_of_one_prefers_what_is_unlike_the_history() -> None:
    candidates, scores = shop_of(3)
    history = [np.array([row]) for row in (2, 2, 2, 2)]  # category c1, brand b1
    policy = policy_of(serendipity=1.0, attributes=["brand"])

    lists = rank_lists(candidates, scores, 30, policy=policy, history=history)

    for user in range(4):
        known = [(row - 1) % 4 == 1 for row in lists.item_row[user] if row]
        assert known == sorted(known)


def test_serendipity_without_a_history_is_refused(candidates: Candidates) -> None:
    with pytest.raises(BadInput, match="needs what the users bought"):
        rank_lists(candidates, SCORES, 2, policy=policy_of(serendipity=0.5))


def test_excluded_and_filtered_items_stay_away_from_a_policys_list(candidates: Candidates) -> None:
    nothing = np.zeros(0, np.int64)

    lists = rank_lists(
        candidates,
        SCORES,
        3,
        excluded=[np.array([4]), nothing, nothing],
        filters=[lambda found: found.item_row != 1],
        policy=policy_of(exposure=[ExposureConfig(item_ids=[0, 3], share=1.0)]),
    )

    assert lists.item_row.tolist() == [[7, 2, 0], [0, 0, 0], [4, 0, 0]]


def test_fillers_keep_to_the_caps_beside_what_is_shown() -> None:
    policy = policy_of(max_per={"brand": 1})
    # brands of rows: 1 b0, 2 b1, 5 b0, 6 b1, 3 b2, 7 b2, 4 b3
    shown, more = np.array([1]), np.array([5, 2, 6, 3, 7, 4])

    assert more[policy.fillers(shown, more, 2)].tolist() == [2, 3]
    assert more[policy.fillers(shown, more, 9)].tolist() == [2, 3, 4]
    assert policy_of().fillers(shown, more, 2).tolist() == [0, 1]


def test_a_list_of_fillers_alone_follows_the_whole_policy_but_its_boosts() -> None:
    rules: dict[str, Any] = {
        "max_per": {"brand": 2},
        "exposure": [ExposureConfig(item_ids=[9, 10], share=0.5)],
        "promotions": [PromotionConfig(item_ids=[20], boost=99.0)],
    }
    more, nothing = np.arange(1, 21), np.zeros(0, np.int64)
    # brands of rows 1, 2, 3, 4, 5: b0, b1, b2, b3, b0; items 9 and 10 are rows 10 and 11

    found = more[policy_of(**rules).fillers(nothing, more, 4)]

    assert found.tolist() == [1, 2, 10, 11]
    assert policy_of(**rules).fillers(nothing, nothing, 4).tolist() == []


def test_a_request_may_have_a_diversity_of_its_own() -> None:
    policy = policy_of(diversity=0.2)

    assert policy.with_diversity(None) is policy
    assert policy.with_diversity(0.0).config.diversity == 0.0
    assert policy.with_diversity(0.9).items is policy.items
    with pytest.raises(BadInput, match="from 0 to 1"):
        policy.with_diversity(1.1)
