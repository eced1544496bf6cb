"""Choosing requests to test: entities that occur, events whose instants are worth testing, request inputs."""

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
    """Return keys and request inputs of served requests, newest rows last; ``None`` if there are none.

    Args:
        plan: The service's plan.
        recent: Rows of the serving log, the newest tables first. No more tables are read than are kept.
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
    requests = pa.concat_tables(reversed(kept), promote_options="permissive")
    return requests.slice(max(0, requests.num_rows - _MOST_LOGGED))


def last_inputs(plan: Plan, logged: pa.Table | None) -> dict[tuple[Any, ...], Row]:
    """Return for each entity in the log the request inputs of its last row."""
    if logged is None or not plan.request:
        return {}
    keys = [key_column(column.name) for column in plan.join_keys]
    return {
        tuple(row[key] for key in keys): {column.name: row[request_column(column.name)] for column in plan.request}
        for row in logged.to_pylist()
    }


def entities(plan: Plan, count: int, logged: pa.Table | None, scans: Mapping[str, Scan]) -> list[Row]:
    """Choose entities by a hash of their keys: from views that have all key columns, and from the log.

    Where no view has all key columns and the log is empty, keys of different views are put side by side.

    Args:
        plan: The service's plan.
        count: Count of entities; all there are if fewer.
        logged: Keys and request inputs from the log.
        scans: The rows of its views.
    """
    names = [column.name for column in plan.join_keys]
    schema = pa.schema([(key_column(column.name), column.dtype.arrow) for column in plan.join_keys])
    tables = [] if logged is None else [logged.select(schema.names).cast(schema)]
    whole = [use for use in plan.uses if set(use.keys) == set(names)]
    keys_of_views = [_distinct(use, scans[use.view.name]) for use in (whole or plan.uses)]
    if whole:
        tables += [table.select(schema.names).cast(schema) for table in keys_of_views]
    elif not tables:
        tables = [_side_by_side(keys_of_views, count).select(schema.names).cast(schema)]
    distinct = pa.concat_tables(tables).group_by(schema.names).aggregate([])
    distinct = distinct.select(schema.names).combine_chunks()
    order = np.argsort(key_buckets(plan, distinct), kind="stable")[:count]
    rows = distinct.take(pa.array(order)).to_pylist()
    return [{name.removeprefix(KEY_PREFIX): value for name, value in row.items()} for row in rows]


@dataclass(frozen=True)
class Occurrence:
    """An event that was chosen.

    Attributes:
        use: The use of a view that reads it.
        keys: The key columns of the service that it fills.
        event_time_us: When it happened, µs.
        ingest_time_us: When it became known, µs.
    """

    use: ViewUse
    keys: Row
    event_time_us: int
    ingest_time_us: int


def occurrences(plan: Plan, count: int, scans: Mapping[str, Scan]) -> list[Occurrence]:
    """Choose events of every view, evenly over its rows as they are read.

    Args:
        plan: The service's plan.
        count: Count of events of each view.
        scans: The rows of its views.
    """
    chosen: list[Occurrence] = []
    for use in plan.uses:
        scan = scans[use.view.name]
        wanted = np.unique(np.linspace(0, max(0, scan.row_count - 1), count).astype(np.int64))
        chosen += _events_at(use, scan, wanted.tolist() if scan.row_count else [])
    return chosen


def _events_at(use: ViewUse, scan: Scan, places: Sequence[int]) -> Iterable[Occurrence]:
    key_names = [key.name for key in use.view.entity.keys]
    times = [use.view.source.event_time, scan.ingest_column]
    begin, left = 0, list(places)
    for batch in scan.batches(list(dict.fromkeys([*key_names, *times]))):
        inside = [place - begin for place in left if place < begin + batch.num_rows]
        left = left[len(inside) :]
        begin += batch.num_rows
        if not inside:
            continue
        rows = batch.take(pa.array(inside))
        happened, known = (rows.column(name).cast(pa.int64()).to_pylist() for name in times)
        keys = zip(*(rows.column(name).to_pylist() for name in key_names), strict=True)
        for values, event_time_us, ingest_time_us in zip(keys, happened, known, strict=True):
            yield Occurrence(use, dict(zip(use.keys, values, strict=True)), event_time_us, ingest_time_us)


def as_log(plan: Plan, rows: Sequence[tuple[OnlineFeatures, int]], now_us: int) -> pa.Table:
    """Return answers as rows of the service's serving log.

    Args:
        plan: The plan that answered.
        rows: Answers, each with the number of one of its rows.
        now_us: When they were answered, µs.
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
    names = [key.name for key in use.view.entity.keys]
    parts = [pa.Table.from_batches([batch]).group_by(names).aggregate([]) for batch in scan.batches(names)]
    if not parts:
        schema = pa.schema([(key.name, key.dtype.arrow) for key in use.view.entity.keys])
        parts = [schema.empty_table()]
    whole = pa.concat_tables(parts).group_by(names).aggregate([]).select(names)
    return whole.rename_columns([key_column(name) for name in use.keys])


def _side_by_side(tables: Sequence[pa.Table], count: int) -> pa.Table:
    """Put keys of different entities into rows together: each of the largest with some of the others."""
    rows = np.arange(min(count, max(table.num_rows for table in tables)))
    columns: dict[str, pa.ChunkedArray] = {}
    for table in tables:
        if table.num_rows == 0:
            return pa.table({name: empty.column(name).slice(0, 0) for empty in tables for name in empty.column_names})
        taken = table.take(pa.array(rows % table.num_rows))
        columns |= {name: taken.column(name) for name in taken.column_names}
    return pa.table(columns)
