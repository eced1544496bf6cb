"""Online state in PostgreSQL.

A read is one prepared statement with all keys in an array, in binary format: one statement is one snapshot. A write is
one transaction that first locks the expected rows, then compares, then sets:

- Rows that are expected and written are locked exclusively; rows that are only expected are locked against changes, so
  that many writers can depend on one record at the same time.
- Keys that must not exist get a placeholder row, which others do not see and for which they wait.

So the condition still holds when the transaction commits, at the isolation level ``READ COMMITTED``, even against
unconditional writers. Locks are taken in the order of the keys. If two writers deadlock nevertheless, the server aborts
one of them, and that one starts again. The durability of a write follows the server's ``synchronous_commit``.

Sessions keep prepared statements and locks, so a connection pooler must pool by session; any other is refused.

An index entry holds at most some 2,700 bytes, so a long key is stored as its beginning and a digest of the whole, and
its value as the whole key and the value. Keys with a common prefix still lie side by side, and a key is compared to the
last byte. The stored form of a long key is longer than any short key, so the two cannot be confused.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TypeVar

import psycopg
import sqlalchemy as sa
from psycopg import sql
from psycopg.errors import (
    DeadlockDetected,
    DuplicatePreparedStatement,
    InvalidSqlStatementName,
    ReadOnlySqlTransaction,
    SerializationFailure,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from featurestore.core.errors import ConfigError
from featurestore.core.retrying import retry
from featurestore.core.urls import without_secrets
from featurestore.online.stores.deadline import SHORT_SECONDS, out_of_time, seconds_left
from featurestore.online.stores.errors import (
    READ_ONLY_HINT,
    WHERE,
    conflict,
    failed,
    pooled_by_transaction,
    unavailable,
)
from featurestore.online.stores.options import (
    count,
    identifier,
    read_url,
    seconds,
)
from featurestore.online.stores.postgres_pool import (
    Pool,
    PostgresConnection,
    SessionCheck,
    Sessions,
)
from featurestore.online.stores.store import after
from featurestore.storage import Hold, busy, lost
from featurestore.storage.database import LEFT_IN_POSTGRES

_OPTIONS = {"connect_timeout": seconds, "pool": count, "table": identifier, "timeout": seconds}
_ATTEMPTS = 5
"""How often to try a write whose transaction the server aborts because of another transaction."""

_DELETED_AT_ONCE = 5_000

T = TypeVar("T")
Connection = PostgresConnection


class PostgresOnlineStore:
    """An ``OnlineStore`` in PostgreSQL, safe to use from several threads and processes.

    Attributes:
        items_at_once: A statement with more items is not faster than several.
        keeps_time: A read closes its connection at the deadline.
    """

    items_at_once = 2_000
    keeps_time = True

    def __init__(self, url: str) -> None:
        """Parse the URL; nothing is connected yet. The first connection creates the table if it does not exist.

        Args:
            url: ``postgresql://user:password@host:5432/database``. Options: ``table``, the name of the table
                (``online_state``); ``timeout`` of a read or write (``10s``), ``connect_timeout`` (``3s``), ``pool``,
                the most connections (32); all others are passed to libpq (``sslmode``).

        Raises:
            ConfigError: The URL is invalid. The first connection may raise it for a pooler that does not keep sessions
                (``transaction-pooler``).
        """
        parsed = read_url(url, options=_OPTIONS, client_options=None)
        options = parsed.options
        self._place = parsed.shown
        self._timeout: float = options.get("timeout", 10.0)
        self._connect_timeout: float = options.get("connect_timeout", 3.0)
        self._table: str = options.get("table", "online_state")
        self._conninfo = parsed.url._replace(scheme="postgresql").geturl()
        try:
            psycopg.conninfo.conninfo_to_dict(self._conninfo)
        except psycopg.Error as error:
            problem = without_secrets(str(error).strip(), url)
            raise ConfigError(f"'{parsed.shown}': {problem}", where=WHERE, code="store-url") from None
        self._statements = _Statements(self._table)
        self._check = SessionCheck(self._conninfo)
        self._has_table = False
        self._table_lock = threading.Lock()
        size: int = options.get("pool", 32)
        self._pool = Pool(self._connect, size, self._timeout)
        self._holders = Pool(self._connect_to_hold, size, self._timeout)
        self._sessions = Sessions(self._holders)

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the values of those keys that exist, all from one moment."""
        if not keys:
            return {}
        if has_long(keys):
            return self._read_long(keys)
        return self._read(keys)

    def _read_long(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Read keys of which some are long."""
        rows = self._read([stored_key(key) for key in keys])
        values = {key: value_in(key, stored) for key in keys if (stored := rows.get(stored_key(key))) is not None}
        return {key: value for key, value in values.items() if value is not None}

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Read keys in their stored form."""
        statement, seconds = self._statements.read, seconds_left()
        if seconds < SHORT_SECONDS and not self._pool.has_idle:
            raise out_of_time(self._place)
        with self._failures("read"), self._pool.connection() as connection, connection.time_limit(seconds):
            try:
                return dict(connection.reader.execute(statement, (list(keys),), prepare=True).fetchall())
            except psycopg.OperationalError:
                if seconds < self._timeout and not seconds_left():
                    raise out_of_time(self._place) from None
                raise

    def write(
        self, items: Sequence[tuple[bytes, bytes]], *, expected: Mapping[bytes, bytes | None] | None = None
    ) -> None:
        """Set values, all or none, if some keys still have the values they are expected to have."""
        latest = sorted(dict(items).items())
        if not latest and not expected:
            return
        if has_long([key for key, _ in latest]) or has_long(list(expected or ())):
            latest = sorted((stored_key(key), stored_value(key, value)) for key, value in latest)
            expected = stored_expected(expected or {})
        with self._failures("write"), self._pool.connection() as connection:
            _again(lambda: self._write(connection, latest, expected or {}))

    def _write(
        self, connection: Connection, items: Sequence[tuple[bytes, bytes]], expected: Mapping[bytes, bytes | None]
    ) -> None:
        """Write in one transaction; a single statement needs none around it."""
        if not expected:
            self._upsert(connection, items)
            return
        written = {key for key, _ in items}
        absent = sorted(key for key, value in expected.items() if value is None)
        with connection.transaction():
            self._take_absent(connection, absent)
            self._compare(connection, {key: value for key, value in expected.items() if value is not None}, written)
            self._upsert(connection, items)
            if left := [key for key in absent if key not in written]:
                connection.execute(self._statements.drop, (left,), binary=True)

    def _take_absent(self, connection: Connection, keys: Sequence[bytes]) -> None:
        """Lock keys that must not exist by placeholder rows."""
        if keys and connection.execute(self._statements.take, (keys,), prepare=True).rowcount < len(keys):
            raise conflict()

    def _compare(self, connection: Connection, expected: Mapping[bytes, bytes], written: set[bytes]) -> None:
        """Lock the rows of keys that must have certain values, and compare."""
        for statement, keys in (
            (self._statements.lock_read, sorted(expected.keys() - written)),
            (self._statements.lock_written, sorted(expected.keys() & written)),
        ):
            if keys:
                rows = connection.execute(statement, (keys,), prepare=True, binary=True).fetchall()
                if len(rows) < len(keys) or any(expected[key] != value for key, value in rows):
                    raise conflict()

    def _upsert(self, connection: Connection, items: Sequence[tuple[bytes, bytes]]) -> None:
        if items:
            keys, values = zip(*items, strict=True)
            connection.execute(self._statements.upsert, (list(keys), list(values)), prepare=True)

    def delete(self, prefix: bytes) -> int:
        """Delete all keys that begin with a prefix, some thousands at a time; return how many there were."""
        if len(prefix) > BEGINNING:
            # The stored form of a long key holds less than the prefix; the whole key is in the value.
            begin = prefix[:BEGINNING]
            bounds: list[bytes | int] = [begin, begin + b"\xff" * (LONGEST + 1 - BEGINNING), LONGEST + 1]
            deleted = self._delete(self._statements.delete_long, [*bounds, VALUE_AT + 1, len(prefix), prefix])
            if len(prefix) > LONGEST:
                return deleted
            highest = after(prefix) or b"\xff" * (LONGEST + 2)
            return deleted + self._delete(self._statements.delete_short, [prefix, highest, LONGEST])
        end = after(prefix)
        if end is None:
            return self._delete(self._statements.delete_from, [prefix])
        return self._delete(self._statements.delete_range, [prefix, end])

    def _delete(self, statement: bytes, bounds: Sequence[bytes | int]) -> int:
        deleted = 0
        with self._failures("delete from"), self._pool.connection() as connection:
            while True:
                gone = _again(lambda: connection.execute(statement, [*bounds, _DELETED_AT_ONCE]).rowcount)
                deleted += gone
                if not gone:
                    return deleted

    def count(self, prefix: bytes) -> int:
        """Return how many keys begin with a prefix."""
        end = after(prefix)
        statement, bounds = self._statements.count_from, [prefix]
        if end is not None:
            statement, bounds = self._statements.count_range, [prefix, end]
        with self._failures("read"), self._pool.connection() as connection:
            (count,) = connection.execute(statement, bounds).fetchone() or (0,)
            return int(count)

    def what_is_left(self) -> str:
        """Return a sentence on where deleted data may remain."""
        return LEFT_IN_POSTGRES

    @contextmanager
    def exclusive(self, name: str) -> Iterator[Hold]:
        """Hold a lock exclusively among all processes: an advisory lock in a session that only holds locks."""
        digest = hashlib.blake2b(f"{self._table}/{name}".encode(), digest_size=8).digest()
        number = int.from_bytes(digest, "big", signed=True)
        is_done = is_held = False
        with ExitStack() as stack:
            with self._failures("lock"):
                session = stack.enter_context(self._sessions.connection(number))
                if session is None or not _try_lock(session, number):
                    raise busy(name, WHERE)
            try:
                yield _SessionHold(session)
                is_done = True
            finally:
                with suppress(psycopg.Error):
                    is_held = session.execute("SELECT pg_advisory_unlock(%s)", (number,)).fetchone() == (True,)
        if is_done and not is_held:
            raise lost(name, WHERE)

    def close(self) -> None:
        """Close all connections that are not in use."""
        try:
            self._pool.close()
        finally:
            self._holders.close()

    def _connect(self) -> Connection:
        """Open a connection; the first one creates the table."""
        connection = PostgresConnection.open(
            self._conninfo,
            connect_timeout=self._connect_timeout,
            timeout=self._timeout,
            check=None if self._has_table else self._check,
        )
        with self._table_lock:
            if not self._has_table:
                self._create_table(connection)
                self._has_table = True
        return connection

    def _connect_to_hold(self) -> Connection:
        """Open a connection that the server closes about a minute after the holder's machine has failed."""
        connection = self._connect()
        connection.execute("SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10")
        connection.execute("SET tcp_keepalives_count = 3; SET idle_session_timeout = 0")
        return connection

    def _create_table(self, connection: Connection) -> None:
        if connection.execute("SELECT to_regclass(%s)", (self._table,)).fetchone() != (None,):
            return
        with connection.transaction():
            # Of two concurrent statements that create a table, one fails in spite of IF NOT EXISTS.
            connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"make {self._table}",))
            connection.execute(self._statements.create)

    @contextmanager
    def _failures(self, verb: str) -> Iterator[None]:
        """Turn the driver's errors into the library's."""
        try:
            yield
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise unavailable(verb, self._place, error) from error
        except (DuplicatePreparedStatement, InvalidSqlStatementName) as error:
            raise pooled_by_transaction() from error
        except ReadOnlySqlTransaction as error:
            # The server has become a replica: old connections lead to it, new ones may reach the primary.
            self._pool.renew()
            self._holders.renew()
            raise unavailable(verb, self._place, error, READ_ONLY_HINT) from error
        except psycopg.Error as error:
            raise failed(verb, self._place, error) from error


def _try_lock(session: Connection, number: int) -> bool:
    """Try to take an advisory lock in a session; return whether the session has it now."""
    return session.execute("SELECT pg_try_advisory_lock(%s)", (number,)).fetchone() == (True,)


class _SessionHold:
    """A lock that a session holds for as long as the session answers."""

    def __init__(self, session: Connection) -> None:
        self._session = session

    def is_held(self) -> bool:
        """Check that the session answers; one that has ended or does not answer in time is closed."""
        try:
            self._session.execute("SELECT 1")
        except psycopg.Error:
            self._session.close()
            return False
        return True


class _Statements:
    """The statements on one table."""

    def __init__(self, table: str) -> None:
        def on(text: str) -> bytes:
            # The driver caches statements that are bytes; a composed one would be composed again each time.
            return sql.SQL(text).format(table=sql.Identifier(table)).as_bytes()

        self.create = _table_statement(table)
        self.read = on("SELECT key, value FROM {table} WHERE key = ANY(%b)")
        self.take = on("INSERT INTO {table} SELECT unnest(%b::bytea[]), '' ON CONFLICT (key) DO NOTHING")
        self.drop = on("DELETE FROM {table} WHERE key = ANY(%b)")
        self.lock_read = on("SELECT key, value FROM {table} WHERE key = ANY(%b) ORDER BY key FOR SHARE")
        self.lock_written = on("SELECT key, value FROM {table} WHERE key = ANY(%b) ORDER BY key FOR NO KEY UPDATE")
        self.upsert = on(
            "INSERT INTO {table} SELECT * FROM unnest(%b::bytea[], %b::bytea[])"
            " ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value"
        )
        self.count_from = on("SELECT count(*) FROM {table} WHERE key >= %b")
        self.count_range = on("SELECT count(*) FROM {table} WHERE key >= %b AND key < %b")
        first = "(SELECT key FROM {table} WHERE %s LIMIT %%b FOR UPDATE)"
        delete = "DELETE FROM {table} WHERE key IN "
        self.delete_from = on(delete + first % "key >= %b")
        self.delete_range = on(delete + first % "key >= %b AND key < %b")
        long = "key >= %b AND key <= %b AND length(key) = %s AND substr(value, %s, %s) = %b"
        self.delete_long = on(delete + first % long)
        self.delete_short = on(delete + first % "key >= %b AND key < %b AND length(key) <= %s")


def _table_statement(name: str) -> str:
    """Return the statement that creates the table.

    States are some kilobytes of packed bytes that are replaced often: they stay in the row as far as a page allows, are
    not compressed, and pages keep free space for the next version of a row.
    """
    table = sa.Table(
        name,
        sa.MetaData(),
        sa.Column("key", sa.LargeBinary, primary_key=True),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves its dialects untyped
    create = str(CreateTable(table, if_not_exists=True).compile(dialect=dialect)).rstrip()
    create = f"{create} WITH (fillfactor = 75, toast_tuple_target = 8160)"
    return f"{create}; ALTER TABLE {name} ALTER COLUMN value SET STORAGE EXTERNAL"


LONGEST = 2_000
"""Length of the longest key that is stored unchanged, in bytes."""

_DIGEST_BYTES = 32
BEGINNING = LONGEST + 1 - _DIGEST_BYTES
"""How many bytes of a long key are stored unchanged."""

_LENGTH = struct.Struct(">I")
VALUE_AT = _LENGTH.size
"""Position of the key in the stored value of a long key."""


def has_long(keys: Sequence[bytes]) -> bool:
    """Return whether any key is long."""
    return max(map(len, keys), default=0) > LONGEST


def stored_key(key: bytes) -> bytes:
    """Return the stored form of a key.

    Example:
        >>> stored_key(b"short")
        b'short'
        >>> len(stored_key(bytes(100_000)))
        2001
    """
    if len(key) <= LONGEST:
        return key
    return key[:BEGINNING] + hashlib.blake2b(key, digest_size=_DIGEST_BYTES).digest()


def stored_value(key: bytes, value: bytes) -> bytes:
    """Return the stored form of a value."""
    return value if len(key) <= LONGEST else _LENGTH.pack(len(key)) + key + value


def stored_expected(expected: Mapping[bytes, bytes | None]) -> dict[bytes, bytes | None]:
    """Return expected values with keys and values in their stored form."""
    return {stored_key(key): None if value is None else stored_value(key, value) for key, value in expected.items()}


def value_in(key: bytes, stored: bytes) -> bytes | None:
    """Return the value in a stored value; ``None`` if it belongs to another key with the same stored form."""
    if len(key) <= LONGEST:
        return stored
    begin = VALUE_AT + len(key)
    return stored[begin:] if stored[:begin] == _LENGTH.pack(len(key)) + key else None


def _again(work: Callable[[], T]) -> T:
    """Do work that is one transaction; repeat it if the server aborts it because of another transaction."""
    return retry(work, is_transient=_is_victim, attempts=_ATTEMPTS)


def _is_victim(error: Exception) -> bool:
    return isinstance(error, DeadlockDetected | SerializationFailure)
