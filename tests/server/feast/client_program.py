"""Run by an interpreter that has Feast: asks a server through Feast's remote online store, prints what it got.

Arguments: an empty folder, the server's address, an API key or nothing.
"""

import json
import sys
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Bool, Float64, Int64, String, UnixTimestamp

folder, address = Path(sys.argv[1]), sys.argv[2]
auth = f"auth:\n  type: oidc\n  token: {sys.argv[3]}\n" if len(sys.argv) > 3 else ""
(folder / "feature_store.yaml").write_text(
    f"""project: test
registry: {folder}/registry.db
provider: local
online_store:
  type: remote
  path: {address}
  connection_retries: 0
entity_key_serialization_version: 3
{auth}"""
)
user = Entity(name="user", join_keys=["user"], value_type=ValueType.INT64)
source = FileSource(name="orders", path=str(folder / "orders.parquet"), timestamp_field="at")
spending = FeatureView(
    name="spending",
    entities=[user],
    ttl=timedelta(days=0),
    source=source,
    schema=[
        Field(name="user", dtype=Int64),
        Field(name="orders", dtype=Int64),
        Field(name="total", dtype=Float64),
        Field(name="expired", dtype=String),
    ],
)
last = FeatureView(
    name="last_order",
    entities=[user],
    ttl=timedelta(days=0),
    source=source,
    schema=[
        Field(name="user", dtype=Int64),
        Field(name="shop", dtype=String),
        Field(name="paid", dtype=Bool),
        Field(name="shipped", dtype=UnixTimestamp),
        Field(name="days", dtype=Array(String)),
        Field(name="price", dtype=String),
    ],
)
store = FeatureStore(repo_path=str(folder))
service = FeatureService(name="shopping", features=[spending, last[["shop"]]])
store.apply([user, source, spending, last, service])
rows = [{"user": 1}, {"user": 2}, {"user": 9}]
features = [f"spending:{name}" for name in ("orders", "total", "expired")]
features += [f"last_order:{name}" for name in ("shop", "paid", "shipped", "days", "price")]


def columns(response) -> dict:
    """Return values and statuses by name."""
    names = response.proto.metadata.feature_names.val
    statuses = [[FieldStatus.Name(status) for status in result.statuses] for result in response.proto.results]
    return {"values": response.to_dict(), "statuses": dict(zip(names, statuses, strict=True))}


def read_view() -> list:
    """Read one view as providers of Feast do."""
    keys = [EntityKey(join_keys=["user"], entity_values=[Value(int64_val=row["user"])]) for row in rows]
    wanted = ["total", "orders"]
    found = store._get_provider().online_read(store.config, spending, keys, wanted)
    return [
        [at.isoformat(), {name: None if v.WhichOneof("val") is None else str(v) for name, v in values.items()}]
        for at, values in found
    ]


found = {
    "features": columns(store.get_online_features(features=features, entity_rows=rows)),
    "service": columns(store.get_online_features(features=service, entity_rows=rows, full_feature_names=True)),
    "read": read_view(),
}
try:
    store.get_online_features(features=["spending:total"], entity_rows=[{"user": 1}] * 2000)
except RuntimeError as error:
    found["refusal"] = str(error)
print(json.dumps(found, default=str))
