"""What definitions that are right compile to."""

import itertools

import pytest

from featurestore import (
    CsvOptions,
    Entity,
    FeatureService,
    FeatureView,
    FileSource,
    FrameSource,
    OnDemandFeatureView,
    SqlSource,
    agg,
    col,
    every,
    request,
)
from featurestore.core.dtypes import (
    FLOAT64,
    INT64,
    STRING,
    TIMESTAMP,
    DType,
    list_of,
)
from featurestore.core.temporal import MICROSECONDS, Refresh
from featurestore.definitions.collection import Definitions, collect
from featurestore.plan.compiler import compile_definitions
from featurestore.plan.model import Column, FeaturePlan, InputPlan, Plan
from tests.unit.plan.world import SCHEMAS, carrier, compiled, flights, plan_of, service_plan, view, world

DAY = MICROSECONDS["d"]


def feature(aggregation, name="f"):
    (found,) = plan_of(view({name: aggregation})).features
    return found


@pytest.mark.parametrize(
    ("aggregation", "name", "dtype", "params"),
    [
        (agg.count(), "count", INT64, ()),
        (agg.count(col("arr_delay")), "count", INT64, ()),
        (agg.sum(col("arr_delay")), "sum", FLOAT64, ()),
        (agg.sum(col("distance")), "sum", INT64, ()),
        (agg.sum(col("fare")), "sum", DType("decimal", precision=38, scale=2), ()),
        (agg.mean(col("distance")), "mean", FLOAT64, ()),
        (agg.var(col("arr_delay")), "var", FLOAT64, (("ddof", 1),)),
        (agg.std(col("arr_delay"), ddof=0), "std", FLOAT64, (("ddof", 0),)),
        (agg.min(col("carrier")), "min", STRING, ()),
        (agg.max(col("landed_at")), "max", TIMESTAMP, ()),
        (agg.mode(col("origin")), "mode", STRING, ()),
        (agg.first(col("stops")), "first", list_of(STRING), (("respect_nulls", False),)),
        (agg.last(col("fare"), respect_nulls=True), "last", SCHEMAS["flights"]["fare"], (("respect_nulls", True),)),
        (agg.latest(col("distance")), "last", INT64, (("respect_nulls", False),)),
        (agg.first_n(col("distance"), 3), "first_n", list_of(INT64), (("n", 3),)),
        (agg.last_n(col("origin"), 1), "last_n", list_of(STRING), (("n", 1),)),
        (agg.count_distinct(col("stops")), "count_distinct", INT64, ()),
        (agg.quantile(col("distance"), 1), "quantile", FLOAT64, (("q", 1.0),)),
        (agg.median(col("arr_delay")), "quantile", FLOAT64, (("q", 0.5),)),
        (agg.time_since_last(), "time_since_last", FLOAT64, (("unit_us", 1_000_000),)),
        (agg.time_since_last(col("arr_delay"), unit="h"), "time_since_last", FLOAT64, (("unit_us", 3_600_000_000),)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_each_aggregation_has_its_plan_name_dtype_and_params(aggregation, name, dtype, params):
    found = feature(aggregation.lifetime())
    assert (found.aggregation, found.dtype, found.params) == (name, dtype, params)
    assert [type(value) for _, value in found.params] == [type(value) for _, value in params]


@pytest.mark.parametrize(
    "aggregation",
    [
        agg.first(col("origin")),
        agg.last(col("origin")),
        agg.latest(col("origin")),
        agg.first_n(col("origin"), 2),
        agg.last_n(col("origin"), 2),
        agg.time_since_last(),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_ordered_aggregations_look_at_the_lifetime_unless_told_otherwise(aggregation):
    assert feature(aggregation).window_us is None
    assert feature(aggregation.over("1d")).window_us == DAY


def test_a_window_its_resolution_and_a_ttl_reach_the_plan_in_microseconds():
    found = feature(agg.last(col("origin")).over("7d", resolution="1h").ttl("2d"))
    assert (found.window_us, found.resolution_us, found.ttl_us) == (7 * DAY, DAY // 24, 2 * DAY)


def test_several_windows_give_one_feature_each_named_as_the_window_was_written():
    features = plan_of(view({"n_{window}": agg.count().over("1h", "24h", "1h 30m")})).features
    assert [found.name for found in features] == ["n_1h", "n_1h30m", "n_24h"]
    assert features[2].window_us == DAY


def test_the_lifetime_can_be_a_window_in_a_name():
    assert feature(agg.count().lifetime(), "n_{window}").name == "n_lifetime"


def test_equal_inputs_are_one_input_and_stand_in_canonical_order():
    delay = col("arr_delay")
    features = {
        "a": agg.mean(delay).over("1d"),
        "b": agg.sum(col("arr_delay")).over("7d"),
        "c": agg.sum(delay, where=col("distance") > 5).over("7d"),
        "d": agg.count().over("7d"),
    }
    plans = [plan_of(view(dict(order))) for order in itertools.permutations(features.items())]
    assert len(plans[0].inputs) == 3
    assert all(plan == plans[0] and plan.fingerprint == plans[0].fingerprint for plan in plans)
    assert plans[0].features[0].input == plans[0].features[1].input != plans[0].features[2].input


def test_only_the_columns_a_view_needs_are_in_its_plan():
    source = flights(ingest_time="known_at", event_id="flight_id")
    plan = plan_of(view({"f": agg.sum(col("arr_delay"), where=col("distance") > 5).over("1d")}, source=source))
    assert [column.name for column in plan.source.columns] == [
        "arr_delay", "carrier", "distance", "flight_id", "known_at", "landed_at",
    ]  # fmt: skip
    assert (plan.source.ingest_time, plan.source.event_id) == ("known_at", "flight_id")


def test_a_column_of_an_unsupported_type_is_fine_while_nobody_uses_it():
    assert "odd" not in {column.name for column in plan_of(view()).source.columns}


def test_an_ingest_time_that_is_the_event_time_is_none():
    plain, said = plan_of(view()), plan_of(view(source=flights(ingest_time="landed_at")))
    assert said.fingerprint == plain.fingerprint


def test_a_composite_key_keeps_its_order_and_dtypes():
    route = Entity("route", key=("origin", "number"), dtype=("string", "int64"))
    assert plan_of(view(entity=route)).entity.keys == (Column("origin", STRING), Column("number", INT64))


def test_a_composite_key_can_name_its_dtypes_by_column():
    route = Entity("route", key=["origin", "number"], dtype={"number": "int64", "origin": "string"})
    assert plan_of(view(entity=route)).entity.keys == (Column("origin", STRING), Column("number", INT64))


def test_the_query_of_a_sql_source_is_in_the_plan_and_its_url_is_not():
    def over(url, **rows):
        return plan_of(view(source=SqlSource("flights", url=url, event_time="landed_at", **rows)))

    here, there = (over(url, table="flights") for url in ("sqlite:///a.db", "postgresql://b/c"))
    assert here == there
    assert here.source.rows == "flights"
    assert over("sqlite:///a.db", query="select * from flights where x > 1").fingerprint != here.fingerprint


def test_a_frame_source_compiles_like_any_other():
    plan = plan_of(view(source=FrameSource("flights", frame=object(), event_time="landed_at", inclusive=True)))
    assert plan.source.inclusive
    assert plan.source.rows is None


def test_how_csv_text_is_read_is_in_the_plan_only_if_it_is_unusual():
    def over(path, options):
        return plan_of(view(source=flights(path=path, csv=options))).source.parsing

    assert over("a.csv", CsvOptions()) == ()
    assert over("a.csv", CsvOptions(null_values=["NA", ""])) == (("null_values", ("", "NA")),)
    assert over("a.parquet", CsvOptions(null_values=("NA",))) == ()


def test_a_service_lists_whole_views_by_feature_name_and_picks_as_written():
    w = world()
    plan = service_plan(FeatureService("s", features=[w.weather["visib", "temp"], w.delays]))
    assert [output.name for output in plan.outputs] == [
        "weather__visib",
        "weather__temp",
        "delays__flights_1d",
        "delays__flights_7d",
        "delays__last",
        "delays__late",
        "delays__mean_7d",
    ]


def test_a_service_holds_what_its_on_demand_features_need_each_after_its_needs():
    plan = service_plan(world().service)
    assert [use.alias for use in plan.uses] == ["delays", "origin_weather", "weather"]
    assert [found.column for found in plan.on_demand] == ["second__asked", "usual__excess", "second__twice"]
    assert plan.request == (Column("dep_delay", FLOAT64),)


def test_views_that_only_on_demand_features_need_are_used_but_not_shown():
    w = world()
    plan = service_plan(FeatureService("s", features=[w.on_demand["warmer"]]))
    assert [(use.alias, use.keys) for use in plan.uses] == [
        ("dest_weather", ("dest",)),
        ("origin_weather", ("origin",)),
    ]
    assert [output.name for output in plan.outputs] == ["usual__warmer"]
    assert plan.request == ()


def test_one_view_in_two_roles_asks_for_a_key_column_each():
    plan = service_plan(world().service)
    assert [column.name for column in plan.join_keys] == ["airport", "carrier", "origin"]


def test_names_of_columns_follow_renaming_then_prefix_then_alias():
    w = world()
    listed = [
        w.weather.aliased("here").prefixed("p")["temp"],
        w.weather.prefixed("q").renamed({"temp": "t"})["temp", "visib"],
        w.weather.aliased("there")["temp"],
    ]
    plan = service_plan(FeatureService("service", features=listed))
    assert [output.name for output in plan.outputs] == ["p__temp", "t", "q__visib", "there__temp"]
    assert [output.column for output in plan.outputs] == [
        "here__temp",
        "weather__temp",
        "weather__visib",
        "there__temp",
    ]


def test_columns_can_be_renamed_one_by_one_and_prefixed_together():
    w = world()
    listed = [
        w.weather["temp"].renamed("here"),
        w.weather.prefixed("again"),
        w.delays["last", "late"].renamed({"late": "late_flights"}),
        w.on_demand["excess"].prefixed("odd"),
    ]
    plan = service_plan(FeatureService("s", features=listed))
    assert [(output.name, output.column) for output in plan.outputs] == [
        ("here", "weather__temp"),
        ("again__temp", "weather__temp"),
        ("again__visib", "weather__visib"),
        ("delays__last", "delays__last"),
        ("late_flights", "delays__late"),
        ("odd__excess", "usual__excess"),
    ]
    assert len(plan.uses) == 2


def test_a_feature_may_be_referred_to_by_its_column_alone():
    from featurestore.definitions.expr import Expr

    w = world()
    by_name = OnDemandFeatureView(
        "other", features={"f": Expr("feature", params=(("feature", "last"), ("view", "delays"))) * 2.0}
    )
    plans = compiled(w.delays, FeatureService("s", features=[by_name]))
    assert [use.alias for use in plans.services["s"].uses] == ["delays"]


def test_plans_do_not_depend_on_the_order_definitions_are_given_in():
    w = world()
    parts = [w.delays, w.weather, w.on_demand, w.service]
    found = [compiled(*order) for order in itertools.permutations(parts)]
    assert all(plans == found[0] for plans in found)


def test_a_plan_read_back_is_equal_and_has_the_same_fingerprint():
    plan = service_plan(world().service)
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()
    assert again.fingerprint == plan.fingerprint


def test_views_compile_without_any_service():
    w = world()
    assert sorted(compiled(w.delays, w.weather).views) == ["delays", "weather"]


def test_nothing_compiles_to_nothing():
    plans = compile_definitions(Definitions(), {})
    assert (dict(plans.views), dict(plans.services)) == ({}, {})


def test_the_example_of_the_contract_compiles():
    carrier_delays = FeatureView(
        "carrier_delays",
        entity=Entity("carrier", key="carrier", dtype="string"),
        source=FileSource("flights", path="data/flights/*.parquet", event_time="landed_at"),
        where=col("cancelled") == False,  # noqa: E712  # an expression
        features={
            "flights_1d": agg.count().over("1d"),
            "mean_delay_7d": agg.mean(col("arr_delay")).over("7d"),
            "late_share_7d": agg.mean((col("arr_delay") > 15).cast("float64")).over("7d"),
            "last_delay": agg.last(col("arr_delay")).ttl("2d"),
        },
        refresh=every("1h", lag="10m"),
        owner="ops",
        description="Delays by carrier.",
        tags={"tier": "1"},
    )
    vs_usual = OnDemandFeatureView(
        "vs_usual",
        request={"dep_delay": "float64"},
        features={"excess": request("dep_delay") - carrier_delays["mean_delay_7d"]},
    )
    plan = service_plan(FeatureService("delay_model", features=[carrier_delays, vs_usual]))
    assert [output.name for output in plan.outputs][-1] == "vs_usual__excess"
    assert plan.uses[0].view.refresh == Refresh(period_us=DAY // 24, lag_us=600 * 1_000_000)


def test_a_count_of_events_has_an_input_without_a_value():
    plan = plan_of(view({"f": agg.count().over("1d")}))
    assert plan.inputs == (InputPlan(),)
    assert plan.features == (FeaturePlan("f", "count", 0, INT64, window_us=DAY),)


def test_definitions_are_found_once_however_often_they_are_given():
    w = world()
    found = collect(w.service, [w.service, w.delays], {"again": w.weather}, w.weather["temp"])
    assert found.views == (w.delays, w.weather)
    assert found.services == (w.service,)


def test_key_columns_of_any_comparable_dtype_will_do():
    assert plan_of(view(entity=carrier(key="day", dtype="date"))).entity.keys == (Column("day", DType("date")),)
