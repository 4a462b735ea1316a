"""``python -m serving.experiments``: check experiments, and report what came of them."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from feature_repo.contract.artifacts import write_json
from feature_repo.contract.dataset import REPOSITORY, parse_time
from feature_repo.contract.errors import BadInput, ConfigError
from feature_repo.contract.event_log import log_files
from serving.console import answer, run
from serving.experiments.config import Experiment, read_experiment
from serving.experiments.folder import Folder
from serving.experiments.outcomes import Lines, Window, gather
from serving.experiments.report import Report, make_report
from serving.experiments.running import EXPOSURES
from serving.experiments.text import as_text

log = logging.getLogger(__name__)

DAY = len("-0000-00-00")
"""Letters of a day at the end of a name."""
CONF, DATA = REPOSITORY / "conf" / "experiments", REPOSITORY / "data"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="python -m serving.experiments",
        description="A/B experiments: conf/experiments/NAME.yaml says who sees what.",
    )
    commands = found.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="read all files as a server does")
    report = commands.add_parser("report", help="tell what came of an experiment")
    for command in (check, report):
        command.add_argument(
            "--experiments", type=Path, default=CONF, metavar="FOLDER", help="(conf/experiments)"
        )
    report.add_argument("name", metavar="NAME", help="of the experiment's file")
    report.add_argument(
        "--feedback",
        type=Path,
        default=DATA / "feedback",
        metavar="FOLDER",
        help="of the feedback log, with that of exposures (data/feedback)",
    )
    report.add_argument("--project", help="the shop, where the folder has logs of several")
    report.add_argument(
        "--events",
        type=Path,
        metavar="PATH",
        help="canonical events, such as data/NAME/canonical/events.parquet: what users spent "
        "before the start makes the intervals narrower (CUPED)",
    )
    report.add_argument("--before-days", type=float, default=56.0, help="of that (%(default)s)")
    report.add_argument(
        "--return-days",
        type=float,
        default=7.0,
        help="a user came back who is seen from so many days after the first answer on, for as "
        "many days (%(default)s)",
    )
    report.add_argument(
        "--time",
        default="event_timestamp",
        choices=["event_timestamp", "received_at"],
        help="when an event happened: as it says, or when it came in (%(default)s)",
    )
    report.add_argument("--until", metavar="TIME", help="by default the experiment's end, or now")
    report.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="report.json, report.md and report.png (data/experiments/NAME)",
    )
    return found


def report_of(arguments: argparse.Namespace, now: datetime) -> Report:
    """Read the logs and estimate.

    Raises:
        BadInput: there is no such experiment or log, or nobody took part.
    """
    experiment = find(arguments.experiments, arguments.name)
    until = parse_time(arguments.until) if arguments.until else now
    window = Window(
        experiment.start,
        min(experiment.end, until),
        arguments.before_days,
        arguments.return_days,
        arguments.time,
    )
    feedback, exposures = logs(arguments.feedback, arguments.project, window)
    found = gather(experiment, window, Lines(exposures), Lines(feedback), arguments.events)
    return make_report(experiment, window, found, now)


def find(folder: Path, name: str) -> Experiment:
    """Read one experiment.

    Raises:
        BadInput: there is no such file, or it is wrong.
    """
    for ending in (".yaml", ".yml"):
        path = folder / f"{name}{ending}"
        if path.exists():
            return read_experiment(path)
    there = sorted(path.stem for path in folder.glob("*.y*ml"))
    raise BadInput(f"There is no experiment {name!r} in {folder}, but {there}.")


def logs(folder: Path, project: str | None, window: Window) -> tuple[list[Path], list[Path]]:
    """The files of feedback and of exposures; of these the days of the window.

    Raises:
        BadInput: there are none, or those of several shops.
    """
    exposures = sorted((folder / EXPOSURES).glob("*.jsonl"))
    projects = sorted({path.stem[:-DAY] for path in exposures})
    if project is None and len(projects) > 1:
        raise BadInput(f"{folder} has logs of several shops, {projects}; say which: --project.")
    chosen = project or (projects[0] if projects else "")
    mine = [path for path in exposures if path.stem[:-DAY] == chosen]
    if not mine:
        raise BadInput(
            f"{folder / EXPOSURES} has no log of exposures of {chosen or 'any shop'}. A server "
            "writes it for the answers of experiments that run."
        )
    feedback = folder / f"{chosen}.jsonl"
    first, last = _day(window.start), _day(window.until)
    days = [path for path in mine if first <= path.stem[1 - DAY :] <= last]
    return log_files(feedback), days


def _day(time: datetime) -> str:
    """As names of files have it."""
    return f"{time.astimezone(UTC):%Y-%m-%d}"


def write(report: Report, folder: Path) -> None:
    """Write the report as JSON, text and plot."""
    from serving.experiments.plot import save_plot

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "report.json", report.to_json())
    (folder / "report.md").write_text(as_text(report) + "\n", encoding="utf-8")
    save_plot(report, folder / "report.png")
    log.info("Written to %s.", folder)


def check(path: Path) -> None:
    """Read all files.

    Raises:
        ConfigError: one is refused.
    """
    folder = Folder(path)
    folder.look()
    if folder.refused:
        raise ConfigError("\n".join(folder.refused.values()))
    answer(f"All {len(folder.experiments)} files in {path} hold, one by one and together.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0, or 2 where it cannot be done."""
    arguments = parser().parse_args(argv)

    def command() -> None:
        if arguments.command == "check":
            check(arguments.experiments)
            return
        report = report_of(arguments, datetime.now(UTC))
        answer(as_text(report))
        write(report, arguments.out or DATA / "experiments" / arguments.name)

    return run(command)


if __name__ == "__main__":
    sys.exit(main())
