from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import counterfactual
from benchmarks._exploring_shop import Shop, looks
from benchmarks.exploration import ORACLE, RANDOM, Config, draw, play, run
from feature_repo.contract.errors import ConfigError

SMALL = Config(requests=200, seeds=1, items=80, new=20, found=40, arms=15, late=20)


def test_the_ranker_takes_new_items_for_unpopular() -> None:
    shop = Shop.of(np.random.default_rng(0), 4000, 1000)
    true = np.log(shop.rate_GI / (1 - shop.rate_GI))
    error = (shop.score_GI - true).mean(axis=0)

    assert error[shop.new_I].mean() == pytest.approx(-1.0, abs=0.15)
    assert error[~shop.new_I].mean() == pytest.approx(0.0, abs=0.15)


def test_items_that_come_later_are_no_candidates_before() -> None:
    shop, random = Shop.of(np.random.default_rng(0), 80, 20), np.random.default_rng(1)

    early = np.concatenate([shop.request(random, 0.3, 40, 40)[1] for _ in range(50)])
    late = np.concatenate([shop.request(random, 0.4, 40, 40)[1] for _ in range(50)])

    assert (shop.arrives_I[early] == 0).all()
    assert (shop.arrives_I[late] > 0).any()


def test_a_place_is_looked_at_by_its_power() -> None:
    assert looks(4, 0.5).tolist() == pytest.approx([1.0, 2**-0.5, 3**-0.5, 1 / 2])


def test_who_knows_all_rates_regrets_nothing() -> None:
    assert play(ORACLE, SMALL, 0).regret_T.sum() == pytest.approx(0.0)
    assert play(RANDOM, SMALL, 0).regret_T.min() >= -1e-12


def test_every_policy_has_a_row_and_a_rising_curve(tmp_path: Path) -> None:
    rows, curves = run(SMALL)

    assert [row["policy"] for row in rows] == list(curves)
    assert all((np.diff(curve) >= -1e-9).all() for curve in curves.values())
    draw(tmp_path / "curves.png", SMALL, curves)
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_rankers_are_trained_on_logged_clicks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counterfactual, "JUDGED", 200)
    config = counterfactual.Config(requests=300, seeds=1, arms=20, epochs=2)

    rows = counterfactual.run(config)

    assert len(rows) == 4
    assert all(0 < row["of_the_best"] < 1 for row in rows)


def test_settings_that_do_not_hold_are_refused() -> None:
    with pytest.raises(ConfigError, match="new must be below items"):
        Config(new=500)
    with pytest.raises(ConfigError, match="explored must be below n"):
        counterfactual.Config(explored=5)
