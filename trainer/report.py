"""``python -m trainer.report``: put the table of an evaluation into the README, between markers."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from feature_repo.contract.artifacts import atomic_path
from feature_repo.contract.errors import ArtifactError, BadInput, ShoprecError
from trainer.evaluation.markdown import summary
from trainer.evaluation.result import Evaluation

log = logging.getLogger(__name__)

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def replaced(text: str, results: str) -> str:
    """``text`` with what stands between the markers replaced by ``results``.

    Raises:
        BadInput: a marker is missing, stands twice, or the end stands before the beginning.
    """
    for marker in (BEGIN, END):
        if text.count(marker) != 1:
            raise BadInput(
                f"The page holds {marker!r} {text.count(marker)} times; it must stand there once, "
                f"each on a line of its own: {BEGIN} before the results, {END} after them."
            )
    start, stop = text.index(BEGIN) + len(BEGIN), text.index(END)
    if stop < start:
        raise BadInput(f"{END} stands before {BEGIN}; swap them.")
    return f"{text[:start]}\n{results.strip()}\n{text[stop:]}"


def write_results(readme: Path, evaluation: Path) -> bool:
    """Put an evaluation into a page, atomically; say whether that changed it.

    Args:
        readme: the page, with both markers.
        evaluation: ``evaluation.json``, or the folder that holds it.

    Raises:
        ArtifactError: the evaluation or the page is missing or broken.
        BadInput: the page lacks the markers; named.
    """
    path = evaluation / "evaluation.json" if evaluation.is_dir() else evaluation
    results = summary(Evaluation.load(path))
    try:
        text = readme.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{readme} cannot be read: {error}.") from error
    try:
        changed = replaced(text, results)
    except BadInput as error:
        raise BadInput(f"{readme} was left as it is. {error}") from error
    if changed == text:
        return False
    with atomic_path(readme) as temporary:
        temporary.write_text(changed, encoding="utf-8")
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 2 where the page cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m trainer.report", description=__doc__)
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="evaluation=FILE (evaluation.json or its folder) and readme=FILE (README.md)",
    )
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        readme, evaluation = _settings(parser.parse_args(argv).settings)
        changed = write_results(readme, evaluation)
    except ShoprecError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    log.info("%s: %s.", readme, "results written" if changed else "unchanged")
    return 0


def _settings(settings: Sequence[str]) -> tuple[Path, Path]:
    given = {"readme": "README.md"}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if name not in ("evaluation", "readme") or not equals or not value:
            raise BadInput(f"{setting!r} is not a setting: give evaluation=FILE [readme=FILE].")
        given[name] = value
    if "evaluation" not in given:
        raise BadInput("Give evaluation=FILE, the evaluation.json that trainer.evaluate wrote.")
    return Path(given["readme"]), Path(given["evaluation"])


if __name__ == "__main__":
    sys.exit(main())
