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

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from feature_repo.contract.artifacts import write_array
from feature_repo.contract.columns import column_of, list_column
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.encoding import Bag, Encoded, Encoder
from feature_repo.contract.schema import Entity
from feature_repo.contract.state import DAY_S
from feature_repo.contract.tables import Tables
from retrieval.inputs import encode_users
from retrieval.metrics import recall_at_k
from retrieval.sources import best, stacked
from retrieval.towers import TowerConfig, TwoTower, TwoTowerConfig, pooled_inputs
from trainer.config import RunConfig
from trainer.data import SessionBatch, SessionReader
from trainer.distributed import Process
from trainer.embeddings import ShardedTables, TableConfig, stack
from trainer.loop import Trainer
from trainer.model_config import TwoTowerModelConfig
from trainer.runs import Run
from trainer.sets import TARGET, TrainingSet, bought, fit_encoder

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

SERVICE = "retrieval_v1"
SEEN = "seen_item_id"
"""Everything that a user bought, where the rows have it."""
FOLDER = "two_tower"
"""In the run's folder: encoder, tables, towers and item vectors."""


def sampled_softmax(
    users_BV: Tensor,
    items_CV: Tensor,
    targets: Bag,
    log_q_C: Tensor,
    temperature: float,
    weights_T: Tensor,
) -> Tensor:
    """Weighted mean over the targets of -log softmax, by a sample of the items.

    A negative counts ``1 / q``, where q is its probability to be among the candidates; a target
    is there always and counts once (Khrylchenko et al., "Correcting the LogQ Correction", 2025).
    Other targets of the same session are no negatives (accidental hits).

    Args:
        users_BV: user vectors.
        items_CV: vectors of the candidates.
        targets: per session, places of its targets among the candidates.
        log_q_C: logarithms of the probabilities q.
        temperature: scores are divided by it.
        weights_T: weight of each target.
    """
    logits_BC = users_BV @ items_CV.T / temperature
    owner_T = torch.from_numpy(np.repeat(np.arange(len(users_BV)), np.diff(targets.offsets)))
    place_T = torch.from_numpy(targets.values)
    owner_T, place_T = owner_T.to(logits_BC.device), place_T.to(logits_BC.device)
    masked = torch.zeros_like(logits_BC, dtype=torch.bool)
    masked[owner_T, place_T] = True
    negatives_BC = (logits_BC - log_q_C).masked_fill(masked, -torch.inf)
    losses_T = F.softplus(
        torch.logsumexp(negatives_BC, dim=1)[owner_T] - logits_BC[owner_T, place_T]
    )
    return (losses_T * weights_T).sum() / weights_T.sum().clamp_min(1e-9)


@dataclass
class Catalogue:
    """The items as the item tower reads them, and how often each is a target."""

    encoded: Encoded
    """Row ``i`` is item row ``i``; row 0 is the unknown item, without features."""
    share: npt.NDArray[np.float64]
    """[R] share of the targets that are the item."""

    @staticmethod
    def build(encoder: Encoder, items: pa.Table, purchases: pa.Table) -> Catalogue:
        """Encode the items of a set and count the targets."""
        counts = np.bincount(
            encoder.items.rows(purchases.column("item_id")), minlength=encoder.items.num_rows
        ).astype(np.float64)
        counts[0] = 0.0
        return Catalogue(encode_items(encoder, items), counts / max(counts.sum(), 1.0))


def encode_items(encoder: Encoder, items: pa.Table) -> Encoded:
    """Item inputs by item row; items that the vocabulary lacks are left out."""
    rows = encoder.items.rows(column_of(items, "item_id"))
    encoded = encoder.encode(items, Entity.ITEM)
    place = np.full(encoder.items.num_rows, -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    place[0] = -1
    known = place >= 0
    bags = {}
    for name, bag in encoded.bags.items():
        values = np.zeros(encoder.items.num_rows, dtype=np.int64)
        values[known] = bag.values[place[known]]
        bags[name] = Bag.single(values)
    bags["item_id"] = Bag.single(np.arange(encoder.items.num_rows, dtype=np.int64))
    dense = np.zeros((encoder.items.num_rows, encoded.dense.shape[1]), dtype=np.float32)
    dense[known] = encoded.dense[place[known]]
    return Encoded(bags, dense)


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
        """Fit the encoder and make the model; ``judged`` are users with later purchases."""
        self.model = model
        self.process = process
        self.seed = config.seed
        self.half_life_days = dataset.half_life_days
        self.judged = judged
        self.folder = folder
        self.encoder = fit_encoder(sessions, dataset, model.min_buyers, model.history_length)
        self.catalogue = Catalogue.build(self.encoder, sessions.items, bought(sessions))
        self.reader = SessionReader(
            sessions,
            self.encoder,
            process,
            batch_size=config.trainer.batch_size,
            half_life_days=dataset.half_life_days,
            seed=config.seed,
            cache=config.trainer.cache_encoded,
            since_s=_since_s(dataset.edge(config.cutoff), model.max_age_days),
        )
        self.tables = ShardedTables(
            self._table_configs(config),
            process,
            config.sharding,
            batch_size=config.trainer.batch_size,
            seed=config.seed,
            eps=config.optimizer.table_eps,
        )
        torch.manual_seed(config.seed)
        self.dense: TwoTower = TwoTower(self._towers()).to(process.device)

    def _table_configs(self, config: RunConfig) -> tuple[TableConfig, ...]:
        ids = {"user_id": self.model.id_dim, "item_id": self.model.id_dim}
        return TableConfig.of_specs(
            self.encoder.tables(), ids, self.model.feature_dim, config.optimizer
        )

    def _towers(self) -> TwoTowerConfig:
        widths = {
            feature: table.dim
            for table in self.tables.tables.values()
            for feature in table.features
        }
        user, item = (
            TowerConfig(
                list(self.encoder.keys(entity)),
                [widths[name] for name in self.encoder.keys(entity)],
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

    def batches(self, epoch: int) -> Iterator[SessionBatch]:
        """See ``Task``."""
        return self.reader.batches(epoch)

    def loss(self, batch: SessionBatch, step: int) -> Tensor:
        """See ``Task``."""
        rng = np.random.default_rng([self.seed, step, self.process.rank])
        items = self._candidates(batch.targets.values, rng)
        users = _forget(batch.users, "user_id", self.model.user_dropout, rng)
        shown = _forget(self.catalogue.encoded.take(items), "item_id", self.model.item_dropout, rng)
        user_vectors, item_vectors = self._vectors(users, shown)
        targets = Bag(np.searchsorted(items, batch.targets.values), batch.targets.offsets)
        return sampled_softmax(
            user_vectors,
            item_vectors,
            targets,
            self._log_q(items, len(batch.targets.values)),
            self.model.temperature,
            self._weights(batch.targets),
        )

    def _candidates(self, targets: Ints, rng: np.random.Generator) -> Ints:
        """[C] rising item rows: the batch's targets and uniform negatives."""
        drawn = rng.integers(1, self.encoder.items.num_rows, self.model.num_negatives)
        return np.unique(np.concatenate([targets, drawn]))

    def _log_q(self, items: Ints, num_targets: int) -> Tensor:
        """[C] log of the probability that an item is among the candidates, times the strength."""
        absent = num_targets * np.log1p(-np.minimum(self.catalogue.share[items], 1 - 1e-9))
        absent += self.model.num_negatives * np.log1p(-1.0 / self.encoder.items.num_rows)
        log_q = np.log(np.maximum(-np.expm1(absent), 1e-12))
        return self._tensor((self.model.logq * log_q).astype(np.float32))

    def _weights(self, targets: Bag) -> Tensor:
        new = (
            np.ones(len(targets.values), np.float32)
            if targets.weights is None
            else (targets.weights)
        )
        return self._tensor(np.where(new > 0, 1.0, self.model.repeat_weight).astype(np.float32))

    def _vectors(self, users: Encoded, items: Encoded) -> tuple[Tensor, Tensor]:
        """[B, V] and [C, V]; one look-up for both sides."""
        pooled = self.tables(stack(users.bags, items.bags))
        num_users = len(users)
        mine = {name: pooled[name][:num_users] for name in users.bags}
        theirs = {name: pooled[name][num_users:] for name in items.bags}
        return (
            self.dense.user_vectors(mine, self._tensor(users.dense)),
            self.dense.item_vectors(theirs, self._tensor(items.dense)),
        )

    def _tensor(self, values: npt.NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(values).to(self.process.device)

    def export(self, folder: Path) -> None:
        """Write encoder, tables, towers and item vectors into ``folder``; a collective."""
        self.tables.export_tables(folder / "tables")
        if self.process.is_first:
            self.encoder.save(folder / "encoder")
            self.dense.save(folder)
            vectors = item_vectors(
                TwoTower.load(folder), Tables.load(folder / "tables"), self.catalogue.encoded
            )
            write_array(folder / "item_vectors.npy", vectors)
        self.process.barrier()

    def evaluate(self) -> dict[str, float]:
        """Recall at 200 among all items and among those new to the user, of the judged users."""
        if self.judged is None:
            return {}
        folder = self.folder / "evaluation"
        self.export(folder)
        found = judge(folder, self.judged, self.half_life_days) if self.process.is_first else {}
        if self.process.is_first:
            shutil.rmtree(folder)
        return self.process.share(found)


def item_vectors(towers: TwoTower, tables: Tables, items: Encoded, chunk: int = 65_536) -> Floats:
    """[R, V] from exported tables; row 0, the unknown item, is zero."""
    parts = []
    for start in range(0, len(items), chunk):
        part = items.take(np.arange(start, min(start + chunk, len(items))))
        inputs = pooled_inputs(part, tables, towers.config.item.features)
        with torch.inference_mode():
            parts.append(towers.item_vectors(*inputs).numpy())
    vectors = np.concatenate(parts)
    vectors[0] = 0.0
    return vectors


def judge(folder: Path, judged: pa.Table, half_life_days: float, k: int = 200) -> dict[str, float]:
    """Recall at ``k`` of an exported model: over all items, and over items new to the user.

    Args:
        folder: what ``TwoTowerTask.export`` wrote.
        judged: user rows with ``target_item_id``, what each user bought after.
        half_life_days: of the decayed counts.
        k: length of the rankings.
    """
    encoder = Encoder.load(folder / "encoder")
    towers = TwoTower.load(folder)
    encoded = encode_users(encoder, judged, None, half_life_days)
    inputs = pooled_inputs(encoded, Tables.load(folder / "tables"), towers.config.user.features)
    with torch.inference_mode():
        users = towers.user_vectors(*inputs).numpy()
    vectors = np.load(folder / "item_vectors.npy", allow_pickle=False)
    ids, offsets = list_column(judged, TARGET)
    relevant = np.split(encoder.items.rows(ids), offsets[1:-1])
    name = SEEN if SEEN in judged.column_names else "history_item_id"
    ids, offsets = list_column(judged, name)
    bought_before = np.split(encoder.items.rows(ids), offsets[1:-1])
    every, fresh = rankings(users, vectors, bought_before, k)
    new = [np.setdiff1d(rows, mine) for rows, mine in zip(relevant, bought_before, strict=True)]
    return {
        f"recall_all_{k}": float(np.nanmean(recall_at_k(every, relevant, k))),
        f"recall_new_{k}": float(np.nanmean(recall_at_k(fresh, new, k))),
    }


def rankings(users: Floats, items: Floats, known: list[Ints], k: int) -> tuple[Ints, Ints]:
    """[B, k] best item rows of all, and of those that a user does not know."""
    rows = np.arange(1, len(items), dtype=np.int64)
    every, fresh = [], []
    for user, vector in enumerate(users):
        scores = items[1:] @ vector
        every.append(best(rows, scores, k))
        new = ~np.isin(rows, known[user])
        fresh.append(best(rows[new], scores[new], k))
    return stacked(every, k).item_row, stacked(fresh, k).item_row


def train(config: RunConfig, model: TwoTowerModelConfig, process: Process) -> Path:
    """Train, export, and return the run's folder; a finished run is not trained again."""
    dataset = config.dataset()
    sessions = TrainingSet.open(dataset, SERVICE, "sessions", config.cutoff)
    judged = judged_users(dataset, config.cutoff) if config.validate else None
    run = Run.open(config, {"sessions": sessions.digest}, process)
    if run.result is not None:
        log.info("%s is finished already: %s", run.folder, run.result)
        return run.folder
    task = TwoTowerTask(config, model, dataset, sessions, process, run.folder, judged)
    metrics = Trainer(task, run, config.trainer, config.optimizer, process).train()
    task.export(run.folder / FOLDER)
    run.finish(metrics)
    return run.folder


def judged_users(dataset: Dataset, cutoff: str) -> pa.Table:
    """Users at the cut-off, and what they bought in the window after it."""
    found = TrainingSet.open(dataset, "ranking_v1", "users", cutoff)
    return pa.concat_tables(found.chunks(found.users.schema_arrow.names))


def _since_s(cutoff: datetime, max_age_days: int | None) -> int | None:
    return None if max_age_days is None else int(cutoff.timestamp()) - max_age_days * int(DAY_S)


def _forget(encoded: Encoded, name: str, share: float, rng: np.random.Generator) -> Encoded:
    """Replace a share of the ids by "unknown", so that its row is trained."""
    if share == 0:
        return encoded
    bag = encoded.bags[name]
    values = np.where(rng.random(len(bag.values)) < share, 0, bag.values)
    return Encoded({**encoded.bags, name: Bag(values, bag.offsets, bag.weights)}, encoded.dense)
