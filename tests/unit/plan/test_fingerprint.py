"""A fingerprint changes with everything that can change a value, and with nothing else."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import (
    CsvOptions,
    Entity,
    FeatureService,
    FeatureView,
    OnDemandFeatureView,
    SqlSource,
    agg,
    as_of,
    col,
    continuous,
    every,
    request,
)
from featurestore.core.dtypes import INT64, TIMESTAMP
from featurestore.plan.model import Plan
from tests.unit.plan.world import SCHEMAS, carrier, flights, plan_of, service_plan, view, world

DELAY = col("arr_delay")

BASE = {"n": agg.count().over("1d"), "m": agg.mean(DELAY).over("7d"), "l": agg.last(DELAY)}


def view_print(features=None, **changes):
    schemas = changes.pop("schemas", {})
    return plan_of(view(BASE | (features or {}), **changes), **schemas).fingerprint


FEATURE_EDITS = {
    "window": {"n": agg.count().over("2d")},
    "lifetime": {"n": agg.count().lifetime()},
    "resolution": {"n": agg.count().over("1d", resolution="1h")},
    "aggregation": {"m": agg.sum(DELAY).over("7d")},
    "operand": {"m": agg.mean(DELAY + 1.0).over("7d")},
    "constant": {"m": agg.mean(DELAY + 2.0).over("7d")},
    "constant's dtype": {"m": agg.mean(col("distance") + 2).over("7d")},
    "column": {"m": agg.mean(col("distance")).over("7d")},
    "where of a feature": {"n": agg.count(where=DELAY > 15.0).over("1d")},
    "count of values": {"n": agg.count(DELAY).over("1d")},
    "ttl": {"l": agg.last(DELAY).ttl("1d")},
    "another ttl": {"l": agg.last(DELAY).ttl("2d")},
    "nulls": {"l": agg.last(DELAY, respect_nulls=True)},
    "last n": {"l": agg.last_n(DELAY, 2)},
    "another n": {"l": agg.last_n(DELAY, 3)},
    "first": {"l": agg.first(DELAY)},
    "variance": {"m": agg.var(DELAY).over("7d")},
    "ddof": {"m": agg.var(DELAY, ddof=0).over("7d")},
    "median": {"m": agg.median(DELAY).over("7d")},
    "rank": {"m": agg.quantile(DELAY, 0.25).over("7d")},
    "unit": {"n": agg.time_since_last(unit="s")},
    "another unit": {"n": agg.time_since_last(unit="h")},
    "another feature": {"more": agg.count().lifetime()},
}

VIEW_EDITS = {
    "nothing": {},
    "where": {"where": DELAY > 0.0},
    "another where": {"where": DELAY > 1.0},
    "refresh": {"refresh": every("1h")},
    "period": {"refresh": every("2h")},
    "lag": {"refresh": every("1h", lag="5m")},
    "name": {"name": "other"},
    "key": {"entity": Entity("carrier", key="origin")},
    "key dtype": {"entity": Entity("carrier", key="number", dtype="int64")},
    "composite key": {"entity": Entity("carrier", key=("carrier", "origin"))},
    "order of keys": {"entity": Entity("carrier", key=("origin", "carrier"))},
    "ingest time": {"source": flights(ingest_time="known_at")},
    "event time": {"source": flights(event_time="known_at")},
    "event id": {"source": flights(event_id="flight_id")},
    "another event id": {"source": flights(event_id="number")},
    "inclusive": {"source": flights(inclusive=True)},
    "stream": {"source": flights(stream=True)},
    "time zone": {"source": flights(timezone="UTC")},
    "another time zone": {"source": flights(timezone="America/New_York")},
    "null texts": {"source": flights(path="a.csv", csv=CsvOptions(null_values=("NA",)))},
    "delimiter": {"source": flights(path="a.csv", csv=CsvOptions(delimiter=";"))},
    "query": {"source": SqlSource("flights", url="sqlite://", event_time="landed_at", query="select 1")},
    "table": {"source": SqlSource("flights", url="sqlite://", event_time="landed_at", table="a")},
    "dtype of a column": {"schemas": {"flights": SCHEMAS["flights"] | {"arr_delay": INT64}}},
}


def test_every_change_of_a_value_gives_a_view_a_fingerprint_of_its_own():
    prints = {f"feature: {name}": view_print(edit) for name, edit in FEATURE_EDITS.items()}
    prints |= {f"view: {name}": view_print(**edit) for name, edit in VIEW_EDITS.items()}
    by_print = {}
    for name, found in prints.items():
        by_print.setdefault(found, []).append(name)
    assert [names for names in by_print.values() if len(names) > 1] == []


COSMETIC_EDITS = {
    "owner": {"owner": "ops"},
    "description": {"description": "Delays."},
    "tags": {"tags": {"tier": "1"}},
    "refresh said": {"refresh": continuous()},
    "path": {"source": flights(path="elsewhere/*.parquet")},
    "format": {"source": flights(path="flights.csv")},
    "source's notes": {"source": flights(owner="a", description="b", tags={"c": "d"})},
    "null policy": {"source": flights(on_null="drop")},
    "declared dtype": {"source": flights(dtypes={"arr_delay": "float64"})},
    "entity's name": {"entity": Entity("airline", key="carrier")},
    "entity's notes": {"entity": carrier(owner="a", description="b", tags={"c": "d"})},
    "columns nobody uses": {"schemas": {"flights": SCHEMAS["flights"] | {"more": TIMESTAMP}}},
}


@pytest.mark.parametrize("edit", COSMETIC_EDITS.values(), ids=COSMETIC_EDITS.keys())
def test_what_changes_no_value_changes_no_fingerprint(edit):
    assert view_print(**edit) == view_print()


SPELLINGS = {
    "latest for last": {"l": agg.latest(DELAY)},
    "24h for 1d": {"n": agg.count().over("24h")},
    "minutes": {"n": agg.count().over("1440m")},
    "a timedelta": {"m": agg.mean(DELAY).over(__import__("datetime").timedelta(days=7))},
    "lifetime said": {"l": agg.last(DELAY).lifetime()},
    "nulls said": {"l": agg.last(DELAY, respect_nulls=False)},
    "no resolution": {"n": agg.count().over("1d", resolution=0)},
}


@pytest.mark.parametrize("edit", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_two_spellings_of_one_meaning_have_one_fingerprint(edit):
    assert view_print(edit) == view_print()


def test_median_is_the_quantile_at_a_half():
    assert view_print({"m": agg.median(DELAY).over("7d")}) == view_print({"m": agg.quantile(DELAY, 0.5).over("7d")})


def service_print(features, name="model", **changes):
    return service_plan(FeatureService(name, features=features, **changes)).fingerprint


def base_service(w):
    return [w.delays, w.weather["temp"], w.on_demand["excess"]]


def test_every_change_of_a_value_or_its_name_gives_a_service_a_fingerprint_of_its_own():
    w = world()
    other = replace(w.delays, features={**w.delays.features, "more": agg.count().lifetime()})
    later = OnDemandFeatureView("usual", request={"dep_delay": "float64"}, features={"excess": request("dep_delay")})
    whole = OnDemandFeatureView("usual", request={"dep_delay": "int64"}, features={"excess": request("dep_delay")})
    asked = OnDemandFeatureView("usual", features={"excess": as_of()})
    edits = [
        base_service(w),
        [*base_service(w), w.weather["visib"]],
        base_service(w)[:2],
        [w.delays, w.weather["temp"].renamed("t"), w.on_demand["excess"]],
        [w.delays, w.weather["temp"].prefixed("t"), w.on_demand["excess"]],
        [w.delays, w.weather.aliased("here")["temp"], w.on_demand["excess"]],
        [w.delays, w.weather.aliased("here", {"airport": "origin"})["temp"], w.on_demand["excess"]],
        [other, w.weather["temp"]],
        [w.delays, w.weather["temp"], later],
        [w.delays, w.weather["temp"], whole],
        [w.delays, w.weather["temp"], asked],
    ]
    prints = [service_print(edit) for edit in edits]
    assert len(set(prints)) == len(prints)


def test_what_a_service_is_called_and_who_owns_it_does_not_reach_its_fingerprint():
    w = world()
    renamed = service_print(base_service(w), name="other", owner="a", description="b", tags={"c": "d"})
    assert renamed == service_print(base_service(w))


def test_what_audits_allow_does_not_reach_a_fingerprint_and_is_kept_with_the_plan():
    w = world()
    policy = {"least_rows": 9, "tolerances": {"*": {"relative": 1e-9}}}
    known = FeatureService("model", features=base_service(w), policy=policy)
    plan = service_plan(known)
    assert plan.fingerprint == service_print(base_service(w))
    assert plan.policy == '{"least_rows":9,"tolerances":{"*":{"relative":1e-09}}}'
    assert Plan.from_json(plan.to_json()) == plan


@given(st.permutations(range(5)), st.permutations(range(5)), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_no_order_of_definitions_reaches_a_fingerprint(listed, features, random):
    w = world()
    items = list(w.delays.features.items())
    items += [("more", agg.count().lifetime())]
    shuffled = FeatureView(
        "delays",
        entity=w.delays.entity,
        source=w.delays.source,
        where=w.delays.where,
        refresh=w.delays.refresh,
        features=dict(items[i] for i in features),
    )
    straight = replace(w.delays, features=dict(items))
    names = ["last", "late", "more", "mean_7d", "flights_1d"]
    one = FeatureService("model", features=[straight[tuple(names)], w.weather["temp"]])
    picked = tuple(names[i] for i in listed)
    many = [shuffled[name] for name in picked] if random.random() < 0.5 else [shuffled[picked]]
    other = FeatureService("model", features=[w.weather["temp"], *many])
    assert service_plan(other).fingerprint == service_plan(one).fingerprint
    assert service_plan(other).uses == service_plan(one).uses
