from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.off_policy import Config, Log, expected, run, shares
from feature_repo.contract.errors import BadInput, ConfigError


def log(seed: int, count: int = 600) -> Log:
    random = np.random.default_rng(seed)
    clicks = (random.random(count) < 0.2).astype(np.float64)
    return Log(
        random.integers(0, 4, count), random.integers(0, 3, count), clicks, np.full(count, 0.25)
    )


def write(folder: Path, policy: str, log: Log) -> None:
    path = folder / policy / "all" / "all.csv"
    path.parent.mkdir(parents=True)
    lines = [",timestamp,item_id,position,click,propensity_score"]
    lines += [
        f"{n},2019,{item},{place + 1},{int(click)},{propensity}"
        for n, (item, place, click, propensity) in enumerate(
            zip(log.item_N, log.place_N, log.click_N, log.propensity_N, strict=True)
        )
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def test_the_shares_of_items_at_a_place_are_one_together() -> None:
    assert shares(log(0), 4).sum(axis=0).tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_the_reward_model_never_saw_the_choices_that_it_judges() -> None:
    one = log(0)
    config = Config()
    fold = np.random.default_rng(config.seed).integers(0, 2, 600)
    other = Log(one.item_N, one.place_N, np.where(fold == 0, 0.0, one.click_N), one.propensity_N)

    assert (expected(other, 4, config)[fold == 1] == 0).all()
    assert (expected(other, 4, config)[fold == 0] > 0).all()


def test_both_policies_are_judged_by_each_others_log(tmp_path: Path) -> None:
    for seed, policy in enumerate(("random", "bts")):
        write(tmp_path, policy, log(seed))

    rows = run(Config(obd=str(tmp_path), rounds=50, seed=1))

    assert [row["policy"] for row in rows] == ["bts"] * 4 + ["random"] * 4
    assert all(row["low"] < row["clicks_per_1000"] < row["high"] for row in rows)
    assert rows[0]["own_log"] == pytest.approx(1000 * log(1).click_N.mean())


def test_settings_that_do_not_hold_and_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        Config(folds=1)
    with pytest.raises(BadInput, match="is not there"):
        run(Config(obd=str(tmp_path)))
