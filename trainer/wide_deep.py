"""Training the Wide & Deep ranker on retrieved candidates of earlier windows.

Each batch holds B requests with all candidates that were bought and a sample of the others. Their
users and their I distinct items are looked up once, in one KeyedJaggedTensor, the other side's
features empty. N candidates of the batch, C crosses, F numeric columns.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feature_repo.contract.artifacts import MANIFEST, read_manifest, sha256_file, write_manifest
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.encoding import Bag, Encoded
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.randomness import key, uniform
from feature_repo.contract.schema import Entity
from ranking.inputs import InputEncoder, Side, beside
from ranking.metrics import ndcg_of_hits
from ranking.scorer import KIND as RANKER
from ranking.scorer import write_network
from ranking.wide_deep import PairInputs, SideInputs, WideDeep
from retrieval.retriever import KIND as RETRIEVER
from trainer.config import RunConfig
from trainer.distributed import Process
from trainer.embeddings import ShardedTables, TableConfig, pooled_of, stack
from trainer.joint_optimizer import JointOptimizer
from trainer.loop import Trainer
from trainer.randomness import Stream
from trainer.ranker_rows import SERVICE, Rows, Window, encode_windows
from trainer.runs import Run
from trainer.sets import TrainingSet
from trainer.sharding import Load
from trainer.step import StepInputs
from trainer.wide_deep_config import WideDeepModelConfig

log = logging.getLogger(__name__)

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

FOLDER = "ranker"
"""In the run's folder: the bundle."""
TOP = 10
EVALUATED = 64
"""Requests that are scored at once."""


def listwise_loss(
    logits_N: Tensor, labels_N: Tensor, user_of_N: Tensor, weights_B: Tensor
) -> Tensor:
    """Weighted sum over requests of -log softmax of the bought candidates, each of a request's
    alike: ListNet's top-one cross-entropy (Cao et al., 2007) with binary relevance.

    Args:
        logits_N: of all candidates.
        labels_N: 1 where bought.
        user_of_N: int64, the request of each candidate.
        weights_B: of each request; see ``request_weights``.
    """
    log_p = logits_N - _log_sums(logits_N, user_of_N, len(weights_B))[user_of_N]
    bought = torch.zeros_like(weights_B).index_add(0, user_of_N, labels_N)
    return -(log_p * labels_N * (weights_B / bought.clamp_min(1.0))[user_of_N]).sum()


def request_weights(bought_B: Ints, balance: float) -> npt.NDArray[np.float64]:
    """A request with n bought candidates weighs n ** ``balance``, one without weighs nothing: 0
    makes requests equal, 1 purchases."""
    return np.where(bought_B > 0, np.maximum(bought_B, 1).astype(np.float64) ** balance, 0.0)


def _log_sums(logits_N: Tensor, user_of_N: Tensor, num_users: int) -> Tensor:
    """[B] log of the sum of the exponentials of each request's logits."""
    largest = torch.full((num_users,), -torch.inf, device=logits_N.device)
    largest = largest.scatter_reduce(0, user_of_N, logits_N.detach(), "amax")
    shifted = (logits_N - largest[user_of_N]).exp()
    sums = torch.zeros(num_users, device=logits_N.device).index_add(0, user_of_N, shifted)
    return largest + sums.log()


@dataclass(frozen=True)
class RankerBatch:
    """B requests with some of their candidates."""

    users: Side
    items: Side
    """[I] the distinct items of the candidates."""
    pairs: PairInputs
    labels: Tensor
    """[N] float32, 1 where bought."""
    total: int = 0
    """Requests in the batch of all processes."""


class WideDeepTask:
    """A Wide & Deep ranker, its rows and its loss, for ``trainer.loop``."""

    def __init__(
        self,
        config: RunConfig,
        model: WideDeepModelConfig,
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
        self.network = WideDeep(model.network, self.widths).to(process.device)
        self.dense: nn.Module = self.network
        self.trained = np.flatnonzero(bought_in(rows))

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
        settings = config.optimizer
        deep = torch.optim.AdamW(
            self.network.deep_parameters(),
            lr=settings.dense_lr,
            weight_decay=settings.weight_decay,
        )
        wide = torch.optim.Adagrad(self.network.wide_parameters(), lr=settings.dense_lr)
        joint = JointOptimizer([deep, wide])
        return Trainer(self, run, config.trainer, settings, self.process, joint)

    def num_batches(self) -> int:
        """See ``Task``."""
        return -(-len(self.trained) // self.batch_size)

    def batches(self, epoch: int, first: int) -> Iterator[RankerBatch]:
        """See ``Task``."""
        rng = np.random.default_rng([self.seed, epoch])
        kept = sampled(self.rows, self.model.negatives, rng)
        order, count = rng.permutation(self.trained), self.num_batches()
        for batch in range(first, count):
            start, stop = (len(order) * b // count for b in (batch, batch + 1))
            mine = np.sort(order[start:stop])[self.process.share_of(stop - start)]
            yield replace(make_batch(self.rows, self.inputs, mine, kept), total=stop - start)

    def prepare(self, batch: RankerBatch, step: int) -> StepInputs:
        """See ``Task``."""
        items = self._forget(batch.items, step)
        labels, user_of = batch.labels.numpy(), batch.pairs.user_of.numpy()
        bought = np.bincount(user_of, labels, minlength=len(batch.users)).astype(np.int64)
        weights = request_weights(bought, self.model.balance)
        sums = self.process.total(float(weights.sum()), float(len(labels)))
        lists, pairs = (self.process.world_size / max(total, 1.0) for total in sums)
        found = self._inputs(batch, items, self.process.max(len(batch.users) + len(items)))
        found.tensors["labels"] = batch.labels
        found.tensors["request_weight"] = torch.from_numpy((weights * lists).astype(np.float32))
        found.tensors["pair_weight"] = torch.full((len(labels),), pairs)
        return found

    def head(self, pooled: dict[str, Tensor], inputs: StepInputs) -> Tensor:
        """See ``Task``."""
        tensors = inputs.tensors
        logits, labels = self._logits(pooled, inputs).float(), tensors["labels"]
        loss = logits.sum() * 0.0  # a process without requests still takes part
        if self.model.listwise:
            loss = loss + self.model.listwise * listwise_loss(
                logits, labels, tensors["user_of"], tensors["request_weight"]
            )
        if self.model.pointwise:
            loss = loss + self.model.pointwise * F.binary_cross_entropy_with_logits(
                logits, labels, tensors["pair_weight"], reduction="sum"
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
        """[N] logits."""
        split, stop = inputs.sizes["split"], inputs.sizes["stop"]
        pairs = PairInputs(*(inputs.tensors[name] for name in PairInputs._fields))
        return self.network(  # type: ignore[no-any-return]
            self.network.users(self._side(pooled, inputs, Entity.USER, slice(0, split))),
            self.network.items(self._side(pooled, inputs, Entity.ITEM, slice(split, stop))),
            pairs,
        )

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
        if self.judged is None:
            return {}
        judged = np.flatnonzero(self.judged.num_relevant > 0)
        places = hits_of(self.judged, self.scores(self.judged), TOP)[judged]
        ndcg = ndcg_of_hits(places, self.judged.num_relevant[judged], TOP)
        return {f"ndcg@{TOP}": float(ndcg.mean()), f"precision@{TOP}": float(places.mean())}

    def scores(self, rows: Rows) -> Floats:
        """[N] logits of all candidates; a collective that every process runs alike."""
        everything = np.ones(len(rows.labels), dtype=np.bool_)
        parts = [torch.zeros(0)]
        with torch.no_grad():
            for start in range(0, len(rows), EVALUATED):
                users = np.arange(start, min(start + EVALUATED, len(rows)))
                batch = make_batch(rows, self.inputs, users, everything)
                size = len(batch.users) + len(batch.items)
                inputs = self._inputs(batch, batch.items, size).to(self.process.device)
                pooled = pooled_of(self.tables.sharded(inputs.features))
                parts.append(self._logits(pooled, inputs).cpu())
        return torch.cat(parts).numpy()

    def export(self, folder: Path) -> None:
        """Write all of a ranker bundle but its manifest into ``folder``; a collective."""
        self.tables.export_tables(folder / "tables", self.form)
        if self.process.is_first:
            write_network(folder, self.inputs, self.model.network, self.widths, self.network)
        self.process.barrier()


def make_batch(rows: Rows, inputs: InputEncoder, users: Ints, kept: Bools) -> RankerBatch:
    """The kept candidates of some requests, in rising order of the requests."""
    own = Bag(np.arange(len(rows.labels), dtype=np.int64), rows.offsets).take(users)
    user_of = np.repeat(np.arange(len(users), dtype=np.int64), np.diff(own.offsets))
    chosen = kept[own.values]
    place, user_of = own.values[chosen], user_of[chosen]
    distinct, item_of = np.unique(rows.inputs.item_of[place], return_inverse=True)
    mine, items = rows.inputs.users.take(users), rows.items.take(distinct)
    pairs = inputs.pair_inputs(mine, items, user_of, item_of, rows.inputs.columns.take(place))
    return RankerBatch(mine, items, pairs, torch.from_numpy(rows.labels[place].astype(np.float32)))


def bought_in(rows: Rows) -> Ints:
    """[B] candidates that were bought."""
    return np.bincount(rows.inputs.user_of, rows.labels, minlength=len(rows)).astype(np.int64)


def sampled(rows: Rows, negatives: int, rng: np.random.Generator) -> Bools:
    """[N] the bought candidates, and ``negatives`` others of each request, drawn evenly."""
    draws = np.where(rows.labels, -1.0, rng.random(len(rows.labels)))
    order = np.lexsort((draws, rows.inputs.user_of))
    place = np.arange(len(order)) - rows.offsets[rows.inputs.user_of]
    kept = np.empty(len(order), dtype=np.bool_)
    kept[order] = place < (bought_in(rows) + negatives)[rows.inputs.user_of]
    return kept


def hits_of(rows: Rows, scores: Floats, k: int) -> Bools:
    """[B, k] whether the candidate at each place of a request's list was bought."""
    order = np.lexsort((-scores, rows.inputs.user_of))
    place = rows.offsets[:-1, None] + np.arange(k)
    inside = place < rows.offsets[1:, None]
    return rows.labels[order[np.where(inside, place, 0)]] & inside


def train(config: RunConfig, model: WideDeepModelConfig, process: Process) -> Path:
    """Train, write the bundle, and return the run's folder; a finished run is not trained again.

    Raises:
        ConfigError: there is no retriever, or one whose window's labels pass the cut-off; or a
            warm start is asked for.
    """
    if config.warm_start is not None:
        raise ConfigError(
            "warm_start is of two_tower: a ranker's buckets and rows follow its label window."
        )
    dataset = config.dataset()
    bundles = _bundles(config, model)
    run = Run.open(config, _digests(dataset, bundles, model.validation), process)
    if run.result is not None:
        log.info("%s is finished already: %s", run.folder, run.result)
        return run.folder
    windows = [
        Window.open(bundle, dataset, new_only=model.new_only, before=config.cutoff)
        for bundle in bundles
    ]
    inputs, rows = encode_windows(windows, model.network, dataset)
    task = WideDeepTask(config, model, inputs, rows, process, _judged(model, dataset, inputs))
    _log_rows(rows, inputs)
    metrics = task.trainer(run, config).train()
    write_bundle(task, run.folder / FOLDER, config, dataset)
    run.finish(metrics)
    return run.folder


def _bundles(config: RunConfig, model: WideDeepModelConfig) -> list[Path]:
    if config.retriever is None:
        raise ConfigError(
            "Training a ranker needs retriever=DIR: the bundle that was fitted one window before "
            "the cut-off (python -m trainer.sources)."
        )
    return [Path(config.retriever), *map(Path, model.earlier)]


def _digests(dataset: Dataset, bundles: list[Path], validation: str | None) -> dict[str, str]:
    """Name -> digest of each retriever and training set that is read."""
    named = {f"window {index}": bundle for index, bundle in enumerate(bundles)}
    if validation is not None:
        named["validation"] = Path(validation)
    digests = {}
    for name, bundle in named.items():
        cutoff = str(read_manifest(bundle, RETRIEVER, verify=False)["cutoff"])
        digests[f"{name} retriever"] = sha256_file(bundle / MANIFEST)
        digests[f"{name} set"] = TrainingSet.open(dataset, SERVICE, "users", cutoff).digest
    return digests


def _judged(model: WideDeepModelConfig, dataset: Dataset, inputs: InputEncoder) -> Rows | None:
    if model.validation is None:
        return None
    window = Window.open(Path(model.validation), dataset, new_only=model.new_only)
    return window.encode(inputs)


def _log_rows(rows: Rows, inputs: InputEncoder) -> None:
    relevant, found = int(rows.num_relevant.sum()), int(rows.labels.sum())
    log.info(
        "%d candidates of %d requests, %d columns of pairs, %d crosses; %d of %d purchases "
        "(%.1f%%) are among them.",
        len(rows.labels),
        len(rows),
        len(inputs.numeric[Entity.PAIR].names),
        len(inputs.crosses.crosses),
        found,
        relevant,
        100.0 * found / max(relevant, 1),
    )


def write_bundle(task: WideDeepTask, target: Path, config: RunConfig, dataset: Dataset) -> None:
    """Write a ranker bundle, whole or not at all; a collective."""
    partial = target.with_name(f".{target.name}.partial")
    if task.process.is_first:
        for folder in (partial, target):
            shutil.rmtree(folder, ignore_errors=True)
        partial.mkdir(parents=True)
    task.process.barrier()
    task.export(partial)
    if task.process.is_first:
        inputs = task.inputs
        about = {
            "dataset": dataset.name,
            "cutoff": dataset.edge(config.cutoff).isoformat(),
            "fingerprint": inputs.encoder.schema.fingerprint,
            "sources": list(inputs.sources),
            "half_life_days": inputs.half_life_days,
            "new_only": task.model.new_only,
        }
        write_manifest(partial, RANKER, about)
        partial.rename(target)
    task.process.barrier()
