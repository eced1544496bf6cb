"""Online state in a SQL database: SQLite by default.

SQLAlchemy makes the schema and the transactions of writes; the hot read goes to the driver's own connection with one
prepared statement, which is a snapshot by itself.

SQLite runs in WAL mode with ``synchronous=NORMAL``: a crash of the process loses nothing that was acknowledged, a power
failure may lose the last transactions but never tears one or reorders them, so a watermark is never ahead of its
states.
"""

from __future__ import annotations

import fcntl
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from featurestore.errors import ConfigError, StateError, StorageError

_MOST_KEYS = 16_000

_METADATA = sa.MetaData()
_STATE = sa.Table(
    "online_state",
    _METADATA,
    sa.Column("key", sa.LargeBinary, primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)


class SqlOnlineStore:
    """An ``OnlineStore`` in SQLite, safe to use from several threads and processes."""

    def __init__(self, url: str) -> None:
        """Open the database; it is made if it is not there.

        Args:
            url: SQLAlchemy URL of a SQLite file.

        Raises:
            ConfigError: The URL is not one of a SQLite file.
            StorageError: The database cannot be opened or made.
        """
        try:
            parsed = sa.make_url(url)
        except sa.exc.ArgumentError:
            raise ConfigError(f"'{url}' is not a database URL", where="online store", hint=_URL_HINT) from None
        if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
            raise ConfigError(f"'{url}' is not a SQLite file", where="online store", hint=_URL_HINT)
        self._path = Path(parsed.database)
        self._engine = sa.create_engine(parsed)
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        sa.event.listen(self._engine, "connect", _prepare)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _METADATA.create_all(self._engine)
        except (OSError, SQLAlchemyError) as error:
            raise self._storage_error("open", error) from error

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the values of those keys that exist, all from one moment."""
        connection = self._connection()
        try:
            if len(keys) <= _MOST_KEYS:
                return self._read(connection, keys)
            connection.execute("BEGIN")
            try:
                found: dict[bytes, bytes] = {}
                for start in range(0, len(keys), _MOST_KEYS):
                    found |= self._read(connection, keys[start : start + _MOST_KEYS])
            finally:
                connection.execute("COMMIT")
            return found
        except sqlite3.Error as error:
            raise self._storage_error("read", error) from error

    def _read(self, connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        marks = ",".join("?" * len(keys))
        return dict(connection.execute(f"SELECT key, value FROM online_state WHERE key IN ({marks})", keys))

    def _connection(self) -> sqlite3.Connection:
        """Return this thread's own connection for reading."""
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False, cached_statements=512, timeout=30
            )
            self._local.connection = found
            with self._lock:
                self._opened.append(found)
        return found

    def write(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Set values, all or none."""
        rows = [{"key": key, "value": value} for key, value in items]
        if not rows:
            return
        statement = sa.text("INSERT OR REPLACE INTO online_state (key, value) VALUES (:key, :value)")
        try:
            with self._engine.begin() as connection:
                connection.execute(statement, rows)
        except SQLAlchemyError as error:
            raise self._storage_error("write", error) from error

    def delete(self, prefix: bytes) -> int:
        """Delete all keys that begin with a prefix; return how many there were."""
        statement = sa.delete(_STATE).where(_STATE.c.key >= prefix)
        end = _after(prefix)
        if end is not None:
            statement = statement.where(_STATE.c.key < end)
        try:
            with self._engine.begin() as connection:
                return int(connection.execute(statement).rowcount)
        except SQLAlchemyError as error:
            raise self._storage_error("delete from", error) from error

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Hold a name alone among all processes, by a lock on a file beside the database."""
        path = self._path.with_name(f"{self._path.name}.{name}.lock")
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StateError(
                    f"another process holds '{name}'",
                    where="online store",
                    hint="Wait until it has ended.",
                    code="busy",
                ) from None
            yield

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for connection in self._opened:
                connection.close()
            self._opened.clear()
            self._local = threading.local()
        self._engine.dispose()

    def _storage_error(self, verb: str, error: Exception) -> StorageError:
        return StorageError(
            f"cannot {verb} {self._path}: {error}",
            where="online store",
            hint="Check the path, its rights and the disk.",
        )


_URL_HINT = "Write it as sqlite:///path/to/online.db."


def _prepare(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA busy_timeout=30000")


def _after(prefix: bytes) -> bytes | None:
    """Return the smallest key after all that begin with a prefix; ``None`` if there is none."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else None
