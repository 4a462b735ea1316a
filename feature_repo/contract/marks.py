"""Which state contains which events: the revision in a row's ``event_timestamp``.

Events are of whole seconds. A row's time is that of the last event that it contains, and its
microseconds are the row's revision: ``2 * g`` of a row that DuckDB computed, where ``g`` is the
latest compaction that brought an event of the user into the events table (0: none did), and ``2 *
g + 1`` of a row that has events which no compaction up to ``g`` has. So a row that holds more is
newer: a materialisation leaves alone what feedback made newer, and replaces a row whose last event
it shares by one that also has the late ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from feature_repo.contract.errors import BadInput
from feature_repo.contract.purchases import Purchase

SECOND_US = 1_000_000
MOST_COMPACTIONS = 499_000
"""As many as a second has room for: training sets ask a microsecond before a basket's second."""


def revision(compaction: int) -> int:
    """The microseconds of a row that contains the events of a compaction.

    Raises:
        BadInput: there were too many.
    """
    if not 0 <= compaction <= MOST_COMPACTIONS:
        raise BadInput(
            f"There were {compaction} compactions, and a row's time has room for "
            f"{MOST_COMPACTIONS}. Ingest the shop anew with the events so far among its own."
        )
    return 2 * compaction


@dataclass(frozen=True)
class Marks:
    """What was compacted, and how often the online store was filled."""

    begun: int = 0
    """The latest compaction, which may be going on."""
    done: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    """Compaction -> log -> the last segment of it that it or an earlier one took."""
    materialised: int = 0
    """Grows whenever a view of users was written."""

    def contains(self, stamp_us: int | None, purchase: Purchase) -> bool:
        """Whether a row that DuckDB computed, of that time, contains a purchase.

        The marks of compactions of long ago are forgotten; then the time alone tells.
        """
        if stamp_us is None:
            return False
        compaction = stamp_us % SECOND_US // 2
        if compaction and compaction not in self.done:
            return purchase.time_s <= stamp_us // SECOND_US
        return self.done.get(compaction, {}).get(purchase.log, 0) >= purchase.segment
