"""Whatever is defined, whatever happened, whenever it was folded: the online answer is the training set's row."""

import tempfile
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st

from featurestore import FeatureService, FeatureStore, FileSource, OnDemandFeatureView, as_of, request
from featurestore.core.errors import OutOfReachError, ValueOverflowError
from featurestore.core.temporal import FixedClock
from featurestore.kernels.on_demand import finish
from tests.assertions import assert_same_values
from tests.budget import examples
from tests.oracle import naive
from tests.roads import ask, status_names
from tests.stores import OTHERS, local_store
from tests.strategies import HALF_HOUR_US, SPAN, START_US, Scenario, instants, scenarios, to_datetime

END_US = START_US + 3 * SPAN * HALF_HOUR_US


@dataclass(frozen=True)
class Lookup:
    """A question to the online road, about one key."""

    key: tuple[Any, ...]
    as_of_us: int


@dataclass(frozen=True)
class Materialize:
    """A refresh, perhaps by a process that starts anew."""

    until_us: int
    restart: bool


@st.composite
def interleavings(draw, scenario: Scenario):
    """Refreshes in the order of time, and between them the scenario's questions."""
    untils = sorted(draw(st.lists(instants(), min_size=1, max_size=4)) + [END_US] * draw(st.integers(0, 1)))
    keys = st.sampled_from([key for key, _ in scenario.queries])
    asked = st.one_of(st.sampled_from([moment for _, moment in scenario.queries]), instants())
    steps: list[Materialize | Lookup] = []
    for until in untils:
        steps.append(Materialize(until, draw(st.booleans())))
        near = st.sampled_from((until - 1, until, until + 1, until + HALF_HOUR_US))
        steps += draw(st.lists(st.builds(Lookup, keys, st.one_of(asked, near)), min_size=1, max_size=4))
    return steps


def service_of(scenario: Scenario, folder: str) -> FeatureService:
    """Return a service of the view, of one feature under another name, and of features computed on demand.

    The events are laid into a file, so that a process that starts anew finds them.
    """
    source = scenario.view.source
    pq.write_table(scenario.table(), f"{folder}/events.parquet", row_group_size=4)
    stored = FileSource(
        source.name,
        path=f"{folder}/events.parquet",
        event_time=source.event_time,
        ingest_time=source.ingest_time,
        event_id=source.event_id,
        inclusive=source.inclusive,
    )
    view = replace(scenario.view, source=stored)
    numeric = [feature.name for feature in scenario.plan.features if feature.dtype.kind == "float64"]
    expressions = {"asked": as_of()}
    if numeric:
        expressions["shifted"] = view[numeric[0]] * 2.0 + request("shift")
    on_demand = OnDemandFeatureView("demand", request={"shift": "float64"}, features=expressions)
    first = scenario.plan.features[0].name
    return FeatureService("model", features=[view, view[first].renamed("again"), on_demand])


REQUEST = {"shift": 0.1}


def spine_of(store, lookups):
    plan = store.plan("model")
    use = plan.uses[0]
    columns = {
        name: pa.array([lookup.key[i] for lookup in lookups], type=key.dtype.arrow)
        for i, (name, key) in enumerate(zip(use.keys, use.view.entity.keys, strict=True))
    }
    columns["as_of"] = pa.array([to_datetime(lookup.as_of_us) for lookup in lookups], pa.timestamp("us", tz="UTC"))
    for column in plan.request:
        columns[column.name] = pa.array([REQUEST[column.name]] * len(lookups))
    return pa.table(columns)


def look_up(store, scenario, lookup):
    """Return the online answer, ``None`` if the instant lies before what the state reaches."""
    entity = dict(zip(scenario.keys, lookup.key, strict=True))
    asks = REQUEST if store.plan("model").request else None
    try:
        return store.get_online_features("model", [entity], request=asks, as_of=to_datetime(lookup.as_of_us))
    except OutOfReachError:
        return None


def assert_is_row(answer, table, row):
    for column, value, status in zip(answer.columns, answer.rows[0], answer.statuses[0], strict=True):
        assert_same_values(reference=table.column(column).slice(row, 1).to_pylist(), current=[value], where=column)
        assert table.column(f"{column}__status")[row].as_py() == status, column


def assert_is_as_of_watermark(answer, scenario, lookup, plan):
    """An answer that is not complete is what the training road gives without what was not folded yet."""
    (state,) = answer.views.values()
    learned = scenario.plan.source.ingest_time or scenario.plan.source.event_time
    folded = [found for found in scenario.delivered if found[learned] < to_datetime(state.watermark_us)]
    query = [(lookup.key, lookup.as_of_us)]
    reference = ask(scenario.plan, scenario.table(folded), query, watermark=state.watermark_us)
    names = [f"view__{feature.name}" for feature in scenario.plan.features]
    instant = pa.array([to_datetime(lookup.as_of_us)], pa.timestamp("us", tz="UTC"))
    values, statuses = finish(
        plan,
        dict(zip(names, reference.columns(), strict=True)),
        dict(zip(names, np.asarray(reference.statuses), strict=True)),
        {column.name: pa.array([REQUEST[column.name]]) for column in plan.request},
        instant,
    )
    for column, value, status in zip(answer.columns, answer.rows[0], answer.statuses[0], strict=True):
        assert_same_values(reference=values[column].to_pylist(), current=[value], where=column)
        assert status_names(statuses[column]) == [status]


@given(st.data(), scenarios(max_events=12, has_ids=False))
@examples(60)
def test_online_answers_are_rows_of_the_training_set(data, scenario):
    check(data, scenario)


@given(st.data(), scenarios(max_events=12, has_ids=True))
@examples(25)
def test_deliveries_of_one_event_count_once_on_both_roads(data, scenario):
    check(data, scenario)


@pytest.mark.parametrize("online_urls", OTHERS, indirect=True)
@given(st.data(), st.booleans().flatmap(lambda has_ids: scenarios(max_events=12, has_ids=has_ids)))
@examples(15)
def test_every_store_gives_rows_of_the_training_set(online_urls, data, scenario):
    check(data, scenario, online_urls())


def check(data, scenario, online=None):
    steps = data.draw(interleavings(scenario))
    with tempfile.TemporaryDirectory() as folder:
        clock = FixedClock(END_US)
        store = local_store(folder, online=online, clock=clock)
        store.apply(service_of(scenario, folder))
        plan = store.plan("model")
        lookups = [step for step in steps if isinstance(step, Lookup)]
        try:
            built = store.training_set(
                "model", spine_of(store, lookups), f"{folder}/training", statuses=True, overwrite=True
            )
            table = built.to_arrow()
        except ValueOverflowError:
            store.close()
            assume(False)
        row = 0
        for step in steps:
            if isinstance(step, Materialize):
                if step.restart:
                    store.close()
                store.materialize(until=to_datetime(step.until_us))
                continue
            answer = look_up(store, scenario, step)
            if answer is None:
                event("before the reach")
            elif all(state.complete_until_us >= step.as_of_us for state in answer.views.values()):
                event("complete")
                assert_is_row(answer, table, row)
            else:
                event("behind its watermark")
                assert_is_as_of_watermark(answer, scenario, step, plan)
            row += 1
        store.close()


@given(st.booleans().flatmap(lambda has_ids: scenarios(max_events=12, has_ids=has_ids)))
@examples(30)
def test_a_training_set_holds_the_naive_answers(scenario):
    """Through the whole offline road: apply, spine, engine, Parquet."""
    lookups = [Lookup(key, as_of_us) for key, as_of_us in scenario.queries]
    with tempfile.TemporaryDirectory() as folder, FeatureStore.local(folder, clock=FixedClock(END_US)) as store:
        store.apply(service_of(scenario, folder))
        try:
            table = store.training_set(
                "model", spine_of(store, lookups), f"{folder}/set", statuses=True, overwrite=True
            ).to_arrow()
        except ValueOverflowError:
            assume(False)
    rows = [naive.answers(scenario.plan, scenario.events_of(key), as_of_us) for key, as_of_us in scenario.queries]
    for feature in scenario.plan.features:
        name = f"view__{feature.name}"
        reference = [row[feature.name] for row in rows]
        current = table.column(name).to_pylist()
        assert_same_values(reference=[value for value, _ in reference], current=current, where=name)
        assert table.column(f"{name}__status").to_pylist() == [status for _, status in reference]
