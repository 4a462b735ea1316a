"""Going on from the published release: what is held back, what is compared, what is published."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from feature_repo.contract.artifacts import read_manifest, write_manifest
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ArtifactError, BadInput, ConfigError
from ranking.metrics import Estimate
from trainer.__main__ import main
from trainer.config import compose
from trainer.continuing import (
    Comparison,
    ContinueConfig,
    Continuing,
    Rankers,
    Served,
    compare,
    held_back,
    windows_of,
)
from trainer.distributed import Process
from trainer.runs import Run

COMMAND = ["experiment=two_tower", "init=release", "data.since=last"]


def test_settings_are_told_apart() -> None:
    config = ContinueConfig.parse(
        [*COMMAND, "data=parquet", "data.name=own", "init.hold_days=3", "trainer.epochs=2"]
    )

    assert (config.experiment, config.hold_days, config.min_users) == ("two_tower", 3, 30)
    assert config.rankers is Rankers.keep
    assert config.shop.named[:2] == ("data=parquet", "data.name=own")
    assert config.training == ("trainer.epochs=2",)
    assert config.runs == Path("runs/own").resolve()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"init": "scratch"}, "init=scratch is not known; go on with init=release"),
        ({"data.since": "2020-01-01"}, "data.since=2020-01-01 is not known"),
        ({"data.since": ...}, "data.since=None is not known"),
        ({"experiment": ...}, "Say which model goes on"),
        ({"init.hold_days": "some"}, "init.hold_days=some is not a whole number"),
        ({"init.hold_days": "0"}, r"init.hold_days must be above zero; got 0"),
        ({"init.rankers": "drop"}, r"init.rankers=drop must be train or keep"),
    ],
)
def test_wrong_settings_are_named(changed: dict[str, Any], message: str) -> None:
    values = {"experiment": "two_tower", "init": "release", "data.since": "last", **changed}
    given = [f"{key}={value}" for key, value in values.items() if value is not ...]

    with pytest.raises(ConfigError, match=message):
        ContinueConfig.parse(given)


def test_whole_days_are_held_back() -> None:
    end = datetime(2020, 7, 18, 14, 30, 1, tzinfo=UTC)  # just after the last event

    assert held_back(end, 1) == datetime(2020, 7, 18, tzinfo=UTC)
    assert held_back(end, 4) == datetime(2020, 7, 15, tzinfo=UTC)
    assert held_back(datetime(2020, 7, 18, tzinfo=UTC), 1) == datetime(2020, 7, 17, tzinfo=UTC)


def test_without_a_published_release_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="names no release that training could go on from"):
        Served.of(tmp_path)


@pytest.fixture
def runs(shop_dataset: Dataset, tmp_path: Path) -> Path:
    """Return a folder of the run of a ranker that learned from three bundles, one of them gone."""
    bundles = [tmp_path / str(day) / "retriever" for day in (15, 8, 1)]
    for bundle, day in zip(bundles, (15, 8, 1), strict=True):
        if day > 1:
            bundle.mkdir(parents=True)
            write_manifest(bundle, "retriever", {"cutoff": f"2020-01-{day:02}T00:00:00+00:00"})
    ranker = ["experiment=wide_deep", "cutoff=2020-01-22", f"retriever={bundles[0]}"]
    config = compose(
        [*ranker, f"model.earlier=[{bundles[1]},{bundles[2]}]", f"data.root={shop_dataset.root}"]
    )
    Run.open(config, {}, Process(0, 1, 0, torch.device("cpu")), tmp_path / "runs" / "ranker-1")
    return tmp_path / "runs"


def served(run: str | None) -> Served:
    return Served(
        Path("release"), {"rankers": ["default"], "config": {"rankers/default": {"run": run}}}
    )


def test_a_ranker_is_trained_as_its_run_was(runs: Path) -> None:
    run = served("ranker-1").run_of("default", runs)

    assert run == runs / "ranker-1"
    newest, earlier = windows_of(run)
    assert newest.bundle == runs.parent / "15" / "retriever"
    assert (newest.cutoff.day, newest.until.day) == (15, 22)
    assert (earlier.cutoff.day, earlier.until.day) == (8, 15)


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (None, "its run  is not in"),
        ("ranker-2", "its run ranker-2 is not in"),
        ("ranker-1", "it was trained with model.validation"),
    ],
)
def test_a_ranker_that_cannot_be_trained_anew_stays(
    runs: Path, run: str | None, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    record = runs / "ranker-1" / "run.json"
    made_from = json.loads(record.read_text())
    made_from["model"]["validation"] = "/some/retriever"
    record.write_text(json.dumps(made_from))

    assert served(run).run_of("default", runs) is None
    assert f"The ranker default stays as it is: {reason}" in caplog.text


def write_lists(path: Path, lists: dict[int, list[int]]) -> Path:
    rows = [(u, item, rank) for u, own in lists.items() for rank, item in enumerate(own, start=1)]
    user, item, rank = (list(column) for column in zip(*rows, strict=True))
    pq.write_table(
        pa.table({"user_id": user, "item_id": item, "rank": pa.array(rank, pa.int32())}), path
    )
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Return three users: one bought 1 and 2 (and had 1), one bought 3, one bought nothing."""
    table = pa.table(
        {
            "user_id": [10, 20, 30],
            "target_item_id": pa.array([[1, 2], [3], []], pa.list_(pa.int64())),
            "seen_item_id": pa.array([[1, 9], [], [4]], pa.list_(pa.int64())),
        }
    )
    pq.write_table(table, tmp_path / "users.parquet")
    return tmp_path / "users.parquet"


def test_both_releases_are_judged_on_the_users_who_bought_something(
    rows: Path, tmp_path: Path
) -> None:
    served = write_lists(tmp_path / "served.parquet", {10: [2, 9], 20: [4, 5], 30: [3]})
    new = write_lists(tmp_path / "new.parquet", {10: [1, 2], 20: [4, 3]})

    found = compare(served, new, rows, only_new=False)

    first, second = 1.0, 1 / math.log2(3)
    assert found.users == 2
    assert found.served == pytest.approx((first / (first + second) + 0) / 2)
    assert found.new == pytest.approx((1 + second) / 2)
    assert found.difference.mean == pytest.approx(found.new - found.served)


def test_of_new_items_those_that_were_bought_before_do_not_count(
    rows: Path, tmp_path: Path
) -> None:
    served = write_lists(tmp_path / "served.parquet", {10: [1, 2], 20: [3]})
    new = write_lists(tmp_path / "new.parquet", {10: [2], 20: [3]})

    found = compare(served, new, rows, only_new=True)

    assert found.served == pytest.approx((1 / math.log2(3) + 1) / 2)
    assert found.new == 1.0


class Unpublished(Continuing):
    """The last step alone."""

    def __init__(self, folder: Path) -> None:
        config = ContinueConfig.parse([*COMMAND, f"paths.runs={folder}", "data=parquet"])
        self._config, self._cutoff = config, datetime(2020, 7, 15, tzinfo=UTC)


def comparison(low: float, high: float, users: int = 100) -> Comparison:
    return Comparison(users, 0.5, 0.5, Estimate((low + high) / 2, low, high))


def test_a_release_that_is_worse_beyond_noise_stays_unpublished(tmp_path: Path) -> None:
    found = {"all": comparison(-0.02, -0.01), "new": comparison(-0.02, 0.01)}

    with pytest.raises(BadInput, match=r"makes worse lists of all items than the published"):
        Unpublished(tmp_path).publish(tmp_path / "shop-1", found)

    written = json.loads((tmp_path / "continued-2020-07-15" / "comparison.json").read_text())
    assert written["all"]["difference"] == {"mean": -0.015, "low": -0.02, "high": -0.01}


def test_too_few_users_tell_nothing(tmp_path: Path) -> None:
    found = {"all": comparison(0.1, 0.2, users=29), "new": comparison(0.1, 0.2, users=20)}

    with pytest.raises(BadInput, match="Only 29 users bought anything since 2020-07-15"):
        Unpublished(tmp_path).publish(tmp_path / "shop-1", found)


def test_the_command_tells_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init=release", "experiment=two_tower"]) == 1
    assert "go on with init=release data.since=last" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_feedback_becomes_the_next_release(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the log over the compaction to a release that knows the new users and items."""
    from feature_repo.contract.encoding import Encoder
    from feature_repo.jobs.cli import main as jobs
    from tests.feature_repo.jobs.feedback import append, line
    from tests.serving.shop import NAME, data_settings

    folder = tmp_path / "shop"
    command = [sys.executable, "-m", "tests.serving.shop", str(folder)]
    subprocess.run(command, cwd=repository, check=True, capture_output=True)
    monkeypatch.setenv("SHOPREC_ONLINE", str(folder / "online"))
    monkeypatch.delenv("REDIS_URL", raising=False)
    end = Dataset.load(folder / "data" / "dataset.json").end
    lines = []
    for user in range(80):  # twenty of them are new, and so are five items
        favourites = np.random.default_rng(user).choice(55, size=6, replace=False)
        for number in range(14):
            at = end + timedelta(days=number, hours=user % 20)
            item = int(favourites[number % 6])
            lines.append(line(f"{user}-{number}", 1000 + user, 500 + item, at))
    append(folder / "feedback" / f"{NAME}.jsonl", lines, datetime.now(UTC))
    settings = data_settings(folder)
    before = (folder / "releases" / "current").resolve()

    assert jobs(["compact", *settings, f"feedback=[{folder / 'feedback'}]"]) == 0
    assert jobs(["state", *settings]) == 0
    places = [f"paths.runs={folder / 'runs'}", f"init.releases={folder / 'releases'}"]
    training = ["trainer.epochs=1", "model.context=[HOUR,WEEKDAY]"]
    own = ["init.hold_days=4", "init.rankers=train"]
    assert main([*COMMAND, *settings, *places, *training, *own]) == 0

    after = (folder / "releases" / "current").resolve()
    assert after != before
    old, new = (Encoder.load(at / "retriever" / "encoder") for at in (before, after))
    for name in ("users", "items"):
        first, second = getattr(old, name), getattr(new, name)
        assert second.rows(first.ids).tolist() == first.rows(first.ids).tolist()
        assert len(second) > len(first)
    about = read_manifest(after, "release")
    assert about["config"]["rankers/default"]["cutoff"] == about["cutoff"]
    (told,) = (folder / "runs").glob("continued-*/comparison.json")
    assert json.loads(told.read_text())["all"]["users"] >= 70
