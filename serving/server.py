"""The parts of a running server, which its routes share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from serving.answers import Recommendation
from serving.feedback import FeedbackLog
from serving.live import Live
from serving.metrics import Metrics
from serving.query import Query
from serving.recommender import Recommender
from serving.settings import Settings
from serving.stages import Deadline, Run
from serving.threads import Threads, TooLate

WRITERS = 2
"""Threads that wait for the disk."""
GRACE = 0.1
"""Share of the deadline after which an answer is no longer waited for."""


@dataclass
class Server:
    """What answers, what is kept, and what is counted."""

    live: Live
    feedback: FeedbackLog
    settings: Settings = field(default_factory=Settings)
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        cores = max(1, (os.cpu_count() or 1) // self.settings.workers)
        self.answering = Threads(cores, self.settings.queue, self.metrics.set_waiting)
        self.writing = Threads(WRITERS, self.settings.queue)
        self.live.tell(self.metrics.set_release)

    def checked(self, query: Query) -> Query:
        """The query, whose ids and ranges are those of the release.

        Raises:
            BadField: one is out of range or of a wrong type, named.
            NotReady: no release is loaded.
        """
        query.require(self.live.get().release.about)
        return query

    async def answer(self, queries: Sequence[Query]) -> list[Recommendation]:
        """Answer checked requests together: by the deadline, with what there is by then.

        Raises:
            NotNow: too many requests wait, or no release is loaded.
        """
        recommender = self.live.get()
        return await self._by_deadline(recommender, queries, partial(recommender.answer, queries))

    async def rank(self, query: Query) -> Recommendation:
        """Rank the items that a checked request gives; see ``answer``."""
        recommender = self.live.get()

        def work(run: Run) -> list[Recommendation]:
            return [recommender.rank_all(query, run)]

        return (await self._by_deadline(recommender, [query], work))[0]

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
            run.name(run.stage)
            found = [recommender.popular(query, run.degraded) for query in queries]
        self.metrics.count_run(run)
        return found
