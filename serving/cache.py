"""Answers that are given again for a short time, until something is heard of the user."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from feature_repo.contract.event_log import Line
from serving.answers import Recommendation
from serving.ids import Id

MAX_USERS = 20_000
"""Users that are kept, those who asked last."""
FOLDED_S = 1.0
"""Seconds within which feedback is in the user's stored state."""
MAX_ANSWERS = 8
"""Answers that are kept of a user."""


class AnswerCache:
    """Answers by user and request; used by one thread."""

    def __init__(self, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Keep nothing yet.

        Args:
            ttl_s: seconds for which an answer is given again; 0: none is.
            clock: monotonic seconds.
        """
        self.ttl_s, self._clock = ttl_s, clock
        self._answers: OrderedDict[Id, dict[Hashable, tuple[float, Recommendation]]] = OrderedDict()
        self._heard: OrderedDict[Id, float] = OrderedDict()

    def get(self, user_id: Id, key: Hashable) -> Recommendation | None:
        """The answer to the same request of a moment ago."""
        expires, answer = self._answers.get(user_id, {}).get(key, (0.0, None))
        return answer if self._clock() < expires else None

    def put(self, user_id: Id, key: Hashable, answer: Recommendation, asked_at: float) -> None:
        """Keep an answer, unless something was heard of the user since it was asked for, or so
        shortly before that it may not be in the user's stored state yet.

        Args:
            user_id: whose it is.
            key: what was asked, of which release and items.
            answer: is given again.
            asked_at: when the making of the answer began, by the clock.
        """
        if self._heard.get(user_id, float("-inf")) + FOLDED_S >= asked_at:
            return
        answers = self._answers.pop(user_id, {})
        if len(answers) >= MAX_ANSWERS:
            answers.pop(next(iter(answers)))
        self._answers[user_id] = {**answers, key: (asked_at + self.ttl_s, answer)}
        if len(self._answers) > MAX_USERS:
            self._answers.popitem(last=False)

    def hear(self, event: Line) -> None:
        """Forget the answers of the user of an event of the feedback log."""
        user_id = event["user_id"]
        self._answers.pop(user_id, None)
        self._heard.pop(user_id, None)
        self._heard[user_id] = self._clock()
        if len(self._heard) > MAX_USERS:
            self._heard.popitem(last=False)
