"""The benchmark of scale on a small shop: the whole way, with a stop in the middle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.scale import Config, run
from feature_repo.contract.encoding import Encoder
from feature_repo.contract.tables import Tables

pytestmark = pytest.mark.slow


def test_a_stopped_run_goes_on_exports_and_is_indexed(tmp_path: Path) -> None:
    config = Config(
        users=3_000,
        items=1_200,
        dim=8,
        processes=2,
        batch=64,
        steps=20,
        sessions=4_000,
        history=5,
        folder=str(tmp_path),
    )

    rows = run(config)

    by_phase = {row["phase"]: row for row in rows}
    assert {"start", "train", "load", "both runs", "index"} <= by_phase.keys()
    for phase in ("start", "train", "load"):
        assert 0.1 < by_phase[phase]["private GB"] < by_phase[phase]["resident GB"] < 3
    assert by_phase["index"]["recall@100"] > 0.5
    (folder,) = (tmp_path / "runs").iterdir()
    encoder = Encoder.load(folder / "two_tower" / "encoder")
    tables = Tables.load(folder / "two_tower" / "tables").tables
    assert (len(encoder.users), len(encoder.items)) == (3_000, 1_200)
    assert {name: table.values.dtype for name, table in tables.items()} == {
        "user_id": np.int8,
        "item_id": np.int8,
    }
