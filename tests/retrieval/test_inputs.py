"""The user tower's inputs: history weights as of now."""

from __future__ import annotations

from math import log, sqrt

import numpy as np
import pytest

from feature_repo.contract.dataset import IdType
from feature_repo.contract.encoding import Encoder
from feature_repo.contract.schema import Entity
from feature_repo.contract.vocabulary import Vocabulary
from retrieval.inputs import decayed_weights, encode_users, scaled
from tests.retrieval import shop

DAY_S = 86_400
LAST_S = int(shop.EDGES[0].timestamp())


def rows() -> list[dict[str, object]]:
    histories = ([101, 100, 999], [2.0, 1.0, 4.0], [LAST_S, LAST_S - 56 * DAY_S, LAST_S])
    empty: tuple[list[int], list[float], list[int]] = ([], [], [])
    return [
        {
            "user_id": user,
            "event_timestamp": shop.EDGES[0],
            "segment": None,
            "last_event_s": LAST_S,
            "history_item_id": items,
            "history_count": [1] * len(items),
            "history_weight": weights,
            "history_first_s": times,
            "history_last_s": times,
            "history_gap_sq": [0.0] * len(items),
            "history_gap_last": [0.0] * len(items),
            "target_item_id": [],
        }
        for user, (items, weights, times) in enumerate([histories, empty])
    ]


def encoder(history_length: int = 3) -> Encoder:
    items = Vocabulary.build([100, 101], IdType.INT64)
    users = Vocabulary.build([0, 1], IdType.INT64)
    table = shop.user_table(rows())
    return Encoder.fit(
        shop.SCHEMA, users, items, table, shop.item_table(shop.EDGES[0]), history_length
    )


def test_weights_decay_from_each_items_last_purchase() -> None:
    now_s = np.array([LAST_S + 56 * DAY_S, LAST_S])

    weights = decayed_weights(shop.user_table(rows()), now_s, 56.0, history_length=3)

    assert weights == pytest.approx([2.0 / 2, 1.0 / 4, 4.0 / 2])


def test_only_the_most_recent_items_are_read() -> None:
    table = shop.user_table(rows())

    weights = decayed_weights(table, np.array([LAST_S, LAST_S]), 56.0, history_length=1)

    assert weights == pytest.approx([2.0])


def test_each_bag_has_length_one() -> None:
    weights = scaled(np.array([3.0, 4.0, 2.0], np.float32), np.array([0, 2, 2, 3]))

    assert weights == pytest.approx([3 / 5, 4 / 5, 1.0])


def test_the_history_bag_is_weighed_by_the_logarithm() -> None:
    bag = encode_users(encoder(2), shop.user_table(rows()), None, 56.0).bags["history_item_id"]

    first, second = log(1 + 2.0), log(1 + 0.5)
    norm = sqrt(first**2 + second**2)
    assert bag.values.tolist() == [2, 1]
    assert bag.offsets.tolist() == [0, 2, 2]
    assert bag.weights == pytest.approx([first / norm, second / norm])


def test_other_features_are_as_the_encoder_makes_them() -> None:
    table, made = shop.user_table(rows()), encoder()

    ours = encode_users(made, table, None, 56.0)

    plain = made.encode(table, Entity.USER)
    assert ours.bags["segment"].values.tolist() == plain.bags["segment"].values.tolist()
    assert ours.dense.tolist() == plain.dense.tolist()
