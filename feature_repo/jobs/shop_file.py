"""One file of a shop: its columns, and its values read strictly, with the first bad row named."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from feature_repo.contract.errors import BadInput
from feature_repo.jobs.database import name, rows, text

TEXT = "VARCHAR"
WHOLE_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
FRACTIONS = ("FLOAT", "DOUBLE")
TIMES = ("DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP_S", "TIMESTAMP_MS")
MILLISECONDS = 10**11
"""Numbers from here on are epoch milliseconds, below it seconds (the year 5138)."""

CSV_SUFFIXES = (".csv", ".tsv", ".txt")
PARQUET_SUFFIXES = (".parquet", ".pq")


@dataclass(frozen=True)
class ShopFile:
    """A Parquet or CSV file, or a glob of them, as DuckDB reads it."""

    setting: str
    """The setting that names it, such as ``data.events``."""
    path: str
    table: str
    """SQL table expression; CSV values are text."""
    types: dict[str, str]
    """Column -> DuckDB type."""

    @staticmethod
    def open(connection: duckdb.DuckDBPyConnection, setting: str, path: str) -> ShopFile:
        """Look at a file's columns.

        Raises:
            BadInput: there is no such file, or it is neither Parquet nor CSV.
        """
        paths = file_paths(setting, path)
        suffix = Path(paths[0].name.removesuffix(".gz")).suffix.lower()
        listed = "[" + ", ".join(text(found) for found in paths) + "]"
        if suffix in PARQUET_SUFFIXES:
            table = f"read_parquet({listed})"
        elif suffix in CSV_SUFFIXES:
            table = f"read_csv({listed}, header = true, all_varchar = true)"
        else:
            raise BadInput(
                f"{setting}={path} ends in {suffix!r}; expected one of "
                f"{', '.join(PARQUET_SUFFIXES + CSV_SUFFIXES)} (CSV also with .gz)."
            )
        try:
            described = rows(connection, f"DESCRIBE FROM {table}")
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise BadInput(f"{setting}={path} cannot be read: {reason}") from error
        return ShopFile(setting, path, table, {line[0]: line[1] for line in described})

    def find(self, canonical: str, chosen: str | None, *, required: bool = False) -> str | None:
        """The file's column for a canonical one.

        Raises:
            BadInput: the chosen column, or a required one, is not there.
        """
        if chosen is not None and chosen not in self.types:
            raise BadInput(
                f"{self.path} has no column {chosen!r} (data.columns.{canonical}={chosen}); "
                f"it has {', '.join(self.types)}."
            )
        found = chosen or (canonical if canonical in self.types else None)
        if found is None and required:
            raise BadInput(
                f"{self.path} has no column {canonical!r}; it has {', '.join(self.types)}. "
                f"Set data.columns.{canonical} to the one that holds it."
            )
        return found

    def holds_whole_numbers(self, connection: duckdb.DuckDBPyConnection, column: str) -> bool:
        """Whether a column's ids are 64-bit integers; text with leading zeros is not."""
        kind = self.types[column]
        if kind in WHOLE_NUMBERS:
            return True
        is_csv = self.table.startswith("read_csv")
        if kind not in FRACTIONS and not is_csv:
            return False
        bad = (
            f"NOT regexp_full_match(trim({name(column)}), '-?(0|[1-9][0-9]{{0,17}})(\\.0+)?')"
            if is_csv
            else f"{name(column)} <> floor({name(column)})"
        )
        return not rows(connection, f"SELECT 1 FROM {self.table} WHERE {bad} LIMIT 1")

    def cast(self, connection: duckdb.DuckDBPyConnection, column: str, kind: str) -> str:
        """An SQL expression of the column's values as ``kind``; empty text is null.

        Raises:
            BadInput: a value does not fit; its row is named.
        """
        value = self._value(column)
        if kind == TEXT:
            return f"{value}::VARCHAR"
        if kind == "BIGINT" and self.types[column] == TEXT:
            value = f"regexp_replace({value}, '\\.0+$', '')"
        self.require(connection, column, f"TRY_CAST({value} AS {kind})", f"a {kind} value")
        return f"TRY_CAST({value} AS {kind})"

    def time(
        self, connection: duckdb.DuckDBPyConnection, column: str, time_format: str | None
    ) -> str:
        """An SQL expression of the column's times; one without a zone is of the session's zone.

        Raises:
            BadInput: a value is not a time; its row is named.
        """
        kind, value = self.types[column], self._value(column)
        if kind in WHOLE_NUMBERS + FRACTIONS:
            seconds = f"CASE WHEN {value} >= {MILLISECONDS} THEN {value} / 1000 ELSE {value} END"
            return f"to_timestamp({seconds})"
        if kind in TIMES or kind.startswith("TIMESTAMP"):
            return f"{value}::TIMESTAMPTZ"
        if time_format is None:
            parsed, expected = f"TRY_CAST({value} AS TIMESTAMPTZ)", "an ISO 8601 time"
        else:
            parsed = f"try_strptime({value}, {text(time_format)})::TIMESTAMPTZ"
            expected = f"a time of the format {time_format}"
        hint = "" if time_format else "; data.time_format takes another format, as strptime does"
        self.require(connection, column, parsed, expected + hint)
        return parsed

    def require(
        self, connection: duckdb.DuckDBPyConnection, column: str, parsed: str, expected: str
    ) -> None:
        """Check that every value that is there can be parsed.

        Raises:
            BadInput: one cannot; file, column, row and value are named.
        """
        condition = f"{self._value(column)} IS NOT NULL AND {parsed} IS NULL"
        bad = self.first_row(connection, condition, column)
        if bad is not None:
            number, value = bad
            raise BadInput(
                f"{self.path}, column {column!r}, row {number}: got {value!r}, expected {expected}."
            )

    def first_row(
        self, connection: duckdb.DuckDBPyConnection, condition: str, column: str
    ) -> tuple[int, Any] | None:
        """Number (from 1, without a CSV's header) and value of the first row that fits."""
        if not rows(connection, f"SELECT 1 FROM {self.table} WHERE {condition} LIMIT 1"):
            return None
        found = rows(
            connection,
            f"SELECT number, {name(column)} FROM ("
            f"SELECT *, row_number() OVER () AS number FROM {self.table}) "
            f"WHERE {condition} ORDER BY number LIMIT 1",
        )
        return int(found[0][0]), found[0][1]

    def _value(self, column: str) -> str:
        if self.types[column] == TEXT:
            return f"nullif(trim({name(column)}), '')"
        return name(column)


def file_paths(setting: str, path: str) -> list[Path]:
    """The files that a path or glob names.

    Raises:
        BadInput: there is none.
    """
    found = sorted(Path(match) for match in glob.glob(path))
    files = [match for match in found if match.is_file()]
    if not files:
        raise BadInput(f"{setting}={path}: there is no such file.")
    return files
