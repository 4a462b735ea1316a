"""Lists of the baselines, kept by the hash of everything that they were made from."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.artifacts import read_table, sha256_file, sha256_text, write_table
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ArtifactError
from trainer.evaluation import baselines, window
from trainer.evaluation.config import BaselineConfig
from trainer.evaluation.window import Task, Window

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]
Lists = dict[Task, dict[str, Ints]]

KEPT = 4
"""Files that stay; older ones are removed."""


def cached_baselines(
    dataset: Dataset, judged: Window, users: Mapping[Task, Ints], k: int, config: BaselineConfig
) -> Lists:
    """``baselines.baseline_lists``, read from the data set's folder where it was made before."""
    folder = dataset.root / "baselines"
    path = folder / f"{judged.split.value}-{_digest(dataset, judged, k, config)}.parquet"
    try:
        lists = _load(path, users, k)
        log.info("baselines: inputs unchanged, reused %s.", path)
    except ArtifactError:
        lists = baselines.baseline_lists(judged, users, k, config)
        write_table(path, _to_table(lists))
        _forget(folder)
    return lists


def _digest(dataset: Dataset, judged: Window, k: int, config: BaselineConfig) -> str:
    tables = ("events", "users", "items")
    value = {
        "inputs": [sha256_file(dataset.canonical / f"{name}.parquet") for name in tables],
        "window": [judged.cutoff.isoformat(), judged.until.isoformat()],
        "k": k,
        "config": asdict(config),
        "code": [sha256_file(Path(str(module.__file__))) for module in (baselines, window)],
        "implicit": version("implicit"),
    }
    return sha256_text(json.dumps(value, sort_keys=True))[:16]


def _to_table(lists: Lists) -> pa.Table:
    """One row a list: task, method, place of the user among the judged, item rows."""
    parts = [
        pa.table(
            {
                "task": pa.array([task.value] * len(rows), pa.string()),
                "method": pa.array([name] * len(rows), pa.string()),
                "items": pa.array(list(rows), pa.list_(pa.int64())),
            }
        )
        for task, methods in lists.items()
        for name, rows in methods.items()
    ]
    return pa.concat_tables(parts)


def _load(path: Path, users: Mapping[Task, Ints], k: int) -> Lists:
    table = read_table(path, ["task", "method", "items"])
    task, method = (np.asarray(table.column(name).to_pylist()) for name in ("task", "method"))
    items = np.asarray(table.column("items").combine_chunks().flatten())
    if len(items) != len(table) * k:
        raise ArtifactError(f"{path} does not hold lists of {k}.")
    rows = items.reshape(len(table), k)
    lists: Lists = {
        wanted: {name: rows[(task == wanted.value) & (method == name)] for name in baselines.LABELS}
        for wanted in Task
    }
    for wanted, methods in lists.items():
        if any(len(found) != len(users[wanted]) for found in methods.values()):
            raise ArtifactError(f"{path} does not hold a list for each user.")
    return lists


def _forget(folder: Path) -> None:
    files = sorted(folder.glob("*.parquet"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[KEPT:]:
        path.unlink(missing_ok=True)
