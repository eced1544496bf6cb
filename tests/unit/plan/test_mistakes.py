"""Every mistake a definition can hold is found, named, and comes with the way to repair it."""

import pytest

from featurestore import (
    CsvOptions,
    DefinitionError,
    Entity,
    FeatureService,
    FeatureView,
    OnDemandFeatureView,
    SqlSource,
    agg,
    as_of,
    col,
    request,
)
from featurestore.core.dtypes import (
    FLOAT64,
    INT64,
    STRING,
    TIMESTAMP,
)
from featurestore.definitions.aggregations import Aggregation
from featurestore.definitions.collection import collect
from featurestore.definitions.expr import Expr
from featurestore.plan.checks import readable_sources
from featurestore.plan.compiler import compile_definitions
from tests.unit.plan.world import (
    SCHEMAS,
    carrier,
    compiled,
    flights,
    mistakes_in,
    plan_of,
    the_mistake,
    view,
    weather_source,
    world,
)

DELAY = col("arr_delay")


def on_demand(expression, name="late", **changes):
    return OnDemandFeatureView(name, features={"f": expression}, **changes)


def service(*features, name="model"):
    return FeatureService(name, features=list(features))


def test_a_message_says_where_what_and_how_to_repair_it():
    mistake = the_mistake(view({"mean_7d": agg.mean(col("arr_dely")).over("7d")}))
    assert str(mistake) == (
        "feature view 'delays', feature 'mean_7d': column 'arr_dely' is not in source 'flights'. "
        "Columns: arr_delay, cancelled, carrier, day, dest, distance, fare, flight_id, known_at, landed_at, number, "
        "odd, origin, stops, wide_fare. Did you mean 'arr_delay'?   [unknown-column]"
    )


FEATURE_MISTAKES = {
    "unknown-column": [
        agg.sum(col("nope")).over("1d"),
        agg.count(where=col("nope") > 1).over("1d"),
    ],
    "unsupported-column": [agg.last(col("odd"))],
    "wrong-dtype": [
        agg.sum(col("carrier")).over("1d"),
        agg.sum(col("cancelled")).over("1d"),
        agg.mean(col("fare")).over("1d"),
        agg.sum(col("wide_fare")).over("1d"),
        agg.median(col("landed_at")).over("1d"),
        agg.min(col("stops")).over("1d"),
        agg.mode(col("stops")).over("1d"),
        agg.count(where=DELAY).over("1d"),
    ],
    "missing-window": [
        agg.count(),
        agg.sum(DELAY),
        agg.mean(DELAY).over(),
        agg.median(DELAY),
        agg.mode(DELAY),
        agg.count_distinct(DELAY),
    ],
    "ambiguous-window": [agg.count().over("1d", "7d")],
    "empty-window": [agg.count().over("0d"), agg.last(DELAY).ttl(0)],
    "duration": [
        agg.count().over("one day"),
        agg.count().over(-1),
        agg.count().over(7),
        agg.count().over("1d", resolution=60),
        agg.last(DELAY).ttl(86_400),
        agg.count().over(1.5),
        agg.count().over("1d", resolution="x"),
        agg.last(DELAY).ttl("x"),
    ],
    "misplaced-ttl": [agg.first(DELAY).ttl("1d"), agg.count().over("1d").ttl("1d")],
    "bad-option": [
        agg.count().over("1h", resolution="2h"),
        agg.last_n(DELAY, 0),
        agg.first_n(DELAY, 10_001),
        agg.last_n(DELAY, True),
        agg.quantile(DELAY, 1.5).over("1d"),
        agg.quantile(DELAY, "half").over("1d"),
        agg.quantile(DELAY, float("nan")).over("1d"),
        agg.var(DELAY, ddof=-1).over("1d"),
        agg.std(DELAY, ddof=0.5).over("1d"),
        agg.last(DELAY, respect_nulls=1),
        agg.time_since_last(unit="month"),
        Aggregation("product", DELAY).over("1d"),
    ],
    "wrong-argument": [
        agg.mean("arr_delay").over("1d"),
        agg.sum(1).over("1d"),
        agg.sum(None).over("1d"),
        agg.count(where=True).over("1d"),
        DELAY,
        "arr_delay",
    ],
    "look-ahead": [
        agg.last(request("x")),
        agg.last(as_of()),
        agg.last(DELAY, where=as_of() > col("landed_at")),
        agg.last(world().weather["temp"]),
    ],
}


@pytest.mark.parametrize(
    ("code", "aggregation"),
    [(code, aggregation) for code, group in FEATURE_MISTAKES.items() for aggregation in group],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_mistake_in_a_feature_is_named_with_its_place(code, aggregation):
    mistake = the_mistake(view({"f": aggregation}))
    assert (mistake.code, mistake.where) == (code, "feature view 'delays', feature 'f'")
    assert mistake.hint


VIEW_MISTAKES = [
    ("bad-name", lambda: view(name="a__b")),
    ("bad-name", lambda: view(name="_a")),
    ("bad-name", lambda: view(name="a_")),
    ("bad-name", lambda: view(name="größe")),
    ("bad-name", lambda: view(name="")),
    ("bad-name", lambda: view(name="a" * 201)),
    ("bad-name", lambda: view(name=3)),
    ("bad-name", lambda: view({"a__b": agg.last(DELAY)})),
    ("bad-name", lambda: view({3: agg.last(DELAY)})),
    ("empty", lambda: FeatureView("v", entity=carrier(), source=flights(), features={})),
    ("wrong-argument", lambda: view(entity="carrier")),
    ("wrong-argument", lambda: view(entity=None)),
    ("wrong-argument", lambda: view(source="flights")),
    ("wrong-argument", lambda: view(refresh="1h")),
    ("wrong-argument", lambda: view(where="x")),
    ("wrong-argument", lambda: view(features=[agg.count()])),
    ("wrong-dtype", lambda: view(where=DELAY)),
    ("unknown-column", lambda: view(where=col("nope"))),
    ("unknown-column", lambda: view(entity=carrier(key="carier"))),
    ("wrong-dtype", lambda: view(entity=carrier(dtype="int64"))),
    ("duplicate-feature", lambda: view({"n_1d": agg.count().over("1d"), "n_{window}": agg.count().over("1d")})),
    ("duplicate-feature", lambda: view({"n_{window}": agg.count().over("1d", "1d")})),
    ("wrong-dtype", lambda: view(entity=carrier(key="arr_delay", dtype="float64"))),
    ("wrong-dtype", lambda: view(entity=carrier(key="stops", dtype="list<string>"))),
    ("unknown-dtype", lambda: Entity("e", key="carrier", dtype="text")),
    ("wrong-argument", lambda: Entity("e", key="carrier", dtype=[3])),
    ("wrong-argument", lambda: Entity("e", key=("a", "b"), dtype=["string"])),
    ("wrong-argument", lambda: Entity("e", key=("a", "b"), dtype={"a": "string"})),
    ("wrong-argument", lambda: Entity("e", key=(3,))),
    ("bad-option", lambda: Entity("e", key=("a", "b"), dtype=["string", "string", "string"])),
    ("bad-option", lambda: Entity("e", key=("a", "a"))),
    ("bad-option", lambda: Entity("e", key=())),
    ("unknown-key", lambda: Entity("e", key="a", dtype={"a": "string", "b": "string"})),
    ("reserved-name", lambda: Entity("e", key="as_of")),
    ("unknown-column", lambda: flights(event_time="landed")),
    ("unknown-column", lambda: flights(ingest_time="known")),
    ("unknown-column", lambda: flights(event_id="id")),
    ("unsupported-column", lambda: flights(event_id="odd")),
    ("wrong-argument", lambda: flights(event_time=None)),
    ("wrong-dtype", lambda: flights(event_time="day")),
    ("wrong-dtype", lambda: flights(ingest_time="number")),
    ("wrong-dtype", lambda: flights(event_id="arr_delay")),
    ("bad-option", lambda: flights(timezone="Mars/Olympus")),
    ("bad-option", lambda: flights(on_null="ignore")),
    ("bad-option", lambda: flights(format="orc")),
    ("wrong-argument", lambda: flights(csv={"header": False})),
    ("unknown-dtype", lambda: flights(dtypes={"origin": "text"})),
    ("unknown-column", lambda: flights(dtypes={"orgin": "string"})),
    ("bad-option", lambda: SqlSource("flights", url="sqlite://", event_time="landed_at")),
    ("bad-option", lambda: SqlSource("flights", url="sqlite://", event_time="landed_at", table="a", query="b")),
    ("impure-query", lambda: sql("select * from a where t < now()")),
    ("impure-query", lambda: sql("select *, RANDOM ( ) from a")),
    ("impure-query", lambda: sql("select current_timestamp")),
    ("unread-source", lambda: SqlSource("elsewhere", url="sqlite://", event_time="t", table="a")),
    ("wrong-argument", lambda: FeatureService("s", features=view())),
    ("wrong-argument", lambda: FeatureService("s", features=[view()], policy="strict")),
    ("bad-policy", lambda: FeatureService("s", features=[view()], policy={"allowed_shares": 0.1})),
    ("bad-policy", lambda: FeatureService("s", features=[view()], policy={"allowed_share": 2})),
    ("bad-policy", lambda: FeatureService("s", features=[view()], policy={"max_audit_age": "banana"})),
    ("bad-policy", lambda: FeatureService("s", features=[view()], policy={"tolerances": {"delays__x": {"ulps": 1}}})),
    ("wrong-argument", lambda: service("delays")),
    ("wrong-argument", lambda: service(world().delays["last"] * 2.0)),
    ("empty", service),
    ("empty", lambda: OnDemandFeatureView("o", features={})),
    ("wrong-argument", lambda: on_demand(3)),
    ("wrong-argument", lambda: on_demand(agg.count())),
    ("wrong-argument", lambda: on_demand(as_of(), request=["x"])),
    ("unknown-dtype", lambda: on_demand(request("x"), request={"x": "text"})),
    ("reserved-name", lambda: on_demand(request("as_of"), request={"as_of": "timestamp"})),
    ("unknown-request", lambda: on_demand(request("x"))),
    ("no-columns", lambda: on_demand(DELAY)),
    ("unknown-feature", lambda: on_demand(world().delays["lst"])),
    ("unknown-view", lambda: on_demand(by_name("nowhere", "f"))),
    ("bad-name", lambda: OnDemandFeatureView("o", features={"a_": as_of()})),
    ("cycle", lambda: on_demand(by_name("late", "f"))),
    ("unknown-key", lambda: on_demand(world().delays.aliased("role", {"carier": "c"})["last"])),
    ("bad-name", lambda: on_demand(world().delays.aliased("a__b")["last"])),
    ("wrong-operand", lambda: on_demand(world().delays["last"] + "x")),
    ("wrong-operand", lambda: view({"f": agg.sum(DELAY + "x").over("1d")})),
    ("unknown-feature", lambda: service(world().delays["lst"])),
    ("unknown-feature", lambda: service(world().delays["last"].renamed("x"), world().delays.renamed({"a": "b"}))),
    ("bad-name", lambda: service(world().delays["last"].renamed("a b"))),
    ("bad-name", lambda: service(world().delays.prefixed("a__b"))),
    ("bad-name", lambda: service(world().delays.aliased("a__b"))),
    ("unknown-key", lambda: service(world().delays.aliased("role", {"carier": "c"}))),
    ("wrong-argument", lambda: service(world().delays.aliased("role", {"carrier": 3}))),
    ("reserved-name", lambda: service(world().delays.aliased("role", {"carrier": "as_of"}))),
    ("reserved-name", lambda: service(world().delays["last"].renamed("as_of"))),
    ("output-collision", lambda: service(world().delays["last"].renamed("carrier"))),
]


def sql(query):
    return SqlSource("flights", url="sqlite://", event_time="landed_at", query=query)


def by_name(view, feature):
    return Expr("feature", params=(("feature", feature), ("view", view)))


@pytest.mark.parametrize(("code", "make"), VIEW_MISTAKES)
def test_a_mistake_in_a_definition_is_named(code, make):
    found = [mistake for mistake in mistakes_in(make()) if mistake.code != "duplicate-name"]
    assert [mistake.code for mistake in found] == [code]
    assert found[0].where
    assert found[0].problem


def test_two_definitions_of_one_kind_cannot_share_a_name():
    for pair in (
        (carrier(), carrier()),
        (flights(), flights()),
        (view(source=(source := flights()), entity=(entity := carrier())), view(source=source, entity=entity)),
        (view(), on_demand(as_of(), name="delays")),
        (service(one := view()), service(one)),
    ):
        assert the_mistake(*pair).code == "duplicate-name"


def test_definitions_of_different_kinds_can_share_a_name():
    same = view(name="flights", entity=Entity("flights", key="carrier"))
    assert mistakes_in(same, service(same, name="flights")) == []


def test_one_alias_cannot_stand_for_two_bindings():
    w = world()
    elsewhere = w.weather.aliased("weather", {"airport": "dest"})
    assert the_mistake(service(w.weather["temp"], elsewhere["visib"])).code == "alias-taken"
    assert the_mistake(service(w.weather["temp"], elsewhere["temp"].renamed("t"))).code == "alias-taken"
    assert the_mistake(service(w.weather, w.delays.aliased("weather"))).code == "alias-taken"


def test_an_alias_cannot_hide_an_on_demand_view():
    w = world()
    assert the_mistake(service(w.on_demand["excess"], w.weather.aliased("usual"))).code == "alias-taken"


def test_on_demand_views_cannot_be_aliased():
    from dataclasses import replace

    w = world()
    assert the_mistake(service(replace(w.on_demand.select(), alias="role"))).code == "aliased-on-demand"


def test_two_columns_of_an_answer_cannot_share_a_name_and_the_hint_says_how_to_rename():
    w = world()
    mistake = the_mistake(service(w.weather["temp"], w.delays["last"].renamed("weather__temp")))
    assert mistake.problem == "column 'weather__temp' of the answer would show both 'weather__temp' and 'delays__last'"
    assert ".renamed('other')" in mistake.hint


def test_listing_a_feature_twice_is_a_collision():
    w = world()
    assert the_mistake(service(w.weather, w.weather["temp"])).problem.endswith("'weather__temp' twice")


def test_views_that_expect_one_key_column_in_two_dtypes_cannot_meet_in_a_service():
    source, flight = flights(), Entity("flight", key="number", dtype="int64")
    one, two = view(name="one", source=source), view(name="two", source=source, entity=flight)
    mistake = the_mistake(service(one, two.aliased("two", {"number": "carrier"})))
    assert mistake.code == "key-conflict"
    assert mistake.problem == "key column 'carrier' is expected as int64 and as string"


def test_a_request_input_has_one_dtype_in_a_service():
    one = on_demand(request("x"), name="one", request={"x": "int64"})
    two = on_demand(request("x"), name="two", request={"x": "float64"})
    assert the_mistake(service(one, two)).code == "request-conflict"
    assert mistakes_in(service(one), service(two, name="other")) == []


def test_a_request_input_cannot_be_a_key_column_of_the_same_service():
    asked = on_demand(request("carrier"), request={"carrier": "string"})
    assert the_mistake(service(view(), asked)).code == "request-is-key"


def test_a_column_of_an_answer_cannot_have_the_name_of_a_request_input():
    asked = on_demand(request("x"), request={"x": "string"})
    assert the_mistake(service(asked["f"].renamed("x"))).code == "output-collision"


def test_features_that_need_each_other_are_shown_as_a_circle():
    pair = OnDemandFeatureView("o", features={"a": by_name("o", "b"), "b": by_name("o", "a")})
    assert the_mistake(pair).problem == "it needs itself: o__a → o__b → o__a"


def test_all_mistakes_of_one_apply_are_reported_together_sorted_by_place():
    broken = view({"a": agg.sum(col("x")).over("0d"), "b": agg.mean(DELAY), "good": agg.last(DELAY)}, name="broken")
    late = on_demand(broken["c"])
    with pytest.raises(DefinitionError) as caught:
        compiled(broken, late, service(late, world().weather["tmp"]), flights(event_time="x"))
    found = [(mistake.where, mistake.code) for mistake in caught.value.mistakes]
    assert [where for where, _ in found] == sorted(where for where, _ in found)
    assert {code for _, code in found} >= {"unknown-column", "empty-window", "missing-window", "unknown-feature"}
    assert str(caught.value).startswith(f"{len(found)} mistakes in the definitions:\n  ")


def test_what_follows_from_a_mistake_is_not_reported_as_another():
    broken = view({"a": agg.sum(col("x")).over("1d")}, name="broken")
    late = on_demand(broken["a"] + 1.0)
    assert the_mistake(service(late, broken, broken["a"].renamed("again"))).code == "unknown-column"


def test_a_view_of_wrong_shape_does_not_make_others_wrong():
    for broken in (view(features="nonsense", name="broken"), view(entity="carrier", name="broken")):
        aliased = broken.aliased("role", {"carrier": "c"})
        assert the_mistake(service(broken["a"], aliased["a"], on_demand(broken["a"]))).code == "wrong-argument"


def test_a_source_with_mistakes_is_named_once_and_not_its_views():
    assert the_mistake(service(view(source=flights(event_time="x")))).where == "source 'flights'"


def test_schemas_decide_what_columns_there_are():
    schemas = SCHEMAS | {"weather": {"airport": STRING, "at": TIMESTAMP, "temp": FLOAT64}}
    found = FeatureView(
        "w", entity=Entity("airport", key="airport"), source=weather_source(), features={"t": agg.last(col("visib"))}
    )
    with pytest.raises(DefinitionError, match="column 'visib' is not in source 'weather'"):
        compile_definitions(collect(found), schemas)


def test_a_word_of_the_clock_inside_a_text_or_comment_of_a_query_is_no_mistake():
    assert mistakes_in(sql("select 'now()' as random -- now()\nfrom a /* current_date */ where current = 1")) == []


def test_csv_options_take_one_text_for_null_or_several():
    assert CsvOptions(null_values="NA").null_values == ("NA",)


def test_a_function_that_this_process_does_not_hold_is_a_mistake():
    foreign = Expr("udf", (DELAY,), (("name", "gone"), ("returns", "float64"), ("source", "def gone(x): ...")))
    mistake = the_mistake(view({"f": agg.last(foreign)}))
    assert mistake.problem == "udf 'gone' could give different answers: the function is not defined in this process"


def test_a_source_with_wrong_options_is_named_without_its_schema():
    broken = [sql("select now()"), flights(format="orc"), flights(path=3), weather_source(on_null="ignore")]
    assert readable_sources(collect(broken)) == ()
    for source in broken:
        with pytest.raises(DefinitionError) as caught:
            compile_definitions(collect(view(source=source)), {})
        assert {mistake.where for mistake in caught.value.mistakes} == {f"source '{source.name}'"}


def test_sources_with_right_options_can_be_asked_for_their_columns():
    w = world()
    assert readable_sources(collect(w.service)) == (w.delays.source, w.weather.source)


@pytest.mark.parametrize("column", ["__sequence", "__ingest_time"])
def test_columns_that_the_event_log_adds_are_reserved_where_events_are_pushed(column):
    flights_schema = SCHEMAS["flights"] | {column: INT64}
    plan_of(view(), flights=flights_schema)
    with pytest.raises(DefinitionError, match=f"'{column}' has a reserved name"):
        plan_of(view(source=flights(stream=True)), flights=flights_schema)
