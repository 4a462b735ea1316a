"""The parts of a running server, which its routes share."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby

from serving.answers import Recommendation
from serving.batching import Batcher
from serving.cache import AnswerCache
from serving.experiments.running import Experiments
from serving.exploration.running import Exploration
from serving.feedback import FeedbackLog
from serving.feedback_tail import FeedbackTail
from serving.folding import caught_up
from serving.ids import Id
from serving.live import Live
from serving.metrics import Metrics
from serving.monitor.running import Monitoring
from serving.query import Query
from serving.recommender import Recommender
from serving.sessions import Sessions
from serving.settings import Settings
from serving.stages import Deadline, Run
from serving.threads import Threads, TooLate

WRITERS = 2
"""Threads that wait for the disk."""
TAIL_PAUSE_S = 0.05
"""Between two looks at the feedback that other workers took, for requests without a session."""
GRACE = 0.1
"""Share of the deadline after which an answer is no longer waited for."""


@dataclass
class Waiting:
    """A request that waits for a pass through the stages."""

    query: Query
    recommender: Recommender
    deadline: Deadline
    run: Run = field(default_factory=Run)
    """That pass, once it has begun."""


@dataclass
class Server:
    """What answers, what is kept, and what is counted."""

    live: Live
    feedback: FeedbackLog
    settings: Settings = field(default_factory=Settings)
    metrics: Metrics = field(default_factory=Metrics)
    experiments: Experiments = field(default_factory=Experiments)
    exploration: Exploration = field(default_factory=Exploration)
    monitoring: Monitoring | None = None
    """What is logged for the monitor, and its timer; None: nothing."""

    def __post_init__(self) -> None:
        # One: two would take turns at the interpreter's lock, 5 ms each. More cores: more workers.
        self.answering = Threads(1, self.settings.queue, self.metrics.set_waiting)
        self._batches = Batcher(self.answering, self._together)
        self.writing = Threads(WRITERS, self.settings.queue)
        self.sessions = Sessions(self.settings.recent_s)
        self.cache = AnswerCache(self.settings.cache_s)
        self.tail = FeedbackTail(self.feedback.path, [self.sessions.see, self.cache.hear])
        self.live.tell(self.metrics.set_release)

    def checked(self, query: Query) -> Query:
        """The query, whose ids and ranges are those of the release, with its user's variants.

        Raises:
            BadField: one is out of range or of a wrong type, named.
            NotReady: no release is loaded.
        """
        query.require(self.live.get().release.about)
        return self.experiments.assigned(query)

    def measured(self) -> bytes:
        """Everything counted, for Prometheus."""
        age_s = math.nan
        with suppress(OSError):  # nothing was ever folded
            age_s = max(time.time() - caught_up(self.feedback.path).stat().st_mtime, 0.0)
        self.metrics.set_folding_age(age_s)
        return self.metrics.text()

    def session_items(self, session_id: str | None, user_id: Id | None = None) -> Sequence[Id]:
        """What was looked at in a session, latest first, whichever worker heard of it.

        Without a session: what the user looked at of late.
        """
        if session_id is None:
            self.tail.catch_up(TAIL_PAUSE_S)
            return self.sessions.looked_at(user_id)
        self.tail.catch_up()
        return self.sessions.items(session_id)

    async def recommend(self, query: Query) -> Recommendation:
        """Answer one checked request; from the cache, where that is wanted and has it."""
        return self.experiments.shown(query, await self._recommended(query))

    async def _recommended(self, query: Query) -> Recommendation:
        if self.settings.cache_s <= 0:
            return await self._alone(query)
        started, recommender = time.monotonic(), self.live.get()
        key = recommender.release.about.version, recommender.index_version, repr(query)
        self.tail.catch_up()
        found = self.cache.get(query.user_id, key)
        if found is not None:
            self.metrics.count_cached()
            took_ms = round((time.monotonic() - started) * 1000.0, 3)
            fresh_id = uuid.uuid4().hex
            return replace(found, recommendation_id=fresh_id, cached=True, took_ms=took_ms)
        answer = await self._alone(query)
        self.tail.catch_up()
        if not answer.degraded:
            self.cache.put(query.user_id, key, answer, started)
        return answer

    async def _alone(self, query: Query) -> Recommendation:
        """Answer one checked request, together with others that wait; see ``answer``."""
        if query.explain:  # which takes long, and is done one request after the other
            return (await self._answered([query]))[0]
        total_s = self.settings.deadline_ms / 1000.0
        asked = Waiting(query, self.live.get(), Deadline.after(total_s))
        try:
            return await self._batches.run(asked, total_s * (1.0 + GRACE))
        except TooLate:
            lacking = [asked.run.stage, *asked.run.degraded]
            return self._late([query], asked.recommender, lacking, total_s)[0]

    def _together(self, batch: Sequence[Waiting]) -> list[Recommendation]:
        """Answer requests, in their order; each is told of the pass that it is part of."""
        run = Run(batch[0].deadline)
        for asked in batch:
            asked.run = run
        answers: list[Recommendation] = []
        for _, group in groupby(batch, key=lambda asked: id(asked.recommender)):
            alike = list(group)
            answers += alike[0].recommender.answer([asked.query for asked in alike], run)
        self.metrics.count_run(run, answers)
        return answers

    async def answer(self, queries: Sequence[Query]) -> list[Recommendation]:
        """Answer checked requests together: by the deadline, with what there is by then.

        Raises:
            NotNow: too many requests wait, or no release is loaded.
        """
        found = await self._answered(queries)
        return list(map(self.experiments.shown, queries, found))

    async def _answered(self, queries: Sequence[Query]) -> list[Recommendation]:
        recommender = self.live.get()
        return await self._by_deadline(recommender, queries, partial(recommender.answer, queries))

    async def rank(self, query: Query) -> Recommendation:
        """Rank the items that a checked request gives; see ``answer``."""
        recommender = self.live.get()

        def work(run: Run) -> list[Recommendation]:
            return [recommender.rank_all(query, run)]

        found = (await self._by_deadline(recommender, [query], work))[0]
        return self.experiments.shown(query, found)

    async def _by_deadline(
        self,
        recommender: Recommender,
        queries: Sequence[Query],
        work: Callable[[Run], list[Recommendation]],
    ) -> list[Recommendation]:
        total_s = self.settings.deadline_ms / 1000.0 * len(queries)
        run = Run(Deadline.after(total_s))
        try:
            found = await self.answering.run(partial(work, run), total_s * (1.0 + GRACE))
        except TooLate:
            return self._late(queries, recommender, [run.stage, *run.degraded], total_s)
        self.metrics.count_run(run, found)
        return found

    def _late(
        self,
        queries: Sequence[Query],
        recommender: Recommender,
        lacking: Sequence[str],
        waited_s: float,
    ) -> list[Recommendation]:
        """Popular items, in place of answers that were not there in time."""
        degraded = list(dict.fromkeys(lacking))
        took_ms = 1000.0 * waited_s * (1.0 + GRACE)
        found = [
            replace(recommender.popular(query, degraded), took_ms=took_ms) for query in queries
        ]
        self.metrics.count_run(Run(), found)
        return found
