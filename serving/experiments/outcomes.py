"""What came of an experiment, user by user: its exposures joined with the feedback that followed.

Read line by line from the logs; kept are sums per user and what the answers held that were clicked.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pydantic_core import from_json

from feature_repo.contract.errors import BadInput
from feature_repo.contract.events import EventType
from serving.experiments.config import Experiment
from serving.ids import Id

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Line = dict[str, Any]

DAY_S, HOUR_S = 86_400.0, 3_600.0
COLUMNS = (
    "answers",
    "shown",
    "took_ms",
    "degraded",
    "clicks",
    "converted",
    "carted",
    "orders",
    "revenue",
    "eligible",
    "returned",
    "spend",
    "before",
)
"""Sums per user: answers and items that they held, their time, and how many did without a stage;
distinct items clicked of those shown; whether the user bought or put anything into a basket since
the first exposure; orders and revenue since then; whether the user could have come back yet, and
did; spend ever, as far as it is known; spend in the time before the experiment."""


@dataclass(frozen=True)
class Window:
    """Which time is looked at."""

    start: datetime
    until: datetime
    before_days: float = 56.0
    """Of spend before the start, which CUPED reads."""
    return_days: float = 7.0
    """A user came back who is seen in as many days, after as many days, since the first answer."""
    by: str = "event_timestamp"
    """Time of an event; or ``received_at``."""


@dataclass
class Outcomes:
    """The users of an experiment, and what they did."""

    users: list[Id]
    variant_U: Ints
    """Index into the experiment's variants."""
    columns: dict[str, Doubles]
    """[U] each of ``COLUMNS``."""
    took_ms: list[Doubles]
    """Per variant, the times of its answers."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the numbers should know."""


@dataclass
class _Exposed:
    """The answers of one revision of an experiment."""

    place: dict[Id, int] = field(default_factory=dict)
    """User -> place in what follows."""
    variant: list[str] = field(default_factory=list)
    first_s: array[float] = field(default_factory=lambda: array("d"))
    sums: dict[str, array[float]] = field(
        default_factory=lambda: {name: array("d") for name in COLUMNS}
    )
    times_s: list[array[float]] = field(default_factory=list)
    """When a user was seen, to the hour."""
    answers: dict[str, tuple[int, tuple[Id, ...]]] = field(default_factory=dict)
    """Recommendation id -> user's place and items, of answers that were clicked."""
    took: dict[str, array[float]] = field(default_factory=dict)
    crossed: set[int] = field(default_factory=set)
    """Users who saw two variants."""
    last_s: float = 0.0

    def place_of(self, user_id: Id, variant: str, at: float) -> int:
        """Place of a user who is exposed at a time."""
        place = self.place.setdefault(user_id, len(self.variant))
        if place == len(self.variant):
            self.variant.append(variant)
            self.first_s.append(at)
            self.times_s.append(array("d"))
            for sums in self.sums.values():
                sums.append(0.0)
        if self.variant[place] != variant:
            self.crossed.add(place)
        self.first_s[place] = min(at, self.first_s[place])
        self.last_s = max(at, self.last_s)
        return place

    def see(self, place: int, at: float) -> None:
        """A user was there at a time."""
        seen = self.times_s[place]
        if not seen or abs(at - seen[-1]) >= HOUR_S:
            seen.append(at)

    def add(self, place: int, **numbers: float) -> None:
        """Add to the sums of a user."""
        for name, number in numbers.items():
            self.sums[name][place] += number


class Lines:
    """The objects of files of JSON lines, read anew whenever they are gone through.

    What is no object, such as half a line, is passed over.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __iter__(self) -> Iterator[Line]:
        for path in self._paths:
            with path.open("rb") as file:
                for line in file:
                    value = _read(line)
                    if isinstance(value, dict):
                        yield value


def _read(line: bytes) -> Any:
    try:
        return from_json(line)
    except ValueError:
        return None


def seconds(text: str) -> float:
    """Epoch seconds of an ISO time with a zone."""
    return datetime.fromisoformat(text).timestamp()


def gather(
    experiment: Experiment,
    window: Window,
    exposures: Iterable[Line],
    feedback: Iterable[Line],
    events: Path | None = None,
) -> Outcomes:
    """Join exposures with what came after them.

    Args:
        experiment: whose variants are compared.
        window: the time that is looked at.
        exposures: lines of the log of exposures, of any experiment.
        feedback: lines of the feedback log, which are gone through twice.
        events: file or folder of canonical events, of the time before; None: the feedback log is
            all that is known of it.

    Raises:
        BadInput: nobody was exposed in the window.
    """
    clicked = {
        event["recommendation_id"]
        for event in feedback
        if event.get("event_type") == EventType.CLICK and event.get("recommendation_id")
    }
    revisions = _exposed(experiment, window, exposures, clicked)
    if not revisions:
        raise BadInput(
            f"No answer of {experiment.name} was logged from {window.start.isoformat()} to "
            f"{window.until.isoformat()}."
        )
    revision, exposed = max(revisions.items(), key=lambda item: item[1].last_s)
    notes = _notes(experiment, revision, revisions)
    rows = _Rows(exposed, window)
    rows.take(feedback, history=events is None)
    if events is not None:
        rows.take_history(events)
    return rows.outcomes(experiment, [*notes, *rows.notes()])


def _exposed(
    experiment: Experiment, window: Window, lines: Iterable[Line], clicked: Set[str]
) -> dict[str, _Exposed]:
    """Revision -> its answers; overridden ones are left out."""
    revisions: dict[str, _Exposed] = {}
    begin, end = window.start.timestamp(), window.until.timestamp()
    for line in lines:
        if line.get("experiment") != experiment.name or line["override"]:
            continue
        at = seconds(line["time"])
        if begin <= at < end and line["variant"] in experiment.variants:
            _add(revisions.setdefault(line["revision"], _Exposed()), line, at, clicked)
    return revisions


def _add(exposed: _Exposed, line: Line, at: float, clicked: Set[str]) -> None:
    variant, took_ms, item_ids = line["variant"], line["took_ms"], line["item_ids"]
    place = exposed.place_of(line["user_id"], variant, at)
    exposed.see(place, at)
    degraded = float(bool(line["degraded"]))
    exposed.add(place, answers=1.0, shown=len(item_ids), took_ms=took_ms, degraded=degraded)
    exposed.took.setdefault(variant, array("d")).append(took_ms)
    if line["recommendation_id"] in clicked:
        exposed.answers[line["recommendation_id"]] = (place, tuple(item_ids))


def _notes(experiment: Experiment, revision: str, revisions: Mapping[str, _Exposed]) -> list[str]:
    notes = []
    if len(revisions) > 1:
        others = sum(len(one.variant) for name, one in revisions.items() if name != revision)
        notes.append(
            f"The file changed while the experiment ran. Told is revision {revision} alone; "
            f"{others} users of others, who may be the same, are left out."
        )
    if revision != experiment.revision:
        notes.append(
            f"The answers are of revision {revision}, and the file is at {experiment.revision}: "
            "its weights may be others than those that dealt these users."
        )
    crossed = len(revisions[revision].crossed)
    if crossed:
        notes.append(f"{crossed} users saw more than one variant and are left out.")
    return notes


class _Rows:
    """Adds what users did to their sums."""

    def __init__(self, exposed: _Exposed, window: Window) -> None:
        self._exposed, self._window = exposed, window
        self._clicked: set[tuple[str, Id]] = set()
        self._orders: set[tuple[int, str]] = set()
        self._begin, self._end = window.start.timestamp(), window.until.timestamp()
        self._early = self._begin - window.before_days * DAY_S
        self._unpriced = self._late = 0

    def take(self, events: Iterable[Line], *, history: bool) -> None:
        """Feedback; of the time before the start only where it is the history."""
        for event in events:
            place = self._exposed.place.get(event.get("user_id", ""))
            if place is None:
                continue
            at = seconds(event[self._window.by])
            if self._exposed.first_s[place] <= at < self._end:
                self._after(place, event, at)
            elif self._begin <= at < self._end:
                self._exposed.add(place, spend=_spent(event))
            elif at < self._begin and seconds(event["received_at"]) >= self._begin:
                self._late += 1  # it may follow from a variant: CUPED must not read it
            elif at < self._begin and history:
                self._before(place, at, _spent(event))

    def take_history(self, path: Path) -> None:
        """Purchases before the start, of a file or folder of canonical events.

        Raises:
            BadInput: there are none to be read.
        """
        wanted = pc.field("event_type") == EventType.PURCHASE.value
        wanted &= pc.field("event_timestamp") < self._window.start
        columns = ["user_id", "event_timestamp", "price", "quantity"]
        try:
            batches = ds.dataset(path, format="parquet").to_batches(columns=columns, filter=wanted)
            for batch in batches:
                self._history(batch.to_pydict())
        except (OSError, ValueError, KeyError) as error:
            raise BadInput(f"{path} does not hold canonical events: {error}") from error

    def _history(self, rows: Mapping[str, Sequence[Any]]) -> None:
        for user_id, time, price, quantity in zip(*rows.values(), strict=True):
            place = self._exposed.place.get(user_id)
            if place is not None:
                spent = (price or 0.0) * (1 if quantity is None else quantity)
                self._before(place, time.timestamp(), spent)

    def _before(self, place: int, at: float, spent: float) -> None:
        self._exposed.add(place, spend=spent, before=spent if at >= self._early else 0.0)

    def _after(self, place: int, event: Line, at: float) -> None:
        self._exposed.see(place, at)
        match event["event_type"]:
            case EventType.CLICK:
                self._click(place, event)
            case EventType.ADD_TO_CART:
                self._exposed.sums["carted"][place] = 1.0
            case EventType.PURCHASE:
                self._purchase(place, event)

    def _purchase(self, place: int, event: Line) -> None:
        self._exposed.sums["converted"][place] = 1.0
        spent = _spent(event)
        self._unpriced += event.get("price") is None
        order = (place, event.get("session_id") or event["event_timestamp"])
        new = float(order not in self._orders)
        self._orders.add(order)
        self._exposed.add(place, orders=new, revenue=spent, spend=spent)

    def _click(self, place: int, event: Line) -> None:
        answer, item_id = str(event.get("recommendation_id")), event["item_id"]
        owner, items = self._exposed.answers.get(answer, (-1, ()))
        if owner == place and item_id in items and (answer, item_id) not in self._clicked:
            self._clicked.add((answer, item_id))
            self._exposed.add(place, clicks=1.0)

    def notes(self) -> list[str]:
        """What a reader should know of the feedback."""
        notes = []
        if self._unpriced:
            notes.append(f"{self._unpriced} purchases have no price and count as 0.")
        if self._late:
            notes.append(
                f"{self._late} events came in since the start, say that they happened before it, "
                "and are left out. Where a shop's clock stands still, as of historical data, take "
                "the times at which events came in: --time received_at."
            )
        return notes

    def outcomes(self, experiment: Experiment, notes: list[str]) -> Outcomes:
        """The users that saw one variant."""
        exposed, names = self._exposed, list(experiment.variants)
        self._returned()
        kept = [place for place in range(len(exposed.variant)) if place not in exposed.crossed]
        users, variants = list(exposed.place), {name: place for place, name in enumerate(names)}
        return Outcomes(
            [users[place] for place in kept],
            np.array([variants[exposed.variant[place]] for place in kept], np.int64),
            {name: np.array(exposed.sums[name])[kept] for name in COLUMNS},
            [np.array(exposed.took.get(name, [])) for name in names],
            notes,
        )

    def _returned(self) -> None:
        wait = self._window.return_days * DAY_S
        times = zip(self._exposed.first_s, self._exposed.times_s, strict=True)
        for place, (first, seen) in enumerate(times):
            if first + 2 * wait <= self._end:
                back = any(wait <= at - first < 2 * wait for at in seen)
                self._exposed.add(place, eligible=1.0, returned=float(back))


def _spent(event: Line) -> float:
    """Money of a purchase; 0 of other events."""
    if event["event_type"] != EventType.PURCHASE:
        return 0.0
    return float((event.get("price") or 0.0) * event.get("quantity", 1))
