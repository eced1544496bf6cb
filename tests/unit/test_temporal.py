"""The rules of time: instants, durations, horizons, windows, expiry."""

from datetime import UTC, date, datetime, timedelta, timezone

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.core.errors import InstantError
from featurestore.core.temporal import (
    MAX_INSTANT_US,
    MICROSECONDS,
    MIN_INSTANT_US,
    NO_WATERMARK,
    NOTHING_YET,
    FixedClock,
    Refresh,
    SystemClock,
    continuous,
    duration_name,
    duration_us,
    every,
    format_age,
    format_duration,
    format_instant,
    horizons,
    instant_us,
    is_expired,
    is_stale,
    newest_refresh,
    next_refresh,
    promised_at,
    to_datetime,
    window_start,
)

HOUR = MICROSECONDS["h"]
INSTANTS = st.integers(-(10**15), 10**16)
PERIODS = st.sampled_from((0, 1, 7, HOUR, 24 * HOUR))
LAGS = st.sampled_from((0, 1, 10 * MICROSECONDS["m"], 3 * HOUR))
SIDES = st.integers(0, 1)


@pytest.mark.parametrize(
    ("written", "length"),
    [
        ("90m", 90 * MICROSECONDS["m"]),
        ("1h30m", 90 * MICROSECONDS["m"]),
        ("1w 2d", 9 * MICROSECONDS["d"]),
        ("5us", 5),
        ("5ms", 5_000),
        ("0s", 0),
        (timedelta(hours=2, microseconds=3), 2 * HOUR + 3),
        (0, 0),
    ],
)
def test_a_duration_is_read_from_text_timedelta_or_zero(written, length):
    assert duration_us(written) == length


@pytest.mark.parametrize("wrong", ["", "1", "h", "1 fortnight", "1h and a bit", "-1h", -1, True, 1.5, None, 2**62])
def test_what_is_no_duration_is_refused_with_an_example(wrong):
    with pytest.raises(InstantError, match=r"\[duration\]"):
        duration_us(wrong)


@pytest.mark.parametrize("number", [7, 86_400_000_000, "7"])
def test_a_bare_number_has_no_unit(number):
    """pandas' rolling(7) and "7 days" both look like this; neither is 7 microseconds."""
    with pytest.raises(InstantError, match=rf"the duration '?{number}'? has no unit. Add a unit: '{number}d'"):
        duration_us(number)


@given(st.integers(0, 10**15))
def test_a_written_duration_reads_as_itself(length):
    assert duration_us(format_duration(length)) == length
    assert duration_us(duration_name(length)) == length


@pytest.mark.parametrize("written", ["1d", "7d", "90d", "365d", "36h", "90m", "2h30m", "1d30m", "90s", "500ms", "1us"])
def test_a_duration_comes_back_as_a_user_writes_it(written):
    assert format_duration(duration_us(written)) == written


@pytest.mark.parametrize(("written", "shown"), [("168h", "7d"), ("604800s", "7d"), ("1w", "7d"), ("150m", "2h30m")])
def test_a_duration_in_small_units_comes_back_in_few_characters(written, shown):
    assert format_duration(duration_us(written)) == shown


def test_names_of_features_are_made_of_a_text_that_never_changes():
    assert [duration_name(duration_us(text)) for text in ("7d", "90m", "36h", "0s")] == ["1w", "1h30m", "1d12h", "0s"]


@pytest.mark.parametrize(("length", "age"), [("40d", "40d"), ("40d5h30m", "40d5h"), ("150s", "2m30s"), ("0s", "0s")])
def test_an_age_has_two_units_at_most(length, age):
    assert format_age(duration_us(length)) == age


def test_no_duration_is_zero_seconds():
    assert format_duration(0) == "0s"


@pytest.mark.parametrize(
    "written",
    [
        "2026-01-01T01:00:00+01:00",
        "2026-01-01T00:00:00Z",
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2025, 12, 31, 19, tzinfo=timezone(timedelta(hours=-5))),
        pd.Timestamp("2026-01-01", tz="UTC"),
    ],
)
def test_an_instant_is_read_in_any_zone_it_names(written):
    assert instant_us(written) == 1_767_225_600_000_000


def test_nanoseconds_are_cut_down():
    assert instant_us(pd.Timestamp(-1, unit="ns", tz="UTC")) == -1
    assert instant_us(pd.Timestamp(1_999, unit="ns", tz="UTC")) == 1


@pytest.mark.parametrize("naive", [datetime(2026, 1, 1), "2026-01-01T00:00:00", "2026-01-01", pd.Timestamp(0)])
def test_a_naive_instant_is_refused_with_the_fix(naive):
    with pytest.raises(InstantError, match=r"has no time zone.*tzinfo") as caught:
        instant_us(naive, where="spine")
    assert (caught.value.code, caught.value.where) == ("naive-instant", "spine")


@pytest.mark.parametrize("wrong", ["yesterday", "", 5, 1.5, None, date(2026, 1, 1), pd.NaT])
def test_what_is_no_instant_is_refused(wrong):
    with pytest.raises(InstantError):
        instant_us(wrong)


@given(st.integers(MIN_INSTANT_US, MAX_INSTANT_US))
def test_an_instant_survives_datetime_and_text(instant):
    assert instant_us(to_datetime(instant)) == instant
    assert instant_us(format_instant(instant)) == instant


@pytest.mark.parametrize("instant", [MIN_INSTANT_US - 1, MAX_INSTANT_US + 1])
def test_years_that_datetime_does_not_have_are_refused(instant):
    with pytest.raises(InstantError, match="1 to 9999"):
        to_datetime(instant)


def test_watermarks_that_bound_nothing_are_named():
    assert (format_instant(NOTHING_YET), format_instant(NO_WATERMARK)) == ("never", "always")


def test_a_policy_says_what_it_promises():
    assert str(continuous()) == "continuous"
    assert str(every("1h", lag="10m")) == "every 1h, lag 10m"
    assert every("1h") == Refresh(HOUR, 0)


def test_a_grid_without_a_period_is_refused():
    with pytest.raises(InstantError, match="continuous"):
        every("0h")


def test_a_continuous_view_sees_what_happened_and_was_known_before_as_of():
    assert horizons(100, NO_WATERMARK, 0, 0, 0) == (100, 100)


def test_a_grid_sees_as_of_its_last_refresh_that_is_served_by_now():
    at = 5 * HOUR + 9 * MICROSECONDS["m"]
    lag = 10 * MICROSECONDS["m"]
    assert horizons(at, NO_WATERMARK, HOUR, lag, 0) == (4 * HOUR, 4 * HOUR + lag)
    assert horizons(at + MICROSECONDS["m"], NO_WATERMARK, HOUR, lag, 0) == (5 * HOUR, 5 * HOUR + lag)


def test_the_grid_is_floored_before_the_epoch_too():
    assert horizons(-1, NO_WATERMARK, HOUR, 0, 0) == (-HOUR, -HOUR)


@given(INSTANTS, PERIODS.filter(bool), LAGS)
def test_the_grid_has_one_rule_and_one_inverse(as_of, period, lag):
    newest = newest_refresh(as_of, period, lag)
    assert newest == horizons(as_of, NO_WATERMARK, period, lag, 0)[0]
    assert promised_at(newest, period, lag) == newest + lag <= as_of < next_refresh(as_of, period, lag)
    first = promised_at(as_of, period, lag)
    assert newest_refresh(first, period, lag) >= as_of > newest_refresh(first - 1, period, lag)


def test_without_a_grid_every_horizon_is_promised_at_once():
    assert promised_at(5, 0, 3) == 5


@given(INSTANTS, PERIODS, LAGS)
def test_inclusive_moves_both_bounds_by_the_smallest_step(as_of, period, lag):
    event, ingest = horizons(as_of, NO_WATERMARK, period, lag, 0)
    assert horizons(as_of, NO_WATERMARK, period, lag, 1) == (event + 1, ingest + 1)


@given(INSTANTS, INSTANTS, PERIODS, LAGS, SIDES)
def test_no_road_looks_beyond_its_watermark(as_of, watermark, period, lag, inclusive):
    _, ingest = horizons(as_of, watermark, period, lag, inclusive)
    assert ingest <= watermark


@given(INSTANTS, INSTANTS, PERIODS, LAGS, SIDES)
def test_a_view_is_stale_exactly_if_its_answer_is_not_the_promised_one(as_of, watermark, period, lag, inclusive):
    promised = horizons(as_of, NO_WATERMARK, period, lag, inclusive)
    answered = horizons(as_of, watermark, period, lag, inclusive)
    expected = period > 0 and promised != answered
    assert is_stale(as_of, watermark, period, lag, inclusive) == expected


@given(INSTANTS, st.integers(0, 10**6), PERIODS, LAGS, SIDES)
def test_horizons_never_move_back(as_of, later, period, lag, inclusive):
    before = horizons(as_of, NO_WATERMARK, period, lag, inclusive)
    after = horizons(as_of + later, NO_WATERMARK, period, lag, inclusive)
    assert before[0] <= after[0]
    assert before[1] <= after[1]


def test_a_window_begins_its_length_before_the_horizon():
    assert window_start(10 * HOUR, HOUR, 0, 0) == 9 * HOUR
    assert window_start(10 * HOUR + 1, HOUR, 0, 1) == 9 * HOUR


def test_a_resolution_cuts_the_lower_edge_down():
    assert window_start(10 * HOUR + 5, HOUR, HOUR, 0) == 9 * HOUR
    assert window_start(-5, HOUR, HOUR, 0) == -2 * HOUR


def test_a_lifetime_has_no_lower_edge():
    assert window_start(10 * HOUR, -1, 0, 0) == NOTHING_YET


def test_a_value_as_old_as_its_time_to_live_still_lives():
    assert not is_expired(90, 100, 10)
    assert is_expired(89, 100, 10)


def test_clocks_tell_microseconds():
    assert FixedClock(17).now_us() == 17
    assert SystemClock().now_us() > 1_767_225_600_000_000
