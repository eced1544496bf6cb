"""A training set in which most rows found nothing says so, with the reason counted."""

import logging

import pandas as pd
import pytest

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FrameSource, agg, col
from featurestore.core.temporal import FixedClock, instant_us
from featurestore.offline.coverage import RowsWithoutValues
from featurestore.offline.dataset import TrainingSet

NOW = instant_us("2024-06-01T00:00:00Z")


def build(folder, happened, *, known=None, where=None, users="ann", as_of="2024-03-01", features=None, rows=10):
    """Build a training set of one user and return it."""
    frame = pd.DataFrame(
        {
            "user": ["ann"] * len(happened),
            "amount": [1.0] * len(happened),
            "at": pd.to_datetime(happened, utc=True),
            "created": pd.to_datetime(happened if known is None else known, utc=True),
        }
    )
    source = FrameSource("clicks", frame=frame, event_time="at", ingest_time=None if known is None else "created")
    view = FeatureView(
        "spend",
        entity=Entity("user", key="user"),
        source=source,
        where=where,
        features=features or {"total": agg.sum(col("amount")).over("7d"), "n": agg.count().over("7d")},
    )
    store = FeatureStore.local(folder / "store", clock=FixedClock(NOW))
    store.apply(FeatureService("churn", features=[view]))
    spine = pd.DataFrame(
        {"user": pd.Series([users] * rows, dtype="str"), "as_of": pd.to_datetime([as_of] * rows, utc=True)}
    )
    return store.training_set("churn", spine, folder / "training", overwrite=True)


def messages(caplog):
    """Return what building warned of; kernels may say beside that they are compiled."""
    return [record.getMessage() for record in caplog.records if record.name == "featurestore.offline"]


LATEST = {"latest": agg.last(col("amount")).ttl("1d")}
FILTERED = {"large": agg.sum(col("amount"), where=col("amount") > 5).over("7d")}


@pytest.mark.parametrize(
    ("reason", "asked"),
    [
        ("known_only_later", {"happened": ["2024-02-28"], "known": ["2024-05-01"]}),
        ("not_yet_happened", {"happened": ["2024-03-02"]}),
        ("outside_window", {"happened": ["2024-01-01"]}),
        ("expired", {"happened": ["2024-01-01"], "features": LATEST}),
        ("no_value", {"happened": ["2024-02-28"], "features": FILTERED}),
        ("no_event", {"happened": ["2024-02-28"], "users": "nobody"}),
        ("no_event", {"happened": ["2024-02-28"], "where": col("amount") > 5}),
    ],
)
def test_each_reason_is_counted_in_the_manifest(tmp_path, reason, asked):
    built = build(tmp_path, **asked)
    assert built.manifest.rows_without_values == (RowsWithoutValues("spend", 10, **{reason: 10}),)
    assert TrainingSet.open(built.path).manifest == built.manifest


def test_an_ingest_time_that_is_the_time_of_a_load_is_named(tmp_path, caplog):
    """Feast's created column, mapped to ingest_time, makes every row of an old spine find nothing."""
    with caplog.at_level(logging.WARNING):
        build(tmp_path, ["2024-02-28"], known=["2024-05-01"])
    assert messages(caplog) == [
        "service 'churn', view 'spend': 10 of 10 rows found no value. The events became known only later: 10. Column"
        " 'created' is declared as ingest_time, the instant at which an event became known. If it holds the time of a"
        " later load or update, leave ingest_time out."
    ]


def test_entities_that_the_source_does_not_know_are_no_warning(tmp_path, caplog):
    build(tmp_path, ["2024-02-28"], users="nobody")
    assert messages(caplog) == []


def test_rows_with_values_are_neither_counted_nor_warned_of(tmp_path, caplog):
    assert build(tmp_path, ["2024-02-28"]).manifest.rows_without_values == ()
    assert messages(caplog) == []


def test_an_empty_spine_has_no_rows_without_values(tmp_path):
    assert build(tmp_path, ["2024-02-28"], rows=0).manifest.rows_without_values == ()
