from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ArtifactError, BadInput
from tests.trainer.evaluation.shop import T1, T2, T3, Event, day, make_shop
from trainer.evaluation.config import Split
from trainer.evaluation.window import Judged, Task, Window, load_window

EVENTS: list[Event] = [
    ("ann", "milk", 10),
    ("ann", "bread", 70),
    ("bob", "tea", 20),
    ("ann", "milk", T1),  # the first moment of the window
    ("ann", "tea", 85),
    ("ann", "tea", 86),
    ("ann", "caviar", 90),  # was never sold before
    ("bob", "caviar", 91),
    ("cat", "milk", 95),  # a new user
    ("bob", "bread", T2),  # no longer in the window
]


def relevant(window: Window, judged: Judged) -> dict[str, set[str]]:
    """User id -> ids of the relevant items."""
    truth = judged.relevant
    return {
        user: set(window.items.ids_of(truth.item_row[truth.offsets[i] : truth.offsets[i + 1]]))
        for i, user in enumerate(window.users.ids_of(judged.users))
    }


@pytest.fixture
def window(tmp_path: Path) -> Window:
    return load_window(make_shop(tmp_path, EVENTS), Split.validation)


def test_relevant_are_the_distinct_known_items_bought_in_the_window(window: Window) -> None:
    assert relevant(window, window.judged(Task.ALL)) == {"ann": {"milk", "tea"}, "cat": {"milk"}}


def test_new_are_those_that_the_user_had_not_bought(window: Window) -> None:
    assert relevant(window, window.judged(Task.NEW)) == {"ann": {"tea"}, "cat": {"milk"}}


def test_the_known_items_are_those_with_an_event_before_the_cutoff(window: Window) -> None:
    assert window.items.ids.to_pylist() == ["bread", "milk", "tea"]
    assert window.catalogue.ids.to_pylist() == ["bread", "caviar", "milk", "tea"]


def test_an_event_at_the_cutoff_belongs_to_the_window(window: Window) -> None:
    assert (window.train.time_s < window.cutoff_s).all()
    assert window.bought.time_s.min() == window.cutoff_s == int(day(T1).timestamp())
    assert window.bought.time_s.max() < int(day(T2).timestamp())


def test_the_test_split_is_one_window_later(tmp_path: Path) -> None:
    window = load_window(make_shop(tmp_path, EVENTS), Split.test)

    assert (window.cutoff, window.until) == (day(T2), day(T3))
    assert relevant(window, window.judged(Task.ALL)) == {"bob": {"bread"}}


def test_only_purchases_count_but_a_viewed_item_is_known(tmp_path: Path) -> None:
    views: list[Event] = [("bob", "caviar", 50), ("bob", "milk", 85)]
    window = load_window(make_shop(tmp_path, EVENTS, views=views), Split.validation)

    truth = relevant(window, window.judged(Task.ALL))

    assert truth["ann"] == {"milk", "tea", "caviar"}
    assert truth["bob"] == {"caviar"}
    assert relevant(window, window.judged(Task.NEW))["bob"] == {"caviar"}  # viewed, not bought


def test_seen_is_one_for_each_pair_bought_before(window: Window) -> None:
    ids = [("ann", "bread"), ("ann", "milk"), ("bob", "tea")]
    expected = np.zeros(window.seen.shape)
    for user, item in ids:
        expected[window.users.rows([user])[0], window.items.rows([item])[0]] = 1

    np.testing.assert_array_equal(window.seen.toarray(), expected)


def test_a_sample_of_users_is_the_same_for_both_tasks(tmp_path: Path) -> None:
    events: list[Event] = [("ann", "milk", 1), ("ann", "tea", 1)]
    events += [(f"user{n:02}", item, T1 + 1) for n in range(50) for item in ("milk", "tea")]
    window = load_window(make_shop(tmp_path, events), Split.validation)

    everything, new = (window.judged(task, max_users=9, seed=3) for task in Task)

    assert len(everything.users) == 9
    assert (np.diff(everything.users) > 0).all()
    np.testing.assert_array_equal(everything.users, new.users)
    assert (everything.relevant.counts == 2).all()


def test_attributes_without_a_value_are_left_out(tmp_path: Path) -> None:
    shop = make_shop(tmp_path, EVENTS, categories={"milk": "dairy", "tea": "drinks"})

    codes = load_window(shop, Split.validation).attributes

    assert codes.shape == (4, 1)
    assert codes[0] == codes[1] == 0  # unknown, and bread without a category
    assert 0 < codes[2] != codes[3] > 0


def test_a_shop_without_attributes_has_none(window: Window) -> None:
    assert window.attributes.shape == (4, 0)


def test_integer_ids_work_alike(tmp_path: Path) -> None:
    shop = make_shop(tmp_path, [(7, 30, 1), (7, 40, 2), (7, 40, T1 + 1)])
    window = load_window(shop, Split.validation)

    judged = window.judged(Task.ALL)

    assert window.users.ids_of(judged.users) == [7]
    assert window.items.ids_of(judged.relevant.item_row) == [40]


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([("ann", "milk", 85)], "Nothing was bought before the validation window"),
        ([("ann", "milk", 1), ("ann", "tea", 85)], "Nothing that was known before was bought"),
    ],
)
def test_an_empty_window_is_refused(tmp_path: Path, events: list[Event], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        load_window(make_shop(tmp_path, events), Split.validation)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    shop: Dataset = make_shop(tmp_path, EVENTS)
    (shop.canonical / "events.parquet").unlink()

    with pytest.raises(ArtifactError, match=r"events\.parquet"):
        load_window(shop, Split.validation)
