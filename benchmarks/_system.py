"""A whole system of a shop, made by quickstart's own stages, and the project's commands."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from feature_repo.contract.dataset import REPOSITORY
from feature_repo.contract.errors import ArtifactError
from trainer.quickstart import Quickstart, Shop
from trainer.stages import Stages

log = logging.getLogger(__name__)

SINGLE = ("wide_deep_single", "wide_deep_single_new")
"""Experiments of rankers of one network: of all items, and of those new to the user."""


def fit_system(settings: Sequence[str], edge: int, runs: Path, releases: Path) -> Path:
    """Make the whole system at an edge, or find it; return its release.

    Rankers are of one network each; releases stay unpublished.

    Args:
        settings: what names an ingested shop on a command line.
        edge: 1 or 2.
        runs: gets a folder of runs.
        releases: gets the release.
    """
    shop = Shop.from_overrides(settings)
    quick = Quickstart(shop, Stages(shop.root / ".stages"), runs, releases)
    quick.join(edge)
    return quick.system(edge, SINGLE)


def call(*command: str, environment: dict[str, str] | None = None) -> str:
    """Run one of the project's commands; return the last line that it prints.

    Raises:
        ArtifactError: it failed; what it said is in the message.
    """
    whole = command if command[0] != "-m" else (sys.executable, "-W", "ignore", *command)
    log.info("%s", " ".join(command[:5]))
    done = subprocess.run(
        whole,
        cwd=REPOSITORY,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = "\n".join(done.stderr.splitlines()[-20:])
        raise ArtifactError(f"{' '.join(command)} ended with code {done.returncode}:\n{said}")
    return next((line for line in reversed(done.stdout.splitlines()) if line.strip()), "")
