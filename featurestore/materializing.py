"""Materializing applied views: sources are opened once for all views that read them, and every run is recorded."""

from __future__ import annotations

from collections.abc import Sequence

from featurestore.catalog import Catalog
from featurestore.online.materialize import ViewRun, materialize_view
from featurestore.online.store import OnlineStore
from featurestore.plan.model import ViewPlan
from featurestore.registry import Registry, RunRecord
from featurestore.sources import ReadSettings, open_scans
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
    runs = []
    with open_scans(views, sources, settings) as scans:
        for view in views:
            started_us = clock.now_us()
            run = materialize_view(view, scans[view.name], store, until_us=until_us, full=full)
            registry.add_runs([_record(run, view, started_us, clock.now_us())])
            runs.append(run)
    return tuple(runs)


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
