"""Sharded tables: what they compute, how they train, and what they export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from feature_repo.contract.encoding import Bag, TableSpec
from feature_repo.contract.errors import BadInput, ConfigError
from feature_repo.contract.tables import TableForm, Tables
from trainer.config import OptimizerConfig, Precision
from trainer.distributed import Process
from trainer.embeddings import ShardedTables, TableConfig, _fill, stack, to_kjt
from trainer.sharding import Load
from trainer.sharding_config import ShardingConfig

USERS = {
    "user_id": Bag.single(np.array([1, 2])),
    "history": Bag(np.array([3, 4, 3]), np.array([0, 3, 3]), np.array([0.5, 2, 1], np.float32)),
}
ITEMS = {"item_id": Bag.single(np.array([3, 4, 0]))}


def make_tables(process: Process, lr: float = 0.1, init_std: float = 0.05) -> ShardedTables:
    tables = (
        TableConfig("item_id", 40, 8, ("item_id", "history"), init_std, lr),
        TableConfig("children", 5, 4, ("user_id",), init_std, lr),
    )
    sharding = ShardingConfig(row_wise_from=20)
    return ShardedTables(tables, process, sharding, Load(5, {}), seed=0)


def test_a_bag_is_the_weighted_sum_of_its_rows(process: Process) -> None:
    tables = make_tables(process)

    pooled = tables(stack(USERS, ITEMS))

    rows = tables.rows_of("item_id", 0, 40)
    expected = 0.5 * rows[3] + 2 * rows[4] + 1 * rows[3]
    assert pooled["history"][0].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert pooled["history"][1].tolist() == [0.0] * 8
    assert pooled["item_id"][2].tolist() == pytest.approx(rows[3].tolist())


def test_stacked_sides_leave_each_other_empty() -> None:
    stacked = stack(USERS, ITEMS)

    assert list(stacked) == ["user_id", "history", "item_id"]
    assert stacked["history"].offsets.tolist() == [0, 3, 3, 3, 3, 3]
    assert stacked["item_id"].offsets.tolist() == [0, 0, 0, 1, 2, 3]


def test_a_bag_without_weights_counts_each_row_once() -> None:
    features = to_kjt({"item_id": Bag.single(np.array([3, 4]))})

    assert features.weights().tolist() == [1.0, 1.0]


def test_padding_adds_empty_examples() -> None:
    features = to_kjt(USERS, 4)

    assert features.lengths().tolist() == [1, 1, 0, 0, 3, 0, 0, 0]
    assert features.values().tolist() == [1, 2, 3, 4, 3]


def test_training_is_row_wise_adagrad(process: Process) -> None:
    tables = make_tables(process, lr=0.1)
    before = tables.rows_of("children", 0, 5)
    gradient = torch.tensor([1.0, 2.0, 3.0, 4.0])

    pooled = tables(stack(USERS, ITEMS))
    (pooled["user_id"][0] * gradient).sum().backward()

    squares = (1 + 4 + 9 + 16) / 4
    expected = before[1] - 0.1 * gradient.numpy() / (squares**0.5 + 1e-8)
    after = tables.rows_of("children", 0, 5)
    assert after[1] == pytest.approx(expected, rel=1e-5)
    assert (after[[0, 2, 3, 4]] == before[[0, 2, 3, 4]]).all()


def test_a_rate_of_zero_trains_nothing(process: Process) -> None:
    tables = make_tables(process)
    before = tables.rows_of("item_id", 0, 40)

    tables.scale_lr(0.0)
    tables(stack(USERS, ITEMS))["history"].sum().backward()

    assert (tables.rows_of("item_id", 0, 40) == before).all()


def test_first_values_have_the_deviation_asked_for(process: Process) -> None:
    rows = make_tables(process, init_std=0.5).rows_of("item_id", 0, 40)

    assert rows.std() == pytest.approx(0.5, rel=0.15)


def test_exported_tables_pool_alike(process: Process, tmp_path: Path) -> None:
    tables = make_tables(process)
    tables.export_tables(tmp_path)

    exported = Tables.load(tmp_path)

    pooled = tables(stack(USERS, ITEMS))["history"][:2].detach().numpy()
    assert exported.pooled("history", USERS["history"]) == pytest.approx(pooled, abs=1e-6)
    assert exported.dim("user_id") == 4


def test_rows_outside_of_a_table_are_counted_and_read_as_unknown(
    process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    tables = make_tables(process)
    strange = {**USERS, "user_id": Bag.single(np.array([5, -7]))}

    with caplog.at_level("WARNING"):
        pooled = tables(stack(strange, ITEMS))

    unknown = tables.rows_of("children", 0, 1)[0]
    assert pooled["user_id"][:2].tolist() == [pytest.approx(unknown.tolist())] * 2
    assert tables.out_of_range == {"user_id": 2}
    assert "Feature user_id has row 5, its table only 5 rows" in caplog.text


def test_a_feature_that_is_missing_is_named(process: Process) -> None:
    with pytest.raises(BadInput, match="history"):
        make_tables(process)({"user_id": USERS["user_id"], **ITEMS})


def test_configs_follow_the_encoders_specs() -> None:
    specs = (TableSpec("user_id", 9, ("user_id",)), TableSpec("age", 4, ("age",)))

    rates = OptimizerConfig(table_lr=0.3, table_lrs={"age": 0.1})
    made = TableConfig.of_specs(specs, {"user_id": 32}, 8, rates)

    assert [(table.name, table.dim, table.lr) for table in made] == [
        ("user_id", 32, 0.3),
        ("age", 8, 0.1),
    ]


def test_a_rate_of_a_table_that_there_is_not_is_refused() -> None:
    specs = (TableSpec("age", 4, ("age",)),)

    with pytest.raises(ConfigError, match=r"names \['agee'\], which are no tables"):
        TableConfig.of_specs(specs, {}, 8, OptimizerConfig(table_lrs={"agee": 0.1}))


def test_first_values_do_not_depend_on_where_a_shard_begins() -> None:
    table = TableConfig("item_id", 40_000, 8, ("item_id",), 0.05, 0.1)
    whole, low, high = torch.empty(40_000, 8), torch.empty(20_001, 8), torch.empty(19_999, 4)

    _fill(whole, 0, 0, table, seed=7)
    _fill(low, 0, 0, table, seed=7)
    _fill(high, 20_001, 4, table, seed=7)

    assert torch.equal(whole[:20_001], low)
    assert torch.equal(whole[20_001:, 4:], high)
    assert len(torch.unique(whole[:, 0])) > 39_000


@pytest.mark.parametrize("form", list(TableForm))
def test_half_precision_trains_and_every_form_exports(
    process: Process, tmp_path: Path, form: TableForm
) -> None:
    config = TableConfig("item_id", 40, 8, ("item_id",), 0.05, 0.1, Precision.fp16)
    tables = ShardedTables((config,), process, ShardingConfig(), Load(3, {}), seed=0)
    before = tables.rows_of("item_id", 0, 40)

    tables(ITEMS)["item_id"].sum().backward()
    tables.export_tables(tmp_path, form)

    after = tables.rows_of("item_id", 0, 40)
    changed = np.flatnonzero((after != before).any(axis=1))
    assert changed.tolist() == [0, 3, 4]
    exported = Tables.load(tmp_path).tables["item_id"].rows(np.arange(40))
    step = np.abs(after).max() / 127 if form is TableForm.int8 else 0
    assert np.abs(exported - after).max() <= step / 2 + 1e-6
