"""Logs of other systems: clean ones pass, what was done to others is named, and what does not fit is told."""

import re
import sqlite3
from datetime import date
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FrameSource, agg, col
from featurestore.core.errors import ConfigError, InstantError, SourceError
from featurestore.core.temporal import FixedClock
from featurestore.guard.audit.foreign import ForeignMapping, read_mapping
from tests.foreign.payments import DAY, HOUR, SERVICE, START, answers, instants, questions, service, write_payments

MAPPING = """
as_of = "served_at"

[keys]
user = "user_id"

[features]
spend__total = "total"
spend__last = "last_amount"
spend__n = "n"
"""


@pytest.fixture
def store(tmp_path):
    write_payments(tmp_path / "payments.parquet")
    (tmp_path / "map.toml").write_text(MAPPING)
    with FeatureStore.local(tmp_path / "store", clock=FixedClock(START + 9 * DAY)) as opened:
        opened.apply(service(tmp_path / "payments.parquet"))
        yield opened


@pytest.fixture
def right(store, tmp_path):
    """What is served by a system that makes no mistake."""
    return answers(tmp_path / "right", service(tmp_path / "payments.parquet"), questions())


def audited(store, tmp_path, log, **options):
    pq.write_table(log, tmp_path / "served.parquet")
    return store.audit_foreign(SERVICE, tmp_path / "served.parquet", tmp_path / "map.toml", **options)


def with_column(log, name, values):
    return log.set_column(log.column_names.index(name), name, values)


def share_of(report, cause):
    return sum(finding.share for finding in report.findings if finding.cause == cause)


def test_a_clean_log_passes_and_says_what_it_did_not_compare(store, right, tmp_path):
    report = audited(store, tmp_path, right)
    assert (report.verdict, report.kind, report.compared) == ("pass", "foreign", 400)
    assert report.notes == ("the log has no statuses: only values were compared",)
    assert {pair for feature in report.features for pair in feature.status_pairs} == {
        "PRESENT/not logged",
        "EXPIRED/not logged",
    }
    assert report.since < report.until
    assert [record.verdict for record in store.audits(SERVICE)] == ["pass"]


def test_a_log_is_found_from_where_the_command_is_given(store, right, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    pq.write_table(right, "served.parquet")
    assert store.audit_foreign(SERVICE, "served.parquet", tmp_path / "map.toml").verdict == "pass"


@pytest.mark.parametrize("frame", [pa.Table.to_pandas, pl.from_arrow], ids=["pandas", "polars"])
def test_a_frame_is_a_log(store, right, tmp_path, frame):
    report = store.audit_foreign(SERVICE, frame(right), tmp_path / "map.toml")
    assert (report.verdict, report.compared) == ("pass", 400)


def test_a_time_to_live_that_is_ignored_is_named(store, tmp_path):
    served = answers(tmp_path / "ignoring", service(tmp_path / "payments.parquet", ttl=None), questions())
    report = audited(store, tmp_path, served)
    assert report.verdict == "fail"
    assert {feature.name for feature in report.features if feature.different} == {"spend__last"}
    assert share_of(report, "ttl_ignored") == 1.0


def test_late_rows_that_an_incremental_job_missed_are_named(store, tmp_path):
    write_payments(tmp_path / "in_time.parquet", without_late=True)
    served = answers(tmp_path / "missing", service(tmp_path / "in_time.parquet"), questions())
    report = audited(store, tmp_path, served)
    assert report.verdict == "fail"
    assert share_of(report, "event_lost") == 1.0
    assert report.findings[0].said == "events of spend that became known after they happened never arrived"


def test_rows_used_before_they_were_known_are_named(store, tmp_path):
    import dataclasses

    hasty = service(tmp_path / "payments.parquet")
    view = hasty.features[0]
    at_once = dataclasses.replace(view, source=dataclasses.replace(view.source, ingest_time=None))
    served = answers(tmp_path / "hasty", dataclasses.replace(hasty, features=(at_once,)), questions())
    assert share_of(audited(store, tmp_path, served), "late_event") == 1.0


def test_float32_is_compared_as_what_it_holds_and_named(store, right, tmp_path):
    report = audited(store, tmp_path, with_column(right, "total", right.column("total").cast(pa.float32())))
    assert {feature.name for feature in report.features if feature.different} == {"spend__total"}
    assert share_of(report, "precision") == 1.0


def test_a_default_for_null_is_named_and_every_such_value_written(store, right, tmp_path):
    served = with_column(right, "last_amount", right.column("last_amount").fill_null(0.0))
    report = audited(store, tmp_path, served, mismatches=tmp_path / "mismatches")
    assert share_of(report, "default_for_null") == 1.0
    written = pq.read_table(tmp_path / "mismatches").to_pylist()
    assert len(written) == report.different > 50
    assert {row["current_status"] for row in written} == {"not logged"}
    assert len({row["row"] for row in written}) == len(written)


def test_a_default_is_written_as_a_definition_would_say_it(tmp_path):
    day, users = date(2026, 2, 28), [f"u{number}" for number in range(60)]
    table = pa.table({"user": users[:30], "at": instants([START] * 30), "day": [day] * 30})
    source = FrameSource("payments", frame=table, event_time="at")
    view = FeatureView(
        "spend", entity=Entity("user", key="user"), source=source, features={"day": agg.last(col("day"))}
    )
    log = pa.table({"user": users, "at": instants([START + HOUR] * 60), "day": [day] * 30 + [date(1970, 1, 1)] * 30})
    mapping = ForeignMapping(as_of="at", keys={"user": "user"}, features={"spend__day": "day"})
    with FeatureStore.local(tmp_path / "store", clock=FixedClock(START + 9 * DAY)) as store:
        store.apply(FeatureService(SERVICE, features=[view]))
        report = store.audit_foreign(SERVICE, log, mapping)
    assert report.causes == {"default_for_null": 30}
    assert report.findings[0].fix.endswith("declare the default in the definition: coalesce(…, date(1970, 1, 1)).")


def test_times_in_another_zone_are_named(store, tmp_path):
    served = answers(tmp_path / "shifted", service(tmp_path / "payments.parquet"), questions(shift_us=5 * HOUR))
    shifted = pc.subtract(served.column("served_at").cast(pa.int64()), 5 * HOUR).cast(pa.timestamp("us", "UTC"))
    report = audited(store, tmp_path, with_column(served, "served_at", shifted))
    assert share_of(report, "time_zone") > 0.95


def test_csv_epoch_seconds_constants_and_requests_are_read(store, tmp_path):
    one = questions().filter(pc.equal(questions().column("user"), "u03"))
    seconds = pc.divide(one.column("as_of").cast(pa.int64()), 1_000_000)
    asked = one.set_column(1, "as_of", pc.multiply(seconds, 1_000_000).cast(pa.timestamp("us", "UTC")))
    served = answers(tmp_path / "one", service(tmp_path / "payments.parquet"), asked)
    served = with_column(served, "served_at", seconds).drop_columns(["user_id"])
    served = served.append_column("rid", pa.array([f"r{number}" for number in range(served.num_rows)]))
    pyarrow.csv.write_csv(served, tmp_path / "served.csv")
    mapping = MAPPING.replace('[keys]\nuser = "user_id"', '[constants]\nuser = "u03"').replace(
        'as_of = "served_at"', 'as_of = "served_at"\nas_of_unit = "s"\nrequest_id = "rid"'
    )
    (tmp_path / "csv.toml").write_text(mapping)
    report = store.audit_foreign(SERVICE, tmp_path / "served.csv", tmp_path / "csv.toml")
    assert (report.verdict, report.compared) == ("pass", one.num_rows)
    broken = with_column(served, "n", pc.add(served.column("n"), 1))
    pyarrow.csv.write_csv(broken, tmp_path / "served.csv")
    assert store.audit_foreign(SERVICE, tmp_path / "served.csv", tmp_path / "csv.toml").worst[0].request_id[0] == "r"


def test_a_table_of_a_database_is_read_in_a_range_of_time(store, right, tmp_path):
    columns = with_column(right, "served_at", pc.strftime(right.column("served_at"), "%Y-%m-%d %H:%M:%S")).to_pydict()
    with sqlite3.connect(tmp_path / "served.db") as connection:
        connection.execute(
            "CREATE TABLE served (user_id TEXT, served_at TEXT, total REAL, last_amount REAL, n INTEGER)"
        )
        connection.executemany("INSERT INTO served VALUES (?, ?, ?, ?, ?)", list(zip(*columns.values(), strict=True)))
    connection.close()
    (tmp_path / "map.toml").write_text('timezone = "UTC"\ntable = "served"\n' + MAPPING)
    url = f"sqlite:///{tmp_path}/served.db"
    report = store.audit_foreign(SERVICE, url, tmp_path / "map.toml", since="2026-03-03T00:00:00Z")
    assert 0 < report.compared < 400
    assert report.since == "2026-03-03T00:00:00Z"
    assert report.compared == store.audit_foreign(SERVICE, url, tmp_path / "map.toml").compared - sum(
        at < "2026-03-03" for at in columns["served_at"]
    )


def test_features_that_are_not_mapped_are_left_out(store, right, tmp_path):
    (tmp_path / "map.toml").write_text(MAPPING.replace('spend__last = "last_amount"\n', ""))
    report = audited(store, tmp_path, right)
    assert [feature.name for feature in report.features] == ["spend__n", "spend__total"]
    assert report.notes[1] == "not in the log: spend__last"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("spend__n = ", "spend__m = "), "the service has no 'spend__m'.*spend__n"),
        (('user = "user_id"', ""), "'user' is not mapped.*under \\[keys\\]"),
        (('user = "user_id"', 'user = "served_at"'), "'served_at' is mapped twice: as timestamp and as string"),
        (("as_of = ", "asof = "), "as_of: Field required"),
        (("[features]", "[constants]"), "features: Field required"),
        (('spend__total = "total"\nspend__last = "last_amount"\nspend__n = "n"', ""), "no feature is mapped"),
        (("[keys]", "[key]"), "key: Extra inputs are not permitted"),
        (("[keys]", "[keys"), "it is not valid TOML"),
    ],
)
def test_mappings_that_do_not_fit_are_refused(store, right, tmp_path, change, problem):
    (tmp_path / "map.toml").write_text(MAPPING.replace(*change))
    with pytest.raises(ConfigError, match=problem):
        audited(store, tmp_path, right)
    with pytest.raises(ConfigError, match="No such file"):
        read_mapping(tmp_path / "nothing.toml")


def test_what_is_no_value_of_its_feature_differs_and_is_shown_as_it_was_served(store, right, tmp_path):
    texts = right.column("n").cast(pa.string()).to_pylist()
    served = with_column(right, "n", pa.array(["many", "", "14.5", None, *texts[4:]]))
    report = audited(store, tmp_path, served, mismatches=tmp_path / "mismatches")
    n = next(feature for feature in report.features if feature.name == "spend__n")
    assert (report.verdict, n.different, n.mismatch, n.only_in_reference, n.equal) == ("fail", 4, 3, 1, 396)
    assert "spend__n: 3 served values are not int64, for example 'many'" in report.notes
    shown = {row.current for row in report.worst}
    assert shown == {"many", "", "14.5", None}
    assert {row.cause == "" for row in report.worst if row.current is not None} == {True}, "there is nothing to prove"
    written = pq.read_table(tmp_path / "mismatches").to_pylist()
    assert {(row["row"], row["current"], row["cause"] == "") for row in written} == {
        (0, "many", True),
        (1, "", True),
        (2, "14.5", True),
        (3, None, False),
    }
    assert report.examined == 1


def test_other_causes_are_found_beside_values_that_are_none(store, right, tmp_path):
    served = with_column(right, "total", right.column("total").cast(pa.float32()))
    served = with_column(served, "n", pa.array(["many"] * 200 + right.column("n").cast(pa.string()).to_pylist()[200:]))
    report = audited(store, tmp_path, served)
    assert share_of(report, "precision") == 1.0
    assert next(feature for feature in report.features if feature.name == "spend__n").different == 200


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.string(), pa.decimal128(30, 2)])
def test_a_log_is_read_with_its_own_types(tmp_path, kind):
    """Keys, truths, sums and counts as pandas, a database or CSV has them."""
    table = {"user": [7, 8], "at": instants([START, START]), "amount": [2.0, 3.0], "ok": [True, False]}
    source = FrameSource("payments", frame=pa.table(table), event_time="at")
    features = {"n": agg.count().over("1d"), "total": agg.sum(col("amount")).over("1d"), "ok": agg.last(col("ok"))}
    view = FeatureView("spend", entity=Entity("user", key="user", dtype="int64"), source=source, features=features)
    names = {"spend__n": "n", "spend__total": "total", "spend__ok": "ok"}
    served = {"user_id": [7, 8], "n": [1, 1], "total": [2, 3], "ok": [1, 0]}
    log = pa.table({name: pa.array(values).cast(kind) for name, values in served.items()})
    log = log.append_column("at", pa.array([START / 1e6 + 0.25] * 2)).append_column("rid", pa.array([None, 5.0]))
    mapping = ForeignMapping(
        as_of="at", as_of_unit="s", keys={"user": "user_id"}, features=names, request_id="rid", format="parquet"
    )
    with FeatureStore.local(tmp_path / "store", clock=FixedClock(START + 9 * DAY)) as store:
        store.apply(FeatureService(SERVICE, features=[view]))
        report = store.audit_foreign(SERVICE, log, mapping)
        assert (report.verdict, report.compared) == ("pass", 2), report.notes
        assert report.since == "2026-03-01T00:00:00.250000Z"
        wrong = with_column(log, "n", pa.array([3, 4]))
        worst = store.audit_foreign(SERVICE, wrong, mapping).worst
    assert {(row.request_id, row.row, row.current) for row in worst} == {("0", 0, "3"), ("5", 1, "4")}


def test_a_file_of_any_name_has_the_format_and_the_nulls_that_the_mapping_says(store, right, tmp_path):
    texts = with_column(right, "last_amount", right.column("last_amount").cast(pa.string()).fill_null("none"))
    pyarrow.csv.write_csv(with_column(texts, "n", right.column("n").cast(pa.float64())), tmp_path / "served.log")
    mapping = 'format = "csv"\nnull_values = ["none"]\n' + MAPPING
    (tmp_path / "map.toml").write_text(mapping)
    assert store.audit_foreign(SERVICE, tmp_path / "served.log", tmp_path / "map.toml").verdict == "pass"
    (tmp_path / "map.toml").write_text(MAPPING)
    with pytest.raises(SourceError, match=r'not sound Parquet.*format = "csv"'):
        store.audit_foreign(SERVICE, tmp_path / "served.log", tmp_path / "map.toml")


def test_null_is_null_in_csv(store, right, tmp_path):
    for text in ("NULL", "null", ""):
        served = with_column(right, "last_amount", right.column("last_amount").cast(pa.string()).fill_null(text))
        pyarrow.csv.write_csv(served, tmp_path / "served.csv")
        assert store.audit_foreign(SERVICE, tmp_path / "served.csv", tmp_path / "map.toml").verdict == "pass"


def test_rows_whose_key_is_no_key_are_left_out_and_counted(tmp_path):
    source = FrameSource("payments", frame=pa.table({"user": [7], "at": instants([START])}), event_time="at")
    entity = Entity("user", key="user", dtype="int64")
    view = FeatureView("spend", entity=entity, source=source, features={"n": agg.count().over("1d")})
    log = pa.table({"user": ["7", "seven", None], "at": instants([START + HOUR] * 3), "n": [1, 1, 0]})
    mapping = ForeignMapping(as_of="at", keys={"user": "user"}, features={"spend__n": "n"})
    with FeatureStore.local(tmp_path / "store", clock=FixedClock(START + 9 * DAY)) as store:
        store.apply(FeatureService(SERVICE, features=[view]))
        report = store.audit_foreign(SERVICE, log, mapping)
    assert (report.verdict, report.served, report.compared) == ("cannot tell", 3, 2)
    assert [(one.reason, one.rows) for one in report.skipped] == [
        ("column 'user' ([keys] user in the mapping) has values that are not int64: 'seven'", 1)
    ]
    assert "rows without 'user': 1; training sets have no entity without a key" in report.notes


def test_any_column_of_the_log_may_be_a_slice(store, right, tmp_path):
    country = pa.array(["de" if number % 4 == 0 else "fr" for number in range(right.num_rows)])
    totals = right.column("total").to_pylist()
    wrong = pa.array([total + 0.37 * i if i % 4 == 0 else total for i, total in enumerate(totals)])
    log = with_column(right, "total", wrong).append_column("country", country)
    report = audited(store, tmp_path, log, by=["country"], causes=False)
    assert report.telling == "100% of the rows that differ have country de, which 25% of all rows have"
    with pytest.raises(ConfigError, match=r"the log has no column 'county'.*Did you mean 'country'"):
        audited(store, tmp_path, log, by=["county"])


def test_a_range_without_an_instant_is_refused(store, right, tmp_path):
    with pytest.raises(InstantError, match="the period ends at"):
        audited(store, tmp_path, right, since="2026-03-03T00:00:00Z", until="2026-03-03T00:00:00Z")


def test_what_the_mapping_must_say_is_told(store, right, tmp_path):
    naive = with_column(right, "served_at", right.column("served_at").cast(pa.timestamp("us")))
    with pytest.raises(SourceError, match=r'Set their zone in the mapping.* timezone = "UTC"'):
        audited(store, tmp_path, naive)
    with pytest.raises(SourceError, match="total"):
        audited(store, tmp_path, right.drop_columns(["total"]))
    empty = with_column(right, "served_at", pa.nulls(right.num_rows, pa.timestamp("us", "UTC")))
    with pytest.raises(SourceError, match=r"column 'served_at': 400 rows have no as_of, the first of them row 0"):
        audited(store, tmp_path, empty)
    numbers = pc.divide(right.column("served_at").cast(pa.int64()), 1000)
    with pytest.raises(SourceError, match=r'row 0 has the number 17\d+, .*as_of_unit = "ms"'):
        audited(store, tmp_path, with_column(right, "served_at", numbers))
    (tmp_path / "map.toml").write_text('as_of_unit = "s"\n' + MAPPING)
    with pytest.raises(SourceError, match=r'with as_of_unit = "s" is outside .*as_of_unit = "ms"'):
        audited(store, tmp_path, with_column(right, "served_at", numbers))
    with pytest.raises(SourceError, match="Leave as_of_unit out"):
        audited(store, tmp_path, right)
    with pytest.raises(SourceError, match="row 0 has 'noon', which is not a number"):
        audited(store, tmp_path, with_column(right, "served_at", pa.array(["noon"] * right.num_rows)))
    (tmp_path / "map.toml").write_text('timezone = "Mars/X"\n' + MAPPING)
    with pytest.raises(ConfigError, match="there is no time zone 'Mars/X'"):
        audited(store, tmp_path, right)


def test_a_tolerance_of_the_configuration_lets_float32_pass_and_the_report_says_so(store, right, tmp_path):
    table = {"policies": {SERVICE: {"tolerances": {"spend__total": {"relative": 1e-6}}}}}
    store.parts.config = store.config.model_copy(update={"policies": type(store.config)(**table).policies})
    report = audited(store, tmp_path, with_column(right, "total", right.column("total").cast(pa.float32())))
    total = next(feature for feature in report.features if feature.name == "spend__total")
    assert report.verdict == "pass"
    assert total.different == total.within_tolerance > 300
    worse = with_column(right, "total", pc.add(right.column("total"), 0.5))
    assert audited(store, tmp_path, worse).verdict == "fail"


def test_the_mapping_of_the_page_is_one(store, right, tmp_path, monkeypatch):
    """docs/other_systems.md, with everything it only mentions switched on."""
    page = (Path(__file__).parents[2] / "docs/other_systems.md").read_text()
    text = re.search(r"```toml\n(.*?)```", page, re.DOTALL)[1]
    (tmp_path / "map.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    pyarrow.csv.write_csv(right.rename_columns(["user_id", "served_at", "total_spend", "last_amount", "n"]), "log.txt")
    assert store.audit_foreign(SERVICE, "log.txt", tmp_path / "map.toml").verdict == "pass"
    (tmp_path / "map.toml").write_text(re.sub("^# ", "", text, flags=re.MULTILINE))
    assert set(read_mapping(tmp_path / "map.toml").model_fields_set) >= {"as_of_unit", "format", "null_values"}
