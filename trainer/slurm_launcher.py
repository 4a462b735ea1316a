"""A sweep's runs as SLURM jobs, by submitit: ``--multirun hydra/launcher=slurm``.

Each job is one task that runs the ordinary ``python -m trainer`` in a process of its own. Before
the time limit and on preemption the run writes a checkpoint, and the job is requeued.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import submitit
from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError

from feature_repo.contract.errors import ConfigError, require
from trainer.run_file import STOPPED, VARIABLE, RunFile

log = logging.getLogger(__name__)

LIVE = {
    "CONFIGURING",
    "COMPLETING",
    "PENDING",
    "PREEMPTED",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESIZING",
    "RUNNING",
    "SIGNALING",
    "SPECIAL_EXIT",
    "STAGE_OUT",
    "STOPPED",
    "SUSPENDED",
}
"""States of a job that has not ended for good."""


@dataclass
class SlurmConfig:
    """What a sweep asks SLURM for; of each job."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time_min: int = 240
    """Minutes until a job has to end; one that is not finished then is requeued."""
    cpus_per_task: int = 2
    gpus_per_node: int = 0
    """0, or 1: a job trains in one process. Large runs are for slurm/train.sbatch."""
    mem_gb: float | None = None
    jobs_at_once: int = 256
    signal_delay_s: int = 120
    """Seconds before the time limit in which a run writes its checkpoint."""
    max_timeouts: int = 100
    """Times that a job is requeued at its time limit."""
    setup: list[str] = field(default_factory=list)
    """Lines of shell before the run, such as "module load cuda"."""
    options: dict[str, Any] = field(default_factory=dict)
    """Other options of sbatch, such as {reservation: night}."""

    def __post_init__(self) -> None:
        for name in ("time_min", "cpus_per_task", "jobs_at_once", "signal_delay_s"):
            value = getattr(self, name)
            require(value > 0, f"hydra.launcher.{name} must be above zero; got {value}.")
        require(
            self.gpus_per_node in (0, 1),
            f"hydra.launcher.gpus_per_node must be 0 or 1, for a job of a sweep trains in one "
            f"process; got {self.gpus_per_node}. For more, submit slurm/train.sbatch.",
        )

    def parameters(self) -> dict[str, Any]:
        """In submitit's words."""
        named = {
            "job_name": "shoprec-sweep",
            "time": self.time_min,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "cpus_per_task": self.cpus_per_task,
            "gpus_per_node": self.gpus_per_node or None,
            "mem": None if self.mem_gb is None else f"{int(self.mem_gb * 1024)}M",
            "array_parallelism": self.jobs_at_once,
            "signal_delay_s": self.signal_delay_s,
            "setup": self.setup or None,
            "additional_parameters": {"requeue": True, **self.options},
        }
        return {name: value for name, value in named.items() if value is not None}


class Training:
    """What a job calls: one run, in a process of its own."""

    def __init__(self, overrides: Sequence[str], run_file: Path) -> None:
        self.overrides = list(overrides)
        self.run_file = run_file
        self._pid: int | None = None

    def __call__(self) -> int:
        """Train; return 0.

        Raises:
            RuntimeError: the run failed. Its own words are above, in the job's output.
        """
        self.run_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "trainer", *self.overrides]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            env={**os.environ, VARIABLE: str(self.run_file)},
            preexec_fn=_in_child,  # there are no other threads of ours
        )
        self._pid = process.pid
        signal.signal(signal.SIGTERM, _as_preemption)
        while (code := exit_code(process.pid)) is None:
            time.sleep(0.2)
        if code != 0:
            raise RuntimeError(f"{shlex.join(command)} ended with exit code {code}.")
        return code

    def checkpoint(self) -> DelayedSubmission | None:
        """What submitit calls before it requeues the job: ask for a checkpoint, and wait for it."""
        code = 0 if self._pid is None else self._stop(self._pid)
        again = Training(self.overrides, self.run_file)
        return DelayedSubmission(again) if code in (0, STOPPED) else None

    def _stop(self, pid: int) -> int:
        while (code := exit_code(pid)) is None:
            folder = RunFile.read(self.run_file).folder
            if folder is not None:  # again and again: a run that just begins forgets it
                (folder / "STOP").touch()
            time.sleep(0.5)
        return code


def _in_child() -> None:
    """What SLURM sends to all processes of a job is for submitit alone."""
    for name in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(name, signal.SIG_IGN)


def _as_preemption(number: int, frame: FrameType | None) -> None:
    """SIGTERM announces the end of a preempted job, and the end of a cancelled one, which must not
    be begun again."""
    job = os.environ["SLURM_JOB_ID"]
    if states([job]).get(job) == "RUNNING":
        signal.raise_signal(signal.SIGUSR2)


def exit_code(pid: int) -> int | None:
    """Of a child; None while it runs. Leaves the child to be asked again, from handlers too."""
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    if found is None:
        return None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def submit(config: SlurmConfig, folder: Path, trainings: Sequence[Training]) -> list[str]:
    """Submit the runs as one array; the ids of the jobs.

    Args:
        config: what SLURM is asked for.
        folder: of the jobs' scripts and outputs, on a disk that all nodes share.
        trainings: the runs.

    Raises:
        ConfigError: there is no SLURM here, or it refuses the jobs.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "hydra/launcher=slurm needs SLURM's commands, and there is no sbatch in PATH. Start "
            "the sweep on a login node, or leave hydra/launcher out to train here."
        )
    executor = submitit.SlurmExecutor(folder, max_num_timeout=config.max_timeouts)
    executor.update_parameters(**config.parameters())
    try:
        with executor.batch():
            jobs = [executor.submit(training) for training in trainings]
    except (FailedJobError, FailedSubmissionError) as error:
        raise ConfigError(f"SLURM refused the jobs: {' '.join(str(error).split())}") from error
    return [str(job.job_id) for job in jobs]


def output_of(folder: Path, job: str) -> Path:
    """The file that a job's errors go to."""
    return folder / f"{job}_0_log.err"


def states(jobs: Sequence[str]) -> Mapping[str, str]:
    """Job -> its state, of those that SLURM still knows; empty where SLURM does not answer.

    A job that ended minutes ago is not known any more: its state is ENDED.
    """
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%A|%T"]
    asked = subprocess.run(
        [*command, f"--jobs={','.join(jobs)}"], capture_output=True, text=True, check=False
    )
    if asked.returncode != 0 and "Invalid job id" not in asked.stderr:
        log.warning("SLURM does not answer, and is asked again: %s", asked.stderr.strip())
        return {}
    found = dict.fromkeys(jobs, "ENDED")
    for line in asked.stdout.splitlines():
        *names, state = line.strip().split("|")
        found |= dict.fromkeys(set(names) & found.keys(), state)
    return found


def ended(jobs: Sequence[str]) -> set[str]:
    """Those of the jobs that are over for good."""
    return {job for job, state in states(jobs).items() if state not in LIVE}
