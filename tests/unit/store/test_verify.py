"""Verifying: history is replayed on both roads; what diverges is found, and what serves is not touched."""

from datetime import timedelta
from types import SimpleNamespace

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
    OnDemandFeatureView,
    agg,
    col,
    continuous,
    every,
    request,
)
from featurestore.core.errors import RegistryError, SourceError
from featurestore.core.temporal import (
    NO_WATERMARK,
    FixedClock,
    horizons,
    instant_us,
    is_expired,
    is_visible,
    to_datetime,
    window_start,
)
from featurestore.guard.comparing.questions import Occurrence
from featurestore.guard.release.certificate import Certificate
from featurestore.guard.release.questions import (
    edge_instants,
    edge_kinds,
    edges,
    random_instants,
)
from featurestore.guard.release.verify import Verifier
from featurestore.online.stores.memory import MemoryOnlineStore
from featurestore.registry import Registry

START = instant_us("2026-03-01T00:00:00Z")
NOW = instant_us("2026-03-20T00:00:00Z")
MINUTE, HOUR = 60_000_000, 3_600_000_000


def events(count):
    at = [START + i * 17 * MINUTE for i in range(count)]
    known = [instant + (90 * MINUTE if i % 5 == 0 else 0) for i, instant in enumerate(at)]
    stamp = pa.timestamp("us", tz="UTC")
    return pa.table(
        {
            "user": pa.array([f"u{i % 7}" for i in range(count)], pa.string()),
            "at": pa.array(at, pa.int64()).cast(stamp),
            "known": pa.array(known, pa.int64()).cast(stamp),
            "amount": pa.array([None if i % 11 == 0 else i / 7 for i in range(count)], pa.float64()),
        }
    )


def service(folder):
    user = Entity("user", key="user", dtype="string")
    source = FileSource("payments", path=str(folder / "payments.parquet"), event_time="at", ingest_time="known")
    spend = FeatureView(
        "spend",
        entity=user,
        source=source,
        features={
            "n": agg.count().over("6h"),
            "total": agg.sum(col("amount")).over("1d"),
            "last": agg.last(col("amount")).ttl("3h"),
        },
    )
    slow = FeatureView(
        "slow",
        entity=user,
        source=source,
        features={"mean": agg.mean(col("amount")).over("1d")},
        refresh=every("1h", lag="10m"),
    )
    more = OnDemandFeatureView(
        "more", request={"extra": "float64"}, features={"sum": spend["total"] + request("extra")}
    )
    return FeatureService("model", features=[spend, slow, more])


@pytest.fixture
def store(tmp_path):
    pq.write_table(events(400), tmp_path / "payments.parquet")
    with FeatureStore.local(tmp_path / "store", clock=FixedClock(NOW)) as opened:
        opened.apply(service(tmp_path))
        yield opened


def test_both_roads_agree_about_history_and_a_certificate_says_so(store, tmp_path):
    found = store.verify("model", rows=200, instants=12, between=3)
    assert (found.verdict, found.exit_code, found.different, found.reasons) == ("pass", 0, 0, ())
    assert (found.instants, found.between, found.store) == (15, 3, "MemoryOnlineStore")
    refreshed, stale = found.phases
    assert (refreshed.name, stale.name) == ("refreshed", "stale")
    assert refreshed.rows == refreshed.complete == 15 * 8, "all seven users and one who never was, at each instant"
    assert stale.rows == 14 * 8, "before the first instant there is no state"
    assert stale.complete < stale.rows
    assert (found.rows, found.values) == (29 * 8, 5 * 29 * 8)
    assert found.fingerprint == store.plan("model").fingerprint
    assert {source.view: source.row_count for source in found.sources} == {"spend": 400, "slow": 400}
    with FeatureStore.local(tmp_path / "store", clock=FixedClock(NOW)) as again:
        assert again.certificates("model") == (found,)
        assert again.certificates("other") == ()


def test_what_serves_is_not_touched(store):
    store.verify("model", rows=20, instants=3)
    assert store.runs() == ()
    assert store.audits() == ()


class ForgetfulStore(MemoryOnlineStore):
    """A store that loses a write now and then."""

    writes = 0

    def write(self, items, *, expected=None):
        self.writes += 1
        super().write([item for item in items if self.writes % 4 or len(items) == 1], expected=expected)


def test_a_store_that_loses_writes_is_found(store):
    verifier = Verifier(
        store.parts.catalog, store.parts.registry, store.parts.settings, lambda _: (), new_store=ForgetfulStore
    )
    found = verifier.verify("model", rows=200, instant_count=12, between_count=0, now_us=NOW)
    assert (found.verdict, found.exit_code) == ("fail", 1)
    assert found.different > 0
    assert found.phases[0].report.worst
    assert "refreshed: " in found.reasons[0]


def test_sources_without_events_have_no_history(tmp_path):
    pq.write_table(events(0), tmp_path / "payments.parquet")
    with FeatureStore.local(tmp_path / "store", clock=FixedClock(NOW)) as store:
        store.apply(service(tmp_path))
        with pytest.raises(SourceError, match="no history to replay"):
            store.verify("model")


def test_pushed_events_are_replayed_as_they_became_known(tmp_path):
    clock = FixedClock(NOW)
    dtypes = {"user": "string", "at": "timestamp", "amount": "float64"}
    source = FileSource("clicks", path=str(tmp_path / "none.parquet"), event_time="at", stream=True, dtypes=dtypes)
    view = FeatureView(
        "clicks",
        entity=Entity("user", key="user", dtype="string"),
        source=source,
        features={"n": agg.count().over("1h"), "total": agg.sum(col("amount")).lifetime()},
    )
    with FeatureStore.local(tmp_path / "store", clock=clock) as store:
        store.apply(FeatureService("model", features=[view]))
        store.materialize()
        for number in range(12):
            clock.instant_us += 7 * MINUTE
            late = timedelta(minutes=20) if number % 3 == 0 else timedelta()
            event = {"user": f"u{number % 3}", "at": to_datetime(clock.instant_us) - late, "amount": number / 3}
            store.push("clicks", [event])
        clock.instant_us += HOUR
        assert store.verify("model", rows=100, instants=10).verdict == "pass"


def clicks(path, **options):
    dtypes = {"user": "string", "at": "timestamp", "amount": "float64"}
    source = FileSource("clicks", path=str(path), event_time="at", stream=True, dtypes=dtypes, **options)
    user = Entity("user", key="user", dtype="string")
    features = {"n": agg.count().over("1h"), "total": agg.sum(col("amount")).lifetime()}
    hourly = FeatureView("hourly", entity=user, source=source, features=features, refresh=every("30m", lag="5m"))
    return FeatureService("model", features=[FeatureView("now", entity=user, source=source, features=features), hourly])


def test_a_source_of_pushes_alone_is_complete_amid_them(tmp_path):
    clock = FixedClock(NOW)
    with FeatureStore.local(tmp_path / "store", clock=clock) as store:
        store.apply(clicks(tmp_path / "none.parquet"))
        store.materialize()
        for number in range(30):
            clock.instant_us += 7 * MINUTE
            store.push("clicks", [{"user": f"u{number % 3}", "at": to_datetime(clock.instant_us), "amount": 0.1}])
        store.compact()
        clock.instant_us += HOUR
        found = store.verify("model", rows=100)
        pushed = next(phase for phase in found.phases if phase.name == "pushed")
    assert (found.verdict, pushed.different) == ("pass", 0)
    assert pushed.rows > 0


def test_half_of_what_a_source_with_files_holds_is_replayed_as_pushes(tmp_path):
    table = events(300).drop_columns(["known"])
    pq.write_table(table, tmp_path / "clicks.parquet")
    with FeatureStore.local(tmp_path / "store", clock=FixedClock(NOW)) as store:
        store.apply(clicks(tmp_path / "clicks.parquet"))
        found = store.verify("model", rows=200)
        assert (found.verdict, [phase.name for phase in found.phases]) == ("pass", ["refreshed", "stale", "pushed"])
        assert found.phases[2].rows > 0
        broken = Verifier(
            store.parts.catalog, store.parts.registry, store.parts.settings, lambda _: (), new_store=Pushless
        )
        found = broken.verify("model", rows=200, instant_count=None, between_count=10, now_us=NOW)
    assert {phase.name: bool(phase.different) for phase in found.phases}["pushed"]


class Pushless(MemoryOnlineStore):
    """A store that keeps of what is written with a view's record, as pushes are, the record alone."""

    def write(self, items, *, expected=None):
        items = list(items)
        super().write(items[-1:] if expected and len(items) > 1 else items, expected=expected)


def test_a_store_that_answers_from_too_new_a_state_is_found(store, monkeypatch):
    found = store.verify("model", rows=100)
    assert found.verdict == "pass"
    monkeypatch.setattr("featurestore.online.answering.snapshots.is_stale", lambda *_: False)
    found = store.verify("model", rows=100)
    assert {phase.name: bool(phase.different) for phase in found.phases} == {"refreshed": False, "stale": True}
    assert found.exit_code == 1


def test_a_source_that_is_seen_at_its_own_instant_is_verified(tmp_path):
    table = events(60)
    pq.write_table(table, tmp_path / "cards.parquet")
    source = FileSource(
        "cards", path=str(tmp_path / "cards.parquet"), event_time="at", ingest_time="known", inclusive=True
    )
    features = {"last": agg.last(col("amount")), "n": agg.count().over("2h")}
    user = Entity("user", key="user", dtype="string")
    views = [
        FeatureView("now", entity=user, source=source, features=features),
        FeatureView("grid", entity=user, source=source, features=features, refresh=every("1h", lag="10m")),
    ]
    with FeatureStore.local(tmp_path / "store", clock=FixedClock(NOW)) as store:
        store.apply(FeatureService("model", features=views))
        found = store.verify("model", rows=300)
    assert (found.verdict, found.reasons) == ("pass", ())
    assert found.phases[0].complete == found.phases[0].rows


def test_every_kind_of_edge_is_asked_at_and_the_certificate_says_so(store):
    found = store.verify("model", rows=50)
    assert len(found.edges) == 2 * 4 + 2 * 2, "known, two windows and a ttl; known and one window on the grid"
    assert min(found.edges.values()) > 0
    assert found.not_asked == ()
    assert found.between == 10
    few = store.verify("model", rows=50, instants=3, between=0)
    assert few.instants == 3
    assert set(few.not_asked) == {kind for kind, count in few.edges.items() if count == 0} != set()


def test_edges_beyond_the_present_are_told(tmp_path):
    pq.write_table(events(5), tmp_path / "payments.parquet")
    with FeatureStore.local(tmp_path / "store", clock=FixedClock(START + 3 * HOUR)) as store:
        store.apply(service(tmp_path))
        found = store.verify("model", rows=50)
    assert "spend: after it leaves the 1d window" in found.not_asked
    assert "spend: after it is known" not in found.not_asked


def view_of(*, refresh, inclusive, features):
    plan = SimpleNamespace(source=SimpleNamespace(inclusive=inclusive), refresh=refresh, features=features)
    return SimpleNamespace(alias="v", view=plan)


def feature(window_us=None, resolution_us=0, ttl_us=None):
    return SimpleNamespace(window_us=window_us, resolution_us=resolution_us, ttl_us=ttl_us)


DURATIONS = st.integers(1, 400).map("{}us".format)
REFRESHES = st.one_of(st.just(continuous()), st.builds(every, DURATIONS, DURATIONS))


@given(
    refresh=REFRESHES,
    inclusive=st.booleans(),
    event=st.integers(-500, 500),
    late=st.integers(0, 500),
    window=st.integers(1, 500),
    resolution=st.integers(0, 50),
    ttl=st.integers(1, 500),
)
def test_an_edge_is_the_first_instant_at_which_the_rules_of_time_say_otherwise(
    refresh, inclusive, event, late, window, resolution, ttl
):
    use = view_of(refresh=refresh, inclusive=inclusive, features=[feature(window, resolution), feature(ttl_us=ttl)])
    known, left, expired = edges(Occurrence(use, {}, event, event + late))
    policy = (NO_WATERMARK, refresh.period_us, refresh.lag_us, int(inclusive))

    def is_known(as_of):
        return is_visible(event, event + late, *horizons(as_of, *policy))

    def is_inside(as_of):
        return event >= window_start(horizons(as_of, *policy)[0], window, resolution, int(inclusive))

    assert [is_known(known[1] + step) for step in (-1, 0)] == [False, True]
    assert [is_inside(left[1] + step) for step in (-1, 0)] == [True, False]
    assert [is_expired(event, expired[1] + step, ttl) for step in (-1, 0)] == [False, True]


def test_kinds_take_turns_and_none_is_asked_beyond_the_present():
    lengths = (HOUR, 24 * HOUR, 168 * HOUR, 720 * HOUR)
    features = [feature(length) for length in lengths] + [feature(ttl_us=48 * HOUR)]
    use = view_of(refresh=every("1h", lag="10m"), inclusive=False, features=features)
    picked = [Occurrence(use, {}, i * 10**12 + 17, i * 10**12 + 17) for i in range(1, 13)]
    chosen = edge_instants(picked, None, until_us=10**18)
    assert len(edge_kinds(picked)) == 12
    assert {kind for asked in chosen for kind in asked.edges} == set(edge_kinds(picked))
    assert len(chosen) == 20
    asked = [len([one for one in edge_instants(picked, most, until_us=10**18) if one.edges]) for most in (1, 7, 500)]
    assert asked[:2] == [1, 7]
    assert asked[2] <= 12 * 12
    last = picked[0].event_time_us + 3 * HOUR
    assert max(one.instant_us for one in edge_instants(picked, 100, until_us=last)) <= last
    assert edge_instants([], None, until_us=0) == []


def test_instants_between_edges_follow_from_a_seed():
    chosen = random_instants("seed", 50, since_us=100, until_us=10_000)
    assert (
        chosen
        == random_instants("seed", 50, since_us=100, until_us=10_000)
        != random_instants("s", 50, since_us=100, until_us=9_999)
    )
    assert all(100 <= asked.instant_us <= 10_000 and not asked.edges for asked in chosen)
    assert random_instants("seed", 5, since_us=7, until_us=7)[0].instant_us == 7


def test_a_certificate_that_is_none_is_refused(store, tmp_path):
    found = store.verify("model", rows=10, instants=2)
    assert Certificate.from_json(found.to_json()) == found
    for text in ("{}", found.to_json().replace("certificate-2", "certificate-1")):
        with pytest.raises(RegistryError, match="certificate"):
            Certificate.from_json(text)
    with Registry(f"sqlite:///{tmp_path}/other.db") as registry:
        assert registry.certificates() == ()
