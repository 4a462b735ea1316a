"""The sums of bandits in Redis: added to by many workers at once, and read by what changed.

One script adds to all sums of a batch at once, so that no increment is lost, and a batch that is
sent again because its reply was lost counts once. Sums lie in a hash, item -> doubles. Beside it a
sorted set names the version at which each changed last, so that a reader asks for those alone.
Each answer is remembered while feedback on it counts, with the highest reward of each item so far,
so that an event counts once whoever sends it and however often.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from redis.exceptions import RedisError

from feature_repo.contract.errors import StoreUnavailable
from ranking.exploration.sums import Id, Shown

Doubles = npt.NDArray[np.float64]
T = TypeVar("T")

BATCH_S = 3600
"""Seconds for which the id of a batch is known."""
AT_ONCE = 1000
"""Items whose sums are read at once."""

_ADD = """
local function add(sums, changes, version, name, more, times)
  local old, parts = redis.call('HGET', sums, name), {}
  for place = 1, #more / 8 do
    local value = times * struct.unpack('<d', more, 8 * place - 7)
    if old then value = value + struct.unpack('<d', old, 8 * place - 7) end
    parts[place] = struct.pack('<d', value)
  end
  redis.call('HSET', sums, name, table.concat(parts))
  redis.call('ZADD', changes, version, name)
end
"""
BATCH = (
    _ADD
    + """
if not redis.call('SET', KEYS[4], 1, 'NX', 'EX', ARGV[1]) then return 0 end
local version = redis.call('INCR', KEYS[3])
for place = 2, #ARGV, 2 do
  add(KEYS[1], KEYS[2], version, ARGV[place], ARGV[place + 1], 1)
end
return version
"""
)
"""KEYS: sums, changes, version, the batch's mark. ARGV: seconds, then names and increments."""
REWARD = (
    _ADD
    + """
if redis.call('HEXISTS', KEYS[4], 'about') == 0 then return -1 end
local more = tonumber(ARGV[2]) - tonumber(redis.call('HGET', KEYS[4], ARGV[1]) or '0')
if more <= 0 then return 0 end
redis.call('HSET', KEYS[4], ARGV[1], ARGV[2])
local version = redis.call('INCR', KEYS[3])
for place = 3, #ARGV, 2 do
  add(KEYS[1], KEYS[2], version, ARGV[place], ARGV[place + 1], more)
end
return 1
"""
)
"""KEYS: sums, changes, version, the answer. ARGV: item, reward, then names and increments of 1."""


@dataclass(frozen=True)
class Answer:
    """One list, as it is remembered until feedback on it counts no more."""

    recommendation_id: str
    state: str
    dim: int
    rewards: Mapping[str, float]
    seconds: float
    """For which it is remembered."""
    shown: Mapping[str, Shown]
    """By the item's id as a text."""

    def dumps(self) -> str:
        """As text."""
        items = {
            name: [one.weight, one.expected, *one.context_D.tolist()]
            for name, one in self.shown.items()
        }
        about = {"state": self.state, "rewards": dict(self.rewards), "items": items}
        return json.dumps({**about, "dim": self.dim, "seconds": self.seconds})

    @staticmethod
    def loads(recommendation_id: str, text: bytes) -> Answer:
        """What ``dumps`` wrote."""
        value = json.loads(text)
        shown = {
            name: Shown(name, np.array(numbers[2:]), numbers[1], numbers[0])
            for name, numbers in value["items"].items()
        }
        seconds = value["seconds"]
        return Answer(
            recommendation_id, value["state"], value["dim"], value["rewards"], seconds, shown
        )


class SumStore:
    """The sums of one shop's scenarios. All keys of a shop are in one slot of a Redis Cluster."""

    def __init__(self, client: Callable[[], Any], project: str) -> None:
        """Connect to nothing yet.

        Args:
            client: of the online store.
            project: the shop's name.
        """
        self._connect = client
        self._client: Any = None
        self._prefix = f"shoprec:{{{project}}}:explore"

    def add(
        self,
        state: str,
        dim: int,
        batch: str,
        increments: Mapping[str, Doubles],
        answers: Sequence[Answer],
    ) -> None:
        """Add what was shown, once however often it is called.

        Args:
            state: name of the sums.
            dim: numbers of a context.
            batch: its id.
            increments: of sums.
            answers: that are remembered.

        Raises:
            StoreUnavailable: it does not answer; it may have added, so call again with the same id.
        """

        def added() -> None:
            pipe = self._redis().pipeline(transaction=False)
            for answer in answers:
                key = self._answer(answer.recommendation_id)
                pipe.hset(key, "about", answer.dumps())
                pipe.expire(key, max(1, int(answer.seconds)))
            pipe.execute()
            keys = [*self._keys(state, dim), f"{self._prefix}:batch:{batch}"]
            self._redis().eval(BATCH, len(keys), *keys, BATCH_S, *_packed(increments))

        self._asked(added)

    def answers(self, recommendation_ids: Collection[str]) -> dict[str, Answer]:
        """What is remembered of lists, of those of which anything is.

        Raises:
            StoreUnavailable: it does not answer.
        """
        names = list(recommendation_ids)

        def read() -> list[bytes | None]:
            pipe = self._redis().pipeline(transaction=False)
            for name in names:
                pipe.hget(self._answer(name), "about")
            return list(pipe.execute())

        found = zip(names, self._asked(read), strict=True)
        return {name: Answer.loads(name, text) for name, text in found if text is not None}

    def reward(self, answer: Answer, item_id: Id, reward: float) -> bool:
        """Add a reward, unless the item had as high a one from the same list; whether it did.

        Raises:
            StoreUnavailable: it does not answer; call again.
        """
        shown = answer.shown[str(item_id)]
        keys = [*self._keys(answer.state, answer.dim), self._answer(answer.recommendation_id)]
        said = [f"i{item_id}", repr(float(reward)), *_packed(shown.rewards())]
        return bool(self._asked(lambda: self._redis().eval(REWARD, len(keys), *keys, *said)) == 1)

    def changes(self, state: str, dim: int, since: int) -> tuple[int, dict[str, Doubles]]:
        """The version now, and the sums that changed after another one.

        Raises:
            StoreUnavailable: it does not answer.
        """
        sums, changed, version = self._keys(state, dim)

        def read() -> tuple[int, dict[str, Doubles]]:
            redis = self._redis()
            now = int(redis.get(version) or 0)
            if now < since:  # the store was emptied
                return self._all(sums, changed, 0, now)
            return (now, {}) if now == since else self._all(sums, changed, since, now)

        return self._asked(read)

    def place(self, log: str) -> tuple[int, int] | None:
        """Segment and offset to which a feedback log was learned from; None: it never was."""
        found = self._asked(lambda: self._redis().hget(f"{self._prefix}:places", log))
        if found is None:
            return None
        segment, offset = json.loads(found)
        return segment, offset

    def set_place(self, log: str, segment: int, offset: int) -> None:
        """Remember that place."""
        said = json.dumps([segment, offset])
        self._asked(lambda: self._redis().hset(f"{self._prefix}:places", log, said))

    def _all(self, sums: str, changed: str, since: int, now: int) -> tuple[int, dict[str, Doubles]]:
        names = self._redis().zrangebyscore(changed, f"({since}", now)
        found: dict[str, Doubles] = {}
        for first in range(0, len(names), AT_ONCE):
            some = names[first : first + AT_ONCE]
            values = self._redis().hmget(sums, some)
            for name, value in zip(some, values, strict=True):
                if value is not None:
                    found[name.decode()] = np.frombuffer(value, "<f8")
        return now, found

    def _redis(self) -> Any:
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _asked(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except (RedisError, OSError) as error:
            self._client = None
            raise StoreUnavailable(f"The online store does not answer: {error}") from error

    def _keys(self, state: str, dim: int) -> list[str]:
        base = f"{self._prefix}:{state}:d{dim}"
        return [f"{base}:sums", f"{base}:changes", f"{base}:version"]

    def _answer(self, recommendation_id: str) -> str:
        return f"{self._prefix}:shown:{recommendation_id}"


def _packed(increments: Mapping[str, Doubles]) -> list[Any]:
    return [
        part
        for name, numbers in increments.items()
        for part in (name, numbers.astype("<f8").tobytes())
    ]
