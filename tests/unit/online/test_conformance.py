"""Every store of the library does what an online store must do."""

import uuid
from pathlib import Path

import psycopg
import pytest
import redis
from sqlalchemy import make_url

from featurestore.online.stores.memory import MemoryOnlineStore, memory_store
from featurestore.online.stores.opening import open_online_store
from featurestore.testing import OnlineStoreConformance
from tests.servers import free_port


class TestSqlite(OnlineStoreConformance):
    release_seconds = 1.0

    @pytest.fixture(autouse=True)
    def _url(self, tmp_path):
        self.url = f"sqlite:///{tmp_path}/online.db"

    def make_store(self):
        return open_online_store(self.url)

    def take_away(self, name):
        Path(f"{make_url(self.url).database}.{name}.lock").unlink()


class TestRedis(OnlineStoreConformance):
    release_seconds = 5.0
    failure_seconds = 1.0

    @pytest.fixture(autouse=True)
    def _url(self, redis_url):
        self.url = f"{redis_url}?prefix={uuid.uuid4().hex}:&lease=1s"

    def make_store(self):
        return open_online_store(self.url)

    def make_unreachable_store(self):
        return open_online_store(f"redis://127.0.0.1:{free_port()}/0")

    def take_away(self, name):
        with redis.Redis.from_url(self.url.partition("?")[0]) as client:
            (key,) = client.keys(f"*{self.url.partition('prefix=')[2].partition(':')[0]}*l{name}")
            client.delete(key)


class TestExpiringRedis(TestRedis):
    """States that expire are written by another command."""

    @pytest.fixture(autouse=True)
    def _expiring(self, _url):
        self.url += "&expire=1h"


class TestPostgres(OnlineStoreConformance):
    release_seconds = 1.0
    failure_seconds = 1.0

    @pytest.fixture(autouse=True)
    def _url(self, postgres_url):
        self.url = f"{postgres_url}?table=online_{uuid.uuid4().hex[:12]}"

    def make_store(self):
        return open_online_store(self.url)

    def make_unreachable_store(self):
        return open_online_store(f"postgresql://postgres@127.0.0.1:{free_port()}/postgres")

    def take_away(self, name):
        with psycopg.connect(self.url.partition("?")[0], autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")


class TestMemory(OnlineStoreConformance):
    shared_by_processes = False
    release_seconds = 0.1

    @pytest.fixture(autouse=True)
    def _name(self):
        self.name = uuid.uuid4().hex

    def make_store(self) -> MemoryOnlineStore:
        return memory_store(self.name)
