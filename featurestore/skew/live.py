"""Live audits: entities that are asked about now, on the online road, in the form of a serving log."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.definitions.sources import Source
from featurestore.kernels.events import Status
from featurestore.online.lookup import OnlineReader
from featurestore.online.result import OnlineFeatures
from featurestore.online.serving_log import log_schema
from featurestore.online.store import OnlineStore
from featurestore.plan.model import Plan, ViewUse
from featurestore.skew.sampling import key_buckets
from featurestore.sources import ReadSettings, Scan, open_scans
from featurestore.temporal import MICROSECONDS, Clock, to_datetime

_POOL = 5
"""How many times more entities are looked at than asked about, so that rare kinds are among them."""

_AT_ONCE = 1_000
_MOST_LOGGED = 500_000
_CODES = {status.name: int(status) for status in Status}
_AGES = np.array([MICROSECONDS["m"], MICROSECONDS["h"], MICROSECONDS["d"], MICROSECONDS["w"]])


def ask_live(
    plan: Plan,
    count: int,
    *,
    now_us: int,
    online: OnlineStore,
    clock: Clock,
    sources: Mapping[str, Source],
    settings: ReadSettings,
    recent: Iterable[pa.Table],
) -> pa.Table:
    """Choose entities and ask the online road about them.

    Args:
        plan: The service's live plan.
        count: How many entities; all there are if fewer.
        now_us: Instant asked about.
        online: Where states are kept.
        clock: Tells the present instant.
        sources: Definitions of the plan's sources by name.
        settings: What reading may use.
        recent: What was served lately, for entities and request inputs that occur.

    Returns:
        A table with the columns of the service's serving log.
    """
    logged = _logged(plan, recent)
    pool = _pool(plan, count, logged, sources, settings)
    inputs = _last_inputs(plan, logged)
    reader = OnlineReader(plan, online, clock)
    keys = [column.name for column in plan.join_keys]
    answers = [
        reader.get(
            chunk,
            request=[inputs.get(tuple(row[key] for key in keys), dict.fromkeys(_requests(plan))) for row in chunk],
            as_of=to_datetime(now_us),
        )
        for chunk in _chunks(pool)
    ]
    chosen = _stratified(answers, count, now_us)
    return _as_log(plan, [(answers[number], row) for number, row in chosen], now_us)


def _requests(plan: Plan) -> list[str]:
    return [column.name for column in plan.request]


def _chunks(rows: Sequence[dict[str, Any]]) -> Iterable[Sequence[dict[str, Any]]]:
    return (rows[at : at + _AT_ONCE] for at in range(0, len(rows), _AT_ONCE))


def _logged(plan: Plan, recent: Iterable[pa.Table]) -> pa.Table | None:
    """Return keys and request inputs that were asked about, newest rows last."""
    names = [f"key__{column.name}" for column in plan.join_keys]
    names += [f"request__{column.name}" for column in plan.request]
    kept = [table.select(names) for table in islice(recent, 10_000) if set(names) <= set(table.column_names)]
    if not kept:
        return None
    found = pa.concat_tables(kept, promote_options="permissive")
    return found.slice(max(0, found.num_rows - _MOST_LOGGED))


def _pool(
    plan: Plan, count: int, logged: pa.Table | None, sources: Mapping[str, Source], settings: ReadSettings
) -> list[dict[str, Any]]:
    """Return entities to choose from: those of a view that has all key columns, and those asked about."""
    names = [column.name for column in plan.join_keys]
    schema = pa.schema([(f"key__{column.name}", column.dtype.arrow) for column in plan.join_keys])
    tables = [] if logged is None else [logged.select(schema.names).cast(schema)]
    with open_scans([use.view for use in plan.uses], sources, settings) as scans:
        whole = [use for use in plan.uses if set(use.keys) == set(names)]
        found = [_distinct(use, scans[use.view.name]) for use in (whole or plan.uses)]
    if whole:
        tables += [table.select(schema.names).cast(schema) for table in found]
    elif not tables:
        tables = [_side_by_side(found, _POOL * count).select(schema.names).cast(schema)]
    distinct = pa.concat_tables(tables).group_by(schema.names).aggregate([])
    distinct = distinct.select(schema.names).combine_chunks()
    order = np.argsort(key_buckets(plan, distinct), kind="stable")[: _POOL * count]
    rows = distinct.take(pa.array(order)).to_pylist()
    return [{name.removeprefix("key__"): value for name, value in row.items()} for row in rows]


def _distinct(use: ViewUse, scan: Scan) -> pa.Table:
    own = [key.name for key in use.view.entity.keys]
    parts = [pa.Table.from_batches([batch]).group_by(own).aggregate([]) for batch in scan.batches(own)]
    if not parts:
        schema = pa.schema([(key.name, key.dtype.arrow) for key in use.view.entity.keys])
        parts = [schema.empty_table()]
    whole = pa.concat_tables(parts).group_by(own).aggregate([]).select(own)
    return whole.rename_columns([f"key__{name}" for name in use.keys])


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


def _last_inputs(plan: Plan, logged: pa.Table | None) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return for each entity that was asked about the request inputs of its last row."""
    if logged is None or not plan.request:
        return {}
    keys = [f"key__{column.name}" for column in plan.join_keys]
    return {
        tuple(row[key] for key in keys): {name: row[f"request__{name}"] for name in _requests(plan)}
        for row in logged.to_pylist()
    }


def _stratified(answers: Sequence[OnlineFeatures], count: int, now_us: int) -> list[tuple[int, int]]:
    """Choose rows evenly from those of different statuses and different ages of the newest event."""
    strata: dict[tuple[Any, ...], list[tuple[int, int]]] = defaultdict(list)
    for number, answer in enumerate(answers):
        for row, statuses in enumerate(answer.statuses):
            ages = [_age(newest[row], now_us) for newest in answer.event_times.values()]
            strata[tuple(sorted(set(statuses))), tuple(ages)].append((number, row))
    waiting = [iter(rows) for _, rows in sorted(strata.items(), key=lambda item: repr(item[0]))]
    chosen: list[tuple[int, int]] = []
    while waiting and len(chosen) < count:
        for rows in list(waiting):
            found = next(rows, None)
            if found is None:
                waiting.remove(rows)
            elif len(chosen) < count:
                chosen.append(found)
    return sorted(chosen)


def _age(event_time_us: int | None, now_us: int) -> int:
    return -1 if event_time_us is None else int(np.searchsorted(_AGES, now_us - event_time_us))


def _as_log(plan: Plan, rows: Sequence[tuple[OnlineFeatures, int]], now_us: int) -> pa.Table:
    """Lay answers out as rows of the service's serving log."""
    schema = log_schema(plan)
    columns: dict[str, list[Any]] = {
        "request_id": [answer.request_id for answer, _ in rows],
        "row": [row for _, row in rows],
        "as_of": [to_datetime(answer.as_of_us) for answer, _ in rows],
        "logged_at": [to_datetime(now_us)] * len(rows),
        "service": [plan.name] * len(rows),
        "fingerprint": [plan.fingerprint] * len(rows),
    }
    for column in plan.join_keys:
        columns[f"key__{column.name}"] = [answer.entities[row][column.name] for answer, row in rows]
    for column in plan.request:
        columns[f"request__{column.name}"] = [answer.requests[row][column.name] for answer, row in rows]
    for place, output in enumerate(plan.outputs):
        columns[f"value__{output.name}"] = [answer.rows[row][place] for answer, row in rows]
        columns[f"status__{output.name}"] = [_CODES[answer.statuses[row][place]] for answer, row in rows]
    for use in plan.uses:
        columns[f"watermark__{use.alias}"] = [to_datetime(answer.views[use.alias].watermark_us) for answer, _ in rows]
    arrays = [pa.array(columns.get(name, [None] * len(rows)), type=schema.field(name).type) for name in schema.names]
    return pa.Table.from_arrays(arrays, schema=schema)
