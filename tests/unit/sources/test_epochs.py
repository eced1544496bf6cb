"""Numbers that count the time since 1970, on every kind of source, in pushes and in the spine."""

import datetime as dt
import sqlite3
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    FileSource,
    FrameSource,
    SqlSource,
    agg,
    col,
)
from featurestore.core.dtypes import TIMESTAMP
from featurestore.core.errors import (
    DefinitionError,
    RequestError,
    SourceDataError,
    SpineError,
)
from featurestore.core.temporal import (
    MAX_INSTANT_US,
    MIN_INSTANT_US,
    epoch_us,
    likely_unit,
)
from featurestore.sources.convert import to_contract
from tests.unit.plan.world import SCHEMAS, flights, plan_of, view

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
DAY = 1_767_225_600
SPINE = pa.table({"user": ["a"], "as_of": pa.array([dt.datetime(2026, 2, 1, tzinfo=dt.UTC)])})


def read(array, unit):
    found, _ = to_contract(array, TIMESTAMP, timezone=None, where="here", epoch=unit)
    return found.cast(pa.int64()).to_pylist()


@given(st.lists(st.integers(MIN_INSTANT_US, MAX_INSTANT_US)), st.sampled_from(sorted(PER_SECOND)))
def test_whole_numbers_are_read_exactly_and_nanoseconds_cut_down(instants, unit):
    counts = [instant * PER_SECOND[unit] // 10**6 for instant in instants]
    counts = [count for count in counts if abs(count) < 2**63 and epoch_us(count, unit) is not None]
    expected = [count * 10**6 // PER_SECOND[unit] for count in counts]
    assert read(pa.array(counts, pa.int64()), unit) == expected
    assert read(pa.array([str(count) for count in counts], pa.string()), unit) == expected


@pytest.mark.parametrize(
    ("array", "unit", "expected"),
    [
        (pa.array([1767225600.123456, None, float("nan")]), "s", [1767225600123456, None, None]),
        (pa.array([Decimal("1767225600.1234567")]), "s", [1767225600123457]),
        (pa.array([" 1767225600.5 ", "1767225600000e-3", None]), "s", [1767225600500000, 1767225600000000, None]),
        (pa.array([DAY], pa.uint32()), "s", [DAY * 10**6]),
        (pa.array([-1], pa.int64()), "ns", [-1]),
        (pa.array([dt.datetime(2026, 1, 1, tzinfo=dt.UTC)]), "ms", [DAY * 10**6]),
    ],
)
def test_numbers_of_every_kind_are_read(array, unit, expected):
    """Parts of a unit are rounded to microseconds; a column of timestamps is what it is."""
    assert read(array, unit) == expected


@pytest.mark.parametrize(
    ("value", "unit", "hint"),
    [
        (DAY * 10**9, "us", "If it counts ns, declare 'timestamp.ns.'"),
        (DAY * 10**3, "s", "If it counts ms"),
        (2**62, "ns", None),
        ("soon", "s", "Correct the row"),
        (1e300, "s", "If it counts ns"),
    ],
)
def test_what_no_calendar_has_is_named_with_the_unit_it_looks_like(value, unit, hint):
    array = pa.array([type(value)(0), value])
    if hint is None:
        assert read(array, unit)[1] == value // 1000
        return
    with pytest.raises(SourceDataError, match=rf"row 1 holds .*{hint}"):
        read(array, unit)


def test_the_unit_that_a_number_looks_like():
    assert [likely_unit(DAY * scale) for scale in (1, 10**3, 10**6, 10**9)] == ["s", "ms", "us", "ns"]


def sources(folder):
    """Yield each kind of source over one event that counts milliseconds."""
    rows = pd.DataFrame({"user": ["a"], "at": [DAY * 1000], "x": [1.5]})
    pq.write_table(pa.Table.from_pandas(rows), folder / "x.parquet")
    rows.to_csv(folder / "x.csv", index=False)
    with sqlite3.connect(folder / "x.db") as connection:
        rows.to_sql("t", connection, index=False)
    connection.close()
    declared = {"event_time": "at", "dtypes": {"at": "timestamp[ms]"}}
    yield FileSource("f", path=str(folder / "x.parquet"), **declared)
    yield FileSource("f", path=str(folder / "x.csv"), **declared)
    yield SqlSource("f", url=f"sqlite:///{folder}/x.db", table="t", **declared)
    yield FrameSource("f", frame=rows, **declared)
    yield FrameSource("f", frame=pa.Table.from_pandas(rows), **declared)


def service(source):
    features = {"last": agg.last(col("x")), "age": agg.time_since_last(unit="d")}
    return FeatureService(
        "svc", features=[FeatureView("v", entity=Entity("user", key="user"), source=source, features=features)]
    )


def test_every_kind_of_source_reads_numbers_as_instants(tmp_path):
    for number, source in enumerate(sources(tmp_path)):
        store = FeatureStore.local(tmp_path / f"store{number}")
        store.apply(service(source))
        found = store.training_set("svc", SPINE, tmp_path / f"ts{number}").to_arrow()
        assert (found["v__last"].to_pylist(), found["v__age"].to_pylist()) == ([1.5], [31.0]), source
        store.close()


def test_a_spine_of_numbers_names_its_unit(tmp_path):
    (source, *_) = sources(tmp_path)
    store = FeatureStore.local(tmp_path / "store")
    store.apply(service(source))
    spine = pd.DataFrame({"user": ["a"], "as_of": [(DAY + 86_400) * 1000]})
    with pytest.raises(SpineError, match=r"as_of_unit='ms'. In pandas: .*unit='ms', utc=True\)") as error:
        store.training_set("svc", spine, tmp_path / "ts")
    asked = store.training_set("svc", spine, tmp_path / "ts", as_of_unit="ms").to_arrow()
    assert asked["v__age"].to_pylist() == [1.0]
    exec(error.value.hint.split("In pandas: ")[1].rstrip("."), {"spine": spine, "pd": pd})  # as the hint says
    assert store.training_set("svc", spine, tmp_path / "ts2").to_arrow()["v__age"].to_pylist() == [1.0]
    with pytest.raises(SpineError, match=r"as_of_unit is 'h'. Units: s, ms, us, ns"):
        store.training_set("svc", spine, tmp_path / "ts3", as_of_unit="h")
    store.close()


@pytest.mark.parametrize("text", [["2026-01-02T00:00:00"], ["2026-01-02"]])
def test_the_hint_for_text_without_a_zone_does_not_guess_one(text, tmp_path):
    (source, *_) = sources(tmp_path)
    store = FeatureStore.local(tmp_path / "store")
    store.apply(service(source))
    with pytest.raises(SpineError, match=r"with the zone that its times are in: .*tz_localize"):
        store.training_set("svc", pd.DataFrame({"user": ["a"], "as_of": text}), tmp_path / "ts")
    store.close()


def test_a_push_gives_numbers_as_the_source_declares_them(tmp_path):
    for source in list(sources(tmp_path))[:1]:
        stream = FileSource("f", path=source.path, event_time="at", dtypes=source.dtypes, stream=True)
        store = FeatureStore.local(tmp_path / "store")
        store.apply(service(stream))
        store.materialize()
        store.push("f", [{"user": "a", "at": (DAY + 60) * 1000, "x": 2.5}])
        store.push("f", pd.DataFrame({"user": ["a"], "at": [(DAY + 120) * 1000], "x": [3.5]}))
        store.push("f", [{"user": "a", "at": "2026-01-01T00:03:00Z", "x": 4.5}])
        online = store.get_online_features("svc", [{"user": "a"}]).to_dicts()
        assert online[0]["v__last"] == 4.5
        with pytest.raises(RequestError, match="expected timestamp"):
            store.push("f", [{"user": "a", "at": 2**80, "x": 4.5}])
        store.close()


def test_apply_says_what_to_declare():
    """A column of numbers, dates or text is no column of instants until its source says how it is meant."""
    for column, hint in (
        ("number", r"dtypes=\{'number': 'timestamp\[ms\]'\}"),
        ("day", r"dtypes=\{'day': 'timestamp'\} and timezone='UTC'"),
        ("carrier", r"dtypes=\{'carrier': 'timestamp'\}"),
    ):
        with pytest.raises(DefinitionError, match=hint):
            plan_of(view(source=flights(event_time=column)))


def test_dates_declared_as_instants_need_a_zone_at_apply(tmp_path):
    table = pa.table({"user": ["a"], "at": [dt.date(2026, 1, 1)], "x": [1.5]})
    options = {"frame": table, "event_time": "at", "dtypes": {"at": "timestamp"}}
    store = FeatureStore.local(tmp_path)
    with pytest.raises(SourceDataError, match="have no time zone"):
        store.apply(service(FrameSource("f", **options)))
    store.apply(service(FrameSource("f", timezone="UTC", **options)))
    store.close()


def test_a_declared_dtype_that_never_fits_is_said_at_apply(tmp_path):
    table = pa.table({"user": ["a"], "at": [DAY], "x": [1.5]})
    for dtypes, hint in (
        ({"at": "timestamp"}, r"'timestamp\[ms\]'"),
        ({"at": "timestamp[s]", "x": "date"}, "expected date"),
    ):
        with pytest.raises(SourceDataError, match=hint):
            FeatureStore.local(tmp_path).apply(service(FrameSource("f", frame=table, event_time="at", dtypes=dtypes)))


def test_how_times_are_read_is_part_of_the_plan_where_it_matters():
    def fingerprint(**options):
        return plan_of(view(source=flights(**options)), flights=SCHEMAS["flights"]).fingerprint

    plain = fingerprint(timezone="Europe/Berlin")
    assert plain != fingerprint(timezone="Europe/Berlin", ambiguous="earlier")
    assert plain != fingerprint(timezone="Europe/Berlin", nonexistent="forward")
    assert plain != fingerprint(timezone="Europe/Berlin", dtypes={"landed_at": "timestamp[ms]"})
    assert plain == fingerprint(timezone="Europe/Berlin", dtypes={"arr_delay": "float64"})
    assert plain == fingerprint(timezone="Europe/Berlin", dtypes={"known_at": "timestamp[ms]"})
    assert fingerprint() == fingerprint(ambiguous="earlier", nonexistent="forward")
    with pytest.raises(DefinitionError, match=r"ambiguous is 'sooner'. Expected 'earlier' or 'later' or 'raise'"):
        fingerprint(ambiguous="sooner")
    with pytest.raises(DefinitionError, match="timezone is 'localtime'"):
        fingerprint(timezone="localtime")
