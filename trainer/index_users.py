"""Vectors of real users, on which an index is tuned and measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from feature_repo.contract.encoding import Encoder
from feature_repo.contract.tables import Tables
from retrieval.inputs import encode_users
from retrieval.towers import TwoTower, pooled_inputs
from trainer.sets import TrainingSet

Floats = npt.NDArray[np.float32]

USERS = 2_048


def vectors_of_users(towers: Path, sessions: TrainingSet, half_life_days: float) -> Floats:
    """[B, V] of users at evenly spread rows of a set; at most ``USERS``.

    The index never sees them before it is measured: it is made of items alone.

    Args:
        towers: encoder, tables and towers of a two-tower run.
        sessions: the users; what they bought then is not looked at.
        half_life_days: of the decayed counts.
    """
    encoder, model = Encoder.load(towers / "encoder"), TwoTower.load(towers)
    encoded = encode_users(encoder, spread_rows(sessions, USERS), None, half_life_days)
    inputs = pooled_inputs(encoded, Tables.load(towers / "tables"), model.config.user.features)
    with torch.inference_mode():
        found: Floats = model.user_vectors(*inputs).numpy()
    return found


def spread_rows(sessions: TrainingSet, most: int, groups: int = 8) -> pa.Table:
    """At most ``most`` rows of a set, evenly spread over at most ``groups`` of its row groups."""
    sizes = sessions.group_sizes()
    chosen = np.unique(np.linspace(0, len(sizes) - 1, groups).astype(np.int64))
    columns = sessions.users.schema_arrow.names
    parts = []
    for group in chosen.tolist():
        table = sessions.read_group(group, columns)
        rows = np.unique(np.linspace(0, len(table) - 1, most // len(chosen)).astype(np.int64))
        parts.append(table.take(pa.array(rows)))
    return pa.concat_tables(parts)
