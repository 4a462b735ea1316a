"""Where SLURM is missing, its tests are skipped; CI asks for it, and there they fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm.cluster import PROGRAMS, REQUIRED, Cluster, missing_programs, require_slurm


def test_a_missing_slurm_is_a_skip_with_its_reason() -> None:
    with pytest.raises(pytest.skip.Exception, match="slurmd not found"):
        require_slurm(["slurmd"], "")


def test_a_missing_slurm_is_a_failure_where_it_is_required() -> None:
    with pytest.raises(pytest.fail.Exception, match=f"{REQUIRED}=redis slurm asks for it"):
        require_slurm(["slurmd"], "redis slurm")


def test_an_installed_slurm_is_neither() -> None:
    require_slurm([], "slurm")


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert set(missing_programs()) <= set(PROGRAMS)
    assert "sbatch" in missing_programs()


def test_ci_requires_slurm(repository: Path) -> None:
    assert f"export {REQUIRED}=slurm\n" in (repository / ".ci" / "run").read_text()


def test_a_task_runs_on_each_of_the_nodes(cluster: Cluster) -> None:
    command = ["srun", "--nodes=2", "sh", "-c", "echo $SLURMD_NODENAME"]

    assert sorted(cluster.run(*command).split()) == ["n1", "n2"]
