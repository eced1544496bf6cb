"""The registry's tables in its database: made when they are absent, and completed when an older version made them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import sqlalchemy as sa

from featurestore.core.errors import RegistryError
from featurestore.registry.tables import (
    AUDIT_COLUMNS_SINCE_5,
    AUDITS,
    LIVE,
    LIVE_COLUMNS_SINCE_7,
    META,
    METADATA,
    REVISION,
    RUN_COLUMNS_SINCE_2,
    RUNS,
    SCHEMA_VERSION,
    VERSION,
)
from featurestore.storage.database import failures, for_writing

WHERE = "registry"


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Read; failures of the database are ``RegistryError``."""
    with failures(WHERE), engine.connect() as connection:
        yield connection


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Write in one transaction; failures of the database are ``RegistryError``, and nothing is changed then."""
    with failures(WHERE), engine.connect() as connection, for_writing(connection).begin():
        yield connection


def prepare_tables(engine: sa.Engine) -> None:
    """Make or complete the tables if necessary; reading comes first, so that a complete registry needs no write.

    Raises:
        RegistryError: The database cannot be used, or its tables are of another version.
    """
    version = _known_version(engine) or _make(engine)
    if version < SCHEMA_VERSION:
        with writing(engine) as connection:
            version = _upgrade(connection)
    if version != SCHEMA_VERSION:
        raise RegistryError(
            f"its tables have version {version}, this library reads {SCHEMA_VERSION}",
            where=WHERE,
            hint="Use the version of the library that wrote them, or another registry URL.",
            code="registry-version",
        )


def _known_version(engine: sa.Engine) -> int | None:
    """Return the version of the tables, ``None`` if there are none."""
    with reading(engine) as connection:
        return _version(connection) if sa.inspect(connection).has_table(META.name) else None


def _make(engine: sa.Engine) -> int:
    """Make the tables, unless another process does at the same time; return their version.

    Raises:
        RegistryError: They cannot be made.
    """
    try:
        with writing(engine) as connection:
            METADATA.create_all(connection)
            version = _version(connection)
            if version is None:
                version = SCHEMA_VERSION
                starting = [{"name": VERSION, "value": version}, {"name": REVISION, "value": 0}]
                connection.execute(META.insert(), starting)
    except RegistryError:  # another process may have made them meanwhile
        version = _known_version(engine)
        if version is None:
            raise
    return version


def _version(connection: sa.Connection) -> int | None:
    return connection.execute(value_of(VERSION)).scalar_one_or_none()


def value_of(name: str) -> sa.Select[int]:
    """Return the query of a number of the registry: its version or its revision."""
    return sa.select(META.c.value).where(META.c.name == name)


def _upgrade(connection: sa.Connection) -> int:
    """Add what older versions lack, unless another process did so meanwhile; return the version."""
    version = connection.execute(value_of(VERSION).with_for_update()).scalar_one()
    if version < SCHEMA_VERSION:
        METADATA.create_all(connection)
        _add_columns(connection, RUNS, RUN_COLUMNS_SINCE_2)
        _add_columns(connection, AUDITS, AUDIT_COLUMNS_SINCE_5)
        _add_columns(connection, LIVE, LIVE_COLUMNS_SINCE_7)
        _add_indexes(connection)
        _fill_kinds_of_audits(connection)
        connection.execute(META.update().where(META.c.name == VERSION).values(value=SCHEMA_VERSION))
    return max(version, SCHEMA_VERSION)


def _add_columns(connection: sa.Connection, table: sa.Table, names: Iterable[str]) -> None:
    """Add the columns that a table of an older version lacks."""
    known = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
    for name in (name for name in names if name not in known):
        column = sa.schema.CreateColumn(table.c[name]).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {column}")


def _add_indexes(connection: sa.Connection) -> None:
    """Add the indexes that tables of an older version lack."""
    inspector = sa.inspect(connection)
    for table in METADATA.sorted_tables:
        known = {index["name"] for index in inspector.get_indexes(table.name)}
        for index in table.indexes:
            if index.name not in known:
                index.create(connection)


def _fill_kinds_of_audits(connection: sa.Connection) -> None:
    """Copy the kinds of audits from their reports, which alone held them up to version 4."""
    for number in connection.execute(sa.select(AUDITS.c.id)).scalars().all():
        report = connection.execute(sa.select(AUDITS.c.report).where(AUDITS.c.id == number)).scalar_one()
        with suppress(ValueError):  # damaged text is not the report of another system's log
            kind = json.loads(report).get("kind", "log")
            connection.execute(AUDITS.update().where(AUDITS.c.id == number).values(kind=kind))
