"""Secrets of URLs are neither stored nor shown, wherever in the URL they stand, and come from the environment."""

import pytest
import sqlalchemy as sa

from featurestore import SqlSource
from featurestore.core.errors import (
    ConfigError,
    FeatureStoreError,
    RegistryError,
    SourceError,
)
from featurestore.core.urls import (
    expanded,
    holds_secret,
    shown,
    without_secrets,
)
from featurestore.online.stores.opening import open_online_store
from featurestore.registry import Applied, read_source, source_draft
from featurestore.sources.sql import SqlRows
from featurestore.storage.database import failures, open_database

SECRET = "S3cr3t-Hunter2"
WITH_SECRETS = [
    f"postgresql://u:{SECRET}@h/db",
    f"postgresql://u:{SECRET}/x@h/db",
    f"postgresql://u:x?{SECRET}@h/db",
    f"postgresql://u:x#{SECRET}@h/db",
    f"postgresql+psycopg://u:{SECRET}@/@@127.0.0.1:1/db",
    f"postgresql://h/db?password={SECRET}&user=u",
    f"postgresql://h/db?sslmode=require&sslpassword={SECRET}",
    f"postgresql://h/db?PASSWORD={SECRET}",
    f"postgresql://h/db?pass%77ord={SECRET}",
    f"postgresql:///db?host=h;password={SECRET}",
    f"mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3D{SECRET}",
    f"snowflake://acc/db?token={SECRET}",
    f"duckdb:///md:db?motherduck_token={SECRET}",
    f"bigquery://project?credentials_base64={SECRET}",
    f"trino://u@h/c?unheard_of={SECRET}",
    f"sqlite:///x.db?key={SECRET}",
    f"mysql://h/db?{SECRET}",
    f"redis://:{SECRET}@h:6379/0",
    f"https://h/x.parquet?X-Amz-Signature={SECRET}#{SECRET}",
]
WITHOUT = [
    "sqlite:///folder/file.db",
    "sqlite:////data/me@work:1/file.db",
    "sqlite:///file.db?mode=ro&cache=shared",
    "postgresql://ann@db:5432/shop?sslmode=require&sslrootcert=/etc/ca.pem",
    "postgresql://ann:${SHOP_PASSWORD}@db/shop?sslpassword=${SHOP_KEY}",
    "data/*.parquet",
    "s3://bucket/events/*.parquet",
]


@pytest.mark.parametrize("url", WITH_SECRETS)
def test_a_secret_is_hidden_wherever_it_stands(url):
    assert holds_secret(url)
    assert SECRET not in shown(url) and "***" in shown(url)
    assert shown(shown(url)) == shown(url) and not holds_secret(shown(url))


@pytest.mark.parametrize("url", WITHOUT)
def test_what_is_no_secret_is_shown(url):
    assert shown(url) == url and not holds_secret(url)


@pytest.mark.parametrize("text", [f"postgres//u:{SECRET}@h:x:y/db", f"Server=h;PWD={SECRET}", f"h?token={SECRET}"])
def test_text_that_is_no_url_and_may_hold_a_secret_is_not_shown(text):
    assert shown(text) == "***"


@pytest.mark.parametrize("url", WITH_SECRETS)
def test_the_registry_keeps_no_secret(url):
    draft = source_draft(SqlSource("orders", url=url, table="orders", event_time="at"))
    assert SECRET not in draft.document
    assert SECRET not in repr(SqlSource("orders", url=url, table="orders", event_time="at"))
    with pytest.raises(ConfigError, match=r"which the registry does not keep.*\$\{NAME\}"):
        read_source(Applied(draft.kind, draft.name, draft.fingerprint, draft.document, 0))


def test_another_password_is_no_change_of_a_source():
    prints = {
        source_draft(SqlSource("s", url=f"postgresql://u:{word}@h/db", table="t", event_time="at")).fingerprint
        for word in ("old-secret", "new-secret")
    }
    assert len(prints) == 1


def connecting(url):
    with failures("registry"), open_database(url, where="registry").connect():
        pass


@pytest.mark.parametrize(
    "url", [url for url in WITH_SECRETS if "://h" not in url[:8] and ";p" not in url and "sqlite" not in url]
)
@pytest.mark.parametrize("use", [connecting, open_online_store, lambda url: SqlRows(url, "t", None, "source").names()])
def test_errors_show_no_secret(url, use):
    said = ""
    try:
        use(url)
    except FeatureStoreError as error:
        said = str(error)
    assert SECRET not in said


def test_a_message_of_a_driver_is_freed_of_secrets():
    url = f"mssql+pyodbc://u:p%40ss@h/?odbc_connect=PWD%3D{SECRET}"
    assert without_secrets(f"login 'u' with p@ss failed: PWD={SECRET}", url) == "login 'u' with *** failed: ***"


def test_a_variable_stands_for_a_secret_and_is_stored(monkeypatch, tmp_path):
    monkeypatch.setenv("SHOP_PASSWORD", "a b/c@d?e")
    url = expanded("postgresql://ann:${SHOP_PASSWORD}@db/shop?password=${SHOP_PASSWORD}", where="source 's'")
    assert sa.make_url(url).password == "a b/c@d?e"
    assert sa.make_url(url).query["password"] == "a b/c@d?e"
    engine = sa.create_engine(f"sqlite:///{tmp_path}/shop.db")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE orders (n INTEGER)")
    engine.dispose()
    monkeypatch.setenv("SHOP_URL", f"sqlite:///{tmp_path}/shop.db")
    source = SqlSource("orders", url="${SHOP_URL}", table="orders", event_time="at")
    draft = source_draft(source)
    assert "${SHOP_URL}" in draft.document
    read = read_source(Applied(draft.kind, draft.name, draft.fingerprint, draft.document, 0))
    assert SqlRows(read.url, "orders", None, "source 'orders'").names() == ("n",)
    monkeypatch.delenv("SHOP_URL")
    with pytest.raises(ConfigError, match="SHOP_URL, which is not set"):
        SqlRows(read.url, "orders", None, "source 'orders'").names()


def test_a_port_that_is_no_number_is_an_error_that_shows_nothing():
    for use in (
        lambda: open_database("postgresql+psycopg://u:a@secret:b@h/db", where="registry"),
        lambda: SqlRows("postgresql+psycopg://u:a@secret:b@h/db", "t", None, "source 's'").names(),
    ):
        with pytest.raises((RegistryError, SourceError), match="port is not a number") as caught:
            use()
        assert "b@h" not in str(caught.value)
