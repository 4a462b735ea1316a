"""Memory and traffic, by hand. W processes, L on a node; S examples, D columns."""

from __future__ import annotations

import json

import pytest
from torchrec.modules.embedding_configs import DataType

from tests.trainer import sharded
from trainer.hardware import KNOWN
from trainer.planning.footprint import Memory, RankMemory, Wire, comm_bytes, rank_memory, wire
from trainer.sharding import Cluster, Load, place
from trainer.sharding_config import ShardingConfig, Strategy

S, D = 10, 8
VECTOR = S * D * 4
"""Bytes of what S examples read of one feature, in fp32."""
LENGTHS = S * 8
LOAD = Load(S, {"user_id": 3.0})
IDS = S * 3 * (8 + 4)
"""Bytes of the rows that a process reads, with their weights."""


def cluster(world_size: int, local: int, device: str = "cpu") -> Cluster:
    return Cluster(KNOWN[device], world_size, local)


def config(strategy: Strategy, row_wise_from: int = 100) -> ShardingConfig:
    return ShardingConfig(strategy=strategy, row_wise_from=row_wise_from, column_dim=4)


def held(
    strategy: Strategy,
    where: Cluster,
    rows: int = 1001,
    dtype: DataType = DataType.FP32,
) -> list[RankMemory]:
    module = sharded.collection({"user_id": rows}, D, dtype)
    return rank_memory(place(module, config(strategy), where, LOAD), where)


def sent(strategy: Strategy, where: Cluster, row_wise_from: int = 100) -> Wire:
    module = sharded.collection({"user_id": 1000}, D)
    options = place(module, config(strategy, row_wise_from), where, LOAD)
    return wire(options, {"user_id": ["user_id"]}, where, LOAD, 4)


@pytest.mark.parametrize(("dtype", "element"), [(DataType.FP32, 4), (DataType.FP16, 2)])
def test_rows_are_shared_evenly(dtype: DataType, element: int) -> None:
    parts = held(Strategy.row_wise, cluster(4, 4, "h100"), dtype=dtype)

    rows = [251, 251, 251, 1001 - 3 * 251]  # TorchRec rounds up
    assert [part.weights for part in parts] == [n * D * element for n in rows]
    assert [part.optimizer for part in parts] == [n * 4 for n in rows]
    for part in parts:
        assert part.hbm == part.weights + part.optimizer + part.buffers
        assert part.ddr == 0


def test_buffers_are_a_steps_rows_and_vectors() -> None:
    (alone,) = held(Strategy.row_wise, cluster(1, 1, "h100"))

    assert alone.buffers == pytest.approx(S * 3 * 8 + VECTOR, abs=2)


def test_on_cpu_everything_is_in_main_memory() -> None:
    (alone,) = held(Strategy.row_wise, cluster(1, 1))

    assert alone.hbm == 0
    assert alone.ddr == 1001 * D * 4 + 1001 * 4 + alone.buffers
    assert alone.total == alone.ddr


def test_each_part_of_a_rows_columns_has_its_own_adagrad() -> None:
    parts = held(Strategy.column_wise, cluster(2, 2))

    assert [part.weights for part in parts] == [1001 * 4 * 4] * 2
    assert [part.optimizer for part in parts] == [1001 * 4] * 2


def test_a_cache_is_on_the_gpu_and_the_rest_is_not() -> None:
    where = cluster(2, 2, "h100")
    parts = held(Strategy.uvm_caching, where, rows=10_000)

    weights = 5000 * D * 4
    cache = weights * 0.1
    for part in parts:
        assert part.ddr == weights + 5000 * 4
        assert part.cache == pytest.approx(cache + cache / D + 5000 * (4 + 16 * 0.1), abs=3)
        assert part.hbm == part.cache + part.buffers


def test_one_process_sends_nothing() -> None:
    for strategy in (Strategy.row_wise, Strategy.table_row_wise, Strategy.column_wise):
        assert sent(strategy, cluster(1, 1)).total().tolist() == [0.0]


def test_rows_over_all_processes_are_scattered_in_rings() -> None:
    found = sent(Strategy.row_wise, cluster(4, 2))

    # Three shares for the others; one hop of two leaves the node.
    assert found.forward_intra.tolist() == [3 * VECTOR / 2] * 4
    assert found.forward_inter.tolist() == [3 * VECTOR / 2] * 4
    assert found.backward_intra.tolist() == found.forward_intra.tolist()
    assert found.backward_inter.tolist() == found.forward_inter.tolist()
    assert found.ids_intra.tolist() == [IDS / 4 + LENGTHS] * 4
    assert found.ids_inter.tolist() == [2 * (IDS / 4 + LENGTHS)] * 4


def test_on_one_node_nothing_leaves_it() -> None:
    found = sent(Strategy.row_wise, cluster(4, 4))

    assert found.forward_intra.tolist() == [3 * VECTOR] * 4
    assert not found.forward_inter.any()
    assert not found.ids_inter.any()


def test_the_owner_of_a_whole_table_sends_to_all_others() -> None:
    found = sent(Strategy.row_wise, cluster(4, 2), row_wise_from=10_000)

    assert found.forward_intra.tolist() == [VECTOR, 0, 0, 0]
    assert found.forward_inter.tolist() == [2 * VECTOR, 0, 0, 0]
    assert found.backward_intra.tolist() == [0, VECTOR, 0, 0]
    assert found.backward_inter.tolist() == [0, 0, VECTOR, VECTOR]
    assert found.ids_intra.tolist() == [0, IDS + LENGTHS, 0, 0]
    assert found.ids_inter.tolist() == [0, 0, IDS + LENGTHS, IDS + LENGTHS]


def test_owners_of_columns_send_their_columns() -> None:
    found = sent(Strategy.column_wise, cluster(2, 2))

    assert found.forward_intra.tolist() == [VECTOR / 2] * 2
    assert found.backward_intra.tolist() == [VECTOR / 2] * 2
    assert found.ids_intra.tolist() == [IDS + LENGTHS] * 2


def test_a_nodes_processes_add_up_before_they_send() -> None:
    found = sent(Strategy.table_row_wise, cluster(6, 2))

    # Of 3 nodes the first has the table: each of its two processes sends its neighbour what the
    # neighbour's counterparts and itself read, then each counterpart its own.
    assert found.forward_intra.tolist() == [3 * VECTOR, 3 * VECTOR, 0, 0, 0, 0]
    assert found.forward_inter.tolist() == [2 * VECTOR, 2 * VECTOR, 0, 0, 0, 0]
    assert found.backward_inter.tolist() == [0, 0, VECTOR, VECTOR, VECTOR, VECTOR]
    assert found.backward_intra.tolist() == [3 * VECTOR, 3 * VECTOR, 0, 0, 0, 0]
    assert found.ids_intra.tolist() == [IDS / 2 + LENGTHS] * 2 + [0] * 4
    assert found.ids_inter.tolist() == [0, 0] + [2 * (IDS / 2 + LENGTHS)] * 4


def test_rows_without_weights_are_fewer_bytes() -> None:
    module, where = sharded.collection({"user_id": 1000}, D), cluster(2, 2)
    options = place(module, config(Strategy.row_wise), where, LOAD)
    load = Load(S, LOAD.pooling_factors, weighted=False)

    found = wire(options, {"user_id": ["user_id"]}, where, load, 4)

    assert found.ids_intra.tolist() == [S * 3 * 8 / 2 + LENGTHS] * 2


def test_numbers_travel_in_two_bytes_between_gpus() -> None:
    assert comm_bytes(ShardingConfig(), cluster(2, 2, "h100")) == 2
    assert comm_bytes(ShardingConfig(quantize_comms=False), cluster(2, 2, "h100")) == 4
    assert comm_bytes(ShardingConfig(), cluster(2, 2)) == 4


def test_what_a_part_takes_adds_up() -> None:
    fused = Memory(weights=100, optimizer=10, buffers=3)
    cached = Memory(weights=100, optimizer=10, cache=20, buffers=3, in_main=True)

    assert (fused.hbm, fused.ddr) == (100 + 10 + 3, 0)
    assert (cached.hbm, cached.ddr) == (20 + 3, 100 + 10)


@pytest.mark.parametrize(
    ("strategy", "world_size", "local"),
    [
        (Strategy.row_wise, 2, 2),
        pytest.param(Strategy.table_row_wise, 4, 2, marks=pytest.mark.slow),
    ],
)
def test_a_run_sends_what_the_plan_says(strategy: Strategy, world_size: int, local: int) -> None:
    where, load = cluster(world_size, local), Load(sharded.EXAMPLES // world_size, {})
    options = place(sharded.collection(), config(strategy), where, load)
    big = [option for option in options if option.sharding_type == strategy.value]
    planned = wire(big, {name: [name] for name in sharded.ROWS}, where, load, 1)

    ended = sharded.run(world_size, local, strategy.value)

    sent = json.loads(ended[0][1].splitlines()[-1])["sent"]
    assert len(big) == 2
    assert sent["_reduce_scatter_base_"] == planned.forward_intra[0]
    assert sent["_allgather_base_"] == planned.backward_intra[0]
