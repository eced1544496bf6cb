"""Explanations name the events a value is made of and the rules that kept others out, and say what each road says."""

import io
import itertools
import json
import shlex
import tempfile
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from html import escape

import jsonschema_rs
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, event, given
from rich.console import Console

from featurestore import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    FileSource,
    FrameSource,
    OnDemandFeatureView,
    agg,
    col,
    every,
    request,
    udf,
)
from featurestore.core.errors import RequestError, ValueOverflowError
from featurestore.core.temporal import FixedClock, duration_us, instant_us
from featurestore.guard.audit.foreign import ForeignMapping
from featurestore.kernels.selection import Fate, Selection
from featurestore.reports.audit import explain_command
from featurestore.reports.audit import render_page as render_audit_html
from featurestore.reports.audit import render_text as render_audit
from featurestore.reports.explanation import (
    AGREE,
    ALONE,
    DIFFER,
    render_page,
    render_text,
    verdict,
)
from tests.budget import examples
from tests.strategies import HALF_HOUR_US, SPAN, START_US, scenarios, to_datetime

END_US = START_US + 3 * SPAN * HALF_HOUR_US
ASKED = "2026-01-02T10:45:00Z"


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-01-{text}:00Z")


FLIGHTS = pa.table(
    {
        "id": [1, 2, 3, 4, 4, 5, 6, 7],
        "carrier": ["UA", "UA", "UA", "UA", "UA", "UA", "UA", "ua "],
        "landed_at": [at(x) for x in ("01T08:00", "01T20:00", "02T07:00", "02T08:00", "02T08:00", "02T09:00")]
        + [at("02T10:00"), at("02T08:00")],
        "known_at": [at(x) for x in ("01T08:30", "01T20:30", "02T11:30", "02T08:30", "02T09:30", "02T09:30")]
        + [at("02T10:30"), at("02T08:30")],
        "cancelled": [False, True, False, False, False, False, False, False],
        "delay": [5.5, 7.0, 90.0, None, None, 3.25, 8.0, 1.0],
    }
)


@udf(returns="float64")
def doubled(minutes):
    """Twice as long."""
    return pc.multiply(minutes, 2.0)


@dataclass
class Shop:
    """A store in which a service was materialized at ``ASKED`` and asked once, and whose clock stands later."""

    store: FeatureStore
    flights: FrameSource
    service: FeatureService
    clock: FixedClock


def source(table: pa.Table = FLIGHTS) -> FrameSource:
    return FrameSource("flights", frame=table, event_time="landed_at", ingest_time="known_at", event_id="id")


def service_of(flights: FrameSource) -> FeatureService:
    delays = FeatureView(
        "delays",
        entity=Entity("carrier", key="carrier"),
        source=flights,
        where=~col("cancelled"),
        features={
            "mean_1d": agg.mean(col("delay")).over("1d"),
            "late_1d": agg.count(where=col("delay") > 4).over("1d"),
            "last": agg.last(col("delay")),
            "fresh": agg.last(col("delay")).ttl("1h"),
            "first": agg.first(doubled(col("delay"))),
            "first_two": agg.first_n(col("delay"), 2),
            "last_two": agg.last_n(col("delay"), 2),
            "worst": agg.max(col("delay")).lifetime(),
        },
        refresh=every("1h", lag="10m"),
    )
    versus = OnDemandFeatureView(
        "versus", request={"dep_delay": "float64"}, features={"excess": request("dep_delay") - delays["mean_1d"]}
    )
    return FeatureService("model", features=[delays, versus])


@pytest.fixture
def shop(tmp_path):
    clock = FixedClock(instant_us(ASKED))
    flights = source()
    with FeatureStore.local(tmp_path, clock=clock) as store:
        made = Shop(store, flights, service_of(flights), clock)
        store.apply(made.service)
        store.materialize()
        store.get_online_features("model", [{"carrier": "UA"}], request={"dep_delay": 3.0}, request_id="first")
        clock.instant_us = instant_us("2026-01-02T12:45:00Z")
        yield made


def explained(shop, feature, **options):
    found = shop.store.explain("model", {"carrier": "UA"}, at=ASKED, feature=feature, **options)
    assert found.is_checked
    return found, found.values[0]


def rules(value):
    return {event.number: event.fate for event in value.events}


def test_every_event_has_a_rule(shop):
    """Window, horizon, late knowledge, duplicates, nulls and conditions are told apart."""
    _, value = explained(shop, "delays__mean_1d")
    assert rules(value) == {
        1: "before_window",
        2: "rejected",
        3: "not_yet_known",
        4: "null",
        5: "duplicate",
        6: "used",
        7: "after_horizon",
    }
    assert value.fates == {
        "used": 1,
        "after_horizon": 1,
        "before_window": 1,
        "duplicate": 1,
        "not_yet_known": 1,
        "null": 1,
        "rejected": 1,
    }
    assert value.arithmetic == "exact sum 3.25 of 1 value / 1 = 3.25"
    assert value.window_start == "2026-01-01T10:00:00Z"
    said = {event.number: event.said for event in value.events}
    assert said[1] == "it happened before the window"
    assert said[5] == "another delivery of id 4 counts"


def test_condition_of_a_feature_rejects_events(shop):
    """Members are those for which the aggregation's own condition is true; null is not true."""
    _, value = explained(shop, "delays__late_1d")
    assert rules(value)[4] == rules(value)[6] == "not_member"
    assert value.arithmetic == "0 events counted = 0"


def test_last_value_outranks_older_ones(shop):
    """The last in the order of the kernels is the value; those before it stood behind."""
    _, value = explained(shop, "delays__last")
    assert rules(value)[1] == "outranked"
    assert [event.number for event in value.events if event.is_value] == [6]
    assert next(event.said for event in value.events if event.number == 1) == "event 6 comes after it"


def test_first_value_outranks_newer_ones(shop):
    """Where the oldest are asked for, the events after them stand behind; a list takes as many as it has room for."""
    _, value = explained(shop, "delays__first")
    assert value.declared == "first(doubled(delay)).lifetime()"
    assert (value.offline.value, value.events[0].value) == ("11.0", "11.0")
    assert (rules(value)[1], rules(value)[6]) == ("used", "outranked")
    assert next(event.said for event in value.events if event.number == 6) == "event 1 comes before it"
    _, value = explained(shop, "delays__first_two")
    assert value.arithmetic == "the first of 2 by (event_time, ingest_time, content): events 1, 6 = [5.5, 3.25]"


def test_expired_value_is_not_used(shop):
    """A value older than its time to live is named, and nothing is used."""
    _, value = explained(shop, "delays__fresh")
    assert value.offline.status == "EXPIRED"
    assert rules(value)[6] == "expired"
    assert "used" not in value.fates
    assert next(event.said for event in value.events if event.fate == "outranked") == "event 6 comes after it"


def test_largest_value_is_one_events(shop):
    """All events count for a maximum; the one that has it is marked."""
    _, value = explained(shop, "delays__worst")
    assert [event.number for event in value.events if event.fate == "used"] == [1, 6]
    assert [event.number for event in value.events if event.is_value] == [1]


def test_horizons_are_those_of_the_refresh(shop):
    """What may be seen ends at the grid, and a lag later for what was known."""
    found, _ = explained(shop, "delays__mean_1d")
    (view,) = found.views
    assert view.event_horizon == "2026-01-02T10:00:00Z"
    assert view.ingest_horizon == "2026-01-02T10:10:00Z"
    assert view.rows == 7
    assert view.other_spellings == 1
    assert view.newest_visible == 6


def test_feature_on_demand_shows_its_operands(shop):
    """Expression and operands, and after it the features it is computed of; request inputs come from the log."""
    found, value = explained(shop, "versus__excess")
    assert value.offline.value == "-0.25"
    assert value.declared == "(dep_delay - delays__mean_1d)"
    assert [(one.name, one.value) for one in value.operands] == [("dep_delay", "3.0"), ("delays__mean_1d", "3.25")]
    assert [one.name for one in found.values] == ["versus__excess", "delays__mean_1d"]


def test_request_inputs_given_are_used(shop):
    """What the caller gives counts; what was served to another question is shown, and compared with nothing."""
    found, value = explained(shop, "versus__excess", request={"dep_delay": 4.0})
    assert value.offline.value == value.online.told.value == "0.75"
    assert value.served is None
    assert found.values[1].served.agrees, "the mean asks for no input"
    assert found.notes[-1] == "the logged request had dep_delay=3.0: features that depend on it are not compared"
    assert verdict(found) == AGREE


def test_of_several_rows_that_were_logged_the_one_asked_with_the_same_inputs_counts(shop):
    shop.store.get_online_features(
        "model", [{"carrier": "UA"}], request={"dep_delay": 8.0}, as_of=ASKED, request_id="second"
    )
    assert explained(shop, "versus__excess")[0].served.request_id == "second"
    found, value = explained(shop, "versus__excess", request={"dep_delay": 3.0})
    assert (found.served.request_id, value.served.agrees) == ("first", True)
    found, value = explained(shop, "versus__excess", request={"dep_delay": 3.0}, request_id="second")
    assert (found.served.request_id, value.served) == ("second", None)
    assert found.requests == {"dep_delay": "3.0"}


def test_all_roads_agree(shop):
    """The online road and the log say what training says."""
    found = shop.store.explain("model", {"carrier": "UA"}, at=ASKED)
    assert verdict(found) == AGREE
    assert all(value.online.agrees and value.served.agrees for value in found.values)
    assert found.served.request_id == "first"
    assert found.is_checked
    assert len(found.values) == 9


def test_state_that_is_behind_is_what_makes_the_difference(shop):
    """An answer served before a late event was folded in is what the kernels give without it."""
    shop.clock.instant_us = instant_us("2026-01-02T13:45:00Z")
    late = "2026-01-02T13:40:00Z"
    shop.store.get_online_features("model", [{"carrier": "UA"}], request={"dep_delay": 3.0}, as_of=late)
    found = shop.store.explain("model", {"carrier": "UA"}, at=late, feature="delays__last")
    (value,) = found.values
    assert value.offline.value == "8.0"
    assert value.served.told.value == "3.25"
    assert value.served.said == (
        "a state complete up to 2026-01-02T10:45:00Z, which answers as of 2026-01-02T10:00:00Z, gives this: without"
        " event 7 and with event 6"
    )
    assert found.views[0].served.is_stale
    assert verdict(found) == DIFFER


def test_rewritten_source_is_not_blamed_on_the_state(shop):
    """What the state's watermark does not explain is left to an audit."""
    changed = FLIGHTS.set_column(5, "delay", pa.array([5.5, 7.0, 90.0, None, None, 4.25, 8.0, 1.0]))
    shop.store.apply(service_of(source(changed)))
    _, value = explained(shop, "delays__last")
    assert value.offline.value == "4.25"
    assert value.served.told.value == "3.25"
    assert value.served.said.startswith("the watermark of the state does not explain it")


def test_state_that_does_not_reach_says_so(shop):
    """An instant before the online state's reach has a training value, and the online road says why it has none."""
    recent = FeatureView(
        "recent",
        entity=Entity("carrier", key="carrier"),
        source=shop.flights,
        features={"orders": agg.count().over("1h")},
    )
    shop.store.apply(FeatureService("recent", features=[recent]))
    for _ in range(2):
        shop.clock.instant_us += duration_us("1d")
        shop.store.materialize()
    found = shop.store.explain("recent", {"carrier": "UA"}, at="2026-01-01T00:00:00Z")
    (value,) = found.values
    assert value.offline.status == "NOT_FOUND"
    assert value.online.told is None
    assert "reaches" in value.online.said
    assert value.arithmetic == "no event of this entity is visible, so the entity is not known"
    assert verdict(found) == ALONE


def test_logged_request_is_explained_by_the_plan_that_answered(shop):
    """The row of a request names entity, instant and inputs; a plan applied later does not change what is said."""
    changed = FeatureService("model", features=[service_of(shop.flights).features[0]["last"]])
    shop.store.apply(changed)
    found = shop.store.explain("model", request_id="first")
    assert found.as_of == ASKED
    assert found.requests == {"dep_delay": "3.0"}
    assert len(found.values) == 9
    assert "another plan is applied now" in found.notes[0]
    assert all(value.served.agrees for value in found.values)


def test_request_of_a_plan_with_other_keys_is_explained_by_its_own(shop):
    """Keys and request inputs are those of the plan that answered; of several answers the newest is taken."""
    shop.store.get_online_features("model", [{"carrier": "UA"}], request={"dep_delay": 7.0}, as_of=ASKED)
    found, _ = explained(shop, "versus__excess")
    assert found.requests == {"dep_delay": "7.0"}
    tails = FeatureView(
        "tails",
        entity=Entity("id", key="id", dtype="int64"),
        source=shop.flights,
        features={"rows": agg.count().lifetime()},
    )
    shop.store.apply(FeatureService("model", features=[tails]))
    found = shop.store.explain("model", request_id="first", feature="versus__excess")
    assert found.keys == {"carrier": "UA"}
    assert found.values[0].served.agrees


def test_values_that_may_still_change_are_noted(shop):
    """A horizon beyond the newest event of the source is said; one before it is not."""
    assert explained(shop, "delays__last")[0].notes == ()
    found = shop.store.explain("model", {"carrier": "UA"}, at="2026-01-02T12:45:00Z", feature="delays__last")
    assert found.notes == ("a horizon is after the newest event of a source: values may still change",)


def test_unknown_request_inputs_are_noted_where_they_matter(shop):
    """Inputs that nobody knows count as null, which is said of features that read them."""
    found = shop.store.explain("model", {"carrier": "UA"}, at="2026-01-02T09:45:00Z", feature="versus__excess")
    assert found.notes == ("unknown request inputs are taken as null: dep_delay",)
    assert found.values[0].offline.status == "NULL"


def test_unknown_request_and_missing_fields_are_errors(shop):
    """What cannot be found is said, with the field it is about."""
    with pytest.raises(RequestError, match="the serving log has no row of request 'other'"):
        shop.store.explain("model", request_id="other")
    with pytest.raises(RequestError, match="'at' is missing"):
        shop.store.explain("model", {"carrier": "UA"})
    with pytest.raises(RequestError, match="there is no feature 'delays__lst'"):
        shop.store.explain("model", {"carrier": "UA"}, at=ASKED, feature="delays__lst")
    with pytest.raises(RequestError, match="unknown entity field 'origin'"):
        shop.store.explain("model", {"origin": "UA"}, at=ASKED)


def test_many_events_are_counted_and_the_telling_ones_listed(shop):
    """All events are counted; listed are the newest used, and of each rule the nearest to the horizon."""
    _, value = explained(shop, "delays__worst", events=1)
    assert [event.number for event in value.events] == [6, 7]
    _, value = explained(shop, "delays__first", events=3)
    assert [(event.number, event.fate) for event in value.events] == [
        (1, "used"),
        (4, "null"),
        (6, "outranked"),
        (7, "after_horizon"),
    ]
    assert explained(shop, "delays__worst", events=0)[1].events == ()
    assert sum(value.fates.values()) == 7


def test_wrong_list_of_events_is_told(shop, monkeypatch):
    """An explanation whose events do not give the value says that it is wrong."""
    honest = Selection.fates
    monkeypatch.setattr(Selection, "fates", lambda self, feature: np.full_like(honest(self, feature), Fate.NULL))
    found = shop.store.explain("model", {"carrier": "UA"}, at=ASKED, feature="delays__worst")
    assert not found.is_checked
    assert "NOT CHECKED" in render_page(found)
    assert "NOT CHECKED" in terminal(render_text(found))


def terminal(shown) -> str:
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(shown)
    return console.export_text()


def test_explanation_is_shown(shop):
    """Terminal, page and JSON say the same; the JSON keeps to its schema."""
    found = shop.store.explain("model", {"carrier": "UA"}, at=ASKED)
    document = json.loads(found.to_json())
    jsonschema_rs.validator_for(type(found).json_schema()).validate(document)
    page, text = render_page(found), terminal(render_text(found))
    for value in found.values:
        for said in (value.name, value.arithmetic):
            assert said in text
            assert escape(said) in page
    assert text.count("another delivery of id 4 counts") == page.count("another delivery of id 4 counts") == 8
    assert "<script" not in page


@examples(12)
@given(scenarios(max_queries=2, has_ids=True))
def test_explanations_of_anything_are_checked(scenario):
    """Whatever is defined and happened: what is listed as used gives the value, and only stale states say another."""
    with tempfile.TemporaryDirectory() as folder, FeatureStore.local(folder, clock=FixedClock(END_US)) as store:
        store.apply(FeatureService("model", features=[scenario.view]))
        store.materialize(until=to_datetime(START_US + SPAN // 2 * HALF_HOUR_US))
        for key, as_of_us in scenario.queries:
            entity = dict(zip(scenario.keys, key, strict=True))
            try:
                found = store.explain("model", entity, at=to_datetime(as_of_us), events=100)
            except ValueOverflowError:
                assume(False)
            assert found.is_checked
            deliveries = [row for row in scenario.events if tuple(row[name] for name in scenario.keys) == key]
            repeated = len(deliveries) - len(scenario.events_of(key))
            for value in found.values:
                assert len(value.events) == sum(value.fates.values()) == len(deliveries)
                assert value.fates.get("duplicate", 0) == repeated
                if value.online.agrees is False:
                    event("a state that is behind")
                    assert value.online.said.startswith("a state complete up to "), value


def test_audits_name_the_command_that_explains_their_worst_value(shop):
    """What the report says can be pasted: the row of the log is found again, and differs."""
    changed = FLIGHTS.set_column(5, "delay", pa.array([5.5, 7.0, 90.0, None, None, 4.25, 8.0, 1.0]))
    shop.store.apply(service_of(source(changed)))
    report = shop.store.audit("model", since=ASKED, causes=False)
    worst = report.worst[0]
    command = explain_command(report, worst)
    assert command in terminal(render_audit(report))
    assert command in render_audit_html(report)
    options = dict(itertools.pairwise(shlex.split(command)))
    found = shop.store.explain(
        "model", worst.keys, at=options["--at"], feature=options["--feature"], request_id=options["--request-id"]
    )
    assert found.values[0].served.told.value == worst.current
    assert found.values[0].offline.value == worst.reference


def test_commands_of_audits_outside_the_log_say_the_request_inputs_as_the_command_line_takes_them(
    tmp_path, monkeypatch
):
    """Keys of every dtype, and the inputs: what is pasted explains the value that was audited."""
    from featurestore import cli

    moment, day = datetime.fromisoformat("2026-01-01T05:00:00Z"), date(2026, 1, 1)
    table = {"flag": [True], "since": [moment], "day": [day], "price": [Decimal("1.50")], "at": [at("01T08:00")]}
    names, dtypes = ("flag", "since", "day", "price"), ("bool", "timestamp", "date", "decimal(3,2)")
    view = FeatureView(
        "v",
        entity=Entity("all", key=names, dtype=dtypes),
        source=FileSource("events", path=str(tmp_path / "events.parquet"), event_time="at"),
        features={"n": agg.count().over("1d")},
    )
    pq.write_table(pa.table(table), tmp_path / "events.parquet")
    versus = OnDemandFeatureView("o", request={"x": "float64"}, features={"y": request("x") + view["n"]})
    mapping = ForeignMapping(
        as_of="at", keys={name: name for name in names}, request={"x": "x"}, features={"o__y": "y"}
    )
    log = pa.table(table | {"at": [at("01T09:00")], "x": [2.5], "y": [9.0]})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "featurestore.toml").write_text("")
    with FeatureStore.open(tmp_path / "featurestore.toml") as store:
        store.apply(FeatureService("model", features=[view, versus]))
        report = store.audit_foreign("model", log, mapping, causes=False)
    command = explain_command(report, report.worst[0])
    assert command == (
        "featurestore explain model day=2026-01-01 flag=true price=1.50 since=2026-01-01T05:00:00Z x=2.5 "
        "--at 2026-01-01T09:00:00Z --feature o__y"
    )
    with pytest.raises(SystemExit) as ended:
        cli.main([*shlex.split(command)[1:], "--json", "found.json"])
    assert ended.value.code == 0
    assert json.loads((tmp_path / "found.json").read_text())["values"][0]["offline"]["value"] == "3.5"
