"""PostgreSQL behind a connection pooler: what cannot work is refused by name, and what can work does."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import psycopg
import pytest

from featurestore import Entity, FeatureService, FeatureView, FileSource, agg
from featurestore.config import Config
from featurestore.core.errors import ConfigError
from featurestore.online.stores.opening import open_online_store
from featurestore.storage.database import is_pooled, open_database
from featurestore.store import FeatureStore
from tests.pooler import pooled


@pytest.mark.parametrize("others", [0, 3])
def test_a_pooler_that_does_not_keep_sessions_is_refused_by_name(postgres_database, others):
    """Also beside other clients of the pooler, which may have the session that is looked for."""
    with pooled(postgres_database) as url, ThreadPoolExecutor(4) as pool:
        busy = [pool.submit(ask_again_and_again, url) for _ in range(others)]
        for work in (lambda store: store.read([b"key"]), lambda store: store.exclusive("name").__enter__()):
            store = open_online_store(url)
            with pytest.raises(ConfigError, match="pool_mode = session") as raised:
                work(store)
            assert raised.value.code == "transaction-pooler"
            store.close()
        for one in busy:
            one.result()


def ask_again_and_again(url):
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        for _ in range(100):
            connection.execute("SELECT 1")


def test_a_pooler_that_keeps_sessions_is_no_obstacle(postgres_database):
    with pooled(postgres_database, by_session=True) as url:
        store = open_online_store(url)
        for number in range(20):
            with store.exclusive("name"):
                store.write([(b"key", b"%d" % number)])
                assert store.read([b"key"]) == {b"key": b"%d" % number}
        store.close()


def test_a_connection_to_the_server_itself_is_not_taken_for_pooled(postgres_database):
    """Its statements are prepared as before."""
    with psycopg.connect(postgres_database) as connection:
        assert not is_pooled(connection)
    engine = open_database(postgres_database, where="registry")
    with engine.connect() as connection:
        assert connection.connection.dbapi_connection.prepare_threshold == 5
    engine.dispose()


def test_the_registry_and_the_event_log_work_behind_a_pooler(tmp_path, postgres_database):
    """More statements than a driver runs before it prepares them, from several threads, on two sessions."""
    source = FileSource(
        "events",
        path=tmp_path / "events/*.parquet",
        event_time="at",
        event_id="id",
        stream=True,
        dtypes={"user": "string", "id": "int64", "at": "timestamp"},
    )
    view = FeatureView("v", entity=Entity("user", key="user"), source=source, features={"n": agg.count().lifetime()})
    with pooled(postgres_database) as url:
        config = Config.local(tmp_path / "store").model_copy(update={"registry": url, "event_log": url})
        with FeatureStore(config) as store, ThreadPoolExecutor(3) as pool:
            store.apply(FeatureService("model", features=[view]))

            def push(number):
                return store.push("events", [{"user": "a", "id": number // 2, "at": datetime.now(UTC)}]).accepted

            assert sum(pool.map(push, range(24))) == 12
            store.materialize()
            assert store.get_online_features("model", [{"user": "a"}]).to_dicts()[0]["v__n"] == 12
            with store.exclusive("schedule") as hold:
                assert hold.is_held()
