"""Reading training sets."""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.dataset import Dataset
from feature_repo.contract.encoding import Quantiles
from feature_repo.contract.errors import ArtifactError
from tests.retrieval import shop
from trainer.sets import TrainingSet, fit_encoder, target_counts


def test_a_set_is_found_by_edge_and_by_time(shop_dataset: Dataset) -> None:
    by_name = TrainingSet.open(shop_dataset, "retrieval_v1", "sessions", "t1")
    time = shop_dataset.edges[1].isoformat()

    assert TrainingSet.open(shop_dataset, "retrieval_v1", "sessions", time) == by_name


def test_of_two_sets_of_a_cutoff_that_whose_labels_reach_furthest_is_found(
    shop_dataset: Dataset, tmp_path: Path
) -> None:
    made = TrainingSet.open(shop_dataset, "retrieval_v1", "sessions", "t1").folder
    dataset = replace(shop_dataset, root=tmp_path)
    by_time = f"retrieval_v1-sessions-{dataset.edge('t1'):%Y%m%dT%H%M%SZ}"
    first, second = (datetime(2020, 1, day, tzinfo=UTC) for day in (1, 8))
    for name in (made.name, by_time):
        shutil.copytree(made, dataset.sets / name)

    def found(named: datetime | None, timed: datetime | None, until: datetime | None) -> str:
        for name, last in ((made.name, named), (by_time, timed)):
            text = json.dumps({"until": None if last is None else last.isoformat()})
            (dataset.sets / name / "set.json").write_text(text)
        opened = TrainingSet.open(dataset, "retrieval_v1", "sessions", "t1", until=until)
        return opened.folder.name

    assert found(None, first, None) == made.name
    assert found(None, first, first) == by_time
    assert found(first, second, second) == by_time
    assert found(first, second, first) == made.name
    assert found(None, second, first) == made.name


def test_a_missing_set_names_the_command_that_makes_it(shop_dataset: Dataset) -> None:
    with pytest.raises(ArtifactError, match="training-set data=shop service=retrieval_v1"):
        TrainingSet.open(shop_dataset, "retrieval_v1", "sessions", "t0")


def test_a_missing_column_is_named(shop_dataset: Dataset) -> None:
    sessions = TrainingSet.open(shop_dataset, "retrieval_v1", "sessions", "t1")

    with pytest.raises(ArtifactError, match="lacks \\['colour'\\]"):
        next(sessions.chunks(["user_id", "colour"]))


def test_items_of_few_buyers_get_no_row(shop_dataset: Dataset) -> None:
    sessions = TrainingSet.open(shop_dataset, "retrieval_v1", "sessions", "t1")
    buyers = defaultdict(set)
    for (user, time), items in shop.baskets().items():
        if time < shop_dataset.edges[1]:
            for item in items:
                buyers[item].add(user)

    encoder = fit_encoder(sessions, shop_dataset, min_buyers=9, history_length=5)

    assert encoder.items.ids.to_pylist() == sorted(i for i in buyers if len(buyers[i]) >= 9)
    assert len(encoder.users) == shop.NUM_USERS
    assert encoder.history_length == 5


def test_a_shop_without_repeated_items_is_told_what_to_do(shop_dataset: Dataset) -> None:
    sessions = TrainingSet.open(shop_dataset, "retrieval_v1", "sessions", "t1")

    with pytest.raises(ArtifactError, match=r"lower model\.min_buyers"):
        fit_encoder(sessions, shop_dataset, min_buyers=1_000, history_length=5)


def test_targets_are_counted_by_the_rows_of_their_items(shop_dataset: Dataset) -> None:
    sessions = TrainingSet.open(shop_dataset, "retrieval_v1", "sessions", "t1")
    items = fit_encoder(sessions, shop_dataset, 9, 5).items

    counts = target_counts(sessions, items)

    expected = Counter(
        item
        for (_, time), items_ in shop.baskets().items()
        if time < shop_dataset.edges[1]
        for item in items_
    )
    known = items.ids.to_pylist()
    assert counts[1:].tolist() == [expected[item] for item in known]
    assert counts[0] == sum(expected.values()) - counts[1:].sum() > 0


def test_an_encoder_that_is_started_from_keeps_its_rows_and_its_quantiles(
    shop_dataset: Dataset,
) -> None:
    sessions = TrainingSet.open(shop_dataset, "retrieval_v1", "sessions", "t1")
    base = fit_encoder(sessions, shop_dataset, 9, 5)
    base = replace(base, quantiles=Quantiles(dict.fromkeys(base.quantiles.edges, np.ones(1, "f4"))))

    grown = fit_encoder(sessions, shop_dataset, 1, 7, base)

    before = base.items.ids.to_pylist()
    assert grown.items.ids.to_pylist()[: len(before)] == before
    assert len(grown.items) == shop.NUM_ITEMS > len(before)
    assert grown.quantiles == base.quantiles
    assert grown.history_length == 7


def broken(dataset: Dataset, folder: Path) -> TrainingSet:
    """A set whose third row group has a damaged page."""
    sessions = TrainingSet.open(dataset, "retrieval_v1", "sessions", "t1")
    shutil.copytree(sessions.folder, folder)
    data = bytearray(sessions.path.read_bytes())
    column = sessions.users.metadata.row_group(2).column(0)
    start, size = column.data_page_offset, column.total_compressed_size
    data[start + size // 2 : start + size // 2 + 8] = b"\xff" * 8
    (folder / "users.parquet").write_bytes(data)
    return TrainingSet(folder, sessions.schema)


def test_a_broken_row_group_is_named(shop_dataset: Dataset, tmp_path: Path) -> None:
    sessions = broken(shop_dataset, tmp_path / "set")

    with pytest.raises(ArtifactError, match=r"Row group 2 of .*users\.parquet cannot be read"):
        fit_encoder(sessions, shop_dataset, 1, 5)


def test_a_truncated_or_foreign_file_is_named(shop_dataset: Dataset, tmp_path: Path) -> None:
    sessions = TrainingSet.open(shop_dataset, "retrieval_v1", "sessions", "t1")
    for content in (sessions.path.read_bytes()[:-100], b"user_id,item_id\n1,2\n"):
        (tmp_path / "users.parquet").write_bytes(content)

        with pytest.raises(ArtifactError, match=r"has no whole users\.parquet"):
            TrainingSet(tmp_path, sessions.schema).group_sizes()
