"""What rows that differ have in common is counted right, and told if it is telling."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from featurestore.core.temporal import to_datetime
from featurestore.guard.audit.slices import SliceTally, age_classes, width_of
from featurestore.serving_log import Caller
from tests.strategies import START_US
from tests.unit.skew.test_batches import HOUR
from tests.unit.skew.test_batches import store as store  # noqa: PLC0414  # a fixture

SPAN = {"since": to_datetime(START_US), "until": to_datetime(START_US + 99 * HOUR)}


def serve(store, users, *, hours=49, wrong=0, version="1"):
    """Log answers, the first of them with one order too few."""
    answer = store.get_online_features("model", [{"user": user} for user in users], as_of=at_hour(hours))
    rows = [list(row) for row in answer.rows]
    for row in rows[:wrong]:
        row[list(answer.columns).index("spending__orders")] -= 1
    caller = Caller(model="ranking", model_version=version)
    store.parts.serving_log.append(
        store.plan("model"), replace(answer, rows=rows, request_id=f"{version} {hours}"), caller
    )


def at_hour(hours):
    return to_datetime(START_US + int(hours * HOUR))


@pytest.fixture
def logged(store):
    """A store with online state."""
    store.materialize(until=at_hour(50))
    return store


def slices_of(report):
    return {(one.by, one.value): (one.rows, one.different) for one in report.slices}


def test_the_version_of_a_model_whose_answers_differ_is_told(logged):
    serve(logged, range(20), version="1")
    serve(logged, range(20, 30), wrong=5, version="2")
    report = logged.audit("model", **SPAN, by=["user"])
    found = slices_of(report)
    assert found["model version", "2"] == (10, 5)
    assert "100% of the rows that differ have model version 2" in report.telling
    assert report.different == 5
    assert sum(bucket.different for bucket in report.over_time) == 5


def test_a_column_that_is_named_is_a_slice(logged):
    for hours in (49.2, 49.4, 49.6, 49.8):
        serve(logged, [7], hours=hours, wrong=1, version=str(hours))
        serve(logged, range(10, 20), hours=hours, version=f"right {hours}")
    report = logged.audit("model", **SPAN, by=["user"])
    assert slices_of(report)["user", "7"] == (8, 4), "each was answered right once, too"


def test_tallies_count_like_a_loop():
    random = np.random.default_rng(4)
    as_of, differs = random.integers(0, 10**12, 500), random.random(500) < 0.3
    texts = [["a", "b", None][i] for i in random.integers(0, 3, 500)]
    tally = SliceTally(width_of(0, 10**12))
    for part in np.array_split(np.arange(500), 3):
        tally.add(as_of[part], differs[part], {"letter": pa.array([texts[i] for i in part])})
    rows = Counter("null" if text is None else text for text in texts)
    different = Counter("null" if text is None else text for text, wrong in zip(texts, differs, strict=True) if wrong)
    assert tally.rows["letter"] == rows
    assert tally.different["letter"] == different
    assert sum(bucket.rows for bucket in tally.buckets()) == 500
    assert sum(bucket.different for bucket in tally.buckets()) == differs.sum()
    assert len(tally.buckets()) <= 48


def test_ages_fall_into_the_class_that_names_them():
    second, minute = 1_000_000, 60_000_000
    ages = np.array([-5, 0, 1, second, second + 1, minute, 25 * 60 * minute])
    assert age_classes(ages).to_pylist() == [
        "on time",
        "on time",
        "up to 1s",
        "up to 1s",
        "up to 1m",
        "up to 1m",
        "over 1d",
    ]


def tally_of(rows, different):
    """Return a tally of rows of two kinds: ``rows`` and ``different`` by kind."""
    tally = SliceTally(HOUR)
    kinds = [kind for kind, count in rows.items() for _ in range(count)]
    differs = [number < different[kind] for kind, count in rows.items() for number in range(count)]
    tally.add(np.zeros(len(kinds), dtype=np.int64), np.array(differs), {"kind": pa.array(kinds)})
    return tally


@pytest.mark.parametrize(
    ("rows", "different", "is_telling"),
    [
        ({"a": 2, "b": 98}, {"a": 1, "b": 0}, False),  # one row is of some kind, whatever it is
        ({"a": 2, "b": 98}, {"a": 2, "b": 0}, True),
        ({"a": 50, "b": 50}, {"a": 5, "b": 0}, False),  # heads, five times
        ({"a": 50, "b": 50}, {"a": 12, "b": 0}, True),
        ({"a": 20, "b": 80}, {"a": 9, "b": 1}, True),
        ({"a": 20, "b": 80}, {"a": 3, "b": 1}, False),
    ],
)
def test_a_slice_that_chance_gives_is_not_told(rows, different, is_telling):
    found = tally_of(rows, different).telling()
    assert (found is not None) == is_telling
    assert tally_of(rows, different).slices()[0].value == "a"
