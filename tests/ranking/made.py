"""Rankers of random weights over the made-up shop, written as bundles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from feature_repo.contract.artifacts import write_json, write_manifest
from feature_repo.contract.encoding import Encoder
from feature_repo.contract.tables import TableFile, TableForm, Tables
from ranking.dcn_v2 import DcnV2Config, Structure
from ranking.features import Requests, numeric_matrix
from ranking.inputs import InputEncoder
from ranking.items import ItemSide
from ranking.network import NetworkConfig
from ranking.rankers import make_network
from ranking.scorer import Member, member_folder, write_network, write_ranker
from ranking.wide_deep import WideDeepConfig
from tests.ranking import shop

CROSSES = [
    ["own_weight", "own_due"],
    ["segment", "brand"],
    ["own_count", "sessions_decayed", "price"],
]
WIDE_DEEP = WideDeepConfig(
    id_dim=4,
    feature_dim=4,
    bucket_dim=4,
    hidden=[8, 4],
    crosses=CROSSES,
    max_cross_rows=200,
)

DCN_V2 = DcnV2Config(
    id_dim=4,
    feature_dim=4,
    bucket_dim=4,
    crosses=CROSSES[:1],
    width=8,
    cross_rank=3,
    structure=Structure.parallel,
    hidden=[6],
)


def make_ranker(
    folder: Path, config: NetworkConfig = WIDE_DEEP, num_members: int = 1
) -> tuple[InputEncoder, list[Member]]:
    """Write a bundle of random weights."""
    inputs = fit_inputs(config)
    folder.mkdir(parents=True)
    members = [
        make_member(member_folder(folder, index), inputs, config, seed=5 + index)
        for index in range(num_members)
    ]
    widths = inputs.widths(config.without, dict.fromkeys(members[0].tables.table_of, 4))
    write_ranker(folder, inputs, config, widths, num_members)
    sign(folder)
    return inputs, members


def sign(folder: Path) -> None:
    """Write the manifest of a bundle."""
    write_manifest(folder, "ranker", {"sources": list(shop.SOURCES), "half_life_days": 56.0})


def fit_inputs(config: NetworkConfig) -> InputEncoder:
    """The inputs of the shop's candidates."""
    encoder, rows = shop.encoder(), shop.user_rows()
    side = ItemSide.of(shop.item_rows(), shop.vocabulary(), encoder)
    now_s = np.full(len(rows), shop.NOW_S)
    requests = Requests.of(rows, shop.candidates(rows), now_s, side, shop.SCHEMA)
    values = numeric_matrix(requests)
    return InputEncoder.fit(encoder, requests, values, np.arange(len(values)), config)


def make_member(folder: Path, inputs: InputEncoder, config: NetworkConfig, seed: int) -> Member:
    """Write a network of random weights and its tables."""
    tables = make_tables(folder / "tables", inputs.encoder, seed)
    torch.manual_seed(seed)
    widths = inputs.widths(config.without, dict.fromkeys(tables.table_of, 4))
    network = make_network(config, widths).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    write_network(folder, network)
    return Member(network, tables)


def make_tables(folder: Path, encoder: Encoder, seed: int) -> Tables:
    """Write tables of random rows, 4 wide."""
    random, specs = np.random.default_rng(seed), encoder.tables()
    folder.mkdir(parents=True)
    for spec in specs:
        file = TableFile.create(folder, spec.name, spec.num_rows, 4, TableForm.fp32)
        file.write(0, 0, random.normal(size=(spec.num_rows, 4)).astype(np.float32))
        file.flush()
    owners = {feature: spec.name for spec in specs for feature in spec.features}
    write_json(folder / "tables.json", owners)
    return Tables.load(folder)
