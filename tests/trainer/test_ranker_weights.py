"""Labels count by the inverse of how likely they were noticed, requests by their age."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.state import DAY_S
from tests.ranking import shop
from tests.trainer.ranker_shop import NETWORK, make_window
from trainer.ranker_config import RankerModelConfig
from trainer.ranker_inputs import encode_windows
from trainer.ranker_weights import inverse, propensities, recency, weighed
from trainer.ranker_windows import Window


def exposed(window: Window, places: dict[int, int], said: dict[int, float]) -> Window:
    """The window after the second user was shown some of the candidates, by place among them."""
    start = int(window.candidates.offsets[1])
    rows = window.candidates.item_row[[start + place for place in places]]
    empty = len(window.user_rows) - 2
    columns = {
        "exposed_item_id": pa.array([[], window.vocabulary.ids_of(rows), *[[]] * empty]),
        "exposed_position": pa.array([[], list(places.values()), *[[]] * empty]),
        "exposed_propensity": pa.array([[], [said.get(p) for p in places], *[[]] * empty]),
    }
    table = window.user_rows
    for name, column in columns.items():
        table = table.append_column(name, column)
    return replace(window, user_rows=table)


def test_popular_items_are_likelier_noticed_where_nothing_is_logged() -> None:
    window = make_window()
    labels, rows = window.labels, window.candidates.item_row

    found = propensities(window, labels)

    counts = {int(row): int((rows[labels] == row).sum()) for row in rows}
    most = max(counts.values())
    assert found.tolist() == [counts[int(row)] / most for row in rows]


def test_what_was_logged_comes_before_the_place_and_what_was_not_shown_is_noticed_anyway() -> None:
    window = exposed(make_window(), places={0: 4, 2: 5, 3: 1}, said={2: 0.25})

    found = propensities(window, window.labels)

    start = int(window.candidates.offsets[1])
    assert found[start : start + 5].tolist() == [1 / 4, 1.0, 0.25, 1.0, 1.0]
    assert found[:start].tolist() == [1.0] * start


def test_an_inverse_propensity_has_a_largest_value() -> None:
    assert inverse(np.array([1.0, 0.25, 0.01]), 0.5, 0.2).tolist() == [1.0, 1 / 0.5, 1 / 0.2]


def test_a_request_counts_half_for_every_half_life() -> None:
    times = np.array([0, 28, 42]) * int(DAY_S)

    assert recency(times, 14.0).tolist() == [1 / 8, 1 / 2, 1.0]


def test_what_is_trained_counts_one_in_the_mean(ranker_dataset: Dataset) -> None:
    latest, earlier = make_window(), make_window(8)
    place = earlier.user_rows.column_names.index("event_timestamp")
    then = pa.array([shop.NOW_S - 14 * int(DAY_S)] * 8, pa.timestamp("s", tz="UTC"))
    times = then.cast(earlier.user_rows["event_timestamp"].type)
    moved = earlier.user_rows.set_column(place, "event_timestamp", times)
    windows = [latest, replace(earlier, user_rows=moved)]
    _, rows = encode_windows(windows, NETWORK, ranker_dataset)
    model = RankerModelConfig(propensity_power=0.5, recency_half_life=14.0)

    found = weighed(rows, windows, model)

    bought = np.bincount(rows.inputs.user_of, rows.labels, minlength=len(rows)) > 0
    assert found.gains[rows.labels].mean() == pytest.approx(1.0)
    assert found.gains[rows.labels].std() > 0.1
    assert found.weights[bought].mean() == pytest.approx(1.0)
    assert found.weights[-1] == pytest.approx(found.weights[0] / 2)


def test_by_default_all_count_alike(ranker_dataset: Dataset) -> None:
    windows = [make_window()]
    _, rows = encode_windows(windows, NETWORK, ranker_dataset)

    assert weighed(rows, windows, RankerModelConfig()) is rows
    assert set(rows.gains) == set(rows.weights) == {1.0}


def test_weights_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="propensity_power"):
        RankerModelConfig(propensity_power=-1.0)
    with pytest.raises(ConfigError, match="propensity_floor"):
        RankerModelConfig(propensity_floor=0.0)
    with pytest.raises(ConfigError, match="recency_half_life"):
        RankerModelConfig(recency_half_life=0.0)
