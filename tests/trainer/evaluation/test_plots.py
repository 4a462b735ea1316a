from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.evaluation.test_markdown import evaluation
from trainer.evaluation.plots import _share, _spots, _spread, draw_all


@pytest.mark.parametrize("with_system", [True, False])
def test_each_plot_is_a_png(tmp_path: Path, with_system: bool) -> None:
    files = draw_all(evaluation(with_system=with_system), tmp_path)

    assert sorted(path.name for path in files) == ["coverage.png", "ndcg.png", "segments.png"]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    for path in files:
        assert path.read_bytes().startswith(b"\x89PNG")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10), st.floats(0.001, 0.1))
def test_spread_labels_keep_their_order_and_distance(heights: list[float], gap: float) -> None:
    placed = np.array(_spread(heights, gap))
    order = np.argsort(heights, kind="stable")

    assert (np.diff(placed[order]) >= 0.9 * gap).all()


def test_labels_that_are_far_apart_stay_where_they_are() -> None:
    assert _spread([0.5, 0.1], 0.05) == [0.5, 0.1]


def test_methods_at_one_place_share_a_label() -> None:
    methods = evaluation().tasks["all"].methods
    twin = methods[1]

    labels = [label for *_, label in _spots([methods[0], twin, twin])]

    assert labels == ["SHOPREC", "POPULAR, POPULAR"]


@pytest.mark.parametrize(
    ("value", "text"), [(0.4, ".4"), (0.015, ".015"), (0.0, "0"), (1.0, "1"), (10.0, "10")]
)
def test_ticks_are_exact_and_short(value: float, text: str) -> None:
    assert _share(value) == text
