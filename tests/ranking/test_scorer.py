"""A saved ranker scores as the network in memory, and refuses what does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from feature_repo.contract.artifacts import read_json, write_json
from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import ArtifactError, BadInput
from feature_repo.contract.schema import Entity
from feature_repo.contract.vocabulary import Vocabulary
from ranking.features import Requests
from ranking.inputs import InputEncoder
from ranking.items import ItemSide
from ranking.rankers import kind_of
from ranking.scorer import Member, Scorer
from tests.ranking import shop
from tests.ranking.made import DCN_V2, WIDE_DEEP, make_ranker, sign

Bundle = tuple[Path, InputEncoder, list[Member]]
Floats = np.ndarray[tuple[int], np.dtype[np.float32]]


@pytest.fixture(scope="module", params=[WIDE_DEEP, DCN_V2], ids=kind_of)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("ranker") / "bundle"
    return folder, *make_ranker(folder, request.param)


def by_hand(inputs: InputEncoder, member: Member, user: int) -> Floats:
    """A member's scores of one user's candidates, with all of each one's inputs side by side."""
    rows, network = shop.user_rows().slice(user, 1), member.network
    side = ItemSide.of(shop.item_rows(), shop.vocabulary(), inputs.encoder)
    requests = Requests.of(rows, shop.candidates(rows), np.array([shop.NOW_S]), side, shop.SCHEMA)
    encoded = inputs.encode(rows, requests)
    items = inputs.items(side).take(encoded.item_of)
    every = np.arange(len(items))
    pairs = inputs.pair_inputs(encoded.users, items, 0 * every, every, encoded.columns)
    sides = {Entity.USER: encoded.users, Entity.ITEM: items}
    users, own = (
        member.inputs_of(examples, inputs.keys(entity, WIDE_DEEP.without))
        for entity, examples in sides.items()
    )
    mine = torch.cat([users.pooled, network.user_numbers(users.codes, users.scores)], dim=1)
    beside = [
        mine.expand(len(items), -1),
        own.pooled,
        network.item_numbers(own.codes, own.scores),
        network.pair_numbers(pairs.codes, pairs.scores),
    ]
    layers = (network.user_layer, network.item_layer, network.pair_layer)
    weight = torch.cat([layer.weight for layer in layers], dim=1)
    projected = torch.cat(beside, dim=1) @ weight.T + network.user_layer.bias
    deep = network.head(network.body(projected))[:, 0]
    wide = network.wide.weight[pairs.wide].sum(dim=(1, 2))
    found: Floats = (deep + wide).detach().numpy()
    return found


def test_a_score_is_one_network_over_all_inputs_plus_the_wide_sum(bundle: Bundle) -> None:
    folder, inputs, (member,) = bundle
    rows = shop.user_rows()
    candidates = shop.candidates(rows)

    scores = Scorer.load(folder, shop.item_rows()).score(rows, candidates, shop.vocabulary())

    for user in (0, 3, shop.NUM_USERS - 1):
        np.testing.assert_allclose(
            scores[candidates.slice_of(user)], by_hand(inputs, member, user), rtol=1e-4, atol=1e-5
        )


def test_scores_do_not_depend_on_the_other_requests_of_a_batch(bundle: Bundle) -> None:
    scorer, rows = Scorer.load(bundle[0], shop.item_rows()), shop.user_rows()
    together = scorer.score(rows, shop.candidates(rows), shop.vocabulary())

    alone = [
        scorer.score(row, shop.candidates(row), shop.vocabulary())
        for row in (rows.slice(user, 1) for user in range(len(rows)))
    ]

    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-4, atol=1e-5)


def test_scores_follow_items_through_another_vocabulary(bundle: Bundle) -> None:
    scorer, rows = Scorer.load(bundle[0], shop.item_rows()), shop.user_rows()
    candidates, vocabulary = shop.candidates(rows), shop.vocabulary()
    ids = np.array(vocabulary.ids_of(candidates.item_row))
    more = Vocabulary.build(pa.array([1, 2, *range(100, 140)]), IdType.INT64)
    renamed = replace(candidates, item_row=more.rows(pa.array(ids)))

    scores = scorer.score(rows, candidates, vocabulary)

    np.testing.assert_allclose(scores, scorer.score(rows, renamed, more), rtol=1e-5, atol=1e-6)


def test_items_that_are_not_in_the_catalogue_are_scored_as_unknown(bundle: Bundle) -> None:
    rows = shop.user_rows()
    scorer = Scorer.load(bundle[0], shop.item_rows(3))

    assert np.isfinite(scorer.score(rows, shop.candidates(rows), shop.vocabulary())).all()


def test_nobody_gets_no_scores(bundle: Bundle) -> None:
    rows = shop.user_rows().slice(0, 0)
    scorer = Scorer.load(bundle[0], shop.item_rows())

    assert scorer.score(rows, shop.candidates(rows), shop.vocabulary()).shape == (0,)


def test_candidates_of_other_sources_are_refused(bundle: Bundle) -> None:
    scorer, rows = Scorer.load(bundle[0], shop.item_rows()), shop.user_rows()
    candidates = replace(shop.candidates(rows), sources=("buy_again", "ann"))

    with pytest.raises(BadInput, match=r"from \['buy_again', 'ann'\].*'popular'"):
        scorer.score(rows, candidates, shop.vocabulary())


def test_candidates_of_other_users_are_refused(bundle: Bundle) -> None:
    scorer, rows = Scorer.load(bundle[0], shop.item_rows()), shop.user_rows()

    with pytest.raises(BadInput, match="23 user rows for 24 requests"):
        scorer.score(rows.slice(1), shop.candidates(rows), shop.vocabulary())


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    make_ranker(tmp_path / "bundle")
    path = tmp_path / "bundle" / "ranker.json"
    path.write_text(path.read_text().replace('"dropout": 0.1', '"dropout": 0.2'))

    with pytest.raises(ArtifactError, match=r"ranker\.json does not match its hash"):
        Scorer.load(tmp_path / "bundle", shop.item_rows())


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    make_ranker(folder)
    saved = read_json(folder / "ranker.json")
    saved["config"]["hidden"] = [8, 5]
    write_json(folder / "ranker.json", saved)
    sign(folder)

    with pytest.raises(ArtifactError, match="does not hold this ranker's weights"):
        Scorer.load(folder, shop.item_rows())


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"kind": "xdeepfm"}, "ranker of kind 'xdeepfm'"),
        ({"kind": None}, "ranker of kind None"),
        ({"config": {"depth": 2}}, "settings are others"),
    ],
)
def test_another_kind_of_ranker_is_refused(
    tmp_path: Path, changed: dict[str, object], reason: str
) -> None:
    folder = tmp_path / "bundle"
    make_ranker(folder)
    write_json(folder / "ranker.json", {**read_json(folder / "ranker.json"), **changed})
    sign(folder)

    with pytest.raises(ArtifactError, match=f"{reason}.*Train it again"):
        Scorer.load(folder, shop.item_rows())


def test_the_score_is_the_mean_of_the_members(tmp_path: Path) -> None:
    inputs, members = make_ranker(tmp_path / "bundle", num_members=3)
    rows = shop.user_rows().slice(3, 1)
    candidates = shop.candidates(rows)

    scorer = Scorer.load(tmp_path / "bundle", shop.item_rows())
    scores = scorer.score(rows, candidates, shop.vocabulary())

    alone = [by_hand(inputs, member, 3) for member in members]
    assert float(np.std(alone, axis=0).min()) > 0
    np.testing.assert_allclose(scores, sum(alone) / 3, rtol=1e-4, atol=1e-5)


def test_a_ranker_without_a_calibration_has_no_probabilities(bundle: Bundle) -> None:
    scorer = Scorer.load(bundle[0], shop.item_rows())

    with pytest.raises(BadInput, match=r"train it with model\.calibration\.method"):
        scorer.probabilities(np.zeros(3, np.float32))
