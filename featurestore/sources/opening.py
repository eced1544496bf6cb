"""Scans of sources: for one view or several, with the pushed events or of these alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pyarrow as pa

from featurestore.core.dtypes import DType
from featurestore.core.errors import SourceError
from featurestore.definitions.sources import Source
from featurestore.plan.model import INGEST_COLUMN, SourcePlan, ViewPlan
from featurestore.sources.event_log import Stretch
from featurestore.sources.files import place_of
from featurestore.sources.logged import LoggedRows, LogRows, in_contract, reads_log
from featurestore.sources.outside import open_outside
from featurestore.sources.rows import RawRows, TableRows
from featurestore.sources.scan import IngestRange, Scan
from featurestore.sources.settings import ReadSettings

_DEFAULT = ReadSettings()


def open_scan(source: Source, plan: SourcePlan, *, keys: Iterable[str] = (), settings: ReadSettings = _DEFAULT) -> Scan:
    """Open the events of a source, for one view; close it to give back temporary files.

    Rows that are neither local Parquet nor a frame are read here, once, into a spool.

    Args:
        source: The definition.
        plan: What the view needs of it.
        keys: The view's key columns; rows in which one is null are an error or dropped, as the source says.
        settings: Threads, memory and folders.

    Raises:
        SourceMissingError: A file, table or column does not exist.
        SourceDataError: A file is corrupt, or a value does not fit its dtype.
        SourceError: A database or a remote file cannot be reached.
        StorageError: The temporary folder is full.
    """
    outside = _outside_of(source, [plan], settings)
    try:
        rows = _with_log(source, plan, outside, _stretches(source, settings), settings)
        return Scan(rows, plan, keys=tuple(keys), on_null=source.on_null, settings=settings)
    except SourceError:
        outside.close()
        raise


def open_log_scan(source: Source, view: ViewPlan, *, settings: ReadSettings, ingest: IngestRange | None = None) -> Scan:
    """Open the pushed events of a source alone, for one view.

    Deliveries are not compared, neither with each other nor with the rows outside. Events without a value in a column
    that became a key or the event time after they were pushed are left out.

    Args:
        source: The definition.
        view: The view.
        settings: Threads and memory, and the log.
        ingest: Only parts of the log whose events may have become known in this range; read the scan with it, too.
    """
    stretches = _stretches(source, settings, ingest=ingest)
    rows = _log_rows(view.source, stretches, settings, where=_log_place(view))
    return _log_scan(rows, view, settings)


def scan_of_events(events: pa.Table, view: ViewPlan, *, settings: ReadSettings) -> Scan:
    """Open events that were just appended to the log as ``open_log_scan`` opens those that are read from it.

    Args:
        events: Events under the names and types of the log.
        view: The view.
        settings: Threads and memory.

    Raises:
        SourceDataError: A value is not exactly one of the plan's dtype.
    """
    names = [column.name for column in view.source.columns]
    rows = TableRows(in_contract(events, view.source, names, where=_log_place(view)))
    return _log_scan(rows, view, settings)


def _log_scan(rows: RawRows, view: ViewPlan, settings: ReadSettings) -> Scan:
    keys = tuple(key.name for key in view.entity.keys)
    return Scan(rows, replace(view.source, event_id=None), keys=keys, on_null="drop", settings=settings)


@contextmanager
def open_scans(
    views: Iterable[ViewPlan], sources: Mapping[str, Source], settings: ReadSettings = _DEFAULT
) -> Iterator[dict[str, Scan]]:
    """Open a scan for each of several views; rows that several of them read in the same way are spooled only once.

    Args:
        views: The views.
        sources: Definitions by name.
        settings: Threads, memory and folders.

    Yields:
        Scans by view name.
    """
    by_source: dict[str, list[ViewPlan]] = {}
    for view in {view.name: view for view in views}.values():
        by_source.setdefault(view.source.name, []).append(view)
    with ExitStack() as stack:
        scans: dict[str, Scan] = {}
        for name, group in by_source.items():
            source = sources[name]
            stretches = _stretches(source, settings)
            for views_of_rows in _same_columns(group):
                outside = _outside_of(source, [view.source for view in views_of_rows], settings)
                stack.callback(outside.close)
                for view in views_of_rows:
                    rows = _with_log(source, view.source, outside, stretches, settings)
                    keys = tuple(key.name for key in view.entity.keys)
                    scans[view.name] = Scan(
                        rows, view.source, keys=keys, on_null=source.on_null, settings=settings, owns_rows=False
                    )
        yield scans


def _same_columns(views: Iterable[ViewPlan]) -> list[list[ViewPlan]]:
    """Group views of one source so that no two views of a group read a column as different dtypes or zones."""
    groups: list[tuple[str | None, dict[str, DType], list[ViewPlan]]] = []
    for view in views:
        timezone, wanted = view.source.timezone, {column.name: column.dtype for column in view.source.columns}
        for known_timezone, columns, group in groups:
            if timezone == known_timezone and all(columns.get(name, dtype) == dtype for name, dtype in wanted.items()):
                columns.update(wanted)
                group.append(view)
                break
        else:
            groups.append((timezone, wanted, [view]))
    return [group for _, _, group in groups]


def _outside_of(source: Source, plans: Sequence[SourcePlan], settings: ReadSettings) -> RawRows:
    """Open the rows outside the event log, for plans that read columns in the same way."""
    log_column = {INGEST_COLUMN} if source.stream else set()
    columns = {column.name: column.dtype for plan in plans for column in plan.columns if column.name not in log_column}
    return open_outside(replace(source, timezone=plans[0].timezone), columns, settings)


def _with_log(
    source: Source, plan: SourcePlan, outside: RawRows, stretches: Sequence[Stretch], settings: ReadSettings
) -> RawRows:
    """Return the rows outside followed by the pushed events, if the plan reads these."""
    if not reads_log(source, plan):
        return outside
    where = f"{place_of(source)}, event log"
    return LoggedRows(outside, _log_rows(plan, stretches, settings, where=where), plan)


def _log_rows(plan: SourcePlan, stretches: Sequence[Stretch], settings: ReadSettings, *, where: str) -> RawRows:
    if settings.event_log is None:
        return TableRows(pa.schema([(column.name, column.dtype.arrow) for column in plan.columns]).empty_table())
    return LogRows(settings.event_log, plan, stretches, where=where)


def _stretches(source: Source, settings: ReadSettings, *, ingest: IngestRange | None = None) -> Sequence[Stretch]:
    """Return where the pushed events of a source are stored now."""
    if not source.stream or settings.event_log is None:
        return ()
    return settings.event_log.stretches(source.name, ingest=ingest)


def _log_place(view: ViewPlan) -> str:
    """Return the place in messages of pushed events, with the plan: other plans may read the same events well."""
    return f"feature view '{view.name}' (plan {view.fingerprint[:12]}), source '{view.source.name}', event log"


def ingest_column(source: Source) -> str:
    """Return the column with the instant at which an event of a source that accepts pushes became known."""
    return INGEST_COLUMN if source.ingest_time in (None, source.event_time) else str(source.ingest_time)
