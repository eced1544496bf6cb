"""The gate: every way in which what would be served is not what was trained on stops it, and says why."""

import json
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureService, FeatureStore, FeatureView, FileSource, agg, col, every
from featurestore.core.errors import TrainingSetError
from featurestore.core.temporal import (
    FixedClock,
    duration_us,
    instant_us,
    to_datetime,
)
from tests.server.conftest import NOW, ORDERS, USER

DAY = duration_us("1d")


def service(folder, window="1d"):
    source = FileSource("orders", path=str(folder / "orders.parquet"), event_time="at")
    features = {"total": agg.sum(col("amount")).over(window), "n": agg.count().over("1d")}
    view = FeatureView("spending", entity=USER, source=source, features=features, refresh=every("1h", lag="10m"))
    return FeatureService("model", features=[view])


@pytest.fixture
def clock():
    return FixedClock(instant_us(NOW))


@pytest.fixture
def store(tmp_path, clock):
    pq.write_table(ORDERS, tmp_path / "orders.parquet")
    with FeatureStore.local(tmp_path / "store", clock=clock) as opened:
        opened.apply(service(tmp_path))
        yield opened


@pytest.fixture
def manifest(store, tmp_path):
    spine = pa.table({"user": [1], "as_of": pa.array([to_datetime(instant_us(NOW))])})
    return store.training_set("model", spine, tmp_path / "training", overwrite=True).path


def checked(gate):
    return {check.name: check.result for check in gate.checks}


def served_and_audited(store):
    store.materialize()
    store.get_online_features("model", [{"user": 1}])
    return store.audit("model", since="1h")


ALL_PASS = dict.fromkeys(("definition", "columns", "sources", "hindsight", "online state", "last audit"), "pass")


def test_what_was_trained_on_is_let_through(store, manifest):
    assert served_and_audited(store).verdict == "pass"
    found = store.gate(manifest)
    assert checked(found) == ALL_PASS
    assert (found.verdict, found.exit_code, found.trained_on) == ("pass", 0, found.serving)
    assert json.loads(found.to_json())["verdict"] == "pass"
    assert store.gate(manifest / "_manifest.json") == found


def test_a_changed_definition_is_told_feature_by_feature(store, manifest, tmp_path):
    served_and_audited(store)
    store.apply(service(tmp_path, window="7d"))
    store.materialize()
    found = store.gate(manifest)
    assert checked(found) == ALL_PASS | {"definition": "fail", "last audit": "cannot tell"}
    (definition, *_, audit) = found.checks
    assert definition.said == ('spending.total: sum(amount).over("1d") → sum(amount).over("7d")',)
    assert audit.said[1] == "it compared no answers of the live plan"
    assert found.exit_code == 1


def test_a_source_whose_columns_changed_stops_it(store, manifest, tmp_path):
    served_and_audited(store)
    names = ["cents" if name == "amount" else name for name in ORDERS.column_names]
    pq.write_table(ORDERS.rename_columns(names), tmp_path / "orders.parquet")
    found = next(check for check in store.gate(manifest).checks if check.name == "sources")
    assert (found.result, found.said) == ("fail", ("source 'orders': column 'amount' is gone",))
    place = ORDERS.column_names.index("amount")
    changed = ORDERS.set_column(place, "amount", ORDERS.column("amount").cast(pa.string()))
    pq.write_table(changed, tmp_path / "orders.parquet")
    found = next(check for check in store.gate(manifest).checks if check.name == "sources")
    assert found.said == (f"source 'orders': column 'amount' was {_dtype('amount')}, is string",)


def _dtype(name):
    from featurestore.core.dtypes import from_arrow

    return from_arrow(ORDERS.schema.field(name).type)


def test_state_that_is_missing_or_old_stops_it(store, manifest, clock):
    assert checked(store.gate(manifest)) == ALL_PASS | {"online state": "fail", "last audit": "cannot tell"}
    served_and_audited(store)
    clock.instant_us += duration_us("3h")
    found = store.gate(manifest)
    assert checked(found) == ALL_PASS | {"online state": "fail"}
    assert "less than it promises (every 1h, lag 10m)" in found.checks[4].said[0]


def test_an_audit_that_is_old_cannot_tell_and_one_that_failed_stops_it(store, manifest, clock, tmp_path):
    served_and_audited(store)
    clock.instant_us += 8 * DAY
    store.materialize()
    assert checked(store.gate(manifest)) == ALL_PASS | {"last audit": "cannot tell"}
    assert store.gate(manifest).exit_code == 2
    assert checked(store.gate(manifest, max_audit_age="9d")) == ALL_PASS
    place = ORDERS.column_names.index("amount")
    doubled = ORDERS.set_column(place, "amount", pc.multiply(ORDERS.column("amount"), 2.0))
    pq.write_table(doubled, tmp_path / "orders.parquet")
    assert store.audit("model", since="9d").verdict == "fail"
    found = store.gate(manifest)
    assert checked(found) == ALL_PASS | {"last audit": "fail"}
    assert any("spending__total" in line for line in found.checks[-1].said)


def gated(store, manifest, **options):
    return next(check for check in store.gate(manifest, **options).checks if check.name == "last audit")


def test_an_audit_is_as_old_as_what_it_compared(store, manifest, clock):
    """An audit that runs today over January's answers says nothing of today's."""
    served_and_audited(store)
    clock.instant_us += 40 * DAY
    store.materialize()
    assert store.audit("model", since="41d", until="39d").verdict == "pass"
    found = gated(store, manifest, max_audit_age="1d")
    assert found.result == "cannot tell"
    assert found.said[0].startswith("audit 2 of 1 rows, served up to 39d21h ago: pass")
    assert store.audit("model", since="41d").verdict == "pass"
    assert gated(store, manifest, max_audit_age="7d").result == "cannot tell", "nothing newer was compared"
    assert gated(store, manifest, max_audit_age="41d").result == "pass"


def test_an_age_of_nothing_is_an_age(store, manifest, clock):
    served_and_audited(store)
    clock.instant_us += 1
    assert gated(store, manifest, max_audit_age=timedelta(0)).result == "cannot tell"


def test_an_audit_that_could_not_tell_hides_no_older_one_that_could(store, manifest, clock):
    served_and_audited(store)
    clock.instant_us += duration_us("40m")
    assert store.audit("model", since="1m").verdict == "cannot tell"
    found = gated(store, manifest)
    assert found.result == "pass"
    assert found.said[0].startswith("audit 2 of 0 rows")
    assert found.said[-1].startswith("audit 1 of 1 rows, served up to 40m")


def test_how_much_an_audit_looked_at_is_said(store, manifest):
    store.materialize()
    store.get_online_features("model", [{"user": user} for user in range(50)])
    report = store.audit("model", since="1h", sample=0.5)
    said = gated(store, manifest).said[0]
    assert said.startswith(f"audit 1 of {report.compared} rows of 50.000% of the entities, served up to ")


def test_state_of_continuous_views_is_not_good_for_ever(tmp_path, clock):
    pq.write_table(ORDERS, tmp_path / "orders.parquet")
    source = FileSource("orders", path=str(tmp_path / "orders.parquet"), event_time="at")
    view = FeatureView("spending", entity=USER, source=source, features={"n": agg.count().over("1d")})
    spine = pa.table({"user": [1], "as_of": pa.array([to_datetime(instant_us(NOW))])})
    with FeatureStore.local(tmp_path / "store", clock=clock) as store:
        store.apply(FeatureService("model", features=[view]))
        path = store.training_set("model", spine, tmp_path / "training", overwrite=True).path
        served_and_audited(store)
        clock.instant_us += duration_us("23h")
        assert checked(store.gate(path)) == ALL_PASS
        clock.instant_us += 200 * DAY
        found = next(check for check in store.gate(path).checks if check.name == "online state")
        assert found.result == "fail"
        assert "200d23h ago" in found.said[0]
        assert found.said[0].endswith("it may be 1d ago")
        assert checked(store.gate(path, max_state_age="201d"))["online state"] == "pass"


def test_hindsight_and_services_that_are_gone_stop_it(store, tmp_path):
    spine = pa.table({"user": [1], "as_of": pa.array([to_datetime(instant_us(NOW))])})
    hindsight = store.training_set("model", spine, tmp_path / "hindsight", hindsight=True).path
    assert checked(store.gate(hindsight))["hindsight"] == "fail"
    with FeatureStore.local(tmp_path / "empty") as empty:
        found = empty.gate(hindsight)
    assert (found.verdict, found.serving) == ("fail", "")
    assert "no service" in found.checks[0].said[0]


def test_what_is_no_training_set_is_named(store, tmp_path):
    with pytest.raises(TrainingSetError, match="the folder does not exist"):
        store.gate(tmp_path / "nowhere")
