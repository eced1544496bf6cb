"""Choosing entities by a hash of their key: the same ones in every audit, on every machine."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.dtypes import INT64, STRING, TIMESTAMP, DType
from featurestore.errors import ConfigError
from featurestore.kernels.expressions import Environment, evaluate
from featurestore.plan.model import Column, Plan, TypedExpr

Ints = npt.NDArray[np.int64]

_BUCKETS = 1_000_003
SHARDS = 16
"""Key shards that an audit tells apart."""


def check_share(share: float | None) -> float:
    """Return the share of entities to look at, 1 for ``None``.

    Raises:
        ConfigError: It is no share.
    """
    if share is None:
        return 1.0
    if not 0.0 < share <= 1.0:
        hint = "Say 0.1 for a tenth of the entities, or leave it out for all."
        raise ConfigError(f"{share!r} is no share of entities", where="audit, sample", hint=hint)
    return float(share)


def key_buckets(plan: Plan, log: pa.Table) -> Ints:
    """Return for each row of a log a number from 0 to a million that follows from its entity's key alone."""
    return _buckets([(column.dtype, log.column(f"key__{column.name}")) for column in plan.join_keys], log.num_rows)


def row_buckets(plan: Plan, spine: pa.Table) -> Ints:
    """Return for each row of a spine a number from 0 to a million that follows from its key and instant alone."""
    asked = [*plan.join_keys, Column("as_of", TIMESTAMP)]
    return _buckets([(column.dtype, spine.column(column.name)) for column in asked], spine.num_rows)


def _buckets(columns: Iterable[tuple[DType, pa.ChunkedArray | pa.Array]], row_count: int) -> Ints:
    total = np.zeros(row_count, dtype=np.int64)
    for dtype, column in columns:
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        is_decimal = dtype.kind == "decimal"
        operand = TypedExpr("column", STRING if is_decimal else dtype, params=(("name", "key"),))
        hashed = TypedExpr("hash_bucket", INT64, args=(operand,), params=(("count", _BUCKETS),))
        found = evaluate(
            hashed, Environment(columns={"key": array.cast(pa.string()) if is_decimal else array}, length=row_count)
        )
        total = total * 31 + found.fill_null(0).to_numpy(zero_copy_only=False)
    return np.asarray(total % _BUCKETS, dtype=np.int64)


def sampled(plan: Plan, log: pa.Table, share: float) -> pa.Table:
    """Return the rows of a share of the entities."""
    if share >= 1.0:
        return log
    return log.filter(pa.array(key_buckets(plan, log) < share * _BUCKETS))


def shards(plan: Plan, log: pa.Table) -> Ints:
    """Return for each row of a log the shard of its entity's key."""
    return key_buckets(plan, log) % SHARDS
