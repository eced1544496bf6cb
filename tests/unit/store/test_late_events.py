"""Runs and verifications in which hardly an event is known in time say so."""

import logging
from dataclasses import replace

import pandas as pd
import pytest

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FrameSource, agg, col
from featurestore.core.temporal import FixedClock, instant_us


def store_of(folder, *, created):
    """Return a store over events of January that were loaded at some instants."""
    happened = pd.date_range("2024-01-01", periods=20, freq="D", tz="UTC")
    frame = pd.DataFrame({"user": ["ann", "bob"] * 10, "at": happened, "amount": 1.0, "created": created(happened)})
    source = FrameSource("clicks", frame=frame, event_time="at", ingest_time="created")
    view = FeatureView(
        "spend",
        entity=Entity("user", key="user"),
        source=source,
        features={"total": agg.sum(col("amount")).lifetime()},
    )
    store = FeatureStore.local(folder, clock=FixedClock(instant_us("2024-02-01T00:00:00Z")))
    store.apply(FeatureService("churn", features=[view]))
    return store


def messages(caplog):
    """Return what runs warned of; kernels may say beside that they are compiled."""
    return [record.getMessage() for record in caplog.records if record.name == "featurestore.online.filling"]


def test_a_run_says_that_most_events_become_known_only_later(tmp_path, caplog):
    store = store_of(tmp_path, created=lambda at: at.where(at < at[4], pd.Timestamp("2024-03-01", tz="UTC")))
    with caplog.at_level(logging.WARNING):
        (run,) = store.materialize()
    assert (run.events, run.late_events) == (4, 16)
    (message,) = messages(caplog)
    assert "16 of 20 events happened before 2024-02-01T00:00:00Z and become known only later" in message
    assert "Column 'created' is declared as ingest_time" in message


@pytest.mark.parametrize("until", ["2024-02-01T00:00:00Z", "2024-01-03T00:00:00Z"])
def test_events_that_have_not_happened_yet_are_not_late(tmp_path, caplog, until):
    (run,) = store_of(tmp_path, created=lambda at: at).materialize(until)
    assert (run.late_events, messages(caplog)) == (0, [])


def test_a_verification_in_which_nothing_is_found_says_so(tmp_path):
    late = store_of(tmp_path / "late", created=lambda at: at + pd.Timedelta(days=13))
    certificate = late.verify("churn", rows=100)
    assert certificate.verdict == "pass"
    assert 0 < certificate.rows_not_found <= certificate.rows
    usual = store_of(tmp_path / "usual", created=lambda at: at).verify("churn", rows=100)
    assert usual.warnings == ()


def test_the_warning_names_the_rows(tmp_path):
    certificate = store_of(tmp_path, created=lambda at: at).verify("churn", rows=100)
    warned = replace(certificate, rows_not_found=certificate.rows).warnings
    assert warned[0].startswith(f"in {certificate.rows:,} of {certificate.rows:,} rows no view found an event")
