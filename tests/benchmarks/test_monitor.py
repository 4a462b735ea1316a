"""Simulated drifts, few and with a fixed seed."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks._monitored_shop import CHANGED_CATEGORY, answers, emptied, feature_rows, shifted
from benchmarks.monitor import Config, feature_rates, online_rates, simulated
from feature_repo.contract.errors import ConfigError

CONFIG = Config(rounds=4, reference=1500, served=1500, users=400)


def test_large_drifts_are_found_and_none_where_there_is_none() -> None:
    rows = {row["drift"]: row for row in feature_rates(CONFIG, simulated(CONFIG), CONFIG.served)}

    assert rows["none"]["false_alarms"] == 0
    assert rows["mean by 0.5 deviations"]["found"] == 1
    assert rows["missing +20 points"]["found"] == 1


@pytest.mark.slow
def test_a_large_shift_of_scores_is_found() -> None:
    rows = {row["drift"]: row for row in online_rates(CONFIG, CONFIG.users)}

    assert rows["scores by 0.5 deviations"]["found"] == 1
    assert rows["none"]["found"] is None


def test_a_shift_moves_the_mean_by_deviations_and_keeps_what_is_missing() -> None:
    rows = feature_rows(np.random.default_rng(0), 2000)

    moved = shifted(rows, "number_0", 0.5)

    before, after = (t.column("number_0").drop_null().to_numpy() for t in (rows, moved))
    assert after.mean() - before.mean() == pytest.approx(0.5 * before.std())
    assert moved.column("number_0").null_count == rows.column("number_0").null_count


def test_as_many_points_more_are_missing() -> None:
    random = np.random.default_rng(0)
    rows = feature_rows(random, 20_000)

    lost = emptied(random, rows, CHANGED_CATEGORY, 20)

    more = lost.column(CHANGED_CATEGORY).null_count - rows.column(CHANGED_CATEGORY).null_count
    assert more / 20_000 == pytest.approx(0.2, abs=0.01)


def test_users_click_about_one_place_in_twenty() -> None:
    shown = answers(np.random.default_rng(0), 2000, blocks=2)

    assert shown.clicked_P.mean() == pytest.approx(0.05, rel=0.15)
    assert set(shown.window_A.tolist()) == {0, 1, 2}


def test_a_benchmark_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="rounds must be at least 2"):
        Config(rounds=1)
