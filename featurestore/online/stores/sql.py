"""Online state in a SQLite database.

SQLAlchemy creates the schema and runs the transactions of writes. The hot read uses the driver directly, with one
connection per thread and one prepared statement, which is a snapshot by itself.

SQLite runs in WAL mode with ``synchronous=NORMAL``: a crash of the process loses no acknowledged write; a power failure
may lose the last transactions, but never a part of one and never an earlier one alone. So a watermark is never ahead of
its states. All state comes from sources that are kept elsewhere, so the next run folds lost events again.

States are some kilobytes, which decides the layout: an ordinary table with pages of 8 KiB, read through a memory map.
``WITHOUT ROWID`` moves values above a quarter of a page to separate pages, which at least doubles the time.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from featurestore.core.errors import ConfigError, StorageError
from featurestore.core.urls import shown
from featurestore.online.stores.errors import WHERE, conflict, unavailable
from featurestore.online.stores.store import after
from featurestore.storage import Hold, busy, lost
from featurestore.storage.database import (
    CACHE_KIB,
    CHECKPOINT_PAGES,
    blobs,
    use_wal,
    what_is_left,
)
from featurestore.storage.files import local_target, make_file, make_folder, opener

_MOST_KEYS = 16_000
"""Keys of one statement; SQLite takes 32,766 variables."""

_WAIT_SECONDS = 30
_MAPPED_BYTES = 1 << 30

_METADATA = sa.MetaData()
_STATE = sa.Table(
    "online_state",
    _METADATA,
    sa.Column("key", sa.LargeBinary, primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
)
_WRITE = "INSERT INTO online_state (key, value) VALUES {} ON CONFLICT (key) DO UPDATE SET value = excluded.value"
"""Changes a row in place: REPLACE would delete it and append another, which takes half as long again."""

_WRITE_MANY = {size: _WRITE.format(", ".join(["(?, ?)"] * size)) for size in (1_000, 100)}


class _FileHold:
    """A lock on an open file."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def is_held(self) -> bool:
        """Return whether the path still leads to the locked file."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._descriptor))
        except OSError:
            return False


class _Connection(sqlite3.Connection):
    """A connection that is closed once neither its thread nor a read under way refers to it.

    SQLite crashes if a connection is closed during a read.
    """

    def __del__(self) -> None:
        self.close()


class SqlOnlineStore:
    """An ``OnlineStore`` in SQLite, safe to use from several threads and processes.

    Attributes:
        keeps_time: Reads never wait: writers do not block them.
    """

    keeps_time = True

    def __init__(self, url: str) -> None:
        """Open the database; it is created if it does not exist.

        Args:
            url: SQLAlchemy URL of a SQLite file.

        Raises:
            ConfigError: The URL does not name a SQLite file.
            StorageError: The database cannot be opened or created.
        """
        try:
            parsed = sa.make_url(url)
        except sa.exc.ArgumentError:
            raise ConfigError(f"'{shown(url)}' is not a database URL", where=WHERE, hint=_URL_HINT) from None
        if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
            raise ConfigError(f"'{shown(url)}' is not a SQLite file", where=WHERE, hint=_URL_HINT)
        self._path = local_target(parsed.database, where=WHERE)
        self._engine = sa.create_engine(parsed, hide_parameters=True)
        self._local = threading.local()
        self._writing = threading.Lock()
        sa.event.listen(self._engine, "connect", _prepare)
        try:
            make_folder(self._path.parent)
            make_file(self._path)
            _METADATA.create_all(self._engine)
        except (OSError, SQLAlchemyError) as error:
            raise self._storage_error("open", error) from error

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the values of those keys that exist, all from one moment."""
        try:
            connection: _Connection = getattr(self._local, "connection", None) or self._connect()
            if len(keys) <= _MOST_KEYS:
                return _read(connection, keys)
            connection.execute("BEGIN")
            try:
                values: dict[bytes, bytes] = {}
                for start in range(0, len(keys), _MOST_KEYS):
                    values |= _read(connection, keys[start : start + _MOST_KEYS])
            finally:
                connection.execute("COMMIT")
            return values
        except sqlite3.Error as error:
            raise self._storage_error("read", error) from error

    def _connect(self) -> _Connection:
        """Open this thread's connection for reading."""
        connection = sqlite3.connect(
            self._path,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=512,
            timeout=_WAIT_SECONDS,
            factory=_Connection,
        )
        connection.execute(f"PRAGMA mmap_size={_MAPPED_BYTES}")
        self._local.connection = connection
        return connection

    def write(
        self, items: Sequence[tuple[bytes, bytes]], *, expected: Mapping[bytes, bytes | None] | None = None
    ) -> None:
        """Set values, all or none, if some keys still have the values they are expected to have."""
        try:
            # SQLite has one writer; threads that wait here do not have to poll it.
            with self._writing, self._engine.connect() as connection:
                # The driver begins a transaction late, but the lock must be held from the comparison on.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                try:
                    _compare(connection, expected or {})
                    _write(connection, items)
                    connection.commit()
                except BaseException:
                    connection.rollback()
                    raise
        except SQLAlchemyError as error:
            raise self._storage_error("write", error) from error

    def delete(self, prefix: bytes) -> int:
        """Delete all keys that begin with a prefix; return how many there were."""
        statement = sa.delete(_STATE).where(_STATE.c.key >= prefix)
        end = after(prefix)
        if end is not None:
            statement = statement.where(_STATE.c.key < end)
        try:
            with self._writing, self._engine.begin() as connection:
                return int(connection.execute(statement).rowcount)
        except SQLAlchemyError as error:
            raise self._storage_error("delete from", error) from error

    def count(self, prefix: bytes) -> int:
        """Return how many keys begin with a prefix."""
        condition = _STATE.c.key >= prefix
        end = after(prefix)
        if end is not None:
            condition &= _STATE.c.key < end
        try:
            with self._engine.connect() as connection:
                statement = sa.select(sa.func.count()).select_from(_STATE).where(condition)
                return int(connection.execute(statement).scalar_one())
        except SQLAlchemyError as error:
            raise self._storage_error("read", error) from error

    def what_is_left(self) -> str:
        """Overwrite deleted data, also in the write-ahead log; return a sentence if others prevented that."""
        try:
            return what_is_left(self._engine)
        except SQLAlchemyError as error:
            raise self._storage_error("write", error) from error

    @contextmanager
    def exclusive(self, name: str) -> Iterator[Hold]:
        """Hold a lock exclusively among all processes, on a file beside the database.

        The lock is on the file, not on its path: if the file is removed, the lock is lost.
        """
        path = self._path.with_name(f"{self._path.name}.{name}.lock")
        try:
            file = FileIO(path, "w", opener=opener)
        except OSError as error:
            raise self._storage_error("lock", error) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise busy(name, WHERE) from None
            hold = _FileHold(path, file.fileno())
            yield hold
            if not hold.is_held():
                raise lost(name, WHERE)

    def close(self) -> None:
        """Close all connections; those in use when their read or write has ended."""
        self._local = threading.local()
        self._engine.dispose()

    def _storage_error(self, verb: str, error: Exception) -> StorageError:
        origin = error.orig if isinstance(error, DBAPIError) else error
        if getattr(origin, "sqlite_errorcode", 0) & 0xFF in _BUSY:
            return unavailable(verb, str(self._path), origin, "Another program holds a lock on it. Wait until it ends.")
        if getattr(origin, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
            hint = "Move the file away and materialize: all state can be rebuilt from sources and the event log."
            return StorageError(f"{self._path} is damaged: {origin}", where=WHERE, hint=hint, code="store-damaged")
        return StorageError(
            f"cannot {verb} {self._path}: {origin}",
            where=WHERE,
            hint="Check the path, its permissions and the disk.",
        )


_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_URL_HINT = "Write it as sqlite:///path/to/online.db."


def _read(connection: _Connection, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    """Read some values: each key is looked up directly, whereas IN would first sort the keys."""
    return dict(connection.execute(_search(len(keys)), blobs(keys))) if keys else {}


@lru_cache(maxsize=128)
def _search(count: int) -> str:
    rows = ",".join(["(?)"] * count)
    return f"SELECT key, value FROM (VALUES {rows}) AS wanted CROSS JOIN online_state ON key = wanted.column1"


def _write(connection: sa.Connection, items: Sequence[tuple[bytes, bytes]]) -> None:
    """Set rows, as many per statement as possible: after each statement the thread must regain Python's lock."""
    start = 0
    for size, statement in _WRITE_MANY.items():
        while len(items) - start >= size:
            batch = items[start : start + size]
            connection.exec_driver_sql(statement, blobs(chain.from_iterable(batch)))
            start += size
    if start < len(items):
        connection.exec_driver_sql(_WRITE.format("(?, ?)"), [blobs(item) for item in items[start:]])


def _compare(connection: sa.Connection, expected: Mapping[bytes, bytes | None]) -> None:
    keys = list(expected)
    for start in range(0, len(keys), _MOST_KEYS):
        batch = keys[start : start + _MOST_KEYS]
        marks = ",".join("?" * len(batch))
        statement = f"SELECT key, value FROM online_state WHERE key IN ({marks})"
        values: dict[bytes, bytes] = dict(map(tuple, connection.exec_driver_sql(statement, tuple(batch))))
        if any(values.get(key) != expected[key] for key in batch):
            raise conflict()


def _prepare(connection: Any, _: Any) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA page_size=8192")
    use_wal(connection, wait_seconds=_WAIT_SECONDS)
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
    connection.execute("PRAGMA secure_delete=ON")
    connection.execute(f"PRAGMA busy_timeout={1000 * _WAIT_SECONDS}")
