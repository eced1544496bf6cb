"""What the record of an aggregation states is what its kernel does: each trait of each record is put to the test."""

from dataclasses import fields, replace
from inspect import signature
from string import Formatter

import numpy as np
import pytest

from featurestore import Entity, FeatureView, FrameSource, agg, col
from featurestore.core.dtypes import FLOAT64, STRING, TIMESTAMP
from featurestore.core.errors import DefinitionError
from featurestore.core.temporal import duration_us
from featurestore.definitions.aggregations import AggregationBuilder
from featurestore.definitions.collection import collect
from featurestore.kernels.evaluate import bind
from featurestore.kernels.events import arrange
from featurestore.kernels.keys import KeyIndex
from featurestore.kernels.program import AGGREGATIONS
from featurestore.plan.aggregations import (
    AGGREGATES,
    SPELLINGS,
    Aggregate,
    Contribution,
    End,
    Kind,
    Result,
)
from featurestore.plan.compiler import compile_definitions
from tests.strategies import table_of, to_datetime

COLUMNS = {"name": STRING, "happened": TIMESTAMP, "number": FLOAT64}
VALUES = (300.0, 110.0, 400.0, 110.0, 500.0, 900.0, 200.0, 600.0, 550.0, 800.0)
"""One value an hour. The newest, the oldest, the smallest, the largest, the most frequent one and the quantile are
six different numbers, and none of them is a count."""

SAME_SUM = (310.0, 100.0, 500.0, 10.0, *VALUES[4:])
SAME_VALUE = (VALUES[0],) * len(VALUES)
AS_OF_US = duration_us("11h")
ARGUMENTS = {"first_n": {"n": 3}, "last_n": {"n": 3}, "quantile": {"q": 0.3}, "var": {"ddof": 0}, "std": {"ddof": 0}}

VISITED: set[str] = set()
"""Traits that have a law."""


def law(*traits):
    """Make a test that is run for each record, and note which traits it is about."""
    VISITED.update(traits)
    return pytest.mark.parametrize("record", AGGREGATES.values(), ids=AGGREGATES)


def aggregation(record):
    return getattr(agg, record.name)(col("number"), **ARGUMENTS.get(record.name, {}))


def compiled(written):
    source = FrameSource("events", frame=table_of([], COLUMNS), event_time="happened")
    entity = Entity("entity", key="name", dtype="string")
    view = FeatureView("view", entity=entity, source=source, features={"f": written})
    return compile_definitions(collect(view), {"events": COLUMNS}).views["view"]


def compiles(written):
    try:
        compiled(written)
    except DefinitionError:
        return False
    return True


def value_of(record, values=VALUES, *, hours=None, turned=False):
    """Ask the kernels for the lifetime of one entity that has an event of each value.

    Args:
        record: The aggregation.
        values: Values of the events.
        hours: Their times; by default one an hour.
        turned: Whether events are handed to the kernel in the opposite order.
    """
    instants = [duration_us("1h") * hour for hour in (range(len(values)) if hours is None else hours)]
    events = [{"name": "a", "happened": to_datetime(at), "number": x} for at, x in zip(instants, values, strict=True)]
    return answered(aggregation(record).lifetime(), events, turned=turned)


def answered(written, events, *, turned=False):
    """Ask the kernels for one value over the events of one entity."""
    plan, table = compiled(written), table_of(events, COLUMNS)
    index, codes = KeyIndex.build([table.column("name").combine_chunks()])
    bound = bind(plan)
    prepared = bound.prepare(table)
    block = arrange(prepared, codes[prepared.rows], len(index))
    if turned:
        block = replace(block, values=np.ascontiguousarray(block.values[:, ::-1]))
    answer = bound.evaluate(block, np.zeros(1, dtype=np.int64), np.array([AS_OF_US], dtype=np.int64))
    return answer.column(0)[0].as_py()


def test_every_trait_has_a_law():
    properties = {name for name, found in vars(Aggregate).items() if isinstance(found, property)}
    assert {field.name for field in fields(Aggregate)} | properties == VISITED


def test_every_record_has_a_kernel_and_every_kernel_a_record():
    assert AGGREGATES.keys() == AGGREGATIONS


def test_every_name_that_users_can_write_is_a_method_of_agg():
    methods = {name for name, found in vars(AggregationBuilder).items() if callable(found) and name[0] != "_"}
    assert methods == SPELLINGS.keys()


@law("name", "aliases")
def test_a_record_is_found_by_its_name_and_by_its_aliases(record):
    assert AGGREGATES[record.name] is record
    for name, fixed in ((record.name, ()), *record.aliases.items()):
        assert SPELLINGS[name].aggregate is record
        written = getattr(agg, name)(col("number"), **ARGUMENTS.get(name, {})).lifetime()
        feature = compiled(written).features[0]
        assert feature.aggregation == record.name
        assert set(fixed) <= set(feature.params)


@law("gives")
def test_the_dtype_of_the_result_is_that_of_the_plan_and_of_the_column(record):
    plan = compiled(aggregation(record).lifetime())
    assert plan.features[0].dtype == record.gives(FLOAT64)
    assert isinstance(value_of(record), {"int64": int, "float64": float, "list": list}[record.gives(FLOAT64).kind])


@law("kind", "end")
def test_an_aggregation_picks_from_an_end_if_the_other_events_change_nothing(record):
    wanted = ARGUMENTS.get(record.name, {}).get("n", 1)
    last = len(VALUES) - wanted
    whole = value_of(record)
    is_newest = whole == value_of(record, VALUES[last:], hours=range(last, len(VALUES)))
    is_oldest = whole == value_of(record, VALUES[:wanted])
    assert (is_oldest, is_newest) == (record.end is End.OLDEST, record.end is End.NEWEST)
    assert (record.kind is Kind.ORDERED) == (record.end is not None)


@law("needs_newest_only")
def test_the_newest_event_alone_decides_where_the_record_states_it(record):
    is_enough = value_of(record) == value_of(record, VALUES[-1:], hours=[len(VALUES) - 1])
    assert is_enough == record.needs_newest_only


@law("needs_order_of_ties")
def test_the_order_of_ties_matters_where_the_record_states_it(record):
    tied = [value_of(record, (110.0, 500.0), hours=[1, 1], turned=turned) for turned in (False, True)]
    assert (tied[0] != tied[1]) == record.needs_order_of_ties


@law("result", "picks_value")
def test_a_result_is_computed_or_made_of_the_values_of_events(record):
    value = value_of(record)
    is_list = isinstance(value, list)
    assert is_list == (record.result is Result.LIST)
    assert (not is_list and value in VALUES) == (record.result is Result.VALUE)
    assert record.picks_value == (record.result is Result.VALUE and record.end is not None)


@law("over_no_rows")
def test_over_no_events_the_value_is_the_one_that_the_record_states(record):
    rejected = replace(aggregation(record).lifetime(), where=col("number") < 0)
    assert answered(rejected, [{"name": "a", "happened": to_datetime(0), "number": 1.0}]) == record.over_no_rows


@law("over_events")
def test_an_aggregation_does_without_an_operand_where_the_record_states_it(record):
    options = {name: ARGUMENTS.get(record.name, {}).get(name) for name in record.options if name in ("n", "q")}
    written = getattr(agg, record.name)(None, **options).lifetime()
    assert compiles(written) == (record.over_events is not None)
    if record.over_events is not None:
        assert compiled(written).features[0].dtype == record.over_events


@law("needs_values")
def test_without_the_values_only_what_is_picked_can_change(record):
    is_changed = value_of(record) != value_of(record, SAME_VALUE)
    if record.picks_value:
        place = VALUES.index(value_of(record))
        assert value_of(record, SAME_SUM) == SAME_SUM[place]
        assert not record.needs_values
    else:
        assert is_changed == record.needs_values


@law("powers")
def test_sums_of_powers_decide_an_additive_aggregate(record):
    if record.kind is not Kind.ADDITIVE:
        assert record.powers == 0
        return
    whole = value_of(record)
    highest = 2 if whole != value_of(record, SAME_SUM) else 1 if whole != value_of(record, SAME_VALUE) else 0
    assert record.powers == highest


@law("contribution")
def test_a_linear_aggregate_changes_by_what_one_event_contributes(record):
    if record.result is Result.LIST:
        assert record.contribution is None
        return
    holds = set(Contribution)
    for place in (VALUES.index(110.0), len(VALUES) - 1):
        rest = value_of(record, VALUES[:place] + VALUES[place + 1 :], hours=[*range(place), *range(place + 1, 10)])
        changes = {
            Contribution.ONE: 1,
            Contribution.VALUE: VALUES[place],
            Contribution.DEVIATION: pytest.approx((VALUES[place] - rest) / len(VALUES)),
        }
        holds &= {contribution for contribution, change in changes.items() if value_of(record) - rest == change}
    assert holds == ({record.contribution} - {None})


@law("defaults_to_lifetime", "takes_ttl")
def test_windows_may_be_left_out_and_values_expire_where_the_record_states_it(record):
    written = aggregation(record)
    assert compiles(written) == record.defaults_to_lifetime
    assert compiles(written.lifetime().ttl("1d")) == record.takes_ttl


@law("options")
def test_the_options_of_a_record_are_those_of_its_method_and_refuse_what_is_not_valid(record):
    assert {*signature(getattr(agg, record.name)).parameters} - {"value", "where"} == record.options.keys()
    for name, option in record.options.items():
        assert option.expected
        assert option.read("nonsense") is None
        assert not compiles(replace(aggregation(record).lifetime(), options={name: "nonsense"}))


@law("sentence")
def test_a_sentence_has_the_value_and_no_field_that_is_not_known(record):
    named = {name for _, name, _, _ in Formatter().parse(record.sentence) if name is not None}
    assert "value" in named
    fields = {"value", "events", "number", "used", "members"}
    assert named <= fields | record.options.keys() | AGGREGATES.keys()
    assert fields.isdisjoint(AGGREGATES) and fields.isdisjoint(record.options)
