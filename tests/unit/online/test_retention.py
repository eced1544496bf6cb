"""What is dropped could not have mattered: asked from the reach on, nobody can tell the difference."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from featurestore import agg, col, continuous, every
from featurestore.core.temporal import NO_WATERMARK, NOTHING_YET
from featurestore.kernels.evaluate import bind
from featurestore.kernels.events import arrange
from featurestore.kernels.retention import keeps_everything, still_matter
from featurestore.online.filling.folding import StateUpdater
from tests.assertions import assert_same_answer
from tests.budget import examples
from tests.unit.online.stores import T0, MemoryStore, plan_of, table_of, view_of

SECOND = 1_000_000


MENU = {
    "n": agg.count().over("3s"),
    "n_resolved": agg.count().over("4s", resolution="3s"),
    "sum": agg.sum(col("x")).over("2s"),
    "last": agg.last(col("name")),
    "last_even_null": agg.last(col("name"), respect_nulls=True),
    "last_with_ttl": agg.last(col("x")).ttl("4s"),
    "last_two": agg.last_n(col("name"), 2),
    "last_where": agg.last(col("x"), where=col("name") == "x"),
    "last_where_even_null": agg.last(col("x"), where=col("name") == "x", respect_nulls=True),
    "since": agg.time_since_last(),
    "first": agg.first(col("name")).lifetime(),
    "first_two": agg.first_n(col("name"), 2).lifetime(),
    "first_over": agg.first(col("name")).over("3s"),
}
REFRESHES = (continuous(), continuous(), every("3s"), every("4s", lag="2s"))


@st.composite
def worlds(draw):
    """A view of which little has to be kept, and events so near each other that all edges meet."""
    names = draw(st.lists(st.sampled_from(sorted(MENU)), min_size=1, max_size=2, unique=True))
    happened = st.integers(0, 12)
    delay = st.sampled_from((0, 0, 0, 1, 3, 9, -2))
    event_rows = st.tuples(
        st.sampled_from("ab"), happened, delay, st.sampled_from((None, 1.0, 2.0)), st.sampled_from((None, "x", "y"))
    )
    rows = draw(st.lists(event_rows, min_size=6, max_size=14))
    rows = [(user, at, at + delay, x, name) for user, at, delay, x, name in rows]
    options = {"refresh": draw(st.sampled_from(REFRESHES)), "inclusive": draw(st.booleans())}
    return plan_of(view_of(rows, features={name: MENU[name] for name in names}, **options)), table_of(rows)


def block_of(plan, prepared, codes, chosen):
    """Arrange some of the events; also return which row each event of the block is."""
    picked = replace(
        prepared,
        rows=prepared.rows[chosen],
        event_time=prepared.event_time[chosen],
        ingest_time=prepared.ingest_time[chosen],
        # A last input that tells events apart without changing their order.
        values=np.vstack([prepared.values[:, chosen], chosen]),
        flags=np.vstack([prepared.flags[:, chosen], np.full(len(chosen), 2, dtype=np.uint8)]),
        dictionaries=(*prepared.dictionaries, None),
        is_float=(*prepared.is_float, False),
    )
    block = arrange(picked, codes[chosen], 2)
    return replace(block, values=block.values[:-1], flags=block.flags[:-1]), block.values[-1]


@given(st.data(), worlds())
@examples(250)
def test_answers_from_the_reach_on_are_the_same_after_pruning(data, world):
    """Also if more events are folded in later, and pruned again."""
    plan, table = world
    reach_us, first_until, lead = (T0 + data.draw(st.integers(low, 16)) * SECOND for low in (3, 0, 0))
    prepared = bind(plan).prepare(table)
    codes = np.array([ord(user) - ord("a") for user in table.column("user").to_pylist()])
    everything = np.arange(len(prepared))
    whole, _ = block_of(plan, prepared, codes, everything)
    is_left = np.ones(len(prepared), dtype=np.bool_)
    for until in (first_until, T0 + 99 * SECOND):
        block, rows = block_of(plan, prepared, codes, np.flatnonzero(is_left & (prepared.ingest_time < until)))
        is_left[rows[~still_matter(plan, block, reach_us)]] = False
    pruned, _ = block_of(plan, prepared, codes, np.flatnonzero(is_left))
    event("dropped some" if len(pruned) < len(whole) else "kept all")
    watermark = data.draw(st.sampled_from((NO_WATERMARK, reach_us, max(reach_us, lead))))
    as_of = np.array([reach_us + step * SECOND // 2 for step in range(24)] * 2)
    entity = np.repeat([0, 1], 24)
    reference = bind(plan).evaluate(whole, entity, as_of, watermark=watermark)
    current = bind(plan).evaluate(pruned, entity, as_of, watermark=watermark)
    assert_same_answer(reference=reference, current=current)


@given(st.data(), worlds())
@examples(250)
def test_parts_reduced_by_themselves_fold_into_the_same_states(data, world):
    """In whatever parts events come: what one of them drops, all of them together would have dropped too."""
    plan, table = world
    reach_us = data.draw(st.sampled_from((NOTHING_YET, *(T0 + second * SECOND for second in range(3, 17)))))
    cuts = sorted(data.draw(st.lists(st.integers(0, table.num_rows), max_size=4)))
    folder = StateUpdater(plan, MemoryStore())
    parts = [table.slice(low, high - low) for low, high in pairwise([0, *cuts, table.num_rows])]
    reduced = pa.concat_tables([folder.drop_useless(part, reach_us) for part in parts])
    event("dropped some" if reduced.num_rows < table.num_rows else "kept all")
    states = []
    for events in (table, reduced):
        fresh = folder.arrange(events, 0, reach_us)
        states.append(list(folder.update(fresh, 0, len(fresh.keys), None, reach_us)))
    assert states[0] == states[1]


def kept(rows, features, reach, **options):
    """Return which of the rows of one user, given in order, are kept."""
    view = view_of(rows, features=features, **options)
    plan = plan_of(view)
    table = table_of(rows)
    block = arrange(bind(plan).prepare(table), np.zeros(len(rows), dtype=np.int64), 1)
    return still_matter(plan, block, T0 + round(reach * SECOND)).tolist()


def at(*seconds, learned=None):
    return [("a", second, second if learned is None else learned[i], 1.0, "x") for i, second in enumerate(seconds)]


def test_what_lies_before_the_longest_window_is_dropped_but_for_the_newest():
    features = {"n": agg.count().over("10s"), "m": agg.count().over("2s")}
    assert kept(at(1, 2, 5, 10, 20), features, 15) == [False, False, True, True, True]
    assert kept(at(1, 2, 3), features, 100) == [False, False, True]


def test_the_edge_of_the_window_is_kept():
    assert kept(at(4.999999, 5, 6), {"n": agg.count().over("10s")}, 15) == [False, True, True]


def test_a_resolution_keeps_what_its_wider_window_reaches():
    assert kept(at(1, 4.5, 6), {"n": agg.count().over("10s")}, 15.5) == [False, False, True]
    assert kept(at(1, 4.5, 6), {"n": agg.count().over("10s", resolution="4s")}, 15.5) == [False, True, True]


def test_a_grid_counts_windows_from_its_horizon():
    """Asked at 19 s, a view refreshed every 10 s still answers as of 10 s."""
    features = {"n": agg.count().over("5s")}
    grid = {"refresh": every("10s")}
    assert kept(at(4, 6, 12), features, 19, **grid) == [False, True, True]
    assert kept(at(4, 6, 12), features, 20, **grid) == [False, False, True]


def test_the_newest_is_only_enough_if_it_was_known_already():
    """An event that is learned after the reach hides nothing from a question at the reach."""
    assert kept(at(1, 2, 3, learned=[1, 2, 200]), {"n": agg.count().over("10s")}, 100) == [False, True, True]


def test_last_n_keeps_as_many_members():
    features = {"names": agg.last_n(col("name"), 2)}
    rows = [("a", 1, 1, 1.0, "x"), ("a", 2, 2, 1.0, "y"), ("a", 3, 3, 1.0, None), ("a", 4, 4, 1.0, "z")]
    assert kept(rows, features, 100) == [False, True, False, True]


def test_respected_nulls_are_members():
    rows = [("a", 1, 1, 1.0, "x"), ("a", 2, 2, 1.0, None)]
    assert kept(rows, {"name": agg.last(col("name"), respect_nulls=True)}, 100) == [False, True]
    assert kept(rows, {"name": agg.last(col("name"))}, 100) == [True, True]


def test_the_first_of_a_lifetime_does_not_keep_the_others():
    features = {"first": agg.first(col("name")).lifetime()}
    assert kept(at(1, 2, 3, 4), features, 100) == [True, False, False, True]
    assert kept(at(1, 2, 3, 4, learned=[200, 2, 3, 4]), features, 100) == [True, True, False, True]


@pytest.mark.parametrize("name", ["sum", "mean", "min", "max", "count", "median", "count_distinct", "mode"])
def test_any_other_lifetime_keeps_every_event(name):
    features = {"f": getattr(agg, name)(col("x")).lifetime()}
    assert kept(at(1, 2, 3), features, 100) == [True, True, True]
    assert keeps_everything(plan_of(view_of([], features=features)))


def test_a_state_without_a_reach_keeps_every_event():
    plan = plan_of(view_of([]))
    table = table_of(at(1, 2, 3))
    block = arrange(bind(plan).prepare(table), np.zeros(3, dtype=np.int64), 1)
    assert still_matter(plan, block, NOTHING_YET).all()
