"""Job ``interactions``: training sets from the id-only train and test files of a benchmark.

Such data have no times, so that the splits become them: a part of train is bought on the first
day, the validation part on the second, test on the third. Cut-offs then mean what they mean
elsewhere: t1 sees the first part of train and is judged on the validation part, t2 sees all of
train and is judged on test.

Sessions have no times either. With ``folds=1`` a user is one session, whose history and whose
targets are all of the user's items: the matrix of train is input and label, as in autoencoders,
LightGCN and SimpleX. With more, a user's items are cut into random folds, and each fold is bought
in a session after all others: no history holds its own targets. Either way every item is a target
once.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from feature_repo.contract.artifacts import atomic_folder, write_json, write_table
from feature_repo.contract.dataset import Clock, Dataset, IdType
from feature_repo.contract.errors import BadInput, ConfigError
from feature_repo.contract.events import TARGET
from feature_repo.contract.randomness import key, uniform
from feature_repo.contract.schema import Encoding, Entity, Feature, Schema
from feature_repo.jobs import co_bought as co_bought_items
from feature_repo.jobs import interaction_files
from feature_repo.jobs.canonical import ITEM_ATTRIBUTES, PURCHASE, USER_ATTRIBUTES
from feature_repo.jobs.co_bought import co_bought
from feature_repo.jobs.config import DataConfig, InteractionsConfig, Source
from feature_repo.jobs.interaction_files import Interactions, read_interactions
from feature_repo.jobs.stage import Stage

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

START = datetime(2024, 1, 1, tzinfo=UTC)
TIME = pa.timestamp("us", tz="UTC")
CUTOFFS = (1, 2)
"""Edges that sets are made for."""
_VALIDATION, _USERS, _ITEMS = 21, 22, 23
FILES = ("set.json", "users.parquet", "items.parquet", "schema.json")
HISTORY = "history_item_id"


@dataclass(frozen=True)
class Splits:
    """Pairs by day: what is fitted, what validates, what tests."""

    days: tuple[Interactions, Interactions, Interactions]
    counts: dict[str, int]
    """Pairs kept, and pairs dropped by reason."""

    def before(self, edge: int) -> Interactions:
        """The pairs of the first ``edge`` days."""
        return joined(self.days[:edge])


def make_interactions(config: InteractionsConfig) -> Dataset:
    """Write a benchmark's canonical tables and sets, or find them unchanged.

    Raises:
        BadInput: a file is missing, empty or malformed, or no user of train is in test.
        ConfigError: the settings are of another source, or name no files.
    """
    train, test = source_files(config.data)
    dataset = _dataset(config.data)
    sets = {
        (kind, edge): _set(dataset, kind, edge)
        for kind in ("sessions", "users")
        for edge in CUTOFFS
    }
    outputs = [dataset.canonical / f"{table}.parquet" for table in ("events", "users", "items")]
    outputs += [folder / name for folder in sets.values() for name in FILES]
    code = (co_bought_items, interaction_files, sys.modules[__name__])
    stage = Stage("interactions", dataset.root, (train, test), config, outputs, code)
    if not config.force and (dataset.root / "dataset.json").is_file() and stage.is_current():
        return config.data.dataset()
    splits = split(
        read_interactions(train, config.data.format),
        read_interactions(test, config.data.format),
        config,
    )
    (dataset.root / "dataset.json").unlink(missing_ok=True)  # nobody reads half of a change
    _write_canonical(dataset, splits)
    for (kind, edge), folder in sets.items():
        _write_set(folder, dataset, config, splits, kind, edge)
    dataset = _dataset(config.data, splits.counts)
    dataset.save()
    stage.done()
    for reason, count in splits.counts.items():
        log.info("%s: %s %d", dataset.name, reason, count)
    return dataset


def source_files(config: DataConfig) -> tuple[Path, Path]:
    """The files of train and test.

    Raises:
        ConfigError: the settings are of another source, or name no files.
    """
    if config.source is not Source.interactions or config.train is None or config.test is None:
        raise ConfigError(
            f"data={config.name} does not name the files of a benchmark; give data=interactions "
            "data.name=NAME data.train=FILE data.test=FILE."
        )
    files = Path(config.train), Path(config.test)
    for file in files:
        if not file.is_file():
            raise BadInput(f"{file} is not a file; data.train and data.test name the benchmark's.")
    return files


def _dataset(config: DataConfig, counts: dict[str, int] | None = None) -> Dataset:
    edges = [START + timedelta(days=day) for day in range(4)]
    return Dataset(
        name=config.name,
        root=config.folder,
        user_id=IdType.INT64,
        item_id=IdType.INT64,
        clock=Clock.AS_OF,
        start=START,
        end=edges[3],
        edges=(edges[0], edges[1], edges[2], edges[3]),
        history_items=config.history_items,
        half_life_days=config.half_life_days,
        counts=counts or {},
    )


def _set(dataset: Dataset, kind: str, edge: int) -> Path:
    service = "retrieval_v1" if kind == "sessions" else "ranking_v1"
    return dataset.sets / f"{service}-{kind}-t{edge}"


def split(train: Interactions, test: Interactions, config: InteractionsConfig) -> Splits:
    """Cut the validation part off train; drop what cannot be judged.

    Raises:
        BadInput: no user of test is in train.
    """
    counts = {"train_lines": len(train), "test_lines": len(test)}
    train, counts["train_duplicates"] = _distinct(train)
    test, counts["test_duplicates"] = _distinct(test)
    stranger = ~np.isin(test.user, train.user)
    counts["test_without_train"] = int(stranger.sum())
    again = np.isin(_pairs(test), _pairs(train))
    counts["test_in_train"] = int((again & ~stranger).sum())
    test = test.take(~stranger & ~again)
    if not len(test):
        raise BadInput(
            f"No pair of data.test={config.data.test} can be judged ({counts}): its users must be "
            "in data.train, and its items new to them."
        )
    chosen = validation(train.user, config.validation, config.min_items, config.data.seed)
    days = train.take(~chosen), train.take(chosen), test
    counts |= {
        name: len(day) for name, day in zip(("fit", "validation", "test"), days, strict=True)
    }
    return Splits(days, counts)


def validation(user: Ints, share: float, min_items: int, seed: int) -> Bools:
    """[N] whether a pair validates: a random ``share`` of each user's pairs, rounded, at least
    one, where the user has ``min_items`` of them; none of other users."""
    order = np.lexsort((uniform(key(seed, _VALIDATION), np.arange(len(user))), user))
    first, counts = _runs(user[order])
    wanted = np.where(counts >= min_items, np.maximum(np.rint(share * counts), 1), 0)
    place = np.arange(len(user)) - np.repeat(first, counts)
    chosen = np.zeros(len(user), dtype=np.bool_)
    chosen[order] = place < np.repeat(wanted, counts)
    return chosen


def _distinct(pairs: Interactions) -> tuple[Interactions, int]:
    """The pairs, each at its first place, and how many were dropped."""
    _, first = np.unique(_pairs(pairs), return_index=True)
    return pairs.take(np.sort(first)), len(pairs) - len(first)


def _pairs(pairs: Interactions) -> npt.NDArray[np.void]:
    """[N] each pair as one value that can be compared."""
    both = np.stack([pairs.user, pairs.item], axis=1)
    return np.ascontiguousarray(both).view([("user", np.int64), ("item", np.int64)]).ravel()


def joined(parts: tuple[Interactions, ...]) -> Interactions:
    """The pairs of several parts, one after the other."""
    ratings = [part.rating for part in parts if part.rating is not None]
    return Interactions(
        np.concatenate([part.user for part in parts]),
        np.concatenate([part.item for part in parts]),
        np.concatenate(ratings) if len(ratings) == len(parts) else None,
    )


def _runs(rising: Ints) -> tuple[Ints, Ints]:
    """First place and length of each run of equal values."""
    first = np.flatnonzero(np.diff(rising, prepend=rising[0] - 1 if len(rising) else 0))
    return first, np.diff(first, append=len(rising))


def _write_canonical(dataset: Dataset, splits: Splits) -> None:
    table = pa.concat_tables(_events(day, number) for number, day in enumerate(splits.days))
    write_table(dataset.canonical / "events.parquet", table)
    before = pa.scalar(START, TIME)
    every = splits.before(3)
    for name, column, attributes in (
        ("users", every.user, dict.fromkeys(USER_ATTRIBUTES, "VARCHAR")),
        ("items", every.item, ITEM_ATTRIBUTES),
    ):
        ids = np.unique(column)
        times = pa.array(np.full(len(ids), before.value), TIME)
        rows = {f"{name[:-1]}_id": ids, "event_timestamp": times}
        rows |= {a: pa.nulls(len(ids), _ARROW[kind]) for a, kind in attributes.items()}
        write_table(dataset.canonical / f"{name}.parquet", pa.table(rows))


_ARROW = {"VARCHAR": pa.string(), "FLOAT": pa.float32(), "BOOLEAN": pa.bool_()}


def _events(pairs: Interactions, day: int) -> pa.Table:
    """A day's pairs as purchases at noon."""
    size = len(pairs)
    noon = pa.scalar(START + timedelta(days=day, hours=12), TIME).value
    rating = pa.nulls(size, pa.float32()) if pairs.rating is None else pa.array(pairs.rating)
    return pa.table(
        {
            "user_id": pairs.user,
            "item_id": pairs.item,
            "event_type": pa.DictionaryArray.from_arrays(
                np.zeros(size, np.int32), pa.array([PURCHASE])
            ).cast(pa.string()),
            "event_timestamp": pa.array(np.full(size, noon), TIME),
            "quantity": np.ones(size, dtype=np.int64),
            "price": pa.nulls(size, pa.float64()),
            "list_price": pa.nulls(size, pa.float64()),
            "session_id": pa.nulls(size, pa.string()),
            "rating": rating,
        }
    )


def _write_set(
    folder: Path, dataset: Dataset, config: InteractionsConfig, splits: Splits, kind: str, edge: int
) -> None:
    before = splits.before(edge)
    users = by_user(before, config.data.seed)
    service, _, _ = folder.name.split("-")
    neighbours = config.neighbours if kind == "sessions" else 0
    schema = Schema(service, FEATURES if neighbours else FEATURES[:1])
    time = dataset.edges[edge] - timedelta(microseconds=1)
    if kind == "sessions":
        tables = _sessions(users, config.folds, config.group_rows, time)
    else:
        tables = _judged(users, splits.days[edge], config.group_rows, time)
    items = _items(before, neighbours, time)
    with atomic_folder(folder) as temporary:
        rows = _write_stream(temporary / "users.parquet", tables, len(users), folder.name)
        write_table(temporary / "items.parquet", items)
        schema.save(temporary / "schema.json")
        about = {
            "format": 1,
            "dataset": dataset.name,
            "service": service,
            "kind": kind,
            "cutoff": dataset.edges[edge].isoformat(),
            "until": dataset.edges[edge + 1].isoformat(),
            "fingerprint": schema.fingerprint,
            "counts": {"users": rows, "items": len(items), **splits.counts},
            "settings": _settings(config),
        }
        write_json(temporary / "set.json", about)
    log.info("%s: %d rows, %d items.", folder, rows, len(items))


FEATURES = (
    Feature(
        HISTORY,
        Entity.USER,
        "user_history",
        "Array(Int64)",
        Encoding.BAG,
        bag_of="item_id",
        bag_weight="history_weight",
    ),
    Feature(
        "co_bought_item_id",
        Entity.ITEM,
        "item_neighbours",
        "Array(Int64)",
        Encoding.BAG,
        bag_of="item_id",
        bag_weight="co_bought_weight",
    ),
)
"""Of a set; the second where neighbours are asked for."""


def _items(before: Interactions, neighbours: int, time: datetime) -> pa.Table:
    """The items before a cut-off and, if asked for, those bought by the same users."""
    users, user = np.unique(before.user, return_inverse=True)
    items, item = np.unique(before.item, return_inverse=True)
    columns = {"item_id": pa.array(items), "event_timestamp": _times(time, len(items))}
    if neighbours:
        codes, weights, offsets = co_bought(user, item, len(users), len(items), neighbours)
        columns["co_bought_item_id"] = _lists(items[codes], np.diff(offsets))
        columns["co_bought_weight"] = _lists(weights, np.diff(offsets))
    return pa.table(columns)


def _settings(config: InteractionsConfig) -> dict[str, Any]:
    names = ("validation", "min_items", "folds", "neighbours", "group_rows")
    return {"seed": config.data.seed, **{name: getattr(config, name) for name in names}}


@dataclass(frozen=True)
class ByUser:
    """Pairs sorted by user, users and their items in a random order; U users."""

    pairs: Interactions
    offsets: Ints
    """[U + 1] the pairs of user u are ``[offsets[u], offsets[u + 1])``."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> Ints:
        """[U] pairs of each user."""
        return np.diff(self.offsets)


def by_user(pairs: Interactions, seed: int) -> ByUser:
    """Sort pairs by user; row groups of a set are then fair samples of the users."""
    users, codes = np.unique(pairs.user, return_inverse=True)
    shuffled = np.argsort(uniform(key(seed, _USERS), users), kind="stable")
    place = np.empty(len(users), dtype=np.int64)
    place[shuffled] = np.arange(len(users))
    order = np.lexsort((uniform(key(seed, _ITEMS), np.arange(len(pairs))), place[codes]))
    counts = np.bincount(place[codes], minlength=len(users))
    return ByUser(pairs.take(order), np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]))


def _sessions(users: ByUser, folds: int, group_rows: int, time: datetime) -> Iterator[pa.Table]:
    """One row a user and fold; see ``fold_rows``."""
    num_rows = np.full(len(users), 1) if folds == 1 else np.minimum(users.counts, folds)
    for start, stop in parts(num_rows, group_rows):
        yield fold_rows(users, num_rows, np.arange(start, stop), time, whole=folds == 1)


def fold_rows(
    users: ByUser, num_folds: Ints, chosen: Ints, time: datetime, *, whole: bool = False
) -> pa.Table:
    """The sessions of some users: the items of the other folds, then those of the own one.

    Fold k of a user with n items is the items from ``k n / folds`` on, up to those of fold
    k + 1. A row goes round the user's items from the end of its fold: the others come first.

    Args:
        users: all users.
        num_folds: [U] folds of each.
        chosen: places of the users whose sessions are made.
        time: of the sessions.
        whole: whether the history is the items of all folds.
    """
    folds = num_folds[chosen]
    user = np.repeat(chosen, folds)
    fold = np.arange(len(user)) - np.repeat(np.cumsum(folds) - folds, folds)
    size, of = users.counts[user], num_folds[user]
    first, stop = fold * size // of, (fold + 1) * size // of
    targets = stop - first
    row = np.repeat(np.arange(len(user)), size)
    place = np.arange(len(row)) - np.repeat(np.cumsum(size) - size, size)
    pair = users.offsets[user][row] + (stop[row] + place) % size[row]
    others = size - targets
    is_other = place < others[row]
    ids = users.pairs.user[users.offsets[user]]
    history, bought = pair if whole else pair[is_other], pair[~is_other]
    lengths = size if whole else others
    columns = _user_columns(ids, users.pairs.item[history], lengths, time)
    columns[TARGET] = _lists(users.pairs.item[bought], targets)
    if users.pairs.rating is not None:
        columns["target_rating"] = _lists(users.pairs.rating[bought], targets)
    return pa.table(columns)


def _judged(
    users: ByUser, later: Interactions, group_rows: int, time: datetime
) -> Iterator[pa.Table]:
    """One row a user: all items before the cut-off, and those of the day after it."""
    ids = users.pairs.user[users.offsets[:-1]]
    sorter = np.argsort(ids)
    place = sorter[np.searchsorted(ids, later.user, sorter=sorter)]
    order = np.lexsort((later.item, place))
    counts = np.bincount(place, minlength=len(users))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    for start, stop in parts(np.ones(len(users), np.int64), group_rows):
        own = slice(users.offsets[start], users.offsets[stop])
        theirs = order[offsets[start] : offsets[stop]]
        history = users.pairs.item[own]
        columns = _user_columns(ids[start:stop], history, users.counts[start:stop], time)
        columns[TARGET] = _lists(later.item[theirs], counts[start:stop])
        if later.rating is not None:
            columns["target_rating"] = _lists(later.rating[theirs], counts[start:stop])
        yield pa.table(columns)


def _user_columns(user: Ints, history: Ints, lengths: Ints, time: datetime) -> dict[str, pa.Array]:
    seconds = np.full(len(history), int(START.timestamp()), dtype=np.int64)
    return {
        "user_id": pa.array(user),
        "event_timestamp": _times(time, len(user)),
        HISTORY: _lists(history, lengths),
        "history_weight": _lists(np.ones(len(history), dtype=np.float32), lengths),
        "history_last_s": _lists(seconds, lengths),
    }


def _times(time: datetime, size: int) -> pa.Array:
    return pa.array(np.full(size, pa.scalar(time, TIME).value), TIME)


def _lists(values: npt.NDArray[Any], lengths: Ints) -> pa.Array:
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, values)


def parts(num_rows: Ints, group_rows: int) -> Iterator[tuple[int, int]]:
    """Consecutive users whose rows are about ``group_rows``: first one and the one after."""
    ends = np.cumsum(num_rows)
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.searchsorted(ends, np.arange(group_rows, total, group_rows), side="left") + 1
    edges = np.unique(np.concatenate([[0], cuts, [len(ends)]]))
    for start, stop in pairwise(edges):
        yield int(start), int(stop)


def _write_stream(path: Path, tables: Iterator[pa.Table], num_users: int, name: str) -> int:
    """Write tables as the row groups of one file; return its rows."""
    writer: pq.ParquetWriter | None = None
    rows = 0
    with tqdm(total=num_users, desc=name, unit="user", disable=None, leave=False) as bar:
        for table in tables:
            writer = writer or pq.ParquetWriter(
                path, table.schema, compression="zstd", write_page_checksum=True
            )
            writer.write_table(table, row_group_size=len(table))
            rows += len(table)
            bar.update(len(np.unique(table.column("user_id"))))
    if writer is not None:
        writer.close()
    return rows
