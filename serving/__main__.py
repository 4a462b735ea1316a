"""``python -m serving``: the server on one release."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Before numpy, torch or FAISS is imported: requests run beside each other, one core each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from feature_repo.contract.embedded import online_url
from feature_repo.contract.errors import ArtifactError, ShoprecError, StoreUnavailable
from serving.about import About, require_release
from serving.console import run
from serving.folding import folding_process
from serving.settings import KEYS_VARIABLE, METRICS_VARIABLE, PREFIX, Settings, require_keys

log = logging.getLogger(__name__)

DRAIN_S = 30
"""Most time that a server which was told to end takes to answer what it has begun."""
HEALTHCHECK_S = 10
"""A worker that does not answer its server for so long is killed and started again."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="python -m serving",
        description="Answer requests from an exported release.",
        epilog="User features come from the Redis that REDIS_URL names, else from the embedded "
        "online store in data/online. Try: curl -s localhost:8000/recommend/ "
        """-H 'content-type: application/json' -d '{"user_id": 1, "n": 5}'""",
    )
    found.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    found.add_argument("--port", type=int, default=8000, help="port to listen on (%(default)s)")
    found.add_argument(
        "--release", default="releases/current", help="folder of the release (%(default)s)"
    )
    found.add_argument(
        "--workers", type=int, default=1, help="processes, each with the models (%(default)s)"
    )
    found.add_argument(
        "--feedback", metavar="FOLDER", help="folder of the feedback log (data/feedback)"
    )
    found.add_argument(
        "--items", metavar="FOLDER", help="folder of the log of changed items (data/items)"
    )
    found.add_argument(
        "--experiments",
        metavar="FOLDER",
        help="folder of the A/B experiments' files (conf/experiments)",
    )
    found.add_argument(
        "--deadline-ms",
        metavar="MS",
        help="after this time a list is answered with what there is (500)",
    )
    found.add_argument(
        "--queue", metavar="N", help="requests that a process works on or lets wait (64)"
    )
    found.add_argument(
        "--cache-s",
        metavar="S",
        help="give the same request the same answer for so long, unless feedback comes in (0)",
    )
    found.add_argument(
        "--without-keys",
        action="store_true",
        help=f"listen on any address although {KEYS_VARIABLE} names no API keys",
    )
    found.add_argument(
        "--log-level",
        default="info",
        choices=["critical", "error", "warning", "info", "debug"],
        help="of the server; info logs every request (%(default)s)",
    )
    return found


def serve(arguments: argparse.Namespace) -> None:
    """Start the server and stay.

    Raises:
        ArtifactError: there is no release, or it does not answer as it should.
        ConfigError: a setting does not hold, or others are let in without API keys.
    """
    given = {"release": Path(arguments.release).absolute(), "workers": arguments.workers}
    for name in ("feedback", "items", "experiments"):
        folder = getattr(arguments, name)
        given[name] = folder and Path(folder).absolute()
    for name in ("deadline_ms", "queue", "cache_s"):
        given[name] = getattr(arguments, name)
    for name, value in given.items():
        if value is not None:
            os.environ[f"{PREFIX}{name.upper()}"] = str(value)
    settings = Settings.from_environment()
    require_keys(arguments.host, settings.api_keys, without=arguments.without_keys)
    folder = require_release(settings.release)
    os.environ[f"{PREFIX}PROJECT"] = About.read(folder, verify=settings.workers > 1).project
    _start_online_store()
    # Before uvicorn begins, and once more after it has ended, for it raises the signal again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="shoprec-") as shared:
        # Before anything imports prometheus_client, which looks for it then.
        os.environ[METRICS_VARIABLE] = os.environ["PROMETHEUS_MULTIPROC_DIR"] = shared
        with folding_process(settings):
            if settings.workers == 1:
                _run_one(arguments)
            else:
                _run_many(arguments, settings.workers)


def _run_one(arguments: argparse.Namespace) -> None:
    """Listen at once, and be ready when the release is loaded."""
    import uvicorn

    from serving.app import app_and_loader

    app, load = app_and_loader()
    server = uvicorn.Server(uvicorn.Config(app, **_settings(arguments)))
    failures: list[ShoprecError] = []

    def loading() -> None:
        try:
            load()
        except ShoprecError as error:
            failures.append(error)
        except Exception:
            log.exception("The server ends, for its release could not be loaded.")
            failures.append(ArtifactError("The release could not be loaded; see above."))
        server.should_exit = bool(failures)

    threading.Thread(target=loading, name="loading", daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if failures:
        raise failures[0]


def _run_many(arguments: argparse.Namespace, workers: int) -> None:
    """Let each worker listen when its release is loaded; one that dies is started again."""
    import uvicorn

    uvicorn.run(
        "serving.app:from_environment",
        factory=True,
        workers=workers,
        timeout_worker_healthcheck=HEALTHCHECK_S,
        **_settings(arguments),
    )


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "host": arguments.host,
        "port": arguments.port,
        "log_level": arguments.log_level,
        "timeout_graceful_shutdown": DRAIN_S,
    }


def _start_online_store() -> None:
    """Start the embedded store in this process, which outlives the workers."""
    try:
        online_url()
    except StoreUnavailable as error:
        log.warning("%s Until it is there, answers are popular items.", error)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 2 where it cannot start."""
    arguments = parser().parse_args(argv)
    return run(lambda: serve(arguments))


if __name__ == "__main__":
    sys.exit(main())
