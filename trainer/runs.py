"""Run folders: what a run is made from, what it measured, and where it stands.

``runs/<run_name>/`` is named by the experiment and a digest of everything that changes what is
trained, never by the time: started again, a run finds its own folder and goes on.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from feature_repo.contract.artifacts import atomic_path, read_json, write_json
from feature_repo.contract.errors import ConfigError
from trainer.config import RunConfig
from trainer.distributed import Process
from trainer.run_file import tell
from trainer.sharding_config import ShardingConfig, Strategy

log = logging.getLogger(__name__)

NEUTRAL: dict[str, set[str] | None] = {
    "paths": None,
    "sharding": set(ShardingConfig.__dataclass_fields__) - {"column_dim"},
    "retriever": None,
    "index": None,
    "trainer": {"log_every", "checkpoint_every", "keep_checkpoints", "cache_encoded"},
}
"""Settings that change nothing of what is trained: whole groups, or keys of a group. Parts of a
column_wise table have optimiser states of their own, so that their width matters."""


def identity(config: RunConfig, inputs: dict[str, str]) -> dict[str, Any]:
    """Everything that decides what is trained, as JSON values.

    Args:
        config: the settings; the cut-off is resolved, of the data set its name is kept.
        inputs: name -> digest of each file or folder that is read.
    """
    value: dict[str, Any] = _plain(asdict(config))
    value["data"] = {"name": str(config.data["name"])}
    value["cutoff"] = config.dataset().edge(config.cutoff).isoformat()
    for group, keys in NEUTRAL.items():
        if keys is None:
            del value[group]
        else:
            value[group] = {k: v for k, v in value[group].items() if k not in keys}
    if config.sharding.strategy is not Strategy.column_wise:
        del value["sharding"]
    value["model"] = {"type": config.model.kind, **value["model"]}
    value["inputs"] = inputs
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value


def run_name(made_from: dict[str, Any]) -> str:
    """``<experiment>-<8 hex digits>``."""
    text = json.dumps(made_from, sort_keys=True)
    return f"{made_from['experiment']}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def differing(first: Any, second: Any, path: str = "") -> list[str]:
    """Dotted keys whose values differ."""
    if isinstance(first, dict) and isinstance(second, dict):
        keys = sorted(first.keys() | second.keys())
        return [
            found
            for key in keys
            for found in differing(first.get(key), second.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if first == second else [path]


class Run:
    """One run's folder, as seen by one process."""

    def __init__(
        self,
        folder: Path,
        made_from: dict[str, Any],
        process: Process,
        whole: Run | None = None,
    ) -> None:
        """See ``open``; ``whole`` is the run that this one is a part of."""
        self.folder = folder
        self.whole = whole
        self.made_from = made_from
        self.process = process
        self._board: Any = None
        self._first_step = 0

    @staticmethod
    def open(
        config: RunConfig,
        inputs: dict[str, str],
        process: Process,
        folder: Path | None = None,
    ) -> Run:
        """Make the run's folder, or find it again; a collective.

        Raises:
            ConfigError: ``folder`` is given and holds a run of other settings, named.
        """
        made_from = identity(config, inputs)
        where = folder or Path(config.paths.runs).resolve() / run_name(made_from)
        run = Run(where, made_from, process)
        record = where / "run.json"
        if record.exists():
            _require_same(read_json(record), made_from, where)
        process.barrier()
        if process.is_first and not record.exists():
            write_json(record, made_from)
            with atomic_path(where / "config.yaml") as temporary:
                temporary.write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))
        if process.is_first:
            tell(where)
        process.barrier()
        return run

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def result(self) -> dict[str, Any] | None:
        """What the run came to; None while it is not finished."""
        path = self.folder / "result.json"
        return dict(read_json(path)) if path.exists() else None

    def finish(self, result: dict[str, Any]) -> None:
        """Record, last of all, that everything is written."""
        if self.process.is_first:
            write_json(self.folder / "result.json", result)
            if self._board is not None:
                self._board.close()
        self.process.barrier()

    def record(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Add values to ``metrics.jsonl`` and TensorBoard; the first process does."""
        if not self.process.is_first:
            return
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            where = str(self.folder / "tensorboard")
            self._board = SummaryWriter(where, purge_step=self._first_step + 1)
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def rewind(self, step: int) -> None:
        """Forget what was recorded after ``step``, the one that the run goes on from."""
        self._first_step = step
        path = self.folder / "metrics.jsonl"
        if not self.process.is_first or not path.exists():
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        if len(kept) < len(lines):
            with atomic_path(path) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")

    def part(self, name: str) -> Run:
        """A part that is trained by itself: it has its own metrics and checkpoints, in a folder
        inside of this one's, and stops when the whole is asked to."""
        part = Run(self.folder / name, self.made_from, self.process, self)
        if self.process.is_first:
            part.folder.mkdir(parents=True, exist_ok=True)
        self.process.barrier()
        return part

    @property
    def stop_asked(self) -> bool:
        """Whether somebody made a file STOP in the folder."""
        return (self.folder / "STOP").exists() if self.whole is None else self.whole.stop_asked

    def forget_stop(self) -> None:
        """Remove a file STOP that an earlier process was asked to stop by; of a whole run alone,
        for its parts begin one after the other."""
        if self.whole is None:
            (self.folder / "STOP").unlink(missing_ok=True)


def _require_same(recorded: Any, made_from: dict[str, Any], folder: Path) -> None:
    names = differing(recorded, made_from)
    if names:
        raise ConfigError(
            f"{folder} holds a run of other settings: {', '.join(names)} differ. "
            "Choose another folder, or set them as they were."
        )
