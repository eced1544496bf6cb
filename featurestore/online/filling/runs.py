"""Materializing several views: each source is opened once for all views that read it, and every run is recorded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial

import pyarrow as pa

from featurestore.core.errors import FeatureStoreError, StorageError
from featurestore.core.temporal import Clock, format_duration, format_instant
from featurestore.definitions.sources import Source
from featurestore.online.filling.materialize import EVENTS_AT_ONCE, ViewRun, materialize_view
from featurestore.online.filling.reading import PreviousRead
from featurestore.online.filling.streaming import Stream
from featurestore.online.stores.store import OnlineStore
from featurestore.plan.model import ViewPlan
from featurestore.registry import FAILED, RUNNING, FileRead, Registry, RunRecord
from featurestore.registry.catalog import Catalog
from featurestore.sources import ReadSettings, Scan, open_scans
from featurestore.sources.content import content_text
from featurestore.sources.event_log import EventLog
from featurestore.sources.logged import reads_log
from featurestore.sources.pushed import OutsideIds, PushedEvents, Recent, outside_identity
from featurestore.sources.rows import SourceFile
from featurestore.storage.progress import Progress

_LOGGER = logging.getLogger("featurestore.online.filling")


def materialize(
    views: Sequence[ViewPlan],
    *,
    catalog: Catalog,
    registry: Registry,
    store: OnlineStore,
    settings: ReadSettings,
    clock: Clock,
    until_us: int,
    full: bool,
    wait_seconds: float = 0,
    progress: Progress | None = None,
) -> tuple[ViewRun, ...]:
    """Fold the events of several views into their online states, several views in parallel.

    A view that fails does not stop the others.

    Args:
        views: The views; several plans of one name are several views.
        catalog: The applied definitions, with the sources of the views.
        registry: Records every run as soon as it has ended or failed.
        store: Where states are kept.
        settings: The resources that reading may use.
        clock: Returns the instants at which runs begin and end.
        until_us: Exclusive bound of ingest times.
        full: Whether to fold all events again.
        wait_seconds: How long to wait for another run on a view to end.
        progress: Called with the progress.

    Returns:
        The results, in the order of ``views``.

    Raises:
        FeatureStoreError: The error of the first view that failed; the other views are done.
    """
    sources = catalog.sources(view.source.name for view in views)
    for source in sources.values():
        if source.stream and settings.event_log is not None:
            _seal(settings.event_log, source.name, until_us)
    workers = max(1, min(settings.threads, len(views)))
    context = _Context(
        registry, store, settings, clock, until_us, full, wait_seconds, progress, EVENTS_AT_ONCE // workers
    )
    failures: list[FeatureStoreError] = []
    with ExitStack() as stack:
        scans: dict[str, Scan] = {}
        for group in _group_by_scan(views, catalog):
            # Under their fingerprints as names: several plans may have one name.
            named = [replace(view, name=view.fingerprint) for view in group]
            try:
                scans |= stack.enter_context(open_scans(named, sources, settings))
            except FeatureStoreError as error:
                now_us = clock.now_us()
                registry.add_runs([_failed_record(view, error, now_us, context) for view in group])
                failures.append(error)
        with ThreadPoolExecutor(workers) as pool:
            tasks = [
                pool.submit(_run, view, sources[view.source.name], scans[view.fingerprint], context)
                for view in views
                if view.fingerprint in scans
            ]
    if failures:
        raise failures[0]
    return tuple(task.result() for task in tasks)


def _seal(log: EventLog, source: str, until_us: int) -> None:
    """Seal a log: no later event gets an ingest time before an instant.

    Raises:
        StorageError: The log cannot be written, or the instant is in the future by the log's clock.
    """
    head = log.seal(source, until_us)
    if head.next_ingest_us < until_us:
        ahead = format_duration(until_us - head.next_ingest_us)
        raise StorageError(
            f"the clock of this machine is {ahead} or more ahead of the log's",
            where=f"event log, source '{source}'",
            hint="Set the clock. Nothing was folded.",
            code="clock-ahead",
        )


def refresh_kept(
    views: Sequence[ViewPlan],
    *,
    catalog: Catalog,
    registry: Registry,
    store: OnlineStore,
    settings: ReadSettings,
    clock: Clock,
    until_us: int,
    full: bool,
) -> None:
    """Materialize views of plans that are kept beside the live ones, one after the other.

    A failure is logged and not raised: the source may have changed since, and only callers that expect such a plan need
    it.

    Args:
        views: The views.
        catalog: The applied definitions, with the sources of the views.
        registry: Records the runs.
        store: Where their states are kept.
        settings: The resources that reading may use.
        clock: Returns the instants at which runs begin and end.
        until_us: Exclusive bound of ingest times.
        full: Whether to fold all events again.
    """
    for view in views:
        try:
            materialize(
                [view],
                catalog=catalog,
                registry=registry,
                store=store,
                settings=settings,
                clock=clock,
                until_us=until_us,
                full=full,
            )
        except FeatureStoreError as error:
            _LOGGER.warning(
                "view '%s' of an earlier plan, %s, cannot be refreshed: %s", view.name, view.fingerprint[:12], error
            )


def _group_by_scan(views: Sequence[ViewPlan], catalog: Catalog) -> list[list[ViewPlan]]:
    """Group views that share a scan: the applied views of each source; every other plan has a scan of its own.

    An earlier plan may not be able to read its source as it is now; that must not fail the applied views.
    """
    applied = {view.fingerprint for view in catalog.views().values()}
    groups: dict[str, list[ViewPlan]] = {}
    for view in views:
        groups.setdefault(view.source.name if view.fingerprint in applied else view.fingerprint, []).append(view)
    return list(groups.values())


def stream_of(
    source: Source, view: ViewPlan, settings: ReadSettings, outside_ids: OutsideIds, recent: Recent | None = None
) -> Stream:
    """Return the pushed events that a view of a source with ``stream=True`` follows.

    Args:
        source: The definition.
        view: The view.
        settings: The resources that reading may use, with the event log.
        outside_ids: The event ids outside the log.
        recent: Events that were just appended, if any.
    """
    return Stream(PushedEvents(source, view, settings, outside_ids, recent), outside_identity(source, settings))


def _stream(source: Source, view: ViewPlan, settings: ReadSettings) -> Stream | None:
    if not reads_log(source, view.source) or settings.event_log is None:
        return None
    return stream_of(source, view, settings, OutsideIds(source, settings))


@dataclass(frozen=True)
class _Context:
    """The parts and arguments that the runs of one call share."""

    registry: Registry
    store: OnlineStore
    settings: ReadSettings
    clock: Clock
    until_us: int
    full: bool
    wait_seconds: float
    progress: Progress | None
    events_at_once: int


def _run(view: ViewPlan, source: Source, scan: Scan, context: _Context) -> ViewRun:
    """Run one view, and record its beginning and its result."""
    recorder = _RunRecorder(view, context)
    progress = context.progress
    try:
        stream = _stream(source, view, context.settings)
        run = materialize_view(
            view,
            scan if stream is None else scan.outside(),
            context.store,
            until_us=context.until_us,
            full=context.full,
            events_at_once=context.events_at_once,
            stream=stream,
            previous_read=_previous_read(context.registry, view),
            wait_seconds=context.wait_seconds,
            on_begin=recorder.begin,
            progress=None if progress is None else partial(progress, view.name),
        )
    except FeatureStoreError as error:
        if error.code != "busy":
            recorder.end(_failed_record(view, error, recorder.started_us, context))
        raise
    except Exception as error:
        recorder.end(_failed_record(view, error, recorder.started_us, context))
        raise
    run = _with_late_events(run, view, scan)
    files = context.registry.keep_files([FileRead(**asdict(file)) for file in scan.files])
    recorder.end(_run_record(run, view, recorder.started_us, context.clock.now_us(), files))
    return run


_LATE_SHARE = 0.5
"""The share of late events above which a run logs a warning."""


def _with_late_events(run: ViewRun, view: ViewPlan, scan: Scan) -> ViewRun:
    """Count the events that happened before a run's end and become known only later; warn if most events are late.

    The usual reason is a column with the time of loading that is declared as ingest_time. The events are only counted
    if the run folded few of them.
    """
    ingest_time = view.source.ingest_time
    if ingest_time is None or not scan.row_count or run.row_count > (1 - _LATE_SHARE) * scan.outside().row_count:
        return run
    late = 0
    for batch in scan.batches([view.source.event_time, ingest_time]):
        happened, known = (column.cast(pa.int64()).to_numpy(zero_copy_only=False) for column in batch.columns)
        late += int(((happened < run.until_us) & (known >= run.until_us)).sum())
    if late > _LATE_SHARE * scan.row_count:
        _LOGGER.warning(
            "view '%s': %d of %d events happened before %s and become known only later, so lookups do not see them yet."
            " Column '%s' is declared as ingest_time, the instant at which an event became known. If it holds the time"
            " of a later load or update, leave ingest_time out.",
            view.name,
            late,
            scan.row_count,
            format_instant(run.until_us),
            ingest_time,
        )
    return replace(run, late_events=late)


class _RunRecorder:
    """Records one run, from its beginning on, so that a run that dies is visible."""

    def __init__(self, view: ViewPlan, context: _Context) -> None:
        self._view = view
        self._context = context
        self._number: int | None = None
        self.started_us = context.clock.now_us()

    def begin(self) -> None:
        until_us = self._context.until_us
        record = RunRecord(
            self._view.name, self._view.fingerprint, self.started_us, self.started_us, until_us, until_us, 0, 0
        )
        self._number = self._context.registry.begin_run(replace(record, outcome=RUNNING))

    def end(self, run: RunRecord) -> None:
        if self._number is None:
            self._context.registry.add_runs([run])
        else:
            self._context.registry.end_run(self._number, run)


def _previous_read(registry: Registry, view: ViewPlan) -> PreviousRead | None:
    """Return what the last run of a plan has read, if that was recorded."""
    last = registry.last_run(view.fingerprint)
    if last is None or not last.content:
        return None
    files = tuple(SourceFile(**asdict(file)) for file in registry.files_read(last.files))
    return PreviousRead(last.row_count, int(last.content, 16), files)


def _run_record(run: ViewRun, view: ViewPlan, started_us: int, finished_us: int, files: str) -> RunRecord:
    return RunRecord(
        view=run.view,
        fingerprint=view.fingerprint,
        started_at_us=started_us,
        finished_at_us=finished_us,
        from_us=run.from_us,
        until_us=run.until_us,
        event_count=run.events,
        entity_count=run.entities,
        note=run.rebuilt,
        row_count=run.row_count,
        content="" if run.content is None else content_text(run.content),
        files=files,
    )


def _failed_record(view: ViewPlan, error: Exception, started_us: int, context: _Context) -> RunRecord:
    return RunRecord(
        view=view.name,
        fingerprint=view.fingerprint,
        started_at_us=started_us,
        finished_at_us=context.clock.now_us(),
        from_us=context.until_us,
        until_us=context.until_us,
        event_count=0,
        entity_count=0,
        outcome=FAILED,
        problem=str(error),
    )
