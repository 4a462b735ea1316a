"""``python -m serving.folding``: purchases from the feedback log into the users' online rows.

``python -m serving`` runs it beside its workers, as a process of its own so that requests do not
wait for it. Of all that run on one log, one works and the others wait for its end. Where the store
is away events stay in the log, and are folded when it is back.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from feature_repo.contract.artifacts import read_json
from feature_repo.contract.embedded import connect
from feature_repo.contract.errors import StoreUnavailable
from feature_repo.contract.event_log import log_id
from feature_repo.contract.event_stream import EventStream
from feature_repo.contract.folding import Folder, Forwarder
from feature_repo.contract.journal import Rules
from feature_repo.contract.online_state import UserStates
from feature_repo.contract.state import Id
from feature_repo.contract.vocabulary import Vocabulary
from serving.about import About, require_release
from serving.background import elected
from serving.console import run
from serving.settings import PREFIX, Settings

log = logging.getLogger(__name__)

STORE_S = 5.0
"""Most time that the store may take for one answer."""
AWAY_S = 0.5
"""Between two questions whether it is back."""
WAIT_S = 0.5
"""Between two looks whether the process that folds has ended."""
RECLAIM_S = 10.0
"""Between two looks for what other machines left unfinished."""
TOLD_S = 1.0
"""Between two times that the file says that everything is folded."""
RESTART_S = 1.0
"""Before a process that died is started again."""
NICE = 10


def caught_up(path: Path) -> Path:
    """The file beside a feedback log whose time says when all of it was last folded."""
    return path.with_name(f"{path.stem}.folded")


@dataclass(frozen=True)
class Parts:
    """What folding takes, of one release."""

    forwarder: Forwarder
    folder: Folder


def parts_of(settings: Settings, path: Path) -> Parts:
    """The parts for a release's shop.

    Args:
        settings: of the server.
        path: of the feedback log.

    Raises:
        ArtifactError: there is no release.
        StoreUnavailable: the store does not answer.
    """
    release = require_release(settings.release)
    about = About.read(release, verify=False)
    encoder = release / "retriever" / "encoder"
    users = Vocabulary.load(encoder / "users", about.user_id)
    retriever = read_json(release / "retriever" / "manifest.json")["about"]
    rules = Rules(about.history_items, float(retriever["half_life_days"]))
    client = connect(timeout_s=STORE_S)
    stream = EventStream(client, about.project)

    def is_known(ids: Sequence[Id]) -> list[bool]:
        return (users.rows(pa.array(ids, users.ids.type)) > 0).tolist()  # type: ignore[no-any-return]

    states = UserStates(client, about.project, about.item_id)
    folder = Folder(stream, states, rules, log_id(path), is_known)
    return Parts(Forwarder(path, stream), folder)


class Folding:
    """Folds one log's events until it is told to end."""

    def __init__(
        self,
        settings: Settings,
        path: Path,
        make: Callable[[Settings, Path], Parts] = parts_of,
    ) -> None:
        """Connect to nothing yet.

        Args:
            settings: of the server.
            path: of the feedback log.
            make: makes the parts of the release that is there now.
        """
        self._settings, self._path, self._make = settings, path, make
        self._ended = threading.Event()

    def end(self) -> None:
        """Finish the step, and end."""
        self._ended.set()

    def run(self) -> None:
        """Fold until the end; waits while another process does."""
        with contextlib.suppress(OSError, AttributeError):  # requests go first
            os.setpriority(os.PRIO_PROCESS, 0, NICE)
        lock = self._path.with_name(f"{self._path.stem}.fold.lock")
        with elected(lock, self._ended, WAIT_S) as mine:
            if mine:
                log.info("Feedback of %s is folded into the users' rows.", self._path)
            away = False
            while mine and not self._ended.is_set():
                try:
                    self._follow()
                except StoreUnavailable as error:
                    if not away:
                        log.warning("%s Feedback is folded when it is back.", error)
                    away = True
                    self._ended.wait(AWAY_S)
                else:
                    away = False

    def _follow(self) -> None:
        """Fold with the release that is there now, until another one is."""
        release = self._settings.release.resolve()
        parts = self._make(self._settings, self._path)
        reclaim_at, tell_at = time.monotonic() + RECLAIM_S, 0.0
        while not self._ended.is_set() and self._settings.release.resolve() == release:
            count = parts.forwarder.step() + parts.folder.step()
            if time.monotonic() >= reclaim_at:
                count += parts.folder.reclaim()
                reclaim_at = time.monotonic() + RECLAIM_S
            if not count:
                if time.monotonic() >= tell_at:
                    caught_up(self._path).touch()
                    tell_at = time.monotonic() + TOLD_S
                self._ended.wait(self._settings.fold_s)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; ends when its standard input does, or at a signal."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.folding",
        description="Fold purchases of the feedback log into the users' online rows.",
        epilog=f"Settings are the server's variables: {PREFIX}RELEASE, {PREFIX}FEEDBACK, "
        f"{PREFIX}FOLD_S. `python -m serving` runs this by itself.",
    )
    parser.add_argument(
        "--with-parent", action="store_true", help="end when the standard input is closed"
    )
    arguments = parser.parse_args(argv)

    def fold() -> None:
        settings = Settings.from_environment()
        about = About.read(require_release(settings.release), verify=False)
        folding = Folding(settings, settings.feedback / f"{about.project}.jsonl")
        if arguments.with_parent:
            threading.Thread(target=_end_with_parent, args=(folding,), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):
            folding.run()

    return run(fold)


def _end_with_parent(folding: Folding) -> None:
    while sys.stdin.buffer.read(1 << 10):
        pass
    folding.end()


@contextlib.contextmanager
def folding_process(settings: Settings) -> Iterator[None]:
    """Run the command while a server runs, and start it again whenever it dies."""
    if not settings.fold_s:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_keep_running, args=(ended,), name="folding", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=STORE_S)


def _keep_running(ended: threading.Event) -> None:
    command = [sys.executable, "-m", "serving.folding", "--with-parent"]
    while not ended.is_set():
        # A new session: a terminal's Ctrl-C goes to the server, which ends this one.
        with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as process:
            while process.poll() is None and not ended.wait(0.1):
                pass
            assert process.stdin is not None
            process.stdin.close()
        if not ended.is_set():
            log.warning("The process that folds feedback ended (%s); again.", process.returncode)
            ended.wait(RESTART_S)


if __name__ == "__main__":
    sys.exit(main())
