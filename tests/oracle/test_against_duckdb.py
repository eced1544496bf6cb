"""DuckDB as a second judge: windows and as-of joins of plain SQL, on integers and decimals, which SQL adds exactly."""

import random
from decimal import Decimal

import duckdb
import pyarrow as pa
import pytest

from featurestore import Entity, FeatureView, agg, col
from featurestore.core.dtypes import (
    INT64,
    STRING,
    TIMESTAMP,
    DType,
)
from featurestore.core.temporal import duration_us
from featurestore.definitions.collection import collect
from featurestore.plan.compiler import compile_definitions
from tests.assertions import assert_same_values
from tests.roads import ask
from tests.strategies import source_of, table_of, to_datetime

COLUMNS = {
    "name": STRING,
    "happened": TIMESTAMP,
    "learned": TIMESTAMP,
    "whole": INT64,
    "money": DType("decimal", precision=12, scale=2),
    "text": STRING,
}
WINDOWS = ("1h", "1d", "7d")

WINDOWED = """
SELECT
    count(e.happened) AS events,
    count(whole) AS wholes,
    sum(whole)::BIGINT AS sum_whole,
    sum(money) AS sum_money,
    sum(whole) / count(whole) AS mean_whole,
    min(money) AS min_money,
    max(whole) AS max_whole,
    min(text) AS min_text,
    count(DISTINCT text) AS texts,
    quantile_cont(whole, 0.5) AS median_whole
FROM spine s LEFT JOIN events e
    ON e.name = s.name AND e.learned < s.as_of
    AND e.happened < s.as_of AND e.happened >= s.as_of - to_microseconds($length)
GROUP BY s.row ORDER BY s.row
"""

AS_OF = """
SELECT e.whole, e.money, e.text, e.happened
FROM spine s ASOF LEFT JOIN events e ON e.name = s.name AND e.happened < s.as_of
ORDER BY s.row
"""

FEATURES = {
    "events": agg.count(),
    "wholes": agg.count(col("whole")),
    "sum_whole": agg.sum(col("whole")),
    "sum_money": agg.sum(col("money")),
    "mean_whole": agg.mean(col("whole")),
    "min_money": agg.min(col("money")),
    "max_whole": agg.max(col("whole")),
    "min_text": agg.min(col("text")),
    "texts": agg.count_distinct(col("text")),
    "median_whole": agg.median(col("whole")),
}


def history(seed, *, distinct_times):
    """Return events and a spine; with distinct times no two events of a name are equal in time."""
    chance = random.Random(seed)
    hours = range(40 * 24)
    times = chance.sample(hours, 900) if distinct_times else [chance.choice(hours) for _ in range(900)]
    events = []
    for hour in times:
        happened = hour * duration_us("1h")
        events.append(
            {
                "name": chance.choice("abcde"),
                "happened": to_datetime(happened),
                "learned": to_datetime(happened + chance.choice((0, 0, 1, duration_us("5h"), duration_us("3d")))),
                "whole": chance.choice((None, chance.randrange(-1000, 1000))),
                "money": chance.choice((None, Decimal(chance.randrange(-(10**9), 10**9)).scaleb(-2))),
                "text": chance.choice((None, "a", "b", "B", "ä")),
            }
        )
    spine = [(chance.choice("abcdef"), chance.randrange(0, 42 * 24 * 2) * duration_us("30m")) for _ in range(600)]
    return events, spine


@pytest.fixture
def connection():
    with duckdb.connect(config={"threads": 1}) as opened:
        opened.execute("SET TimeZone = 'UTC'")
        yield opened


def register(connection, events, spine):
    connection.register("events", table_of(events, COLUMNS))
    connection.register(
        "spine",
        pa.table(
            {
                "row": range(len(spine)),
                "name": [name for name, _ in spine],
                "as_of": pa.array([as_of for _, as_of in spine], TIMESTAMP.arrow),
            }
        ),
    )


def answers(features, events, spine, *, has_ingest):
    view = FeatureView(
        "view",
        entity=Entity("one", key="name"),
        source=source_of([], COLUMNS, has_ingest=has_ingest),
        features=features,
    )
    plan = compile_definitions(collect(view), {"events": COLUMNS}).views["view"]
    answer = ask(plan, table_of(events, COLUMNS), [((name,), as_of) for name, as_of in spine])
    return {feature.name: answer.column(i) for i, feature in enumerate(plan.features)}


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("seed", [11, 12])
def test_windows_are_those_of_a_range_join(connection, seed, window):
    events, spine = history(seed, distinct_times=False)
    register(connection, events, spine)
    reference = connection.sql(WINDOWED, params={"length": duration_us(window)}).to_arrow_table()
    current = answers({name: made.over(window) for name, made in FEATURES.items()}, events, spine, has_ingest=True)
    for name in FEATURES:
        assert_same_values(
            reference=reference.column(name).to_pylist(), current=current[name].to_pylist(), where=f"{name} {window}"
        )


@pytest.mark.parametrize("seed", [21, 22])
def test_latest_values_are_those_of_an_as_of_join(connection, seed):
    events, spine = history(seed, distinct_times=True)
    register(connection, events, spine)
    reference = connection.sql(AS_OF).to_arrow_table()
    picked = ("whole", "money", "text", "happened")
    features = {name: agg.last(col(name), respect_nulls=True) for name in picked}
    current = answers(features, events, spine, has_ingest=False)
    for name in picked:
        assert_same_values(reference=reference.column(name).to_pylist(), current=current[name].to_pylist(), where=name)
