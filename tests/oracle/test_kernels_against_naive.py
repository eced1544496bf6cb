"""The kernels give what naive loops give: every aggregation, to the bit, on random histories."""

import random
from datetime import timedelta
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore import Entity, FeatureView, agg, col, continuous, every
from featurestore.core.dtypes import (
    FLOAT64,
    INT64,
    STRING,
    TIMESTAMP,
)
from featurestore.core.errors import ValueOverflowError
from featurestore.definitions.collection import collect
from featurestore.kernels import evaluate
from featurestore.kernels.evaluate import Picked, RowReader, bind
from featurestore.kernels.events import NO_EVENT
from featurestore.offline import narrowing
from featurestore.offline.parts import Resources
from featurestore.plan.aggregations import SPELLINGS
from featurestore.plan.compiler import compile_definitions
from tests.assertions import assert_same_values
from tests.budget import examples
from tests.oracle import naive
from tests.roads import MANY_PARTS, ONE_PART, ask, ask_scenario, status_names, through_engine
from tests.strategies import (
    EPOCH,
    WINDOWS,
    aggregations,
    duration_us,
    features_of,
    operands_of,
    scenarios,
    source_of,
    table_of,
    to_datetime,
)

INT64_RANGE = range(-(2**63), 2**63)


def expected(scenario, queries=None):
    """Return one row of naive answers per question."""
    asked = scenario.queries if queries is None else queries
    return [naive.answers(scenario.plan, scenario.events_of(key), as_of) for key, as_of in asked]


def overflows(plan, rows) -> bool:
    """Tell whether an exact integer sum among naive answers does not fit into int64."""
    sums = [feature.name for feature in plan.features if feature.aggregation == "sum" and feature.dtype == INT64]
    return any(row[name][0] is not None and row[name][0] not in INT64_RANGE for row in rows for name in sums)


def assert_answers(plan, rows, columns, statuses):
    for index, feature in enumerate(plan.features):
        where = f"{feature} of {plan.inputs[feature.input]}"
        reference = [row[feature.name] for row in rows]
        assert columns[index].type == feature.dtype.arrow
        assert_same_values(reference=[value for value, _ in reference], current=columns[index].to_pylist(), where=where)
        assert status_names(statuses[index]) == [status for _, status in reference], where


def check(scenario, queries=None):
    """Assert that the kernels give the naive answers, or refuse if a sum does not fit."""
    rows = expected(scenario, queries)
    if overflows(scenario.plan, rows):
        with pytest.raises(ValueOverflowError):
            ask_scenario(scenario, queries=queries)
        return
    answer = ask_scenario(scenario, queries=queries)
    assert_answers(scenario.plan, rows, answer.columns(), answer.statuses)
    assert_rows_are_columns(scenario.plan, answer)


def assert_rows_are_columns(view, answer):
    """Assert that answers read as rows of Python values, as lookups read them, hold what their Arrow columns hold."""
    shared = [None if values is None else values.to_pylist() for values in answer.dictionaries]
    picked = [Picked(reader, 0, number, 0) for number, reader in enumerate(bind(view).readers)]
    found, codes = RowReader(picked).read(answer.words, answer.statuses, [lambda source, _: shared[source] or ()])
    assert codes.tolist() == answer.statuses.tolist()
    columns = zip(*found, strict=True) if found else [()] * len(picked)
    for index, current in enumerate(columns):
        assert_same_values(reference=answer.column(index).to_pylist(), current=current)


def every_edge(scenario):
    """Return questions about every known key at every instant at which an answer could change, and beside it."""
    moments = {
        (event[name] - EPOCH) // timedelta(microseconds=1) for event in scenario.events for name in TIMES & event.keys()
    }
    steps = [0, *(duration_us(window) for window in WINDOWS[1:3])]
    asked = sorted({moment + step + side for moment in moments for step in steps for side in (0, 1)})
    keys = sorted({tuple(event[name] for name in scenario.keys) for event in scenario.events})
    return [(key, as_of) for key in keys for as_of in asked]


TIMES = {"happened", "learned"}


@given(scenarios())
@examples(400)
def test_kernels_give_the_naive_answers(scenario):
    check(scenario)


@given(scenarios(max_events=10))
@examples(100)
def test_kernels_give_the_naive_answers_at_every_edge(scenario):
    check(scenario, every_edge(scenario))


@pytest.mark.parametrize(
    ("name", "column"), [(name, column) for name in sorted(SPELLINGS) for column in operands_of(name)], ids=str
)
def test_every_aggregation_gives_the_naive_answers_on_every_dtype(name, column):
    @given(scenarios(features=features_of(aggregations(name, column), max_size=3)))
    @examples(8)
    def run(scenario):
        check(scenario)
        check(scenario, every_edge(scenario)[:40])

    run()


@given(scenarios())
@examples(100)
def test_the_engine_gives_the_naive_answers_in_one_part_and_in_many(scenario):
    rows = expected(scenario)
    for resources in (ONE_PART, MANY_PARTS):
        if overflows(scenario.plan, rows):
            with pytest.raises(ValueOverflowError):
                through_engine(scenario.plan, scenario.table(), scenario.queries, resources)
            continue
        found = through_engine(scenario.plan, scenario.table(), scenario.queries, resources)
        assert_answers(scenario.plan, rows, found.columns, found.statuses)


NEWEST = st.one_of(aggregations("last"), aggregations("time_since_last"))


@given(scenarios(features=features_of(NEWEST), max_events=30, max_queries=6))
@examples(200)
def test_reading_a_source_through_gives_the_naive_answers(scenario):
    """However little there is to gain, and however often what was kept is looked through again."""
    with patch.multiple(narrowing, _LEAST_GAIN=0, _MOST_KEPT=2, _LEAST_CROWD=1):
        for resources in (ONE_PART, Resources(threads=2)):
            found = through_engine(scenario.plan, scenario.table(), scenario.queries, resources)
            assert_answers(scenario.plan, expected(scenario), found.columns, found.statuses)


@given(scenarios())
@examples(50)
def test_answers_to_many_questions_come_to_their_places(scenario):
    with patch.object(evaluate, "_MANY_QUERIES", 0):
        check(scenario)


@given(scenarios())
@examples(100)
def test_newest_is_the_event_time_of_the_newest_visible_event(scenario):
    plan = scenario.plan
    only_last = FeatureView(
        "view",
        entity=scenario.view.entity,
        source=scenario.view.source,
        where=scenario.view.where,
        refresh=scenario.view.refresh,
        features={"at": agg.last(col("happened"))},
    )
    last = compile_definitions(collect(only_last), {"events": scenario.columns}).views["view"]
    reference = [naive.answers(last, scenario.events_of(key), as_of)["at"][0] for key, as_of in scenario.queries]
    found = ask(plan, scenario.table(), scenario.queries) if not overflows(plan, expected(scenario)) else None
    if found is not None:
        current = [None if at == NO_EVENT else to_datetime(at) for at in found.newest.tolist()]
        assert current == reference


def large_history(seed, *, late):
    """Return events of a few entities, dense enough that the kernels do not simply scan."""
    chance = random.Random(seed)
    events = []
    for _ in range(900):
        happened = chance.randrange(40 * 24) * duration_us("1h") + chance.choice((0, 0, 1, 17))
        learned = happened + (chance.choice((0, 0, 1, duration_us("3h"), duration_us("2d"))) if late else 0)
        events.append(
            {
                "name": chance.choice("abc"),
                "happened": to_datetime(happened),
                "learned": to_datetime(learned),
                "number": chance.choice((None, chance.uniform(-1, 1), chance.choice((1e300, 1e-300, 5e-324, 1e16)))),
                "whole": chance.choice((None, chance.randrange(-9, 9))),
                "text": chance.choice((None, "a", "b", "c")),
            }
        )
    queries = [((chance.choice("abcd"),), chance.randrange(45 * 24 * 60) * duration_us("1m")) for _ in range(240)]
    return events, queries


COLUMNS = {
    "name": STRING,
    "happened": TIMESTAMP,
    "learned": TIMESTAMP,
    "number": FLOAT64,
    "whole": INT64,
    "text": STRING,
}


def everything_over(*windows):
    """Return every aggregation over several windows and the lifetime."""
    found = {}
    for name in sorted(SPELLINGS):
        options = {"first_n": {"n": 3}, "last_n": {"n": 3}, "quantile": {"q": 0.3}}.get(name, {})
        for column in ("number", "whole", "text"):
            if column in operands_of(name):
                made = getattr(agg, name)(col(column), **options)
                found[f"{name}_{column}_all"] = made.lifetime()
                for number, window in enumerate(windows):
                    found[f"{name}_{column}_{number}"] = made.over(window, resolution="1h" if number % 2 else None)
    return found


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("refresh", [continuous(), every("6h", lag="30m")], ids=str)
@pytest.mark.parametrize("seed", [1, 2])
def test_long_histories_give_the_naive_answers(seed, refresh, late):
    """Many questions about many events take the fast paths: prefix sums, stacks, trees and bit sets."""
    events, queries = large_history(seed, late=late)
    view = FeatureView(
        "view",
        entity=Entity("one", key="name"),
        source=source_of([], COLUMNS, has_ingest=late),
        features=everything_over("1h", "2d", "9d"),
        refresh=refresh,
    )
    plan = compile_definitions(collect(view), {"events": COLUMNS}).views["view"]
    own = {key: [event for event in events if event["name"] == key] for key in "abcd"}
    rows = [naive.answers(plan, own[key[0]], as_of) for key, as_of in queries]
    answer = ask(plan, table_of(events, COLUMNS), queries)
    assert_answers(plan, rows, answer.columns(), answer.statuses)
