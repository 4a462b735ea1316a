"""``python -m trainer.plan``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from feature_repo.contract.artifacts import read_json
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ConfigError
from trainer.config import choices
from trainer.plan import changed, compose_plan, main, remedies
from trainer.planning.result import make_plan
from trainer.sharding import NoRoom
from trainer.sharding_config import Strategy

LARGE = ["users=100000000", "items=10000000", "model.id_dim=128"]


def arguments(dataset: Dataset, *overrides: str) -> list[str]:
    return ["experiment=two_tower", *LARGE, f"data.root={dataset.root}", *overrides]


def test_help_lists_devices_strategies_and_experiments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0

    shown = capsys.readouterr().out
    assert "h100, h200, a100, b200, l4, cpu" in shown
    assert "auto, row_wise, table_row_wise, column_wise, uvm_caching" in shown
    assert "complete_journey/two_tower" in shown
    assert "--json FILE" in shown


def test_without_arguments_the_usage_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().out.startswith("Plan where the tables")


@pytest.mark.parametrize("strategy", choices("sharding"))
def test_every_strategy_composes(strategy: str) -> None:
    config = compose_plan([f"sharding={strategy}", "users=3", "items=3"])

    assert config.sharding.strategy is Strategy[strategy]


def test_the_strategies_are_the_files() -> None:
    assert set(choices("sharding")) == {strategy.value for strategy in Strategy}


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment_composes(experiment: str) -> None:
    assert compose_plan([f"experiment={experiment}", "users=3", "items=3"]).users == 3


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_cpus_are_planned_for(shop_dataset: Dataset, world_size: int) -> None:
    small = ["users=1000000", "items=200000", "model.id_dim=64", "sharding.ddr_gb=4"]
    found = make_plan(
        compose_plan(
            arguments(shop_dataset, *small, "device=cpu", f"world_size={world_size}"),
        )
    )

    rows = -(-1_000_001 // world_size) + -(-200_001 // world_size)
    assert found.fits
    assert found.memory[0].weights == pytest.approx(rows * 64 * 4, rel=1e-3)
    assert found.memory[0].optimizer == pytest.approx(rows * 4, rel=1e-3)
    assert all(part.hbm == 0 for part in found.memory)
    assert (found.wire.total() > 0).all() == (world_size > 1)


def test_the_users_of_a_large_shop_fit_one_gpu_or_eight(
    shop_dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(shop_dataset, "device=h200")) == 0
    assert "51.20 GB  row_wise" in capsys.readouterr().out
    assert main(arguments(shop_dataset, "world_size=8")) == 0
    assert re.search(r"user_id +100,000,001 +128 +51.20 GB +row_wise +fused +0-7", _out(capsys))


def test_a_plan_is_written_as_json(shop_dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"

    assert main([*arguments(shop_dataset, "world_size=16"), "--json", str(path)]) == 0

    found = read_json(path)
    sizes = {table["table"]: table for table in found["tables"]}
    assert found["fits"]
    assert len(found["memory_bytes"]) == found["world_size"] == 16
    assert sizes["user_id"]["bytes"] == 100_000_001 * 128 * 4
    total = sum(part["weights"] for part in found["memory_bytes"])
    assert total == sum(table["bytes"] for table in found["tables"])
    assert {len(rows) for rows in found["wire_bytes"].values()} == {16}
    assert found["estimated_ms"]["step"] > found["estimated_ms"]["tables"] > 0


def test_quantized_vectors_are_half_the_bytes(shop_dataset: Dataset) -> None:
    given = arguments(shop_dataset, "world_size=8", "sharding=row_wise")
    half, whole = (
        make_plan(compose_plan([*given, f"sharding.quantize_comms={flag}"])).wire
        for flag in (True, False)
    )

    assert whole.forward_intra.sum() == pytest.approx(2 * half.forward_intra.sum())
    assert whole.ids_intra.tolist() == half.ids_intra.tolist()


def test_what_does_not_fit_is_said_with_what_would(
    shop_dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(shop_dataset, "device=l4", "world_size=2")) == 2

    said = capsys.readouterr().out
    assert "they take 56.8 GB, that is 28.4 GB in each of 2 processes" in said
    assert "tables may use 20.4 GB of GPU memory" in said
    for change in ("optimizer.table_dtype=fp16", "sharding=uvm_caching", "world_size=4"):
        assert f"\n{change} " in said


def test_every_change_that_is_named_makes_the_plan_fit(shop_dataset: Dataset) -> None:
    given = arguments(shop_dataset, "device=l4", "world_size=2", "sharding=row_wise")
    with pytest.raises(NoRoom):
        make_plan(compose_plan(given))

    found = remedies(given)

    assert len(found) == 5  # fp16, fewer columns, a cache, processes, a larger GPU
    for remedy in found:
        plan = make_plan(compose_plan(changed(given, remedy.overrides)))
        assert plan.fits
        assert plan.memory == remedy.plan.memory


def test_the_smallest_change_of_a_kind_is_named(shop_dataset: Dataset) -> None:
    given = arguments(shop_dataset, "device=l4", "world_size=2")

    named = {override for remedy in remedies(given) for override in remedy.overrides}

    assert {"world_size=4", "model.id_dim=64", "device=h100"} <= named


def test_changes_are_put_together_where_none_is_enough(shop_dataset: Dataset) -> None:
    users, room = 52_900_000_000, 13_600_000_000
    assert users * (32 * 4 + 4) / 512 > room  # a quarter of the columns
    assert users * (128 * 2 + 4) / 512 > room  # fp16
    assert users * (128 * 4 + 4) / 1024 > room  # twice the processes
    assert users * (128 * 2 + 4) / 1024 < room  # both
    given = arguments(shop_dataset, f"users={users}", "device=cpu", "world_size=512")

    (remedy,) = remedies(given)

    assert remedy.overrides == ("optimizer.table_dtype=fp16", "world_size=1024")


def test_a_table_that_nothing_holds_is_said(
    shop_dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(shop_dataset, "users=900000000000", "device=cpu", "world_size=512")

    assert main(given) == 2
    assert "No change that was tried is enough" in capsys.readouterr().out


def test_scores_that_do_not_fit_are_said(
    shop_dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(shop_dataset, "world_size=64", "trainer.batch_size=524288")

    assert main(given) == 2
    said = capsys.readouterr().out
    scores = 524_288 / 64 * (524_288 * 10 + 1024)
    assert f"which takes {scores * 4 / 1e9:.1f} GB" in said
    assert "\ntrainer.batch_size=262144 " in said


def test_a_cache_on_cpu_is_refused(
    shop_dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(shop_dataset, "device=cpu", "sharding=uvm_caching")) == 1
    assert "sharding=uvm_caching keeps a cache on a GPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["items=3"], "A plan needs users=N and items=N"),
        (["users=3", "items=0"], "items must be above zero; got 0"),
        (["users=3", "items=3", "device=abacus"], "abacus"),
        (["users=3", "items=3", "sharding=diagonal"], "sharding/diagonal"),
        (["users=3", "items=3", "--json"], "--json needs the name of a file"),
        (["users=3", "items=3", "world_size=12"], "12 processes do not fill nodes of 8"),
    ],
)
def test_a_mistake_gets_a_sentence(
    overrides: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["experiment=two_tower", *overrides]) == 1
    assert said in capsys.readouterr().err


def test_settings_of_a_run_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"model\.id_dim must be a multiple of 4"):
        compose_plan(["users=3", "items=3", "model.id_dim=30"])


def documented(page: Path) -> list[tuple[list[str], str]]:
    """(arguments, output) of each command on a page."""
    block = r"```text\n\$ python -m trainer\.plan ((?:.*\\\n)*.*)\n([^`]*)```"
    found = re.findall(block, page.read_text(encoding="utf-8"))
    return [(command.replace("\\\n", " ").split(), output) for command, output in found]


def test_the_documented_plans_are_what_the_commands_print(
    repository: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(repository)
    found = documented(repository / "trainer" / "PLANS.md")

    sizes = {"world_size=8", "world_size=64"}
    assert sizes <= {argument for given, _ in found for argument in given}
    for given, output in found:
        main([*given, f"data.root={tmp_path / 'none'}"])
        assert capsys.readouterr().out == output


def _out(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out
