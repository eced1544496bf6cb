"""Choosing what to ask about: entities that occur, events whose instants are worth asking at, request inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.core.answers import OnlineFeatures
from featurestore.core.statuses import status_code
from featurestore.core.temporal import to_datetime
from featurestore.guard.comparing.sampling import key_buckets
from featurestore.plan.model import Plan, ViewUse
from featurestore.plan.names import AS_OF
from featurestore.serving_log.columns import (
    FINGERPRINT,
    KEY_PREFIX,
    LOGGED_AT,
    REQUEST_ID,
    ROW,
    SERVICE,
    key_column,
    log_schema,
    request_column,
    status_column,
    value_column,
    watermark_column,
)
from featurestore.sources import Scan

Row = dict[str, Any]

_MOST_LOGGED = 500_000


def logged_questions(plan: Plan, recent: Iterable[pa.Table]) -> pa.Table | None:
    """Return keys and request inputs that were asked about, newest rows last; ``None`` if there are none.

    Args:
        plan: The service's plan.
        recent: Rows of the serving log, the newest tables first. No more are read than are kept.
    """
    names = [key_column(column.name) for column in plan.join_keys]
    names += [request_column(column.name) for column in plan.request]
    kept: list[pa.Table] = []
    count = 0
    for table in recent:
        if set(names) <= set(table.column_names):
            kept.append(table.select(names))
            count += table.num_rows
        if count >= _MOST_LOGGED:
            break
    if not kept:
        return None
    found = pa.concat_tables(reversed(kept), promote_options="permissive")
    return found.slice(max(0, found.num_rows - _MOST_LOGGED))


def last_inputs(plan: Plan, logged: pa.Table | None) -> dict[tuple[Any, ...], Row]:
    """Return for each entity that was asked about the request inputs of its last row."""
    if logged is None or not plan.request:
        return {}
    keys = [key_column(column.name) for column in plan.join_keys]
    return {
        tuple(row[key] for key in keys): {column.name: row[request_column(column.name)] for column in plan.request}
        for row in logged.to_pylist()
    }


def entities(plan: Plan, count: int, logged: pa.Table | None, scans: Mapping[str, Scan]) -> list[Row]:
    """Choose entities by a hash of their keys: of those in a view that has all key columns, and those asked about.

    Where no view has all key columns and nothing was asked about, keys of different views are put side by side.

    Args:
        plan: The service's plan.
        count: How many; all there are if fewer.
        logged: What was asked about.
        scans: The rows of its views.
    """
    names = [column.name for column in plan.join_keys]
    schema = pa.schema([(key_column(column.name), column.dtype.arrow) for column in plan.join_keys])
    tables = [] if logged is None else [logged.select(schema.names).cast(schema)]
    whole = [use for use in plan.uses if set(use.keys) == set(names)]
    found = [_distinct(use, scans[use.view.name]) for use in (whole or plan.uses)]
    if whole:
        tables += [table.select(schema.names).cast(schema) for table in found]
    elif not tables:
        tables = [_side_by_side(found, count).select(schema.names).cast(schema)]
    distinct = pa.concat_tables(tables).group_by(schema.names).aggregate([])
    distinct = distinct.select(schema.names).combine_chunks()
    order = np.argsort(key_buckets(plan, distinct), kind="stable")[:count]
    rows = distinct.take(pa.array(order)).to_pylist()
    return [{name.removeprefix(KEY_PREFIX): value for name, value in row.items()} for row in rows]


@dataclass(frozen=True)
class Occurrence:
    """One event that was picked.

    Attributes:
        use: The use of a view that reads it.
        keys: The key columns of the service that it fills.
        event_time_us: When it happened.
        ingest_time_us: When it became known.
    """

    use: ViewUse
    keys: Row
    event_time_us: int
    ingest_time_us: int


def occurrences(plan: Plan, count: int, scans: Mapping[str, Scan]) -> list[Occurrence]:
    """Pick events of every view, evenly over its rows as they are read.

    Args:
        plan: The service's plan.
        count: How many of each view.
        scans: The rows of its views.
    """
    found: list[Occurrence] = []
    for use in plan.uses:
        scan = scans[use.view.name]
        wanted = np.unique(np.linspace(0, max(0, scan.row_count - 1), count).astype(np.int64))
        found += _picked(use, scan, wanted.tolist() if scan.row_count else [])
    return found


def _picked(use: ViewUse, scan: Scan, places: Sequence[int]) -> Iterable[Occurrence]:
    own = [key.name for key in use.view.entity.keys]
    times = [use.view.source.event_time, scan.ingest_column]
    begin, waiting = 0, list(places)
    for batch in scan.batches(list(dict.fromkeys([*own, *times]))):
        inside = [place - begin for place in waiting if place < begin + batch.num_rows]
        waiting = waiting[len(inside) :]
        begin += batch.num_rows
        if not inside:
            continue
        rows = batch.take(pa.array(inside))
        at, known = (rows.column(name).cast(pa.int64()).to_pylist() for name in times)
        keys = zip(*(rows.column(name).to_pylist() for name in own), strict=True)
        for values, event_time_us, ingest_time_us in zip(keys, at, known, strict=True):
            yield Occurrence(use, dict(zip(use.keys, values, strict=True)), event_time_us, ingest_time_us)


def as_log(plan: Plan, rows: Sequence[tuple[OnlineFeatures, int]], now_us: int) -> pa.Table:
    """Lay answers out as rows of the service's serving log.

    Args:
        plan: The plan that answered.
        rows: Answers, and which of their rows.
        now_us: When they were given.
    """
    schema = log_schema(plan)
    columns: dict[str, list[Any]] = {
        REQUEST_ID: [answer.request_id for answer, _ in rows],
        ROW: [row for _, row in rows],
        AS_OF: [to_datetime(answer.as_of_us) for answer, _ in rows],
        LOGGED_AT: [to_datetime(now_us)] * len(rows),
        SERVICE: [plan.name] * len(rows),
        FINGERPRINT: [plan.fingerprint] * len(rows),
    }
    for column in plan.join_keys:
        columns[key_column(column.name)] = [answer.entities[row][column.name] for answer, row in rows]
    for column in plan.request:
        columns[request_column(column.name)] = [answer.requests[row][column.name] for answer, row in rows]
    for place, output in enumerate(plan.outputs):
        columns[value_column(output.name)] = [answer.rows[row][place] for answer, row in rows]
        columns[status_column(output.name)] = [status_code(answer.statuses[row][place]) for answer, row in rows]
    for use in plan.uses:
        columns[watermark_column(use.alias)] = [to_datetime(answer.views[use.alias].watermark_us) for answer, _ in rows]
    arrays = [pa.array(columns.get(name, [None] * len(rows)), type=schema.field(name).type) for name in schema.names]
    return pa.Table.from_arrays(arrays, schema=schema)


def _distinct(use: ViewUse, scan: Scan) -> pa.Table:
    own = [key.name for key in use.view.entity.keys]
    parts = [pa.Table.from_batches([batch]).group_by(own).aggregate([]) for batch in scan.batches(own)]
    if not parts:
        schema = pa.schema([(key.name, key.dtype.arrow) for key in use.view.entity.keys])
        parts = [schema.empty_table()]
    whole = pa.concat_tables(parts).group_by(own).aggregate([]).select(own)
    return whole.rename_columns([key_column(name) for name in use.keys])


def _side_by_side(tables: Sequence[pa.Table], count: int) -> pa.Table:
    """Put keys of different entities into rows together: each of the largest with some of the others."""
    rows = np.arange(min(count, max(table.num_rows for table in tables)))
    columns: dict[str, pa.ChunkedArray] = {}
    for table in tables:
        if table.num_rows == 0:
            return pa.table({name: one.column(name).slice(0, 0) for one in tables for name in one.column_names})
        taken = table.take(pa.array(rows % table.num_rows))
        columns |= {name: taken.column(name) for name in taken.column_names}
    return pa.table(columns)
