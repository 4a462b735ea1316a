"""Calling for a new training, once: a command or a web address that gets the alarm as JSON.

    SHOPREC_RETRAIN_HOOK='sbatch slurm/train.sbatch experiment=two_tower'
    SHOPREC_RETRAIN_HOOK=https://ci.example/hooks/retrain

A state file beside the logs, which is locked, says when it was called, so that all workers and all
processes of a machine call it once in its cool-down. A call that failed is logged, and made again
at the next look.
"""

from __future__ import annotations

import fcntl
import json
import logging
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from feature_repo.contract.artifacts import read_json, write_json
from feature_repo.contract.errors import ArtifactError

log = logging.getLogger(__name__)

TIMEOUT_S = 60.0
"""Most time that a call may take; a command should start what takes longer, as sbatch does."""


@dataclass(frozen=True)
class Hook:
    """What is called, and how seldom."""

    target: str
    """A shell command, which reads the alarm from its standard input; or an http(s) address, to
    which it is posted."""
    state: Path
    """File that says when it was called last."""
    pause_s: float = 86_400.0
    """The cool-down, from a call that succeeded on."""
    timeout_s: float = TIMEOUT_S

    def call(self, alarm: dict[str, Any], now: datetime) -> bool:
        """Call it, unless it was called within the cool-down; whether it was called now.

        Args:
            alarm: as JSON has it.
            now: the wall clock.
        """
        self.state.parent.mkdir(parents=True, exist_ok=True)
        with self.state.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            called = self.called_at()
            if called is not None and now - called < timedelta(seconds=self.pause_s):
                return False
            if not self._called(json.dumps(alarm).encode()):
                return False
            names = [one["name"] for one in alarm.get("alarms", [])]
            write_json(self.state, {"called_at": now.isoformat(), "alarms": names})
        log.warning("A new training was asked for; not again for %.0f s.", self.pause_s)
        return True

    def called_at(self) -> datetime | None:
        """When it was called last; None where it never was, or nobody can tell."""
        if not self.state.exists():
            return None
        try:
            return datetime.fromisoformat(read_json(self.state)["called_at"])
        except (ArtifactError, KeyError, TypeError, ValueError) as error:
            log.error("%s does not say when the retrain hook was called: %r.", self.state, error)
            return None

    def _called(self, body: bytes) -> bool:
        is_address = self.target.startswith(("http://", "https://"))
        failure = self._post(body) if is_address else self._run(body)
        if failure is not None:
            log.error("The retrain hook failed, and is called again at the next look: %s", failure)
        return failure is None

    def _run(self, body: bytes) -> str | None:
        """Run the command; what went wrong, or None."""
        try:
            done = subprocess.run(
                self.target, shell=True, input=body, capture_output=True, timeout=self.timeout_s
            )
        except subprocess.TimeoutExpired:
            return f"it took more than {self.timeout_s:g} s."
        if done.returncode == 0:
            return None
        said = done.stderr.decode(errors="replace").strip()[-500:]
        return f"exit status {done.returncode}. {said}"

    def _post(self, body: bytes) -> str | None:
        """Post to the address; what went wrong, or None."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.target, data=body, headers=headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s):
                return None
        except (urllib.error.URLError, OSError, ValueError) as error:
            return f"{error}."
