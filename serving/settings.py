"""What a server is told by its environment; the command line sets the same variables."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from feature_repo.contract.dataset import REPOSITORY
from feature_repo.contract.errors import ConfigError

PREFIX = "SHOPREC_"
KEYS_VARIABLE = "SHOPREC_API_KEYS"
METRICS_VARIABLE = "SHOPREC_METRICS"
"""Folder in which the workers of one server add up what they count."""


@dataclass(frozen=True)
class Settings:
    """A server's settings; each is the variable ``SHOPREC_<NAME>``."""

    release: Path = Path("releases/current")
    """Folder, or the link that is followed when it moves."""
    project: str = ""
    """The shop, as its releases name it; releases of others are refused. By default that of the
    first release."""
    feedback: Path = REPOSITORY / "data" / "feedback"
    """Folder of the feedback log."""
    items: Path = REPOSITORY / "data" / "items"
    """Folder of the log of items that changed since the release."""
    experiments: Path = REPOSITORY / "conf" / "experiments"
    """Folder of the experiments' files, which is followed while they change."""
    api_keys: tuple[str, ...] = ()
    """With commas between them; one of them is asked for wherever there is any."""
    workers: int = 1
    """Processes, which share the cores."""
    deadline_ms: float = 500.0
    """After this time a list is answered with what there is."""
    queue: int = 64
    """Most requests that a process works on or lets wait; others get 429."""
    cache_s: float = 0.0
    """Seconds for which the same request is given the same answer, unless feedback of the user
    comes in; 0: none."""
    max_body: int = 2 << 20
    """Bytes; larger requests get 413."""
    watch_s: float = 1.0
    """Time between two looks at the release's link; 0: none."""

    items_s: float = 0.1
    """Time between two looks at the log of items."""
    fold_s: float = 0.05
    """Time between two looks at the feedback log for what it changes of users' rows; 0: a server
    leaves that to others."""
    recent_s: float = 1800.0
    """Seconds for which what a user looked at counts where a request names no session; 0: none."""
    log_rows: float = 0.0
    """Share of the requests whose users' features are logged, for the monitor; 0: none."""
    log_exposures: float = 0.0
    """Share of the users whose answers are logged though they are part of no experiment."""
    monitor_s: float = 0.0
    """Time between two looks of the monitor; 0: none."""
    retrain_hook: str = ""
    """Shell command or http(s) address that the monitor calls when an alarm is up."""
    retrain_pause_s: float = 86_400.0
    """Seconds for which it is not called again."""

    def __post_init__(self) -> None:
        for name in ("workers", "queue", "max_body", "deadline_ms", "items_s"):
            value = getattr(self, name)
            _require(value > 0, f"{PREFIX}{name.upper()} must be above zero; got {value}.")
        for name in ("cache_s", "watch_s", "fold_s", "recent_s", "monitor_s", "retrain_pause_s"):
            value = getattr(self, name)
            _require(value >= 0, f"{PREFIX}{name.upper()} must not be below zero; got {value}.")
        for name in ("log_rows", "log_exposures"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"{PREFIX}{name.upper()} is a share, 0 to 1; got {value}.")

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
        """Read the variables that are set.

        Raises:
            ConfigError: one is not of its type, or out of range.
        """
        given = {}
        for field in fields(Settings):
            text = environment.get(f"{PREFIX}{field.name.upper()}")
            if text:
                given[field.name] = _read(field.name, str(field.type), text)
        return Settings(**given)  # type: ignore[arg-type]


def _read(name: str, kind: str, text: str) -> Path | tuple[str, ...] | int | float | str:
    try:
        match kind:
            case "Path":
                return Path(text)
            case "int":
                return int(text)
            case "float":
                return float(text)
            case "str":
                return text
            case _:
                return tuple(key.strip() for key in text.split(",") if key.strip())
    except ValueError:
        raise ConfigError(f"{PREFIX}{name.upper()}={text!r} is not of type {kind}.") from None


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise ConfigError(sentence)


def require_keys(host: str, keys: tuple[str, ...], *, without: bool) -> None:
    """Refuse to serve others than this machine without API keys.

    Args:
        host: the address to listen on.
        keys: the API keys.
        without: whether the caller said that there shall be none.

    Raises:
        ConfigError: there are no keys.
    """
    _require(
        bool(keys) or without or is_loopback(host),
        f"Listening on {host} lets others in, and {KEYS_VARIABLE} names no API keys. Set it to one "
        "or more, with commas between them, or say --without-keys if something else keeps others "
        "out.",
    )


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
