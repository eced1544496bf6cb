"""What the kernels say of the events they used is true: nothing else changes the value, and the rules are those."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
from hypothesis import event, given
from hypothesis import strategies as st

from featurestore.core.errors import ValueOverflowError
from featurestore.core.temporal import (
    NO_WATERMARK,
    horizons,
    is_visible,
    window_start,
)
from featurestore.guard.world.events import Events
from featurestore.kernels.evaluate import bind
from featurestore.kernels.program import MEMBER_NULL, MEMBER_VALUE, NOT_MEMBER, need_of
from featurestore.kernels.selection import Fate, Selection
from tests.assertions import assert_same_column
from tests.budget import examples
from tests.strategies import HALF_HOUR_US, SPAN, START_US, aggregations, features_of, instants, scenarios

RANKED = {"first", "first_n", "last", "last_n", "time_since_last"}
ANY = st.one_of(
    scenarios(max_queries=2),
    scenarios(features=features_of(st.sampled_from(sorted(RANKED)).flatmap(aggregations)), max_queries=2),
)


def block_of(scenario, table):
    return Events(table, tuple(scenario.keys)).arranged(scenario.plan)


def questions(scenario):
    """Yield instants, and a table of all events as if they were one entity's: the more there are, the more is told."""
    for key, as_of_us in scenario.queries:
        own = dict(zip(scenario.keys, key, strict=True))
        yield as_of_us, scenario.table([found | own for found in scenario.delivered])
    yield START_US + (SPAN + 8) * HALF_HOUR_US, scenario.table([found | own for found in scenario.delivered])


def answer(scenario, feature, table, as_of_us, watermark):
    """Let the kernels compute one feature from some rows."""
    block = block_of(scenario, table).block
    entity = np.array([0 if len(block.offsets) > 1 else -1], dtype=np.int64)
    bound = bind(replace(scenario.plan, features=(feature,)))
    found = bound.evaluate(block, entity, np.array([as_of_us], dtype=np.int64), watermark=watermark)
    return found.column(0), int(found.statuses[0, 0])


def rule_of(scenario, feature, block, place, as_of_us, watermark):
    """Return the fate that the rules about time and members give, before any ranking."""
    plan = scenario.plan
    inclusive = int(plan.source.inclusive)
    event_bound, ingest_bound = horizons(as_of_us, watermark, plan.refresh.period_us, plan.refresh.lag_us, inclusive)
    happened, learned = int(block.event_time[place]), int(block.ingest_time[place])
    if happened >= event_bound:
        return Fate.AFTER_HORIZON
    if not is_visible(happened, learned, event_bound, ingest_bound):
        return Fate.NOT_YET_KNOWN
    length_us = -1 if feature.window_us is None else feature.window_us
    if happened < window_start(event_bound, length_us, feature.resolution_us, inclusive):
        return Fate.BEFORE_WINDOW
    flag = int(block.flags[feature.input, place])
    if flag < need_of(feature):
        return Fate.NOT_MEMBER if flag == NOT_MEMBER else Fate.NULL
    assert flag in (MEMBER_NULL, MEMBER_VALUE)
    return Fate.USED


@examples(60)
@given(ANY, st.one_of(st.just(NO_WATERMARK), instants()), st.randoms(use_true_random=False))
def test_events_listed_as_used_give_the_value_whatever_others_come_along(scenario, watermark, random):
    """The value follows from the used events and the newest visible one, with any of the others or without."""
    for as_of_us, table in questions(scenario):
        arranged = block_of(scenario, table)
        selection = Selection(scenario.plan, arranged.block, as_of_us, watermark=watermark)
        for feature in scenario.plan.features:
            fates = selection.fates(feature)
            needed = (fates == Fate.USED) | (fates == Fate.EXPIRED)
            if selection.newest >= 0:
                needed[selection.newest] = True
            others = np.array([random.random() < 0.5 for _ in fates], dtype=np.bool_)
            try:
                value, status = answer(scenario, feature, table, as_of_us, watermark)
            except ValueOverflowError:
                continue
            for chosen in (needed, needed | others):
                rows = np.sort(arranged.rows[chosen])
                found, code = answer(scenario, feature, table.take(pa.array(rows)), as_of_us, watermark)
                assert_same_column(reference=value, current=found, where=str(feature))
                assert code == status
            event(f"{feature.aggregation}: {'some' if needed.any() else 'no'} events used")


@examples(100)
@given(ANY, st.one_of(st.just(NO_WATERMARK), instants()))
def test_the_fate_of_an_event_is_the_first_rule_that_leaves_it_out(scenario, watermark):
    """Horizon, then what was known, then the window, membership and null; ranking only chooses among the rest."""
    for as_of_us, table in questions(scenario):
        arranged = block_of(scenario, table)
        selection = Selection(scenario.plan, arranged.block, as_of_us, watermark=watermark)
        for feature in scenario.plan.features:
            for place, found in enumerate(selection.fates(feature).tolist()):
                expected = rule_of(scenario, feature, arranged.block, place, as_of_us, watermark)
                is_ranked = feature.aggregation in RANKED and found in (Fate.OUTRANKED, Fate.EXPIRED)
                assert expected == (Fate.USED if is_ranked else found), feature


@examples(40)
@given(ANY)
def test_ranked_features_use_as_many_events_as_their_value_has(scenario):
    """Lists are as long as the events used; a count counts them."""
    for as_of_us, table in questions(scenario):
        arranged = block_of(scenario, table)
        selection = Selection(scenario.plan, arranged.block, as_of_us)
        for feature in scenario.plan.features:
            used = int((selection.fates(feature) == Fate.USED).sum())
            if feature.aggregation in ("count", "first_n", "last_n"):
                value = answer(scenario, feature, table, as_of_us, NO_WATERMARK)[0][0].as_py()
                assert used == (value if feature.aggregation == "count" else len(value or ()))
            elif feature.aggregation in RANKED:
                assert used <= 1
