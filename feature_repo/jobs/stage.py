"""A stage of work that is skipped when its result is there and its inputs did not change."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from feature_repo.contract.artifacts import read_json, sha256_file, sha256_text, write_json
from feature_repo.contract.errors import ArtifactError

log = logging.getLogger(__name__)


@dataclass
class Stage:
    """Inputs, code and settings of a stage, and the files that it makes.

    ``<folder>/.<name>.stage.json`` records the digest of what went in and the hashes of what
    came out; it is written last.
    """

    name: str
    folder: Path
    inputs: Sequence[Path]
    settings: Any
    """Dataclass or JSON values."""
    outputs: Sequence[Path]
    code: Sequence[ModuleType] = field(default_factory=tuple)
    """Modules whose change makes the result stale."""

    @property
    def record(self) -> Path:
        """Where the stage is recorded."""
        return self.folder / f".{self.name}.stage.json"

    @cached_property
    def digest(self) -> str:
        """Hex digest of everything that goes in."""
        settings = self.settings
        if hasattr(settings, "__dataclass_fields__"):
            settings = asdict(settings)
        value = {
            "inputs": [sha256_file(path) for path in self.inputs],
            "settings": settings,
            "code": [sha256_file(Path(str(module.__file__))) for module in self.code],
        }
        return sha256_text(json.dumps(value, sort_keys=True, default=str))

    def is_current(self) -> bool:
        """Whether the outputs are those of the present inputs, whole; says so in the log."""
        try:
            recorded = read_json(self.record)
        except ArtifactError:
            return False
        if recorded.get("digest") != self.digest or recorded.get("outputs") != self._hashes():
            return False
        log.info("%s of %s: inputs unchanged, reused.", self.name, self.folder)
        return True

    def done(self) -> None:
        """Record that the outputs are whole."""
        write_json(self.record, {"digest": self.digest, "outputs": self._hashes()})

    def _hashes(self) -> dict[str, str | None]:
        return {path.name: sha256_file(path) if path.is_file() else None for path in self.outputs}
