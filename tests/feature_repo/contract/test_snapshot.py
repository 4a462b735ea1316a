from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.contract.errors import ArtifactError, BadInput
from feature_repo.contract.schema import Derive, Encoding, Entity, Feature, Schema
from feature_repo.contract.snapshot import Kind, Snapshot, Spread

NOW = datetime(2026, 1, 11, tzinfo=UTC)


def feature(name: str, dtype: str, encoding: Encoding, **more: object) -> Feature:
    return Feature(name, Entity.USER, "v", dtype, encoding, buckets=8, **more)  # type: ignore[arg-type]


SCHEMA = Schema(
    "ranking_v1",
    (
        feature("segment", "String", Encoding.CATEGORICAL),
        feature("spend", "Float32", Encoding.NUMERIC),
        feature("last_s", "Int64", Encoding.NUMERIC, derive=Derive.DAYS_SINCE),
        feature("history", "Array(Int64)", Encoding.BAG, bag_of="item_id"),
        feature("weights", "Array(Float32)", Encoding.STATE),
    ),
)


def rows(**changes: object) -> pa.Table:
    day = int(NOW.timestamp()) - 86_400
    columns: dict[str, object] = {
        "event_timestamp": pa.array([NOW] * 4, pa.timestamp("us", tz="UTC")),
        "segment": ["a", "a", "b", None],
        "spend": [1.0, 2.0, None, 3.0],
        "last_s": [day, day - 86_400, day, None],
        "history": pa.array([[1, 2], [3], [], None], pa.list_(pa.int64())),
        "weights": pa.array([[1.0], [1.0], [], None], pa.list_(pa.float32())),
    }
    return pa.table({**columns, **changes})


def test_a_snapshot_counts_values_and_what_is_missing() -> None:
    found = {spread.name: spread for spread in Snapshot.of(rows(), SCHEMA, "users").features}

    assert list(found) == ["segment", "spend", "last_s", "history"]
    assert (found["segment"].labels, found["segment"].counts) == (["a", "b"], [2, 1, 0])
    assert found["segment"].missing == 1
    assert (found["spend"].cuts, found["spend"].missing) == ([1.0, 2.0, 3.0], 1)
    assert found["spend"].counts == [1, 1, 1, 0]
    assert found["last_s"].cuts == [1.0, 2.0]
    assert (found["history"].cuts, found["history"].missing) == ([1.0, 2.0], 2)


def test_other_rows_are_counted_by_the_same_cells() -> None:
    snapshot = Snapshot.of(rows(), SCHEMA, "users")

    counted = snapshot.count(
        rows(segment=["c", "c", None, "a"], spend=[0.5, 9.0, 2.0, 1.5]), SCHEMA
    )

    assert counted["segment"].cells.tolist() == [1, 0, 2]
    assert counted["segment"].missing == 1
    assert counted["spend"].cells.tolist() == [1, 2, 0, 1]


def test_a_snapshot_reads_as_it_was_written(tmp_path: Path) -> None:
    scores = Spread.of_numbers("score", np.array([0.1, 0.2]))
    snapshot = Snapshot.of(rows(), SCHEMA, "users")
    snapshot = Snapshot(snapshot.fingerprint, 4, "users", snapshot.features, scores, {"k": 10.0})

    snapshot.save(tmp_path / "monitor.json")

    assert Snapshot.load(tmp_path / "monitor.json") == snapshot


def test_a_stranger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "monitor.json").write_text('{"format": 2}')

    with pytest.raises(ArtifactError, match="not a snapshot of format 1"):
        Snapshot.load(tmp_path / "monitor.json")


def test_many_equal_values_are_one_cell() -> None:
    values = np.concatenate([np.zeros(90), np.arange(1, 11)])

    spread = Spread.of_numbers("spend", values)

    assert spread.counts[0] == 90
    assert spread.kind is Kind.NUMBER
    assert sum(spread.counts) == 100


def test_a_column_of_texts_is_no_number() -> None:
    with pytest.raises(BadInput, match="'spend' holds no numbers"):
        Snapshot.of(rows(spend=["x", "y", "z", "w"]), SCHEMA, "users")


def test_what_changes_by_itself_is_told_by_earlier_rows() -> None:
    snapshot = Snapshot.of(rows(), SCHEMA, "users")
    earlier = rows(spend=[1.0, 1.0, 1.0, 1.0], segment=["a", "b", "b", None])

    found = {one.name: one for one in snapshot.with_usual(earlier, SCHEMA).features}

    assert found["spend"].usual == pytest.approx(1 - 1 / 3)
    assert found["spend"].usual_missing == 1 / 4
    assert found["segment"].usual == pytest.approx(2 / 3 - 1 / 3)
    assert found["history"].usual == 0
