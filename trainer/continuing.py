"""``python -m trainer experiment=NAME init=release data.since=last``: go on from what is served.

The two-tower of the published release is trained further, on the sessions since its cut-off alone,
with rows for the users and items that are new; other sources are fitted anew. Its rankers are taken
over, or with ``init.rankers=train`` trained anew with their settings: what the published retriever
finds and was bought since its cut-off is their newest label window, before those that they learned
from last. The newest days are held back: the new release and the published one make lists for the
users of those days, from the same rows, and the new one is published unless its lists are worse by
more than the noise of the difference. Like ``trainer.quickstart`` this strings commands together,
each of which can be run alone.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from omegaconf import OmegaConf

from feature_repo.contract.artifacts import (
    MANIFEST,
    read_json,
    read_manifest,
    read_table,
    write_json,
)
from feature_repo.contract.columns import list_column
from feature_repo.contract.dataset import Dataset, parse_time
from feature_repo.contract.errors import ArtifactError, BadInput, ConfigError, require
from ranking.metrics import Estimate, Relevant, bootstrap, ndcg_at_k
from retrieval.retriever import KIND as RETRIEVER
from trainer.export import CURRENT, DEFAULT_RANKER
from trainer.export import KIND as RELEASE
from trainer.quickstart import JOBS, LABEL_WINDOWS, PYTHON, Shop
from trainer.ranker_members import FOLDER as RANKER
from trainer.sets import SEEN, TARGET, TrainingSet
from trainer.stages import Stage, Stages

log = logging.getLogger(__name__)

K = 10
"""Places of the lists that are compared."""
TASKS = {"all": (), "new": ("--exclude-seen",)}
"""All items, and those that are new to the user; flags of ``serving.batch``."""

OWN = (
    *("experiment", "paths.runs", "data.since", "init"),
    *("init.hold_days", "init.min_users", "init.releases", "init.rankers"),
)
"""Settings that are not passed on."""

Ints = npt.NDArray[np.int64]


class Rankers(StrEnum):
    """What becomes of the published release's rankers."""

    train = "train"
    """They are trained anew. After a week or less of news they follow its habits: in
    ``benchmarks.weekly`` lists of new items gained, lists of all items lost."""
    keep = "keep"
    """They are taken over as they are."""


@dataclass(frozen=True)
class ContinueConfig:
    """What is continued, and when the result is published."""

    experiment: str
    shop: Shop
    hold_days: int = 1
    """Newest days that nothing is learnt from, and that both releases are judged on."""
    min_users: int = 30
    """With fewer who bought something in those days nothing is published."""
    runs: Path = Path("runs")
    """Folder of the shop's runs."""
    releases: Path = Path("releases")
    rankers: Rankers = Rankers.keep
    training: tuple[str, ...] = ()
    """Further settings of the two-tower's training, such as trainer.epochs=1."""

    def __post_init__(self) -> None:
        for name in ("hold_days", "min_users"):
            value = getattr(self, name)
            require(value > 0, f"init.{name} must be above zero; got {value}.")

    @staticmethod
    def parse(arguments: Sequence[str]) -> ContinueConfig:
        """Read the command line.

        Raises:
            ConfigError: ``experiment`` or ``data.since=last`` is missing, or a value is wrong.
        """
        values, data, training = {}, [], []
        for argument in arguments:
            key, _, value = argument.partition("=")
            if key in OWN:
                values[key] = value
            elif key == "data" or key.startswith("data."):
                data.append(argument)
            else:
                training.append(argument)
        require("experiment" in values, "Say which model goes on: experiment=NAME.")
        for key, only in (("init", "release"), ("data.since", "last")):
            require(
                values.get(key) == only,
                f"{key}={values.get(key)} is not known; go on with init=release data.since=last.",
            )
        shop = Shop.from_overrides(data)
        runs = Path(values.get("paths.runs") or Path("runs") / shop.name)
        rankers = values.get("init.rankers", Rankers.keep)
        require(rankers in set(Rankers), f"init.rankers={rankers} must be train or keep.")
        return ContinueConfig(
            values["experiment"],
            shop,
            _whole("init.hold_days", values.get("init.hold_days", "1")),
            _whole("init.min_users", values.get("init.min_users", "30")),
            runs.resolve(),
            Path(values.get("init.releases", "releases")).resolve(),
            Rankers(rankers),
            tuple(training),
        )


def _whole(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{name}={text} is not a whole number.") from None


@dataclass(frozen=True)
class Served:
    """The published release."""

    folder: Path
    about: Mapping[str, Any]

    @staticmethod
    def of(releases: Path) -> Served:
        """Read the release that ``current`` names.

        Raises:
            ArtifactError: none is published, or it was changed.
        """
        link = releases / CURRENT
        if not link.exists():
            raise ArtifactError(
                f"{link} names no release that training could go on from; make one first with "
                "`make quickstart`."
            )
        folder = link.resolve()
        return Served(folder, read_manifest(folder, RELEASE))

    @property
    def cutoff(self) -> datetime:
        """Nothing from then on was seen by its retriever."""
        return parse_time(self.about["cutoff"])

    def run(self, runs: Path) -> Path:
        """The run of its two-tower, with the optimiser's state.

        Raises:
            ArtifactError: it is not there.
        """
        name = str(self.about["config"]["retriever"]["two_tower"])
        if not (runs / name / "checkpoints").is_dir():
            raise ArtifactError(
                f"{runs / name}, the run of the published release, is not there; its checkpoints "
                "are what training goes on from. Name the folder of runs: paths.runs=DIR."
            )
        return runs / name

    @property
    def retriever(self) -> Path:
        """Its retriever's bundle."""
        return self.folder / "retriever"

    @property
    def rankers(self) -> dict[str, Path]:
        """Name -> bundle."""
        return {name: self.folder / "rankers" / name for name in self.about["rankers"]}

    def policy(self) -> list[str]:
        """Its policy, as settings of ``trainer.export``."""
        policy = self.folder / "policy.json"
        values = read_json(policy) if policy.exists() else {}
        return [f"policy.{key}={json.dumps(value)}" for key, value in values.items()]

    def run_of(self, ranker: str, runs: Path) -> Path | None:
        """The run whose settings train one of its rankers anew; None, and why, where there is none.

        A ranker that stops by a validation window of its own is not trained without it.
        """
        name = self.about["config"][f"rankers/{ranker}"].get("run")
        reason = None
        if name is None or not (runs / name / "run.json").exists():
            reason = f"its run {name or ''} is not in {runs}"
        elif read_json(runs / name / "run.json")["model"]["validation"] is not None:
            reason = "it was trained with model.validation"
        if reason is not None:
            log.warning("The ranker %s stays as it is: %s.", ranker, reason)
            return None
        return runs / str(name)


@dataclass(frozen=True)
class Comparison:
    """NDCG at ``K`` of both releases on the users of the newest days."""

    users: int
    served: float
    new: float
    difference: Estimate
    """New minus served, with its interval over users."""

    @property
    def is_worse(self) -> bool:
        """By more than the noise."""
        return self.difference.high < 0


class Continuing:
    """The stages, in order."""

    def __init__(self, config: ContinueConfig) -> None:
        self._config, self._shop = config, config.shop
        self._dataset = Dataset.load(config.shop.dataset_json)
        self._served = Served.of(config.releases)
        self._stages = Stages(config.shop.root / ".stages")
        self._cutoff = held_back(self._dataset.end, config.hold_days)
        if self._cutoff <= self._served.cutoff:
            raise BadInput(
                f"The events reach to {self._dataset.end.isoformat()}; with {config.hold_days} "
                f"days held back nothing is newer than {self._served.cutoff.isoformat()}, the "
                "cut-off of the published release. Wait for more, or set init.hold_days."
            )

    @property
    def _day(self) -> str:
        return f"{self._cutoff:%Y-%m-%d}"

    def run(self) -> tuple[Path, dict[str, Comparison]]:
        """Train, export and compare; return the unpublished release and how it did.

        Raises:
            ShoprecError: a stage failed, or there is nothing new.
        """
        sessions = self._set("retrieval_v1", "sessions", self._cutoff)
        users = self._set("ranking_v1", "users", self._cutoff, self._until())
        towers = self._train(sessions)
        retriever = self._sources(towers, sessions)
        release = self._export(retriever, self._rankers(), users)
        rows = users / "users.parquet"
        found = {}
        for task, flags in TASKS.items():
            served = self._lists("served", self._served.folder, rows, task, flags)
            new = self._lists("new", release, rows, task, flags)
            found[task] = compare(served, new, rows, only_new=task == "new")
        return release, found

    def _until(self) -> datetime:
        return held_back(self._dataset.end, 0) + timedelta(days=1)

    def _set(
        self, service: str, kind: str, cutoff: datetime, until: datetime | None = None
    ) -> Path:
        """Make a set, or find one of the same cut-off and labels; return its folder."""
        labels = [] if until is None else [f"until={until.isoformat()}"]
        settings = [f"service={service}", f"kind={kind}", f"cutoff={cutoff.isoformat()}", *labels]
        command = (PYTHON, "-m", "feature_repo.jobs", "training-set", *self._shop.overrides)
        root = self._shop.root
        self._stages.run(
            Stage(
                f"continue-{service}-{kind}-{cutoff:%Y%m%dT%H%M%SZ}",
                f"Joining the {service} features of {kind} before {cutoff:%Y-%m-%d}",
                (*command, *settings),
                (root / "features", root / "canonical", self._shop.dataset_json),
                code=JOBS,
                environment=self._shop.environment,
                holds=lambda: self._made(service, kind, cutoff, until) is not None,
            )
        )
        made = self._made(service, kind, cutoff, until)
        assert made is not None
        return made

    def _made(
        self, service: str, kind: str, cutoff: datetime, until: datetime | None
    ) -> Path | None:
        """The folder of a set; None where there is none, or none with labels up to that time."""
        try:
            found = TrainingSet.open(self._dataset, service, kind, cutoff.isoformat(), until=until)
        except ArtifactError:
            return None
        return found.folder if until is None or found.until == until else None

    def _train(self, sessions: Path) -> Path:
        before = self._served.run(self._config.runs)
        days = math.ceil((self._cutoff - self._served.cutoff) / timedelta(days=1))
        settings = (
            *(f"experiment={self._config.experiment}", f"cutoff={self._day}"),
            *(f"warm_start={before}", f"model.max_age_days={days}"),
            *self._config.training,
        )
        about = f"Training the two-tower on {days} more days, from {before.name}"
        return self._answer("two-tower", about, ("trainer", *settings), (before, sessions))

    def _sources(self, towers: Path, sessions: Path) -> Path:
        events = self._shop.root / "canonical" / "events.parquet"
        settings = (f"cutoff={self._day}", f"two_tower={towers}")
        about = f"Fitting the candidate sources before {self._day}"
        inputs = (towers, sessions, events)
        return self._answer("sources", about, ("trainer.sources", *settings), inputs)

    def _rankers(self) -> dict[str, Path]:
        """Ranker -> its bundle."""
        found = self._served.rankers
        if self._config.rankers is Rankers.keep:
            return found
        for name in found:
            run = self._served.run_of(name, self._config.runs)
            if run is not None:
                found[name] = self._ranker(name, run)
        return found

    def _ranker(self, name: str, run: Path) -> Path:
        """Train a ranker as a run did; the newest window is that since the published cut-off."""
        newest = RankerWindow(self._served.retriever, self._served.cutoff, self._cutoff)
        windows = [newest, *windows_of(run)][:LABEL_WINDOWS]
        bundles = [window.bundle for window in windows]
        settings = (
            *(f"like={run}", f"cutoff={self._day}", f"retriever={bundles[0]}"),
            f"model.earlier={json.dumps([str(bundle) for bundle in bundles[1:]])}",
        )
        about = f"Training the ranker {name} on {len(windows)} windows before {self._day}"
        inputs = (run / "run.json", *map(self._labels, windows), *bundles)
        return self._answer(f"ranker-{name}", about, ("trainer", *settings), inputs) / RANKER

    def _labels(self, window: RankerWindow) -> Path:
        """The set of a window, which an edge's name may lead to no more once events came in."""
        wanted = "ranking_v1", "users", window.cutoff, window.until
        return self._made(*wanted) or self._set(*wanted)

    def _export(self, retriever: Path, rankers: Mapping[str, Path], users: Path) -> Path:
        command = (PYTHON, "-m", "trainer.export", *self._shop.named, f"cutoff={self._day}")
        named = {
            "ranker" if name == DEFAULT_RANKER else f"ranker.{name}": folder
            for name, folder in rankers.items()
        }
        parts = [f"{key}={folder}" for key, folder in {"retriever": retriever, **named}.items()]
        parts += [*self._served.policy(), f"out={self._config.releases}"]
        stage = Stage(
            "continue-export",
            f"Exporting the release of {self._day}",
            (*command, *parts),
            (retriever, *rankers.values(), self._served.folder, users),
            answers_path=True,
        )
        return self._stages.run(stage).path

    def _answer(
        self, name: str, about: str, command: tuple[str, ...], inputs: tuple[Path, ...]
    ) -> Path:
        module, *settings = command
        runs = f"paths.runs={self._config.runs}"
        full = (PYTHON, "-m", module, *self._shop.named, *settings, runs)
        stage = Stage(f"continue-{name}", about, full, inputs, answers_path=True)
        return self._stages.run(stage).path

    def _lists(
        self, name: str, release: Path, rows: Path, task: str, flags: tuple[str, ...]
    ) -> Path:
        out = self._config.runs / f"continued-{self._day}" / f"{name}-{task}.parquet"
        command = (PYTHON, "-m", "serving.batch", "--release", str(release), "--k", str(K))
        files = ("--user-rows", str(rows), "--out", str(out))
        self._stages.run(
            Stage(
                f"continue-lists-{name}-{task}",
                f"Making the {name} release's lists of {task} items as of {self._day}",
                (*command, *files, *flags),
                (release, rows),
                (out,),
            )
        )
        return out

    def publish(self, release: Path, found: Mapping[str, Comparison]) -> None:
        """Publish a release that is not worse, and say so.

        Raises:
            BadInput: it is worse, or too few users tell.
        """
        folder = self._config.runs / f"continued-{self._day}"
        write_json(folder / "comparison.json", {t: asdict(one) for t, one in found.items()})
        users = found["all"].users
        if users < self._config.min_users:
            raise BadInput(
                f"Only {users} users bought anything since {self._day}, which tells nothing of "
                f"{release}; it stays unpublished. Hold more days back (init.hold_days), or ask "
                "for fewer users (init.min_users)."
            )
        worse = [task for task, one in found.items() if one.is_worse]
        if worse:
            raise BadInput(
                f"{release} makes worse lists of {' and '.join(worse)} items than the published "
                f"release ({_told(found)}), and stays unpublished."
            )
        stage = Stage(
            "continue-publish",
            f"Publishing {release.name}",
            (PYTHON, "-m", "trainer.export", "--publish", str(release)),
            (release,),
            holds=lambda: (self._config.releases / CURRENT).resolve() == release.resolve(),
        )
        self._stages.run(stage)
        log.info("Published: %s.", _told(found))


def _told(found: Mapping[str, Comparison]) -> str:
    return "; ".join(
        f"NDCG@{K} of {task} items {one.served:.4f} -> {one.new:.4f}, difference "
        f"{one.difference.mean:+.4f} [{one.difference.low:+.4f}, {one.difference.high:+.4f}] over "
        f"{one.users} users"
        for task, one in found.items()
    )


@dataclass(frozen=True)
class RankerWindow:
    """What a ranker learns from: a retriever's candidates, and what was bought since."""

    bundle: Path
    """The retriever."""
    cutoff: datetime
    """Of the retriever."""
    until: datetime
    """Labels are of before."""


def windows_of(run: Path) -> list[RankerWindow]:
    """What a ranker's run learned from, the latest first, as far as the bundles are still there.

    Args:
        run: folder of the run.
    """
    config = OmegaConf.load(run / "config.yaml")
    until = parse_time(read_json(run / "run.json")["cutoff"])
    found: list[RankerWindow] = []
    for bundle in (Path(config.retriever), *map(Path, config.model.earlier)):
        if not (bundle / MANIFEST).exists():
            break
        cutoff = parse_time(read_manifest(bundle, RETRIEVER, verify=False)["cutoff"])
        found.append(RankerWindow(bundle, cutoff, until))
        until = cutoff
    return found


def held_back(end: datetime, days: int) -> datetime:
    """The midnight in UTC, ``days`` days before that of the last event; ``end`` is just after."""
    last = (end - timedelta(seconds=1)).astimezone(UTC)
    midnight = last.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight - timedelta(days=max(days - 1, 0))


def compare(served: Path, new: Path, rows: Path, *, only_new: bool, seed: int = 0) -> Comparison:
    """Judge two files of lists by what users bought; a user without a list scores 0.

    Args:
        served: lists of the published release.
        new: lists of the new one.
        rows: user rows with ``target_item_id`` and what each user had bought before.
        only_new: whether what was bought before does not count.
        seed: of the bootstrap.

    Raises:
        BadInput: nobody bought anything.
    """
    users = read_table(rows)
    relevant = relevant_items(users, only_new=only_new)
    keep = np.flatnonzero([len(items) > 0 for items in relevant])
    ids = users.column("user_id").take(pa.array(keep))
    bought = [relevant[place] for place in keep]
    values = [ndcg_at_k(*placed(read_table(path), ids, bought), K) for path in (served, new)]
    difference = bootstrap(values[1] - values[0], seed=seed)
    return Comparison(len(keep), float(values[0].mean()), float(values[1].mean()), difference)


def relevant_items(users: pa.Table, *, only_new: bool) -> list[set[Any]]:
    """What each user should have been shown.

    Args:
        users: rows with ``target_item_id`` and what each user had bought before.
        only_new: whether what was bought before does not count.
    """
    ids, offsets = list_column(users, TARGET)
    later = np.split(np.asarray(ids.to_pylist(), dtype=object), offsets[1:-1])
    if not only_new:
        return [set(items) for items in later]
    column = SEEN if SEEN in users.column_names else "history_item_id"
    ids, offsets = list_column(users, column)
    before = np.split(np.asarray(ids.to_pylist(), dtype=object), offsets[1:-1])
    return [set(items) - set(mine) for items, mine in zip(later, before, strict=True)]


def placed(
    lists: pa.Table, users: pa.ChunkedArray, bought: Sequence[set[Any]]
) -> tuple[Ints, Relevant]:
    """[B, K] numbers of the items of users' lists, 0 where a list is short, and what is relevant.

    Args:
        lists: ``user_id, item_id, rank``.
        users: B ids.
        bought: [B] items.
    """
    place = pc.index_in(lists.column("user_id"), users.combine_chunks())
    lists = lists.append_column("place", place).filter(pc.is_valid(place))
    items = lists.column("item_id").to_pylist()
    rows = {item: row for row, item in enumerate(dict.fromkeys(items), start=1)}
    for item in (item for items in bought for item in sorted(items)):
        rows.setdefault(item, len(rows) + 1)
    lists_BK = np.zeros((len(users), K), dtype=np.int64)
    rank = np.asarray(lists.column("rank")) - 1
    kept = rank < K
    item_row = np.array([rows[item] for item in items], dtype=np.int64)
    lists_BK[np.asarray(lists.column("place"))[kept], rank[kept]] = item_row[kept]
    return lists_BK, Relevant.of([[rows[item] for item in items] for items in bought])


def go_on(arguments: Sequence[str]) -> Path:
    """Run the command; return the release that is published now.

    Raises:
        ShoprecError: a stage failed, there is nothing new, or the result is worse.
    """
    os.environ.setdefault("PYTHONWARNINGS", "ignore::DeprecationWarning")
    continuing = Continuing(ContinueConfig.parse(arguments))
    release, found = continuing.run()
    sys.stderr.write(f"{_told(found)}\n")
    continuing.publish(release, found)
    return release
