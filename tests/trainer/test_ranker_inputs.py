"""From windows to rows, by an encoder that is fitted on the latest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.schema import Entity
from ranking.features import numeric_matrix
from ranking.inputs import InputEncoder
from tests.ranking import shop
from tests.trainer.ranker_shop import (
    NETWORK,
    make_window,
)
from trainer.ranker_inputs import balanced_rows, encode_windows
from trainer.ranker_rows import Rows


def test_windows_are_joined_one_after_the_other(ranker_dataset: Dataset) -> None:
    first, second = make_window(), make_window(7)

    inputs, rows = encode_windows([first, second], NETWORK, ranker_dataset)

    assert len(rows) == shop.NUM_USERS + 7
    alone = second.encode(inputs)
    mine = slice(int(rows.offsets[shop.NUM_USERS]), int(rows.offsets[-1]))
    np.testing.assert_array_equal(rows.labels[mine], alone.labels)
    np.testing.assert_array_equal(rows.inputs.columns.codes[mine], alone.inputs.columns.codes)
    np.testing.assert_array_equal(
        rows.items.encoded.bags["brand"].values[rows.inputs.item_of[mine]],
        alone.items.encoded.bags["brand"].values[alone.inputs.item_of],
    )


def test_windows_of_other_sources_are_refused(ranker_dataset: Dataset) -> None:
    window = make_window()
    other = replace(window, candidates=replace(window.candidates, sources=("ann", "popular")))

    with pytest.raises(ConfigError, match="same sources"):
        encode_windows([window, other], NETWORK, ranker_dataset)


def test_cut_points_are_found_on_as_many_bought_as_other_candidates() -> None:
    labels = np.zeros(100, dtype=np.bool_)
    labels[[5, 50, 98]] = True

    found = balanced_rows(labels)

    assert found[:3].tolist() == [5, 50, 98]
    assert len(found) == 6
    assert not labels[found[3:]].any()


def test_the_wide_side_reads_the_numeric_matrix_of_the_trained_columns(
    encoded: tuple[InputEncoder, Rows],
) -> None:
    inputs, rows = encoded
    window = make_window()
    values = numeric_matrix(window.requests(inputs.encoder, 56.0))

    assert values.shape == rows.inputs.columns.codes.shape
    assert inputs.numeric[Entity.PAIR].names[0] == "own_count"
    assert inputs.crosses.crosses[-1].features == ("segment", "brand")
