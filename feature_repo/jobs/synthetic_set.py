"""Job ``synthetic-set``: training sets of a synthetic shop, written without events and joins.

At 100M users Feast's joins take hours, and what is measured there is training. The sets have the
format of ``training-set`` (kinds sessions and users), over the smallest schema that a two-tower
model reads: ids, the last items of the history and, if asked for, the items' category.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from feature_repo.contract.artifacts import atomic_folder, write_json
from feature_repo.contract.dataset import Clock, Dataset, IdType
from feature_repo.contract.events import TARGET
from feature_repo.contract.randomness import key, uniform
from feature_repo.contract.schema import Encoding, Entity, Feature, Schema
from feature_repo.jobs.config import SyntheticSetConfig
from feature_repo.jobs.planted import PlantedShop
from feature_repo.jobs.synthetic import START, chunks, item_attributes, shop_of

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]

EDGES = (280, 308, 336, 364)
"""Days after ``START``."""
CUTOFF = 1
"""The edge that the sets are cut off at."""
TIME = pa.timestamp("us", tz="UTC")
_USER, _PLACE, _JUDGED = 11, 12, 13
_LATER = 1 << 20
"""Sessions begin at one of a user's first ``_LATER`` events."""


def make_synthetic_set(config: SyntheticSetConfig) -> tuple[Path, Path]:
    """Write the sessions and the judged users of a synthetic shop; return their folders."""
    shop = shop_of(config.data)
    edges = [START + timedelta(days=day) for day in EDGES]
    dataset = Dataset(
        name=config.data.name,
        root=config.data.folder,
        user_id=IdType.INT64,
        item_id=IdType.INT64,
        clock=Clock.AS_OF,
        start=START,
        end=edges[3],
        edges=(edges[0], edges[1], edges[2], edges[3]),
        history_items=max(config.history, 1),
        half_life_days=config.data.half_life_days,
    )
    schema = set_schema(config)
    cutoff = edges[CUTOFF]
    sessions = dataset.sets / f"retrieval_v1-sessions-t{CUTOFF}"
    judged = dataset.sets / f"ranking_v1-users-t{CUTOFF}"
    rows = (_sessions(shop, config, part) for part in chunks(config.sessions, config.group_rows))
    _write(sessions, dataset, schema, config, rows, config.sessions, cutoff)
    users = (_judged(shop, config, part) for part in chunks(config.judged, config.group_rows))
    _write(judged, dataset, schema, config, users, config.judged, cutoff)
    dataset.save()
    return sessions, judged


def set_schema(config: SyntheticSetConfig) -> Schema:
    """The features of the sets."""
    features = []
    if config.history:
        features.append(
            Feature(
                "history_item_id",
                Entity.USER,
                "user_history",
                "Array(Int64)",
                Encoding.BAG,
                bag_of="item_id",
            )
        )
    if config.categories:
        buckets = 1 << max(4, int(shop_of(config.data).num_clusters * 4 - 1).bit_length())
        features.append(
            Feature(
                "category",
                Entity.ITEM,
                "item_attributes",
                "String",
                Encoding.CATEGORICAL,
                buckets,
            )
        )
    return Schema("retrieval_v1", tuple(features))


def _sessions(shop: PlantedShop, config: SyntheticSetConfig, sessions: Ints) -> pa.Table:
    """Users just before one of their events, most recent first; the target is that event."""
    users = _drawn(shop, _USER, sessions, shop.num_users)
    first = _drawn(shop, _PLACE, sessions, _LATER)
    return _rows(shop, config, users, first, targets=1)


def _judged(shop: PlantedShop, config: SyntheticSetConfig, rows: Ints) -> pa.Table:
    """Users of sessions, after all of those, and what they buy next."""
    sessions = _drawn(shop, _JUDGED, rows, config.sessions)
    users = _drawn(shop, _USER, sessions, shop.num_users)
    first = np.full(len(rows), 2 * _LATER, dtype=np.int64)
    return _rows(shop, config, users, first, targets=config.later)


def _drawn(shop: PlantedShop, stream: int, places: Ints, size: int) -> Ints:
    return (uniform(key(shop.seed, stream), places) * size).astype(np.int64)


def _rows(
    shop: PlantedShop, config: SyntheticSetConfig, users: Ints, first: Ints, targets: int
) -> pa.Table:
    length = config.history + targets
    items = shop.item_ids(shop.items(users, first[:, None] + np.arange(length)))
    time = int((START + timedelta(days=EDGES[CUTOFF])).timestamp()) * 1_000_000 - 1
    columns = {
        "user_id": pa.array(users + 1),
        "event_timestamp": pa.array(np.full(len(users), time), TIME),
        "history_item_id": _lists(items[:, : config.history][:, ::-1]),
        TARGET: _lists(items[:, config.history :]),
    }
    return pa.table(columns)


def _lists(values_BK: Ints) -> pa.Array:
    offsets = np.arange(len(values_BK) + 1, dtype=np.int32) * values_BK.shape[1]
    return pa.ListArray.from_arrays(offsets, np.ascontiguousarray(values_BK).ravel())


def _write(
    folder: Path,
    dataset: Dataset,
    schema: Schema,
    config: SyntheticSetConfig,
    rows: Iterator[pa.Table],
    total: int,
    cutoff: datetime,
) -> None:
    shop = shop_of(config.data)
    service, kind, _ = folder.name.split("-")
    made_of = ("sessions", "judged", "history", "later", "categories", "group_rows")
    with atomic_folder(folder) as temporary:
        _write_stream(temporary / "users.parquet", rows, total)
        before = cutoff - timedelta(microseconds=1)
        items = (_items(shop, part, before) for part in chunks(shop.num_items))
        _write_stream(temporary / "items.parquet", items, shop.num_items)
        schema.save(temporary / "schema.json")
        about = {
            "format": 1,
            "dataset": dataset.name,
            "service": service,
            "kind": kind,
            "cutoff": cutoff.astimezone(UTC).isoformat(),
            "until": dataset.edges[CUTOFF + 1].isoformat(),
            "fingerprint": schema.fingerprint,
            "counts": {"users": total, "items": shop.num_items},
            "shop": asdict(shop),
            "settings": {name: getattr(config, name) for name in made_of},
        }
        write_json(temporary / "set.json", about)
    log.info("%s: %d rows, %d items.", folder, total, shop.num_items)


def _items(shop: PlantedShop, items: Ints, before: datetime) -> pa.Table:
    table = item_attributes(shop, items)
    return table.append_column("event_timestamp", pa.array([before] * len(items), TIME))


def _write_stream(path: Path, tables: Iterator[pa.Table], total: int) -> None:
    """Write tables as the row groups of one file."""
    writer = None
    with tqdm(total=total, desc=path.name, disable=None, leave=False, unit_scale=True) as bar:
        for table in tables:
            if writer is None:
                writer = pq.ParquetWriter(
                    path, table.schema, compression="zstd", write_page_checksum=True
                )
            writer.write_table(table, row_group_size=len(table))
            bar.update(len(table))
    if writer is not None:
        writer.close()
