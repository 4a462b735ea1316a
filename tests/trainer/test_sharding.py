"""How tables are cut: the plans, and that every way of cutting trains alike."""

from __future__ import annotations

import json
from typing import Any

import pytest
from torchrec.distributed.types import CommOp
from torchrec.modules.embedding_configs import DataType

from feature_repo.contract.errors import ConfigError
from tests.trainer import sharded
from trainer.distributed import Process
from trainer.hardware import KNOWN
from trainer.sharding import (
    Cluster,
    Load,
    NoRoom,
    offered,
    place,
    plan,
    sharders,
    table_bytes,
    tables_of,
)
from trainer.sharding_config import ShardingConfig, Strategy

LOAD = Load(16, {})
ROWS = {"user_id": 1001, "age": 10}


def on_cpu(world_size: int, local_world_size: int | None = None) -> Cluster:
    return Cluster(KNOWN["cpu"], world_size, local_world_size or world_size)


def config(strategy: Strategy = Strategy.auto, **settings: Any) -> ShardingConfig:
    return ShardingConfig(strategy=strategy, row_wise_from=100, **settings)


def placed(settings: ShardingConfig, cluster: Cluster, dim: int = 16) -> dict[str, Any]:
    return {o.name: o for o in place(sharded.collection(ROWS, dim), settings, cluster, LOAD)}


@pytest.mark.parametrize(("world_size", "sizes"), [(1, [1001]), (2, [501, 500]), (4, [251] * 3)])
def test_big_tables_are_cut_by_rows_and_small_ones_stay_whole(
    world_size: int, sizes: list[int]
) -> None:
    found = placed(config(), on_cpu(world_size))

    user = found["user_id"]
    assert user.sharding_type == "row_wise"
    assert [shard.rank for shard in user.shards] == list(range(world_size))
    assert [shard.size[0] for shard in user.shards][: len(sizes)] == sizes
    assert sum(shard.size[0] for shard in user.shards) == 1001
    assert found["age"].sharding_type == "table_wise"
    assert len(found["age"].shards) == 1


def test_a_table_can_stay_on_one_node() -> None:
    (user, _) = placed(config(Strategy.table_row_wise), on_cpu(8, 2)).values()

    ranks = [shard.rank for shard in user.shards]
    assert user.sharding_type == "table_row_wise"
    assert ranks[0] % 2 == 0
    assert ranks == [ranks[0], ranks[0] + 1]


def test_columns_are_cut_in_parts_of_the_width_asked_for() -> None:
    user = placed(config(Strategy.column_wise, column_dim=4), on_cpu(2), dim=16)["user_id"]

    assert [shard.size for shard in user.shards] == [[1001, 4]] * 4
    assert sorted(shard.rank for shard in user.shards) == [0, 0, 1, 1]


def test_a_cache_on_the_gpu_has_the_share_of_rows_asked_for() -> None:
    cluster = Cluster(KNOWN["h100"], 2, 2)

    found = plan(
        sharded.collection(ROWS),
        config(Strategy.uvm_caching, cache_load_factor=0.25),
        cluster,
        LOAD,
    )

    tables: Any = found.plan["bags"]
    assert tables["user_id"].compute_kernel == "fused_uvm_caching"
    assert tables["user_id"].cache_params.load_factor == 0.25
    assert tables["age"].compute_kernel == "fused"


def test_a_cache_on_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="a cache on a GPU, and this run is on CPU"):
        plan(sharded.collection(ROWS), config(Strategy.uvm_caching), on_cpu(1), LOAD)


def test_no_table_is_copied_to_every_process() -> None:
    for strategy in Strategy:
        cluster = Cluster(KNOWN["h100"], 16, 8)
        kinds = {o.sharding_type for o in placed(config(strategy), cluster).values()}
        assert "data_parallel" not in kinds


def test_vectors_travel_in_16_bits_between_gpus_alone() -> None:
    (on_gpu,), (without,), (cpu,) = (
        sharders("cuda", ShardingConfig()),
        sharders("cuda", ShardingConfig(quantize_comms=False)),
        sharders("cpu", ShardingConfig()),
    )

    for kind in (CommOp.POOLED_EMBEDDINGS_ALL_TO_ALL, CommOp.POOLED_EMBEDDINGS_REDUCE_SCATTER):
        codecs = on_gpu.qcomm_codecs_registry[kind.name]
        assert str(codecs.forward.quantized_dtype) == "torch.float16"
        assert str(codecs.backward.quantized_dtype) == "torch.bfloat16"
    assert not without.qcomm_codecs_registry
    assert not cpu.qcomm_codecs_registry


def test_tables_may_use_what_the_reserve_leaves() -> None:
    assert offered(ShardingConfig(reserve=0.25), KNOWN["h100"]) == (
        int(0.75 * 80e9),
        int(0.75 * 256e9),
    )
    assert offered(ShardingConfig(hbm_gb=7, ddr_gb=2.5), KNOWN["h100"]) == (
        7_000_000_000,
        2_500_000_000,
    )
    assert offered(ShardingConfig(hbm_gb=7), KNOWN["cpu"])[0] == 0


@pytest.mark.parametrize(("dtype", "element"), [(DataType.FP32, 4), (DataType.FP16, 2)])
def test_a_row_takes_its_numbers_and_one_of_adagrad(dtype: DataType, element: int) -> None:
    (table,) = tables_of(sharded.collection({"user_id": 1000}, 8, dtype))

    assert table_bytes(table) == 1000 * (8 * element + 4)


def test_tables_that_do_not_fit_get_numbers() -> None:
    rows = {"user_id": 100_000_000}
    needed = 100_000_000 * (32 * 4 + 4) / 1e9
    with pytest.raises(NoRoom) as caught:
        plan(sharded.collection(rows, 32), config(ddr_gb=2), on_cpu(4), LOAD)

    assert f"take {needed:.1f} GB, that is {needed / 4:.1f} GB" in str(caught.value)
    assert "may use 2.0 GB of main memory a process on cpu" in str(caught.value)
    assert "python -m trainer.plan" in str(caught.value)


@pytest.mark.parametrize(
    ("world_size", "local", "said"),
    [
        (4, 3, "4 processes do not fill nodes of 3"),
        (0, 1, "do not make nodes"),
        (2, 4, "do not make nodes"),
    ],
)
def test_nodes_must_be_full(world_size: int, local: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Cluster(KNOWN["cpu"], world_size, local)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"column_dim": 6}, "sharding.column_dim must be a multiple of 4 above zero; got 6"),
        ({"reserve": 1.0}, "sharding.reserve must lie between 0 and 1; got 1.0"),
        ({"cache_load_factor": 0.0}, "sharding.cache_load_factor must lie between 0 and 1"),
        ({"hbm_gb": 0.0}, "sharding.hbm_gb must be above zero; got 0.0"),
        ({"row_wise_from": 0}, "sharding.row_wise_from must be above zero; got 0"),
    ],
)
def test_a_setting_out_of_range_is_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ShardingConfig(**settings)


@pytest.fixture(scope="module")
def alone(process: Process) -> dict[str, Any]:
    """What one process trains."""
    return sharded.train(process, config(column_dim=4))


@pytest.mark.parametrize(
    ("strategy", "world_size", "local", "users"),
    [
        ("auto", 2, 2, [0, 1]),
        ("row_wise", 2, 2, [0, 1]),
        pytest.param("table_row_wise", 4, 2, [0, 1], marks=pytest.mark.slow),
    ],
)
def test_tables_cut_by_rows_train_as_whole_ones(
    alone: dict[str, Any], strategy: str, world_size: int, local: int, users: list[int]
) -> None:
    ended = sharded.run(world_size, local, strategy)

    assert [code for code, *_ in ended] == [0] * world_size, ended
    found = json.loads(ended[0][1].splitlines()[-1])
    assert found["ranks"]["user_id"] == users
    assert found["losses"] == pytest.approx(alone["losses"], abs=1e-6)
    assert found["losses"][-1] < found["losses"][0]


def test_tables_cut_by_columns_train_differently(alone: dict[str, Any]) -> None:
    ended = sharded.run(2, 2, "column_wise")

    found = json.loads(ended[0][1].splitlines()[-1])
    assert found["ranks"]["user_id"] == [0, 1, 0, 1]
    assert found["losses"][:2] == pytest.approx(alone["losses"][:2], abs=1e-6)
    assert found["losses"] != pytest.approx(alone["losses"], abs=1e-6)
    assert found["losses"] == pytest.approx(alone["losses"], rel=0.01)


def test_every_process_says_that_there_is_no_room() -> None:
    ended = sharded.run(2, 2, "row_wise", "1e-6")

    assert [code for code, *_ in ended] == [1, 1]
    assert all("The tables do not fit" in err for *_, err in ended)
