"""Training the ranker: rows, batches, loss, and parity of the trained and the exported model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import torch

from feature_repo.contract.artifacts import read_manifest, write_json
from feature_repo.contract.dataset import Clock, Dataset, IdType, parse_time
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.schema import Entity
from ranking.dcn_v2 import DcnV2Config
from ranking.features import numeric_matrix
from ranking.inputs import InputEncoder
from ranking.network import NetworkConfig
from ranking.rankers import kind_of
from ranking.scorer import Scorer
from ranking.wide_deep import WideDeepConfig
from tests.ranking import shop
from trainer.config import LoopConfig, OptimizerConfig, RunConfig
from trainer.distributed import Device, Process, process_group
from trainer.loop import Stopped
from trainer.ranker import RankerTask
from trainer.ranker_batches import hits_of, make_batch, ranking_metrics, sampled
from trainer.ranker_config import CalibrationConfig, Calibrator, RankerModelConfig
from trainer.ranker_inputs import balanced_rows, encode_windows
from trainer.ranker_losses import listwise_loss, request_weights
from trainer.ranker_members import Members, write_bundle
from trainer.ranker_rows import Rows
from trainer.ranker_run import train
from trainer.ranker_windows import Part, Window, joined, labelled, require_labels, targets_of
from trainer.runs import Run
from trainer.sets import TrainingSet
from trainer.sharding_config import ShardingConfig

EDGES = ("2020-08-01", "2020-08-15", "2020-09-13", "2020-10-15")
NETWORK = WideDeepConfig(
    id_dim=4,
    feature_dim=4,
    bucket_dim=4,
    hidden=[16, 8],
    without=[],
    crosses=[["own_weight", "own_due"], ["segment", "brand"]],
    max_cross_rows=50,
)

DCN_V2 = DcnV2Config(
    id_dim=4, feature_dim=4, bucket_dim=4, width=8, hidden=[8], without=[], cross_rank=4
)


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    with process_group(Device.cpu) as process:
        yield process


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    edges = tuple(parse_time(edge) for edge in EDGES)
    assert len(edges) == 4
    return Dataset(
        name="shop",
        root=tmp_path_factory.mktemp("data"),
        user_id=IdType.INT64,
        item_id=IdType.INT64,
        clock=Clock.AS_OF,
        start=edges[0],
        end=edges[3],
        edges=edges,
    )


def make_window(num_users: int = shop.NUM_USERS) -> Window:
    users = shop.user_rows(num_users)
    candidates = shop.candidates(users)
    labels, counts = labelled(candidates, targets_of(users, shop.vocabulary()))
    return Window(
        users, shop.item_rows(), shop.SCHEMA, shop.vocabulary(), candidates, labels, counts
    )


@pytest.fixture(scope="module")
def encoded(dataset: Dataset) -> tuple[InputEncoder, Rows]:
    return encode_windows([make_window()], NETWORK, dataset)


def config(dataset: Dataset, **settings: object) -> RunConfig:
    dataset.save()
    model = RankerModelConfig(network=NETWORK, negatives=5)
    made = RunConfig(
        experiment="test",
        cutoff="t2",
        data={"name": dataset.name, "root": str(dataset.root)},
        model=model,
        optimizer=OptimizerConfig(dense_lr=0.01, table_lr=0.1),
        trainer=LoopConfig(epochs=3, batch_size=4),
        sharding=ShardingConfig(device=Device.cpu),
    )
    return replace(made, **settings)  # type: ignore[arg-type]


def make_task(
    dataset: Dataset, encoded: tuple[InputEncoder, Rows], process: Process, **model: object
) -> RankerTask:
    inputs, rows = encoded
    made = config(dataset)
    assert isinstance(made.model, RankerModelConfig)
    settings = replace(made.model, **model)  # type: ignore[arg-type]
    return RankerTask(made, settings, inputs, rows, process, judged=rows)


@pytest.mark.parametrize("network", [NETWORK, DCN_V2], ids=kind_of)
def test_the_exported_ranker_scores_as_the_trained_one(
    network: NetworkConfig, dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    encoded = encode_windows([make_window()], network, dataset)
    members = make_members(dataset, encoded, process, network=network)
    before = members.task(0).evaluate()
    after = write_bundle(members, Run(tmp_path, {}, process), dataset)
    window = make_window()

    scores = Scorer.load(tmp_path / "ranker", window.item_rows).score(
        window.user_rows, window.candidates, window.vocabulary
    )

    again = members.task(0)
    again.trainer(Run(tmp_path, {}, process), members.config).train()
    np.testing.assert_allclose(scores, again.scores(encoded[1]), rtol=1e-4, atol=1e-4)
    assert np.ptp(scores) > 0.1
    assert after["ndcg@10"] > before["ndcg@10"]
    about = read_manifest(tmp_path / "ranker", "ranker")
    assert about["sources"] == list(shop.SOURCES)
    assert about["cutoff"] == dataset.edges[2].isoformat()


def make_members(
    dataset: Dataset, encoded: tuple[InputEncoder, Rows], process: Process, **model: object
) -> Members:
    made, task = config(dataset), make_task(dataset, encoded, process, **model)
    return Members(made, task.model, *encoded, encoded[1], None, process)


def test_members_are_trained_from_seeds_of_their_own_and_averaged(
    dataset: Dataset, encoded: tuple[InputEncoder, Rows], process: Process, tmp_path: Path
) -> None:
    members = make_members(dataset, encoded, process, members=2)
    members = replace(members, config=replace(members.config, seed=3))
    run, window = Run(tmp_path, {}, process), make_window()

    metrics = write_bundle(members, run, dataset)
    scores = Scorer.load(tmp_path / "ranker", window.item_rows).score(
        window.user_rows, window.candidates, window.vocabulary
    )

    alone, own = [], []
    for index, seed in enumerate((2 * 3, 2 * 3 + 1)):
        task = members.task(index)
        assert task.seed == seed
        own.append(task.trainer(run.part(f"members/{index}"), members.config).train())
        alone.append(task.scores(encoded[1]))
    np.testing.assert_allclose(scores, (alone[0] + alone[1]) / 2, rtol=1e-4, atol=1e-4)
    assert np.abs(alone[0] - alone[1]).max() > 0.01
    assert metrics["ndcg@10_of_one"] == (own[0]["ndcg@10"] + own[1]["ndcg@10"]) / 2
    assert metrics["ndcg@10"] == pytest.approx(ranking_metrics(encoded[1], scores)["ndcg@10"])
    assert metrics["members"] == 2.0


def test_members_that_were_stopped_go_on_as_if_nothing_had_happened(
    dataset: Dataset, encoded: tuple[InputEncoder, Rows], process: Process, tmp_path: Path
) -> None:
    members = make_members(dataset, encoded, process, members=2)
    every = LoopConfig(epochs=3, batch_size=2, select="ndcg@10")
    members = replace(members, config=replace(members.config, trainer=every))
    whole = write_bundle(members, make_run(tmp_path / "whole", process), dataset)
    run = make_run(tmp_path / "cut", process)
    members.task(0).trainer(run.part("members/0"), members.config).train()
    (run.folder / "STOP").touch()
    with pytest.raises(Stopped):
        members.task(1).trainer(run.part("members/1"), members.config).train()

    run.forget_stop()
    metrics = write_bundle(members, run, dataset)

    assert metrics == whole
    for index in range(2):
        first, second = (
            tmp_path / name / "ranker" / "members" / str(index) / "network.safetensors"
            for name in ("whole", "cut")
        )
        assert first.read_bytes() == second.read_bytes()


def test_a_calibrated_ranker_ranks_as_before_and_has_probabilities(
    dataset: Dataset, encoded: tuple[InputEncoder, Rows], process: Process, tmp_path: Path
) -> None:
    window, scores, metrics = make_window(), {}, {}
    for method in (Calibrator.none, Calibrator.platt):
        calibration = CalibrationConfig(method)
        made = make_members(dataset, encoded, process, members=2, calibration=calibration)
        metrics[method] = write_bundle(made, make_run(tmp_path / method.value, process), dataset)
        scorer = Scorer.load(tmp_path / method.value / "ranker", window.item_rows)
        scores[method] = scorer.score(window.user_rows, window.candidates, window.vocabulary)

    logits = scores[Calibrator.platt]
    np.testing.assert_array_equal(logits, scores[Calibrator.none])
    said = scorer.probabilities(logits)
    assert said.mean() == pytest.approx(window.labels.mean(), rel=0.01)
    assert said[logits.argmax()] == said.max() > said.min()
    before, after = (metrics[method] for method in (Calibrator.none, Calibrator.platt))
    assert after.pop("ece") < after.pop("ece_before")
    assert after == before


def test_held_out_users_are_the_same_in_every_window() -> None:
    users = shop.user_rows()
    held, kept = (Part(0.25, seed=0, held_out=held) for held in (True, False))

    ids = [set(part.of(users)["user_id"].to_pylist()) for part in (held, kept)]

    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == set(users["user_id"].to_pylist())
    assert 0 < len(ids[0]) < len(ids[1])
    later = set(held.of(users.slice(10))["user_id"].to_pylist())
    assert later == ids[0] & set(users.slice(10)["user_id"].to_pylist())


def make_run(folder: Path, process: Process) -> Run:
    folder.mkdir()
    return Run(folder, {}, process)


def test_a_side_may_have_no_table_at_all(
    dataset: Dataset, encoded: tuple[InputEncoder, Rows], process: Process
) -> None:
    of_items = ["item_id", "department", "category", "subcategory", "brand"]

    task = make_task(
        dataset, encoded, process, network=replace(NETWORK, without=of_items, crosses=[])
    )

    assert "item_id" not in task.keys[Entity.ITEM]
    assert np.isfinite(task.scores(encoded[1])).all()
    everything = [*of_items, "user_id", "segment", "history_item_id"]
    with pytest.raises(ConfigError, match="leaves no feature"):
        make_task(dataset, encoded, process, network=replace(NETWORK, without=everything))


def test_the_same_seed_trains_the_same_ranker(
    dataset: Dataset, encoded: tuple[InputEncoder, Rows], process: Process, tmp_path: Path
) -> None:
    made, scores = config(dataset), []
    for name in ("first", "second"):
        task = make_task(dataset, encoded, process)
        (tmp_path / name).mkdir()
        run = Run(tmp_path / name, {}, process)
        task.trainer(run, made).train()
        scores.append(task.scores(encoded[1]))

    np.testing.assert_array_equal(scores[0], scores[1])


def test_every_process_gets_as_many_batches_of_different_requests(
    dataset: Dataset, encoded: tuple[InputEncoder, Rows], process: Process
) -> None:
    task = make_task(dataset, encoded, process)
    counts, users = [], set()
    for rank in range(3):
        task.process = replace(process, rank=rank, world_size=3)
        batches = list(task.batches(0, 0))
        counts.append(len(batches))
        assert len(batches) == task.num_batches()
        users |= {int(row) for b in batches for row in b.users.encoded.bags["user_id"].values}

    assert len(set(counts)) == 1
    bought = np.bincount(encoded[1].inputs.user_of, encoded[1].labels)
    assert len(users) == int((bought > 0).sum())


def test_batches_of_an_epoch_are_the_same_when_asked_again(
    dataset: Dataset, encoded: tuple[InputEncoder, Rows], process: Process
) -> None:
    task = make_task(dataset, encoded, process)

    first, again, other = (next(task.batches(epoch, 0)) for epoch in (4, 4, 5))

    assert torch.equal(first.pairs.codes, again.pairs.codes)
    assert not torch.equal(first.pairs.codes[:20], other.pairs.codes[:20])


def test_a_batch_holds_its_users_own_candidates(encoded: tuple[InputEncoder, Rows]) -> None:
    inputs, rows = encoded
    users = np.array([3, 9])

    batch = make_batch(rows, inputs, users, np.ones(len(rows.labels), dtype=np.bool_))

    for place, user in enumerate(users):
        mine = slice(int(rows.offsets[user]), int(rows.offsets[user + 1]))
        part = batch.pairs.user_of.numpy() == place
        np.testing.assert_array_equal(batch.pairs.codes[part], rows.inputs.columns.codes[mine])
        np.testing.assert_array_equal(batch.labels[part], rows.labels[mine])
        items = batch.items.columns.codes[batch.pairs.item_of.numpy()[part]]
        expected = rows.items.columns.codes[rows.inputs.item_of[mine]]
        np.testing.assert_array_equal(items, expected)


def test_a_sample_keeps_what_was_bought_and_some_of_the_rest(
    encoded: tuple[InputEncoder, Rows],
) -> None:
    rows = encoded[1]

    kept = sampled(rows, 3, np.random.default_rng(0))

    assert kept[rows.labels].all()
    others = np.bincount(rows.inputs.user_of, kept & ~rows.labels, minlength=len(rows))
    there = np.bincount(rows.inputs.user_of, ~rows.labels, minlength=len(rows))
    np.testing.assert_array_equal(others, np.minimum(there, 3))


def test_the_loss_is_the_cross_entropy_of_each_requests_softmax() -> None:
    logits = torch.tensor([1.0, 2.0, 0.0, 3.0, 1.0])
    labels = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    user_of = torch.tensor([0, 0, 0, 1, 1])
    first = log(exp(1) + exp(2) + exp(0))
    second = log(exp(3) + exp(1))
    requests = (first - 1 + first - 0) / 2, second - 3

    found = listwise_loss(logits, labels, user_of, torch.tensor([2.0, 0.5]))

    assert found.item() == pytest.approx(2 * requests[0] + 0.5 * requests[1], rel=1e-6)


def test_requests_weigh_alike_or_by_their_purchases() -> None:
    bought = np.array([2, 0, 1])

    assert request_weights(bought, 0.0).tolist() == [1.0, 0.0, 1.0]
    assert request_weights(bought, 1.0).tolist() == [2.0, 0.0, 1.0]


def test_a_request_without_a_purchase_adds_nothing_to_the_loss() -> None:
    logits = torch.tensor([1.0, 2.0, 5.0], requires_grad=True)

    labels, user_of = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0, 0, 1])
    loss = listwise_loss(logits, labels, user_of, torch.tensor([1.0, 0.0]))
    loss.backward()

    assert loss.item() == pytest.approx(log(exp(1) + exp(2)) - 1)
    assert logits.grad is not None
    assert logits.grad[2] == 0


def test_hits_follow_the_scores_of_each_request(encoded: tuple[InputEncoder, Rows]) -> None:
    rows = encoded[1]

    best = hits_of(rows, rows.labels.astype(np.float32), 3)

    bought = np.bincount(rows.inputs.user_of, rows.labels, minlength=len(rows)).astype(int)
    np.testing.assert_array_equal(best.sum(axis=1), np.minimum(bought, 3))
    assert (np.diff(best.astype(int), axis=1) <= 0).all()


def test_windows_are_joined_one_after_the_other(dataset: Dataset) -> None:
    first, second = make_window(), make_window(7)

    inputs, rows = encode_windows([first, second], NETWORK, dataset)

    assert len(rows) == shop.NUM_USERS + 7
    alone = second.encode(inputs)
    mine = slice(int(rows.offsets[shop.NUM_USERS]), int(rows.offsets[-1]))
    np.testing.assert_array_equal(rows.labels[mine], alone.labels)
    np.testing.assert_array_equal(rows.inputs.columns.codes[mine], alone.inputs.columns.codes)
    np.testing.assert_array_equal(
        rows.items.encoded.bags["brand"].values[rows.inputs.item_of[mine]],
        alone.items.encoded.bags["brand"].values[alone.inputs.item_of],
    )


def test_windows_of_other_sources_are_refused(dataset: Dataset) -> None:
    window = make_window()
    other = replace(window, candidates=replace(window.candidates, sources=("ann", "popular")))

    with pytest.raises(ConfigError, match="same sources"):
        encode_windows([window, other], NETWORK, dataset)


def test_candidates_of_chunks_are_those_of_all_at_once() -> None:
    users = shop.user_rows()
    parts = [shop.candidates(users.slice(start, 10)) for start in range(0, len(users), 10)]

    found, expected = joined(parts), shop.candidates(users)

    np.testing.assert_array_equal(found.offsets, expected.offsets)
    np.testing.assert_array_equal(found.item_row, expected.item_row)
    np.testing.assert_array_equal(found.rank, expected.rank)


def test_targets_leave_out_what_was_seen() -> None:
    users = shop.user_rows()
    every = targets_of(users, shop.vocabulary())

    new = targets_of(users, shop.vocabulary(), seen=[rows[:1] for rows in every])

    assert [rows.tolist() for rows in new] == [rows[1:].tolist() for rows in every]


def test_cut_points_are_found_on_as_many_bought_as_other_candidates() -> None:
    labels = np.zeros(100, dtype=np.bool_)
    labels[[5, 50, 98]] = True

    found = balanced_rows(labels)

    assert found[:3].tolist() == [5, 50, 98]
    assert len(found) == 6
    assert not labels[found[3:]].any()


def test_the_wide_side_reads_the_numeric_matrix_of_the_trained_columns(
    encoded: tuple[InputEncoder, Rows],
) -> None:
    inputs, rows = encoded
    window = make_window()
    values = numeric_matrix(window.requests(inputs.encoder, 56.0))

    assert values.shape == rows.inputs.columns.codes.shape
    assert inputs.numeric[Entity.PAIR].names[0] == "own_count"
    assert inputs.crosses.crosses[-1].features == ("segment", "brand")


def test_training_without_a_retriever_is_refused(dataset: Dataset, process: Process) -> None:
    made = config(dataset)
    assert isinstance(made.model, RankerModelConfig)

    with pytest.raises(ConfigError, match="needs retriever=DIR"):
        train(made, made.model, process)


@pytest.mark.parametrize(
    ("until", "reason"),
    [(None, "has no labels"), ("2020-10-15T00:00:00+00:00", "past the cut-off t2")],
)
def test_labels_from_the_cutoff_on_are_refused(
    dataset: Dataset, tmp_path: Path, until: str | None, reason: str
) -> None:
    write_json(tmp_path / "set.json", {"until": until})

    with pytest.raises(ConfigError, match=reason):
        require_labels(TrainingSet(tmp_path, shop.SCHEMA), dataset, before="t2")


def test_labels_that_end_at_the_cutoff_are_taken(dataset: Dataset, tmp_path: Path) -> None:
    write_json(tmp_path / "set.json", {"until": dataset.edges[2].isoformat()})

    require_labels(TrainingSet(tmp_path, shop.SCHEMA), dataset, before="t2")


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="no loss"):
        RankerModelConfig(listwise=0.0, pointwise=0.0)
    with pytest.raises(ConfigError, match="item_dropout"):
        RankerModelConfig(item_dropout=1.0)
    with pytest.raises(ConfigError, match="multiple of 4"):
        WideDeepConfig(bucket_dim=6)
