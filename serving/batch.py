"""``python -m serving.batch``: the lists of many users, by the server's own path, as Parquet."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from feature_repo.contract.artifacts import atomic_path, read_table
from feature_repo.contract.columns import column_of
from feature_repo.contract.errors import BadInput
from serving.about import require_release
from serving.console import answer, run

if TYPE_CHECKING:
    from ranking.policy import Lists
    from serving.recommender import Recommender

log = logging.getLogger(__name__)

CHUNK = 128
"""Users that are answered at once."""
ALL = "all"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="python -m serving.batch",
        description="Write the lists of many users, as of the release's clock: user_id, item_id, "
        "rank, score, source.",
    )
    found.add_argument(
        "--release", default="releases/current", help="folder of the release (%(default)s)"
    )
    found.add_argument(
        "--users",
        default=ALL,
        metavar="all|FILE.parquet",
        help="all: every user of the release, or of --user-rows; or a file with a column user_id",
    )
    found.add_argument("--k", type=int, default=10, help="length of a list (%(default)s)")
    found.add_argument(
        "--exclude-seen", action="store_true", help="leave out what a user bought before"
    )
    found.add_argument(
        "--user-rows",
        type=Path,
        metavar="FILE.parquet",
        help="read the users' features from this file, such as the users.parquet of a training "
        "set, in place of the online store",
    )
    found.add_argument("--out", type=Path, required=True, metavar="FILE.parquet")
    found.add_argument(
        "policy",
        nargs="*",
        metavar="policy.KEY=VALUE",
        help="lists by another policy than the release's, such as policy.diversity=0.2 or "
        "policy.max_per.brand=2; a value is JSON",
    )
    return found


def write_lists(
    recommender: Recommender,
    out: Path,
    *,
    users: str = ALL,
    k: int = 10,
    exclude_seen: bool = False,
    user_rows: Path | None = None,
) -> int:
    """Write the lists of ``users``, atomically; return how many users there were.

    Raises:
        BadInput: ``k`` is below 1, or there is no user of whom anything is known.
        StoreUnavailable: the online store does not answer.
    """
    if k < 1:
        raise BadInput(f"--k must be at least 1; got {k}.")
    total, chunks = _user_chunks(recommender, users, user_rows)
    known = done = 0
    schema = _schema(recommender)
    with atomic_path(out) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        with tqdm(total=total, desc="lists", unit="user", disable=None) as bar:
            for rows in chunks:
                lists = recommender.recommend_rows(rows, None, k, exclude_seen)
                writer.write_table(_as_table(recommender, rows, lists, schema))
                known += int(recommender.known(rows).sum())
                done += len(rows)
                bar.update(len(rows))
        _report(known, done)
    return done


def _report(known: int, done: int) -> None:
    if not known:
        raise BadInput(
            f"Nothing is known of any of the {done} users, so that no list would be personal. "
            "Fill the online store with `feast -c feature_repo materialize START END`, or give "
            "--user-rows."
        )
    if known < done:
        log.warning(
            "Nothing is known of %d of %d users; they get popular items.", done - known, done
        )


def _user_chunks(
    recommender: Recommender, users: str, user_rows: Path | None
) -> tuple[int, Iterator[pa.Table]]:
    """How many users there are, and their rows in chunks."""
    if user_rows is None:
        ids = recommender.release.user_ids() if users == ALL else _ids(Path(users), recommender)
        return len(ids), _online_rows(recommender, ids)
    if users == ALL:
        return _count(user_rows), _file_rows(user_rows)
    ids = _ids(Path(users), recommender)
    return len(ids), _sliced(_rows_of(ids, read_table(user_rows), recommender))


def _ids(path: Path, recommender: Recommender) -> pa.Array:
    column = column_of(read_table(path, ["user_id"]), "user_id")
    want = pa.int64() if recommender.release.about.user_id == "int64" else pa.string()
    try:
        return pc.unique(column.cast(want))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise BadInput(f"The column user_id of {path} must hold {want}: {error}") from error


def _count(path: Path) -> int:
    read_table(path, ["user_id"])  # refuses a file that is not whole, or has no users
    return int(pq.ParquetFile(path).metadata.num_rows)


def _online_rows(recommender: Recommender, ids: pa.Array) -> Iterator[pa.Table]:
    for start in range(0, len(ids), CHUNK):
        yield recommender.read_rows(ids.slice(start, CHUNK).to_pylist())


def _file_rows(path: Path) -> Iterator[pa.Table]:
    for batch in pq.ParquetFile(path).iter_batches(batch_size=CHUNK):
        yield pa.Table.from_batches([batch])


def _sliced(rows: pa.Table) -> Iterator[pa.Table]:
    return (rows.slice(start, CHUNK) for start in range(0, len(rows), CHUNK))


def _rows_of(ids: pa.Array, rows: pa.Table, recommender: Recommender) -> pa.Table:
    """The rows of some users, in their order; nulls where the file has none."""
    place = pc.index_in(ids, column_of(rows, "user_id").cast(ids.type))
    found = rows.take(place)
    now = pa.scalar(recommender.release.about.now(), pa.timestamp("us", tz="UTC"))
    times = found.column("event_timestamp").cast(pa.timestamp("us", tz="UTC")).fill_null(now)
    names = found.column_names
    found = found.set_column(names.index("event_timestamp"), "event_timestamp", times)
    return found.set_column(names.index("user_id"), "user_id", ids)


def _schema(recommender: Recommender) -> pa.Schema:
    encoder = recommender.release.retriever.encoder
    return pa.schema(
        [
            ("user_id", encoder.users.ids.type),
            ("item_id", encoder.items.ids.type),
            ("rank", pa.int32()),
            ("score", pa.float32()),
            ("source", pa.string()),
        ]
    )


def _as_table(
    recommender: Recommender, rows: pa.Table, lists: Lists, schema: pa.Schema
) -> pa.Table:
    kept = lists.item_row > 0
    users, places = np.nonzero(kept)
    columns: dict[str, Any] = {
        "user_id": column_of(rows, "user_id").take(pa.array(users)),
        "item_id": recommender.ids_of(lists.item_row[kept]),
        "rank": places + 1,
        "score": pa.array(lists.score[kept], from_pandas=True),  # NaN is null
        "source": pa.array(lists.sources).take(pa.array(lists.source[kept])),
    }
    return pa.table(columns, schema=schema)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 2 where the lists cannot be made."""
    arguments = parser().parse_args(argv)

    def command() -> None:
        require_release(Path(arguments.release))
        from serving.recommender import Recommender

        count = write_lists(
            Recommender.load(arguments.release, policy=arguments.policy),
            arguments.out,
            users=arguments.users,
            k=arguments.k,
            exclude_seen=arguments.exclude_seen,
            user_rows=arguments.user_rows,
        )
        log.info("Wrote the lists of %d users.", count)
        answer(str(arguments.out))

    return run(command)


if __name__ == "__main__":
    sys.exit(main())
