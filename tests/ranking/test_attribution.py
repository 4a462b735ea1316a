"""What moved a candidate is exact for the wide side, and complete for the deep one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ranking.attribution import Explained, Reading, mean_gradient, summed_by, wide_effects
from ranking.crosses import Cross, Crosses
from ranking.network import Widths
from ranking.scorer import Scorer
from ranking.wide_deep import WideDeep, WideDeepConfig
from tests.ranking import shop
from tests.ranking.explained import USER, VOCABULARY, request_of, scorer_in
from tests.ranking.made import DCN_V2, WIDE_DEEP

CASES = {"wide_deep": (WIDE_DEEP, 1), "averaged": (WIDE_DEEP, 2), "dcn_v2": (DCN_V2, 1)}


@pytest.fixture(scope="module", params=CASES)
def scorer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    config, num_members = CASES[request.param]
    return scorer_in(tmp_path_factory.mktemp("ranker") / "bundle", config, num_members)


def deep_logits(explained: Explained, chosen: np.ndarray | None = None) -> np.ndarray:
    """The deep side's logits of the chosen candidates, or [1] of the mean one."""
    found = []
    for reading in explained.readings:
        inputs = reading.inputs_ND
        inputs = inputs.mean(0)[None] if chosen is None else inputs[chosen]
        found.append(deep_logit(reading, inputs))
    return np.asarray(np.mean(found, axis=0))


def deep_logit(reading: Reading, inputs: torch.Tensor) -> np.ndarray:
    """A member's logits of candidates with these inputs [N, D]."""
    network = reading.network
    weight = torch.cat([network.item_layer.weight, network.pair_layer.weight], dim=1)
    return np.asarray(network.deep(reading.user_H + inputs @ weight.T)[:, 0].detach())


def wide_logits(explained: Explained) -> tuple[np.ndarray, float]:
    """The wide side's logits of all candidates, and their mean."""
    weights = [reading.network.wide.weight.detach().numpy() for reading in explained.readings]
    logits = np.mean([each[explained.wide.numpy(), 0] for each in weights], axis=0).sum(axis=1)
    return logits, float(logits.mean())


def test_the_wide_part_is_exact(scorer: Scorer) -> None:
    _, explained = request_of(scorer)
    every = np.arange(len(explained.wide))

    wide = explained.effects(every).wide

    logits, mean = wide_logits(explained)
    assert float(np.abs(logits - mean).max()) > 0.1
    np.testing.assert_allclose(sum(wide.values()), logits - mean, rtol=1e-4, atol=1e-5)


def test_a_cross_is_shared_by_the_features_in_which_candidates_differ() -> None:
    moved = np.array([[1.0, 2.0, 4.0, 0.0], [0.0, -2.0, 0.0, 0.0]])
    crosses = [("a",), ("a", "b"), ("b", "user"), ("user",)]

    found = wide_effects(moved, crosses, frozenset({"user"}))

    assert sorted(found) == ["a", "b"]
    assert found["a"].tolist() == [1.0 + 2.0 / 2, -2.0 / 2]
    assert found["b"].tolist() == [2.0 / 2 + 4.0, -2.0 / 2]


def test_the_deep_part_sums_to_the_difference_of_logits(scorer: Scorer) -> None:
    for user in range(0, shop.NUM_USERS, 5):
        _, explained = request_of(scorer, user)
        every = np.arange(len(explained.wide))

        deep = explained.effects(every).deep

        want = deep_logits(explained, every) - deep_logits(explained)
        error = np.abs(sum(deep.values()) - want)
        assert float(np.abs(want).max()) > 0.1
        assert float(error.max()) < 0.02 * float(np.abs(want).max())


def test_all_parts_sum_to_the_score_above_that_of_the_mean_candidate(scorer: Scorer) -> None:
    rows = shop.user_rows().slice(USER, 1)
    scores = scorer.score(rows, shop.candidates(rows), VOCABULARY)
    _, explained = request_of(scorer)
    chosen = np.argsort(-scores)[:4]

    total = explained.effects(chosen).total

    mean = deep_logits(explained)[0] + wide_logits(explained)[1]
    np.testing.assert_allclose(sum(total.values()), scores[chosen] - mean, atol=0.05)


def test_the_mean_gradient_of_a_hinge_is_the_part_of_the_way_beyond_it() -> None:
    start, move = torch.tensor([[-1.0, 2.0]]), torch.tensor([[4.0, 1.0], [1.0, -1.0]])

    found = mean_gradient(nn.Sequential(nn.ReLU(), linear([[1.0, 10.0]])), start, move, steps=100)

    # From -1 by 4 the first unit is on for 3/4 of the way; from -1 by 1 it never is.
    assert found.tolist() == [[pytest.approx(3 / 4), 10.0], [0.0, 10.0]]


def linear(weight: list[list[float]]) -> nn.Linear:
    """A layer with these weights and no bias."""
    layer = nn.Linear(len(weight[0]), len(weight), bias=False)
    layer.weight.data = torch.tensor(weight)
    return layer


def made() -> Explained:
    """Two candidates of which "large" has two inputs that decide, and "small" one."""
    widths = Widths(4, 2, 0, 0, 1, 2, 2)
    model = WideDeep(WideDeepConfig(bucket_dim=4, hidden=[2], dropout=0.0), widths)
    model.item_layer = linear([[2.0, 1.0], [-1.0, 0.0]])
    model.pair_layer = linear([[0.1], [0.3]])
    model.head = linear([[1.0, -0.5]])
    model.wide.weight.data = torch.tensor([[0.25], [-0.75]])
    inputs = torch.tensor([[1.0, 2.0, 1.0], [-1.0, 0.0, 1.5]])
    crosses = Crosses((Cross(("small",), (2,), 0, 2),))
    owners = ("large", "large", "small")
    user = torch.tensor([[0.5, 0.5]])
    readings = (Reading(model, user, inputs),)
    return Explained(readings, crosses, frozenset(), owners, torch.tensor([[0], [1]]))


def test_without_its_largest_mover_a_candidate_moves_back() -> None:
    explained = made()
    deep = explained.effects(np.arange(2)).deep
    (reading,) = explained.readings
    inputs = reading.inputs_ND

    for candidate in range(2):
        largest = max(deep, key=lambda name: abs(deep[name][candidate]))
        mine = torch.tensor([owner == largest for owner in explained.owners])
        without = torch.where(mine, inputs.mean(0), inputs[candidate])[None]
        change = deep_logit(reading, without)[0] - deep_logit(reading, inputs)[candidate]

        assert largest == "large"
        assert change * deep[largest][candidate] < 0


def test_wide_and_deep_parts_of_a_feature_are_one() -> None:
    effects = made().effects(np.array([0]))

    # The mean of the weights 1/4 and -3/4 is -1/4.
    assert effects.wide["small"].tolist() == [0.25 - -0.25]
    assert effects.total["small"] == pytest.approx(0.5 + effects.deep["small"])
    assert effects.total["large"] == pytest.approx(effects.deep["large"])


def test_inputs_are_summed_by_the_feature_that_owns_them() -> None:
    found = summed_by(np.array([[1.0, 2.0, 4.0]]), ("a", "b", "a"))

    assert {name: values.tolist() for name, values in found.items()} == {"a": [5.0], "b": [2.0]}
