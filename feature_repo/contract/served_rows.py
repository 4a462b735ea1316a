"""The log of served rows: which features requests were answered with, as Parquet.

One row a user and request: ``user_id``, ``event_timestamp`` (the release's clock when the store
was read), and every user feature of the schema under its name and type, null where there was
none. The fingerprint of the schema stands in the file's metadata, so that rows of another list of
features are refused. The job ``skew`` compares such rows with the point-in-time join.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.contract.artifacts import read_table, write_table
from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import ArtifactError
from feature_repo.contract.online import arrow_type
from feature_repo.contract.schema import Entity, Schema
from feature_repo.contract.vocabulary import id_arrow_type

FINGERPRINT = b"shoprec.schema"


def served_columns(schema: Schema, user_id: IdType) -> pa.Schema:
    """Names and types of the columns, with the fingerprint."""
    fields = [
        pa.field("user_id", id_arrow_type(user_id)),
        pa.field("event_timestamp", pa.timestamp("us", tz="UTC")),
        *(pa.field(feature.name, arrow_type(feature)) for feature in schema.of(Entity.USER)),
    ]
    return pa.schema(fields, metadata={FINGERPRINT: schema.fingerprint.encode()})


def write_served_rows(path: Path, rows: pa.Table, schema: Schema, user_id: IdType) -> None:
    """Write rows such as ``UserRows.table``, atomically."""
    columns = served_columns(schema, user_id)
    write_table(path, rows.select(columns.names).cast(columns))


def read_served_rows(path: Path, schema: Schema, user_id: IdType) -> pa.Table:
    """Read rows that were served with this schema.

    A file without a fingerprint, such as one that another program wrote, needs only the columns.

    Raises:
        ArtifactError: no whole Parquet file, a column missing, or rows of another schema.
    """
    columns = served_columns(schema, user_id)
    table = read_table(path, columns.names)
    found = (pq.read_schema(path).metadata or {}).get(FINGERPRINT)
    if found is not None and found.decode() != schema.fingerprint:
        raise ArtifactError(
            f"{path} holds rows of features with the fingerprint {found.decode()}; those of "
            f"{schema.service} have {schema.fingerprint}. Compare them with the service that they "
            "were served with."
        )
    try:
        return table.cast(columns)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ArtifactError(
            f"{path} does not hold the types of {schema.service}: {error}"
        ) from error
