"""``python -m serving``: the server on one release."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Before numpy, torch or FAISS is imported: requests run beside each other, one core each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from feature_repo.contract.embedded import online_url
from feature_repo.contract.errors import StoreUnavailable
from serving.about import FEEDBACK_VARIABLE, RELEASE_VARIABLE, require_release
from serving.console import run

log = logging.getLogger(__name__)


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
    """
    os.environ[RELEASE_VARIABLE] = str(require_release(Path(arguments.release)))
    if arguments.feedback:
        os.environ[FEEDBACK_VARIABLE] = str(Path(arguments.feedback).resolve())
    _start_online_store()
    import uvicorn

    from serving.app import from_environment
    from serving.release import Release

    settings = {"host": arguments.host, "port": arguments.port, "log_level": arguments.log_level}
    if arguments.workers == 1:
        uvicorn.run(from_environment(), **settings)
        return
    # A worker that cannot load would be started again for ever: find out here.
    Release.load(os.environ[RELEASE_VARIABLE])
    uvicorn.run("serving.app:from_environment", factory=True, workers=arguments.workers, **settings)


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
