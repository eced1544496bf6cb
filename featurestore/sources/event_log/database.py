"""The database of the event log: its tables, its transactions, and the head of each source, which appends lock."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict
from threading import Lock

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import insert as insert_sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from featurestore.core.errors import StorageError
from featurestore.core.temporal import NOTHING_YET
from featurestore.sources.event_log.stored import Head
from featurestore.storage.database import failures, first_line, for_writing, one_snapshot, open_database

WHERE = "event log"
OUTCOME_UNKNOWN = "push-outcome-unknown"
"""Code of a push of which it is not known whether it was committed: its commit was sent and not answered."""

PRESENT_US = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
"""The present instant by the clock of PostgreSQL."""

_METADATA = sa.MetaData()
_NAME = sa.String(500)
_MARK = sa.String(16)

HEADS = sa.Table(
    "event_log_heads",
    _METADATA,
    sa.Column("source", _NAME, primary_key=True),
    sa.Column("next_sequence", sa.BigInteger, nullable=False),
    sa.Column("next_ingest_us", sa.BigInteger, nullable=False),
    sa.Column("mark", _MARK, nullable=False, server_default=""),
)

HEAD_COLUMNS = (HEADS.c.next_sequence, HEADS.c.next_ingest_us, HEADS.c.mark)

BATCHES = sa.Table(
    "event_log_batches",
    _METADATA,
    sa.Column("source", _NAME, primary_key=True),
    sa.Column("first", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("last", sa.BigInteger, nullable=False),
    sa.Column("row_count", sa.BigInteger, nullable=False),
    sa.Column("ingest_us", sa.BigInteger, nullable=False),
    sa.Column("events", sa.LargeBinary, nullable=False),
    sa.Column("mark", _MARK, nullable=False, server_default=""),
    sa.Index("event_log_batches_by_ingest", "source", "ingest_us"),
)

FILES = sa.Table(
    "event_log_files",
    _METADATA,
    sa.Column("source", _NAME, primary_key=True),
    sa.Column("first", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("last", sa.BigInteger, nullable=False),
    sa.Column("row_count", sa.BigInteger, nullable=False),
    sa.Column("ingest_from_us", sa.BigInteger, nullable=False),
    sa.Column("ingest_to_us", sa.BigInteger, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("mark", _MARK, nullable=False, server_default=""),
)

LOOSE = sa.Table(
    "event_log_loose_files",
    _METADATA,
    sa.Column("source", _NAME, primary_key=True),
    sa.Column("path", sa.String(1000), primary_key=True),
)
"""Files of the log that hold none of its events: begun and not named yet, or replaced and not deleted yet."""

IDS = sa.Table(
    "event_log_ids",
    _METADATA,
    sa.Column("source", _NAME, primary_key=True),
    sa.Column("id", sa.LargeBinary(16), primary_key=True),
    sqlite_with_rowid=False,
)

ID_COLUMNS = sa.Table(
    "event_log_id_columns",
    _METADATA,
    sa.Column("source", _NAME, primary_key=True),
    sa.Column("name", _NAME, primary_key=True),
    sa.Column("dtype", sa.String(200), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("unique_from_us", sa.BigInteger, nullable=False),
)

KEYS = sa.Table(
    "event_log_keys",
    _METADATA,
    sa.Column("source", _NAME, primary_key=True),
    sa.Column("key", sa.LargeBinary(16), primary_key=True),
    sa.Column("content", sa.LargeBinary(16), nullable=False),
    sa.Column("accepted", sa.BigInteger, nullable=False),
    sa.Column("next_sequence", sa.BigInteger, nullable=False),
    sa.Column("next_ingest_us", sa.BigInteger, nullable=False),
    sa.Column("pushed_us", sa.BigInteger, nullable=False),
    sa.Index("event_log_keys_by_age", "source", "pushed_us"),
)


class LogDatabase:
    """The database of one event log. May be used from several threads.

    Attributes:
        ahead_us: How far the clock of this machine was ahead of the database's when that was last read.
    """

    def __init__(self, url: str) -> None:
        """Take the URL; the database is opened, and its tables are made if they are absent, with the first use."""
        self._url = url
        self._opening = Lock()
        self._opened: sa.Engine | None = None
        self.ahead_us = 0

    @property
    def engine(self) -> sa.Engine:
        """The engine; the first use opens the database and makes its tables.

        Raises:
            StorageError: The database cannot be opened, or holds something else.
        """
        with self._opening:
            if self._opened is None:
                engine = open_database(self._url, where=WHERE, error=StorageError, kind="event-log")
                try:
                    with database_failures(), engine.connect() as connection, for_writing(connection).begin():
                        _METADATA.create_all(connection)
                        _add_marks(connection)
                except StorageError:
                    engine.dispose()
                    raise
                self._opened = engine
            return self._opened

    def close(self) -> None:
        """Close all connections; the next use opens them again."""
        with self._opening:
            if self._opened is not None:
                self._opened.dispose()
                self._opened = None

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Read from one snapshot, since compaction may move events between two statements.

        Raises:
            StorageError: The database cannot be read.
        """
        with database_failures(), one_snapshot(self.engine.connect()) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Write in one transaction, which is committed at the end.

        Raises:
            StorageError: The database cannot be written, or it did not answer the commit (``OUTCOME_UNKNOWN``).
        """
        with database_failures(), self.engine.connect() as connection, _committed(connection):
            yield connection

    def lock(self, connection: sa.Connection, source: str) -> Head:
        """Hold the head of a source until the transaction ends."""
        if (found := head_of(connection, source, lock=True)) is not None:
            return found
        insert = insert_postgresql if connection.dialect.name == "postgresql" else insert_sqlite
        empty = insert(HEADS).values(source=source, next_sequence=0, next_ingest_us=NOTHING_YET)
        connection.execute(empty.on_conflict_do_nothing())
        return head_of(connection, source, lock=True) or Head()

    def lock_now(self, connection: sa.Connection, source: str, machine_us: Callable[[], int]) -> tuple[Head, int]:
        """Hold the head of a source until the transaction ends; return it and the present instant."""
        if connection.dialect.name == "sqlite":
            return self.lock(connection, source), machine_us()
        wanted = sa.select(*HEAD_COLUMNS, sa.literal_column(PRESENT_US).label("present_us"))
        locking = wanted.where(HEADS.c.source == source).with_for_update()
        row = connection.execute(locking).first()
        if row is None:
            return self.lock(connection, source), self.clock_us(connection, machine_us)
        self.ahead_us = machine_us() - row.present_us
        return Head(row.next_sequence, row.next_ingest_us, row.mark), row.present_us

    def clock_us(self, connection: sa.Connection, machine_us: Callable[[], int]) -> int:
        """Return the present instant by the database's clock; by the machine's if the database has none of its own."""
        if connection.dialect.name == "sqlite":
            return machine_us()
        present_us = int(connection.exec_driver_sql(f"SELECT {PRESENT_US}").scalar_one())
        self.ahead_us = machine_us() - present_us
        return present_us


def head_of(connection: sa.Connection, source: str, *, lock: bool = False) -> Head | None:
    """Return the head of a source, ``None`` if it has none yet; with ``lock`` it is held until the transaction ends."""
    wanted = sa.select(*HEAD_COLUMNS).where(HEADS.c.source == source)
    row = connection.execute(wanted.with_for_update() if lock else wanted).first()
    return None if row is None else Head(row.next_sequence, row.next_ingest_us, row.mark)


def move_head(connection: sa.Connection, source: str, head: Head) -> None:
    """Store the head of a source, which the transaction has locked."""
    change = sa.update(HEADS).where(HEADS.c.source == source)
    connection.execute(change.values(asdict(head)))


def new_mark() -> str:
    """Return a random mark for the last event of a log."""
    return secrets.token_hex(8)


def _add_marks(connection: sa.Connection) -> None:
    """Add the columns of marks to the tables of a log that was made before they were kept."""
    for table in (HEADS, BATCHES, FILES):
        known = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
        if "mark" not in known:
            kind = _MARK.compile(connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN mark {kind} DEFAULT '' NOT NULL")


@contextmanager
def _committed(connection: sa.Connection) -> Iterator[None]:
    """Commit what is done inside; roll it back if that fails.

    Raises:
        StorageError: The database did not answer the commit (``OUTCOME_UNKNOWN``).
    """
    transaction = for_writing(connection).begin()
    try:
        yield
    except BaseException:
        with suppress(SQLAlchemyError):
            transaction.rollback()
        raise
    try:
        transaction.commit()
    except DBAPIError as error:
        with suppress(SQLAlchemyError):
            transaction.close()
        if not _is_unanswered(error):
            raise
        raise StorageError(
            f"the database did not answer the commit: {first_line(error.orig)}",
            where=WHERE,
            hint="The events may be committed or not. Push them again with the same idempotency key, or with event ids:"
            " they count once.",
            code=OUTCOME_UNKNOWN,
        ) from error


def _is_unanswered(error: DBAPIError) -> bool:
    """Return whether a failed commit may have been done: the database did not report that it was not."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return bool(code & 0xFF == sqlite3.SQLITE_IOERR)
    state = getattr(error.orig, "sqlstate", None)
    return state is None or state.startswith(("08", "57P"))


def database_failures() -> AbstractContextManager[None]:
    """Turn failures of the database into errors of the library."""
    return failures(WHERE, error=StorageError, kind="event-log")
