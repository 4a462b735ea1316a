"""How a run tells whoever started it where it is: the file that SHOPREC_RUN_FILE names.

The name of a run's folder is only known once its inputs are read, and under ``torchrun`` every
failure has exit code 1. So the run's first process writes two lines, each as soon as it is known:
the folder, and the exit code of a run that was asked to stop. The file lies on a disk that all
nodes share, for the first process may be on any of them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from feature_repo.contract.artifacts import atomic_path

VARIABLE = "SHOPREC_RUN_FILE"
STOPPED = 75
"""Exit code of a run that was asked to stop and wrote a checkpoint (EX_TEMPFAIL)."""


@dataclass(frozen=True)
class RunFile:
    """What a run has told."""

    folder: Path | None = None
    """The run's; None until it is opened."""
    code: int | None = None
    """Exit code of a run that stopped when asked; None of any other."""

    @staticmethod
    def read(path: Path) -> RunFile:
        """Read a run's file, which need not be there yet."""
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return RunFile(Path(lines[0]) if lines else None, int(lines[1]) if len(lines) > 1 else None)


def tell(folder: Path, code: int | None = None) -> None:
    """Write the file, where one is asked for."""
    named = os.environ.get(VARIABLE)
    if named:
        lines = [str(folder), *([] if code is None else [str(code)])]
        with atomic_path(Path(named)) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def tell_stopped(code: int) -> None:
    """Add the exit code of a run that was asked to stop."""
    named = os.environ.get(VARIABLE)
    folder = RunFile.read(Path(named)).folder if named else None
    if folder is not None:
        tell(folder, code)
