"""Sweeps: ``python -m trainer --multirun experiment=NAME model.dim=32,64 [KEY=VALUE ...]``.

Hydra's basic sweeper makes the combinations. Each one is trained by an ordinary ``python -m
trainer``: here one after the other (``hydra/launcher=basic``), or each in a SLURM job of its own
(``hydra/launcher=slurm``).
"""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich import box
from rich.console import Console
from rich.table import Table

from feature_repo.contract.artifacts import read_json
from feature_repo.contract.errors import ConfigError
from trainer.config import CONF, compose, register
from trainer.run_file import VARIABLE, RunFile
from trainer.runs import identity, run_name
from trainer.slurm_launcher import SlurmConfig, Training, ended, output_of, submit

log = logging.getLogger(__name__)

FLAGS = ("--multirun", "-m")
BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
"""Hydra's default launcher."""
LONGEST_WAIT_S = 20.0
"""Between questions to SLURM."""


@dataclass(frozen=True)
class Job:
    """One combination of a sweep."""

    number: int
    overrides: tuple[str, ...]
    swept: tuple[str, ...]
    """Those of the overrides in which the sweep's jobs differ."""
    run_file: Path

    @property
    def folder(self) -> Path | None:
        """The run's; None until it is opened."""
        return RunFile.read(self.run_file).folder

    @property
    def result(self) -> dict[str, Any] | None:
        """What the run came to; None while it is not finished."""
        folder = self.folder
        path = None if folder is None else folder / "result.json"
        return dict(read_json(path)) if path is not None and path.exists() else None


def sweep(arguments: Sequence[str]) -> bool:
    """Train all combinations, and print a line for each and a table at the end.

    Returns:
        Whether all of them are finished.

    Raises:
        ConfigError: a combination does not hold, two of them are the same run, or the launcher is
            unknown or refuses.
    """
    overrides = combinations([text for text in arguments if text not in FLAGS])
    launcher, folder = _launcher(overrides[0])
    jobs = make_jobs(overrides, folder)
    if launcher is None:
        _here(jobs)
    else:
        _on_slurm(jobs, launcher, folder)
    _show(jobs)
    return all(job.result is not None for job in jobs)


def combinations(arguments: Sequence[str]) -> list[list[str]]:
    """The overrides of each job, the last key varying fastest.

    Raises:
        ConfigError: an argument that Hydra cannot read, or a sweep without an end.
    """
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            parser = OverridesParser.create(GlobalHydra.instance().config_loader())
            parsed = parser.parse_overrides(list(arguments))
            (batch,) = BasicSweeper.split_arguments(parsed, None)
    except (HydraException, OmegaConfBaseException) as error:
        raise _refusal(error) from error
    return batch


def _launcher(overrides: Sequence[str]) -> tuple[SlurmConfig | None, Path]:
    """Settings of SLURM, or None for Hydra's basic launcher; and the folder of the sweep."""
    register()
    ConfigStore.instance().store(
        group="hydra/launcher", name="slurm_schema", node=SlurmConfig, provider="trainer"
    )
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = hydra_compose("config", list(overrides), return_hydra_config=True).hydra
        folder = Path(str(composed.sweep.dir)).resolve()
        chosen = OmegaConf.to_object(composed.launcher)
    except (HydraException, OmegaConfBaseException) as error:
        raise _refusal(error) from error
    if isinstance(chosen, SlurmConfig):
        return chosen, folder
    # Hydra loads its plugins anew when it scans for them, so that no class of theirs is the same.
    if composed.launcher.get("_target_") != BASIC:
        raise ConfigError(f"hydra/launcher must be basic or slurm; got {chosen}.")
    return None, folder


def _refusal(error: Exception) -> ConfigError:
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return ConfigError(
        f"The sweep does not hold: {reason.rstrip('.')}. See `python -m trainer --help`."
    )


def make_jobs(overrides: Sequence[Sequence[str]], folder: Path) -> list[Job]:
    """The jobs of a sweep; ``folder`` holds what they tell of themselves.

    Raises:
        ConfigError: a combination does not hold, or two would train the same run.
    """
    own = [tuple(text for text in job if not _is_hydras(text)) for job in overrides]
    shared = set(own[0]).intersection(*own)
    jobs = [
        Job(
            number,
            texts,
            tuple(text for text in texts if text not in shared),
            folder / f"{number}.run",
        )
        for number, texts in enumerate(own)
    ]
    _require_different(jobs)
    folder.mkdir(parents=True, exist_ok=True)
    return jobs


def _is_hydras(override: str) -> bool:
    return override.lstrip("+~").startswith(("hydra.", "hydra/"))


def _require_different(jobs: Sequence[Job]) -> None:
    """Two jobs in one run's folder would overwrite each other's files."""
    seen: dict[str, Job] = {}
    for job in jobs:
        config = compose(job.overrides)
        name = run_name(identity(config, {"retriever": config.retriever or ""}))
        other = seen.setdefault(name, job)
        if other is not job:
            raise ConfigError(
                f"{' '.join(other.swept)} and {' '.join(job.swept)} are the same run: what they "
                "differ in changes nothing of what is trained. Leave it out of the sweep."
            )


def _here(jobs: Sequence[Job]) -> None:
    for job in jobs:
        _say(job, jobs, "begins")
        subprocess.run(
            [sys.executable, "-m", "trainer", *job.overrides],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, VARIABLE: str(job.run_file)},
            check=False,
        )
        _say(job, jobs, _outcome(job, "see above"))


def _on_slurm(jobs: Sequence[Job], config: SlurmConfig, folder: Path) -> None:
    ids = submit(config, folder, [Training(job.overrides, job.run_file) for job in jobs])
    waiting = dict(zip(ids, jobs, strict=True))
    for name, job in waiting.items():
        _say(job, jobs, f"SLURM job {name}")
    opened: set[int] = set()
    for over in _endings(ids):
        for job in waiting.values():
            if job.number not in opened and job.folder is not None:
                opened.add(job.number)
                _say(job, jobs, str(job.folder))
        for name in over:
            job = waiting.pop(name)
            _say(job, jobs, _outcome(job, str(output_of(folder, name))))


def _endings(ids: Sequence[str]) -> Iterator[list[str]]:
    """The jobs that have ended since the last time, until all have."""
    waiting, pause = set(ids), 1.0
    while waiting:
        time.sleep(pause)
        pause = min(pause * 1.2, LONGEST_WAIT_S)
        over = sorted(ended(sorted(waiting)))
        waiting.difference_update(over)
        yield over


def _outcome(job: Job, output: str) -> str:
    return f"finished: {job.folder}" if job.result is not None else f"failed: {output}"


def _say(job: Job, jobs: Sequence[Job], what: str) -> None:
    swept = shlex.join(job.swept) or "the only combination"
    sys.stdout.write(f"[{job.number + 1}/{len(jobs)}] {swept}: {what}\n")
    sys.stdout.flush()


def _show(jobs: Sequence[Job]) -> None:
    """The table of results."""
    results = [job.result or {} for job in jobs]
    metrics = sorted({name for result in results for name in result})
    keys = list(dict.fromkeys(text.partition("=")[0] for job in jobs for text in job.swept))
    table = Table(box=box.SIMPLE)
    for name in ("", *keys, *metrics, "run"):
        table.add_column(name, overflow="fold")
    for job, result in zip(jobs, results, strict=True):
        values = dict(text.partition("=")[::2] for text in job.swept)
        cells = [values.get(key, "") for key in keys]
        cells += [f"{result[name]:.4g}" if name in result else "" for name in metrics]
        told = "failed" if job.result is None else ""
        folder = job.folder
        table.add_row(f"{job.number + 1}", *cells, told or (folder.name if folder else ""))
    width = None if sys.stdout.isatty() else 40 + 24 * (len(keys) + len(metrics) + 1)
    Console(file=sys.stdout, width=width).print(table)
