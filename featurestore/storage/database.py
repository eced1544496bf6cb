"""Databases that the library writes to: opening them, and translating their errors.

SQLite is opened so that readers never wait for writers (WAL), a transaction that will write takes its lock when it
begins, deleted data is overwritten, and a busy database is waited for.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from featurestore.core.errors import ConfigError, FeatureStoreError, RegistryError
from featurestore.core.retrying import Backoff, retry
from featurestore.core.urls import shown, without_secrets
from featurestore.storage.files import local_target, make_file, make_folder

if TYPE_CHECKING:
    import psycopg

_BUSY_MS = 20_000
_WAL_BACKOFF = Backoff(0.01, longest_seconds=0.01)
_PRIMARY_CODE = 0xFF
"""The bits of SQLite's error codes with the kind of failure; the higher bits hold details."""

ANSWER_SECONDS = 60
"""How long PostgreSQL may take for one answer of the registry or the event log."""

POOL_SECONDS = 10
"""How long to wait for a connection while all connections of the process are in use."""

_LIBPQ = {
    "connect_timeout": 5,
    "tcp_user_timeout": 20_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
"""Options of libpq unless the URL sets them: seconds, and milliseconds for ``tcp_user_timeout``."""

CHECKPOINT_PAGES = 4_000
"""Length of SQLite's write-ahead log in pages at which it is copied back: a page that many commits change is copied
once."""

CACHE_KIB = 16_000
"""Size of SQLite's page cache per connection. Pages that a transaction changes beyond it are written more than once:
with SQLite's default of 2,000 KiB a push of 3,000 events into as many states takes half as long again."""


def open_database(
    url: str, *, where: str, error: type[FeatureStoreError] = RegistryError, kind: str = "registry"
) -> sa.Engine:
    """Return an engine for a URL. Nothing is connected yet, but the folder of a SQLite file is made.

    Waiting for PostgreSQL is bounded by ``connect_timeout`` (5 seconds) for a connection, ``tcp_user_timeout`` for a
    network that drops all packets, and ``timeout`` (60 seconds) for each answer. The URL's query can set the first two
    in libpq's units and the last in seconds.

    Args:
        url: SQLAlchemy URL.
        where: The purpose of the database, for messages.
        error: Class of the errors.
        kind: Beginning of the error codes.

    Raises:
        FeatureStoreError: The URL is invalid, its driver is not installed, or its folder cannot be made.
    """
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:"):
            _make_sqlite_file(str(parsed.database), where)
        engine = _engine(parsed)
    except ConfigError:
        raise
    except ValueError:  # the port is not a number, or part of a password that the message would show
        raise error(
            "the database URL cannot be used: its port is not a number", where=where, code=f"{kind}-url"
        ) from None
    except (ArgumentError, NoSuchModuleError, ImportError) as problem:
        raise error(
            without_secrets(f"the database URL cannot be used: {first_line(problem)}", url),
            where=where,
            hint="Write an SQLAlchemy URL whose driver is installed: 'sqlite:///folder/file.db'.",
            code=f"{kind}-url",
        ) from problem
    except OSError as problem:
        raise error(
            f"the folder of '{shown(url)}' cannot be made: {problem.strerror}", where=where, code=f"{kind}-unwritable"
        ) from problem
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _set_up_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    if engine.driver == "psycopg":
        sa.event.listen(engine, "connect", _set_up_psycopg)
    sa.event.listen(engine, "handle_error", _leave_replica)
    return engine


_READ_ONLY = "25006"
"""SQLSTATE of a statement that writes to a read-only server: the server is a replica."""


def _leave_replica(context: Any) -> None:
    """Close all connections if they lead to a server that has become a replica: new ones may reach the primary."""
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.engine.dispose()
        context.invalidate_pool_on_disconnect = False
        context.is_disconnect = True


def with_driver(url: sa.URL) -> sa.URL:
    """Add the driver psycopg to a URL of PostgreSQL without a driver: SQLAlchemy 2.0 would choose another."""
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def _engine(url: sa.URL) -> sa.Engine:
    """Return an engine that shows no values in errors, because errors are logged, and whose waits are bounded."""
    url = with_driver(url)
    if url.get_backend_name() != "postgresql":
        return sa.create_engine(url, hide_parameters=True)
    seconds = float(str(url.query.get("timeout", ANSWER_SECONDS)))
    url = url.difference_update_query(["timeout"])
    unset = {name: value for name, value in _LIBPQ.items() if name not in url.query}
    engine = sa.create_engine(url, hide_parameters=True, connect_args=unset, pool_timeout=POOL_SECONDS)
    if engine.dialect.driver == "psycopg":
        sa.event.listen(engine, "do_connect", partial(_connect_psycopg, seconds))
    return engine


def _connect_psycopg(seconds: float, _: Any, __: Any, args: Any, options: Any) -> Any:
    """Open a connection with a limited time for each answer."""
    import psycopg

    class TimedConnection(psycopg.Connection[Any]):
        def wait(self, gen: Any, interval: float = 1.0, timeout: float | None = None) -> Any:
            """Wait for an answer; close the connection if it does not come in time, because it may come later."""
            try:
                return super().wait(gen, interval, seconds if timeout is None else timeout)
            except psycopg.OperationalError:
                if self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                    self.pgconn.finish()
                raise

    return TimedConnection.connect(*args, **options)


def is_pooled(connection: psycopg.Connection[Any]) -> bool:
    """Return whether a connection goes to a pooler, whose process numbers differ from those of the server's sessions.

    The check begins a transaction unless the connection is in autocommit mode.
    """
    row = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchone()
    return row is not None and row[0] != connection.info.backend_pid


def _set_up_psycopg(connection: psycopg.Connection[Any], _: Any) -> None:
    """Prepare no statements behind a pooler: the next query may run in another session, which lacks them."""
    if is_pooled(connection):
        connection.prepare_threshold = None
    connection.rollback()


@contextmanager
def failures(where: str, *, error: type[FeatureStoreError] = RegistryError, kind: str = "registry") -> Iterator[None]:
    """Translate errors of a database into errors of the library.

    Raises:
        FeatureStoreError: The database cannot be reached, is read-only, full or locked, or holds no such table.
    """
    try:
        yield
    except SQLAlchemyError as problem:
        origin = getattr(problem, "orig", None) or problem
        raise error(
            f"the database failed: {first_line(origin)}",
            where=where,
            hint="Check that it can be reached and written, and that no other program keeps it locked.",
            code=f"{kind}-unavailable",
        ) from problem


def one_snapshot(connection: sa.Connection) -> sa.Connection:
    """Let all statements of a connection's next transaction read one snapshot.

    SQLite does that always; PostgreSQL needs another isolation level.
    """
    if connection.dialect.name == "sqlite":
        return connection
    return connection.execution_options(isolation_level="REPEATABLE READ")


def for_writing(connection: sa.Connection) -> sa.Connection:
    """Mark a connection whose next transaction will write."""
    return connection.execution_options(featurestore_writes=True)


def for_statement(connection: sa.Connection) -> sa.Connection:
    """Mark a connection whose next transaction is a single statement that writes.

    On PostgreSQL the transaction ends with the statement, so that a process that is stopped right after it holds no
    locks.
    """
    if connection.dialect.name == "sqlite":
        return for_writing(connection)
    return connection.execution_options(isolation_level="AUTOCOMMIT")


def blobs(values: Iterable[bytes]) -> tuple[bytearray, ...]:
    """Return values in the type that Python's driver of SQLite binds fastest.

    For ``bytes`` it searches an adapter first, which takes a microsecond each, several times as long as the copy.
    """
    return tuple(map(bytearray, values))


def what_is_left(engine: sa.Engine) -> str:
    """Overwrite deleted data as far as possible; return where it may remain.

    SQLite overwrites deleted data in the file at once; here its write-ahead log is emptied.

    Returns:
        A sentence; empty if nothing remains.
    """
    if engine.dialect.name != "sqlite":
        return LEFT_IN_POSTGRES
    connection = engine.raw_connection()
    try:
        is_busy, *_ = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.OperationalError:
        is_busy = True
    finally:
        connection.close()
    remains = f"{engine.url.database}-wal may hold deleted data while other processes use the database: forget again"
    return remains if is_busy else ""


LEFT_IN_POSTGRES = (
    "PostgreSQL keeps deleted rows in its files until they are vacuumed and overwritten (at once by VACUUM FULL), and "
    "in its write-ahead log and replicas"
)


def use_wal(connection: sqlite3.Connection, *, wait_seconds: float) -> None:
    """Set a SQLite file to use a write-ahead log; the setting is stored in the file.

    SQLite does not wait for the lock of this change, whatever ``busy_timeout`` is: processes that open a new file at
    the same time find it locked. So the change is retried.

    Raises:
        sqlite3.Error: The file is still locked when the time is over, cannot be written, or is not a database.
    """
    retry(
        lambda: connection.execute("PRAGMA journal_mode = WAL"),
        is_transient=_is_busy,
        timeout_seconds=wait_seconds,
        backoff=_WAL_BACKOFF,
    )


def _is_busy(error: Exception) -> bool:
    return isinstance(error, sqlite3.OperationalError) and (
        error.sqlite_errorcode & _PRIMARY_CODE == sqlite3.SQLITE_BUSY
    )


def _set_up_sqlite(connection: Any, _: Any) -> None:
    # The driver would commit implicitly; transactions begin in _begin_sqlite.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    use_wal(connection, wait_seconds=_BUSY_MS / 1000)
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    cursor.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    cursor.execute("PRAGMA secure_delete = ON")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("featurestore_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _make_sqlite_file(path: str, where: str) -> None:
    """Make the file and its folder for the owner alone; SQLite gives its other files the same permissions."""
    if path.startswith("file:"):
        return
    file = local_target(path, where=where)
    make_folder(file.parent)
    make_file(file)


def first_line(error: BaseException | None) -> str:
    """Return the first line of an error's text, or its class if the text is empty."""
    return (str(error).splitlines() or [type(error).__name__])[0]
