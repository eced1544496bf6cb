"""Verifying: history is replayed on both roads; what diverges is found, and what serves is not touched."""

from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    FileSource,
    OnDemandFeatureView,
    agg,
    col,
    every,
    request,
)
from featurestore.errors import SourceError
from featurestore.online.memory import MemoryOnlineStore
from featurestore.registry import Registry
from featurestore.skew.instants import instants
from featurestore.skew.picking import Occurrence, occurrences
from featurestore.sources import open_scans
from featurestore.temporal import FixedClock, instant_us, to_datetime
from featurestore.verifying import Verifier

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
    found = store.verify("model", rows=200, instants=12)
    assert (found.verdict, found.exit_code, found.different) == ("pass", 0, 0)
    assert found.instants == 12
    assert found.rows == 12 * 8, "all seven users and one who never was, at each instant"
    assert found.values == 5 * found.rows
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
    verifier = Verifier(store._catalog, store._registry, store._settings, lambda _: (), new_store=ForgetfulStore)
    found = verifier.verify("model", rows=200, instant_count=12, now_us=NOW)
    assert (found.verdict, found.exit_code) == ("fail", 1)
    assert found.different > 0
    assert found.report.worst


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


def test_instants_lie_at_edges_and_never_beyond_the_present(store, tmp_path):
    plan = store.plan("model")
    sources = store._catalog.sources(["payments"])
    with open_scans([use.view for use in plan.uses], sources, store._settings) as scans:
        picked = occurrences(plan, 5, scans)
    assert len(picked) == 10
    assert all(isinstance(event, Occurrence) and event.event_time_us <= event.ingest_time_us for event in picked)
    spend = next(event for event in picked if event.use.alias == "spend")
    slow = next(event for event in picked if event.use.alias == "slow")
    chosen = instants([spend], 100, until_us=NOW)
    known, at = spend.ingest_time_us, spend.event_time_us
    lengths = (3 * HOUR, 6 * HOUR, 24 * HOUR)
    assert chosen == sorted({known, known + 1, *(at + length + more for length in lengths for more in (0, 1))})
    assert {instant % HOUR for instant in instants([slow], 100, until_us=NOW)} >= {10 * MINUTE, 10 * MINUTE - 1}
    assert instants([spend], 100, until_us=at) == ([at] if known == at else [])


def test_a_certificate_that_is_none_is_refused(store, tmp_path):
    found = store.verify("model", rows=10, instants=2)
    assert type(found).from_json(found.to_json()) == found
    with Registry(f"sqlite:///{tmp_path}/other.db") as registry:
        assert registry.certificates() == ()
