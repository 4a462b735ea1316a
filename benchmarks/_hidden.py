"""A shop whose past was hidden in part: users and items that the trainer has never seen.

The variant lies in a folder of its own: the shop's canonical tables, less every event of a hidden
user or item, and what the project's own commands make of them. What the hidden bought and who
bought them is read from the whole shop.
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks._system import call
from feature_repo.contract.artifacts import read_table, write_table
from feature_repo.contract.columns import column_of
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.randomness import key, uniform
from feature_repo.jobs.feast_repo import FEATURE_REPO, feast_environment, write_settings

log = logging.getLogger(__name__)

USERS, ITEMS = 0, 1
"""Streams of random numbers."""


@dataclass(frozen=True)
class HiddenShop:
    """A whole shop, and the same without what is hidden."""

    whole: Dataset
    seen: Dataset
    """What is trained on."""
    users: pa.Array
    """Hidden user ids, rising."""
    items: pa.Array
    """Hidden item ids, rising."""

    @property
    def settings(self) -> tuple[str, ...]:
        """What names the variant on a command line."""
        root = self.seen.root
        return ("data=complete_journey", f"data.name={self.seen.name}", f"data.root={root}")


def hide(
    whole: Dataset, folder: Path, seed: int, share: float, share_of_items: float | None = None
) -> HiddenShop:
    """Hide a share of the users and of the items of a shop, or find that it was done.

    Args:
        whole: a shop with 64-bit ids.
        folder: gets one folder a seed.
        seed: which users and items, by a hash of their ids.
        share: of users.
        share_of_items: of items; None: as many.
    """
    shares = (share, share if share_of_items is None else share_of_items)
    users, items = (
        hidden_ids(_ids(whole, name), seed, stream, own)
        for stream, name, own in zip((USERS, ITEMS), ("user_id", "item_id"), shares, strict=True)
    )
    name = f"{whole.name}_hidden_{seed}"
    seen = replace(whole, name=name, root=folder.resolve() / name)
    if not (seen.root / "dataset.json").exists():
        _write(whole, seen, users, items)
    return HiddenShop(whole, seen, users, items)


def hidden_ids(ids: pa.Array, seed: int, stream: int, share: float) -> pa.Array:
    """The distinct ids that are hidden, rising: a hash of the id and the seed falls below share."""
    distinct = pc.unique(ids)
    distinct = distinct.take(pc.array_sort_indices(distinct))
    numbers: npt.NDArray[np.float64] = uniform(key(seed, stream), np.asarray(distinct))
    return distinct.filter(pa.array(numbers < share))


def _ids(dataset: Dataset, name: str) -> pa.Array:
    """Of users and items with an event."""
    return column_of(read_table(dataset.canonical / "events.parquet", [name]), name)


def _write(whole: Dataset, seen: Dataset, users: pa.Array, items: pa.Array) -> None:
    seen.canonical.mkdir(parents=True, exist_ok=True)
    for table in ("users", "items", "item_context"):
        shutil.copy(whole.canonical / f"{table}.parquet", seen.canonical)
    events = read_table(whole.canonical / "events.parquet")
    hidden = pc.or_(
        pc.is_in(events.column("user_id"), users), pc.is_in(events.column("item_id"), items)
    )
    write_table(seen.canonical / "events.parquet", events.filter(pc.invert(hidden)))
    write_settings(seen)
    seen.save()
    log.info("%s: %d users and %d items hidden.", seen.name, len(users), len(items))


def prepare(shop: HiddenShop, cutoffs: Sequence[str], threads: int = 1) -> None:
    """Run the jobs that make the variant's features and training sets; what is there is reused."""
    resources = (f"threads={threads}", "memory_gb=3")
    call("-m", "feature_repo.jobs", "state", *shop.settings, *resources)
    feast = str(Path(sys.executable).with_name("feast"))
    environment = {**feast_environment(shop.seen), "PYTHONWARNINGS": "ignore"}
    call(feast, "-c", str(FEATURE_REPO), "apply", environment=environment)
    for cutoff in cutoffs:
        for service, kind in (("retrieval_v1", "sessions"), ("ranking_v1", "users")):
            chosen = (f"service={service}", f"kind={kind}", f"cutoff={cutoff}")
            call("-m", "feature_repo.jobs", "training-set", *shop.settings, *resources, *chosen)


def train_two_tower(shop: HiddenShop, cutoff: str, runs: Path, *overrides: str) -> Path:
    """Train the shop's two-tower on the variant, or find the run; return its folder."""
    return Path(
        call(
            *("-m", "trainer", "experiment=complete_journey/two_tower", f"cutoff={cutoff}"),
            *(*shop.settings, f"paths.runs={runs}", "sharding.device=cpu", *overrides),
        )
    )
