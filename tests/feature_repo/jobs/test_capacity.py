"""What users take in Redis, measured on a small shop and on rows made by hand."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import ArtifactError, ConfigError
from feature_repo.jobs.capacity import PLAIN, ViewRows, estimate, measure, report
from feature_repo.jobs.config import CapacityConfig, load_config
from tests.feature_repo.conftest import AppliedShop, shop_settings
from tests.feature_repo.jobs.shops import day, purchase, write_shop


def config(root: Path, *settings: str) -> CapacityConfig:
    return load_config(CapacityConfig, [*shop_settings(root), *settings])


def rows(count: int, text: str) -> ViewRows:
    columns = {
        "user_id": pa.array(range(count)),
        "event_timestamp": pa.array([day(0)] * count, pa.timestamp("us", tz="UTC")),
        "text": pa.array([text] * count),
    }
    return ViewRows("v", {"text": "String"}, IdType.INT64, pa.table(columns))


def test_a_longer_value_takes_as_much_more() -> None:
    (short,), (long,) = (
        measure([rows(2_000, "x" * 100)], PLAIN),
        measure([rows(2_000, "x" * 1_100)], PLAIN),
    )

    assert 1_000 <= long - short <= 1_300


def test_a_second_view_shares_the_users_key() -> None:
    first = rows(2_000, "x")
    second = ViewRows("w", first.features, IdType.INT64, first.rows)

    alone, more = measure([first, second], PLAIN)

    assert more < alone


def test_every_user_view_and_history_is_told(
    applied_shop: AppliedShop, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = config(applied_shop.root, "users=1000000", "sample=5000", "caps=[1,5]")

    costs = {cost.what: cost for cost in estimate(chosen)}
    report(chosen)

    views = ["user_activity", "user_history", "user_profile", "user_seen"]
    assert list(costs)[:5] == [*views, "all views"]
    assert costs["all views"].plain == pytest.approx(sum(costs[view].plain for view in views))
    assert (
        costs["user_history alone, 5 items each"].plain
        > costs["user_history alone, 1 items each"].plain
    )
    # The server's own memory moves by some kilobytes: a byte or two of each of 5,000 users.
    assert all(0 < cost.compact < cost.plain + 50 for cost in costs.values())
    assert "Redis memory of 1,000,000 users" in capsys.readouterr().out


def test_a_shop_without_features_is_told_what_to_run(tmp_path: Path) -> None:
    write_shop(tmp_path, [purchase(1, 1, day(0))])

    with pytest.raises(ArtifactError, match="Run `feast -c feature_repo apply`"):
        estimate(config(tmp_path))


@pytest.mark.parametrize("setting", ["users=0", "sample=0", "caps=[0]"])
def test_settings_out_of_range_are_refused(tmp_path: Path, setting: str) -> None:
    with pytest.raises(ConfigError, match="must be above zero"):
        config(tmp_path, setting)
