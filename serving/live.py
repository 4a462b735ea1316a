"""The release that answers now, and the next one: loaded beside it, checked, then put in its place.

A release that is corrupt, cut short or another shop's is refused with a line in the log, and the
one before goes on answering. Workers of a server load one after another, so that not all of them
hold two releases at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from feature_repo.contract.artifacts import MANIFEST, read_json, write_json
from feature_repo.contract.errors import ArtifactError, ShoprecError
from serving.about import About
from serving.problems import NotReady
from serving.recommender import Recommender

log = logging.getLogger(__name__)

RETRY_S = 30.0
"""A release that was refused is looked at again after this time, or when its manifest changes."""
NICE = 10
"""Of the threads that load releases and follow changes."""
GOOD = "release.json"
"""File beside the metrics of a server that names the release which its workers last loaded."""

Stamp = tuple[Path, int]
"""A release's folder and when its manifest was written."""


class Live:
    """Which recommender answers, and where the next one comes from."""

    def __init__(
        self,
        path: Path,
        load: Callable[[Path], Recommender] = Recommender.load,
        *,
        shared: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Load nothing yet.

        Args:
            path: folder of the release, or the link that names it.
            load: reads a release.
            shared: folder of the server's workers.
            clock: monotonic seconds.
        """
        self.path = path
        self._load, self._shared, self._clock = load, shared, clock
        self._current: Recommender | None = None
        self._before: weakref.ref[Recommender] | None = None
        self._stamp: Stamp | None = None
        self._refused: tuple[Stamp, float] | None = None
        self._looking = threading.Lock()
        self._ended = threading.Event()
        self._listeners: list[Callable[[str | None, str | None], None]] = []

    @staticmethod
    def of(recommender: Recommender) -> Live:
        """Of a recommender that is loaded already, and stays."""
        live = Live(recommender.release.folder)
        live._put(recommender, _stamp(recommender.release.folder))
        return live

    def tell(self, listener: Callable[[str | None, str | None], None]) -> None:
        """Call ``listener`` with the old and the new version whenever the release changes."""
        self._listeners.append(listener)
        if self._current is not None:
            listener(None, self._current.release.about.version)

    @property
    def ready(self) -> bool:
        """Whether requests can be answered, and will be in a moment."""
        return self._current is not None and not self._ended.is_set()

    def get(self) -> Recommender:
        """The recommender that answers now.

        Raises:
            NotReady: none is loaded yet.
        """
        if self._current is None:
            raise NotReady("The release is being verified and warmed; try again in a moment.")
        return self._current

    def load(self) -> None:
        """Load the first release: the one that is named, else the last that a worker answered from.

        Raises:
            ArtifactError: it cannot be served, and there is no other.
        """
        stamp = _stamp(self.path)
        try:
            self._put(self._loaded(stamp[0]), stamp)
        except ShoprecError as error:
            good = self._good()
            if good is None or good == stamp[0]:
                raise
            self._refuse(stamp, str(error))
            self._put(self._loaded(good), _stamp(good))

    def look(self) -> None:
        """Load the release that the link names, if that is another one than before."""
        with self._looking:
            self._forget_before()
            stamp = _stamp(self.path)
            if stamp == self._stamp or self._is_refused(stamp):
                return
            log.info("%s names another release: %s.", self.path, stamp[0].name)
            try:
                next_one = self._loaded(stamp[0])
                if self._current is not None:
                    require_same_shop(self._current.release.about, next_one.release.about)
            except ShoprecError as error:
                self._refuse(stamp, str(error))
                return
            self._before = None if self._current is None else weakref.ref(self._current)
            self._put(next_one, stamp)
            del next_one
            self._forget_before()

    def _forget_before(self) -> None:
        """Give the memory of the release before back, once the requests that had it are over."""
        if self._before is not None:
            give_memory_back()
            if self._before() is None:
                self._before = None

    def watch(self, every_s: float) -> None:
        """Look every so often, until the end."""
        self._repeat("releases", every_s, self.look)

    def follow_items(self, every_s: float) -> None:
        """Take over what others change of the items, every so often, until the end."""
        self._repeat("items", every_s, lambda: self.get().items.catch_up())
        self._repeat("scorers", every_s, lambda: self.get().items.refresh_if_due())

    def end(self) -> None:
        """Answer what is there, and be ready for nothing more."""
        self._ended.set()

    def _repeat(self, name: str, every_s: float, work: Callable[[], None]) -> None:
        def working() -> None:
            with contextlib.suppress(OSError, AttributeError):  # requests go first; Linux alone
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
            while not self._ended.wait(every_s):
                try:
                    work()
                except Exception:
                    log.exception("The thread %r goes on after a failure.", name)
                    self._ended.wait(1.0)

        threading.Thread(target=working, name=name, daemon=True).start()

    def _loaded(self, folder: Path) -> Recommender:
        """A release that was verified and has answered.

        Raises:
            ShoprecError: it cannot be served.
        """
        try:
            with self._alone():
                found = self._load(folder)
                found.warm_up()
        except ShoprecError:
            raise
        except Exception as error:
            log.exception("The release %s could not be loaded.", folder)
            raise ArtifactError(f"The release {folder} could not be loaded: {error!r}.") from error
        return found

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One worker at a time."""
        if self._shared is None:
            yield
            return
        with (self._shared / "loading.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _put(self, recommender: Recommender, stamp: Stamp) -> None:
        old = None if self._current is None else self._current.release.about.version
        self._current, self._stamp = recommender, stamp
        if self._shared is not None:
            write_json(self._shared / GOOD, str(stamp[0]))
        version = recommender.release.about.version
        log.info("Release %s answers now.", version)
        for listener in self._listeners:
            listener(old, version)

    def _good(self) -> Path | None:
        """The release that a worker of this server answered from last."""
        found = None if self._shared is None else self._shared / GOOD
        return Path(read_json(found)) if found is not None and found.exists() else None

    def _refuse(self, stamp: Stamp, why: str) -> None:
        self._refused = stamp, self._clock() + RETRY_S
        log.error("The release %s is refused, the one before goes on: %s", stamp[0], why)

    def _is_refused(self, stamp: Stamp) -> bool:
        return (
            self._refused is not None
            and self._refused[0] == stamp
            and self._clock() < self._refused[1]
        )


def _stamp(path: Path) -> Stamp:
    folder = path.resolve()
    manifest = folder / MANIFEST
    return folder, manifest.stat().st_mtime_ns if manifest.exists() else 0


def require_same_shop(now: About, other: About) -> None:
    """Refuse a release of another shop than the one that is served.

    Raises:
        ArtifactError: data set, store or types of ids differ.
    """
    for name in ("dataset", "project", "user_id", "item_id"):
        mine, theirs = getattr(now, name), getattr(other, name)
        if mine != theirs:
            raise ArtifactError(
                f"The release {other.version} is of another shop: its {name} is {theirs!r}, and "
                f"{mine!r} is served. Start a server of its own for it."
            )


def give_memory_back() -> None:
    """Free what the release before held, to the system too."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
