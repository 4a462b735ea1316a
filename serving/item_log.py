"""The log of what a shop said of its items since its release: every worker reads it.

A record of the log is JSON: items with the values that changed, or ids of items that are gone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from feature_repo.contract.dataset import parse_time
from retrieval.index.records import RecordLog
from serving.ids import Id
from serving.problems import StorageFailed

Values = dict[str, Any]
"""Column -> value; None where it is unknown."""


@dataclass(frozen=True)
class ItemChange:
    """What was said of one item."""

    item_id: Id
    values: Values | None
    """Those that changed; None: the item is gone."""
    at: datetime
    """When it was said, by the wall clock."""


class ItemLog:
    """One process's view of the log."""

    def __init__(self, path: Path, shop: str) -> None:
        """Open the log of a shop, or begin one.

        Raises:
            ArtifactError: the file is of another shop, or damaged before its end.
        """
        self._records = RecordLog(path, {"items_of": shop})

    def is_behind(self) -> bool:
        """Whether there may be changes that were not read yet."""
        return self._records.is_behind()

    def read(self) -> list[ItemChange]:
        """The changes since the last read, oldest first."""
        return [change for record in self._records.read() for change in _changes(record)]

    def put(self, items: Sequence[tuple[Id, Values]], at: datetime) -> None:
        """Write values of items; when this returns, they outlive a crash of the machine.

        Raises:
            StorageFailed: they could not be written.
        """
        self._append({"at": at.isoformat(), "put": [list(item) for item in items]})

    def remove(self, item_ids: Sequence[Id], at: datetime) -> None:
        """Write that items are gone; see ``put``."""
        self._append({"at": at.isoformat(), "remove": list(item_ids)})

    def _append(self, record: dict[str, Any]) -> None:
        try:
            self._records.append(json.dumps(record).encode())
        except OSError as error:
            raise StorageFailed(
                f"The change could not be written to {self._records.path} ({error}), and was not "
                "made; send it again."
            ) from error


def _changes(record: bytes) -> list[ItemChange]:
    found = json.loads(record)
    at = parse_time(found["at"])
    put = [ItemChange(item_id, values, at) for item_id, values in found.get("put", [])]
    return put + [ItemChange(item_id, None, at) for item_id in found.get("remove", [])]
