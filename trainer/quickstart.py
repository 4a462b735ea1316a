"""``make quickstart``: from raw data to a served, measured recommendation, stage by stage.

Every stage is a command that can be run alone; this module only strings them together, skips
those whose inputs did not change (``trainer.stages``), and shows what came out. It starts the
other packages as processes and imports none of them.

The clock has edges t0 < t1 < t2 < t3, and t-1, t-2, ... before them. A *system at* an edge is a
retriever fitted at that edge and a ranker trained on the candidates of the retrievers of the edges
before, with what was bought from each to the next as labels. Everything is chosen with the system
at t1, judged on [t1, t2); the release is the system at t2, judged on [t2, t3) by ``--report``
alone; ``--cutoff latest`` makes the system at t3.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rich.console import Console

from feature_repo.contract.artifacts import read_table
from feature_repo.contract.dataset import DATASET_VARIABLE, REPOSITORY, Clock, Dataset, IdType
from feature_repo.contract.embedded import URL_VARIABLE, connect, online_url
from feature_repo.contract.errors import BadInput, ShoprecError, StoreUnavailable
from feature_repo.contract.online import OnlineReader
from feature_repo.contract.schema import Schema
from trainer.showcase import sample_users, show_answers, show_results, show_stages
from trainer.stages import Stage, StageResult, Stages

log = logging.getLogger(__name__)

PYTHON = sys.executable
JOBS = ("feature_repo",)
FITTING = ("feature_repo", "retrieval", "trainer", "conf")
TOWERS = "two_tower"
"""Folder of a two-tower's run with all that the sources' stage reads of it, and writes beside."""
RANKER, DISCOVER = "wide_deep", "wide_deep_new"
"""Experiments of the rankers of all items, and of those that are new to the user."""
LABEL_WINDOWS = 3
"""A ranker learns from, where the data reach back so far."""
README = REPOSITORY / "README.md"


@dataclass(frozen=True)
class Shop:
    """The data set of this run and where its files lie."""

    data: str
    """Name of the YAML in ``conf/data``."""
    name: str
    root: Path
    overrides: tuple[str, ...]
    """All ``data...`` settings of the command line, for the jobs."""

    @staticmethod
    def from_overrides(overrides: Sequence[str]) -> Shop:
        """Read ``data=``, ``data.name=`` and ``data.root=`` from a command line.

        Raises:
            BadInput: an override that is none of the data's.
        """
        settings = {}
        for override in overrides:
            key, equals, value = override.partition("=")
            if not equals or not (key == "data" or key.startswith("data.")):
                raise BadInput(
                    f"{override!r} is not a setting of the data, such as data=parquet or "
                    "data.events=orders.parquet; --help lists the rest."
                )
            settings[key] = value
        data = settings.get("data", "complete_journey")
        name = settings.get("data.name", data)
        root = Path(settings.get("data.root", REPOSITORY / "data" / name)).resolve()
        kept = [o for o in overrides if not o.startswith(("data=", "data.root="))]
        return Shop(data, name, root, (f"data={data}", f"data.root={root}", *kept))

    @property
    def is_default(self) -> bool:
        """Whether it is the data set that the README's table is about, whole."""
        return self.overrides == Shop.from_overrides(()).overrides

    @property
    def named(self) -> tuple[str, ...]:
        """The settings that name the data set, for commands that need no others."""
        return (f"data={self.data}", f"data.name={self.name}", f"data.root={self.root}")

    @property
    def dataset_json(self) -> Path:
        """Written last by ingest."""
        return self.root / "dataset.json"

    @property
    def environment(self) -> dict[str, str]:
        """What Feast and the definitions need to find this shop."""
        found = {
            DATASET_VARIABLE: str(self.dataset_json),
            "PYTHONWARNINGS": "ignore::DeprecationWarning",  # of Feast's own dependencies
        }
        own = self.root / "feature_store.yaml"
        if own.exists():
            found["FEAST_FS_YAML_FILE_PATH"] = str(own)
        return found

    def experiment(self, model: str) -> str:
        """The shop's own experiment of a model, or the one that suits any shop."""
        own = REPOSITORY / "conf" / "experiment" / self.data / f"{model}.yaml"
        return f"{self.data}/{model}" if own.exists() else model


class Quickstart:
    """The stages of one run, in order."""

    def __init__(self, shop: Shop, stages: Stages, runs: Path, releases: Path) -> None:
        self.shop = shop
        self.stages = stages
        self.runs = runs / shop.name
        self.releases = releases
        self._retrievers: dict[int, Path] = {}

    @property
    def dataset(self) -> Dataset:
        """The ingested data set."""
        return Dataset.load(self.shop.dataset_json)

    def prepare(self, last_edge: int) -> None:
        """Ingest, compute features, register them, and join the training sets."""
        shop, root = self.shop, self.shop.root
        self._job("ingest", "Reading the raw data", (), (root / "canonical", shop.dataset_json))
        self.join(last_edge)

    def join(self, last_edge: int) -> None:
        """Compute the features of an ingested shop, register them, and join the training sets."""
        shop, root = self.shop, self.shop.root
        self._job(
            "state",
            "Computing user states and item activity",
            (root / "canonical", shop.dataset_json),
            (root / "features",),
        )
        registry = (root / "registry.db",)
        self._feast("apply", "Registering the features with Feast", ("apply",), registry)
        first_judged = 1 if last_edge == 2 else last_edge
        for edge in range(self.labelled(first_judged)[-1], last_edge + 1):
            self._set("retrieval_v1", "sessions", edge)
            self._set("ranking_v1", "users", edge, labels=edge < last_edge)

    def validate(self) -> Path:
        """Judge the system at t1 on the validation window; return the evaluation's folder."""
        release = self.system(1)
        return self.evaluate("validation", 1, self.lists(1, release, online=False))

    def system(self, edge: int, models: tuple[str, str] = (RANKER, DISCOVER)) -> Path:
        """Fit retriever and rankers at an edge; return the unpublished release."""
        windows = [self.retriever(before) for before in self.labelled(edge)]
        rankers = [self.ranker(model, edge, windows) for model in models]
        return self.export(edge, self.retriever(edge), *rankers)

    def release(self, edge: int) -> tuple[Path, tuple[Path, Path]]:
        """Fit the system that is served and fill the online store; return it and its lists."""
        made = self.system(edge)
        self.materialize(edge)
        return made, self.lists(edge, made, online=True)

    def labelled(self, edge: int) -> list[int]:
        """The edges whose windows a ranker of ``edge`` learns from, the latest first."""
        first = max(edge - LABEL_WINDOWS, -len(self.dataset.earlier))
        return list(range(edge - 1, first - 1, -1))

    def _job(
        self, job: str, about: str, inputs: tuple[Path, ...], outputs: tuple[Path, ...]
    ) -> None:
        command = (PYTHON, "-m", "feature_repo.jobs", job, *self.shop.overrides)
        stage = Stage(job, about, command, (*inputs, *self._files()), outputs, code=JOBS)
        self._run(stage)

    def _files(self) -> tuple[Path, ...]:
        """The shop's own input files, named on the command line."""
        names = ("data.events=", "data.users=", "data.items=")
        return tuple(
            Path(override.partition("=")[2]).resolve()
            for override in self.shop.overrides
            if override.startswith(names) and not override.endswith("=null")
        )

    def _feast(
        self,
        name: str,
        about: str,
        arguments: tuple[str, ...],
        outputs: tuple[Path, ...] = (),
        holds: Callable[[], bool] | None = None,
    ) -> None:
        feast = str(Path(PYTHON).with_name("feast"))
        self._run(
            Stage(
                name,
                about,
                (feast, "-c", str(REPOSITORY / "feature_repo"), *arguments),
                (self.shop.root / "features", self.shop.dataset_json),
                outputs,
                code=JOBS,
                environment=self.shop.environment,
                holds=holds,
            )
        )

    def _run(self, stage: Stage) -> StageResult:
        return self.stages.run(stage)

    def set_folder(self, service: str, kind: str, edge: int) -> Path:
        """Where a training set lies."""
        return self.shop.root / "sets" / f"{service}-{kind}-t{edge}"

    def _set(self, service: str, kind: str, edge: int, *, labels: bool = False) -> None:
        command = [PYTHON, "-m", "feature_repo.jobs", "training-set", *self.shop.overrides]
        command += [f"service={service}", f"kind={kind}", f"cutoff=t{edge}"]
        if labels:
            command.append(f"until=t{edge + 1}")
        folder = self.set_folder(service, kind, edge)
        about = f"Joining the {service} features of {kind} before {self._day(edge)}"
        inputs = (self.shop.root / "features", self.shop.root / "canonical", self.shop.dataset_json)
        environment = self.shop.environment
        self._run(
            Stage(
                folder.name,
                about,
                tuple(command),
                inputs,
                (folder,),
                code=JOBS,
                environment=environment,
            )
        )

    def _day(self, edge: int) -> str:
        return f"{self.dataset.edge(f't{edge}'):%Y-%m-%d}"

    def retriever(self, edge: int) -> Path:
        """Train the two-tower and fit the other sources on what lies before an edge."""
        if edge not in self._retrievers:
            self._retrievers[edge] = self._fit_retriever(edge)
        return self._retrievers[edge]

    def _fit_retriever(self, edge: int) -> Path:
        day = self._day(edge)
        sessions = self.set_folder("retrieval_v1", "sessions", edge)
        towers = self._train(
            f"two-tower@t{edge}",
            f"Training the two-tower before {day}",
            (f"experiment={self.shop.experiment('two_tower')}", f"cutoff=t{edge}"),
            (sessions,),
        )
        events = self.shop.root / "canonical" / "events.parquet"
        arguments = (*self.shop.named, f"cutoff=t{edge}", f"two_tower={towers}")
        return self._run(
            Stage(
                f"sources@t{edge}",
                f"Fitting the candidate sources before {day}",
                (PYTHON, "-m", "trainer.sources", *arguments, f"paths.runs={self.runs}"),
                (towers / TOWERS, sessions, events),
                answers_path=True,
                code=FITTING,
            )
        ).path

    def ranker(self, model: str, edge: int, retrievers: Sequence[Path]) -> Path:
        """Train a ranker on the candidates of the retrievers of the edges before, latest first."""
        what = "items new to the user" if model.endswith("_new") else "all items"
        first, *earlier = retrievers
        labelled = self.labelled(edge)
        sets = [self.set_folder("ranking_v1", "users", before) for before in labelled]
        run = self._train(
            f"{model}@t{edge}",
            f"Training the ranker of {what} on {self._day(labelled[-1])} to {self._day(edge)}",
            (
                f"experiment={self.shop.experiment(model)}",
                f"cutoff=t{edge}",
                f"retriever={first}",
                f"model.earlier=[{','.join(map(str, earlier))}]",
            ),
            (*retrievers, *sets),
        )
        return run / "ranker"

    def _train(
        self, name: str, about: str, arguments: tuple[str, ...], inputs: tuple[Path, ...]
    ) -> Path:
        command = (PYTHON, "-m", "trainer", *self.shop.named, *arguments, f"paths.runs={self.runs}")
        stage = Stage(name, about, command, inputs, answers_path=True, code=(*FITTING, "ranking"))
        return self._run(stage).path

    def export(self, edge: int, retriever: Path, ranker: Path, discover: Path) -> Path:
        """Assemble an unpublished release."""
        rows = self.set_folder("ranking_v1", "users", edge)
        parts = (f"retriever={retriever}", f"ranker={ranker}", f"ranker.discover={discover}")
        command = (PYTHON, "-m", "trainer.export", *self.shop.named, f"cutoff=t{edge}", *parts)
        return self._run(
            Stage(
                f"export@t{edge}",
                f"Exporting the release of {self._day(edge)}",
                (*command, f"out={self.releases}"),
                (retriever, ranker, discover, rows),
                answers_path=True,
            )
        ).path

    def lists(self, edge: int, release: Path, *, online: bool) -> tuple[Path, Path]:
        """Make everybody's lists, of all items and of new ones; return the two files."""
        rows = self.set_folder("ranking_v1", "users", edge) / "users.parquet"
        found = []
        for task, flags in (("all", ()), ("new", ("--exclude-seen",))):
            out = self.runs / f"lists-t{edge}" / f"{task}.parquet"
            command = [PYTHON, "-m", "serving.batch", "--release", str(release)]
            command += ["--users", "all", "--out", str(out), *flags]
            command += [] if online else ["--user-rows", str(rows)]
            what = "all items" if task == "all" else "items new to the user"
            self._run(
                Stage(
                    f"lists-{task}@t{edge}",
                    f"Making everybody's lists of {what} as of {self._day(edge)}",
                    tuple(command),
                    (release, rows),
                    (out,),
                    code=("feature_repo", "retrieval", "ranking", "serving"),
                )
            )
            found.append(out)
        return found[0], found[1]

    def evaluate(self, split: str, edge: int, lists: tuple[Path, Path]) -> Path:
        """Judge lists on a split; return the folder of the evaluation."""
        out = self.runs / f"evaluation-{split}"
        arguments = (f"lists={lists[0]}", f"lists_new={lists[1]}", f"split={split}", f"out={out}")
        self._run(
            Stage(
                f"evaluate-{split}",
                f"Judging the lists on {self._day(edge)} to {self._day(edge + 1)}",
                (PYTHON, "-m", "trainer.evaluate", *self.shop.named, *arguments),
                (*lists, self.shop.root / "canonical"),
                (out,),
                code=("feature_repo", "ranking", "trainer", "conf"),
            )
        )
        return out

    def materialize(self, edge: int) -> None:
        """Fill the online store with the users' features as of an edge, by Feast's own CLI."""
        dataset = self.dataset
        end = dataset.edges[edge] - timedelta(microseconds=1)
        start = dataset.start - timedelta(days=1)
        if dataset.clock is Clock.AS_OF:
            self._clear_newer(edge)
        times = tuple(f"{time.replace(tzinfo=None).isoformat()}" for time in (start, end))
        self._feast(
            f"materialize@t{edge}",
            f"Filling the online store as of {self._day(edge)} (feast materialize)",
            ("materialize", *times),
            holds=lambda: self._is_online(edge),
        )

    def _clear_newer(self, edge: int) -> None:
        """Drop what an earlier run put online; Feast would keep rows of a later cut-off."""
        self._run(
            Stage(
                f"clear-online@t{edge}",
                "Clearing the online store of this data set's features",
                (PYTHON, "-m", "feature_repo.jobs", "clear-online", *self.shop.overrides),
                (self.shop.dataset_json, self.shop.root / "features"),
                code=JOBS,
                holds=lambda: self._is_online(edge),
            )
        )

    def _is_online(self, edge: int) -> bool:
        """Whether the online store holds some users' rows exactly as of an edge."""
        folder = self.set_folder("ranking_v1", "users", edge)
        schema = Schema.load(folder / "schema.json")
        rows = read_table(folder / "users.parquet", ["user_id", "last_event_s"])
        some = rows.take(list(range(0, len(rows), max(len(rows) // 8, 1))))
        reader = OnlineReader(connect(), self.dataset.name, schema, self.dataset.user_id)
        try:
            found = reader.read(some.column("user_id").to_pylist(), self.dataset.edges[edge])
        except StoreUnavailable:
            return False
        stored = found.table.column("last_event_s").to_pylist()
        return bool(stored == some.column("last_event_s").to_pylist())

    def publish(self, release: Path) -> None:
        """Make a release the current one."""
        self._run(
            Stage(
                "publish",
                f"Publishing {release.name}",
                (PYTHON, "-m", "trainer.export", "--publish", str(release)),
                (release,),
                holds=lambda: (self.releases / "current").resolve() == release.resolve(),
            )
        )


def run(arguments: argparse.Namespace) -> None:
    """Run all stages and show what came out.

    Raises:
        ShoprecError: a stage failed, or an argument is wrong.
    """
    shop = Shop.from_overrides(arguments.overrides)
    os.environ[URL_VARIABLE] = online_url()
    edge = 3 if arguments.cutoff == "latest" else 2
    stages = Stages(shop.root / ".stages", force=arguments.force)
    quick = Quickstart(shop, stages, Path("runs").resolve(), Path("releases").resolve())
    console = Console(width=None if sys.stdout.isatty() else 100)
    quick.prepare(edge)
    judged = None if edge == 3 else quick.validate()
    release, lists = quick.release(edge)
    if arguments.report:
        judged = quick.evaluate("test", edge, lists)
    quick.publish(release)
    show_answers(console, release, _askers(quick.dataset, lists[0]))
    if judged is not None:
        show_results(console, judged)
    if arguments.report and judged is not None and shop.is_default:
        _write_readme(judged)
    show_stages(console, stages.results)
    console.print(_next_steps(shop, release, judged))


def _askers(dataset: Dataset, lists: Path) -> list[tuple[int | str, str]]:
    stranger: int | str = 999_999_999 if dataset.user_id is IdType.INT64 else "a-new-customer"
    return [*((user, "user") for user in sample_users(lists)), (stranger, "unknown user")]


def _next_steps(shop: Shop, release: Path, judged: Path | None) -> str:
    plots = "" if judged is None else f"\nPlots and intervals: {judged}"
    data = "" if shop.is_default else f" {' '.join(shop.named)}"
    experiment = f"experiment={shop.experiment('two_tower')}"
    return (
        f"Release: {release}{plots}\n"
        "Next: make serve, then open http://127.0.0.1:8000/docs and ask for a user's list\n"
        f"      python -m trainer {experiment}{data} cutoff=t1 model.dim=128\n"
        "      the same command with --report judges the test window, once (make report)"
    )


def _write_readme(judged: Path) -> None:
    from trainer.report import write_results

    write_results(README, judged)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="python -m trainer.quickstart",
        description="From raw data to a served, measured recommendation. Stages whose inputs did "
        "not change are reused; an interrupted run continues where it stopped.",
        epilog="Examples: data=complete_journey; data=parquet data.name=my_shop "
        "data.events=orders.csv data.columns.user_id=customer; data.max_users=200 for a sample.",
    )
    found.add_argument("overrides", nargs="*", metavar="data.KEY=VALUE", help="the data's settings")
    found.add_argument(
        "--cutoff", choices=["latest"], help="latest: train on everything; nothing is judged"
    )
    found.add_argument(
        "--report",
        action="store_true",
        help="judge the test window; for complete_journey, write README's table",
    )
    found.add_argument("--force", action="store_true", help="run every stage again")
    return found


def main(arguments: Sequence[str]) -> int:
    """Run the quickstart; return the exit status."""
    parsed = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if parsed.report and parsed.cutoff == "latest":
        parser().error("--report judges the test window, which --cutoff latest trains on")
    try:
        run(parsed)
    except ShoprecError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted; the same command continues from here.\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
