"""Training the two-tower model: sampled softmax over sharded tables.

One batch stacks B sessions above C candidate items in one KeyedJaggedTensor, the other side's
features empty, so that the item table serves both the history and the item tower. Every target
of a session competes with the batch's other items and with uniformly drawn ones. Shapes: B
sessions, C candidate items, T targets of the batch, V width of the vectors.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from feature_repo.contract.artifacts import read_table
from feature_repo.contract.columns import column_of
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.encoding import Bag, Encoded, Encoder
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.randomness import key, uniform
from feature_repo.contract.schema import Encoding, Entity, Schema, context_feature
from feature_repo.contract.state import DAY_S
from feature_repo.contract.tables import TableForm, Tables
from retrieval.inputs import encode_users
from retrieval.towers import TowerConfig, TwoTower, TwoTowerConfig, pooled_inputs
from trainer import checkpoints
from trainer.config import RunConfig
from trainer.data import SessionBatch, SessionReader
from trainer.distributed import Process, gather_rows
from trainer.embeddings import ShardedTables, TableConfig, stack
from trainer.loop import Trainer
from trainer.losses import Shown, sampled_softmax
from trainer.model_config import TwoTowerModelConfig
from trainer.negatives import drawn_items, log_inclusion
from trainer.randomness import Stream
from trainer.ranks import judge_vectors
from trainer.runs import Run
from trainer.sets import (
    SERVICE,
    TrainingSet,
    fit_encoder,
    judged_users,
    target_counts,
)
from trainer.sharding import Load
from trainer.step import StepInputs
from trainer.teacher import Teacher

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

FOLDER = "two_tower"
"""In the run's folder: encoder, tables, towers and item vectors."""
VECTORS = "item_vectors.npy"


@dataclass
class Catalogue:
    """The items as the item tower reads them, and how often each is a target."""

    encoded: Encoded
    """Row ``i`` is item row ``i``; row 0 is the unknown item, without features."""
    share: npt.NDArray[np.float64]
    """[R] share of the targets that are the item."""
    num_targets: int

    @staticmethod
    def build(encoder: Encoder, sessions: TrainingSet) -> Catalogue:
        """Encode the items of a set and count the targets."""
        counts = target_counts(sessions, encoder.items).astype(np.float64)
        counts[0] = 0.0
        total = counts.sum()
        items = item_rows(sessions, encoder.schema)
        return Catalogue(encode_items(encoder, items), counts / max(total, 1.0), int(total))


def item_rows(sessions: TrainingSet, schema: Schema) -> pa.Table:
    """The items of a set with the columns that the item tower reads."""
    encodings = (Encoding.CATEGORICAL, Encoding.NUMERIC, Encoding.BAG)
    features = schema.encoded(Entity.ITEM, *encodings)
    weights = [feature.bag_weight for feature in features if feature.bag_weight is not None]
    names = ["item_id", "event_timestamp", *(feature.name for feature in features), *weights]
    return read_table(sessions.folder / "items.parquet", names)


def encode_items(encoder: Encoder, items: pa.Table) -> Encoded:
    """Item inputs by item row; items that the vocabulary lacks are left out.

    An item row without an item has the missing value of every feature: row 0, or an empty bag.
    """
    rows = encoder.items.rows(column_of(items, "item_id"))
    encoded = encoder.encode(items, Entity.ITEM)
    place = np.full(encoder.items.num_rows, -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    place[0] = -1
    lists = {feature.name for feature in encoder.schema.encoded(Entity.ITEM, Encoding.BAG)}
    bags = {
        name: _placed(bag, place) if name in lists else _placed_rows(bag, place)
        for name, bag in encoded.bags.items()
    }
    bags["item_id"] = Bag.single(np.arange(encoder.items.num_rows, dtype=np.int64))
    dense = np.zeros((encoder.items.num_rows, encoded.dense.shape[1]), dtype=np.float32)
    dense[place >= 0] = encoded.dense[place[place >= 0]]
    return Encoded(bags, dense)


def _placed_rows(bag: Bag, place: Ints) -> Bag:
    """The single rows of a bag by place; 0 where that is -1."""
    values = np.zeros(len(place), dtype=np.int64)
    values[place >= 0] = bag.values[place[place >= 0]]
    return Bag.single(values)


def _placed(bag: Bag, place: Ints) -> Bag:
    """The bags by place; empty where that is -1."""
    taken = bag.take(place[place >= 0])
    lengths = np.zeros(len(place), dtype=np.int64)
    lengths[place >= 0] = np.diff(taken.offsets)
    return Bag(
        taken.values, np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]), taken.weights
    )


class TwoTowerTask:
    """A two-tower model, its data and its loss, for ``trainer.loop``."""

    def __init__(
        self,
        config: RunConfig,
        model: TwoTowerModelConfig,
        dataset: Dataset,
        sessions: TrainingSet,
        process: Process,
        folder: Path,
        judged: pa.Table | None = None,
    ) -> None:
        """Fit the encoder, or find it in ``folder``, and make the model.

        Args:
            config: the run's settings.
            model: the model's.
            dataset: where ``sessions`` are from.
            sessions: what is trained on.
            process: this one.
            folder: of the run, on a disk that all processes share.
            judged: users with later purchases.
        """
        self.model = model
        self.process = process
        self.seed = config.seed
        self.half_life_days = dataset.half_life_days
        self.judged = judged
        self.folder = folder
        self.encoder = shared_encoder(config, model, dataset, sessions, process, folder)
        self.catalogue = Catalogue.build(self.encoder, sessions)
        self.reader = SessionReader(
            sessions,
            self.encoder,
            process,
            batch_size=config.trainer.batch_size,
            half_life_days=dataset.half_life_days,
            seed=config.seed,
            cache=config.trainer.cache_encoded,
            since_s=_since_s(dataset.edge(config.cutoff), model.max_age_days),
            streams=config.trainer.streams,
            shuffle_rows=config.trainer.shuffle_rows,
            shown=model.shown_weight > 0,
            teacher=Teacher.load(
                model.teacher, self.encoder.items, dataset.edge(config.cutoff).isoformat()
            ),
        )
        self.tables = ShardedTables(
            self._table_configs(config),
            process,
            config.sharding,
            self._load(config),
            seed=config.seed,
            eps=config.optimizer.table_eps,
            weighted=self._weighted,
        )
        torch.manual_seed(config.seed)
        self.dense: TwoTower = TwoTower(self._towers()).to(process.device)
        if model.start_as_sum:
            self.dense.start_as_sum()

    @property
    def _weighted(self) -> bool:
        """Whether the rows of any bag have weights."""
        return any(f.bag_weight for f in self.encoder.schema.features)

    def _load(self, config: RunConfig) -> Load:
        """What a step reads: sessions, then their targets and all negatives."""
        size = config.trainer.batch_size
        sessions = max(int(self.reader.num_rows), 1)
        targets = int(size * self.catalogue.num_targets / sessions)
        taught = size * self.model.teacher.items if self.model.teacher.run else 0
        compared = targets + taught + self.model.num_negatives
        examples = size + min(compared, self.encoder.items.num_rows)
        bags = self.encoder.schema.encoded(Entity.USER, Encoding.BAG)
        share = size / examples
        lengths = {bag.name: self.model.history_length * share for bag in bags}
        for feature in self.encoder.schema.encoded(Entity.ITEM, Encoding.BAG):
            offsets = self.catalogue.encoded.bags[feature.name].offsets
            lengths[feature.name] = float(offsets[-1]) / (len(offsets) - 1) * (1 - share)
        return Load(self.process.largest_share(examples), lengths)

    def _table_configs(self, config: RunConfig) -> tuple[TableConfig, ...]:
        ids = {"user_id": self.model.id_dim, "item_id": self.model.id_dim}
        return TableConfig.of_specs(
            self.encoder.tables(), ids, self.model.feature_dim, config.optimizer
        )

    def _features(self, entity: Entity) -> list[str]:
        """What a tower reads, in the order of concatenation."""
        return list(self.encoder.keys(entity))

    def _widths(self) -> dict[str, int]:
        """Width of each feature's pooled vectors."""
        tables = self.tables.tables.values()
        return {feature: table.dim for table in tables for feature in table.features}

    def _towers(self) -> TwoTowerConfig:
        widths = self._widths()
        user, item = (
            TowerConfig(
                self._features(entity),
                [widths[name] for name in self._features(entity)],
                len(self.encoder.dense_names(entity)),
                self.model.hidden,
                self.model.dim,
                self.model.dropout,
            )
            for entity in (Entity.USER, Entity.ITEM)
        )
        return TwoTowerConfig(user, item, self.model.normalize)

    def num_batches(self) -> int:
        """See ``Task``."""
        return self.reader.num_batches()

    def batches(self, epoch: int, first: int) -> Iterator[SessionBatch]:
        """See ``Task``."""
        return self.reader.batches(epoch, first)

    def prepare(self, batch: SessionBatch, step: int) -> StepInputs:
        """See ``Task``.

        The candidates are the distinct targets of the whole batch and uniform negatives; beside
        them, for the sessions that they belong to alone, what was shown and what is taught. Each
        process looks up its share.
        """
        items, arrays = self._compared(batch, step)
        mine = items[self.process.share_of(len(items))]
        users = self._forget(batch.users, "user_id", step, np.arange(len(batch)) + batch.first)
        encoded = self._forget(self.catalogue.encoded.take(mine), "item_id", step, mine)
        stride = self.process.largest_share(batch.total) + self.process.largest_share(len(items))
        arrays |= {"user_numbers": users.dense, "item_numbers": encoded.dense}
        return StepInputs(
            self.tables.features(stack(users.bags, encoded.bags), stride),
            {name: torch.from_numpy(array) for name, array in arrays.items()},
            {"examples": batch.total, "users": len(batch), "mine": len(mine), "items": len(items)},
        )

    def _compared(self, batch: SessionBatch, step: int) -> tuple[Ints, dict[str, npt.NDArray[Any]]]:
        """[C] rising rows of the candidates, and what ``_loss`` reads of them."""
        targets = self.process.together(batch.targets.values)
        drawn = self._candidates(targets, step)
        items = drawn
        for bag in (batch.shown, batch.taught):
            if bag is not None:
                items = np.union1d(items, self.process.together(bag.values))
        owner, wanted, weight = self._wanted(batch)
        log_q = np.full(len(items), np.inf, dtype=np.float32)
        log_q[np.searchsorted(items, drawn)] = self._log_q(drawn, len(targets))
        arrays: dict[str, npt.NDArray[Any]] = {
            "owner": owner,
            "place": np.searchsorted(items, wanted),
            "log_q": log_q,
            "weight": weight,
        }
        if batch.shown is not None:
            arrays["shown_owner"] = _owners(batch.shown)
            arrays["shown_place"] = np.searchsorted(items, batch.shown.values)
        return items, arrays

    def _wanted(self, batch: SessionBatch) -> tuple[Ints, Ints, Floats]:
        """Sessions, item rows and weights of what scores should be high for: the targets, and
        what is taught."""
        owner, wanted = _owners(batch.targets), batch.targets.values
        weight = self._weights(batch.targets)
        if batch.taught is None or batch.taught.weights is None:
            return owner, wanted, weight
        share = self.model.teacher.weight * self.process.world_size / max(batch.total, 1)
        return (
            np.concatenate([owner, _owners(batch.taught)]),
            np.concatenate([wanted, batch.taught.values]),
            np.concatenate([weight, batch.taught.weights * np.float32(share)]),
        )

    def head(self, pooled: dict[str, Tensor], inputs: StepInputs) -> Tensor:
        """See ``Task``."""
        tensors, sizes = inputs.tensors, inputs.sizes
        user_names, item_names = self.encoder.keys(Entity.USER), self.encoder.keys(Entity.ITEM)
        split, stop = sizes["users"], sizes["users"] + sizes["mine"]
        users = self.dense.user_vectors(
            {name: pooled[name][:split] for name in user_names}, tensors["user_numbers"]
        )
        mine = self.dense.item_vectors(
            {name: pooled[name][split:stop] for name in item_names}, tensors["item_numbers"]
        )
        items = gather_rows(mine, sizes["items"], self.process)
        return self._loss(users, items, tensors)

    def _loss(self, users_BV: Tensor, items_CV: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        return sampled_softmax(
            users_BV,
            items_CV,
            tensors["owner"],
            tensors["place"],
            tensors["log_q"],
            self.model.temperature,
            tensors["weight"],
            self._shown(tensors),
        )

    def _shown(self, tensors: dict[str, Tensor]) -> Shown | None:
        if "shown_owner" not in tensors:
            return None
        return Shown(tensors["shown_owner"], tensors["shown_place"], self.model.shown_weight)

    def _candidates(self, targets: Ints, step: int) -> Ints:
        """[C] rising item rows: the whole batch's targets and uniform negatives."""
        places = np.arange(self.model.num_negatives, dtype=np.int64)
        negatives = drawn_items(self.seed, step, places, self.encoder.items.num_rows)
        return np.unique(np.concatenate([targets, negatives]))

    def _log_q(self, items: Ints, num_targets: int) -> Floats:
        return log_inclusion(
            self.catalogue.share[items],
            num_targets,
            self.model.num_negatives,
            self.encoder.items.num_rows,
            self.model.logq,
        )

    def _weights(self, targets: Bag) -> Floats:
        """[T] weights of which the mean over the processes of their sums is one."""
        new = np.ones(len(targets.values)) if targets.weights is None else targets.weights
        weights = np.where(new > 0, 1.0, self.model.repeat_weight)
        (total,) = self.process.total(float(weights.sum()))
        return (weights * (self.process.world_size / max(total, 1e-9))).astype(np.float32)

    def _forget(self, encoded: Encoded, name: str, step: int, places: Ints) -> Encoded:
        """A share of the ids replaced by "unknown", so that its row is trained."""
        stream = Stream.USER_ID if name == "user_id" else Stream.ITEM_ID
        share = self.model.user_dropout if name == "user_id" else self.model.item_dropout
        if share == 0:
            return encoded
        bag = encoded.bags[name]
        forgotten = uniform(key(self.seed, stream, step), places) < share
        values = np.where(forgotten, 0, bag.values)
        return Encoded({**encoded.bags, name: Bag(values, bag.offsets, bag.weights)}, encoded.dense)

    def export(self, folder: Path, form: TableForm = TableForm.fp32) -> None:
        """Write encoder, tables, towers and item vectors into ``folder``; a collective.

        Each process writes its own rows of the tables, and the vectors of its share of the items.
        """
        self.tables.export_tables(folder / "tables", form)
        vectors = folder / VECTORS
        if self.process.is_first:
            if not (folder / "encoder").exists():
                self.encoder.save(folder / "encoder")
            self.dense.save(folder)
            shape = (self.encoder.items.num_rows, self.model.dim)
            np.lib.format.open_memmap(vectors, "w+", dtype=np.float32, shape=shape).flush()
        self.process.barrier()
        rows = self.process.share_of(self.encoder.items.num_rows)
        towers, tables = TwoTower.load(folder), Tables.load(folder / "tables")
        write_item_vectors(vectors, towers, tables, self.catalogue.encoded, rows)
        self.process.barrier()

    def evaluate(self) -> dict[str, float]:
        """Recall and NDCG of the judged users, among all items and those new to the user."""
        if self.judged is None:
            return {}
        folder = self.folder / "evaluation"
        self.export(folder)
        found = judge(folder, self.judged, self.half_life_days) if self.process.is_first else {}
        if self.process.is_first:
            shutil.rmtree(folder)
        return self.process.share(found)


def _owners(bag: Bag) -> Ints:
    return np.repeat(np.arange(len(bag.offsets) - 1), np.diff(bag.offsets))


def write_item_vectors(
    path: Path,
    towers: TwoTower,
    tables: Tables,
    items: Encoded,
    rows: slice,
    chunk: int = 16_384,
) -> None:
    """Write some rows of ``path`` ([R, V] float32) from exported tables, in parts.

    Row 0, the unknown item, stays zero.
    """
    vectors = np.lib.format.open_memmap(path, "r+")
    for start in range(rows.start, rows.stop, chunk):
        part = np.arange(max(start, 1), min(start + chunk, rows.stop))
        inputs = pooled_inputs(items.take(part), tables, towers.config.item.features)
        with torch.inference_mode():
            vectors[part] = towers.item_vectors(*inputs).numpy()
    vectors.flush()


def judge(folder: Path, judged: pa.Table, half_life_days: float, k: int = 200) -> dict[str, float]:
    """Recall and NDCG of an exported model, at 20 and ``k``: see ``trainer.ranks``.

    Args:
        folder: what ``TwoTowerTask.export`` wrote.
        judged: user rows with ``target_item_id``, what each user bought after.
        half_life_days: of the decayed counts.
        k: length of the longer rankings.
    """
    encoder = Encoder.load(folder / "encoder")
    users = user_vectors(folder, encoder, judged, half_life_days)
    vectors = np.load(folder / VECTORS, allow_pickle=False)
    return judge_vectors(users, vectors, judged, encoder.items, (20, k))


def user_vectors(
    folder: Path, encoder: Encoder, rows: pa.Table, half_life_days: float, chunk: int = 16_384
) -> Floats:
    """[B, V] vectors of user rows, by an exported model, in parts."""
    towers, tables = TwoTower.load(folder), Tables.load(folder / "tables")
    found = [np.zeros((0, towers.config.user.dim), np.float32)]
    for start in range(0, len(rows), chunk):
        encoded = encode_users(encoder, rows.slice(start, chunk), None, half_life_days)
        inputs = pooled_inputs(encoded, tables, towers.config.user.features)
        with torch.inference_mode():
            found.append(towers.user_vectors(*inputs).numpy())
    return np.concatenate(found)


def train(
    config: RunConfig,
    model: TwoTowerModelConfig,
    process: Process,
    kind: type[TwoTowerTask] = TwoTowerTask,
) -> Path:
    """Train, export, and return the run's folder; a finished run is not trained again."""
    dataset = config.dataset()
    sessions = TrainingSet.open(dataset, SERVICE, "sessions", config.cutoff)
    judged = judged_users(dataset, config.cutoff) if config.validate else None
    run = Run.open(config, {"sessions": sessions.digest}, process)
    if run.result is not None:
        log.info("%s is finished already: %s", run.folder, run.result)
        return run.folder
    task = kind(config, model, dataset, sessions, process, run.folder, judged)
    before = None if config.warm_start is None else kept_checkpoint(Path(config.warm_start))
    loop = Trainer(task, run, config.trainer, config.optimizer, process, warm_start=before)
    metrics = loop.train()
    task.export(run.folder / FOLDER, config.export_tables)
    run.finish(metrics)
    return run.folder


def shared_encoder(
    config: RunConfig,
    model: TwoTowerModelConfig,
    dataset: Dataset,
    sessions: TrainingSet,
    process: Process,
    folder: Path,
) -> Encoder:
    """The run's encoder, fitted by its first process and memory-mapped by all; a collective.

    Of an earlier run (``warm_start``) it keeps everything, and adds the new ids.
    """
    where = folder / FOLDER / "encoder"
    if process.is_first and not where.exists():
        base = None
        if config.warm_start is not None:
            base = Encoder.load(Path(config.warm_start) / FOLDER / "encoder")
        context = [context_feature(derive) for derive in model.context]
        fitted = fit_encoder(
            sessions, dataset, model.min_buyers, model.history_length, base, context
        )
        fitted.save(where)
    process.barrier()
    return Encoder.load(where)


def kept_checkpoint(run: Path) -> Path:
    """The checkpoint that a finished run was exported from.

    Raises:
        ConfigError: there is none.
    """
    folder = run / "checkpoints"
    found = checkpoints.latest(folder, checkpoints.BEST) or checkpoints.latest(folder)
    if found is None:
        raise ConfigError(f"warm_start={run} has no checkpoint; name the folder of a run.")
    return found


def _since_s(cutoff: datetime, max_age_days: int | None) -> int | None:
    return None if max_age_days is None else int(cutoff.timestamp()) - max_age_days * int(DAY_S)
