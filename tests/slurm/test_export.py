"""``slurm/export.sbatch``: from finished runs to a release and its judgement."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from feature_repo.contract.artifacts import read_json
from serving.release import Release
from tests.serving.conftest import BUILD_LIMIT_S, shop
from tests.serving.shop import NAME, TinyShop
from tests.slurm.cluster import Cluster

__all__ = ["shop"]


def arguments(shop: TinyShop, run: Path) -> list[str]:
    return [
        *(f"two_tower={run}", f"ranker={shop.bundle('ranker')}", "cutoff=t2", "out=releases"),
        *("data=parquet", f"data.name={NAME}", f"data.root={shop.root}"),
    ]


@pytest.mark.slow
@pytest.mark.timeout(BUILD_LIMIT_S)
def test_finished_runs_become_a_release_that_is_judged(
    cluster: Cluster, checkout: Path, shop: TinyShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = shop.bundle("retriever@t2").parent
    run = checkout / "runs" / trained.name
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("retriever"))
    monkeypatch.setitem(cluster.environment, "SHOPREC_SPLIT", "test")
    job = cluster.submit(checkout, "slurm/export.sbatch", *arguments(shop, run))
    ended = cluster.wait_for_end(job, 240)

    output = (checkout / f"shoprec-export-{job}.sbatch.out").read_text()
    assert ended["ExitCode"] == "0:0", output
    release = checkout / output.splitlines()[-1]
    assert (
        Release.load(release).about.project == Release.load(shop.releases / "current").about.project
    )
    assert not os.path.lexists(checkout / "releases" / "current")
    (judged,) = checkout.glob("runs/evaluation-*-test/evaluation.json")
    assert read_json(judged)["split"] == "test"


def test_a_release_is_not_judged_on_what_it_was_fitted_on(
    cluster: Cluster, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cluster.environment, "SHOPREC_SPLIT", "validation")
    job = cluster.submit(checkout, "slurm/export.sbatch", "retriever=a", "ranker=b", "cutoff=t2")

    assert cluster.wait_for_end(job)["ExitCode"] == "2:0"
    output = (checkout / f"shoprec-export-{job}.sbatch.out").read_text()
    assert output.startswith("A release at t2 cannot be judged on validation")
