"""Sources asked only for newest events are read through, and what is kept is as small as the spine."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from featurestore import Entity, FeatureView, FrameSource, agg, col
from featurestore.core.dtypes import FLOAT64, INT64, TIMESTAMP
from featurestore.definitions.collection import collect
from featurestore.kernels.evaluate import arrange_queries
from featurestore.kernels.keys import KeyIndex
from featurestore.offline.narrowing import narrowed
from featurestore.offline.parts import Resources
from featurestore.plan.compiler import compile_definitions
from tests.roads import TableRows, through_engine

COLUMNS = {"key": INT64, "at": TIMESTAMP, "value": FLOAT64, "other": FLOAT64}
DAY_US = timedelta(days=1) // timedelta(microseconds=1)


def view_of(where=None, **features):
    view = FeatureView(
        "view",
        entity=Entity("one", key="key", dtype="int64"),
        source=FrameSource("events", frame=events_of(0), event_time="at"),
        where=where,
        features=features,
    )
    return compile_definitions(collect(view), {"events": COLUMNS}).views["view"]


def events_of(count, *, entities=10, share_null=0.0, seed=0):
    chance = np.random.default_rng(seed)
    values = chance.random(count)
    return pa.table(
        {
            "key": chance.integers(0, entities, count),
            "at": pa.array(chance.integers(0, DAY_US, count)).cast(TIMESTAMP.arrow),
            "value": pa.array(values, mask=chance.random(count) < share_null),
            "other": pa.array(values, mask=chance.random(count) < share_null),
        }
    )


def ask(plan, table, *, queries=20, batch_rows=100, threads=2, memory_bytes=None):
    chance = np.random.default_rng(9)
    index, codes = KeyIndex.build([pa.array(chance.integers(0, 10, queries))])
    asked = arrange_queries(codes, chance.integers(0, DAY_US, queries), len(index))
    return narrowed(plan, TableRows(table, batch_rows), index, asked, Resources(threads, memory_bytes), False)


LAST = {"value": agg.last(col("value"), respect_nulls=True)}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch_rows", [100, 1_000, 5_000])
def test_what_is_kept_is_at_most_one_event_per_question_and_piece(threads, batch_rows):
    part = ask(view_of(**LAST), events_of(5_000), batch_rows=batch_rows, threads=threads)
    assert 0 < len(part.codes) <= 20 * 5_000 // batch_rows


def test_what_newer_pieces_outdid_is_dropped_on_the_way(monkeypatch):
    monkeypatch.setattr("featurestore.offline.narrowing._LEAST_CROWD", 1)
    part = ask(view_of(**LAST), events_of(5_000))
    assert 0 < len(part.codes) <= 3 * 20


def test_members_of_every_input_are_kept():
    """An event without a value is no answer for ``last``, but may hide the one that is."""
    table = events_of(5_000, share_null=0.9)
    both = {"value": agg.last(col("value")), "other": agg.last(col("other")), "since": agg.time_since_last(unit="s")}
    part = ask(view_of(**both), table, batch_rows=5_000)
    assert 20 < len(part.codes) <= 3 * 20
    kept = part.read(["value", "other"])
    assert kept["value"].null_count < len(part.codes)
    assert kept["other"].null_count < len(part.codes)


def test_events_that_the_view_rejects_are_not_kept():
    part = ask(view_of(where=col("value") > 0.5, **LAST), events_of(5_000))
    assert min(part.read(["value"])["value"].to_pylist()) > 0.5


def test_events_of_entities_that_nobody_asks_about_are_not_kept():
    table = events_of(5_000, entities=1_000)
    part = ask(view_of(**LAST), table)
    assert set(part.codes.tolist()) <= set(range(10))


def test_other_features_need_the_whole_source():
    assert ask(view_of(**LAST, count=agg.count().lifetime()), events_of(5_000)) is None


def test_few_events_are_worked_through_as_they_are():
    assert ask(view_of(**LAST), events_of(79)) is None
    assert ask(view_of(**LAST), events_of(80)) is not None


def test_a_source_of_which_most_must_be_kept_is_worked_through_as_a_whole(monkeypatch):
    monkeypatch.setattr("featurestore.offline.narrowing._LEAST_CROWD", 1)
    assert ask(view_of(**LAST), events_of(5_000), memory_bytes=1_000) is None


def test_a_source_that_stands_in_no_order_is_worked_through_as_a_whole():
    ordered = events_of(5_000).sort_by("at")
    kept = ask(view_of(**LAST), ordered, queries=1_000, batch_rows=1_000)
    assert 0 < len(kept.codes) < 1_000
    shuffled = ordered.take(np.random.default_rng(2).permutation(5_000))
    assert ask(view_of(**LAST), shuffled, queries=1_000, batch_rows=1_000) is None
    assert ask(view_of(**LAST), shuffled, queries=1_000, batch_rows=1_000, memory_bytes=600_000) is not None


def test_an_empty_source_gives_no_events(monkeypatch):
    monkeypatch.setattr("featurestore.offline.narrowing._LEAST_GAIN", 0)
    part = ask(view_of(**LAST), events_of(0))
    assert len(part.codes) == 0
    assert part.read(["value"])["value"].type == pa.float64()


@pytest.mark.parametrize("share_null", [0.0, 0.3])
def test_the_answers_are_those_of_the_whole_source(share_null, monkeypatch):
    table = events_of(3_000, share_null=share_null, seed=5)
    plan = view_of(
        value=agg.last(col("value")),
        expiring=agg.last(col("other")).ttl("10m"),
        recent=agg.last(col("value") + col("other")).over("1h"),
        since=agg.time_since_last(col("value"), unit="s"),
    )
    chance = np.random.default_rng(3)
    queries = [
        ((int(key),), int(at))
        for key, at in zip(chance.integers(0, 12, 90), chance.integers(0, DAY_US, 90), strict=True)
    ]
    read_through = through_engine(plan, table, queries, Resources(2))
    monkeypatch.setattr("featurestore.offline.engine.narrowed", lambda *_: None)
    whole = through_engine(plan, table, queries, Resources(2))
    assert read_through.columns == whole.columns
    assert read_through.statuses.tolist() == whole.statuses.tolist()


@pytest.mark.parametrize("batch_rows", [100, 1])
def test_events_equal_in_time_are_all_kept_for_their_content_to_decide(batch_rows, monkeypatch):
    monkeypatch.setattr("featurestore.offline.narrowing._MOST_KEPT", 2)
    values = [None, 0.25, 0.75, 0.5]
    for turned in range(4):
        table = pa.table(
            {
                "key": [1] * 4,
                "at": pa.array([60] * 4).cast(TIMESTAMP.arrow),
                "value": pa.array(values[turned:] + values[:turned], pa.float64()),
                "other": pa.array([0.0] * 4),
            }
        )
        index, codes = KeyIndex.build([pa.array([1])])
        asked = arrange_queries(codes, np.array([61]), len(index))
        part = narrowed(view_of(**LAST), TableRows(table, batch_rows), index, asked, Resources(1), False)
        assert len(part.codes) == 4
        assert through_engine(view_of(**LAST), table, [((1,), 61)], Resources(1)).columns[0].to_pylist() == [0.75]
