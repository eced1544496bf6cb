"""Whatever stands in a field of a definition, compiling says what is wrong with it and nothing else is raised."""

from dataclasses import fields, replace
from datetime import timedelta

import pytest

from featurestore import CsvOptions, DefinitionError, Entity, SqlSource, agg, col, lit
from featurestore.definitions.sources import Source
from tests.unit.plan.world import compiled, flights, service_plan, view, world

JUNK = [
    None, True, 0, -1, 1.5, float("nan"), "", "x", "a b", "as_of", b"x", (), ("x",), [], ["x"], {}, {"x": "x"}, {3: 4},
    object(), int, timedelta(days=1), timedelta(days=-1), col("x"), lit(1), agg.count(), agg.last(col("arr_delay")),
    Entity("x", key="x"), flights(), view(), world().on_demand, world().delays["last"], world().delays.prefixed("p"),
    CsvOptions(), 2**70, "1" * 5000,
]  # fmt: skip


def made_of(junk):
    """Yield small sets of definitions with one argument replaced."""
    w = world()
    sql = SqlSource("flights", url="sqlite://", event_time="landed_at", table="a")
    for part in (view(), w.on_demand, w.service, flights(), sql, Entity("carrier", key="carrier")):
        for found in fields(part):
            yield (
                f"{type(part).__name__}.{found.name}",
                lambda part=part, name=found.name: replace(part, **{name: junk}),
            )
    for name, feature in {
        "operand": lambda: agg.last(junk),
        "where": lambda: agg.count(where=junk).lifetime(),
        "window": lambda: agg.count().over(junk),
        "windows": lambda: agg.count().over(junk, "1d"),
        "resolution": lambda: agg.count().over("1d", resolution=junk),
        "ttl": lambda: agg.last(col("origin")).ttl(junk),
        "n": lambda: agg.last_n(col("origin"), junk),
        "q": lambda: agg.quantile(col("distance"), junk).over("1d"),
        "ddof": lambda: agg.var(col("distance"), ddof=junk).over("1d"),
        "unit": lambda: agg.time_since_last(unit=junk),
        "respect_nulls": lambda: agg.last(col("origin"), respect_nulls=junk),
        "feature": lambda: junk,
    }.items():
        yield name, lambda feature=feature: view({"f_{window}": feature()})
    for name, selection in {
        "pick": lambda: w.weather[junk],
        "picks": lambda: w.weather["temp", junk],
        "alias": lambda: w.weather.aliased(junk),
        "keys": lambda: w.weather.aliased("x", junk),
        "key": lambda: w.weather.aliased("x", {"airport": junk}),
        "prefix": lambda: w.weather.prefixed(junk),
        "renamed": lambda: w.weather.renamed(junk),
        "renamed to": lambda: w.weather["temp"].renamed(junk),
        "listed": lambda: junk,
    }.items():
        yield name, lambda selection=selection: replace(w.service, features=[selection()])


@pytest.mark.parametrize("number", range(len(JUNK)))
def test_junk_in_a_field_compiles_or_is_a_definition_error(number):
    for place, make in made_of(JUNK[number]):
        try:
            definition = make()
            compiled(definition, view(source=definition, name="user") if isinstance(definition, Source) else ())
        except DefinitionError:
            continue
        except Exception as error:
            raise AssertionError(f"{place} = {JUNK[number]!r:.80}") from error


def test_the_definitions_that_junk_is_put_into_are_right():
    assert service_plan(world().service)
