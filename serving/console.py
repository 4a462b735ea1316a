"""What the commands of this package share: logging, and errors that are sentences."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from feature_repo.contract.errors import ShoprecError


def run(command: Callable[[], None]) -> int:
    """Run a command; an error of ours becomes one line on stderr and exit status 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("faiss").setLevel(logging.WARNING)
    try:
        command()
    except ShoprecError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def answer(text: str) -> None:
    """Write a command's answer to stdout."""
    sys.stdout.write(f"{text}\n")
