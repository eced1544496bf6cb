"""Payments that are pushed, and what must hold of them whatever happened to whoever pushed."""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from featurestore import Entity, FeatureService, FeatureView, FileSource, agg, col
from tests.stores import local_store

USERS = ("a", "b", "c")
AT_ONCE = 4


def service(folder):
    payments = FileSource(
        "payments",
        path=folder / "payments/*.parquet",
        event_time="paid",
        event_id="id",
        stream=True,
        dtypes={"id": "string", "user": "string", "paid": "timestamp", "amount": "int64"},
    )
    user = Entity("user", key="user")
    spend = FeatureView(
        "spend",
        entity=user,
        source=payments,
        features={"number": agg.count().lifetime(), "total": agg.sum(col("amount")).lifetime()},
    )
    newest = FeatureView("newest", entity=user, source=payments, features={"last": agg.last(col("amount"))})
    return FeatureService("model", features=[spend, newest])


def opened(folder, online, event_log=None):
    return local_store(folder / "store", online=online, event_log=event_log)


def events_of(name, batch):
    """Return the payments of one batch; pushed again they are the same."""
    chance = random.Random(f"{name}{batch}")
    paid = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=chance.randrange(100))
    return [
        {"id": f"{name}-{batch}-{i}", "user": chance.choice(USERS), "paid": paid, "amount": chance.randrange(-9, 99)}
        for i in range(AT_ONCE)
    ]


def check_all_counted(folder, online, events, event_log=None):
    """Both roads have each of the events once."""
    expected = Counter(event["user"] for event in events)
    totals = {user: sum(event["amount"] for event in events if event["user"] == user) for user in USERS}
    with opened(folder, online, event_log) as store:
        store.catch_up()
        answer = store.get_online_features("model", [{"user": user} for user in USERS])
        spine = pa.table(
            {
                "user": list(USERS),
                "as_of": pa.array([answer.as_of_us] * len(USERS), pa.int64()).cast(pa.timestamp("us", tz="UTC")),
            }
        )
        built = store.training_set("model", spine, folder / "training", statuses=True, overwrite=True).to_arrow()
    for place, name in enumerate(answer.columns):
        values = [row[place] for row in answer.rows], [row[place] for row in answer.statuses]
        assert values == (built.column(name).to_pylist(), built.column(f"{name}__status").to_pylist()), name
    assert built.column("spend__number").to_pylist() == [expected[user] for user in USERS]
    assert built.column("spend__total").to_pylist() == [totals[user] for user in USERS]


def changed(folder, revision):
    """Return the service with one more feature in each view, another one for each revision."""
    service_ = service(folder)
    views = [
        FeatureView(
            view.name,
            entity=view.entity,
            source=view.source,
            features={**view.features, f"changed_{revision}": agg.count().over(f"{revision + 1}h")},
        )
        for view in service_.features
    ]
    return FeatureService("model", features=views)
