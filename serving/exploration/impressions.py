"""``python -m serving.exploration.impressions``: shown items with their propensities, as events.

A shop's own events and these together make training sets whose labels count by how likely an item
was shown (``model.propensity_power`` of the ranker).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.contract.artifacts import atomic_path
from feature_repo.contract.errors import BadInput
from feature_repo.contract.events import EventType
from serving.console import answer, run
from serving.experiments.outcomes import Lines

CHUNK = 100_000
"""Events that are written at once."""
ID_TYPES = {int: pa.int64(), str: pa.string()}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="python -m serving.exploration.impressions",
        description="Write the lists of the exposure log as impressions: user_id, item_id, "
        "event_type, event_timestamp, position, propensity, recommendation_id.",
    )
    found.add_argument(
        "--exposures", type=Path, required=True, metavar="FOLDER", help="of the exposure log"
    )
    found.add_argument("--out", type=Path, required=True, metavar="FILE.parquet")
    return found


def write_impressions(exposures: Path, out: Path) -> int:
    """Write the impressions of a folder, atomically; return how many.

    Lists that did not explore have none: their propensities are unknown.

    Raises:
        BadInput: there are none.
    """
    files = sorted(exposures.glob("*.jsonl"))
    events, count = _events(files), 0
    first = next(events, None)
    if first is None:
        raise BadInput(f"{exposures} has no list that explored.")
    schema = _schema(first)
    with atomic_path(out) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        rows = [first]
        for event in events:
            rows.append(event)
            if len(rows) >= CHUNK:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                count, rows = count + len(rows), []
        writer.write_table(pa.Table.from_pylist(rows, schema))
    return count + len(rows)


def _schema(event: dict[str, Any]) -> pa.Schema:
    return pa.schema(
        {
            "user_id": ID_TYPES[type(event["user_id"])],
            "item_id": ID_TYPES[type(event["item_id"])],
            "event_type": pa.string(),
            "event_timestamp": pa.timestamp("us", tz="UTC"),
            "position": pa.int64(),
            "propensity": pa.float64(),
            "recommendation_id": pa.string(),
        }
    )


def _events(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """One an item that was shown; an answer of several experiments has several lines."""
    before = ""
    for line in Lines(files):
        name = line.get("recommendation_id", "")
        if "propensities" not in line or name == before:
            continue
        before = name
        shown = zip(line["item_ids"], line["positions"], line["propensities"], strict=True)
        for item_id, position, propensity in shown:
            yield {
                "user_id": line["user_id"],
                "item_id": item_id,
                "event_type": EventType.IMPRESSION.value,
                "event_timestamp": datetime.fromisoformat(line["time"]),
                "position": position,
                "propensity": propensity,
                "recommendation_id": name,
            }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 2 where there is nothing to write."""
    arguments = parser().parse_args(argv)

    def write() -> None:
        count = write_impressions(arguments.exposures, arguments.out)
        answer(f"{count:,} impressions are in {arguments.out}.")

    return run(write)


if __name__ == "__main__":
    sys.exit(main())
