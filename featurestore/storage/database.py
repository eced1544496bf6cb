"""Databases the library writes to: how they are opened, and what their failures are called.

SQLite is opened so that a reader never waits for a writer (WAL), that a transaction which will write takes its lock
when it begins, that what is deleted is overwritten, and that a busy database is waited for rather than reported at
once.
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
"""The bits of SQLite's error codes that say which kind of failure it is; those above say how it came about."""

ANSWER_SECONDS = 60
"""How long PostgreSQL may take for one answer of the registry or the event log."""

POOL_SECONDS = 10
"""How long to wait for a connection while all of a process are in use."""

_LIBPQ = {
    "connect_timeout": 5,
    "tcp_user_timeout": 20_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
"""What is said to libpq unless the URL says it: seconds, and milliseconds for ``tcp_user_timeout``."""

CHECKPOINT_PAGES = 4_000
"""How long SQLite's write-ahead log may grow: a page that many commits change is copied once for all of them."""

CACHE_KIB = 16_000
"""Pages that SQLite keeps for one connection. What a transaction changes beyond them is written more than once: with
SQLite's own 2,000 KiB a push of 3,000 events into as many states takes half as long again."""


def open_database(
    url: str, *, where: str, error: type[FeatureStoreError] = RegistryError, kind: str = "registry"
) -> sa.Engine:
    """Return an engine for a URL; nothing is connected yet, but the folder of a SQLite file is made.

    A database that does not answer is given up after a time: PostgreSQL's ``connect_timeout`` (5 seconds) for a
    connection, ``tcp_user_timeout`` for a network that swallows everything, and ``timeout`` (60 seconds) for each
    answer can be set in the URL's query, in libpq's units and in seconds.

    Args:
        url: SQLAlchemy URL.
        where: What the database is, for messages.
        error: What failures are raised as.
        kind: What their codes begin with.

    Raises:
        FeatureStoreError: The URL is unreadable, its driver is not installed, or its folder cannot be made.
    """
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:"):
            _make_sqlite_file(str(parsed.database), where)
        engine = _engine(parsed)
    except ConfigError:
        raise
    except ValueError:  # a port that is no number; or a part of a password, which the message would show
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
"""SQLSTATE of a statement that writes where nothing can be written: the server is a replica."""


def _leave_replica(context: Any) -> None:
    """Give all connections up if they lead to a server that has become a replica: new ones may reach the primary."""
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.engine.dispose()
        context.invalidate_pool_on_disconnect = False
        context.is_disconnect = True


def with_driver(url: sa.URL) -> sa.URL:
    """Return a URL that names psycopg where one of PostgreSQL names no driver: SQLAlchemy 2.0 would take another."""
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def _engine(url: sa.URL) -> sa.Engine:
    """Return an engine that shows no values in errors, because they are logged, and does not wait for ever."""
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
    """Open a connection on which every answer must come within a time."""
    import psycopg

    class TimedConnection(psycopg.Connection[Any]):
        def wait(self, gen: Any, interval: float = 1.0, timeout: float | None = None) -> Any:
            """Wait for an answer; close the connection if it does not come in time: nobody knows what it is for."""
            try:
                return super().wait(gen, interval, seconds if timeout is None else timeout)
            except psycopg.OperationalError:
                if self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                    self.pgconn.finish()
                raise

    return TimedConnection.connect(*args, **options)


def is_pooled(connection: psycopg.Connection[Any]) -> bool:
    """Tell whether a connection goes to a pooler, which has other process numbers than the server's sessions.

    A transaction is begun unless the connection commits by itself.
    """
    row = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchone()
    return row is not None and row[0] != connection.info.backend_pid


def _set_up_psycopg(connection: psycopg.Connection[Any], _: Any) -> None:
    """Prepare no statements behind a pooler: the session that has them need not be the one that is asked next."""
    if is_pooled(connection):
        connection.prepare_threshold = None
    connection.rollback()


@contextmanager
def failures(where: str, *, error: type[FeatureStoreError] = RegistryError, kind: str = "registry") -> Iterator[None]:
    """Turn failures of a database into errors of the library.

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
            hint="See that it can be reached and written, and that no other program keeps it locked.",
            code=f"{kind}-unavailable",
        ) from problem


def one_snapshot(connection: sa.Connection) -> sa.Connection:
    """Let all statements of a connection's next transaction see the database at one moment.

    SQLite's transactions do; PostgreSQL's must be told.
    """
    if connection.dialect.name == "sqlite":
        return connection
    return connection.execution_options(isolation_level="REPEATABLE READ")


def for_writing(connection: sa.Connection) -> sa.Connection:
    """Mark a connection whose next transaction will write."""
    return connection.execution_options(featurestore_writes=True)


def for_statement(connection: sa.Connection) -> sa.Connection:
    """Mark a connection whose next transaction is one statement that writes.

    Where the database can, it ends the transaction with the statement, so that a process that is stopped meanwhile
    keeps nothing locked.
    """
    if connection.dialect.name == "sqlite":
        return for_writing(connection)
    return connection.execution_options(isolation_level="AUTOCOMMIT")


def blobs(values: Iterable[bytes]) -> tuple[bytearray, ...]:
    """Return values as Python's driver of SQLite binds them fastest.

    For ``bytes`` it looks for an adapter first, which takes a microsecond each, several times what the copy takes.
    """
    return tuple(map(bytearray, values))


def what_is_left(engine: sa.Engine) -> str:
    """Overwrite what was deleted as far as the database can be told to; say where it may still be.

    SQLite overwrites it in the file when it is deleted; here its write-ahead log is emptied.

    Returns:
        A sentence; empty if nothing is left.
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
    left = f"{engine.url.database}-wal may hold what was deleted as long as others use the database: forget again"
    return left if is_busy else ""


LEFT_IN_POSTGRES = (
    "PostgreSQL keeps deleted rows in its files until they are vacuumed and written over (at once by VACUUM FULL), "
    "and in its write-ahead log and replicas"
)


def use_wal(connection: sqlite3.Connection, *, wait_seconds: float) -> None:
    """Give a SQLite file a write-ahead log, which it keeps.

    For the lock of this change alone SQLite does not wait, whatever ``busy_timeout`` says: processes that open a new
    file at once find it locked by each other. So it is asked again until the time is over.

    Raises:
        sqlite3.Error: The file is still locked when the time is over, cannot be written, or is no database.
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
    # The driver's own transaction handling commits behind our back; BEGIN is ours (below).
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
    """Make the file and its folder for the owner alone; SQLite gives its companions the rights of the file."""
    if path.startswith("file:"):
        return
    file = local_target(path, where=where)
    make_folder(file.parent)
    make_file(file)


def first_line(error: BaseException | None) -> str:
    """Return the first line of what a database said, or the class of the error if it said nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
