"""``slurm/tune.sbatch``: the tasks of an array work on one study, one of them interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState

from feature_repo.contract.dataset import Dataset
from tests.retrieval import shop
from tests.slurm.cluster import Cluster, wait_until
from tests.trainer.shop import SMALL
from trainer.tuning.report import Result

TRIALS = 4
SEARCH = f"""
metric: recall_all_200
trials: {TRIALS}
reduction_factor: 2
space:
  model.temperature: {{type: float, low: 0.05, high: 0.2, log: true}}
"""


@pytest.fixture(scope="module")
def wide_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dataset]:
    """Return a shop of more items than the 200 whose recall is measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shop, "NUM_ITEMS", 600)
        yield shop.make_shop(tmp_path_factory.mktemp("wide"))


@pytest.mark.slow
def test_an_array_finishes_a_study_though_a_task_is_interrupted(
    cluster: Cluster, checkout: Path, wide_shop: Dataset
) -> None:
    (checkout / "search.yaml").write_text(SEARCH)
    settings = [*SMALL, *shop.overrides(wide_shop, Path("studies")), "trainer.epochs=8"]
    script = ["--array=0-1", "slurm/tune.sbatch", "hparams_search=search.yaml"]
    array = cluster.submit(checkout, *script, *settings)
    tasks = [f"{array}_{number}" for number in (0, 1)]
    interrupted = checkout / f"shoprec-tune-{array}_0.sbatch.out"
    wait_until(lambda: "trial " in read(interrupted), "task 0 has no trial", 90)
    cluster.run("scancel", "--signal=USR1", "--batch", tasks[0])
    ended = [cluster.wait_for_end(task) for task in tasks]

    told = [read(checkout / f"shoprec-tune-{task}.sbatch.out") for task in tasks]
    assert [about["ExitCode"] for about in ended] == ["0:0", "0:0"], "\n".join(told)
    assert [about["Restarts"] for about in ended] == ["1", "0"]
    assert all("trial " in text for text in told)
    (study,) = (checkout / "studies").glob("tune-*")
    trials = Result.load(study).study.get_trials(deepcopy=False)
    done = [trial for trial in trials if trial.state is not TrialState.FAIL]
    assert {trial.state for trial in done} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert len(done) == TRIALS
    assert (study / "best.yaml").exists()
    assert (study / "report.md").exists()


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
