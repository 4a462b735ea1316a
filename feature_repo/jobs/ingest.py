"""Job ``ingest``: a source's raw files become the canonical tables and ``dataset.json``."""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path

from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ConfigError
from feature_repo.jobs import (
    canonical,
    complete_journey,
    parquet_shop,
    planted,
    shop_file,
    synthetic,
    windows,
)
from feature_repo.jobs.canonical import finish
from feature_repo.jobs.config import JobConfig, Source
from feature_repo.jobs.database import connect
from feature_repo.jobs.feast_repo import write_settings
from feature_repo.jobs.stage import Stage

log = logging.getLogger(__name__)

CODE = (canonical, complete_journey, parquet_shop, planted, shop_file, synthetic, windows)
OUTPUTS = ("events", "users", "items", "item_context")


def ingest(config: JobConfig, now: datetime) -> Dataset:
    """Make the canonical tables, or find them unchanged.

    Raises:
        BadInput: the files do not hold what the configuration says; the row is named.
        ConfigError: the source's files hold ids alone, and another job reads them.
    """
    data = config.data
    if data.source is Source.interactions:
        raise ConfigError(
            f"data={data.name} has ids alone, which the ingest does not read; run python -m "
            "feature_repo.jobs interactions with the same settings."
        )
    stage = stage_of(config)
    dataset_json = data.folder / "dataset.json"
    if not config.force and dataset_json.is_file() and stage.is_current():
        return data.dataset()
    data.folder.mkdir(parents=True, exist_ok=True)
    with connect(config, data.folder) as connection:
        match data.source:
            case Source.complete_journey:
                staged = complete_journey.stage(connection, data)
            case Source.parquet:
                staged = parquet_shop.stage(connection, data)
            case Source.synthetic:
                staged = synthetic.stage(connection, data)
        dataset = finish(connection, data, staged, now)
    write_settings(dataset)
    stage.done()
    for reason, count in dataset.counts.items():
        log.info("%s: %s %d", data.name, reason, count)
    return dataset


def stage_of(config: JobConfig) -> Stage:
    """The inputs and outputs of this job."""
    folder = config.data.folder
    outputs = [folder / "canonical" / f"{table}.parquet" for table in OUTPUTS]
    return Stage("ingest", folder, source_files(config), config.data, outputs, CODE)


def source_files(config: JobConfig) -> list[Path]:
    """The raw files that a data set is made of."""
    match config.data.source:
        case Source.complete_journey:
            return complete_journey.source_files()
        case Source.parquet:
            return parquet_shop.source_files(config.data)
        case Source.synthetic | Source.interactions:
            return []
