"""A saved ranker scores as the network in memory, and refuses what does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from feature_repo.contract.artifacts import read_json, write_json, write_manifest
from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import ArtifactError, BadInput
from feature_repo.contract.schema import Entity
from feature_repo.contract.tables import TableFile, TableForm, Tables
from feature_repo.contract.vocabulary import Vocabulary
from ranking.features import Requests, numeric_matrix
from ranking.inputs import InputEncoder, Side
from ranking.items import ItemSide
from ranking.scorer import Scorer, write_network
from ranking.wide_deep import Numbers, WideDeep, WideDeepConfig
from tests.ranking import shop

CONFIG = WideDeepConfig(
    id_dim=4,
    feature_dim=4,
    bucket_dim=4,
    hidden=[8, 4],
    crosses=[
        ["own_weight", "own_due"],
        ["segment", "brand"],
        ["own_count", "sessions_decayed", "price"],
    ],
    max_cross_rows=200,
)


def make_ranker(folder: Path) -> tuple[InputEncoder, WideDeep, Tables]:
    """Write a bundle of random weights."""
    random = np.random.default_rng(5)
    torch.manual_seed(5)
    encoder = shop.encoder()
    rows = shop.user_rows()
    side = ItemSide.of(shop.item_rows(), shop.vocabulary(), encoder)
    now_s = np.full(len(rows), shop.NOW_S)
    requests = Requests.of(rows, shop.candidates(rows), now_s, side, shop.SCHEMA)
    values = numeric_matrix(requests)
    inputs = InputEncoder.fit(encoder, requests, values, np.arange(len(values)), CONFIG)
    specs = encoder.tables()
    (folder / "tables").mkdir(parents=True)
    for spec in specs:
        file = TableFile.create(folder / "tables", spec.name, spec.num_rows, 4, TableForm.fp32)
        file.write(0, 0, random.normal(size=(spec.num_rows, 4)).astype(np.float32))
        file.flush()
    owners = {feature: spec.name for spec in specs for feature in spec.features}
    write_json(folder / "tables" / "tables.json", owners)
    tables = Tables.load(folder / "tables")
    widths = inputs.widths(CONFIG.without, dict.fromkeys(tables.table_of, 4))
    model = WideDeep(CONFIG, widths).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    write_network(folder, inputs, CONFIG, widths, model)
    write_manifest(folder, "ranker", {"sources": list(shop.SOURCES), "half_life_days": 56.0})
    return inputs, model, tables


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, InputEncoder, WideDeep, Tables]:
    folder = tmp_path_factory.mktemp("ranker") / "bundle"
    return folder, *make_ranker(folder)


Bundle = tuple[Path, InputEncoder, WideDeep, Tables]


def by_hand(bundle: Bundle, user: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Scores of one user's candidates, with all of each candidate's inputs side by side."""
    _, inputs, model, tables = bundle
    rows = shop.user_rows().slice(user, 1)
    side = ItemSide.of(shop.item_rows(), shop.vocabulary(), inputs.encoder)
    requests = Requests.of(rows, shop.candidates(rows), np.array([shop.NOW_S]), side, shop.SCHEMA)
    encoded = inputs.encode(rows, requests)
    items = inputs.items(side).take(encoded.item_of)
    every = np.arange(len(items))
    pairs = inputs.pair_inputs(encoded.users, items, 0 * every, every, encoded.columns)

    def features(entity: Entity, examples: Side, numbers: Numbers) -> torch.Tensor:
        keys = inputs.keys(entity, CONFIG.without)
        pooled = [torch.from_numpy(tables.pooled(k, examples.encoded.bags[k])) for k in keys]
        codes = torch.from_numpy(examples.columns.codes.astype(np.int64))
        return torch.cat([*pooled, numbers(codes, torch.from_numpy(examples.columns.scores))], 1)

    beside = [
        features(Entity.USER, encoded.users, model.user_numbers).expand(len(items), -1),
        features(Entity.ITEM, items, model.item_numbers),
        model.pair_numbers(pairs.codes, pairs.scores),
    ]
    layers = (model.user_layer, model.item_layer, model.pair_layer)
    weight = torch.cat([layer.weight for layer in layers], dim=1)
    hidden = torch.cat(beside, dim=1) @ weight.T + model.user_layer.bias
    deep = model.rest(hidden).squeeze(1)
    wide = model.wide.weight[pairs.wide].sum(dim=(1, 2))
    found: np.ndarray[tuple[int], np.dtype[np.float32]] = (deep + wide).detach().numpy()
    return found


def test_a_score_is_one_network_over_all_inputs_plus_the_wide_sum(bundle: Bundle) -> None:
    rows = shop.user_rows()
    candidates = shop.candidates(rows)

    scores = Scorer.load(bundle[0], shop.item_rows()).score(rows, candidates, shop.vocabulary())

    for user in (0, 3, shop.NUM_USERS - 1):
        np.testing.assert_allclose(
            scores[candidates.slice_of(user)], by_hand(bundle, user), rtol=1e-4, atol=1e-5
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
    write_manifest(folder, "ranker", {"sources": list(shop.SOURCES), "half_life_days": 56.0})

    with pytest.raises(ArtifactError, match="does not hold this ranker's weights"):
        Scorer.load(folder, shop.item_rows())
