"""The command line of a benchmark: KEY=VALUE settings of a dataclass, and errors as sentences."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from feature_repo.contract.errors import ShoprecError

Settings = TypeVar("Settings")


def run_command(
    arguments: Sequence[str], kind: type[Settings], usage: str, work: Callable[[Settings], None]
) -> int:
    """Do the work with the settings given; return the exit code."""
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(usage)
        return 0
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.from_dotlist([*arguments]))
        settings = OmegaConf.to_object(merged)
        assert isinstance(settings, kind)
        work(settings)
    except OmegaConfBaseException as error:
        sys.stderr.write(f"{str(error).splitlines()[0]}\n{usage}")
        return 2
    except ShoprecError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0
