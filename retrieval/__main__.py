"""``python -m retrieval``: show the candidates of users, source by source, with titles."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.contract.artifacts import read_table
from feature_repo.contract.candidates import TopK
from feature_repo.contract.dataset import IdType, parse_time
from feature_repo.contract.errors import BadInput, ShoprecError
from feature_repo.contract.vocabulary import id_arrow_type
from retrieval.retriever import Retriever


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="python -m retrieval",
        description="Show the candidates of users, source by source, with titles.",
        epilog="Example: python -m retrieval --bundle runs/NAME/retriever --user 1025 --k 5 "
        "--rows data/complete_journey/sets/ranking_v1-users-t1/users.parquet",
    )
    found.add_argument(
        "--bundle",
        type=Path,
        required=True,
        metavar="DIR",
        help="retriever bundle: RUN/retriever, or releases/current/retriever",
    )
    who = found.add_mutually_exclusive_group(required=True)
    who.add_argument("--user", nargs="+", metavar="ID", help="one or more user ids")
    who.add_argument("--users", type=Path, metavar="FILE", help="Parquet file with user_id")
    found.add_argument("--k", type=int, default=20, help="candidates shown a source (%(default)s)")
    found.add_argument(
        "--rows",
        type=Path,
        metavar="FILE",
        help="read the users' features from this Parquet file, such as the users.parquet of a "
        "training set, as of its times; by default from the online store, as of the bundle's "
        "cut-off",
    )
    return found


def read_users(arguments: argparse.Namespace, retriever: Retriever) -> pa.Table:
    """Feature rows of the users asked for.

    Raises:
        BadInput: an id is of a wrong type, or the file knows none of the users.
    """
    ids = wanted_ids(arguments, retriever.encoder.users.id_type)
    if arguments.rows is None:
        return _online_rows(ids, retriever)
    rows = read_table(arguments.rows)
    found = rows.filter(pc.is_in(rows.column("user_id"), ids))
    if not len(found):
        raise BadInput(f"{arguments.rows} knows none of the users {ids.to_pylist()[:5]}.")
    return found


def wanted_ids(arguments: argparse.Namespace, id_type: IdType) -> pa.Array:
    """The ids asked for, in the bundle's type."""
    arrow_type = id_arrow_type(id_type)
    if arguments.users is not None:
        column = read_table(arguments.users, ["user_id"]).column("user_id")
        return pc.unique(column.combine_chunks().cast(arrow_type))
    try:
        return pa.array(arguments.user).cast(arrow_type)
    except pa.ArrowInvalid:
        raise BadInput(f"User ids are of type {id_type.value}; got {arguments.user}.") from None


def _online_rows(ids: pa.Array, retriever: Retriever) -> pa.Table:
    from feature_repo.contract.embedded import connect
    from feature_repo.contract.online import OnlineReader

    reader = OnlineReader(
        connect(),
        str(retriever.about["dataset"]),
        retriever.encoder.schema,
        retriever.encoder.users.id_type,
    )
    rows = reader.read(ids.to_pylist(), parse_time(str(retriever.about["cutoff"])))
    if not any(rows.found):
        raise BadInput(
            "The online store knows none of these users; fill it (feast materialize), or name a "
            "file with --rows."
        )
    return rows.table


def render(retriever: Retriever, rows: pa.Table, k: int) -> str:
    """The candidates of each user as text."""
    lists = retriever.lists(retriever.batch(rows))
    titles = titles_of(retriever.catalogue)
    lines = []
    for place, user_id in enumerate(rows.column("user_id").to_pylist()):
        lines.append(f"User {user_id}")
        for name, top in lists.items():
            lines += _section(retriever, name, top, place, k, titles)
        lines.append("")
    return "\n".join(lines)


def _section(
    retriever: Retriever, name: str, top: TopK, user: int, k: int, titles: dict[Any, str]
) -> list[str]:
    kept = top.item_row[user] > 0
    item_rows, scores = top.item_row[user][kept], top.score[user][kept]
    ids = retriever.items.ids_of(item_rows[:k])
    lines = [f"  {name}: {len(item_rows)} candidates"]
    for rank, (item_id, score) in enumerate(zip(ids, scores[:k], strict=True), start=1):
        lines.append(f"  {rank:>5}  {item_id!s:>12}  {score:>9.4f}  {titles.get(item_id, '')}")
    return lines


def titles_of(catalogue: pa.Table) -> dict[Any, str]:
    """Item id -> what a person calls it: its title, or its category where it has none."""
    named = [
        name for name in ("title", "subcategory", "category") if name in catalogue.schema.names
    ]
    found = {}
    for row in catalogue.select(["item_id", *named]).to_pylist():
        found[row["item_id"]] = next((str(row[name]) for name in named if row[name]), "")
    return found


def main(arguments: Sequence[str]) -> int:
    """Show; return 0, or 1 after an error that is told on stderr."""
    options = parser().parse_args(arguments)
    try:
        if options.k < 1:
            raise BadInput(f"--k must be at least 1; got {options.k}.")
        retriever = Retriever.load(options.bundle)
        sys.stdout.write(render(retriever, read_users(options, retriever), options.k))
    except ShoprecError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
