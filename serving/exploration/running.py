"""The exploration of a running server: what is known of arms, refreshed behind the requests.

A request reads what is in the process, and puts what it showed into a buffer. One thread adds that
to the store a few times a second, learns rewards from the feedback log, and reads what others
added, at most once a second. Where the store is away lists explore by what was known last; what
they show waits, as far as there is room.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from feature_repo.contract.embedded import connect
from feature_repo.contract.errors import StoreUnavailable
from ranking.exploration.bandits import Model
from ranking.exploration.config import ExplorationConfig
from ranking.exploration.contexts import DIM
from ranking.exploration.sums import Sums, added
from ranking.policy_config import PolicyConfig
from serving.answers import Recommendation
from serving.exploration.explored import Explored
from serving.exploration.facts import ItemFacts
from serving.exploration.learning import Rewards
from serving.exploration.lists import Explorer
from serving.exploration.store import Answer, SumStore
from serving.metrics import Metrics
from serving.release import Release

log = logging.getLogger(__name__)

Doubles = npt.NDArray[np.float64]

EVERY_S = 0.25
"""Time between two batches of what was shown."""
REFRESH_S = 1.0
"""Time between two looks at what others added."""
AWAY_S = 1.0
"""Between two tries, while the store is away."""
MOST_WAITING = 10_000
"""Answers that wait to be added; more are lost, and counted."""
STORE_S = 2.0
"""Most time that the store may take for one answer."""


@dataclass
class _State:
    """One scenario's sums, as far as they are known here."""

    sums: Sums = field(default_factory=lambda: Sums(DIM))
    version: int = 0
    models: dict[str, Model] = field(default_factory=dict)
    """By what of the settings they depend on."""
    configs: dict[str, ExplorationConfig] = field(default_factory=dict)
    explorers: dict[tuple[int, str], Explorer] = field(default_factory=dict)
    """By settings and release: requests that have the same one are answered together."""

    def model(self, config: ExplorationConfig) -> Model:
        """By the sums of the last refresh."""
        key, models = f"{config.prior} {config.expected}", self.models
        if key not in models:
            self.configs[key] = config
            models[key] = Model.of(self.sums, config)
        return models[key]

    def take(self, version: int, changes: Mapping[str, Doubles]) -> None:
        """Take over what others added; requests go on with the old sums meanwhile."""
        sums = Sums(DIM) if version < self.version else self.sums.copy()
        sums.set(changes)
        models = {key: Model.of(sums, config) for key, config in list(self.configs.items())}
        self.sums, self.version = sums, version
        self.models = models
        self.explorers = {}


@dataclass
class _Batch:
    """What was shown by lists of one state, on its way to the store."""

    state: str
    answers: list[tuple[str, Explored]]
    name: str = field(default_factory=lambda: uuid.uuid4().hex)

    def increments(self) -> dict[str, Doubles]:
        """Of all that was shown."""
        return added(one.increments() for _, own in self.answers for one in own.shown())

    def remembered(self) -> list[Answer]:
        """The lists, as feedback finds them."""
        return [
            Answer(
                recommendation_id,
                self.state,
                DIM,
                own.config.rewards,
                own.config.reward_s,
                {str(one.item_id): one for one in own.shown()},
            )
            for recommendation_id, own in self.answers
        ]


class Exploration:
    """Gives requests their explorers, and hears what was shown."""

    def __init__(
        self,
        store: SumStore | None = None,
        rewards: Rewards | None = None,
        metrics: Metrics | None = None,
        seed: int | None = None,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        """Connect to nothing, and start no thread.

        Args:
            store: of the sums; None: nothing is learned.
            rewards: reads the feedback log; None: another process does.
            metrics: is told what became of it.
            seed: of choices; None: another one in each process.
            most_waiting: answers.
        """
        self._store, self._rewards, self._metrics = store, rewards, metrics
        self._random = np.random.default_rng(seed)
        self._states: dict[str, _State] = {}
        self._facts: dict[str, ItemFacts] = {}
        self._waiting: deque[tuple[str, Explored]] = deque()
        self._most = most_waiting
        self._unsent: deque[_Batch] = deque()
        self._known_at = time.monotonic()
        self._read_at = float("-inf")
        self._away = False
        self._ended = threading.Event()
        self._working = threading.Lock()
        self._thread: threading.Thread | None = None

    @staticmethod
    def of(project: str, feedback: Path, metrics: Metrics) -> Exploration:
        """Of a server, over the online store and its feedback log."""
        store = SumStore(partial(connect, timeout_s=STORE_S), project)
        count = metrics.count_exploration
        return Exploration(store, Rewards(feedback, store, count), metrics)

    def explorer(self, policy: PolicyConfig, scenario: str, release: Release) -> Explorer | None:
        """How a request's list explores; None: it does not."""
        config = policy.exploration.get(scenario)
        if config is None:
            return None
        name = config.state or scenario
        state = self._states.get(name)
        if state is None:
            state = self._states.setdefault(name, _State())
            self._start()
        explorers, key = state.explorers, (id(config), release.about.version)
        if key not in explorers:
            model, items = state.model(config), self._items(release)
            explorers[key] = Explorer(config, name, model, items, self._random)
        return explorers[key]

    def shown(self, answer: Recommendation) -> None:
        """An answer that was given; it is added to the sums soon."""
        if answer.explored is None or self._store is None:
            return
        if len(self._waiting) >= self._most:
            self._count(lost=1)
            return
        self._waiting.append((answer.recommendation_id, answer.explored))
        self._start()

    def work(self, *, refresh: bool = True) -> None:
        """Send what waits, learn rewards and read what others added, now.

        Raises:
            StoreUnavailable: the store does not answer; what was not sent waits.
        """
        if self._store is None:
            return
        with self._working:
            self._send(self._store)
            if self._rewards is not None:
                self._rewards.learn()
            if refresh:
                self._refresh(self._store)

    def close(self) -> None:
        """Send what waits, and work no more."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=10.0)
            if not self._thread.is_alive() and not self._away:
                self._try()
        if self._rewards is not None:
            self._rewards.close()

    def _items(self, release: Release) -> ItemFacts:
        """Of the release that answers, and of the one that is loaded beside it."""
        version = release.about.version
        if version not in self._facts:
            for old in list(self._facts)[:-1]:
                del self._facts[old]
            self._facts[version] = ItemFacts.of(release.items, release.retriever.items)
        return self._facts[version]

    def _start(self) -> None:
        if self._thread is None and self._store is not None:
            self._thread = threading.Thread(target=self._run, name="exploration", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        pause = 0.0
        while not self._ended.wait(pause):
            pause = EVERY_S if self._try() else AWAY_S

    def _try(self) -> bool:
        """Work, if the store is there; whether it is."""
        due = time.monotonic() - self._read_at >= REFRESH_S
        try:
            self.work(refresh=due)
        except StoreUnavailable as error:
            if not self._away:
                log.warning("%s Exploration goes on by what was known last.", error)
            self._away = True
        except Exception:
            log.exception("Exploration goes on after a failure.")
            self._away = True
        else:
            self._away = False
        if self._metrics is not None:
            self._metrics.set_exploration_age(time.monotonic() - self._known_at)
        return not self._away

    def _send(self, store: SumStore) -> None:
        by_state: dict[str, _Batch] = {}
        while self._waiting:
            recommendation_id, explored = self._waiting.popleft()
            batch = by_state.setdefault(explored.state, _Batch(explored.state, []))
            batch.answers.append((recommendation_id, explored))
        self._unsent.extend(by_state.values())
        self._drop()
        while self._unsent:
            batch = self._unsent[0]
            store.add(batch.state, DIM, batch.name, batch.increments(), batch.remembered())
            self._unsent.popleft()
            self._count(shown=len(batch.answers))

    def _drop(self) -> None:
        """Of what waits, lose the oldest where there is too much."""
        while sum(len(batch.answers) for batch in self._unsent) > self._most:
            self._count(lost=len(self._unsent.popleft().answers))

    def _refresh(self, store: SumStore) -> None:
        for name, state in list(self._states.items()):
            version, changes = store.changes(name, DIM, state.version)
            if version != state.version:
                state.take(version, changes)
        self._known_at = self._read_at = time.monotonic()

    def _count(self, **outcomes: int) -> None:
        if self._metrics is not None:
            self._metrics.count_exploration(**outcomes)
