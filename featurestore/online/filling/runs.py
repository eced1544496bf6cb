"""Materializing applied views: sources are opened once for all views that read them, and every run is recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
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

_LOGGER = logging.getLogger("featurestore.online.filling")

FoldProgress = Callable[[str, int, int], None]
"""Is told, for a view, how many events its run has folded so far and how many it will; from several threads."""


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
    progress: FoldProgress | None = None,
) -> tuple[ViewRun, ...]:
    """Fold the events of several views into their online states, several views at a time.

    A view that fails does not keep the others from being done.

    Args:
        views: The views; several plans of one name are several views.
        catalog: Knows their sources.
        registry: Takes down what was done, view by view, as soon as it is done, and what failed.
        store: Where states are kept.
        settings: What reading may use.
        clock: Tells when a run began and ended.
        until_us: Exclusive bound of ingest times.
        full: Whether to fold everything again.
        wait_seconds: How long to wait for another run on a view to end.
        progress: Told about progress.

    Returns:
        What was done, in the order of ``views``.

    Raises:
        FeatureStoreError: A view failed, the first of these; the others were done.
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
        for group in _opened_together(views, catalog):
            # Under their fingerprints as names: several plans may have one name.
            named = [replace(view, name=view.fingerprint) for view in group]
            try:
                scans |= stack.enter_context(open_scans(named, sources, settings))
            except FeatureStoreError as error:
                now_us = clock.now_us()
                registry.add_runs([_failed(view, error, now_us, context) for view in group])
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
    """Promise that no event to come has an ingest time before an instant.

    Raises:
        StorageError: The log cannot be written, or the instant lies in the future by the log's clock.
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
    """Fold events for views of plans that are kept beside the live ones, each by itself.

    What one fails by is logged: its source may have changed since, and nobody but callers that expect its plan needs
    it.

    Args:
        views: The views.
        catalog: Knows their sources.
        registry: Keeps how the runs went.
        store: Where their states are.
        settings: What reading may use.
        clock: Tells how long a run took.
        until_us: Exclusive bound of ingest times.
        full: Whether to fold everything again.
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


def _opened_together(views: Sequence[ViewPlan], catalog: Catalog) -> list[list[ViewPlan]]:
    """Group views whose sources are opened together: the applied ones of each source, and every other plan alone.

    A plan that was applied earlier may not be able to read what its source has become. That is its own failure.
    """
    applied = {view.fingerprint for view in catalog.views().values()}
    groups: dict[str, list[ViewPlan]] = {}
    for view in views:
        groups.setdefault(view.source.name if view.fingerprint in applied else view.fingerprint, []).append(view)
    return list(groups.values())


def stream_of(
    source: Source, view: ViewPlan, settings: ReadSettings, outside_ids: OutsideIds, recent: Recent | None = None
) -> Stream:
    """Return what a view of a source that accepts pushes follows.

    Args:
        source: The definition.
        view: The view.
        settings: What reading may use, the log among it.
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
    """What the runs of one call share."""

    registry: Registry
    store: OnlineStore
    settings: ReadSettings
    clock: Clock
    until_us: int
    full: bool
    wait_seconds: float
    progress: FoldProgress | None
    events_at_once: int


def _run(view: ViewPlan, source: Source, scan: Scan, context: _Context) -> ViewRun:
    """Run one view, and take down that it began and how it went."""
    taken_down = _RunRecorder(view, context)
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
            read_before=_read_before(context.registry, view),
            wait_seconds=context.wait_seconds,
            began=taken_down.begin,
            progress=None if progress is None else partial(progress, view.name),
        )
    except FeatureStoreError as error:
        if error.code != "busy":
            taken_down.end(_failed(view, error, taken_down.started_us, context))
        raise
    except Exception as error:
        taken_down.end(_failed(view, error, taken_down.started_us, context))
        raise
    run = _with_late_events(run, view, scan)
    files = context.registry.keep_files([FileRead(**asdict(file)) for file in scan.files])
    taken_down.end(_done(run, view, taken_down.started_us, context.clock.now_us(), files))
    return run


_MOST = 0.5
"""Beyond which share of late events a run says so."""


def _with_late_events(run: ViewRun, view: ViewPlan, scan: Scan) -> ViewRun:
    """Count the events that happened before a run's end and become known only later; warn if they are most of all.

    A column that says when a row was loaded, declared as ingest_time, is the usual reason. The events are only looked
    at if the run folded few of those that there are.
    """
    ingest_time = view.source.ingest_time
    if ingest_time is None or not scan.row_count or run.row_count > (1 - _MOST) * scan.outside().row_count:
        return run
    late = 0
    for batch in scan.batches([view.source.event_time, ingest_time]):
        happened, known = (column.cast(pa.int64()).to_numpy(zero_copy_only=False) for column in batch.columns)
        late += int(((happened < run.until_us) & (known >= run.until_us)).sum())
    if late > _MOST * scan.row_count:
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
    """The record of one run: there from its beginning, so that a run that dies is seen."""

    def __init__(self, view: ViewPlan, context: _Context) -> None:
        self._view = view
        self._context = context
        self._number: int | None = None
        self.started_us = context.clock.now_us()

    def begin(self) -> None:
        until_us = self._context.until_us
        began = RunRecord(
            self._view.name, self._view.fingerprint, self.started_us, self.started_us, until_us, until_us, 0, 0
        )
        self._number = self._context.registry.begin_run(replace(began, outcome=RUNNING))

    def end(self, run: RunRecord) -> None:
        if self._number is None:
            self._context.registry.add_runs([run])
        else:
            self._context.registry.end_run(self._number, run)


def _read_before(registry: Registry, view: ViewPlan) -> PreviousRead | None:
    """Return what the last run of a plan had read, if it was taken down."""
    last = registry.last_run(view.fingerprint)
    if last is None or not last.content:
        return None
    files = tuple(SourceFile(**asdict(file)) for file in registry.files_read(last.files))
    return PreviousRead(last.row_count, int(last.content, 16), files)


def _done(run: ViewRun, view: ViewPlan, started_us: int, finished_us: int, files: str) -> RunRecord:
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


def _failed(view: ViewPlan, error: Exception, started_us: int, context: _Context) -> RunRecord:
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
