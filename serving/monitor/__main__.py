"""``python -m serving.monitor``: drift, falls and alarms of a shop that is served.

Exit status 0: nothing is wrong; 1: an alarm is up; 2: it could not look.
"""

from __future__ import annotations

import argparse
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from feature_repo.contract.artifacts import write_json
from feature_repo.contract.dataset import parse_time
from feature_repo.contract.errors import BadInput
from serving.console import answer, run
from serving.monitor.config import MonitorConfig
from serving.monitor.facts import ReleaseFacts
from serving.monitor.hook import Hook
from serving.monitor.report import Report, look
from serving.monitor.text import as_text
from serving.settings import PREFIX, Settings

log = logging.getLogger(__name__)

MONITOR = "monitor"
"""Folder of reports and of the hook's state, beside the feedback log."""
ALARM = 1
"""Exit status where an alarm is up."""
DEFAULTS = MonitorConfig()


def parser(settings: Settings) -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="python -m serving.monitor",
        description="Compare what is served with the release's training snapshot, and the recent "
        "days with those before.",
        epilog="Exit status 0: nothing is wrong; 1: an alarm is up; 2: it could not look. A server "
        f"logs what this reads with {PREFIX}LOG_ROWS=0.01 and {PREFIX}LOG_EXPOSURES=1.",
    )
    found.add_argument("--release", type=Path, default=settings.release, metavar="FOLDER")
    found.add_argument(
        "--feedback",
        type=Path,
        default=settings.feedback,
        metavar="FOLDER",
        help="of the feedback log, with those of exposures and served rows (data/feedback)",
    )
    found.add_argument("--since", metavar="TIME", help="nothing before is looked at")
    found.add_argument("--until", metavar="TIME", help="by default now")
    for name, text in (
        ("recent_days", "length of the recent window"),
        ("history_days", "that it is compared with"),
        ("wait_hours", "in which feedback counts after its answer"),
        ("level", "share of looks that raise a false alarm in one family of tests"),
    ):
        option = f"--{name.replace('_', '-')}"
        default = getattr(DEFAULTS, name)
        found.add_argument(option, type=float, default=default, help=f"{text} (%(default)s)")
    found.add_argument(
        "--out", type=Path, metavar="FOLDER", help="report.json, report.md and report.png"
    )
    found.add_argument("--every", type=float, metavar="S", help="look again every so often")
    found.add_argument(
        "--hook",
        default=settings.retrain_hook,
        metavar="COMMAND|URL",
        help="is called when an alarm is up, with the report as JSON on its standard input or as "
        f"its body ({PREFIX}RETRAIN_HOOK)",
    )
    found.add_argument(
        "--pause-s",
        type=float,
        default=settings.retrain_pause_s,
        metavar="S",
        help="for which it is not called again (%(default)s)",
    )
    return found


class Looking:
    """Looks once, or again and again; tells what changed."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._config = MonitorConfig(
            recent_days=arguments.recent_days,
            history_days=arguments.history_days,
            wait_hours=arguments.wait_hours,
            level=arguments.level,
        )
        self._up: set[tuple[str, str]] = set()
        self.alarm = False

    def once(self, now: datetime) -> Report:
        """Look, write the report, and call the hook where an alarm is up.

        Raises:
            ShoprecError: it could not look.
        """
        given = self._arguments
        since = parse_time(given.since) if given.since else None
        until = parse_time(given.until) if given.until else now
        facts = ReleaseFacts.read(given.release, now.timestamp())
        report = look(facts, given.feedback, self._config, until, since)
        write(report, given.out or given.feedback / MONITOR / report.project)
        self.alarm = bool(report.alarms)
        self._tell(report)
        if self.alarm and given.hook:
            state = given.feedback / MONITOR / f"{report.project}.hook.json"
            Hook(given.hook, state, given.pause_s).call(report.to_json(), now)
        return report

    def _tell(self, report: Report) -> None:
        up = {(one.kind, one.name): one.sentence for one in report.alarms}
        for key, sentence in up.items():
            if key not in self._up:
                log.warning("ALARM: %s", sentence)
        for _, name in sorted(self._up - up.keys()):
            log.warning("The alarm about %s is over.", name)
        self._up = set(up)

    def forever(self, every_s: float, wait: Callable[[float], object]) -> None:
        """Look again and again; a look that fails is told and made again."""
        while True:
            failed = run(lambda: answer(as_text(self.once(datetime.now(UTC)))))
            log.info("Looking again in %g s%s.", every_s, ", for this failed" if failed else "")
            wait(every_s)


def write(report: Report, folder: Path) -> None:
    """Write the report as JSON, text and plot."""
    from serving.monitor.plot import save_plot

    folder.mkdir(parents=True, exist_ok=True)
    save_plot(report, folder / "report.png")
    (folder / "report.md").write_text(as_text(report) + "\n", encoding="utf-8")
    write_json(folder / "report.json", report.to_json())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module for its exit status."""
    looking: list[Looking] = []

    def command() -> None:
        arguments = parser(Settings.from_environment()).parse_args(argv)
        if arguments.every is not None and arguments.every <= 0:
            raise BadInput(f"--every must be above zero; got {arguments.every:g}.")
        looking.append(Looking(arguments))
        if arguments.every is None:
            answer(as_text(looking[0].once(datetime.now(UTC))))
            return
        try:
            looking[0].forever(arguments.every, threading.Event().wait)
        except KeyboardInterrupt:
            log.info("Looked for the last time.")

    status = run(command)
    return status or (ALARM if looking and looking[0].alarm else 0)


if __name__ == "__main__":
    sys.exit(main())
