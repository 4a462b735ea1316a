"""``python -m trainer.export``: models and item tables become one release, checked and unpublished.

    python -m trainer.export retriever=RUN/retriever ranker=RUN/ranker cutoff=t2
    python -m trainer.export --publish releases/<version>

A release is a folder that serving starts from alone. Its golden rows hold what the exported files,
read back, answer; serving replays them whenever it loads the release.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from feature_repo.contract.artifacts import (
    atomic_folder,
    read_manifest,
    read_table,
    sha256_file,
    write_json,
    write_manifest,
    write_table,
)
from feature_repo.contract.dataset import REPOSITORY, Dataset, parse_time
from feature_repo.contract.encoding import query_times_s
from feature_repo.contract.errors import ArtifactError, ConfigError, ShoprecError
from feature_repo.contract.events import is_label
from feature_repo.contract.schema import Schema
from feature_repo.contract.snapshot import FILE
from ranking.policy import Lists, rank_lists, seen_rows
from ranking.policy_config import PREFIX, PolicyConfig
from ranking.policy_items import PolicyItems
from ranking.scorer import KIND as RANKER
from ranking.scorer import Scorer
from retrieval.retriever import KIND as RETRIEVER
from retrieval.retriever import Retriever
from trainer.sets import TrainingSet
from trainer.snapshot import LISTS, K, Reference, reference_rows, with_lists

log = logging.getLogger(__name__)

KIND = "release"
SERVICE = "ranking_v1"
DEFAULT_RANKER = "default"
GOLDEN_USERS = 8
GOLDEN_ITEMS = 20
CURRENT = "current"
"""The symbolic link that names the published release."""


@dataclass(frozen=True)
class ExportConfig:
    """What a release is made of."""

    retriever: Path
    """Bundle fitted at the release's cut-off."""
    rankers: Mapping[str, Path]
    """Name -> bundle. ``default`` answers; ``discover``, if any, lists of new items."""
    cutoff: str
    """t0..t3 or an ISO time: nothing from then on was seen."""
    dataset_json: Path
    out: Path = Path("releases")
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """Of the release's lists, where a request does not say otherwise."""

    def __post_init__(self) -> None:
        if DEFAULT_RANKER not in self.rankers:
            raise ConfigError("A release needs a ranker: ranker=DIR.")
        for name in self.rankers:
            if not name.isidentifier():
                raise ConfigError(f"ranker.{name}: a name is letters, digits and underscores.")

    @staticmethod
    def parse(settings: Sequence[str]) -> ExportConfig:
        """Read ``key=value`` settings.

        Raises:
            ConfigError: an unknown or missing key, or no ``=``.
        """
        policy = PolicyConfig().updated([s for s in settings if s.startswith(PREFIX)])
        values = dict(_pair(setting) for setting in settings if not setting.startswith(PREFIX))
        rankers = {
            key.partition(".")[2] or DEFAULT_RANKER: Path(values.pop(key))
            for key in list(values)
            if key == "ranker" or key.startswith("ranker.")
        }
        data = {k: values.pop(k) for k in list(values) if k == "data" or k.startswith("data.")}
        unknown = sorted(set(values) - {"retriever", "cutoff", "out"})
        missing = sorted({"retriever", "cutoff"} - set(values))
        if unknown or missing:
            raise ConfigError(
                f"Settings are retriever=DIR ranker=DIR [ranker.NAME=DIR] cutoff=t2 [data=NAME] "
                f"[out=FOLDER] [policy.KEY=VALUE]; unknown: {unknown}, missing: {missing}."
            )
        return ExportConfig(
            Path(values["retriever"]),
            rankers,
            values["cutoff"],
            _dataset_json(data),
            Path(values.get("out", "releases")),
            policy,
        )


def _pair(setting: str) -> tuple[str, str]:
    key, equals, value = setting.partition("=")
    if not equals or not value:
        raise ConfigError(f"{setting!r} is not a setting such as cutoff=t2.")
    return key, value


def _dataset_json(data: Mapping[str, str]) -> Path:
    """Of ``data=NAME``, ``data.name`` and ``data.root``; other ``data.*`` belong to the ingest."""
    name = data.get("data.name", data.get("data", "complete_journey"))
    root = Path(data.get("data.root", REPOSITORY / "data" / name))
    return root / "dataset.json"


def export(config: ExportConfig) -> Path:
    """Make a release and return its folder; publishes nothing.

    Raises:
        ArtifactError: a part is missing or changed, or of another data set, cut-off or list of
            features than the others.
    """
    dataset = Dataset.load(config.dataset_json)
    cutoff = dataset.edge(config.cutoff)
    rows = TrainingSet.open(dataset, SERVICE, "users", config.cutoff)
    abouts = {"retriever": _require_fitting(config.retriever, RETRIEVER, dataset, cutoff)}
    for name, folder in config.rankers.items():
        abouts[f"rankers/{name}"] = _require_fitting(folder, RANKER, dataset, cutoff)
    config.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export.", dir=config.out) as name:
        staging = Path(name)
        _copy_parts(config, rows, staging)
        reference = reference_rows(dataset, rows, config.cutoff)
        parts = tuple(config.rankers)
        schemas = _write_golden(rows, staging, parts, config.policy, reference)
        about = _about(dataset, cutoff, rows.schema, schemas, abouts, tuple(config.rankers))
        return _settle(staging, config.out, about)


def _require_fitting(folder: Path, kind: str, dataset: Dataset, cutoff: datetime) -> dict[str, Any]:
    """The description of a bundle that may be part of a release at ``cutoff``."""
    about = read_manifest(folder, kind)
    if about["dataset"] != dataset.name:
        raise ArtifactError(
            f"{folder} was fitted on {about['dataset']}; expected {dataset.name}. Name the data "
            "set with data=..."
        )
    fitted = parse_time(str(about["cutoff"]))
    if fitted > cutoff or (kind == RETRIEVER and fitted != cutoff):
        raise ArtifactError(
            f"{folder} is a {kind} with cut-off {fitted.isoformat()}, which does not belong into a "
            f"release with cut-off {cutoff.isoformat()}; fit one with cutoff={cutoff.isoformat()}."
        )
    if fitted < cutoff:
        log.warning("%s was fitted at %s, before the release's cut-off.", folder, fitted)
    return about


def _copy_parts(config: ExportConfig, rows: TrainingSet, staging: Path) -> None:
    _link_tree(config.retriever, staging / "retriever")
    for name, folder in config.rankers.items():
        _link_tree(folder, staging / "rankers" / name)
    write_table(staging / "items.parquet", rows.items)
    write_table(staging / "users.parquet", rows.users.read(columns=["user_id"]))
    rows.schema.save(staging / "schema.json")
    if config.policy != PolicyConfig():
        write_json(staging / "policy.json", config.policy.to_json())


def _link_tree(source: Path, target: Path) -> None:
    """Copy a folder by hard links (files are never changed in place), or by bytes across disks."""
    shutil.copytree(source, target, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _write_golden(
    rows: TrainingSet,
    staging: Path,
    rankers: Sequence[str],
    policy: PolicyConfig,
    reference: Reference,
) -> dict[str, Schema]:
    """Answer some users from the staged files, read back; return each part's features.

    Writes the monitor's snapshot of ``reference`` rows and their lists as well.

    Raises:
        ConfigError: the policy does not hold for the items.
        SchemaMismatch: a part reads other features than the item and user rows have.
    """
    retriever = Retriever.load(staging / "retriever")
    items = read_table(staging / "items.parquet")
    _require_policy(policy, retriever, items)
    scorers = {name: Scorer.load(staging / "rankers" / name, items) for name in rankers}
    schemas = {"retriever": retriever.encoder.schema}
    schemas |= {f"rankers/{name}": s.inputs.encoder.schema for name, s in scorers.items()}
    for part, schema in schemas.items():
        _require_features(rows.schema, schema, part)
    users = golden_users(rows)
    parts = [
        _golden_table(retriever, scorer, users, name, exclude_seen)
        for name, scorer in scorers.items()
        for exclude_seen in (False, True)
    ]
    write_table(staging / "golden" / "users.parquet", users)
    write_table(staging / "golden" / "lists.parquet", pa.concat_tables(parts))
    _write_snapshot(rows.schema, staging, retriever, scorers[DEFAULT_RANKER], reference)
    return schemas


def _write_snapshot(
    schema: Schema,
    staging: Path,
    retriever: Retriever,
    scorer: Scorer,
    reference: Reference,
) -> None:
    """What the monitor compares a running shop with."""
    lists = answer(retriever, scorer, reference.rows[:LISTS], K, exclude_seen=False)
    items = read_table(staging / "items.parquet")
    num_users = len(read_table(staging / "users.parquet", ["user_id"]))
    vocabulary = retriever.encoder.items
    with_lists(reference.snapshot(schema), lists, items, vocabulary, num_users).save(staging / FILE)


def _require_policy(policy: PolicyConfig, retriever: Retriever, items: pa.Table) -> None:
    encoder = retriever.encoder
    PolicyItems.of(policy, items, encoder.items, len(encoder.users), retriever.item_vectors)


def _require_features(rows: Schema, part: Schema, what: str) -> None:
    names = {feature.name for feature in part.features}
    Schema(rows.service, tuple(f for f in rows.features if f.name in names)).require_same(
        part.stored, what
    )


def golden_users(rows: TrainingSet) -> pa.Table:
    """Some user rows, spread evenly over the first row group, without what was bought later."""
    group = rows.users.read_row_group(0)
    places = np.unique(np.linspace(0, len(group) - 1, GOLDEN_USERS).astype(np.int64))
    kept = [name for name in group.column_names if not is_label(name)]
    return group.select(kept).take(pa.array(places))


def answer(
    retriever: Retriever, scorer: Scorer, users: pa.Table, k: int, *, exclude_seen: bool
) -> Lists:
    """The best ``k`` items of some user rows, by score alone."""
    now_s, vocabulary = query_times_s(users), retriever.encoder.items
    barred = seen_rows(users, vocabulary) if exclude_seen else None
    candidates = retriever.candidates(users, now_s, barred)
    scores = scorer.score(users, candidates, vocabulary, now_s)
    return rank_lists(candidates, scores, k)


def _golden_table(
    retriever: Retriever, scorer: Scorer, users: pa.Table, ranker: str, exclude_seen: bool
) -> pa.Table:
    lists = answer(retriever, scorer, users, GOLDEN_ITEMS, exclude_seen=exclude_seen)
    row, place = np.nonzero(lists.item_row > 0)
    return pa.table(
        {
            "ranker": [ranker] * len(row),
            "exclude_seen": [exclude_seen] * len(row),
            "row": row.astype(np.int32),
            "rank": (place + 1).astype(np.int32),
            "item_id": pa.array(
                retriever.encoder.items.ids_of(lists.item_row[row, place]),
                retriever.encoder.items.ids.type,
            ),
            "score": lists.score[row, place],
        }
    )


def _about(
    dataset: Dataset,
    cutoff: datetime,
    schema: Schema,
    schemas: Mapping[str, Schema],
    abouts: Mapping[str, dict[str, Any]],
    rankers: Sequence[str],
) -> dict[str, Any]:
    fingerprints = {part: found.fingerprint for part, found in schemas.items()}
    return {
        "dataset": dataset.name,
        "project": dataset.name,
        "cutoff": cutoff.isoformat(),
        "clock": dataset.clock.value,
        "as_of": cutoff.isoformat(),
        "user_id": dataset.user_id.value,
        "item_id": dataset.item_id.value,
        "history_items": dataset.history_items,
        "rankers": list(rankers),
        "git": git_revision(),
        "fingerprints": {"release": schema.fingerprint, **fingerprints},
        "config": dict(abouts),
    }


def git_revision() -> str | None:
    """The checkout's commit, with ``+changes`` where files differ from it; None outside of git."""
    git = ["git", "-C", str(REPOSITORY)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    except OSError:
        return None
    if head.returncode != 0:
        return None
    return head.stdout.strip() + ("+changes" if status.stdout.strip() else "")


def _settle(staging: Path, out: Path, about: dict[str, Any]) -> Path:
    """Name the staged files by their content and move them into place."""
    day = parse_time(about["cutoff"]).strftime("%Y-%m-%d")
    version = f"{about['dataset']}-{day}-{content_digest(staging)}"
    target = out / version
    if target.exists():
        read_manifest(target, KIND)
        log.info("%s holds the same release already.", target)
        return target
    with atomic_folder(target) as folder:
        for path in staging.iterdir():
            path.rename(folder / path.name)
        write_manifest(folder, KIND, {"version": version, **about})
    log.info("Exported %s; publish it with --publish %s.", version, target)
    return target


def content_digest(folder: Path) -> str:
    """Eight hex digits that change with the name or content of any file of a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)}:{sha256_file(path)}\n".encode())
    return digest.hexdigest()[:8]


def publish(release: Path) -> Path:
    """Make ``current``, beside a release, name it, in one step; return the link.

    Raises:
        ArtifactError: the release is missing or was changed.
    """
    release = release.resolve()
    read_manifest(release, KIND)
    link = release.parent / CURRENT
    if link.exists() and not link.is_symlink():
        raise ArtifactError(f"{link} is not a symbolic link; move it away, then publish again.")
    temporary = release.parent / f".{CURRENT}.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(release.name)
    os.replace(temporary, link)
    log.info("%s is now %s.", link, release.name)
    return link


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="python -m trainer.export",
        usage="python -m trainer.export retriever=DIR ranker=DIR [ranker.NAME=DIR] cutoff=t2\n"
        "           [data=complete_journey] [out=releases] [policy.diversity=0.1]\n"
        "       python -m trainer.export --publish releases/VERSION",
        description="Put a retriever and rankers together into a release, or publish one.",
        epilog="A ranker named discover answers requests for items that the user never bought.",
    )
    found.add_argument("settings", nargs="*", metavar="key=value", help="parts of the release")
    found.add_argument(
        "--publish", type=Path, metavar="RELEASE", help="make releases/current name this release"
    )
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 2 where it is refused."""
    arguments = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("faiss").setLevel(logging.WARNING)
    try:
        if arguments.publish and arguments.settings:
            raise ConfigError("Give either settings to export or --publish, not both.")
        made = (
            publish(arguments.publish)
            if arguments.publish
            else export(ExportConfig.parse(arguments.settings))
        )
    except ShoprecError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{made}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
