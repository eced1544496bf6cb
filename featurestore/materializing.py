"""Materializing applied views: sources are opened once for all views that read them, and every run is recorded."""

from __future__ import annotations

from collections.abc import Sequence

from featurestore.catalog import Catalog
from featurestore.definitions.sources import Source
from featurestore.online.materialize import ViewRun, materialize_view
from featurestore.online.store import OnlineStore
from featurestore.online.streaming import Stream
from featurestore.plan.model import ViewPlan
from featurestore.registry import Registry, RunRecord
from featurestore.sources import ReadSettings, open_scans
from featurestore.sources.pushed import OutsideIds, PushedEvents, Recent, outside_identity
from featurestore.temporal import Clock


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
) -> tuple[ViewRun, ...]:
    """Fold the events of several views into their online states.

    Args:
        views: The views.
        catalog: Knows their sources.
        registry: Takes down what was done, view by view, as soon as it is done.
        store: Where states are kept.
        settings: What reading may use.
        clock: Tells when a run began and ended.
        until_us: Exclusive bound of ingest times.
        full: Whether to fold everything again.

    Returns:
        What was done, in the order of ``views``.
    """
    sources = catalog.sources(view.source.name for view in views)
    for source in sources.values():
        if source.stream and settings.event_log is not None:
            settings.event_log.seal(source.name, until_us)
    streams = {view.name: _stream(sources[view.source.name], view, settings) for view in views}
    runs = []
    with open_scans(views, sources, settings) as scans:
        for view in views:
            started_us = clock.now_us()
            stream = streams[view.name]
            scan = scans[view.name] if stream is None else scans[view.name].outside()
            run = materialize_view(view, scan, store, until_us=until_us, full=full, stream=stream)
            registry.add_runs([_record(run, view, started_us, clock.now_us())])
            runs.append(run)
    return tuple(runs)


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
    if not source.stream or settings.event_log is None:
        return None
    return stream_of(source, view, settings, OutsideIds(source, settings))


def _record(run: ViewRun, view: ViewPlan, started_us: int, finished_us: int) -> RunRecord:
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
    )
