"""Grids are those of refreshes, and crontab's days are crontab's."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.core.temporal import (
    duration_us,
    format_instant,
    instant_us,
    to_datetime,
)
from featurestore.operations import CronTrigger, GridTrigger, LaterTrigger

HOUR, MINUTE = duration_us("1h"), duration_us("1m")
# A Monday.
START = datetime(2026, 3, 2, tzinfo=UTC)
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def fired(trigger, count, start=START):
    found = [trigger.next_us(instant_us(start))]
    while len(found) < count:
        found.append(trigger.next_us(found[-1] + 1))
    return [to_datetime(at) for at in found]


def days(text, count=7):
    return [f"{DAYS[at.weekday()]} {at.day}" for at in fired(CronTrigger(text), count)]


def test_grids_are_those_of_refreshes():
    trigger = GridTrigger(HOUR, 10 * MINUTE)
    at_us = instant_us("2026-03-01T05:10:00Z")
    assert format_instant(trigger.next_us(at_us)) == "2026-03-01T05:10:00Z"
    assert format_instant(trigger.next_us(at_us + 1)) == "2026-03-01T06:10:00Z"
    assert str(trigger) == "every 1h lag 10m"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 6 * * 0", ["sun 8", "sun 15"]),
        ("0 6 * * 7", ["sun 8", "sun 15"]),
        ("0 6 * * 1", ["mon 2", "mon 9"]),
        ("0 6 * * sun", ["sun 8", "sun 15"]),
        ("0 6 * * 5-7", ["fri 6", "sat 7", "sun 8", "fri 13"]),
        ("0 6 * * 1-5/2", ["mon 2", "wed 4", "fri 6", "mon 9"]),
        ("0 6 * * mon,3", ["mon 2", "wed 4", "mon 9"]),
        ("0 6 * * */3", ["wed 4", "sat 7", "sun 8"]),
        ("@weekly", ["sun 8", "sun 15"]),
        # Both days restricted: either will do.
        ("0 6 13 * 5", ["fri 6", "fri 13", "fri 20", "fri 27", "fri 3", "fri 10", "mon 13"]),
        ("0 6 3,13 * mon", ["mon 2", "tue 3", "mon 9", "fri 13", "mon 16"]),
        # A day that begins with a star restricts nothing by itself: both must do.
        ("0 6 */2 * 1", ["mon 9", "mon 23", "mon 13"]),
    ],
)
def test_days_are_those_of_crontab(text, expected):
    assert days(text, len(expected)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*/20 * * * *", ["2026-03-02T00:00:00Z", "2026-03-02T00:20:00Z", "2026-03-02T00:40:00Z"]),
        ("5/25 1 * * *", ["2026-03-02T01:05:00Z", "2026-03-02T01:30:00Z", "2026-03-02T01:55:00Z"]),
        ("0 0-6/3,22 * * *", ["2026-03-02T00:00:00Z", "2026-03-02T03:00:00Z", "2026-03-02T06:00:00Z"]),
        # The night in which Europe's clocks skip an hour: the times are UTC.
        ("30 1,2 29 mar *", ["2026-03-29T01:30:00Z", "2026-03-29T02:30:00Z", "2027-03-29T01:30:00Z"]),
        ("0 0 29 2 *", ["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"]),
        ("@hourly", ["2026-03-02T00:00:00Z", "2026-03-02T01:00:00Z"]),
        ("@Daily", ["2026-03-02T00:00:00Z", "2026-03-03T00:00:00Z"]),
        ("@yearly", ["2027-01-01T00:00:00Z"]),
    ],
)
def test_times_are_those_of_crontab_in_utc(text, expected):
    assert [format_instant(instant_us(at)) for at in fired(CronTrigger(text), len(expected))] == expected


def test_a_time_that_a_process_asks_at_is_due_and_a_microsecond_later_is_not():
    trigger = CronTrigger("0 6 * * *")
    at_us = instant_us("2026-03-02T06:00:00Z")
    assert trigger.next_us(at_us) == at_us
    assert trigger.next_us(at_us + 1) == at_us + 24 * HOUR


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("* * * *", "4 fields, expected five"),
        ("61 * * * *", "'61' is not a valid minute, expected 0 to 59"),
        ("0 6 * * 8", "'8' is not a valid day-of-week, expected 0 to 7"),
        ("*/90 * * * *", "the step of '.*/90' is larger than the range of the minute"),
        ("0 0 31 2 *", "'31' is not a valid day-of-month, .*there is no such day"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(text, problem):
    with pytest.raises(ValueError, match=problem):
        CronTrigger(text)


@pytest.mark.parametrize(
    "text", ["often", "* * * *", "0 6 * * 8", "0 6 * * 5-1", "0 6 * * 1/0", "0 6 * * monday", "61 * * * *", "@never"]
)
def test_what_crontab_does_not_take_is_refused(text):
    with pytest.raises(ValueError, match=r"\S"):
        CronTrigger(text)


TRIGGERS = st.one_of(
    st.builds(GridTrigger, st.integers(1, 50 * HOUR), st.integers(0, 3 * HOUR)),
    st.sampled_from([CronTrigger(text) for text in ("*/7 * * * *", "0 6 13 * 5", "30 1 * * mon")]),
)


@given(TRIGGERS, st.integers(1, 2 * HOUR), st.integers(0, 10**15))
def test_a_later_trigger_fires_as_often_and_always_by_the_same_later(trigger, delay, start):
    begun = to_datetime(instant_us(START) + start)
    moved = to_datetime(instant_us(begun) + delay)
    expected = [instant_us(at) + delay for at in fired(trigger, 4, begun)]
    assert [instant_us(at) for at in fired(LaterTrigger(trigger, delay), 4, moved)] == expected
