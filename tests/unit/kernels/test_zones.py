"""Local clocks as ``zoneinfo`` knows them, for whole columns."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.core.dtypes import TIMESTAMP
from featurestore.core.errors import SourceDataError
from featurestore.core.temporal import LocalClock, is_timezone
from featurestore.core.values import read_column
from featurestore.core.zones import LocalTimeError, from_local, to_local
from tests.budget import examples

NAIVE, INSTANT = pa.timestamp("us"), pa.timestamp("us", tz="UTC")
ZONES = ["America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Kolkata", "Asia/Gaza"]
SECOND = timedelta(seconds=1)

instants = st.one_of(
    st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)), st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1))
)


def shown(instant, zone):
    return instant.replace(tzinfo=UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None)


def read(local, zone, **choices):
    return from_local(pa.array(local, NAIVE), LocalClock(zone, **choices)).to_pylist()


@given(st.lists(st.one_of(instants, st.none()), max_size=8), st.sampled_from(ZONES))
@examples(200)
def test_clocks_show_what_zoneinfo_says(times, zone):
    found = to_local(pa.array(times, NAIVE).cast(INSTANT), zone)
    assert found.type == NAIVE
    assert found.to_pylist() == [None if time is None else shown(time, zone) for time in times]


@given(st.lists(st.one_of(instants, st.none()), max_size=8), st.sampled_from(ZONES))
@examples(200)
def test_local_times_are_read_as_zoneinfo_reads_them(times, zone):
    """A time shown twice is the earlier or later of the two; one never shown is where the clocks go forward."""
    info = ZoneInfo(zone)
    for choice, fold in (("earlier", 0), ("later", 1)):
        expected = []
        for time in times:
            at = None if time is None else time.replace(tzinfo=info, fold=fold).astimezone(UTC)
            if at is not None and shown(at.replace(tzinfo=None), zone) != time:
                sides = [time.replace(tzinfo=info, fold=side).astimezone(UTC) for side in (0, 1)]
                low, high = min(sides), max(sides)
                while high - low > SECOND:
                    middle = low + (high - low) // SECOND // 2 * SECOND
                    if middle.astimezone(info).utcoffset() == low.astimezone(info).utcoffset():
                        low = middle
                    else:
                        high = middle
                at = high.replace(microsecond=0)
            expected.append(at)
        assert read(times, zone, ambiguous=choice, nonexistent="forward") == expected


@pytest.mark.parametrize(("choice", "hour"), [("earlier", 5), ("later", 6)])
def test_the_night_the_clock_goes_back(choice, hour):
    """New York shows 01:30 twice on 2 November 2025, and goes on as ever beside it."""
    local = [datetime(2025, 11, 2, 0, 30), datetime(2025, 11, 2, 1, 30), None, datetime(2025, 11, 2, 2, 30)]
    found = read(local, "America/New_York", ambiguous=choice)
    assert [None if at is None else at.hour for at in found] == [4, hour, None, 7]


def test_times_are_refused_by_row_unless_a_choice_is_made():
    back = [datetime(2025, 7, 1), None, datetime(2025, 11, 2, 1, 30)]
    forward = [datetime(2025, 7, 1), datetime(2025, 3, 9, 2, 30)]
    with pytest.raises(LocalTimeError) as error:
        read(back, "America/New_York")
    assert (error.value.row, error.value.is_ambiguous) == (2, True)
    with pytest.raises(LocalTimeError) as error:
        read(forward, "America/New_York", ambiguous="later")
    assert (error.value.row, error.value.is_ambiguous) == (1, False)
    assert read(forward, "America/New_York", nonexistent="forward")[1] == datetime(2025, 3, 9, 7, tzinfo=UTC)
    with pytest.raises(
        SourceDataError,
        match=r"row 12 holds 2025-11-02T01:30:00.000000, which clocks .* show twice. .*ambiguous='later'",
    ):
        read_column(pa.array(back, NAIVE), TIMESTAMP, "America/New_York", "here", first_row=10)
    with pytest.raises(SourceDataError, match=r"row 1 holds 2025-03-09T02:30:00.000000, .*show never"):
        read_column(pa.array(forward, NAIVE), TIMESTAMP, "America/New_York", "here")


def test_summer_time_goes_on_after_2037():
    times = [datetime(year, 7, 1, 3, 30) for year in (2037, 2038, 2099, 2400, 9999)]
    found = to_local(pa.array(times, NAIVE).cast(INSTANT), "America/New_York").to_pylist()
    assert [time.hour for time in found] == [23] * 5
    assert read(found, "America/New_York") == [time.replace(tzinfo=UTC) for time in times]


def test_times_of_many_centuries_stand_in_one_column():
    """Only the stretches of years in which a column has times are looked up."""
    times = np.array(["0003-01-01", "1895-06-01", "2026-07-01", "9998-07-01"], "datetime64[us]")
    found = to_local(pa.array(times).cast(INSTANT), "Europe/Berlin").to_pylist()
    assert found == [shown(time.item(), "Europe/Berlin") for time in times]


@pytest.mark.parametrize("edge", [datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999)])
@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_the_ends_of_the_calendar_have_offsets(edge, zone):
    offset = to_local(pa.array([edge], NAIVE).cast(INSTANT), zone).cast(pa.int64())[0].as_py() - (
        pa.scalar(edge, NAIVE).value
    )
    assert abs(offset) < 16 * 3_600_000_000


def test_no_zone_changes_twice_within_32_hours():
    """What the tables rest on: offsets are looked at once a day, and 16 hours to both sides of a local time."""
    from zoneinfo import _zoneinfo  # the pure Python twin shows its transitions

    for name in sorted(available_timezones()):
        if is_timezone(name):
            zone = _zoneinfo.ZoneInfo.no_cache(name)
            offsets = [info.utcoff for info in zone._ttinfos]
            changed = [
                at for at, old, new in zip(zone._trans_utc[1:], offsets, offsets[1:], strict=False) if old != new
            ]
            assert all(later - earlier > 32 * 3600 for earlier, later in pairwise(changed)), name


@pytest.mark.parametrize(
    "name", ["localtime", "LocalTime", "posixrules", "right/UTC", "Nowhere/City", "", "/etc/localtime", None, 3]
)
def test_zones_of_the_machine_are_no_zones(name):
    assert not is_timezone(name)


@pytest.mark.parametrize("name", ["UTC", "America/New_York", "Etc/GMT+3", "EST5EDT"])
def test_zones_have_their_names_in_the_database(name):
    assert is_timezone(name)
