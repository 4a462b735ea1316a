"""The benchmark of list policies, on the tiny shop's release."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.policy import Config, Scored, draw, find_release, run, score, sweeps, tail_buyers
from feature_repo.contract.artifacts import read_table
from feature_repo.contract.errors import ArtifactError, ConfigError
from ranking.policy_config import PolicyConfig
from serving.release import Release
from tests.serving.conftest import BUILD_LIMIT_S, release, shop  # noqa: F401
from tests.serving.shop import TinyShop
from trainer.evaluation.config import Split
from trainer.evaluation.window import load_window

pytestmark = pytest.mark.timeout(BUILD_LIMIT_S)

CONFIG = Config(k=5, samples=50)


@pytest.fixture(scope="module")
def scored(shop: TinyShop, release: Release) -> Scored:  # noqa: F811
    """Return the tiny shop's users, scored by its only release, which is at t2."""
    rows = read_table(shop.dataset.sets / "ranking_v1-users-t2" / "users.parquet")
    return score(CONFIG, release, load_window(shop.dataset, Split.test), rows)


def test_the_long_tail_is_the_least_bought_items_with_a_share_of_the_buyers() -> None:
    items = pa.table({"buyers_total": [50, 1, 4, None, 5, 40]})

    assert tail_buyers(items, 0.1) == 5  # 1 + 4 + 5 = 0.1 * 100
    assert tail_buyers(items, 0.09) == 4
    assert tail_buyers(items, 0.5) == 40  # 1 + 4 + 5 + 40 = 0.5 * 100


def test_a_policy_without_strength_costs_nothing_and_a_strong_one_gains(scored: Scored) -> None:
    rows = run(scored)

    by_policy: dict[str, list[dict[str, float]]] = {}
    for row in rows:
        by_policy.setdefault(row["policy"], []).append(row)
    assert len(by_policy) == len(sweeps(scored))
    for name, mine in by_policy.items():
        assert mine[0]["price"] == 0, name
        assert mine[0]["ndcg"] == rows[0]["ndcg"], name
        assert mine[-1]["gain"] >= mine[0]["gain"], name
        for row in mine:
            assert row["price"] == pytest.approx(mine[0]["ndcg"] - row["ndcg"])
            assert row["price_low"] <= row["price"] <= row["price_high"]
    aims = ("diversity", "novelty", "serendipity")
    for name in ("long tail", *(f"{aim}, relevance by rank" for aim in aims)):
        assert by_policy[name][-1]["gain"] > by_policy[name][0]["gain"], name


def test_the_plain_lists_are_those_of_the_release(
    scored: Scored,
    shop: TinyShop,  # noqa: F811
    release: Release,  # noqa: F811
) -> None:
    lists = scored.lists(scored.policy(PolicyConfig()))

    rows = read_table(shop.dataset.sets / "ranking_v1-users-t2" / "users.parquet")
    now_s = np.full(len(rows), int(release.about.cutoff.timestamp()))
    want = release.lists(rows, now_s, 5, ranker="default").item_row
    users = scored.window.users.rows(rows.column("user_id"))
    assert lists.tolist() == want[np.searchsorted(users, scored.judged.users)].tolist()


def test_every_policy_is_drawn(tmp_path: Path) -> None:
    rows = [
        {
            "aim": aim,
            "policy": f"{aim} {way}",
            "strength": strength,
            "gain": strength,
            "ndcg": 0.4 - 0.1 * strength,
            "measure": "bits",
        }
        for aim in ("novelty", "diversity")
        for way in ("one", "two")
        for strength in (0.0, 1.0)
    ]

    draw(rows, 10, tmp_path / "policy.png")

    assert (tmp_path / "policy.png").read_bytes().startswith(b"\x89PNG")


def test_a_release_of_another_cut_off_is_refused(shop: TinyShop) -> None:  # noqa: F811
    with pytest.raises(ArtifactError, match="validation cut-off"):
        find_release(Config(releases=str(shop.releases)), shop.dataset)
    with pytest.raises(ArtifactError, match="validation cut-off"):
        find_release(Config(release=str(shop.releases / "current")), shop.dataset)


@pytest.mark.parametrize("settings", [{"task": "old"}, {"k": 1}, {"tail": 1.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Config(**settings)  # type: ignore[arg-type]
