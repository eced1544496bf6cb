"""A replayed history: every event takes one way, pushes come in order, and state holds what came before its bounds."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from featurestore.core.temporal import NO_WATERMARK, NOTHING_YET
from featurestore.guard.release.history import History

SCHEMA = pa.schema([("number", pa.int64()), ("known", pa.timestamp("us", tz="UTC"))])


class Source:
    """A scan of a table."""

    ingest_column = "known"
    schema = dict.fromkeys(SCHEMA.names)
    files = ()
    piece_count = 1

    def __init__(self, known, outside=True):
        times = pa.array(known, pa.int64()).cast(SCHEMA.field("known").type)
        self.table = pa.table([pa.array(range(len(known)), pa.int64()), times], schema=SCHEMA)
        self.row_count = len(known)
        self._has_outside = outside

    def outside(self):
        return self if self._has_outside else Source([])

    def read(self, columns, *, ingest=None):
        times = self.table.column("known").cast(pa.int64()).to_numpy()
        first, end = ingest or (NOTHING_YET, NO_WATERMARK)
        return self.table.filter(pa.array((times >= first) & (times < end))).select(columns)

    def count_below(self, ingest_us):
        return self.read([], ingest=(NOTHING_YET, ingest_us)).num_rows

    def batches(self, columns, *, ingest=None):
        return iter(self.read(columns, ingest=ingest).to_batches())


def numbers(rows):
    return sorted(rows.column("number").to_pylist())


KNOWN = st.lists(st.integers(-50, 50), max_size=60)


@given(known=KNOWN, bound=st.integers(-60, 60), pushed_bound=st.integers(-60, 60))
def test_every_event_takes_one_way_and_state_holds_what_came_before_its_bounds(known, bound, pushed_bound):
    history = History(Source(known), accepts_pushes=True)
    steps = list(history.stream(100).pushed.steps(NOTHING_YET, 100, 7))
    pushed = numbers(pa.concat_tables([table for _, table in steps]))
    outside = numbers(history.outside().read(["number"]))
    assert sorted(pushed + outside) == list(range(len(known)))
    held = history.held(outside_us=bound, pushed_us=pushed_bound)
    wanted = [n for n in outside if known[n] < bound] + [n for n in pushed if known[n] < pushed_bound]
    assert numbers(held.read(["number"])) == sorted(wanted)
    assert held.row_count == len(wanted)
    assert history.outside().count_below(bound) == sum(known[n] < bound for n in outside)


@given(known=KNOWN, most=st.integers(1, 10))
def test_steps_are_cut_between_instants_and_hold_about_as_many_events_as_wanted(known, most):
    history = History(Source(known, outside=False), accepts_pushes=True)
    assert history.is_all_pushed
    begin = -40
    steps = list(history.stream(100).pushed.steps(begin, 30, most))
    for end, table in steps:
        times = [known[number] for number in table.column("number").to_pylist()]
        assert all(begin <= at < end for at in times)
        assert len(times) <= most or len(set(times)) == 1
        begin = end
    assert begin == 30
    assert sum(table.num_rows for _, table in steps) == sum(-40 <= at < 30 for at in known)
    assert list(history.stream(100).pushed.steps(30, 30, most)) == []


def test_about_half_is_pushed_and_the_middle_has_half_of_it_before():
    history = History(Source(range(0, 60_000_000, 60_000)), accepts_pushes=True)
    times = np.flatnonzero(history.pushed(np.arange(0, 60_000_000, 60_000, dtype=np.int64))) * 60_000
    assert 400 < len(times) < 600
    middle = history.middle_us(0, 60_000_000)
    assert abs((times < middle).sum() - len(times) / 2) <= 1
    assert history.middle_us(0, 0) is None
    assert History(Source([1, 2]), accepts_pushes=False).stream(5) is None
