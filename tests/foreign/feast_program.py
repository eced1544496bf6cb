"""Serves payments with Feast's own SDK for a day, and logs its answers: ``python feast_program.py ROWS FOLDER START``.

Run by an interpreter that has Feast. Every hour the rows that became known by then are in the batch source, Feast
materializes incrementally, and half an hour later all users are asked about.
"""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Float64
from feast.value_type import ValueType

HOURS = 24


def main(payments, folder, start_us):
    folder = Path(folder)
    rows = pd.read_parquet(payments)[["user", "at", "known", "amount"]]
    batch = folder / "batch.parquet"
    start = datetime.fromtimestamp(int(start_us) / 1e6, tz=UTC)
    rows[rows["known"] < start].drop(columns="known").to_parquet(batch)
    config = RepoConfig(
        project="payments",
        registry=str(folder / "registry.db"),
        provider="local",
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    user = Entity(name="user", join_keys=["user"], value_type=ValueType.STRING)
    source = FileSource(path=str(batch), timestamp_field="at")
    fields = [Field(name="amount", dtype=Float64)]
    views = [
        FeatureView(name=name, entities=[user], ttl=ttl, schema=fields, source=source)
        for name, ttl in (("recent", timedelta(hours=2)), ("ever", timedelta(days=30)))
    ]
    store.apply([user, *views])
    users = sorted(rows["user"].unique())
    log = []
    store.materialize(start - timedelta(days=1), start)
    for hour in range(1, HOURS + 1):
        now = start + timedelta(hours=hour)
        rows[rows["known"] < now].drop(columns="known").to_parquet(batch)
        store.materialize_incremental(end_date=now)
        asked = [{"user": name} for name in users]
        wanted = ["recent:amount", "ever:amount"]
        answer = store.get_online_features(features=wanted, entity_rows=asked, full_feature_names=True).to_dict()
        served_at = now + timedelta(minutes=30)
        log += [
            {"user_id": name, "served_at": served_at, "recent": recent, "ever": ever}
            for name, recent, ever in zip(answer["user"], answer["recent__amount"], answer["ever__amount"], strict=True)
        ]
    pd.DataFrame(log).to_parquet(folder / "served.parquet")


if __name__ == "__main__":
    main(*sys.argv[1:])
