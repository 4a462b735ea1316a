"""The benchmark of candidate models, on a made-up split of a few users."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks import _report, retrieval
from benchmarks._sampled import judge_sampled, read_negatives
from feature_repo.contract.artifacts import read_json
from feature_repo.contract.dataset import IdType
from feature_repo.contract.encoding import Encoder, Quantiles
from feature_repo.contract.errors import BadInput
from feature_repo.contract.schema import Schema
from feature_repo.contract.vocabulary import Vocabulary
from retrieval.sources import PopularSource
from trainer.__main__ import main

PYTHON = retrieval._python


def in_this_process(module: str, arguments: list[str]) -> tuple[str, float]:
    """The trainer without a process for each run; the other commands as they are."""
    if module != "trainer":
        return PYTHON(module, arguments)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main([*arguments, "trainer.epochs=2"]) == 0
    return out.getvalue(), 1.0


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """60 users of two tastes, who bought 12 of 20 items of their taste; 2 more are the test."""
    rng, folder = np.random.default_rng(0), tmp_path / "files"
    folder.mkdir()
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for user in range(60):
        items = 20 * (user % 2) + rng.permutation(20)[:14]
        lines["train"].append(f"{user} {' '.join(map(str, items[:12]))}\n")
        lines["test"].append(f"{user} {' '.join(map(str, items[12:]))}\n")
    for name, text in lines.items():
        (folder / f"{name}.txt").write_text("".join(text))
    return folder


def test_models_and_their_blend_are_measured_beside_published_figures(
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(_report, "RESULTS", tmp_path)
    monkeypatch.setattr(retrieval, "_python", in_this_process)
    settings = [
        f"gowalla={files}",
        "models=[item_knn,mf]",
        "seeds=[0]",
        f"folder={tmp_path / 'data'}",
        f"runs={tmp_path / 'runs'}",
    ]

    assert retrieval.main(settings) == 0

    rows = {row["model"]: row for row in read_json(tmp_path / "retrieval.json")["rows"]}
    assert rows["SimpleX"]["recall"] == 0.1872
    by_chance = 20 / (40 - 12)
    for name in ("item-kNN", "MF", "blend of all"):
        row = rows[f"shoprec {name}"]
        assert by_chance < row["recall"] <= 1
        assert row["seconds"] > 0
    assert "| shoprec blend of all" in capsys.readouterr().out


def test_a_data_set_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert retrieval.main([]) == 1
    assert "gowalla=DIR" in capsys.readouterr().err


def test_an_unknown_model_is_told(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert retrieval.main([f"gowalla={files}", "models=[svm]"]) == 1
    assert "svm" in capsys.readouterr().err


def test_a_held_out_item_is_ranked_among_its_own_ninety_nine() -> None:
    items = Vocabulary.build(pa.array(range(200)), IdType.INT64)
    users = Vocabulary.build(pa.array([7, 8]), IdType.INT64)
    encoder = Encoder(Schema("s", ()), users, items, Quantiles({}), 1)
    order = np.arange(1, 201, dtype=np.int64)
    popular = PopularSource("popular", order, -order.astype(np.float32))
    times = pa.array([0, 0], pa.timestamp("us", tz="UTC"))
    lists = pa.array([[], []], pa.list_(pa.int64()))
    columns = {"user_id": [7, 8], "event_timestamp": times, "history_item_id": lists}
    rows = pa.table({**columns, "target_item_id": [[3], [50]]})
    negatives = {(7, 3): np.arange(100, 199), (8, 50): np.arange(0, 99) + (np.arange(99) >= 50)}

    found = judge_sampled(popular, rows, encoder, negatives)

    assert found["recall"] == 1 / 2
    assert found["ndcg"] == pytest.approx((1 / np.log2(2) + 0) / 2)


def test_a_malformed_line_of_negatives_is_named(tmp_path: Path) -> None:
    path = tmp_path / "negatives"
    path.write_text("(0,1)" + "\t5" * 99 + "\n(0,2)\t5\n")

    with pytest.raises(BadInput, match="Line 2"):
        read_negatives(path)
