"""Running a chain of commands, each only where its inputs changed.

A stage is one command of the project, run as a process of its own. Its key is the SHA-256 of the
command, of the code that it runs and of the content of its inputs; its stamp, written after it
ends well, holds that key and the digests of what it made. A stage whose key and outputs are as
the stamp says is reused. A stage killed half-way leaves no stamp and runs again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from feature_repo.contract.artifacts import read_json, sha256_file, write_json
from feature_repo.contract.dataset import REPOSITORY
from feature_repo.contract.errors import ArtifactError, ShoprecError

log = logging.getLogger(__name__)

EVERYTHING = ("feature_repo", "retrieval", "ranking", "trainer", "serving", "conf")


class StageFailed(ShoprecError):
    """A stage's command ended with an error."""


@dataclass(frozen=True)
class Stage:
    """One command, what it reads and what it makes."""

    name: str
    """Short and unique, such as ``two-tower@t1``."""
    about: str
    """What happens, in the words of the user who watches it."""
    command: tuple[str, ...]
    """Program and arguments."""
    inputs: tuple[Path, ...] = ()
    outputs: tuple[Path, ...] = ()
    answers_path: bool = False
    """Whether the last line that the command prints names a file or folder that it made."""
    code: tuple[str, ...] = EVERYTHING
    """Folders of the repository whose code decides the result."""
    environment: dict[str, str] = field(default_factory=dict)
    holds: Callable[[], bool] | None = None
    """Whether a result that lies outside the outputs (an online store) is still there."""


@dataclass(frozen=True)
class StageResult:
    """How a stage went."""

    stage: Stage
    seconds: float
    """Wall time; of the run that made the outputs, where they were reused."""
    peak_gb: float
    """Largest resident memory of the stage's processes, in 10^9 bytes."""
    reused: bool
    answer: str = ""
    """The last line that the command printed on its standard output."""

    @property
    def path(self) -> Path:
        """The file or folder that the command named."""
        return Path(self.answer)

    @property
    def outputs(self) -> tuple[Path, ...]:
        """Everything that the stage made."""
        return (*self.stage.outputs, *((self.path,) if self.stage.answers_path else ()))


class Stages:
    """Runs stages in order; ``folder`` keeps their stamps."""

    def __init__(self, folder: Path, *, force: bool = False) -> None:
        self._folder = folder
        self._force = force
        self.results: list[StageResult] = []

    def run(self, stage: Stage) -> StageResult:
        """Run one stage, or reuse what it made before.

        Raises:
            StageFailed: its command ended with an error, or did not make an output.
        """
        number = len(self.results) + 1
        stamp_path = self._folder / f"{stage.name}.json"
        key = stage_key(stage)
        result = None if self._force else _reusable(stage, stamp_path, key)
        if result is None:
            log.info("[%d] %s", number, stage.about)
            stamp_path.unlink(missing_ok=True)
            result = _execute(stage)
            _write_stamp(stage, stamp_path, key, result)
            log.info("    done in %.1f s", result.seconds)
        else:
            log.info("[%d] %s: unchanged, reused", number, stage.about)
        self.results.append(result)
        return result


def stage_key(stage: Stage) -> str:
    """Hex SHA-256 of a stage's command, code and inputs.

    Raises:
        StageFailed: an input is missing.
    """
    for path in stage.inputs:
        if not path.exists():
            raise StageFailed(f"Stage {stage.name} needs {path}, which does not exist.")
    parts = {
        "command": [part.replace(str(REPOSITORY), ".") for part in stage.command[1:]],
        "environment": stage.environment,
        "code": code_digest(stage.code),
        "inputs": {str(path): _digest(path) for path in stage.inputs},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def code_digest(folders: Iterable[str]) -> str:
    """Hex SHA-256 of all Python and YAML files of some folders of the repository."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((REPOSITORY / folder).rglob("*")):
            if path.suffix in (".py", ".yaml") and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(REPOSITORY)).encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file())


def _digest(path: Path) -> str:
    """Content digest of a file or folder; file digests are remembered by size and time."""
    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(str(file.relative_to(path)).encode())
        digest.update(_file_digest(file).encode())
    return digest.hexdigest()


_DIGESTS: dict[tuple[str, int, int], str] = {}


def _file_digest(file: Path) -> str:
    status = file.stat()
    known = (str(file), status.st_size, status.st_mtime_ns)
    if known not in _DIGESTS:
        _DIGESTS[known] = sha256_file(file)
    return _DIGESTS[known]


def _reusable(stage: Stage, stamp_path: Path, key: str) -> StageResult | None:
    try:
        stamp = read_json(stamp_path)
    except ArtifactError:
        return None
    if not isinstance(stamp, dict) or stamp.get("key") != key:
        return None
    result = StageResult(stage, stamp["seconds"], stamp["peak_gb"], True, stamp["answer"])
    for path in result.outputs:
        made = stamp["outputs"].get(str(path))
        if not isinstance(made, dict) or not path.exists():
            return None
        if any(_digest_or_none(path / name) != digest for name, digest in made.items()):
            return None
    return result if stage.holds is None or stage.holds() else None


def _write_stamp(stage: Stage, stamp_path: Path, key: str, result: StageResult) -> None:
    for path in result.outputs:
        if not path.exists():
            raise StageFailed(f"Stage {stage.name} ended well but did not make {path}.")
    stamp: dict[str, Any] = {
        "key": key,
        "seconds": result.seconds,
        "peak_gb": result.peak_gb,
        "answer": result.answer,
        "outputs": {str(path): _made(path) for path in result.outputs},
    }
    write_json(stamp_path, stamp)


def _digest_or_none(file: Path) -> str | None:
    return _file_digest(file) if file.is_file() else None


def _made(path: Path) -> dict[str, str]:
    """The files of an output, and their digests; later stages may put others beside them."""
    return {str(file.relative_to(path)): _file_digest(file) for file in _files(path)}


def _execute(stage: Stage) -> StageResult:
    started = time.monotonic()
    environment = {**os.environ, **stage.environment}
    process = subprocess.Popen(
        stage.command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        with process.stdout as answers:
            lines = [line.rstrip("\n") for line in answers]
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise StageFailed(_failure(stage, process.returncode, lines))
    answer = next((line for line in reversed(lines) if line.strip()), "")
    peak_gb = usage.ru_maxrss * 1024 / 1e9
    return StageResult(stage, time.monotonic() - started, peak_gb, False, answer)


def _failure(stage: Stage, code: int, lines: list[str]) -> str:
    text = " ".join(stage.command).replace(sys.executable, "python")
    said = "".join(f"\n  {line}" for line in lines[-20:])
    return (
        f"Stage {stage.name} ended with code {code}; its messages are above.{said}\n"
        f"Run it alone with: {text}"
    )
