"""A ranker's windows: candidates of an earlier retriever, and which of them were bought.

A window is a retriever fitted at some time c and the purchases of [c, until): users as they were
just before c, the candidates that the retriever finds for them, labelled by what they bought.

B requests, N candidates of all of them, F numeric columns.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from feature_repo.contract.artifacts import read_table
from feature_repo.contract.candidates import Candidates
from feature_repo.contract.columns import column_of, list_column
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.encoding import Encoder, query_times_s
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.events import EventType, target_column
from feature_repo.contract.randomness import key, uniform
from feature_repo.contract.schema import Schema
from feature_repo.contract.vocabulary import Vocabulary, hash_strings
from ranking.features import Requests, numeric_matrix
from ranking.inputs import InputEncoder
from ranking.items import ItemSide
from ranking.policy import seen_rows
from retrieval.retriever import Retriever
from trainer.randomness import Stream
from trainer.ranker_rows import Rows
from trainer.sets import TARGET, TrainingSet

log = logging.getLogger(__name__)

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

SERVICE = "ranking_v1"
NEVER = datetime.max.replace(tzinfo=UTC)
CHUNK = 256
"""Requests whose candidates are found at once."""


@dataclass(frozen=True)
class Part:
    """Some of the users, by their ids alone: the same ones in every window."""

    share: float
    """Of the users that are held out."""
    seed: int
    held_out: bool
    """Whether those are meant, or all others."""

    def of(self, user_rows: pa.Table) -> pa.Table:
        """Their rows."""
        places = hash_strings(column_of(user_rows, "user_id").cast(pa.string()))
        drawn = uniform(key(self.seed, Stream.HELD_OUT), places.view(np.int64)) < self.share
        return user_rows.filter(pa.array(drawn == self.held_out))


@dataclass(frozen=True)
class Window:
    """Candidates of B users with their labels."""

    user_rows: pa.Table
    item_rows: pa.Table
    schema: Schema
    vocabulary: Vocabulary
    """That the candidates are named in."""
    candidates: Candidates
    labels: Bools
    """[N] whether the candidate was bought in the window."""
    num_relevant: Ints
    """[B] items that were bought in the window, among candidates or not."""
    others: Mapping[EventType, Bools] = field(default_factory=dict)
    """Other event -> [N] whether the user had one with the candidate in the window."""

    @staticmethod
    def open(
        bundle: Path,
        dataset: Dataset,
        *,
        new_only: bool,
        before: str | None = None,
        part: Part | None = None,
        others: Iterable[EventType] = (),
    ) -> Window:
        """Find the candidates of a retriever bundle for the users of its cut-off's set.

        Args:
            bundle: the retriever.
            dataset: where the training set of the bundle's cut-off lies.
            new_only: leave out what the users had bought.
            before: the cut-off of the run, which labels must not pass.
            part: of the users; all by default.
            others: events that labels are made of beside purchases.

        Raises:
            ArtifactError: the bundle or its set is missing.
            ConfigError: the set's labels reach past ``before``, or it has none, or none of one of
                ``others``, or no user is in the part.
        """
        retriever = Retriever.load(bundle)
        rows = labelled_set(dataset, retriever.about, before)
        require_labels(rows, dataset, before)
        users = read_table(rows.folder / "users.parquet")
        users = users if part is None else part.of(users)
        if not len(users):
            raise ConfigError(
                f"No user of {rows.folder} is left to be read; change model.calibration.held_out."
            )
        log.info("Finding candidates for %d users of %s.", len(users), rows.folder.name)
        parts = list(_found(retriever, users, new_only))
        candidates = Candidates.joined([found for found, _, _ in parts])
        labels = np.concatenate([bought for _, bought, _ in parts])
        relevant = np.concatenate([count for _, _, count in parts])
        window = Window(
            users, rows.items, rows.schema, retriever.items, candidates, labels, relevant
        )
        return replace(window, others={event: window.labels_of(event) for event in others})

    def labels_of(self, event: EventType) -> Bools:
        """[N] whether the user had such an event with the candidate in the window.

        Raises:
            ConfigError: the set has no such labels.
        """
        column = target_column(event)
        if column not in self.user_rows.column_names:
            raise ConfigError(
                f"model.tasks names {event.value}, but the training set has no {column}: the shop "
                "had no such event by the end of the label window, or the set is of an earlier "
                "version (then make it again: python -m feature_repo.jobs training-set)."
            )
        return labelled(self.candidates, targets_of(self.user_rows, self.vocabulary, column))[0]

    def requests(self, encoder: Encoder, half_life_days: float) -> Requests:
        """What the inputs are made from."""
        side = ItemSide.of(self.item_rows, self.vocabulary, encoder)
        now_s = query_times_s(self.user_rows)
        return Requests.of(
            self.user_rows, self.candidates, now_s, side, encoder.schema, half_life_days
        )

    def encode(self, inputs: InputEncoder) -> Rows:
        """The window as a ranker's rows."""
        requests = self.requests(inputs.encoder, inputs.half_life_days)
        return self.rows(inputs, requests, numeric_matrix(requests))

    def rows(self, inputs: InputEncoder, requests: Requests, values_NF: Floats) -> Rows:
        """As ``encode``, with the numeric matrix at hand."""
        encoded = inputs.encode_matrix(self.user_rows, requests, values_NF)
        return Rows(
            encoded,
            inputs.items(requests.items),
            self.candidates.offsets,
            self.labels,
            self.num_relevant,
            np.ones(len(self.labels), dtype=np.float32),
            np.ones(len(self.num_relevant), dtype=np.float32),
            self.others,
        )


def labelled_set(dataset: Dataset, about: Mapping[str, Any], before: str | None) -> TrainingSet:
    """The users of a retriever bundle's cut-off, with what they bought since.

    Args:
        dataset: where the set lies.
        about: the bundle's description.
        before: a cut-off that labels must not pass, if any.

    Raises:
        ArtifactError: there is none.
    """
    until = NEVER if before is None else dataset.edge(before)
    return TrainingSet.open(dataset, SERVICE, "users", str(about["cutoff"]), until=until)


def require_labels(rows: TrainingSet, dataset: Dataset, before: str | None) -> None:
    """Check that a set has labels, none of them from the time ``before`` on.

    Raises:
        ConfigError: it has none, or some are.
    """
    until = rows.until
    if until is None:
        raise ConfigError(
            f"{rows.folder} has no labels; a ranker needs a set made with until=... "
            "(python -m feature_repo.jobs training-set)."
        )
    if before is not None and until > dataset.edge(before):
        raise ConfigError(
            f"The labels of {rows.folder} reach to {until.isoformat()}, past the cut-off "
            f"{before}: take a retriever that was fitted one window before the cut-off."
        )


def _found(
    retriever: Retriever, users: pa.Table, new_only: bool
) -> Iterator[tuple[Candidates, Bools, Ints]]:
    starts = range(0, len(users), CHUNK)
    for start in tqdm(starts, desc="candidates", unit_scale=CHUNK, disable=None, leave=False):
        rows = users.slice(start, CHUNK)
        seen = seen_rows(rows, retriever.items) if new_only else None
        candidates = retriever.candidates(rows, query_times_s(rows), seen)
        yield (candidates, *labelled(candidates, targets_of(rows, retriever.items, seen=seen)))


def targets_of(
    user_rows: pa.Table,
    items: Vocabulary,
    column: str = TARGET,
    seen: Sequence[Ints] | None = None,
) -> list[Ints]:
    """Per user, rows of the distinct known items of a column (that were not seen before)."""
    ids, offsets = list_column(user_rows, column)
    bought = np.split(items.rows(ids), offsets[1:-1])
    known = [np.unique(rows[rows > 0]) for rows in bought]
    if seen is None:
        return known
    return [np.setdiff1d(rows, old) for rows, old in zip(known, seen, strict=True)]


def labelled(candidates: Candidates, targets: Sequence[Ints]) -> tuple[Bools, Ints]:
    """[N] whether each candidate is a target of its user, and [B] the number of targets."""
    labels = [
        np.isin(candidates.item_row[candidates.slice_of(user)], rows)
        for user, rows in enumerate(targets)
    ]
    counts = np.array([len(rows) for rows in targets], dtype=np.int64)
    return np.concatenate([np.zeros(0, np.bool_), *labels]), counts
