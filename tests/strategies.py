"""Random definitions, histories of events, and questions: the raw material of the oracle, the laws and parity.

Everything lies near one instant and mostly on a grid of half hours, so that ties, window edges and horizons meet.
"""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from featurestore import Entity, FeatureView, FrameSource, agg, col, continuous, every
from featurestore.core.dtypes import (
    BINARY,
    BOOL,
    DATE,
    FLOAT64,
    INT64,
    STRING,
    TIMESTAMP,
    DType,
    list_of,
)
from featurestore.core.temporal import duration_us
from featurestore.definitions.collection import collect
from featurestore.plan.aggregations import SPELLINGS, Refusal
from featurestore.plan.compiler import compile_definitions
from featurestore.plan.model import ViewPlan

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START_US = (datetime(2024, 3, 1, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
HALF_HOUR_US = duration_us("30m")
SPAN = 96
"""Half hours in which events happen: two days."""

WINDOWS = ("1us", "30m", "1h", "90m", "6h", "1d")
RESOLUTIONS = (None, None, "30m", "1h", "7m")
TIMES_TO_LIVE = ("1us", "1h", "12h")
REFRESHES = (
    continuous(),
    continuous(),
    every("1h"),
    every("1h", lag="10m"),
    every("30m", lag="2h"),
    every("7h", lag="1us"),
)

DTYPES = {
    "flag": BOOL,
    "whole": INT64,
    "number": FLOAT64,
    "text": STRING,
    "instant": TIMESTAMP,
    "day": DATE,
    "bytes": BINARY,
    "money": DType("decimal", precision=18, scale=2),
    "wide": DType("decimal", precision=30, scale=3),
    "tags": list_of(STRING),
    "counts": list_of(INT64),
}
"""Value columns of every history, one per dtype of the contract."""

TINY_AND_HUGE = (5e-324, -5e-324, 2.2250738585072014e-308, 1e-300, -1e-300, 1e300, -1e300, 1.7976931348623157e308)
EDGES = (2**63 - 1, -(2**63), 2**62, -(2**62), 2**53 + 1)


def to_datetime(instant_us: int) -> datetime:
    return EPOCH + timedelta(microseconds=instant_us)


def instants() -> st.SearchStrategy[int]:
    """Microseconds: on the grid, one off it, or anywhere."""
    on_grid = st.integers(0, SPAN).map(lambda step: START_US + step * HALF_HOUR_US)
    near = st.tuples(on_grid, st.sampled_from((-1, 0, 0, 0, 1))).map(sum)
    return st.one_of(near, near, near, st.integers(START_US, START_US + SPAN * HALF_HOUR_US))


def floats(*, extreme: bool) -> st.SearchStrategy[float]:
    plain = st.sampled_from((0.0, 1.0, -1.0, 0.1, 0.5, 2.5, -3.75, 1e16))
    if not extreme:
        return plain
    every_float = st.floats(allow_nan=False, allow_infinity=False).map(lambda value: value + 0.0)
    return st.one_of(plain, st.sampled_from(TINY_AND_HUGE), every_float)


def wholes(*, extreme: bool) -> st.SearchStrategy[int]:
    small = st.integers(-3, 3)
    return st.one_of(small, st.sampled_from(EDGES), st.integers(-(2**63), 2**63 - 1)) if extreme else small


def decimals(digits: int, scale: int) -> st.SearchStrategy[Decimal]:
    largest = 10**digits - 1
    unscaled = st.one_of(st.integers(-300, 300), st.sampled_from((largest, -largest)), st.integers(-largest, largest))
    return unscaled.map(lambda number: Decimal(number).scaleb(-scale, context=Context(prec=60)))


def values(name: str, *, extreme: bool) -> st.SearchStrategy[Any]:
    """Values of one column; lists come as tuples, so that they can be compared and counted."""
    texts = st.sampled_from(("a", "b", "ä", "", "A", "zz", "🛫"))
    return {
        "flag": st.booleans(),
        "whole": wholes(extreme=extreme),
        "number": floats(extreme=extreme),
        "text": texts,
        "instant": instants().map(to_datetime),
        "day": st.sampled_from((date(1969, 12, 31), date(2024, 2, 29), date(2024, 3, 1))),
        "bytes": st.sampled_from((b"", b"\x00", b"\xff", b"ab")),
        "money": decimals(18, 2),
        "wide": decimals(30, 3),
        "tags": st.lists(st.one_of(st.none(), texts), max_size=2).map(tuple),
        "counts": st.lists(st.one_of(st.none(), st.integers(-2, 2)), max_size=2).map(tuple),
    }[name]


OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "ddof": st.sampled_from((0, 1, 1, 2)),
    "respect_nulls": st.booleans(),
    "n": st.integers(1, 4),
    "q": st.one_of(st.sampled_from((0.0, 0.5, 1.0, 0.1)), st.floats(0, 1)),
    "unit": st.sampled_from(("us", "s", "h", "d")),
}


def operands_of(name: str) -> list[str | None]:
    """Columns that an aggregation takes, and ``None`` if it can do without one."""
    aggregate = SPELLINGS[name].aggregate
    columns = [column for column, dtype in DTYPES.items() if not isinstance(aggregate.gives(dtype), Refusal)]
    return columns if aggregate.over_events is None else [*columns, None]


def conditions() -> st.SearchStrategy[Any]:
    """No condition, or one of a few that are true, false and null."""
    return (
        st.sampled_from((None, None, "flag", "whole > 0", "text == 'a'", "not flag"))
        .map(
            {
                None: lambda: None,
                "flag": lambda: col("flag"),
                "whole > 0": lambda: col("whole") > 0,
                "text == 'a'": lambda: col("text") == "a",
                "not flag": lambda: ~col("flag"),
            }.__getitem__
        )
        .map(lambda make: make())
    )


@st.composite
def aggregations(draw, name: str | None = None, column: Any = ...):
    """An aggregation with its options, window and condition."""
    name = draw(st.sampled_from(sorted(SPELLINGS))) if name is None else name
    spelling = SPELLINGS[name]
    column = draw(st.sampled_from(operands_of(name))) if column is ... else column
    options = {option: draw(OPTIONS[option]) for option in spelling.options}
    operand = () if column is None else (col(column),)
    built = getattr(agg, name)(*operand, where=draw(conditions()), **options)
    window = draw(st.sampled_from((*WINDOWS, None, None)))
    if window is not None:
        resolution = draw(st.sampled_from(RESOLUTIONS))
        fits = resolution is not None and duration_us(resolution) <= duration_us(window)
        built = built.over(window, resolution=resolution if fits else None)
    elif not spelling.aggregate.defaults_to_lifetime or draw(st.booleans()):
        built = built.lifetime()
    if spelling.aggregate.takes_ttl and draw(st.booleans()):
        built = built.ttl(draw(st.sampled_from(TIMES_TO_LIVE)))
    return built


ENTITIES = {
    "one": (Entity("one", key="name", dtype="string"), (("a",), ("b",), ("A",))),
    "pair": (Entity("pair", key=("left", "right"), dtype="int64"), ((1, 11), (11, 1), (1, 1))),
    "texts": (Entity("texts", key=("left", "right"), dtype="string"), (("1", "11"), ("11", "1"), ("111", ""))),
    "mixed": (
        Entity("mixed", key=("left", "day"), dtype=("string", "date")),
        (("1", date(2024, 3, 1)), ("", date(1, 1, 1))),
    ),
}
"""Entities with keys that would collide if their parts ran together."""


def entities() -> st.SearchStrategy[Any]:
    return st.sampled_from(sorted(ENTITIES)).map(ENTITIES.__getitem__)


@dataclass(frozen=True)
class Scenario:
    """A view, what happened, and what is asked.

    Attributes:
        view: The definition; its source holds the events.
        plan: The view, compiled.
        events: One dict per event, from column to Python value.
        queries: Pairs of an entity key and an instant in microseconds.
    """

    view: FeatureView
    plan: ViewPlan
    events: list[dict[str, Any]]
    queries: list[tuple[tuple[Any, ...], int]]
    columns: dict[str, DType] = field(repr=False)

    @property
    def keys(self) -> list[str]:
        return [key.name for key in self.plan.entity.keys]

    @property
    def delivered(self) -> list[dict[str, Any]]:
        """The events, each once: of deliveries with one id the one that was known first."""
        if self.plan.source.event_id is None:
            return self.events
        learned = self.plan.source.ingest_time or self.plan.source.event_time
        latest_first = sorted(self.events, key=lambda event: event[learned], reverse=True)
        return list({event[self.plan.source.event_id]: event for event in latest_first}.values())

    def events_of(self, key: tuple[Any, ...]) -> list[dict[str, Any]]:
        """The events of one entity, each once."""
        return [event for event in self.delivered if tuple(event[name] for name in self.keys) == key]

    def table(self, events: list[dict[str, Any]] | None = None) -> pa.Table:
        """Return events as a table of the source's columns in contract dtypes."""
        return table_of(self.events if events is None else events, self.columns)


def table_of(events: list[dict[str, Any]], columns: dict[str, DType]) -> pa.Table:
    return pa.table(
        {name: pa.array([event[name] for event in events], type=dtype.arrow) for name, dtype in columns.items()}
    )


def features_of(one: Any = None, *, max_size: int = 5) -> st.SearchStrategy[dict[str, Any]]:
    """Features by name: one or more aggregations of a strategy, by default of any."""
    drawn = st.lists(aggregations() if one is None else one, min_size=1, max_size=max_size)
    return drawn.map(lambda found: {f"f{number}": aggregation for number, aggregation in enumerate(found)})


@st.composite
def histories(draw, entity, keys, *, value_columns, has_ingest, max_events=14, has_ids=False):
    """Events of a few entities, with ties, nulls, late ones, and some delivered twice.

    Without ids the second delivery is one more event; with ids it is the same one, perhaps known later.
    """
    extreme = {name: draw(st.booleans()) if name in ("whole", "number") else True for name in value_columns}
    one = {
        "key": st.sampled_from(keys),
        "happened": instants(),
        "delay": st.sampled_from((0, 0, 0, 1, HALF_HOUR_US, 5 * HALF_HOUR_US, 60 * HALF_HOUR_US, -HALF_HOUR_US)),
        **{name: st.one_of(st.none(), *[values(name, extreme=extreme[name])] * 3) for name in value_columns},
    }
    drawn = draw(st.lists(st.fixed_dictionaries(one), max_size=max_events))
    again = st.tuples(st.integers(0, len(drawn) - 1), st.sampled_from((0, 0, 1, HALF_HOUR_US, 7 * HALF_HOUR_US)))
    repeated = draw(st.lists(again, max_size=3)) if drawn else []
    deliveries = [(number, 0) for number in range(len(drawn))] + repeated
    events = []
    for number, later in deliveries:
        event = drawn[number]
        row = dict(zip(entity.keys, event["key"], strict=True))
        row["happened"] = to_datetime(event["happened"])
        if has_ingest:
            row["learned"] = to_datetime(event["happened"] + event["delay"] + later)
        if has_ids:
            row["id"] = number
        events.append(row | {name: event[name] for name in value_columns})
    return events


@st.composite
def questions(draw, events, keys, *, max_size=10):
    """Keys, known and unknown, at instants around events and edges of their windows."""
    moments = [((event["happened"] - EPOCH) // timedelta(microseconds=1)) for event in events]
    shifts = st.sampled_from((0, 1, *(duration_us(window) + step for window in WINDOWS for step in (-1, 0, 1))))
    near = st.tuples(st.sampled_from(moments), shifts).map(sum) if moments else instants()
    asked = st.one_of(near, near, instants(), st.just(START_US + 2 * SPAN * HALF_HOUR_US))
    return draw(st.lists(st.tuples(st.sampled_from(keys), asked), min_size=1, max_size=max_size))


def source_of(events, columns, *, has_ingest, inclusive=False, has_ids=False) -> FrameSource:
    return FrameSource(
        "events",
        frame=table_of(events, columns),
        event_time="happened",
        ingest_time="learned" if has_ingest else None,
        event_id="id" if has_ids else None,
        inclusive=inclusive,
    )


def columns_of(entity: Entity, *, has_ingest: bool, has_ids: bool = False) -> dict[str, DType]:
    """Columns that every history has, with their dtypes."""
    from featurestore.core.dtypes import parse_dtype

    keys = {name: parse_dtype(dtype) for name, dtype in entity.columns if dtype is not None}
    times = {"happened": TIMESTAMP, **({"learned": TIMESTAMP} if has_ingest else {})}
    return keys | times | ({"id": INT64} if has_ids else {})


@st.composite
def scenarios(draw, *, features=None, max_events=14, max_queries=10, has_ids=False):
    """A whole scenario.

    Args:
        features: Strategy of features by name; any by default.
        max_events: Bound of the events before some are delivered twice.
        max_queries: Bound of the questions.
        has_ids: Whether events have ids, so that deliveries of one count once.
    """
    entity, keys = draw(entities())
    has_ingest = draw(st.booleans())
    chosen = draw(features_of() if features is None else features)
    where = draw(conditions())
    definition = {"entity": entity, "features": chosen, "where": where, "refresh": draw(st.sampled_from(REFRESHES))}
    inclusive = draw(st.booleans())
    base = columns_of(entity, has_ingest=has_ingest, has_ids=has_ids)
    everything = base | {name: dtype for name, dtype in DTYPES.items() if name not in base}
    empty = FeatureView(
        "view",
        source=source_of([], everything, has_ingest=has_ingest, inclusive=inclusive, has_ids=has_ids),
        **definition,
    )
    plan = compile_definitions(collect(empty), {"events": everything}).views["view"]
    used = {column.name: column.dtype for column in plan.source.columns}
    value_columns = [name for name in DTYPES if name in used and name not in base]
    events = draw(
        histories(
            entity,
            keys[:-1] or keys,
            value_columns=value_columns,
            has_ingest=has_ingest,
            max_events=max_events,
            has_ids=has_ids,
        )
    )
    queries = draw(questions(events, keys, max_size=max_queries))
    view = FeatureView(
        "view",
        source=source_of(events, used, has_ingest=has_ingest, inclusive=inclusive, has_ids=has_ids),
        **definition,
    )
    return Scenario(view, plan, events, queries, used)
