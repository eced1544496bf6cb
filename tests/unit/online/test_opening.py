"""URLs of online stores: which store they mean, and what is told when they are wrong."""

import sys

import pytest

from featurestore import FeatureStore
from featurestore.config import Config
from featurestore.core.errors import ConfigError
from featurestore.online.stores.memory import MemoryOnlineStore
from featurestore.online.stores.opening import open_online_store
from featurestore.online.stores.postgres import PostgresOnlineStore
from featurestore.online.stores.redis import RedisOnlineStore
from featurestore.online.stores.sql import SqlOnlineStore

KINDS = {
    "memory://": MemoryOnlineStore,
    "postgres://localhost/db": PostgresOnlineStore,
    "postgresql://user:secret@localhost:5432/db?table=online_a&timeout=3s&sslmode=disable": PostgresOnlineStore,
    "postgresql+psycopg://localhost/db": PostgresOnlineStore,
    "redis://localhost": RedisOnlineStore,
    "redis://:secret@localhost:6379/3?prefix=fs:&expire=30d&lease=5s&pool=4&timeout=1s": RedisOnlineStore,
    "rediss://localhost:6379/0?ssl_cert_reqs=none": RedisOnlineStore,
    "valkey://localhost/": RedisOnlineStore,
    "valkeys://user:secret@localhost/0": RedisOnlineStore,
}


@pytest.mark.parametrize("url", KINDS)
def test_the_scheme_says_which_store(url):
    """Servers are not asked yet: none runs there."""
    opened = open_online_store(url)
    assert type(opened) is KINDS[url]
    opened.close()


def test_a_sqlite_url_means_a_file(tmp_path):
    opened = open_online_store(f"sqlite:///{tmp_path}/online.db")
    assert type(opened) is SqlOnlineStore
    opened.close()


def test_memory_is_shared_by_name():
    open_online_store("memory://shared").write([(b"a", b"1")])
    assert open_online_store("memory://shared").read([b"a"]) == {b"a": b"1"}
    assert open_online_store("memory://other").read([b"a"]) == {}
    assert open_online_store("memory://").read([b"a"]) == {}


WRONG = {
    "mysql://host/db": ("store-scheme", "no online store has the scheme 'mysql'. Schemes: memory, postgres,"),
    "reddis://host": ("store-scheme", "Did you mean 'redis'"),
    "online.db": ("store-scheme", "no scheme"),
    "redis://localhost/zero": ("store-url", "does not name a server"),
    "redis:///0": ("store-url", "does not name a server"),
    "redis://localhost:port/0": ("store-url", "cannot be read"),
    "redis://u:secret@localhost/0?prefx=a": ("store-url", "no option 'prefx'. Options:"),
    "redis://u:secret@localhost/0?prefix=a|b": ("store-url", "must not contain '|'"),
    "redis://u:secret@localhost/0?prefix=a&prefix=b": ("store-url", "given twice"),
    "redis://u:secret@localhost/0?expire=soon": ("store-url", "option 'expire'"),
    "redis://u:secret@localhost/0?lease=0s": ("store-url", "longer than zero"),
    "redis://u:secret@localhost/0?pool=0": ("store-url", "not a whole number above zero"),
    "redis://u:secret@localhost/0?timeout": ("store-url", "cannot be read"),
    "redis://u:secret@localhost/0?ssl_certfile=a.pem": ("store-url", "no option 'ssl_certfile'"),
    "rediss://u:secret@localhost/0?ssl_ca_certs=/no/ca.pem": ("store-url", "'ssl_ca_certs' of 'rediss://localhost/0'"),
    "rediss://u:secret@localhost/0?ssl_ca_path=/no/folder": ("store-url", "there is no folder '/no/folder'"),
    "rediss://u:secret@localhost/0?ssl_cert_reqs=never": ("store-url", "not one of required, optional, none"),
    "valkeys://u:secret@localhost/0?ssl_check_hostname=1": ("store-url", "not one of true, false"),
    "postgresql://u:secret@localhost/db?table=online-state": ("store-url", "option 'table'"),
    "postgresql://u:secret@localhost/db?colour=blue": ("store-url", "colour"),
}


@pytest.mark.parametrize("url", WRONG)
def test_a_wrong_url_says_what_is_wrong_and_keeps_the_password(url):
    with pytest.raises(ConfigError) as caught:
        open_online_store(url)
    code, text = WRONG[url]
    assert caught.value.code == code
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("package", "url", "extra"), [("redis", "redis://h", "redis"), ("psycopg", "postgres://h/d", "postgres")]
)
def test_a_client_that_is_not_installed_is_named_with_its_extra(monkeypatch, package, url, extra):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"featurestore.online.stores.{extra}")
    monkeypatch.delitem(sys.modules, "featurestore.online.stores.postgres_pool")
    with pytest.raises(ConfigError, match=rf"pip install 'featurestore\[{extra}\]'") as caught:
        open_online_store(url)
    assert caught.value.code == "missing-extra"


def test_another_package_brings_a_store(tmp_path, monkeypatch):
    (tmp_path / "their_store.py").write_text("def opened(url):\n    return ('theirs', url)\n")
    (tmp_path / "their_store-1.dist-info").mkdir()
    (tmp_path / "their_store-1.dist-info/METADATA").write_text("Name: their-store\nVersion: 1\n")
    (tmp_path / "their_store-1.dist-info/entry_points.txt").write_text(
        "[featurestore.online_stores]\ntheirs = their_store:opened\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert open_online_store("theirs://host") == ("theirs", "theirs://host")
    with pytest.raises(ConfigError, match="theirs, valkey"):
        open_online_store("other://host")


def test_the_store_opens_what_its_configuration_says(tmp_path):
    config = Config.local(tmp_path).model_copy(update={"online": "memory://configured"})
    with FeatureStore(config) as store:
        assert store.parts.online is open_online_store("memory://configured")
