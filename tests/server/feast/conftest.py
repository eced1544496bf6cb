"""A project with a streamed source, as a server needs it."""

import dataclasses

import pyarrow.parquet as pq
import pytest

from featurestore import FeatureService, FeatureStore, FileSource
from featurestore.core.temporal import FixedClock, instant_us
from tests.server.conftest import LAST, NOW, ORDERS, SPENDING

collect_ignore = ["client_program.py"]
"""Run by another interpreter."""

STREAMED = FileSource("orders", path="orders.parquet", event_time="at", stream=True)
VIEWS = [dataclasses.replace(view, source=STREAMED) for view in (SPENDING, LAST)]
SHOPPING = FeatureService("shopping", features=[VIEWS[0], VIEWS[1]["shop"]])


@pytest.fixture
def project(tmp_path):
    """Return the folder of a project of which everything is materialized."""
    pq.write_table(ORDERS, tmp_path / "orders.parquet")
    (tmp_path / "featurestore.toml").write_text("")
    with FeatureStore.open(tmp_path, clock=FixedClock(instant_us(NOW))) as store:
        store.apply(SHOPPING, *VIEWS)
        store.materialize(NOW)
    return tmp_path
