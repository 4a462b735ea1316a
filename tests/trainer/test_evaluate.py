from __future__ import annotations

import logging
from pathlib import Path

import pytest

from feature_repo.contract.artifacts import sha256_file
from feature_repo.contract.dataset import Dataset
from ranking.metrics import Relevant, ndcg_at_k
from tests.trainer.evaluation.shop import T1, make_shop, random_shop, write_lists
from trainer.evaluate import _command, evaluate, main
from trainer.evaluation.config import Split, load_config
from trainer.evaluation.result import Evaluation
from trainer.evaluation.window import Task, load_window

FAST = ["k=4", "samples=50", "baselines.ials_factors=4", "baselines.ials_iterations=2"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return random_shop(tmp_path_factory.mktemp("shop"))


def settings(shop: Dataset, out: Path, *more: str) -> list[str]:
    return ["data=parquet", "data.name=shop", f"data.root={shop.root}", f"out={out}", *FAST, *more]


def lists_for_all(shop: Dataset, path: Path, items: list[str]) -> Path:
    users = load_window(shop, Split.validation).users.ids.to_pylist()
    return write_lists(path, dict.fromkeys(users, items))


def test_the_command_writes_json_markdown_and_plots(
    shop: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = lists_for_all(shop, tmp_path / "lists.parquet", ["i0", "i1", "i2"])
    out = tmp_path / "out"

    status = main(settings(shop, out, f"lists={lists}", f"lists_new={lists}"))

    assert status == 0
    names = ["coverage.png", "evaluation.json", "evaluation.md", "ndcg.png", "segments.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    answer = capsys.readouterr().out
    assert "| **shoprec** |" in answer
    assert answer.strip() in (out / "evaluation.md").read_text(encoding="utf-8")


def test_the_json_says_what_was_judged(shop: Dataset, tmp_path: Path) -> None:
    lists = lists_for_all(shop, tmp_path / "lists.parquet", ["i0"])
    main(settings(shop, tmp_path, f"lists={lists}"))

    found = Evaluation.load(tmp_path / "evaluation.json")

    assert (found.dataset, found.split, found.k) == ("shop", "validation", 4)
    assert found.cutoff == shop.edges[1].isoformat()
    assert found.inputs == {"lists": sha256_file(lists)}
    assert f"lists={lists}" in found.command
    assert found.tasks["all"].system is not None
    assert found.tasks["new"].system is None


def test_the_command_is_told_with_paths_relative_to_the_checkout(repository: Path) -> None:
    overrides = [f"lists={repository}/runs/lists.parquet", f"data.root={repository}/data/shop"]

    expected = "python -m trainer.evaluate lists=runs/lists.parquet data.root=data/shop"
    assert _command(overrides) == expected


def test_the_systems_ndcg_is_that_of_the_metric(shop: Dataset, tmp_path: Path) -> None:
    items = ["i3", "i0", "i7"]
    lists = lists_for_all(shop, tmp_path / "lists.parquet", items)
    window = load_window(shop, Split.validation)
    judged = window.judged(Task.ALL)
    rows = window.items.rows(items)

    found = evaluate(load_config(settings(shop, tmp_path, f"lists={lists}")), "test").tasks["all"]

    shown = rows[None].repeat(len(judged.users), axis=0)
    expected = ndcg_at_k(shown, Relevant(judged.relevant.offsets, judged.relevant.item_row), 4)
    assert found.users == len(judged.users)
    assert found.method("shoprec").metrics["ndcg"].mean == pytest.approx(expected.mean())


def test_perfect_lists_reach_one(shop: Dataset, tmp_path: Path) -> None:
    window = load_window(shop, Split.validation)
    judged = window.judged(Task.NEW)
    truth = judged.relevant
    perfect = {
        user: window.items.ids_of(truth.item_row[truth.offsets[place] :][: truth.counts[place]])
        for place, user in enumerate(window.users.ids_of(judged.users))
    }
    lists = write_lists(tmp_path / "lists.parquet", perfect)

    found = evaluate(load_config(settings(shop, tmp_path, f"lists_new={lists}")), "test")

    new = found.tasks["new"]
    assert new.method("shoprec").metrics["ndcg"].mean == pytest.approx(1.0)
    assert new.difference["ndcg"].low > 0


def test_the_same_command_finds_the_same_numbers(shop: Dataset, tmp_path: Path) -> None:
    config = load_config(settings(shop, tmp_path))

    assert evaluate(config, "test") == evaluate(config, "test")


def test_a_seen_item_in_the_lists_of_new_ones_is_warned_of(
    shop: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lists = lists_for_all(shop, tmp_path / "lists.parquet", ["i0"])

    with caplog.at_level(logging.WARNING):
        evaluate(load_config(settings(shop, tmp_path, f"lists_new={lists}")), "test")

    assert "Was it made with --exclude-seen?" in caplog.text


def test_a_file_that_cannot_be_judged_ends_the_command(
    shop: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = write_lists(tmp_path / "lists.parquet", {"nobody": ["i0"]})
    out = tmp_path / "out"

    assert main(settings(shop, out, f"lists={lists}")) == 2
    assert "user_id 'nobody' is not in the data set" in capsys.readouterr().err
    assert not out.exists()


def test_a_wrong_setting_ends_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["out=x", "splt=test"]) == 2
    assert "splt" in capsys.readouterr().err


def test_a_window_in_which_everything_was_bought_before_leaves_out_the_task_of_new_items(
    tmp_path: Path,
) -> None:
    shop = make_shop(tmp_path / "shop", [("ann", "tea", 1), ("bob", "milk", 2), ("ann", "tea", T1)])

    found = evaluate(load_config(settings(shop, tmp_path)), "test")

    assert list(found.tasks) == ["all"]
