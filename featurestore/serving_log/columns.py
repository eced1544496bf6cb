"""Columns of the serving log: their names and types, for everything that writes or reads it.

The schema is a public interface, described in ``docs/serving_log.md``. A log has a fixed group of columns, and one
column for each entity key, request input, feature and view of the service's plan, whose names begin with a prefix.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from featurestore.core.dtypes import TIMESTAMP
from featurestore.plan.model import Plan
from featurestore.plan.names import AS_OF

REQUEST_ID = "request_id"
ROW = "row"
LOGGED_AT = "logged_at"
SERVICE = "service"
FINGERPRINT = "fingerprint"
MODEL = "model"
MODEL_VERSION = "model_version"

KEY_PREFIX = "key__"
REQUEST_PREFIX = "request__"
VALUE_PREFIX = "value__"
STATUS_PREFIX = "status__"
WATERMARK_PREFIX = "watermark__"


def key_column(key: str) -> str:
    """Return the name of the column that holds a join key of the service."""
    return KEY_PREFIX + key


def request_column(name: str) -> str:
    """Return the name of the column that holds a request input."""
    return REQUEST_PREFIX + name


def value_column(feature: str) -> str:
    """Return the name of the column that holds the served values of a feature."""
    return VALUE_PREFIX + feature


def status_column(feature: str) -> str:
    """Return the name of the column that holds the status codes of a feature's values."""
    return STATUS_PREFIX + feature


def watermark_column(alias: str) -> str:
    """Return the name of the column that holds the watermark of a view, by its alias in the service."""
    return WATERMARK_PREFIX + alias


def names_of(prefix: str, columns: Iterable[str]) -> list[str]:
    """Return the keys, inputs, features or views that columns stand for, in the order of the columns.

    Args:
        prefix: One of the prefixes above.
        columns: Names of columns; those without the prefix are left out.
    """
    return [column.removeprefix(prefix) for column in columns if column.startswith(prefix)]


def log_schema(plan: Plan) -> pa.Schema:
    """Return the columns of a service's serving log, in the order in which they are written."""
    instant = TIMESTAMP.arrow
    return pa.schema(
        [
            (REQUEST_ID, pa.string()),
            (ROW, pa.int32()),
            (AS_OF, instant),
            (LOGGED_AT, instant),
            (SERVICE, pa.string()),
            (FINGERPRINT, pa.string()),
            (MODEL, pa.string()),
            (MODEL_VERSION, pa.string()),
            *((key_column(key.name), key.dtype.arrow) for key in plan.join_keys),
            *((request_column(column.name), column.dtype.arrow) for column in plan.request),
            *((value_column(output.name), output.dtype.arrow) for output in plan.outputs),
            *((status_column(output.name), pa.uint8()) for output in plan.outputs),
            *((watermark_column(use.alias), instant) for use in plan.uses),
        ]
    )
