"""Batches of requests with samples of their candidates."""

from __future__ import annotations

import numpy as np

from feature_repo.contract.dataset import Dataset
from feature_repo.contract.events import EventType
from ranking.inputs import InputEncoder
from tests.ranking import shop
from tests.trainer.ranker_shop import NETWORK, make_viewed
from trainer.ranker_batches import counts_of, hits_of, make_batch, sampled, wanted_in
from trainer.ranker_inputs import encode_windows
from trainer.ranker_rows import Rows


def test_a_batch_holds_its_users_own_candidates(encoded: tuple[InputEncoder, Rows]) -> None:
    inputs, rows = encoded
    users = np.array([3, 9])

    batch = make_batch(rows, inputs, users, np.ones(len(rows.labels), dtype=np.bool_))

    for place, user in enumerate(users):
        mine = slice(int(rows.offsets[user]), int(rows.offsets[user + 1]))
        part = batch.pairs.user_of.numpy() == place
        np.testing.assert_array_equal(batch.pairs.codes[part], rows.inputs.columns.codes[mine])
        np.testing.assert_array_equal(batch.labels[part][:, 0], rows.labels[mine])
        items = batch.items.columns.codes[batch.pairs.item_of.numpy()[part]]
        expected = rows.items.columns.codes[rows.inputs.item_of[mine]]
        np.testing.assert_array_equal(items, expected)


def test_a_sample_keeps_what_was_bought_and_some_of_the_rest(
    encoded: tuple[InputEncoder, Rows],
) -> None:
    rows = encoded[1]

    kept = sampled(rows, rows.labels, 3, np.random.default_rng(0))

    assert kept[rows.labels].all()
    others = np.bincount(rows.inputs.user_of, kept & ~rows.labels, minlength=len(rows))
    there = np.bincount(rows.inputs.user_of, ~rows.labels, minlength=len(rows))
    np.testing.assert_array_equal(others, np.minimum(there, 3))


def test_hits_follow_the_scores_of_each_request(encoded: tuple[InputEncoder, Rows]) -> None:
    rows = encoded[1]

    best = hits_of(rows, rows.labels.astype(np.float32), 3)

    bought = np.bincount(rows.inputs.user_of, rows.labels, minlength=len(rows)).astype(int)
    np.testing.assert_array_equal(best.sum(axis=1), np.minimum(bought, 3))
    assert (np.diff(best.astype(int), axis=1) <= 0).all()


def test_labels_are_those_of_each_event(ranker_dataset: Dataset) -> None:
    inputs, rows = encode_windows([make_viewed()], NETWORK, ranker_dataset)
    events = (EventType.PURCHASE, EventType.VIEW)
    wanted = wanted_in(rows, events)

    kept = sampled(rows, wanted, 1, np.random.default_rng(0))
    batch = make_batch(rows, inputs, np.arange(len(rows)), kept, events)

    assert kept[wanted].all()
    assert batch.labels.sum(dim=0).tolist() == [rows.labels.sum(), 2 * shop.NUM_USERS // 2]
    assert counts_of(rows, kept & ~wanted).tolist() == [1] * len(rows)
