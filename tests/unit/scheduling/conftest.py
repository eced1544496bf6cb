"""A store whose clock stands still, with a view on a grid and one that is always fresh."""

import pyarrow.parquet as pq
import pytest

from featurestore import FeatureService, FeatureStore, FeatureView, FileSource, agg, col, every
from featurestore.config import Config
from featurestore.core.temporal import FixedClock, duration_us, instant_us
from tests.server.conftest import NOW, ORDERS, USER


@pytest.fixture
def clock():
    return FixedClock(instant_us(NOW) + duration_us("5m"))


@pytest.fixture
def defined(tmp_path):
    """Write the source; return the definitions of its views."""
    pq.write_table(ORDERS, tmp_path / "orders.parquet")
    source = FileSource("orders", path=str(tmp_path / "orders.parquet"), event_time="at")
    total = {"total": agg.sum(col("amount")).over("1d")}
    return [
        FeatureView("hourly", entity=USER, source=source, features=total, refresh=every("1h", lag="10m")),
        FeatureView("fresh", entity=USER, source=source, features=total),
    ]


@pytest.fixture
def opened(tmp_path, clock, defined):
    stores = []

    def open_store(policy=None, **settings):
        settings = {"schedule": {"gc": "never"}, **settings}  # that job has tests of its own
        config = Config(**settings, folder=tmp_path)
        local = Config.local(tmp_path / "store")
        chosen = {name: getattr(config, name) for name in settings}
        stores.append(FeatureStore(local.model_copy(update=chosen), clock=clock))
        stores[-1].apply(FeatureService("model", features=defined, policy=policy or {}))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()
