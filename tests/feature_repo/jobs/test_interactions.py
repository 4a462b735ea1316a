"""Benchmarks' id-only files as sets: what is read, how it is split, and that nothing leaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import BadInput, ConfigError
from feature_repo.jobs.cli import main
from feature_repo.jobs.config import (
    InteractionFormat,
    InteractionsConfig,
    JobConfig,
    load_config,
)
from feature_repo.jobs.ingest import ingest
from feature_repo.jobs.interaction_files import Interactions, read_interactions
from feature_repo.jobs.interactions import (
    START,
    by_user,
    fold_rows,
    make_interactions,
    parts,
    validation,
)
from trainer.sets import TrainingSet

TRAIN = "1 10 11 12 13 14 15 16 17 18 19\n2 10 12 20 21 22\n3 11 20\n4 30\n"
TEST = "1 20 21\n2 30 99\n3 10\n"


def written(folder: Path, train: str = TRAIN, test: str = TEST) -> list[str]:
    (folder / "train.txt").write_text(train)
    (folder / "test.txt").write_text(test)
    return [
        "data=interactions",
        "data.name=bench",
        f"data.root={folder / 'bench'}",
        f"data.train={folder / 'train.txt'}",
        f"data.test={folder / 'test.txt'}",
    ]


def made(folder: Path, *more: str, train: str = TRAIN, test: str = TEST) -> Dataset:
    overrides = [*written(folder, train, test), *more]
    return make_interactions(load_config(InteractionsConfig, overrides))


def rows_of(dataset: Dataset, kind: str, cutoff: str) -> list[dict[str, Any]]:
    service = "retrieval_v1" if kind == "sessions" else "ranking_v1"
    folder = TrainingSet.open(dataset, service, kind, cutoff).folder
    found: list[dict[str, Any]] = pq.read_table(folder / "users.parquet").to_pylist()
    return found


def test_a_day_holds_a_part_and_the_cut_offs_lie_between(tmp_path: Path) -> None:
    dataset = made(tmp_path)

    counts = dataset.counts
    assert (counts["fit"], counts["validation"], counts["test"]) == (18 - 2, 1 + 1, 5)
    times = pq.read_table(dataset.canonical / "events.parquet").column("event_timestamp")
    before = [sum(time < edge for time in times.to_pylist()) for edge in dataset.edges]
    assert before == [0, 16, 18, 18 + 5]


def test_cut_off_t1_is_judged_on_validation_and_t2_on_test(tmp_path: Path) -> None:
    dataset = made(tmp_path)
    train = {int(line.split()[0]): set(map(int, line.split()[1:])) for line in TRAIN.splitlines()}

    first = {row["user_id"]: row for row in rows_of(dataset, "users", "t1")}
    second = {row["user_id"]: row for row in rows_of(dataset, "users", "t2")}

    for user, items in train.items():
        history, later = (set(first[user][name]) for name in ("history_item_id", "target_item_id"))
        assert history | later == items
        assert not history & later
        assert set(second[user]["history_item_id"]) == items
    assert len(first[1]["target_item_id"]) == 1  # of 10 items, a tenth
    assert len(first[2]["target_item_id"]) == 1  # of 5, at least one
    assert first[3]["target_item_id"] == []  # of 2, none
    assert second[1]["target_item_id"] == [20, 21]
    assert second[2]["target_item_id"] == [30, 99]
    assert second[4]["target_item_id"] == []


def test_every_item_is_a_target_once_and_never_in_its_own_history(tmp_path: Path) -> None:
    rows = rows_of(made(tmp_path, "folds=3"), "sessions", "t2")

    targets: dict[int, list[int]] = {}
    for row in rows:
        assert not set(row["history_item_id"]) & set(row["target_item_id"])
        targets.setdefault(row["user_id"], []).extend(row["target_item_id"])
    assert sorted(targets[1]) == list(range(10, 20))
    assert sorted(targets[2]) == [10, 12, 20, 21, 22]
    assert [len(r["history_item_id"]) for r in rows if r["user_id"] == 3] == [1, 1]
    assert [r["history_item_id"] for r in rows if r["user_id"] == 4] == [[]]
    assert len(rows) == 3 + 3 + 2 + 1


def test_items_carry_the_items_of_the_same_buyers_before_the_cut_off(tmp_path: Path) -> None:
    dataset = made(tmp_path, "neighbours=3")

    found = TrainingSet.open(dataset, "retrieval_v1", "sessions", "t2").items.to_pylist()
    near = {row["item_id"]: row["co_bought_item_id"] for row in found}
    assert near[30] == []
    assert near[11]
    assert set(near[11]) <= {10, *range(12, 21)}
    assert all(
        sum(row["co_bought_weight"]) == pytest.approx(1) for row in found if near[row["item_id"]]
    )
    without = TrainingSet.open(made(tmp_path, "neighbours=0"), "retrieval_v1", "sessions", "t2")
    assert without.items.column_names == ["item_id", "event_timestamp"]
    assert [feature.name for feature in without.schema.features] == ["history_item_id"]


def test_one_fold_makes_all_items_history_and_targets(tmp_path: Path) -> None:
    rows = rows_of(made(tmp_path, "folds=1"), "sessions", "t2")

    assert sorted(row["user_id"] for row in rows) == [1, 2, 3, 4]
    for row in rows:
        assert sorted(row["history_item_id"]) == sorted(row["target_item_id"])
        assert len(row["history_weight"]) == len(row["target_item_id"])
    assert sorted(rows[0]["target_item_id"]) == sorted(
        int(item) for item in TRAIN.splitlines()[rows[0]["user_id"] - 1].split()[1:]
    )


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=8), folds=st.integers(1, 10))
def test_folds_are_of_nearly_one_size_whatever_a_user_has(counts: list[int], folds: int) -> None:
    user = np.repeat(np.arange(len(counts)), counts)
    users = by_user(Interactions(user, np.arange(len(user))), seed=0)
    num_folds = np.minimum(users.counts, folds)

    rows = fold_rows(users, num_folds, np.arange(len(users)), START).to_pylist()

    for row in rows:
        size = counts[row["user_id"]]
        assert len(row["target_item_id"]) in (
            size // min(size, folds),
            -(-size // min(size, folds)),
        )
        both = sorted(row["history_item_id"] + row["target_item_id"])
        assert both == np.flatnonzero(user == row["user_id"]).tolist()
        assert len(row["history_weight"]) == len(row["history_item_id"])
    found = sorted(item for row in rows for item in row["target_item_id"])
    assert found == list(range(len(user)))


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=20), seed=st.integers(0, 5))
def test_each_user_validates_the_share_asked_for(counts: list[int], seed: int) -> None:
    user = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))

    chosen = validation(user, 0.2, 4, seed)

    for number, count in enumerate(counts):
        expected = max(1, round(0.2 * count)) if count >= 4 else 0
        assert chosen[user == number].sum() == expected
    assert (validation(user, 0.2, 4, seed) == chosen).all()


@given(counts=st.lists(st.integers(1, 5), max_size=30), group_rows=st.integers(1, 12))
def test_row_groups_cover_all_users_and_are_bounded(counts: list[int], group_rows: int) -> None:
    found = list(parts(np.array(counts, dtype=np.int64), group_rows))

    assert [user for start, stop in found for user in range(start, stop)] == list(
        range(len(counts))
    )
    assert all(sum(counts[start:stop]) < group_rows + 5 for start, stop in found)


def test_ratings_of_triples_go_into_events_and_beside_their_targets(tmp_path: Path) -> None:
    train = "".join(f"1 {item} {item % 5 + 1} 978300000\n" for item in range(6))
    dataset = made(tmp_path, "data.format=triples", train=train, test="1 9 2.5 978300001\n")

    events = pq.read_table(dataset.canonical / "events.parquet").to_pylist()
    assert {row["item_id"]: row["rating"] for row in events if row["item_id"] < 9} == {
        item: item % 5 + 1 for item in range(6)
    }
    for row in rows_of(dataset, "sessions", "t2"):
        assert len(row["target_item_id"]) == 6
        assert row["target_rating"] == [item % 5 + 1 for item in row["target_item_id"]]


def test_what_cannot_be_judged_is_dropped_and_counted(tmp_path: Path) -> None:
    dataset = made(tmp_path, test="1 20 20 10\n7 10\n")

    counts = dataset.counts
    assert counts["test"] == 1
    assert (counts["test_duplicates"], counts["test_in_train"]) == (1, 1)
    assert counts["test_without_train"] == 1
    assert made(tmp_path, train=TRAIN + "4 30\n").counts["train_duplicates"] == 1


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        ("1 2 3\n2 x\n", r"Line 2 of .*train.txt is malformed \(invalid literal .*'2 x'"),
        ("1 2\n2 99999999999999999999\n", "Line 2 .* is not a 64-bit integer"),
        ("\n\n", "holds no interaction"),
        ("1\n2\n", "holds no interaction"),
        ("8 1 2\n9 1\n", "No pair of data.test=.* can be judged"),
    ],
)
def test_a_bad_file_is_a_sentence(tmp_path: Path, train: str, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        made(tmp_path, train=train)
    assert not (tmp_path / "bench" / "dataset.json").exists()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [("1 2", "expected user, item and rating, got 2"), ("1 2 nan", "not a finite number")],
)
def test_a_bad_triple_is_named_by_its_line(tmp_path: Path, line: str, sentence: str) -> None:
    (tmp_path / "a").write_text(f"1 2 3\n\n{line}\n")

    with pytest.raises(BadInput, match=f"Line 3 of .*{sentence}"):
        read_interactions(tmp_path / "a", InteractionFormat.triples)


def test_files_that_are_not_named_or_not_there_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"give data=interactions data\.name=NAME"):
        make_interactions(load_config(InteractionsConfig, ["data=interactions"]))
    overrides = written(tmp_path)
    (tmp_path / "test.txt").unlink()
    with pytest.raises(BadInput, match=r"test\.txt is not a file"):
        make_interactions(load_config(InteractionsConfig, overrides))


def test_the_ingest_names_the_job_that_reads_them(tmp_path: Path) -> None:
    config = load_config(JobConfig, written(tmp_path))

    with pytest.raises(ConfigError, match=r"run python -m feature_repo\.jobs interactions"):
        ingest(config, START)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("folds=0", "folds must be above zero"),
        ("validation=0.7", r"validation must be in \(0, 0\.5\]"),
        ("min_items=1", "min_items must be at least 2"),
    ],
)
def test_settings_out_of_range_are_named(wrong: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(InteractionsConfig, ["data=interactions", wrong])


def test_made_again_it_is_found_until_a_file_or_a_setting_changes(tmp_path: Path) -> None:
    assert main(["interactions", *written(tmp_path)]) == 0
    events = tmp_path / "bench" / "canonical" / "events.parquet"
    written_ns = events.stat().st_mtime_ns

    made(tmp_path)
    assert events.stat().st_mtime_ns == written_ns

    made(tmp_path, "folds=2")
    assert events.stat().st_mtime_ns > written_ns
    assert made(tmp_path, train=TRAIN + "5 10 11\n").counts["train_lines"] == 18 + 2


def test_another_seed_holds_other_items_back_and_the_same_seed_the_same(tmp_path: Path) -> None:
    train = "".join(f"{user} " + " ".join(map(str, range(20))) + "\n" for user in range(30))
    held = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        dataset = made(tmp_path / name, f"data.seed={seed}", train=train, test="1 77\n")
        rows = rows_of(dataset, "users", "t1")
        held.append({row["user_id"]: row["target_item_id"] for row in rows})

    assert held[0] == held[1]
    assert held[0] != held[2]


def test_the_canonical_tables_hold_every_id(tmp_path: Path) -> None:
    dataset = made(tmp_path)

    users, items = (pq.read_table(dataset.canonical / f"{n}.parquet") for n in ("users", "items"))
    assert users.column("user_id").to_pylist() == [1, 2, 3, 4]
    assert items.column("item_id").to_pylist() == [*range(10, 20), 11 + 9, 21, 22, 30, 99]
    assert users.schema.field("event_timestamp").type == pa.timestamp("us", tz="UTC")
