"""Runs definitions on small frames with no store, for users' unit tests.

Rows are read, features computed and columns named by the same code that builds training sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pyarrow as pa

from featurestore.core.dtypes import TIMESTAMP, parse_declared
from featurestore.core.errors import SourceMissingError, SpineError, listing, unknown_source
from featurestore.core.statuses import Status
from featurestore.core.temporal import instant_us
from featurestore.definitions.collection import collect
from featurestore.definitions.services import FeatureService, Listed
from featurestore.definitions.sources import FileSource, FrameSource, Source, SqlSource
from featurestore.offline.build import Features, compute_features, questions_of
from featurestore.offline.parts import Resources
from featurestore.offline.spine import read_spine
from featurestore.offline.training_set import STATUS_SUFFIX
from featurestore.plan.compiler import compile_definitions
from featurestore.plan.model import Plan, ViewUse
from featurestore.plan.names import AS_OF
from featurestore.sources import ReadSettings, Scan, open_scans, read_schema
from featurestore.sources.convert import to_contract
from featurestore.sources.frames import source_table

_SETTINGS = ReadSettings(threads=1)
_RESOURCES = Resources(threads=1)


def evaluate(
    definition: Listed | FeatureService, *, events: Any, at: Any, statuses: bool = False, as_of: str = AS_OF
) -> pa.Table:
    """Compute the features of a training set from events in memory.

    The definition is used as it is, sources included: their times, ``event_id``, ``inclusive``, ``on_null`` and
    declared dtypes hold; only the rows come from ``events``.

    Args:
        definition: A feature view, an on-demand view, a selection of features, or a feature service.
        events: The rows of the only source, or a mapping from source name to rows: pandas or Polars frames, pyarrow
            tables, anything with ``__arrow_c_stream__``. Declared dtypes are cast to as when a file is read.
        at: One instant, an aware ``datetime`` or ISO 8601 text, asks about every key that occurs in the events, in the
            order of the keys. Or a spine: a frame with the key columns, ``as_of``, request inputs, and any others.
        statuses: Whether to add a column ``<feature>__status`` for each feature.
        as_of: Column of the spine that holds the instants.

    Returns:
        The key columns and ``as_of``, or the spine's columns and rows as they are; then the features, named
        ``view__feature``.

    Raises:
        DefinitionError: The definition does not compile against the columns of the events.
        SourceError: Events of a source are missing, or break its contract.
        SpineError: The spine cannot be used, or ``at`` is one instant and the views of the service have different key
            columns.

    Example:
        >>> from featurestore import Entity, FeatureView, FileSource, agg, col
        >>> flights = FileSource("flights", path="flights/*.parquet", event_time="landed_at")
        >>> delays = FeatureView(
        ...     "delays",
        ...     entity=Entity("carrier", key="carrier"),
        ...     source=flights,
        ...     features={"worst_1d": agg.max(col("minutes")).over("1d")},
        ... )
        >>> landed = [datetime.fromisoformat(f"2026-01-01T{hour}:00Z") for hour in ("08", "09", "12")]
        >>> events = pa.table({"carrier": ["UA", "AA", "UA"], "landed_at": landed, "minutes": [5, 7, 90]})
        >>> evaluate(delays, events=events, at="2026-01-01T12:00Z").select(["carrier", "delays__worst_1d"]).to_pylist()
        [{'carrier': 'AA', 'delays__worst_1d': 7}, {'carrier': 'UA', 'delays__worst_1d': 5}]
    """
    service = (
        definition if isinstance(definition, FeatureService) else FeatureService("evaluated", features=[definition])
    )
    definitions = collect(service)
    sources = _in_memory(definitions.sources, events)
    schemas = {name: read_schema(source, _SETTINGS) for name, source in sources.items()}
    plan = compile_definitions(definitions, schemas).services[service.name]
    with open_scans([use.view for use in plan.uses], sources, _SETTINGS) as scans:
        reserved = [f"{output.name}{STATUS_SUFFIX}" for output in plan.outputs] if statuses else []
        rows = _spine(at, plan, scans)
        column = as_of if rows is at else AS_OF
        spine = read_spine(rows, plan, as_of=column, reserved=reserved)
        questions = questions_of(spine, plan, column)
        return _table(spine, compute_features(plan, questions, scans, resources=_RESOURCES), statuses=statuses)


def _in_memory(sources: tuple[Source, ...], events: Any) -> dict[str, Source]:
    """Return each source with its rows in memory."""
    names = [source.name for source in sources]
    if not isinstance(events, Mapping):
        if len(names) != 1:
            hint = f"Give a mapping from source to rows. {listing('Sources', names)}"
            raise SourceMissingError("one frame for several sources", where="events", hint=hint)
        events = {names[0]: events}
    for name in sorted({*names, *events}):
        if name not in names:
            raise unknown_source(name, names).error(SourceMissingError, "events")
        if name not in events:
            problem = f"there are no rows for source '{name}'"
            raise SourceMissingError(problem, where="events", hint=listing("Sources", names))
    return {source.name: _framed(source, events[source.name]) for source in sources}


def _framed(source: Source, frame: Any) -> FrameSource:
    where = f"events of source '{source.name}'"
    declared = source.dtypes if isinstance(source, FileSource | SqlSource | FrameSource) else {}
    dtypes = {name: parse_declared(dtype)[0] for name, dtype in declared.items()}
    table, unreadable = source_table(frame, dtypes, where=where)
    for name, error in unreadable.items():
        if name in declared:
            raise error
        # Without a type it is an error only for a definition that uses it.
        table = table.set_column(table.column_names.index(name), name, pa.nulls(table.num_rows))
    for name, dtype in declared.items():
        if name in table.column_names:
            kind, epoch = parse_declared(dtype)
            array, _ = to_contract(
                table.column(name), kind, timezone=source.clock, where=f"{where}, column '{name}'", epoch=epoch
            )
            table = table.set_column(table.column_names.index(name), name, array)
    return FrameSource(
        source.name,
        frame=table,
        event_time=source.event_time,
        ingest_time=source.ingest_time,
        event_id=source.event_id,
        timezone=source.timezone,
        ambiguous=source.ambiguous,
        nonexistent=source.nonexistent,
        inclusive=source.inclusive,
        on_null=source.on_null,
    )


def _spine(at: Any, plan: Plan, scans: Mapping[str, Scan]) -> Any:
    """Return the spine, or one of every key if ``at`` is an instant."""
    if not isinstance(at, str | datetime):
        return at
    names = {use.keys for use in plan.uses}
    if len({frozenset(keys) for keys in names}) != 1:
        raise SpineError(
            "one instant is not enough, since the views have different keys",
            where="at",
            hint=f"Give a spine with the columns {', '.join(column.name for column in plan.join_keys)} and {AS_OF}.",
        )
    keys = [column.name for column in plan.join_keys]
    rows = pa.concat_tables([_keys_of(use, scans[use.view.name]).select(keys) for use in plan.uses])
    distinct = rows.group_by(keys).aggregate([]).sort_by([(key, "ascending") for key in keys])
    instants = pa.array([instant_us(at, where="at")] * distinct.num_rows, type=pa.int64()).cast(TIMESTAMP.arrow)
    return distinct.append_column(AS_OF, instants)


def _keys_of(use: ViewUse, scan: Scan) -> pa.Table:
    return scan.read([key.name for key in use.view.entity.keys]).rename_columns(list(use.keys))


def _table(spine: pa.Table, features: Features, *, statuses: bool) -> pa.Table:
    columns = {name: spine.column(name) for name in spine.column_names} | features.values
    if statuses:
        names = {f"{name}{STATUS_SUFFIX}": codes for name, codes in features.statuses.items()}
        columns |= {name: pa.array([Status(code).name for code in codes.tolist()]) for name, codes in names.items()}
    return pa.table(columns)
