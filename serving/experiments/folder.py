"""The folder of experiments: what its files say, followed while they change.

A file that is wrong is refused with a line in the log, and what it said before stays in force. So
does a file that contradicts one in force; it is tried again whenever anything changes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from feature_repo.contract.errors import ConfigError
from serving.experiments.config import Experiment, read_experiment, require_apart

log = logging.getLogger(__name__)

Stamps = dict[Path, tuple[int, int, int]]
"""File -> what changes when it is written or replaced."""


class Folder:
    """The experiments of a folder; looked at by one thread, read by any."""

    def __init__(self, path: Path | None) -> None:
        """Read nothing yet; None: there are no experiments."""
        self.path = path
        self.experiments: Mapping[str, Experiment] = {}
        """In force, by name; replaced as a whole."""
        self.refused: dict[str, str] = {}
        """Name -> why its file is not in force as it is."""
        self._stamps: Stamps = {}

    def look(self) -> bool:
        """Take over what changed; whether there was anything."""
        if self.path is None:
            return False
        stamps = _stamps(self.path)
        if stamps == self._stamps:
            return False
        self._stamps = stamps
        self._take({path.stem: path for path in sorted(stamps)})
        return True

    def _take(self, paths: Mapping[str, Path]) -> None:
        before = self.refused
        self.refused, read = {}, {}
        for name, path in paths.items():
            try:
                read[name] = read_experiment(path)
            except (ConfigError, OSError) as error:
                self.refused[name] = str(error)
        kept = {name: one for name, one in self.experiments.items() if name in paths}
        state = self._merged(kept, read, paths)
        for name, why in self.refused.items():
            if before.get(name) != why:
                now = "what it said before goes on" if name in state else "it does not run"
                log.error("The experiment %s is refused, and %s: %s", name, now, why)
        for name in sorted(set(state) | set(self.experiments)):
            _tell(name, self.experiments.get(name), state.get(name))
        self.experiments = state

    def _merged(
        self,
        state: dict[str, Experiment],
        read: Mapping[str, Experiment],
        paths: Mapping[str, Path],
    ) -> dict[str, Experiment]:
        """With every new file that fits to the others; those that switch off come first."""
        waiting = sorted(read, key=lambda name: (read[name].enabled, name not in state, name))
        while waiting:
            left = [name for name in waiting if not self._fits(read[name], state, paths[name])]
            if left == waiting:
                break
            waiting = left
        return state

    def _fits(self, new: Experiment, state: dict[str, Experiment], path: Path) -> bool:
        """Whether it could be put into force."""
        try:
            for other in state.values():
                if other.name != new.name:
                    require_apart(new, other)
        except ConfigError as error:
            self.refused[new.name] = f"{path}: {error}"
            return False
        self.refused.pop(new.name, None)
        state[new.name] = new
        return True


def _stamps(folder: Path) -> Stamps:
    found: Stamps = {}
    for pattern in ("*.yaml", "*.yml"):
        for path in folder.glob(pattern):
            if path.name.startswith("."):
                continue  # what an editor keeps
            try:
                about = path.stat()
            except OSError:
                continue  # it was just removed
            found[path] = (about.st_mtime_ns, about.st_size, about.st_ino)
    return found


def _tell(name: str, old: Experiment | None, new: Experiment | None) -> None:
    if old == new:
        return
    if new is None:
        log.info("The experiment %s is over, for its file is gone.", name)
    elif not new.enabled:
        log.info("The experiment %s is switched off.", name)
    else:
        shares = {key: variant.weight for key, variant in new.variants.items()}
        log.info("The experiment %s runs from %s to %s: %s.", name, new.start, new.end, shares)
