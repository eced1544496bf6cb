"""Laws that every aggregation meets, discovered from the table of aggregations, never listed."""

import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from featurestore import FeatureView, agg, col
from featurestore.core.dtypes import INT64
from featurestore.core.errors import ValueOverflowError
from featurestore.core.temporal import (
    NO_WATERMARK,
    duration_us,
    horizons,
    window_start,
)
from featurestore.definitions.collection import collect
from featurestore.plan.aggregations import SPELLINGS, aggregate_of
from featurestore.plan.compiler import compile_definitions
from tests.assertions import assert_same_answer, assert_same_column
from tests.budget import examples
from tests.roads import ask, ask_scenario, status_names
from tests.strategies import (
    ENTITIES,
    HALF_HOUR_US,
    aggregations,
    columns_of,
    features_of,
    instants,
    scenarios,
    source_of,
    table_of,
    to_datetime,
)

NAMES = sorted(SPELLINGS)
EXAMPLES = 15


def of(name):
    """Scenarios in which all features are of one aggregation."""
    return scenarios(features=features_of(aggregations(name), max_size=3))


def answered(scenario, events=None, queries=None, **options):
    """Ask; a scenario of which a sum does not fit into int64 is not looked at."""
    try:
        return ask_scenario(scenario, events, queries, **options)
    except ValueOverflowError:
        return assume(False)


def law(count=EXAMPLES):
    """Make a test of a body that takes a scenario (and perhaps drawn data), run once per aggregation."""

    def decorate(body):
        @pytest.mark.parametrize("name", NAMES)
        def test(name):
            @given(of(name), st.data())
            @examples(count)
            def run(scenario, data):
                body(scenario, data)

            run()

        test.__name__, test.__doc__ = body.__name__, body.__doc__
        return test

    return decorate


@law()
def test_no_result_depends_on_the_order_of_events(scenario, data):
    shuffled = data.draw(st.permutations(scenario.events))
    assert_same_answer(reference=answered(scenario), current=answered(scenario, shuffled))


@law()
def test_no_result_depends_on_the_events_of_other_entities(scenario, data):
    key, _ = data.draw(st.sampled_from(scenario.queries))
    queries = [query for query in scenario.queries if query[0] == key]
    alone = answered(scenario, scenario.events_of(key), queries)
    assert_same_answer(reference=answered(scenario, queries=queries), current=alone)


@law()
def test_asking_one_by_one_gives_what_asking_at_once_gives(scenario, data):
    together = answered(scenario)
    for position, query in enumerate(scenario.queries):
        alone = answered(scenario, queries=[query])
        for index in range(len(scenario.plan.features)):
            reference = together.column(index).slice(position, 1)
            assert_same_column(reference=reference, current=alone.column(index))
        assert alone.statuses[:, 0].tolist() == together.statuses[:, position].tolist()
        assert alone.newest[0] == together.newest[position]


@law()
def test_an_event_that_is_not_visible_yet_changes_nothing(scenario, data):
    refresh, source = scenario.plan.refresh, scenario.plan.source
    latest = max(as_of for _, as_of in scenario.queries)
    bound, ingest = horizons(latest, NO_WATERMARK, refresh.period_us, refresh.lag_us, int(source.inclusive))
    assume(scenario.events)
    event = dict(data.draw(st.sampled_from(scenario.events)))
    if source.ingest_time is not None and data.draw(st.booleans()):
        event["learned"] = to_datetime(ingest + data.draw(st.sampled_from((0, 1, HALF_HOUR_US))))
    else:
        event["happened"] = to_datetime(bound + data.draw(st.sampled_from((0, 1, HALF_HOUR_US))))
    before = answered(scenario)
    assert_same_answer(reference=before, current=answered(scenario, [*scenario.events, event]))


@law()
def test_events_before_every_window_matter_only_by_being_there(scenario, data):
    """Old events may be pruned from a state, as long as the newest one stays."""
    plan = scenario.plan
    assume(all(feature.window_us is not None for feature in plan.features) and scenario.events)
    refresh, inclusive = plan.refresh, int(plan.source.inclusive)
    earliest = min(as_of for _, as_of in scenario.queries)
    bound, _ = horizons(earliest, NO_WATERMARK, refresh.period_us, refresh.lag_us, inclusive)
    start = min(window_start(bound, f.window_us, f.resolution_us, inclusive) for f in plan.features)
    kept = [event for event in scenario.events if event["happened"] >= to_datetime(start)]
    before, after = answered(scenario), answered(scenario, kept)
    for index, feature in enumerate(plan.features):
        if aggregate_of(feature).over_no_rows is None:
            assert_same_column(reference=before.column(index), current=after.column(index), where=str(feature))
        pairs = zip(status_names(before.statuses[index]), status_names(after.statuses[index]), strict=True)
        assert all(left == right or (left, right) in LOST for left, right in pairs)


LOST = {("NULL", "NOT_FOUND"), ("PRESENT", "NOT_FOUND")}
"""What pruning everything may do to statuses: the entity is forgotten, and a count of 0 with it."""


@law()
def test_a_later_watermark_than_the_question_changes_nothing(scenario, data):
    latest = max(as_of for _, as_of in scenario.queries)
    watermark = latest + 1 + data.draw(st.sampled_from((0, 1, HALF_HOUR_US)))
    assert_same_answer(reference=answered(scenario), current=answered(scenario, watermark=watermark))


@law()
def test_beyond_its_watermark_a_road_uses_nothing(scenario, data):
    """An answer at a watermark is the answer without the events that became known from it on."""
    watermark = data.draw(instants())
    learned = scenario.plan.source.ingest_time or scenario.plan.source.event_time
    known = [event for event in scenario.events if event[learned] < to_datetime(watermark)]
    reference = answered(scenario, known, watermark=watermark)
    assert_same_answer(reference=reference, current=answered(scenario, watermark=watermark))


@law()
def test_moving_all_times_together_moves_nothing_else(scenario, data):
    plan = scenario.plan
    assume(not any("instant" in found.columns() or "happened" in found.columns() for found in plan.inputs))
    step = data.draw(st.sampled_from((-1, 1, 50))) * duration_us("1h") * 7 * 2
    times = {"happened", "learned"}

    def later(event):
        return {name: value + shift if name in times else value for name, value in event.items()}

    shift = to_datetime(step) - to_datetime(0)
    moved = [later(event) for event in scenario.events]
    queries = [(key, as_of + step) for key, as_of in scenario.queries]
    before, after = answered(scenario), answered(scenario, moved, queries)
    for index, feature in enumerate(plan.features):
        assert_same_column(reference=before.column(index), current=after.column(index), where=str(feature))
    assert before.statuses.tolist() == after.statuses.tolist()


@law()
def test_over_no_events_each_aggregation_has_the_value_that_its_record_states(scenario, data):
    answer = answered(scenario, [])
    for index, feature in enumerate(scenario.plan.features):
        expected = [aggregate_of(feature).over_no_rows] * len(scenario.queries)
        assert answer.column(index).to_pylist() == expected
        assert set(status_names(answer.statuses[index])) == {"NOT_FOUND"}


@law()
def test_events_without_a_value_are_skipped(scenario, data):
    """A null changes no value, unless nulls are respected; the entity is known by it all the same."""
    plan = scenario.plan
    respects = {feature.name for feature in plan.features if dict(feature.params).get("respect_nulls")}
    counted = {feature.name for feature in plan.features if plan.inputs[feature.input].value is None}
    columns = {name for found in plan.inputs if found.value is not None for name in found.value.columns()}
    assume(scenario.events and columns and not columns & {"happened", "learned", *scenario.keys})
    empty = dict(data.draw(st.sampled_from(scenario.events))) | dict.fromkeys(columns)
    before, after = answered(scenario), answered(scenario, [*scenario.events, empty])
    for index, feature in enumerate(plan.features):
        if feature.name not in respects | counted:
            assert_same_column(reference=before.column(index), current=after.column(index), where=str(feature))


@pytest.mark.parametrize("name", ["count", "sum"])
def test_adjacent_windows_add_up(name):
    """Of two windows that meet, the values add up to that of the window that spans both."""
    hours, seed = duration_us("1h"), random.Random(5)

    entity, (key, *_) = ENTITIES["one"]
    columns = columns_of(entity, has_ingest=False) | {"whole": INT64}
    view = FeatureView(
        "view",
        entity=entity,
        source=source_of([], columns, has_ingest=False),
        features={f"f_{hours}": getattr(agg, name)(col("whole")).over(f"{hours}h") for hours in (3, 5, 8)},
    )
    plan = compile_definitions(collect(view), {"events": columns}).views["view"]
    events = [
        {"name": key[0], "happened": to_datetime(seed.randrange(200) * hours // 4), "whole": seed.randrange(-9, 9)}
        for _ in range(150)
    ]
    moments = [seed.randrange(220) * hours // 4 for _ in range(200)]
    table = table_of(events, columns)
    late = ask(plan, table, [(key, moment) for moment in moments])
    early = ask(plan, table, [(key, moment - 3 * hours) for moment in moments])
    three, eight = plan.features[0], plan.features[2]
    assert (three.window_us, eight.window_us) == (3 * hours, 8 * hours)
    values = zip(late.column(0).to_pylist(), early.column(1).to_pylist(), late.column(2).to_pylist(), strict=True)
    assert all((new or 0) + (old or 0) == (both or 0) for new, old, both in values)
