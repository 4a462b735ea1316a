"""The ranker's training rows: candidates of an earlier retriever, and which of them were bought.

A window is a retriever fitted at some time c and the purchases of [c, until): users as they were
just before c, the candidates that the retriever finds for them, labelled by what they bought.

B requests, N candidates of all of them, F numeric columns.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from feature_repo.contract.artifacts import read_json, read_table
from feature_repo.contract.candidates import Candidates
from feature_repo.contract.columns import column_of, list_column
from feature_repo.contract.dataset import Dataset, parse_time
from feature_repo.contract.encoding import Bag, Encoded, Encoder, query_times_s
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.schema import Schema
from feature_repo.contract.vocabulary import Vocabulary
from ranking.features import Requests, numeric_matrix
from ranking.inputs import InputEncoder, Inputs, Side
from ranking.items import ItemSide
from ranking.network import NetworkConfig
from ranking.numeric import Columns
from ranking.policy import seen_rows
from retrieval.retriever import Retriever
from trainer.sets import TARGET, TrainingSet

log = logging.getLogger(__name__)

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

SERVICE = "ranking_v1"
CHUNK = 256
"""Requests whose candidates are found at once."""
QUANTILE_ROWS = 300_000
"""Candidates that cut points are found on, at most."""


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

    @staticmethod
    def open(
        bundle: Path, dataset: Dataset, *, new_only: bool, before: str | None = None
    ) -> Window:
        """Find the candidates of a retriever bundle for the users of its cut-off's set.

        Args:
            bundle: the retriever.
            dataset: where the training set of the bundle's cut-off lies.
            new_only: leave out what the users had bought.
            before: the cut-off of the run, which labels must not pass.

        Raises:
            ArtifactError: the bundle or its set is missing.
            ConfigError: the set's labels reach past ``before``, or it has none.
        """
        retriever = Retriever.load(bundle)
        rows = TrainingSet.open(dataset, SERVICE, "users", str(retriever.about["cutoff"]))
        require_labels(rows, dataset, before)
        users = read_table(rows.folder / "users.parquet")
        log.info("Finding candidates for %d users of %s.", len(users), rows.folder.name)
        parts = list(_found(retriever, users, new_only))
        candidates = joined([found for found, _, _ in parts])
        labels = np.concatenate([bought for _, bought, _ in parts])
        relevant = np.concatenate([count for _, _, count in parts])
        return Window(users, rows.items, rows.schema, retriever.items, candidates, labels, relevant)

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
        )


def require_labels(rows: TrainingSet, dataset: Dataset, before: str | None) -> None:
    """Check that a set has labels, none of them from the time ``before`` on.

    Raises:
        ConfigError: it has none, or some are.
    """
    until = read_json(rows.folder / "set.json").get("until")
    if until is None:
        raise ConfigError(
            f"{rows.folder} has no labels; a ranker needs a set made with until=... "
            "(python -m feature_repo.jobs training-set)."
        )
    if before is not None and parse_time(until) > dataset.edge(before):
        raise ConfigError(
            f"The labels of {rows.folder} reach to {until}, past the cut-off {before}: take a "
            "retriever that was fitted one window before the cut-off."
        )


def _found(
    retriever: Retriever, users: pa.Table, new_only: bool
) -> Iterator[tuple[Candidates, Bools, Ints]]:
    starts = range(0, len(users), CHUNK)
    for start in tqdm(starts, desc="candidates", unit_scale=CHUNK, disable=None, leave=False):
        rows = users.slice(start, CHUNK)
        seen = seen_rows(rows, retriever.items) if new_only else None
        candidates = retriever.candidates(rows, query_times_s(rows), seen)
        yield (candidates, *labelled(candidates, targets_of(rows, retriever.items, seen)))


def targets_of(
    user_rows: pa.Table, items: Vocabulary, seen: Sequence[Ints] | None = None
) -> list[Ints]:
    """Per user, rows of the distinct known items that were bought (and not seen before)."""
    ids, offsets = list_column(user_rows, TARGET)
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


def joined(parts: Sequence[Candidates]) -> Candidates:
    """The candidates of all parts' users, one after the other."""
    sizes = np.concatenate([np.diff(part.offsets) for part in parts])
    return Candidates(
        parts[0].sources,
        np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]),
        np.concatenate([part.item_row for part in parts]),
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.rank for part in parts]),
    )


def joined_sides(parts: Sequence[Side]) -> Side:
    """The users or items of all parts, one after the other."""
    return Side(
        joined_encoded([part.encoded for part in parts]),
        Columns.joined([part.columns for part in parts]),
    )


def joined_encoded(parts: Sequence[Encoded]) -> Encoded:
    """The examples of all parts, one after the other."""
    bags = {}
    for name, first in parts[0].bags.items():
        mine = [part.bags[name] for part in parts]
        sizes = np.concatenate([np.diff(bag.offsets) for bag in mine])
        weights = [bag.weights for bag in mine if bag.weights is not None]
        bags[name] = Bag(
            np.concatenate([bag.values for bag in mine]),
            np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]),
            None if first.weights is None else np.concatenate(weights),
        )
    return Encoded(bags, np.concatenate([part.dense for part in parts]))


@dataclass(frozen=True)
class Rows:
    """Encoded candidates of the users of one or more windows, with labels."""

    inputs: Inputs
    items: Side
    """[I] rows that ``inputs.item_of`` names."""
    offsets: Ints
    """[B+1] user b owns candidates ``[offsets[b], offsets[b+1])``."""
    labels: Bools
    """[N] whether the candidate was bought."""
    num_relevant: Ints
    """[B] items that were bought, among candidates or not."""

    def __len__(self) -> int:
        return len(self.num_relevant)

    @staticmethod
    def joined(parts: Sequence[Rows]) -> Rows:
        """The users of all parts, one after the other."""
        users = np.cumsum([0, *(len(part) for part in parts)])
        items = np.cumsum([0, *(len(part.items) for part in parts)])
        starts = np.cumsum([0, *(len(part.labels) for part in parts)])
        inputs = Inputs(
            joined_sides([part.inputs.users for part in parts]),
            _shifted([part.inputs.user_of for part in parts], users),
            _shifted([part.inputs.item_of for part in parts], items),
            Columns.joined([part.inputs.columns for part in parts]),
        )
        offsets = _shifted([part.offsets[:-1] for part in parts], starts)
        return Rows(
            inputs,
            joined_sides([part.items for part in parts]),
            np.append(offsets, starts[-1]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.num_relevant for part in parts]),
        )


def _shifted(parts: Sequence[Ints], starts: Ints) -> Ints:
    return np.concatenate([part + start for part, start in zip(parts, starts, strict=False)])


def encode_windows(
    windows: Sequence[Window], config: NetworkConfig, dataset: Dataset
) -> tuple[InputEncoder, Rows]:
    """Fit the input encoder on the latest window, the first, and encode them all.

    Raises:
        ConfigError: the windows' retrievers have different sources.
    """
    latest = windows[0]
    sources = latest.candidates.sources
    if any(window.candidates.sources != sources for window in windows):
        found = [list(window.candidates.sources) for window in windows]
        raise ConfigError(f"All windows need retrievers of the same sources; got {found}.")
    encoder = fit_encoder(windows, config, dataset)
    requests = latest.requests(encoder, dataset.half_life_days)
    values = numeric_matrix(requests)
    inputs = InputEncoder.fit(encoder, requests, values, balanced_rows(latest.labels), config)
    first = latest.rows(inputs, requests, values)
    del values
    return inputs, Rows.joined([first, *(window.encode(inputs) for window in windows[1:])])


def balanced_rows(labels: Bools) -> Ints:
    """As many bought candidates as others, evenly spaced.

    Cut points found on them lie where bought candidates are told apart. Found on all candidates,
    nearly every cut would lie among the nine in ten that nobody wants.
    """
    bought, others = np.flatnonzero(labels), np.flatnonzero(~labels)
    size = min(len(bought), len(others), QUANTILE_ROWS // 2)
    if size == 0:
        return np.arange(min(len(labels), QUANTILE_ROWS), dtype=np.int64)
    chosen = [
        rows[np.linspace(0, len(rows) - 1, size).astype(np.int64)] for rows in (bought, others)
    ]
    return np.concatenate(chosen)


def fit_encoder(windows: Sequence[Window], config: NetworkConfig, dataset: Dataset) -> Encoder:
    """An encoder with a row for each item that is a candidate, and for each user if users' ids
    are read."""
    latest = windows[0]
    item_ids = [
        window.vocabulary.ids.take(pa.array(np.unique(window.candidates.item_row) - 1))
        for window in windows
    ]
    user_ids = [column_of(window.user_rows, "user_id") for window in windows]
    if "user_id" in config.without:
        user_ids = [ids.slice(0, 0) for ids in user_ids]
    return Encoder.fit(
        latest.schema,
        Vocabulary.build(pa.concat_arrays(user_ids), dataset.user_id),
        Vocabulary.build(pa.concat_arrays(item_ids), dataset.item_id),
        latest.user_rows,
        latest.item_rows,
        config.history_length,
    )
