"""``python -m trainer.evaluate``: judge lists on a window of time, beside the baselines."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from feature_repo.contract.artifacts import atomic_path, sha256_file
from feature_repo.contract.dataset import REPOSITORY
from feature_repo.contract.errors import ShoprecError
from trainer.evaluation.baselines import LABELS
from trainer.evaluation.cache import cached_baselines
from trainer.evaluation.config import EvaluateConfig, load_config
from trainer.evaluation.judge import Judge
from trainer.evaluation.lists import Ints, read_lists
from trainer.evaluation.markdown import report, tables
from trainer.evaluation.result import Evaluation, TaskResult
from trainer.evaluation.window import Judged, Task, Window, load_window

log = logging.getLogger(__name__)

EPILOG = """\
LISTS.parquet is what `python -m serving.batch` writes: user_id, item_id, rank, score, source. The
folder `out` gets evaluation.json, evaluation.md and three plots; the tables go to stdout.

  python -m trainer.evaluate lists=lists.parquet lists_new=lists_new.parquet out=runs/validation
  python -m trainer.evaluate lists=lists.parquet split=test data=complete_journey out=runs/test
  python -m trainer.evaluate out=runs/baselines           (the baselines alone)
"""


def evaluate(config: EvaluateConfig, command: str) -> Evaluation:
    """Judge the lists of ``config`` and the baselines; write nothing but the baselines' cache.

    Raises:
        ArtifactError: the data set or a file of lists is missing or broken.
        BadInput: a file of lists cannot be judged, or the window is empty.
    """
    dataset = config.dataset()
    window = load_window(dataset, config.split)
    judged = {task: window.judged(task, config.max_users, config.seed) for task in Task}
    files = {Task.ALL: config.lists, Task.NEW: config.lists_new}
    systems = {
        task: read_lists(Path(path), window, judged[task].users, config.k)
        for task, path in files.items()
        if path is not None
    }
    _warn_of_seen(window, judged[Task.NEW], systems.get(Task.NEW))
    users = {task: found.users for task, found in judged.items()}
    baselines = cached_baselines(dataset, window, users, config.k, config.baselines)
    judge = Judge(window, config.k, config.samples, config.seed)
    tasks: dict[str, TaskResult] = {}
    for task, found in judged.items():
        if not len(found.users):
            log.warning("No user bought anything of the task %r; it is left out.", task.value)
            continue
        system = (config.name, systems[task]) if task in systems else None
        tasks[task.value] = judge.judge(found, baselines[task], LABELS, system)
    return Evaluation(
        dataset=dataset.name,
        split=config.split.value,
        cutoff=window.cutoff.isoformat(),
        until=window.until.isoformat(),
        k=config.k,
        samples=config.samples,
        command=command,
        inputs={
            name: sha256_file(Path(path))
            for name, path in (("lists", config.lists), ("lists_new", config.lists_new))
            if path is not None
        },
        tasks=tasks,
    )


def _warn_of_seen(window: Window, judged: Judged, lists: Ints | None) -> None:
    if lists is None:
        return
    place, _ = np.nonzero(lists)
    items = lists[lists > 0]
    seen = np.asarray(window.seen[judged.users[place], items]).ravel() > 0
    if seen.any():
        log.warning(
            "%d of %d places of lists_new hold items that the user bought before; they count as "
            "misses. Was it made with --exclude-seen?",
            int(seen.sum()),
            len(items),
        )


def write(evaluation: Evaluation, folder: Path) -> None:
    """Write ``evaluation.md``, the plots and, last, ``evaluation.json`` into ``folder``."""
    from trainer.evaluation.plots import draw_all  # Matplotlib takes a second to load

    with atomic_path(folder / "evaluation.md") as temporary:
        temporary.write_text(report(evaluation), encoding="utf-8")
    draw_all(evaluation, folder)
    evaluation.save(folder / "evaluation.json")
    log.info("Wrote evaluation.json, evaluation.md and plots into %s.", folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 2 where the lists cannot be judged."""
    overrides = _parser().parse_args(argv).overrides
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )
    command = _command(overrides)
    try:
        config = load_config(overrides)
        evaluation = evaluate(config, command)
        write(evaluation, Path(config.out))
    except ShoprecError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{tables(evaluation)}\n")
    return 0


def _command(overrides: Sequence[str]) -> str:
    """What was run, with the checkout's paths relative to it: the text goes into the README."""
    return shlex.join(["python", "-m", "trainer.evaluate", *overrides]).replace(
        f"{REPOSITORY}/", ""
    )


def _parser() -> argparse.ArgumentParser:
    settings = ", ".join(item.name for item in fields(EvaluateConfig) if item.name != "defaults")
    parser = argparse.ArgumentParser(
        prog="python -m trainer.evaluate",
        description="Judge recommendation lists on a window of time, beside the baselines. "
        f"Settings: {settings}.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides")
    return parser


if __name__ == "__main__":
    sys.exit(main())
