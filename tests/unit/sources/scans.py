"""Shorthand for tests that open sources."""

from collections.abc import Sequence

from featurestore.definitions.sources import Source
from featurestore.plan.checks import epoch_units
from featurestore.plan.model import Column, SourcePlan
from featurestore.sources import ReadSettings, Scan, open_scan, read_schema

SETTINGS = ReadSettings(threads=2)


def plan_of(source: Source, settings: ReadSettings = SETTINGS) -> SourcePlan:
    """Return the plan of a view that reads every column."""
    schema = read_schema(source, settings)
    columns = tuple(Column(name, dtype) for name, dtype in sorted(schema.items()) if dtype is not None)
    return SourcePlan(
        source.name,
        columns,
        source.event_time,
        ingest_time=source.ingest_time,
        event_id=source.event_id,
        timezone=source.timezone,
        inclusive=source.inclusive,
        epochs=tuple(sorted(epoch_units(source).items())),
    )


def scan_of(source: Source, keys: Sequence[str] = ("key",), settings: ReadSettings = SETTINGS) -> Scan:
    """Open every column of a source."""
    return open_scan(source, plan_of(source, settings), keys=keys, settings=settings)
