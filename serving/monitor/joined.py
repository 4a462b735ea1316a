"""What was shown, joined with the feedback that named it: places of lists as arrays.

Read line by line from the logs. Where there are more answers than may be held, whole users are
left out, chosen by the hash of their ids: what is left is as if there were fewer users.

A answers, P places of them, W windows (``serving.monitor.config.Windows``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.contract.events import EventType
from serving.experiments.assignment import unit
from serving.experiments.outcomes import Line, seconds
from serving.ids import Id
from serving.monitor.config import Windows

Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

HOUR_S = 3_600.0
TAKEN = (EventType.ADD_TO_CART, EventType.PURCHASE)
"""Events that say that an item was wanted."""


@dataclass
class _Answer:
    """One answer of the log."""

    user_id: Id
    window: int
    at: float
    version: str
    items: tuple[Id, ...]
    scores: tuple[float | None, ...]
    clicked: set[Id] = field(default_factory=set)
    taken: set[Id] = field(default_factory=set)


@dataclass(frozen=True)
class Shown:
    """The answers' places, and what came of them."""

    users: list[Id]
    items: list[Id]
    user_A: Ints
    window_A: Ints
    at_A: Doubles
    """Epoch seconds."""
    version_A: npt.NDArray[np.str_]
    answer_P: Ints
    item_P: Ints
    score_P: Doubles
    """NaN where an item has none."""
    first_P: Bools
    """Whether it is an answer's first place."""
    clicked_P: Bools
    taken_P: Bools
    """Whether it was put into a basket or bought."""
    share: float = 1.0
    """Of the users that were read."""

    @property
    def user_of_place(self) -> Ints:
        """Each place's user."""
        return self.user_A[self.answer_P]

    @property
    def window_of_place(self) -> Ints:
        """Each place's window."""
        return self.window_A[self.answer_P]

    def sums(self, windows: int, values_P: Doubles | Bools) -> Doubles:
        """[W, U] sums of something over the places of each user in each window."""
        number = len(self.users)
        place = self.window_of_place * number + self.user_of_place
        found = np.bincount(place, weights=values_P, minlength=windows * number)
        return np.asarray(found, np.float64).reshape(windows, number)


def join(
    windows: Windows,
    wait_hours: float,
    exposures: Iterable[Line],
    feedback: Iterable[Line],
    most_answers: int,
) -> Shown:
    """Read both logs.

    Args:
        windows: answers outside of all are left out.
        wait_hours: feedback that came in later after its answer does not count.
        exposures: lines of the log of exposures.
        feedback: lines of the feedback log.
        most_answers: that are held.
    """
    answers, share = _answers(windows, exposures, most_answers)
    for event in feedback:
        found = answers.get(str(event.get("recommendation_id")))
        if found is None or found.user_id != event["user_id"]:
            continue
        if 0 <= seconds(event["received_at"]) - found.at <= wait_hours * HOUR_S:
            if event["event_type"] == EventType.CLICK:
                found.clicked.add(event["item_id"])
            elif event["event_type"] in TAKEN:
                found.taken.add(event["item_id"])
    return _arrays(list(answers.values()), share)


def _answers(
    windows: Windows, lines: Iterable[Line], most: int
) -> tuple[dict[str, _Answer], float]:
    """Recommendation id -> answer; and the share of the users that were read.

    An answer of two experiments stands in two lines, and counts once; those that testers asked for
    do not count.
    """
    found: dict[str, _Answer] = {}
    share = 1.0
    for line in lines:
        name, user_id = line["recommendation_id"], line["user_id"]
        if line["override"] or name in found or unit("monitor", user_id) >= share:
            continue
        at = seconds(line["time"])
        window = windows.of(at)
        if window is None:
            continue
        found[name] = _answer(line, window, at)
        if len(found) > most:
            share /= 2
            found = {k: one for k, one in found.items() if unit("monitor", one.user_id) < share}
    return found, share


def _answer(line: Line, window: int, at: float) -> _Answer:
    items = tuple(line["item_ids"])
    scores = tuple(line.get("scores") or (None,) * len(items))
    return _Answer(line["user_id"], window, at, line["model_version"], items, scores)


def _arrays(answers: list[_Answer], share: float) -> Shown:
    users, user_A = _coded([one.user_id for one in answers])
    lengths = [len(one.items) for one in answers]
    items, item_P = _coded([item for one in answers for item in one.items])
    starts = np.cumsum([0, *lengths[:-1]]).astype(np.int64) if answers else np.zeros(0, np.int64)
    answer_P = np.repeat(np.arange(len(answers)), lengths)
    clicked = [item in one.clicked for one in answers for item in one.items]
    taken = [item in one.taken for one in answers for item in one.items]
    scores = [score for one in answers for score in one.scores]
    return Shown(
        users=users,
        items=items,
        user_A=user_A,
        window_A=np.array([one.window for one in answers], np.int64),
        at_A=np.array([one.at for one in answers], np.float64),
        version_A=np.array([one.version for one in answers], np.str_),
        answer_P=answer_P,
        item_P=item_P,
        score_P=np.array([np.nan if one is None else one for one in scores], np.float64),
        first_P=np.arange(len(answer_P)) == starts[answer_P],
        clicked_P=np.array(clicked, np.bool_),
        taken_P=np.array(taken, np.bool_),
        share=share,
    )


def _coded(values: list[Any]) -> tuple[list[Any], Ints]:
    """Distinct values in the order they came, and each one's place among them."""
    places: dict[Any, int] = {}
    codes = [places.setdefault(value, len(places)) for value in values]
    return list(places), np.array(codes, np.int64)
