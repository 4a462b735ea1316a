"""The monitor on a timer: one worker of all that serve a shop looks, now and then.

The look itself is a process of its own, so that requests do not wait for it.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from feature_repo.contract.artifacts import read_json
from feature_repo.contract.errors import ArtifactError
from serving.background import elected
from serving.monitor.gauges import MonitorGauges
from serving.settings import PREFIX, Settings

log = logging.getLogger(__name__)

MONITOR = "monitor"
ELECT_S = 1.0
"""Between two looks whether the worker that looks has ended."""
MOST_S = 3_600.0
"""A look that takes longer is ended."""
NICE = 10
UP = 1
"""Exit status of a look that found an alarm."""


class MonitorTimer:
    """Looks every so often in the one worker that holds the lock, and shows what it found."""

    def __init__(self, settings: Settings, gauges: MonitorGauges) -> None:
        """Start nothing yet."""
        self._settings, self._gauges = settings, gauges
        self._folder = settings.feedback / MONITOR
        self._up: set[str] = set()
        self._ended = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Work in a thread, until the end; nothing where no time is set."""
        if self._settings.monitor_s:
            threading.Thread(target=self._run, name="monitor", daemon=True).start()

    def end(self) -> None:
        """Look no more."""
        self._ended.set()
        if self._process is not None:
            self._process.terminate()

    def _run(self) -> None:
        lock = self._folder / f"{self._settings.project}.lock"
        self._ended.wait(ELECT_S)  # a worker that starts has more to do
        with elected(lock, self._ended, ELECT_S) as mine:
            if mine:
                log.info("This worker looks after drift every %g s.", self._settings.monitor_s)
            while mine and not self._ended.is_set():
                try:
                    self.look()
                except Exception:
                    log.exception("The monitor looks again after a failure.")
                    self._gauges.count("failed")
                self._ended.wait(self._settings.monitor_s)

    def look(self) -> None:
        """Look once; a failure is told and counted."""
        out = self._folder / self._settings.project
        said = self._look(out)
        if said is not None:
            if not self._ended.is_set():
                log.error("The monitor could not look: %s", said)
                self._gauges.count("failed")
            return
        try:
            report = read_json(out / "report.json")
        except ArtifactError as error:
            log.error("%s", error)
            self._gauges.count("failed")
            return
        self._gauges.count("ok")
        self._gauges.show(report, time.time())
        self._tell(report)

    def _look(self, out: Path) -> str | None:
        """Run the command; what went wrong, or None."""
        settings = self._settings
        command = [sys.executable, "-m", "serving.monitor", "--out", str(out)]
        command += ["--release", str(settings.release), "--feedback", str(settings.feedback)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment[f"{PREFIX}RETRAIN_HOOK"] = settings.retrain_hook
        environment[f"{PREFIX}RETRAIN_PAUSE_S"] = str(settings.retrain_pause_s)
        with subprocess.Popen(
            ["nice", "-n", str(NICE), *command],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as self._process:
            try:
                _, errors = self._process.communicate(timeout=MOST_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                return f"it took more than {MOST_S:g} s."
        text = errors.decode(errors="replace").strip()
        for line in text.splitlines():
            if "retrain hook" in line or "new training" in line:
                log.warning("%s", line)
        return None if self._process.returncode in (0, UP) else text[-1000:]

    def _tell(self, report: dict[str, Any]) -> None:
        """Log what came up since the last look, and what is over."""
        up = {one["name"]: one["sentence"] for one in report["alarms"]}
        for name in sorted(up.keys() - self._up):
            log.warning("ALARM: %s", up[name])
        for name in sorted(self._up - up.keys()):
            log.warning("The alarm about %s is over.", name)
        self._up = set(up)
