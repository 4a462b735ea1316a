"""Sessions as batches: shared among processes, shuffled, and marked as new or repeated."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from feature_repo.contract.columns import list_column
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.encoding import Bag, query_times_s
from trainer.data import SessionBatch, SessionReader, _known
from trainer.distributed import Process
from trainer.sets import TrainingSet, fit_encoder


def reader(
    dataset: Dataset, rank: int = 0, world_size: int = 1, **settings: int | bool
) -> SessionReader:
    sessions = TrainingSet.open(dataset, "retrieval_v1", "sessions", "t1")
    chosen = {"batch_size": 10, "seed": 3, "cache": True, "shuffle_rows": 100, **settings}
    return SessionReader(
        sessions,
        fit_encoder(sessions, dataset, 1, 50),
        Process(rank, world_size, rank, torch.device("cpu")),
        half_life_days=56.0,
        **chosen,  # type: ignore[arg-type]
    )


def keys(batches: list[SessionBatch]) -> list[tuple[int, ...]]:
    """Something that tells sessions apart: the user and the items."""
    return [
        (int(batch.users.bags["user_id"].values[row]), *batch.targets.take(np.array([row])).values)
        for batch in batches
        for row in range(len(batch))
    ]


def test_an_epoch_shows_every_session_once(shop_dataset: Dataset) -> None:
    made = reader(shop_dataset)

    batches = list(made.batches(0, 0))

    total = made.sessions.users.metadata.num_rows
    assert len(batches) == made.num_batches() == -(-total // 10)
    assert {len(batch) for batch in batches} <= {8, 9, 10, 11}
    assert sum(map(len, batches)) == total


def test_epochs_show_the_same_sessions_in_another_order(shop_dataset: Dataset) -> None:
    made = reader(shop_dataset)

    first, second = keys(list(made.batches(0, 0))), keys(list(made.batches(1, 0)))

    assert first != second
    assert Counter(first) == Counter(second)


def test_an_epoch_is_the_same_whenever_it_is_read(shop_dataset: Dataset) -> None:
    cached, fresh = reader(shop_dataset), reader(shop_dataset, cache=False)
    list(cached.batches(0, 0))

    assert keys(list(cached.batches(1, 0))) == keys(list(fresh.batches(1, 0)))


@pytest.mark.parametrize("world_size", [2, 3, 7])
@pytest.mark.parametrize("streams", [1, 4, 100])
def test_processes_share_the_batches_of_one(
    shop_dataset: Dataset, world_size: int, streams: int
) -> None:
    alone = list(reader(shop_dataset, streams=streams).batches(1, 0))

    shares = [
        list(reader(shop_dataset, rank, world_size, streams=streams).batches(1, 0))
        for rank in range(world_size)
    ]

    for whole, *parts in zip(alone, *shares, strict=True):
        assert [key for part in parts for key in keys([part])] == keys([whole])
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert [part.first for part in parts] == np.cumsum([0, *sizes])[:-1].tolist()
        assert {part.total for part in parts} == {len(whole)}


def test_a_process_reads_the_row_groups_of_its_streams_only(shop_dataset: Dataset) -> None:
    shares = [reader(shop_dataset, rank, 2, streams=4) for rank in range(2)]

    for share in shares:
        list(share.batches(0, 0))

    groups = [set(share._chunks) for share in shares]
    both = groups[0] & groups[1]
    assert groups[0] | groups[1] == set(range(shares[0].sessions.users.num_row_groups))
    assert len(both) < len(groups[0] | groups[1])


def test_an_epoch_can_be_entered_anywhere(shop_dataset: Dataset) -> None:
    made = reader(shop_dataset, shuffle_rows=64, streams=2)

    assert keys(list(made.batches(2, 7))) == keys(list(made.batches(2, 0))[7:])


def test_targets_that_were_bought_before_are_marked(shop_dataset: Dataset) -> None:
    made = reader(shop_dataset)
    table = made.sessions.users.read_row_group(1, columns=made.columns)

    batch = made._encode(table)

    histories, offsets = list_column(table, "history_item_id")
    for row in range(len(table)):
        mine = histories[offsets[row] : offsets[row + 1]].to_pylist()
        targets = batch.targets.take(np.array([row]))
        ids = made.encoder.items.ids_of(targets.values)
        assert targets.weights is not None
        assert targets.weights.tolist() == [float(item not in mine) for item in ids]


def test_unknown_targets_are_dropped() -> None:
    targets = Bag(np.array([4, 0, 5, 0]), np.array([0, 3, 4]))
    history = Bag(np.array([5, 4]), np.array([0, 1, 2]))

    found = _known(targets, history)

    assert found.values.tolist() == [4, 5]
    assert found.offsets.tolist() == [0, 2, 2]
    assert found.weights is not None
    assert found.weights.tolist() == [1.0, 0.0]


def test_sessions_before_a_time_are_left_out(shop_dataset: Dataset) -> None:
    since_s = int(shop_dataset.edges[0].timestamp())
    sessions = TrainingSet.open(shop_dataset, "retrieval_v1", "sessions", "t1")
    times = [query_times_s(chunk) for chunk in sessions.chunks(["event_timestamp"])]
    expected = int((np.concatenate(times) >= since_s).sum())

    made = reader(shop_dataset, since_s=since_s)

    assert sum(map(len, made.batches(0, 0))) == expected
    assert made.num_batches() == -(-expected // 10)
