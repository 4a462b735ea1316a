"""The benchmark of click prediction, on a made-up shop of films in GroupLens' files."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import _report, ctr
from benchmarks._ctr_data import Ctr, read_ctr, split
from benchmarks._ctr_models import CrossShape, Fm, OneHot, Rows, Shape, make_model
from benchmarks._ctr_training import predict, train
from feature_repo.contract.artifacts import read_json
from feature_repo.contract.errors import BadInput

NUM_USERS, NUM_FILMS = 20, 12
FIELDS = ctr.FIELDS["ids"]


def rating(user: int, film: int) -> int:
    """Users like the films of their own half, and have no view of every tenth one."""
    if (user + film) % 10 == 0:
        return 3
    return 5 - film % 2 if (user <= NUM_USERS / 2) == (film <= NUM_FILMS / 2) else 1 + film % 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All users rate all films."""
    found = tmp_path_factory.mktemp("ml")
    users = range(1, NUM_USERS + 1)
    films = range(1, NUM_FILMS + 1)
    genres = ["Drama", "Comedy|Drama", "Action"]
    files = {
        "users": [f"{user}::{'FM'[user % 2]}::25::{user % 4}::{user % 5:05}" for user in users],
        "movies": [
            f"{film}::Caf\xe9 {film} ({1950 + 3 * film})::{genres[film % 3]}" for film in films
        ],
        "ratings": [f"{user}::{film}::{rating(user, film)}::9" for user in users for film in films],
    }
    for name, lines in files.items():
        text = "".join(f"{line}\n" for line in lines)
        (found / f"{name}.dat").write_text(text, encoding="ISO-8859-1")
    return found


@pytest.fixture(scope="module")
def data(folder: Path) -> Ctr:
    """The films, read."""
    return read_ctr(folder)


def test_ratings_of_three_are_left_out_and_the_others_split_by_tenths(data: Ctr) -> None:
    parts = data.train, data.validation, data.test
    pairs = {
        (int(u), int(i)): label
        for part in parts
        for u, i, label in zip(part.user, part.item, part.label, strict=True)
    }
    every = itertools.product(range(1, NUM_USERS + 1), range(1, NUM_FILMS + 1))

    kept = {pair: rating(*pair) for pair in every if rating(*pair) != 3}
    assert pairs == {pair: float(value > 3) for pair, value in kept.items()}
    tenths = [int(len(kept) * share) for share in (0.8, 0.9, 1.0)]
    assert np.cumsum([len(part) for part in parts]).tolist() == tenths


def test_the_split_is_that_of_autoint() -> None:
    order = list(range(50))
    random.seed(2019)
    random.shuffle(order)

    train_places, validation, test = split(50)

    assert [*train_places, *validation, *test] == order
    assert (len(validation), len(test)) == (5, 5)


def test_films_have_genres_and_the_span_of_their_year(data: Ctr) -> None:
    codes = data.items.codes

    # action, comedy and drama are 1, 2 and 3
    assert codes["genres"][1:4].tolist() == [[2, 3, 0, 0, 0, 0], [1] + [0] * 5, [3] + [0] * 5]
    years = codes["year"][1:]
    assert years[0] == years[2]  # 1953 and 1959
    assert years[2] != years[3]  # 1959 and 1962
    assert len(set(years[6:])) == NUM_FILMS - 6  # from 1971 on each has its own


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"users\.dat cannot be read"):
        read_ctr(tmp_path)


def test_a_factorisation_machine_adds_the_products_of_all_pairs_of_vectors(data: Ctr) -> None:
    torch.manual_seed(0)
    model = make_model(data, FIELDS, Shape(dim=4))
    assert isinstance(model, Fm)
    with torch.no_grad():
        model.weights.weight.normal_()
        model.bias.fill_(0.5)
    rows = Rows(torch.tensor([3]), torch.tensor([7]))

    with torch.no_grad():
        logits, length = model(rows)

    vectors = torch.cat([model.user_vectors(rows.user), model.item_vectors(rows.item)], dim=1)[
        0
    ].detach()
    pairs = sum(float(a @ b) for a, b in itertools.combinations(vectors, 2))
    linear = model.weights.weight[model.one_hot(rows)[0]].sum().item()
    assert logits.item() == pytest.approx(0.5 + linear + pairs, rel=1e-5)
    assert length.item() == pytest.approx(sum(float(v @ v) for v in vectors), rel=1e-5)


def test_every_code_has_a_row_of_its_own(data: Ctr) -> None:
    one_hot = OneHot(data, ("gender", "item_id", "genres"))

    found = one_hot(Rows(torch.tensor([1, 2]), torch.tensor([3, 3])))

    codes = data.users.codes["gender"], data.items.codes["item_id"], data.items.codes["genres"]
    starts = [0, 3, 3 + NUM_FILMS + 1]  # 0 included, two genders, then the films
    for row, user in zip(found.tolist(), (1, 2), strict=True):
        genres = [int(code) + starts[2] for code in codes[2][3]]
        assert row == [int(codes[0][user]), int(codes[1][3]) + starts[1], *genres]
    assert one_hot.num_rows == starts[2] + 1 + 3


@pytest.mark.parametrize("name", list(ctr.RECIPES))
def test_a_model_learns_who_likes_what(data: Ctr, name: str) -> None:
    recipe = replace(ctr.RECIPES[name], batch_size=64, epochs=15, patience=15, learning_rate=0.03)
    seen = replace(data, validation=data.train)

    found = train(seen, FIELDS, recipe, 0, data.train)

    assert found.validation.auc > 0.95
    assert ((found.predicted > 0.5) == (data.train.label > 0.5)).mean() > 0.9


def test_the_epoch_with_the_smallest_loss_on_validation_is_kept(data: Ctr) -> None:
    rng = np.random.default_rng(0)
    noise = (rng.random(len(data.train)) < 0.5).astype(np.float32)
    nothing_to_learn = replace(data, train=replace(data.train, label=noise))
    recipe = replace(ctr.RECIPES["fm"], batch_size=64, learning_rate=0.2, l2=0.0, epochs=6)

    found = train(nothing_to_learn, FIELDS, recipe, 0, data.test)
    stopped = train(nothing_to_learn, FIELDS, replace(recipe, epochs=found.epochs), 0, data.test)

    assert found.epochs < 6
    np.testing.assert_array_equal(found.predicted, stopped.predicted)


def test_nothing_is_dropped_when_a_model_predicts(data: Ctr) -> None:
    torch.manual_seed(0)
    model = make_model(data, FIELDS, CrossShape(dropout=0.5))

    first, second = predict(model, data.test), predict(model, data.test)

    np.testing.assert_array_equal(first, second)


def test_rows_are_printed_beside_published_ones_and_kept(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(_report, "RESULTS", tmp_path)
    monkeypatch.setitem(ctr.RECIPES, "fm", replace(ctr.RECIPES["fm"], epochs=2))
    settings = [f"ml1m={folder}", "models=[fm]", "fields=[attributes]", "seeds=[0,1]"]

    assert ctr.main(settings) == 0

    rows = {row["model"]: row for row in read_json(tmp_path / "ctr.json")["rows"]}
    assert rows["AutoInt"]["source"].startswith("published")
    mean = rows["shoprec FM"]
    assert 0 < mean["auc"] < 1
    assert mean["auc_deviation"] > 0
    assert mean["source"] == "mean of 2 seeds"
    assert "mean of the predictions" in rows["shoprec FM, averaged"]["source"]
    assert "| shoprec FM, averaged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([], "ml1m=DIR"),
        (["ml1m=x", "models=[svm]"], "models must be of"),
        (["ml1m=x", "split=train"], "split must be validation or test"),
    ],
)
def test_a_mistake_is_told(
    settings: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ctr.main(settings) == 1
    assert said in capsys.readouterr().err
