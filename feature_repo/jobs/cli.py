"""Command line of the jobs: a sub-command, then Hydra overrides."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from feature_repo.contract.errors import ShoprecError
from feature_repo.jobs import capacity, compact, skew
from feature_repo.jobs.clear_online import clear_online
from feature_repo.jobs.config import (
    CapacityConfig,
    CompactConfig,
    InteractionsConfig,
    JobConfig,
    SkewConfig,
    SyntheticSetConfig,
    TrainingSetConfig,
    load_config,
)
from feature_repo.jobs.feast_repo import feast_environment
from feature_repo.jobs.ingest import ingest
from feature_repo.jobs.interactions import make_interactions
from feature_repo.jobs.state import make_state
from feature_repo.jobs.synthetic_set import make_synthetic_set
from feature_repo.jobs.training_set import make_training_set

COMMANDS = {
    "ingest": "raw data -> canonical tables and dataset.json "
    "[data=complete_journey|parquet|synthetic]",
    "state": "canonical tables -> the Feast sources: user state and item activity",
    "training-set": "Feast's point-in-time rows: service=retrieval_v1|ranking_v1 "
    "kind=sessions|users cutoff=t0|t1|t2|t3|TIME [until=t1|...]",
    "synthetic-set": "training sets of a made-up shop, without its events, for tests of scale: "
    "data=synthetic data.num_users=N data.num_items=N sessions=N [history=50] [categories=true]",
    "interactions": "training sets from a benchmark's id-only train and test files: "
    "data=interactions data.name=NAME data.train=FILE data.test=FILE [data.format=triples]",
    "compact": "events of the feedback logs -> the canonical events, once each: "
    "feedback=[data/feedback]; then run state again",
    "capacity": "what users=100000000 take in Redis, by view and length of history, from a sample",
    "skew": "compare served features with the point-in-time join: service=ranking_v1 "
    "rows=SERVED.parquet, or users=LISTS.parquet [now=t2] to read them from the online store now",
    "clear-online": "remove a data set's features from the online store",
    "feast-env": "print the variables that `feast -c feature_repo` needs for a data set",
}
EPILOG = """\
Settings come from conf/data/NAME.yaml; any of them can be overridden: data.max_users=200 keeps
200 users, data.root=DIR moves the output, force=true does the work again.

  python -m feature_repo.jobs ingest data=complete_journey
  python -m feature_repo.jobs state data=complete_journey
  python -m feature_repo.jobs training-set service=retrieval_v1 kind=sessions cutoff=t0
  python -m feature_repo.jobs training-set service=ranking_v1 kind=users cutoff=t0 until=t1
  python -m feature_repo.jobs ingest data=parquet data.events=orders.csv data.name=my_shop
  eval "$(python -m feature_repo.jobs feast-env data=parquet data.name=my_shop)"
"""


def main(arguments: Sequence[str]) -> int:
    """Run a sub-command; return the exit status."""
    parsed = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )
    logging.getLogger("feast").setLevel(logging.WARNING)
    try:
        _run(parsed.command, parsed.overrides)
    except ShoprecError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m feature_repo.jobs",
        description="From raw data to Feast sources and training sets.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, summary in COMMANDS.items():
        sub = commands.add_parser(command, help=summary, description=summary)
        sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides")
    return parser


def _run(command: str, overrides: Sequence[str]) -> None:
    match command:
        case "ingest":
            config, now = load_config(JobConfig, overrides), datetime.now(UTC)
            ingest(config, now)
            compact.merge(config, now)
        case "compact":
            compact.compact(load_config(CompactConfig, overrides), datetime.now(UTC))
        case "state":
            make_state(load_config(JobConfig, overrides))
        case "training-set":
            make_training_set(load_config(TrainingSetConfig, overrides))
        case "synthetic-set":
            make_synthetic_set(load_config(SyntheticSetConfig, overrides))
        case "interactions":
            make_interactions(load_config(InteractionsConfig, overrides))
        case "capacity":
            capacity.report(load_config(CapacityConfig, overrides))
        case "skew":
            skew.report(load_config(SkewConfig, overrides))
        case "clear-online":
            clear_online(load_config(JobConfig, overrides).data.dataset())
        case _:
            _answer_environment(load_config(JobConfig, overrides))


def _answer_environment(config: JobConfig) -> None:
    for variable, value in feast_environment(config.data.dataset()).items():
        sys.stdout.write(f"export {variable}={shlex.quote(value)}\n")
