"""Training rankers on retrieved candidates of earlier windows.

Each batch holds B requests with all candidates that were bought and a sample of the others. Their
users and their I distinct items are looked up once, in one KeyedJaggedTensor, the other side's
features empty. N candidates of the batch, C crosses, F numeric columns, T tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feature_repo.contract.encoding import Bag, Encoded
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.randomness import key, uniform
from feature_repo.contract.schema import Entity
from ranking.inputs import InputEncoder, Side, beside
from ranking.network import PairInputs, SideInputs
from ranking.rankers import make_network
from ranking.scorer import write_network
from trainer.config import RunConfig
from trainer.distributed import Process
from trainer.embeddings import ShardedTables, TableConfig, pooled_of, stack
from trainer.joint_optimizer import JointOptimizer
from trainer.loop import Trainer
from trainer.randomness import Stream
from trainer.ranker_batches import (
    RankerBatch,
    counts_of,
    make_batch,
    ranking_metrics,
    sampled,
    wanted_in,
)
from trainer.ranker_config import RankerModelConfig
from trainer.ranker_losses import listwise_loss, request_sums, request_weights
from trainer.ranker_rows import Rows
from trainer.runs import Run
from trainer.sharding import Load
from trainer.step import StepInputs

Floats = npt.NDArray[np.float32]

EVALUATED = 64
"""Requests that are scored at once."""


class RankerTask:
    """A ranker of any kind, its rows and its loss, for ``trainer.loop``."""

    def __init__(
        self,
        config: RunConfig,
        model: RankerModelConfig,
        inputs: InputEncoder,
        rows: Rows,
        process: Process,
        judged: Rows | None = None,
    ) -> None:
        """Make the model; ``judged`` are requests of a later window."""
        self.model = model
        self.inputs = inputs
        self.rows = rows
        self.judged = judged
        self.process = process
        self.seed = config.seed
        self.batch_size = config.trainer.batch_size
        self.form = config.export_tables
        self.keys = {
            entity: inputs.keys(entity, model.network.without)
            for entity in (Entity.USER, Entity.ITEM)
        }
        self.tables = ShardedTables(
            self._table_configs(config),
            process,
            config.sharding,
            self._load(config),
            seed=config.seed,
            eps=config.optimizer.table_eps,
        )
        dims = {f: table.dim for table in self.tables.tables.values() for f in table.features}
        self.widths = inputs.widths(model.network.without, dims)
        torch.manual_seed(config.seed)
        self.events = tuple(model.trained_tasks)
        heads = make_network(model.network, self.widths, len(self.events))
        self.network = heads.to(process.device)
        self.dense: nn.Module = self.network
        self.score = [model.score.get(event.value, 0.0) for event in self.events]
        self.wanted = wanted_in(rows, self.events)
        self.trained = np.flatnonzero(counts_of(rows, self.wanted))

    def _load(self, config: RunConfig) -> Load:
        """What a step reads: requests, then their candidates' distinct items."""
        size = config.trainer.batch_size
        items = min(size * self.model.negatives, len(self.rows.items))
        lengths = {
            name: self.model.network.history_length * size / (size + items)
            for name, bag in self.rows.inputs.users.encoded.bags.items()
            if bag.weights is not None
        }
        return Load(self.process.largest_share(size + items), lengths)

    def _table_configs(self, config: RunConfig) -> tuple[TableConfig, ...]:
        """Tables of the features that the deep side reads."""
        read = {key for keys in self.keys.values() for key in keys}
        network = self.model.network
        ids = {"user_id": network.id_dim, "item_id": network.id_dim}
        specs = self.inputs.encoder.tables()
        found = TableConfig.of_specs(specs, ids, network.feature_dim, config.optimizer)
        kept = [(table, tuple(f for f in table.features if f in read)) for table in found]
        if not read:
            raise ConfigError("model.network.without leaves no feature with an embedding table.")
        return tuple(replace(table, features=features) for table, features in kept if features)

    def trainer(self, run: Run, config: RunConfig) -> Trainer[RankerBatch]:
        """The loop, with Adagrad for the wide side.

        Adam would move a rare cross as far as a frequent one at each step; Adagrad's steps grow
        with the square root of how often it is met (as FTRL's do, in Cheng et al., 2016).
        """
        settings, groups = config.optimizer, self.network.parameter_groups()
        deep = torch.optim.AdamW(
            groups.deep, lr=settings.dense_lr, weight_decay=settings.weight_decay
        )
        wide = torch.optim.Adagrad(groups.wide, lr=settings.dense_lr)
        joint = JointOptimizer([deep, wide])
        return Trainer(self, run, config.trainer, settings, self.process, joint)

    def num_batches(self) -> int:
        """See ``Task``."""
        return -(-len(self.trained) // self.batch_size)

    def batches(self, epoch: int, first: int) -> Iterator[RankerBatch]:
        """See ``Task``."""
        rng = np.random.default_rng([self.seed, epoch])
        kept = sampled(self.rows, self.wanted, self.model.negatives, rng)
        order, count = rng.permutation(self.trained), self.num_batches()
        for batch in range(first, count):
            start, stop = (len(order) * b // count for b in (batch, batch + 1))
            mine = np.sort(order[start:stop])[self.process.share_of(stop - start)]
            found = make_batch(self.rows, self.inputs, mine, kept, self.events)
            yield replace(found, total=stop - start)

    def prepare(self, batch: RankerBatch, step: int) -> StepInputs:
        """See ``Task``."""
        items = self._forget(batch.items, step)
        found = self._inputs(batch, items, self.process.max(len(batch.users) + len(items)))
        found.tensors |= self._loss_weights(batch)
        return found

    def _loss_weights(self, batch: RankerBatch) -> dict[str, Tensor]:
        """What labels, requests and single candidates count for; a collective.

        Losses are means over the requests and candidates of all processes as if each counted for 1:
        what a request counts for does not depend on those that it shares a batch with.
        """
        labels, user_of, size = batch.labels.numpy(), batch.pairs.user_of.numpy(), len(batch.users)
        gains, weights = labels * batch.gains.numpy()[:, None], batch.weights.numpy()
        balance = self.model.balance
        counted = request_weights(request_sums(labels, user_of, size), balance).sum(axis=0)
        totals = self.process.total(*counted.tolist(), float(len(labels)))
        *lists, pairs = (self.process.world_size / max(total, 1.0) for total in totals)
        of_requests = request_weights(request_sums(gains, user_of, size), balance)
        of_pairs = np.where(labels > 0, gains, 1.0) * weights[user_of][:, None]
        found = {
            "labels": labels,
            "gains": gains,
            "request_weight": of_requests * weights[:, None] * np.array(lists),
            "pair_weight": of_pairs * pairs,
        }
        return {name: torch.from_numpy(value.astype(np.float32)) for name, value in found.items()}

    def head(self, pooled: dict[str, Tensor], inputs: StepInputs) -> Tensor:
        """See ``Task``."""
        logits = self._logits(pooled, inputs).float()
        loss = logits.sum() * 0.0  # a process without requests still takes part
        for place, weight in enumerate(self.model.trained_tasks.values()):
            loss = loss + weight * self._loss(logits[:, place], inputs.tensors, place)
        return loss

    def _loss(self, logits_N: Tensor, tensors: dict[str, Tensor], place: int) -> Tensor:
        """Of one task."""
        names = ("labels", "gains", "request_weight", "pair_weight")
        labels, gains, of_requests, of_pairs = (tensors[name][:, place] for name in names)
        loss = torch.zeros((), device=logits_N.device)
        if self.model.listwise:
            found = listwise_loss(logits_N, gains, tensors["user_of"], of_requests)
            loss = loss + self.model.listwise * found
        if self.model.pointwise:
            loss = loss + self.model.pointwise * F.binary_cross_entropy_with_logits(
                logits_N, labels, of_pairs, reduction="sum"
            )
        return loss

    def _inputs(self, batch: RankerBatch, items: Side, stride: int) -> StepInputs:
        mine, theirs = (
            {name: side.encoded.bags[name] for name in self.keys[entity]}
            for entity, side in ((Entity.USER, batch.users), (Entity.ITEM, items))
        )
        together = stack(mine, theirs) if mine and theirs else mine or theirs
        sides = {Entity.USER: batch.users, Entity.ITEM: items}
        tensors = {
            f"{entity.value}_{kind}": torch.from_numpy(values)
            for entity, side in sides.items()
            for kind, values in (
                ("codes", side.columns.codes.astype(np.int64)),
                ("scores", side.columns.scores),
            )
        }
        tensors |= batch.pairs._asdict()
        split = len(batch.users) if mine else 0
        return StepInputs(
            self.tables.features(together, stride),
            tensors,
            {"examples": batch.total, "split": split, "stop": split + len(items)},
        )

    def _logits(self, pooled: dict[str, Tensor], inputs: StepInputs) -> Tensor:
        """[N, T] logits."""
        split, stop = inputs.sizes["split"], inputs.sizes["stop"]
        pairs = PairInputs(*(inputs.tensors[name] for name in PairInputs._fields))
        logits: Tensor = self.network(
            self.network.users(self._side(pooled, inputs, Entity.USER, slice(0, split))),
            self.network.items(self._side(pooled, inputs, Entity.ITEM, slice(split, stop))),
            pairs,
        )
        return logits

    def _side(
        self, pooled: dict[str, Tensor], inputs: StepInputs, entity: Entity, rows: slice
    ) -> SideInputs:
        codes, scores = (inputs.tensors[f"{entity.value}_{kind}"] for kind in ("codes", "scores"))
        return beside(codes, scores, [pooled[name][rows] for name in self.keys[entity]])

    def _forget(self, items: Side, step: int) -> Side:
        """A share of the item ids replaced by "unknown", so that its row is trained."""
        bags = items.encoded.bags
        if self.model.item_dropout == 0 or "item_id" not in bags:
            return items
        bag = bags["item_id"]
        drawn = uniform(key(self.seed, Stream.ITEM_ID, step), bag.values)
        values = np.where(drawn < self.model.item_dropout, 0, bag.values)
        replaced = {**bags, "item_id": Bag(values, bag.offsets, bag.weights)}
        return Side(Encoded(replaced, items.encoded.dense), items.columns)

    def evaluate(self) -> dict[str, float]:
        """NDCG and precision at 10 on the judged window; empty without one."""
        return {} if self.judged is None else ranking_metrics(self.judged, self.scores(self.judged))

    def scores(self, rows: Rows) -> Floats:
        """[N] served logits of all candidates; a collective that every process runs alike."""
        self.network.eval()
        everything = np.ones(len(rows.labels), dtype=np.bool_)
        parts, score = [torch.zeros(0)], torch.tensor(self.score)
        with torch.no_grad():
            for start in range(0, len(rows), EVALUATED):
                users = np.arange(start, min(start + EVALUATED, len(rows)))
                batch = make_batch(rows, self.inputs, users, everything)
                size = len(batch.users) + len(batch.items)
                inputs = self._inputs(batch, batch.items, size).to(self.process.device)
                pooled = pooled_of(self.tables.sharded(inputs.features))
                parts.append(self._logits(pooled, inputs).cpu() @ score)
        return torch.cat(parts).numpy()

    def export(self, folder: Path) -> None:
        """Write the network and its tables into a bundle's folder of a member; a collective."""
        self.tables.export_tables(folder / "tables", self.form)
        if self.process.is_first:
            write_network(folder, self.network, self.score)
        self.process.barrier()
