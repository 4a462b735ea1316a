"""A real SLURM of two virtual nodes on this machine, with daemons, ports and a folder of its own.

Munge signs the messages, ``slurmctld`` schedules, and one ``slurmd`` stands for each node. Jobs of
the partition ``urgent`` preempt those of ``main``, which are told ``GRACE_S`` seconds before.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "srun")
REQUIRED = "SHOPREC_REQUIRE"
"""Environment variable: with `slurm` among its words, a missing SLURM is a failure, not a skip."""
GRACE_S = 60
NODES = ("n1", "n2")
CONF = """\
ClusterName=shoprec
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=main Nodes=n[1-2] Default=YES PriorityTier=1 GraceTime={grace}
PartitionName=urgent Nodes=n[1-2] PriorityTier=10
"""


def missing_programs() -> list[str]:
    """Programs of SLURM and Munge that are not installed."""
    return [name for name in PROGRAMS if _which(name) is None]


def require_slurm(missing: list[str], required: str) -> None:
    """Skip the test where programs are missing; fail it where ``required`` names SLURM."""
    if not missing:
        return
    said = f"SLURM is not installed: {', '.join(missing)} not found."
    if "slurm" in required.split():
        pytest.fail(f"{said} {REQUIRED}={required} asks for it.")
    pytest.skip(said)


def _which(name: str) -> str | None:
    """Daemons lie in folders that only root's path holds."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Cluster:
    """Two nodes, and the commands that talk to them."""

    def __init__(self, folder: Path) -> None:
        """Start the daemons; ``folder`` is short, for sockets have names of 108 bytes at most."""
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        folder = self.folder
        folder.chmod(0o755)  # munged wants a socket that everybody can reach
        for name in ("state", *NODES):
            (folder / name).mkdir()
        (folder / "slurm.conf").write_text(
            CONF.format(
                host=socket.gethostname(),
                ports=_free_ports(3),
                user=getpass.getuser(),
                folder=folder,
                grace=GRACE_S,
            )
        )
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        self._run("munged", "--foreground", f"--socket={folder}/munge.sock", *files)
        self._wait(lambda: (folder / "munge.sock").exists(), "munged did not start")
        self._run("slurmctld", "-D", "-c")
        for node in NODES:
            self._run("slurmd", "-D", "-N", node)
        self._wait(self._is_up, "the nodes did not come up")

    def _run(self, name: str, *arguments: str) -> None:
        path = _which(name)
        assert path is not None
        output = self.folder / f"{name}-{len(self._daemons)}.out"
        with output.open("wb") as file:
            self._daemons.append(
                subprocess.Popen([path, *arguments], stdout=file, stderr=file, env=self.environment)
            )

    def _is_up(self) -> bool:
        asked = self._call("sinfo", "--noheader", "--partition=main", "--format=%D %t")
        return asked.stdout.split() == ["2", "idle"]

    def stop(self) -> None:
        """End all jobs, then the daemons, in the order against that of their start."""
        with contextlib.suppress(OSError):
            self._call("scancel", "--full", "--user", getpass.getuser())
            self._wait(lambda: not self._call("squeue", "--noheader").stdout, "jobs go on", 20)
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _call(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=self.environment
        )

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """What a command prints; it must succeed."""
        found = subprocess.run(
            command, capture_output=True, text=True, check=False, env=self.environment, cwd=cwd
        )
        assert found.returncode == 0, f"{command}\n{found.stdout}\n{found.stderr}"
        return found.stdout.strip()

    def submit(self, cwd: Path, *arguments: str) -> str:
        """The id of a new job."""
        return self.run("sbatch", "--parsable", *arguments, cwd=cwd)

    def job(self, job: str) -> dict[str, str]:
        """What SLURM says of a job, such as JobState and ExitCode."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for_end(self, job: str, timeout_s: float = 120) -> dict[str, str]:
        """What SLURM says of a job that has ended, for better or worse."""
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
        self._wait(lambda: self.job(job)["JobState"] in ended, f"job {job} goes on", timeout_s)
        return self.job(job)

    def wait_for_state(self, job: str, state: str, timeout_s: float = 60) -> None:
        """Until a job is in a state."""
        self._wait(lambda: self.job(job)["JobState"] == state, f"{job} is not {state}", timeout_s)

    def wait_for_attempt(self, job: str, attempt: int, timeout_s: float = 60) -> None:
        """Until a job that was requeued ``attempt`` times runs again."""

        def runs() -> bool:
            about = self.job(job)
            return about["Restarts"] == str(attempt) and about["JobState"] == "RUNNING"

        self._wait(runs, f"job {job} did not begin again", timeout_s)

    def _wait(self, done: Callable[[], bool], otherwise: str, timeout_s: float = 30) -> None:
        wait_until(done, otherwise, timeout_s, lambda: self.logs)

    @property
    def logs(self) -> str:
        """The ends of the daemons' logs."""
        logs = sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
        return "\n".join(f"{path.name}:\n{path.read_text()[-1500:]}" for path in logs)


def wait_until(
    done: Callable[[], bool],
    otherwise: str,
    timeout_s: float = 30,
    why: Callable[[], str] = str,
) -> None:
    """Until ``done()``; fail with ``otherwise`` and ``why()`` where that takes too long."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            raise AssertionError(f"After {timeout_s:.0f} s {otherwise}.\n{why()}")
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster that is stopped at the end."""
    cluster = Cluster(folder)
    try:
        yield cluster
    finally:
        cluster.stop()
