from __future__ import annotations

import re

import pytest

from serving.golden import Scored, difference

WANT: Scored = [(5, 2.0), (3, 1.0), (8, 0.5), (9, 0.5)]


def test_the_same_list_differs_in_nothing() -> None:
    assert difference(WANT, list(WANT)) is None


def test_another_rounding_of_a_score_is_no_difference() -> None:
    assert difference(WANT, [(5, 2.0001), (3, 0.9999), (8, 0.5), (9, 0.5)]) is None


def test_equal_scores_may_change_places() -> None:
    assert difference(WANT, [(5, 2.0), (3, 1.0), (9, 0.5), (8, 0.5)]) is None


def test_an_item_that_ties_with_the_last_may_take_its_place() -> None:
    assert difference(WANT, [(5, 2.0), (3, 1.0), (8, 0.5), (7, 0.5)]) is None


@pytest.mark.parametrize(
    ("have", "problem"),
    [
        ([(5, 2.0)], "the list has 1 items; expected 4"),
        ([(5, 2.0), (3, 1.1), (8, 0.5), (9, 0.5)], r"place 2 scores 1\.1; expected 1\.0"),
        ([(3, 2.0), (5, 1.0), (8, 0.5), (9, 0.5)], "place 1 holds item 3; expected 5"),
        ([(5, 2.0), (7, 1.0), (8, 0.5), (9, 0.5)], "place 2 holds item 7; expected 3"),
    ],
)
def test_what_differs_is_a_clause(have: Scored, problem: str) -> None:
    found = difference(WANT, have)

    assert found is not None
    assert re.fullmatch(problem, found)


def test_two_empty_lists_are_equal() -> None:
    assert difference([], []) is None
