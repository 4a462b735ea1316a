"""The benchmark of the feature store on a few users, with Feast's own engine beside ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import features
from benchmarks._feature_shop import FeatureShop
from benchmarks._timed_feast import main
from benchmarks.features import AGAIN, OURS, REDIS, STOCK, UNCHECKED, Config, Filled, row, run
from feature_repo.contract.errors import ConfigError


def feast_in_this_process(shop: FeatureShop, *arguments: str) -> tuple[float, dict[str, float]]:
    """Feast's command line, without the seconds that a new Python takes to import it."""
    out = shop.folder / "timed.json"
    main(out, ["-c", str(shop.repository), *arguments])
    return 1.0, json.loads(out.read_text())


def test_every_way_fills_the_store_with_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_feast", feast_in_this_process)

    rows = run(Config(users=300, folder=str(tmp_path)))

    by_name = {values["how"]: values for values in rows}
    assert list(by_name) == [REDIS, UNCHECKED, OURS, AGAIN, STOCK]
    for name, values in by_name.items():
        assert values["rows_per_s"] == 300 / values["stage_s"], name
        assert (values["client_cpu_us"] is None) == (name == REDIS)
    assert by_name[STOCK]["times_feast"] == by_name[REDIS]["of_redis"] == 1


def test_figures_are_ratios_of_seconds() -> None:
    least = {
        REDIS: Filled(stage_s=2.0, server_cpu_s=1.5),
        OURS: Filled(stage_s=4.0, server_cpu_s=2.0, client_cpu_s=1.0, command_s=10.0),
        STOCK: Filled(stage_s=60.0, server_cpu_s=3.0, client_cpu_s=55.0, command_s=70.0),
    }

    assert row(OURS, least, users=1_000_000) == {
        "how": OURS,
        "stage_s": 4.0,
        "rows_per_s": 1_000_000 / 4,
        "of_redis": 2 / 4,
        "times_feast": 60 / 4,
        "command_s": 10.0,
        "command_times_feast": 70 / 10,
        "client_cpu_us": 1.0,
        "server_cpu_us": 2.0,
    }


def test_no_users_are_refused() -> None:
    with pytest.raises(ConfigError, match="users and rounds must be above zero"):
        Config(users=0)
