"""Items that a user has to do with now, read as the most recent ones of the history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from feature_repo.contract.state import DAY_S, HISTORY_COLUMNS, ItemState, UserState
from serving.ids import Id


def with_anchors(
    user_row: pa.Table, anchors: Sequence[Id], now_s: int, half_life_days: float
) -> pa.Table:
    """One user's row with items that are seen at this moment.

    Each weighs as much as a purchase of now, so that the sources of neighbours and the user tower
    follow it; the stored state is not touched.

    Args:
        user_row: one row of user features; without a history it stays as it is.
        anchors: latest first.
        now_s: epoch seconds.
        half_life_days: of decayed counts.
    """
    if not anchors or not set(HISTORY_COLUMNS) <= set(user_row.column_names):
        return user_row
    stored = {name: user_row.column(name)[0].as_py() for name in HISTORY_COLUMNS}
    known = dict(UserState.from_row(stored).items)
    seen = {item_id: _seen(known.pop(item_id, None), now_s, half_life_days) for item_id in anchors}
    columns = UserState((*seen.items(), *known.items())).to_row()
    for name, values in columns.items():
        place = user_row.column_names.index(name)
        field = user_row.schema.field(name)
        user_row = user_row.set_column(place, field, pa.array([values], field.type))
    return user_row


def _seen(old: ItemState | None, now_s: int, half_life_days: float) -> ItemState:
    if old is None:
        return ItemState(count=1, weight=1.0, first_s=now_s, last_s=now_s, gap_sq=0.0)
    age_days = max(now_s - old.last_s, 0) / DAY_S
    weight = 1.0 + old.weight * float(np.exp2(-age_days / half_life_days))
    return replace(old, weight=weight, last_s=now_s)
