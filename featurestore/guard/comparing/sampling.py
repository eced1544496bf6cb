"""Choosing entities by a hash of their key: the same ones in every audit, on every machine."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Ints
from featurestore.core.dtypes import (
    INT64,
    STRING,
    TIMESTAMP,
    DType,
)
from featurestore.core.errors import ConfigError
from featurestore.core.values import one_chunk
from featurestore.kernels.expressions import Environment, evaluate
from featurestore.plan.model import Column, Plan, TypedExpr
from featurestore.plan.names import AS_OF
from featurestore.serving_log.columns import key_column

BUCKETS = 1_000_003
"""Count of the numbers that keys are hashed to."""

SHARDS = 16
"""Key shards that an audit distinguishes."""


def check_share(share: float | None) -> float:
    """Return the share of entities to look at, 1 for ``None``.

    Raises:
        ConfigError: It is not above 0 and at most 1.
    """
    if share is None:
        return 1.0
    if not 0.0 < share <= 1.0:
        hint = "Use 0.1 for a tenth of the entities, or leave it out for all."
        raise ConfigError(f"{share!r} is not a valid share of entities", where="audit, sample", hint=hint)
    return float(share)


def check_rows(count: int | None) -> int | None:
    """Return how many rows are to be explained, ``None`` for all.

    Raises:
        ConfigError: It is below 1.
    """
    if count is not None and count < 1:
        raise ConfigError(
            f"{count!r} is not a valid number of rows to explain",
            where="audit, explain_rows",
            hint="Use at least 1, or causes=False to explain none.",
        )
    return count


def key_buckets(plan: Plan, log: pa.Table) -> Ints:
    """Return for each row of a log a number from 0 to a million that follows from its entity's key alone."""
    keys = ((log.column(key_column(column.name)), column.dtype) for column in plan.join_keys)
    return buckets(keys, rows=log.num_rows)


def row_buckets(plan: Plan, spine: pa.Table) -> Ints:
    """Return for each row of a spine a number from 0 to a million that follows from its key and instant alone."""
    columns = [*plan.join_keys, Column(AS_OF, TIMESTAMP)]
    return buckets(((spine.column(column.name), column.dtype) for column in columns), rows=spine.num_rows)


def buckets(keys: Iterable[tuple[pa.ChunkedArray | pa.Array, DType]], *, rows: int) -> Ints:
    """Return for each row a number from 0 to a million that follows from its values alone.

    Args:
        keys: Columns of keys, with their dtypes.
        rows: Count of rows.
    """
    total = np.zeros(rows, dtype=np.int64)
    for column, dtype in keys:
        is_decimal = dtype.kind == "decimal"
        array = one_chunk(column)
        array = array.cast(pa.string()) if is_decimal else array
        operand = TypedExpr("column", STRING if is_decimal else dtype, params=(("name", "key"),))
        hashed = TypedExpr("hash_bucket", INT64, args=(operand,), params=(("count", BUCKETS),))
        hashes = evaluate(hashed, Environment(columns={"key": array}, length=rows))
        total = total * 31 + hashes.fill_null(0).to_numpy(zero_copy_only=False)
    return np.asarray(total % BUCKETS, dtype=np.int64)


def sampled(plan: Plan, log: pa.Table, share: float) -> pa.Table:
    """Return the rows of a share of the entities."""
    if share >= 1.0:
        return log
    return log.filter(pa.array(key_buckets(plan, log) < share * BUCKETS))


def shards(plan: Plan, log: pa.Table) -> Ints:
    """Return for each row of a log the shard of its entity's key."""
    return key_buckets(plan, log) % SHARDS
