"""Stores and views that the tests of the online road share."""

import pyarrow as pa

from featurestore import Entity, FeatureService, FeatureView, FrameSource, agg, col
from featurestore.core.errors import StorageError
from featurestore.core.temporal import to_datetime
from featurestore.definitions.collection import collect
from featurestore.online.answering.lookup import OnlineReader
from featurestore.online.filling.materialize import materialize_view
from featurestore.online.stores.memory import MemoryOnlineStore as MemoryStore
from featurestore.plan.compiler import compile_definitions
from featurestore.sources import ReadSettings, open_scan, read_schema

SETTINGS = ReadSettings(threads=1)
T0 = 1_700_000_000_000_000
"""An instant from which the tests count, in microseconds."""


class DyingStore(MemoryStore):
    """A store that refuses every write and deletion from some number on, as if the process had died there."""

    def __init__(self, values, writes_left):
        super().__init__()
        self.values = values
        self.writes_left = writes_left

    def _live_on(self):
        if self.writes_left == 0:
            raise StorageError("dead")
        self.writes_left -= 1

    def write(self, items, *, expected=None):
        self._live_on()
        super().write(items, expected=expected)

    def delete(self, prefix):
        self._live_on()
        return super().delete(prefix)


USER = Entity("user", key="user", dtype="string")

FEATURES = {
    "n": agg.count().over("10s"),
    "total": agg.sum(col("x")).over("10s"),
    "name": agg.last(col("name")),
    "names": agg.last_n(col("name"), 2),
}


def instants(seconds):
    return pa.array([T0 + round(at * 1_000_000) for at in seconds], pa.int64()).cast(pa.timestamp("us", tz="UTC"))


def table_of(rows):
    """Return events from tuples: user, seconds after ``T0`` when it happened, when it was learned, x, name."""
    users, happened, learned, numbers, names = zip(*rows, strict=True) if rows else [()] * 5
    return pa.table(
        {
            "user": pa.array(users, pa.string()),
            "at": instants(happened),
            "learned": instants(learned),
            "x": pa.array(numbers, pa.float64()),
            "name": pa.array(names, pa.string()),
        }
    )


def view_of(rows, *, features=None, ingest_time="learned", inclusive=False, **options):
    frame = table_of(rows)
    source = FrameSource("events", frame=frame, event_time="at", ingest_time=ingest_time, inclusive=inclusive)
    return FeatureView("view", entity=USER, source=source, features=features or FEATURES, **options)


def compiled(*features):
    """Compile one service of the given features."""
    definitions = collect(FeatureService("model", features=list(features)))
    schemas = {source.name: read_schema(source, SETTINGS) for source in definitions.sources}
    return compile_definitions(definitions, schemas).services["model"]


def plan_of(view):
    return compiled(view).uses[0].view


def fold(view, store, until, **options):
    """Materialize a view up to some seconds after ``T0``."""
    plan = plan_of(view)
    with open_scan(view.source, plan.source, keys=[key.name for key in plan.entity.keys], settings=SETTINGS) as scan:
        return materialize_view(plan, scan, store, until_us=T0 + round(until * 1_000_000), **options)


def ask(view, store, users, at):
    """Look some users up, some seconds after ``T0``."""
    reader = OnlineReader(compiled(view), store)
    return reader.get([{"user": user} for user in users], as_of=to_datetime(T0 + round(at * 1_000_000)))
