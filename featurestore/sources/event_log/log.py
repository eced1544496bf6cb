"""The durable log of pushed events, in a SQL database and, once compacted, in Parquet files.

Every event gets an ingest time and a number when it is taken. Both only grow within a source, whatever the clock does
and however many processes append: an append locks the source's head until it is committed. So whoever has seen the
head has seen every event before it.

What is acknowledged is committed: SQLite syncs every commit to the disk, PostgreSQL as it is configured.

Events are stored under names and types of the log's own: the ingest time has one name, whatever the source calls it,
and an event keeps the types it was pushed with. Plans convert what they read.

A source's ``event_id`` may be declared, changed or taken away at any time. So the log keeps the ids of every column
that was ever declared, each under the column's name and dtype. For each it knows the instant from which no event
repeats an id of an earlier one. Every append keeps the ids of all these columns, whatever definition the appending
process knows. It refuses an event as a duplicate only by the column that this definition declares. Ids are remembered
for ever: numbers as they are, others as 16 bytes of a hash.

Compaction moves old events to files, which every process that shares the log must be able to read. An event is where
the database says it is, and the database says so in one transaction, so a crash loses and doubles nothing. The log
deletes no files but its own: each is recorded in the database before it is written, and again when another replaces it;
what is recorded and not named is left from a crash, and a later compaction deletes it.
"""

from __future__ import annotations

import secrets
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import insert as insert_sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from featurestore.core.dtypes import (
    TIMESTAMP,
    DType,
    from_arrow,
    parse_dtype,
)
from featurestore.core.errors import ConfigError, SourceDataError, StorageError
from featurestore.core.retrying import retry
from featurestore.core.temporal import (
    NO_WATERMARK,
    NOTHING_YET,
    duration_us,
    format_duration,
)
from featurestore.plan.model import INGEST_COLUMN, SEQUENCE_COLUMN
from featurestore.sources.event_log.stored import (
    Head,
    IdColumn,
    Stretch,
    identities,
    ingest_name,
    packed,
    under_log_names,
    unpacked,
)
from featurestore.storage.database import (
    blobs,
    failures,
    first_line,
    for_writing,
    one_snapshot,
    open_database,
    what_is_left,
)
from featurestore.storage.parquet import open_parquet, write_parquet

_WHERE = "event log"
_METADATA = sa.MetaData()
_NAME = sa.String(500)
_MARK = sa.String(16)

_HEADS = sa.Table(
    "event_log_heads",
    _METADATA,
    sa.Column("source", _NAME, primary_key=True),
    sa.Column("next_sequence", sa.BigInteger, nullable=False),
    sa.Column("next_ingest_us", sa.BigInteger, nullable=False),
    sa.Column("mark", _MARK, nullable=False, server_default=""),
)
_HEAD_COLUMNS = (_HEADS.c.next_sequence, _HEADS.c.next_ingest_us, _HEADS.c.mark)
_PRESENT_US = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
"""The present instant by the clock of PostgreSQL."""

_BATCHES = sa.Table(
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
_FILES = sa.Table(
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
_LOOSE = sa.Table(
    "event_log_loose_files",
    _METADATA,
    sa.Column("source", _NAME, primary_key=True),
    sa.Column("path", sa.String(1000), primary_key=True),
)
"""Files of the log that hold none of its events: begun and not named yet, or replaced and not deleted yet."""

_IDS = sa.Table(
    "event_log_ids",
    _METADATA,
    sa.Column("source", _NAME, primary_key=True),
    sa.Column("id", sa.LargeBinary(16), primary_key=True),
    sqlite_with_rowid=False,
)
_ID_COLUMNS = sa.Table(
    "event_log_id_columns",
    _METADATA,
    sa.Column("source", _NAME, primary_key=True),
    sa.Column("name", _NAME, primary_key=True),
    sa.Column("dtype", sa.String(200), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("unique_from_us", sa.BigInteger, nullable=False),
)

_KEYS = sa.Table(
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

MOST_ROWS = 5_000
"""Most events of one batch: what the online state folds in one transaction. Larger appends are cut."""

_ATTEMPTS = 6
"""How often to try to read events while compaction replaces files that the database has named."""

MOST_AHEAD_US = duration_us("1s")
"""How far ahead of the present the head of a log may be."""

KEYS_KEPT_US = duration_us("1d")
"""How long the log remembers the idempotency key of a push, at least."""

_FORGET_KEYS_EVERY_US = duration_us("10s")

_FILE_ROWS = 1_000_000
_ROW_GROUP_ROWS = 250_000
_IDS_AT_ONCE = 10_000
_ENTERED_AT_ONCE = 50_000
"""How many events of the log have their ids entered in one transaction; pushes wait for it."""


Wanted: TypeAlias = Callable[[pa.Table], pa.Array]
"""Gives for a table of events a boolean array without nulls."""

Convert: TypeAlias = Callable[[pa.ChunkedArray, DType], pa.Array]
"""Gives a column in a dtype; raises ``SourceDataError`` if a value is not one of it."""


@dataclass(frozen=True)
class Appended:
    """What an append did.

    Attributes:
        events: The events that are now in the log, with their ingest times.
        places: Their places among those given, ascending; the ids of the others the log had.
        before: The log's head when the append began: every event of others has become known before it, or after
            ``head``.
        head: The log's head after it; ``next_sequence - 1`` is the number of its last event.
        unique_by: The id columns by which none of the events repeats another event of the log.
    """

    events: pa.Table
    places: Sequence[int]
    before: Head
    head: Head
    unique_by: frozenset[IdColumn] = frozenset()


@dataclass(frozen=True)
class _EnteredIds:
    """Ids of one column that the log keeps.

    Attributes:
        kept_as: What they are kept under.
        unique_from_us: No event that became known from this instant on repeats an id of an earlier one;
            ``NO_WATERMARK`` if not all ids of the column are entered.
    """

    kept_as: str
    unique_from_us: int

    @property
    def is_complete(self) -> bool:
        """Whether every id of the column in the log is entered."""
        return self.unique_from_us < NO_WATERMARK


@dataclass(frozen=True)
class _Located:
    """Where events lie.

    Attributes:
        batches: Stored batches, by the number of their first event.
        paths: Files as the database names them, by the number of their first event.
    """

    batches: Mapping[int, bytes]
    paths: Mapping[int, str]


@dataclass(frozen=True)
class PushKey:
    """The idempotency key of a push, and what became of the push.

    Attributes:
        key: What stands for the key.
        content: What stands for the events: the same key with other events is not the same push.
        accepted: How many of its events were new.
        head: The log's head behind it; of its mark nothing is kept.
    """

    key: bytes
    content: bytes
    accepted: int
    head: Head


class KnownKeysError(Exception):
    """The log has the idempotency key of a push that was to be appended."""


class EventLog:
    """The log of all pushed sources of one store. May be used from several threads and processes."""

    def __init__(self, url: str, folder: Path, *, is_shared: bool = False) -> None:
        """Say where the log is; it is opened, and made if it is absent, with the first use.

        Args:
            url: SQLAlchemy URL of a SQLite file or a PostgreSQL database.
            folder: Where compaction writes its files.
            is_shared: Whether every process that uses the log sees the same files in the folder. Unless it is known,
                only a log in a SQLite file is compacted, which belongs to one machine as the folder does.
        """
        self._url = url
        self._folder = folder
        self._is_shared = is_shared
        self._opening = Lock()
        self._opened: sa.Engine | None = None
        self._ahead_us = 0
        self._keys_forgotten_us: dict[str, int] = {}

    @property
    def _engine(self) -> sa.Engine:
        with self._opening:
            if self._opened is None:
                engine = open_database(self._url, where=_WHERE, error=StorageError, kind="event-log")
                try:
                    with _told(), engine.connect() as connection, for_writing(connection).begin():
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

    def head(self, source: str) -> Head:
        """Return how far a source's log goes: every event that was acknowledged lies before it.

        Raises:
            StorageError: The database cannot be read.
        """
        with self._reading() as connection:
            return _head(connection, source) or Head()

    def is_past(self, source: str, head: Head) -> bool:
        """Tell whether the log once had this head, and still has all events before it.

        A log that was restored from a copy, or that failed over to a replica which was behind, has not, also after it
        took other events since. Where a mark is not known, or lies in the midst of a compacted file, the ingest times
        of the events before it must tell.

        Args:
            source: Name of the source.
            head: How far the log went. Of its ingest time only that counts that every event before it became known
                earlier.

        Raises:
            StorageError: The database or a file cannot be read.
        """
        with self._reading() as connection:
            present = _head(connection, source) or Head()
            if head.next_sequence >= present.next_sequence:
                is_same_mark = not head.mark or not present.mark or head.mark == present.mark
                return head.next_sequence == present.next_sequence and is_same_mark
            if head.next_sequence <= 0:
                return True
            ends = (
                connection.execute(
                    sa.select(table.c.mark).where(table.c.source == source, table.c.last == head.next_sequence - 1)
                ).scalar()
                for table in (_BATCHES, _FILES)
            )
            mark = next((mark for mark in ends if mark is not None), "")
        if mark and head.mark:
            return mark == head.mark
        return self._is_known_before(source, head)

    def _is_known_before(self, source: str, head: Head) -> bool:
        """Tell whether all events with numbers below a head became known before it."""
        last = head.next_sequence - 1
        later = [one for one in self.stretches(source, ingest=(head.next_ingest_us, NO_WATERMARK)) if one.first <= last]
        tables = (table for one in later for table in self.read(source, one.first, min(one.last, last), []))
        return all(
            pc.max(table.column(INGEST_COLUMN).cast(pa.int64())).as_py() < head.next_ingest_us for table in tables
        )

    def now_us(self, machine_us: int) -> int:
        """Return about the present instant by the log's clock, never a later one than that.

        Args:
            machine_us: The present instant by the clock of this machine. It is the log's, too, where the database has
                none of its own, and as long as the database's was not read.
        """
        return machine_us - self._ahead_us

    def ahead_us(self, source: str, *, machine_us: int) -> int:
        """Return how far the head of a source is ahead of the present; 0 if it is not.

        While it is, pushes are refused. ``redate`` ends that.

        Args:
            source: Name of the source.
            machine_us: The present instant by the clock of this machine.

        Raises:
            StorageError: The database cannot be read.
        """
        with self._reading() as connection:
            head = _head(connection, source) or Head()
            return max(0, head.next_ingest_us - self._clock_us(connection, lambda: machine_us))

    def seal(self, source: str, until_us: int) -> Head:
        """Promise that no event to come has an ingest time before an instant; return the head.

        If the database has a clock of its own, the promise goes a second beyond its present at most: a machine whose
        clock is ahead does not make the events of others visible late.

        Raises:
            StorageError: The database cannot be written.
        """
        known = self.head(source)
        if known.next_ingest_us >= until_us:
            return known
        with self._writing() as connection:
            head, present_us = self._lock_now(connection, source, lambda: until_us)
            latest_us = min(until_us, present_us + MOST_AHEAD_US)
            sealed = replace(head, next_ingest_us=max(head.next_ingest_us, latest_us))
            _move(connection, source, sealed)
            return sealed

    def append(
        self,
        source: str,
        events: pa.Table,
        *,
        event_id: str | None,
        convert: Convert,
        now_us: Callable[[], int],
        keys: Callable[[Sequence[int], Head], Sequence[PushKey]] | None = None,
    ) -> Appended:
        """Commit events; when it returns, no crash loses them.

        Args:
            source: Name of the source.
            events: The events in contract dtypes, without an ingest time. Of events with one id only one is given.
            event_id: Column of the id; ``None`` if every row is its own event.
            convert: Converts ids to the dtypes in which the log keeps them.
            now_us: Gives the present instant by the clock of this machine. The events' ingest time is the present by
                the database's clock if it has one of its own, else by this one, once nobody else appends; unless the
                log is there already.
            keys: Gives for the places of the events that are new, and the head behind them, the idempotency keys to
                remember with them.

        Raises:
            SourceDataError: Ids that the log holds in the column are not of the dtype; nothing was appended.
            KnownKeysError: The log has one of the keys; nothing was appended.
            StorageError: The database cannot be written, or the head is more than a second ahead of the present
                (``log-head-ahead``); nothing was appended. If the code is ``OUTCOME_UNKNOWN``, nobody knows whether all
                was.
        """
        declared = None if event_id is None else IdColumn(event_id, _dtype_of(events, event_id))
        while True:
            with self._writing() as connection:
                before, present_us = self._lock_now(connection, source, now_us)
                if before.next_ingest_us > present_us + MOST_AHEAD_US:
                    raise head_ahead(source, before.next_ingest_us - present_us)
                entered = _entered(connection, source)
                if declared is None or (declared in entered and entered[declared].is_complete):
                    appended = _append(connection, source, events, before, declared, entered, convert, present_us)
                    if keys is not None:
                        self._remember_keys(connection, source, keys(appended.places, appended.head), present_us)
                    return appended
            self.enter_ids(source, declared, convert=convert)

    def enter_ids(self, source: str, column: IdColumn, *, convert: Convert) -> None:
        """Keep the ids of a column from now on: enter those of the log, unless that was done before.

        Pushes go on between one transaction and the next.

        Args:
            source: Name of the source.
            column: The column, and the dtype in which its values are ids.
            convert: Converts the events' values to it.

        Raises:
            SourceDataError: A value in the log is not of the dtype.
            StorageError: The log cannot be read or written.
        """
        first, has_repeated = 0, False
        while True:
            with self._writing() as connection:
                head = self._lock(connection, source)
                known = _entered(connection, source).get(column) or _begin_entering(connection, source, column)
                if known.is_complete:
                    return
                if first >= head.next_sequence:
                    unique_from_us = head.next_ingest_us if has_repeated else NOTHING_YET
                    _note_unique_from(connection, source, column, unique_from_us)
                    return
                last = first + _ENTERED_AT_ONCE - 1
                located = _locate(connection, source, first, last)
                for table in self._opened_events(located, first, last, [column.name]):
                    ids = _ids_of(table, column, convert)
                    has_repeated |= len(_enter(connection, known.kept_as, ids)) < len(ids)
                first = last + 1

    def unique_from_us(self, source: str, column: IdColumn) -> int:
        """Return the instant from which no event repeats an id of an earlier one in a column.

        It is about all events that are in the log now. ``NO_WATERMARK`` if it is not known.

        Raises:
            StorageError: The database cannot be read.
        """
        with self._reading() as connection:
            known = _entered(connection, source).get(column)
        return NO_WATERMARK if known is None else known.unique_from_us

    def pushed_before(self, source: str, keys: Sequence[bytes]) -> dict[bytes, PushKey]:
        """Return those idempotency keys that the log has, each with what its push did.

        Raises:
            StorageError: The database cannot be read.
        """
        with self._reading() as connection:
            found = connection.execute(sa.select(_KEYS).where(_KEYS.c.source == source, _KEYS.c.key.in_(keys)))
            return {
                row.key: PushKey(row.key, row.content, row.accepted, Head(row.next_sequence, row.next_ingest_us))
                for row in found
            }

    def _remember_keys(self, connection: sa.Connection, source: str, keys: Sequence[PushKey], present_us: int) -> None:
        """Keep idempotency keys for a day or a little longer.

        Raises:
            KnownKeysError: One of them is there.
        """
        if not keys:
            return
        if not 0 <= present_us - self._keys_forgotten_us.get(source, NOTHING_YET) < _FORGET_KEYS_EVERY_US:
            self._keys_forgotten_us[source] = present_us
            old = (_KEYS.c.source == source) & (_KEYS.c.pushed_us < present_us - KEYS_KEPT_US)
            connection.execute(sa.delete(_KEYS).where(old))
        insert = insert_postgresql if connection.dialect.name == "postgresql" else insert_sqlite
        rows = [
            {
                "source": source,
                "key": one.key,
                "content": one.content,
                "accepted": one.accepted,
                "next_sequence": one.head.next_sequence,
                "next_ingest_us": one.head.next_ingest_us,
                "pushed_us": present_us,
            }
            for one in keys
        ]
        statement = insert(_KEYS).values(rows).on_conflict_do_nothing()
        if connection.execute(statement.execution_options(preserve_rowcount=True)).rowcount < len(rows):
            raise KnownKeysError

    def redate(self, source: str, *, machine_us: int) -> int:
        """Give events that lie in the future the present as their ingest time, and bring the head back to it.

        Their order stays. States that were made of them are rebuilt: the log's marks change.

        Args:
            source: Name of the source.
            machine_us: The present instant by the clock of this machine.

        Returns:
            How many events were given another time.

        Raises:
            StorageError: The database cannot be written, or events of the future lie in a compacted file; nothing was
                changed.
        """
        with self._writing() as connection:
            head, present_us = self._lock_now(connection, source, lambda: machine_us)
            if head.next_ingest_us <= present_us:
                return 0
            compacted = sa.select(_FILES.c.first).where(_FILES.c.source == source, _FILES.c.ingest_to_us >= present_us)
            if connection.execute(compacted).first() is not None:
                raise StorageError(
                    "events of the future were compacted",
                    where=f"event log, source '{source}'",
                    hint="Wait until then, or restore the log from before the compaction.",
                    code="event-log-file",
                )
            later = sa.select(_BATCHES.c.first, _BATCHES.c.events).where(
                _BATCHES.c.source == source, _BATCHES.c.ingest_us >= present_us
            )
            rows = connection.execute(later.order_by(_BATCHES.c.first)).all()
            moved = 0
            for at_us, row in enumerate(rows, present_us):
                events = _redated(under_log_names(unpacked(row.events)), at_us)
                change = sa.update(_BATCHES).where(_BATCHES.c.source == source, _BATCHES.c.first == row.first)
                connection.execute(change.values(events=packed(events), ingest_us=at_us, mark=_new_mark()))
                moved += events.num_rows
            after = replace(head, next_ingest_us=present_us + len(rows) + 1, mark=_new_mark())
            _move(connection, source, after)
            for table in (_BATCHES, _FILES):
                ending = (table.c.source == source) & (table.c.last == head.next_sequence - 1)
                connection.execute(sa.update(table).where(ending).values(mark=after.mark))
            return moved

    def _lock_now(self, connection: sa.Connection, source: str, machine_us: Callable[[], int]) -> tuple[Head, int]:
        """Hold the head of a source until the transaction ends; return it and the present instant."""
        if connection.dialect.name == "sqlite":
            return self._lock(connection, source), machine_us()
        wanted = sa.select(*_HEAD_COLUMNS, sa.literal_column(_PRESENT_US).label("present_us"))
        locking = wanted.where(_HEADS.c.source == source).with_for_update()
        found = connection.execute(locking).first()
        if found is None:
            return self._lock(connection, source), self._clock_us(connection, machine_us)
        self._ahead_us = machine_us() - found.present_us
        return Head(found.next_sequence, found.next_ingest_us, found.mark), found.present_us

    def _clock_us(self, connection: sa.Connection, machine_us: Callable[[], int]) -> int:
        """Return the present instant by the database's clock; by the machine's if the database has none of its own."""
        if connection.dialect.name == "sqlite":
            return machine_us()
        present_us = int(connection.exec_driver_sql(f"SELECT {_PRESENT_US}").scalar_one())
        self._ahead_us = machine_us() - present_us
        return present_us

    def stretches(self, source: str, *, ingest: tuple[int, int] | None = None) -> list[Stretch]:
        """Return where the events of a source lie, in the order of their numbers.

        Args:
            source: Name of the source.
            ingest: Only stretches that may hold events with ``from <= ingest_time < until``.

        Raises:
            StorageError: The database cannot be read.
        """
        files = sa.select(_FILES).where(_FILES.c.source == source)
        batches = sa.select(
            _BATCHES.c.first, _BATCHES.c.last, _BATCHES.c.row_count, _BATCHES.c.ingest_us.label("ingest_us")
        ).where(_BATCHES.c.source == source)
        if ingest is not None:
            files = files.where(_FILES.c.ingest_to_us >= ingest[0], _FILES.c.ingest_from_us < ingest[1])
            batches = batches.where(_BATCHES.c.ingest_us >= ingest[0], _BATCHES.c.ingest_us < ingest[1])
        with self._reading() as connection:
            found = [
                Stretch(row.first, row.last, row.row_count, row.ingest_from_us, row.ingest_to_us, self._place(row.path))
                for row in connection.execute(files)
            ]
            found += [
                Stretch(row.first, row.last, row.row_count, row.ingest_us, row.ingest_us)
                for row in connection.execute(batches)
            ]
        return sorted((one for one in found if one.row_count), key=lambda stretch: stretch.first)

    def read(self, source: str, first: int, last: int, columns: Sequence[str]) -> list[pa.Table]:
        """Return events by number, wherever compaction has put them meanwhile.

        Args:
            source: Name of the source.
            first: Number of the first event.
            last: Number of the last event.
            columns: Columns to read; those that events do not have are left out.

        Returns:
            Tables in the order of the numbers, each with the ingest time (``INGEST_COLUMN``) beside these columns.
            Tables of different times may have different columns, and different types of a column.

        Raises:
            StorageError: The database or a file cannot be read.
        """
        with _file_failures():
            return retry(
                lambda: self._opened_events(self._located(source, first, last), first, last, columns),
                is_transient=lambda error: isinstance(error, FileNotFoundError),
                attempts=_ATTEMPTS,
            )

    def _located(self, source: str, first: int, last: int) -> _Located:
        with self._reading() as connection:
            return _locate(connection, source, first, last)

    def _opened_events(self, located: _Located, first: int, last: int, columns: Sequence[str]) -> list[pa.Table]:
        """Return some columns of events, and their ingest time, from where they lie.

        Raises:
            FileNotFoundError: A file was replaced after the database had named it.
        """
        names = list(dict.fromkeys([*columns, INGEST_COLUMN]))
        tables = {start: under_log_names(unpacked(stored)) for start, stored in located.batches.items()}
        for start, path in located.paths.items():
            try:
                tables[start] = _read_file(self._place(path), names)
            except FileNotFoundError:
                raise
            except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
                raise _damaged(self._place(path), error) from error
        found = [_numbered(table, first, last) for _, table in sorted(tables.items())]
        return [_chosen(table, names) for table in found if table.num_rows]

    def compact(self, source: str, *, before_us: int) -> int:
        """Move the events that became known before an instant from the database to Parquet files.

        Returns:
            How many events were moved.

        Raises:
            ConfigError: Other processes that share the log might not see the files (``data-not-shared``,
                ``other-data-folder``); nothing was moved.
            StorageError: A file or the database cannot be written; what was not moved is where it was.
        """
        self._check_folder(source)
        self._sweep(source)
        moved = 0
        while (events := self._compact_once(source, before_us)) is not None:
            moved += events
        return moved

    def _check_folder(self, source: str) -> None:
        """Make sure that every process that shares the log can read what compaction writes, as far as can be known."""
        dialect = self._engine.dialect.name
        if dialect != "sqlite" and not self._is_shared:
            raise ConfigError(
                f"the log is in a {dialect} database that other machines may use, and the data folder is not declared "
                "as shared with them: events are not moved into it",
                where=_WHERE,
                hint="If every process that uses this log sees the same data folder, write data_is_shared = true. If "
                'not, write compact = "never" under [schedule]: the events stay in the database.',
                code="data-not-shared",
            )
        newest = sa.select(_FILES.c.path).where(_FILES.c.source == source).order_by(_FILES.c.first.desc()).limit(1)
        with self._reading() as connection:
            path = connection.execute(newest).scalar()
        if path is not None and not Path(self._place(path)).exists():
            raise ConfigError(
                f"compacted events of source '{source}' are in another folder: {self._place(path)} is not there",
                where=_WHERE,
                hint="Let every process that uses this log have the same data folder.",
                code="other-data-folder",
            )

    def what_is_left(self) -> str:
        """Overwrite what was removed as far as the database can be told to; say where it may still be, if anywhere.

        Raises:
            StorageError: The database cannot be written.
        """
        with _told():
            return what_is_left(self._engine)

    def forget(
        self, source: str, is_wanted: Wanted, *, from_us: int = NOTHING_YET, missing: list[str] | None = None
    ) -> int:
        """Remove events, and leave no copy of them in the log; see ``what_is_left``.

        Args:
            source: Name of the source.
            is_wanted: Gives for a table of events a boolean array, true for those to remove.
            from_us: Only where events may have become known from this instant on.
            missing: Receives the paths of files that are not on this machine. Without it, they are an error.

        Returns:
            How many events were removed.

        Raises:
            StorageError: A file or the database cannot be written; what was not removed yet is still there.
        """
        removed = first = 0
        todo = self._stretches_from(source, first, from_us)
        while todo:
            stretch = todo.pop(0)
            if missing is not None and stretch.path is not None and not Path(stretch.path).exists():
                now = self._stretches_from(source, first, from_us)
                if stretch in now:
                    missing.append(stretch.path)
                    first = stretch.last + 1
                else:
                    todo = now  # it was replaced meanwhile
                continue
            found = self._forget_in(source, stretch, is_wanted)
            if found is None:
                todo = self._stretches_from(source, first, from_us)
                continue
            removed, first = removed + found, stretch.last + 1
        self._sweep(source)
        return removed

    def _stretches_from(self, source: str, first: int, from_us: int) -> list[Stretch]:
        """Return where the events lie from a number and an instant on."""
        known = self.stretches(source, ingest=(from_us, NO_WATERMARK))
        return [stretch for stretch in known if stretch.last >= first]

    def _compact_once(self, source: str, before_us: int) -> int | None:
        """Move one file's worth of events; the head is locked, so nobody else moves or removes any.

        Returns:
            How many; ``None`` if there is nothing left to move.
        """
        old = sa.select(_BATCHES.c.last, _BATCHES.c.row_count, _BATCHES.c.ingest_us, _BATCHES.c.first).where(
            _BATCHES.c.source == source, _BATCHES.c.ingest_us < before_us
        )
        with self._reading() as connection:
            if connection.execute(old.limit(1)).first() is None:
                return None
        with self._writing_file(source) as (connection, path):
            chosen = _up_to(_FILE_ROWS, connection.execute(old.order_by(_BATCHES.c.first)))
            if not chosen:
                return None
            events = sa.select(_BATCHES.c.events).where(*_within(_BATCHES, source, chosen[0].first, chosen[-1].last))
            stored = connection.execute(events.order_by(_BATCHES.c.first)).scalars()
            tables = _of_like_types([under_log_names(unpacked(one)) for one in stored])
            chosen = chosen[: len(tables)]
            ending = sa.select(_BATCHES.c.mark).where(_BATCHES.c.source == source, _BATCHES.c.first == chosen[-1].first)
            mark = connection.execute(ending).scalar_one()
            whole = Stretch(
                first=chosen[0].first,
                last=chosen[-1].last,
                row_count=sum(row.row_count for row in chosen),
                ingest_from_us=chosen[0].ingest_us,
                ingest_to_us=chosen[-1].ingest_us,
            )
            table = pa.concat_tables(tables, promote_options="default")
            connection.execute(sa.delete(_BATCHES).where(*_within(_BATCHES, source, whole.first, whole.last)))
            self._add_file(connection, source, whole, table, path, mark)
            return whole.row_count

    @contextmanager
    def _writing_file(self, source: str) -> Iterator[tuple[sa.Connection, str]]:
        """Begin a transaction that may name a new file, and give the file's path; the source's head is locked.

        The path is recorded before, and the record stands until the transaction ends that names the file.
        """
        while True:
            path = f"source={source}/{uuid.uuid4().hex}.parquet"
            record = (_LOOSE.c.source == source) & (_LOOSE.c.path == path)
            with self._writing() as connection:
                connection.execute(sa.insert(_LOOSE).values(source=source, path=path))
            with self._writing() as connection:
                self._lock(connection, source)
                if connection.execute(sa.select(_LOOSE).where(record)).first() is None:
                    continue  # another process has swept the record away meanwhile
                yield connection, path
                if connection.execute(
                    sa.select(_FILES).where(_FILES.c.source == source, _FILES.c.path == path)
                ).first():
                    connection.execute(sa.delete(_LOOSE).where(record))
            return

    def _add_file(
        self, connection: sa.Connection, source: str, stretch: Stretch, table: pa.Table, path: str, mark: str
    ) -> None:
        """Write a file and name it in the database, with the mark of its last event."""
        with _file_failures():
            write_parquet(table, Path(self._place(path)), compression="zstd", row_group_size=_ROW_GROUP_ROWS)
        values = {
            "first": stretch.first,
            "last": stretch.last,
            "row_count": table.num_rows,
            "ingest_from_us": stretch.ingest_from_us,
            "ingest_to_us": stretch.ingest_to_us,
            "mark": mark,
        }
        connection.execute(sa.insert(_FILES).values(source=source, path=path, **values))

    def _forget_in(self, source: str, stretch: Stretch, is_wanted: Wanted) -> int | None:
        """Remove events of one stretch; return how many, ``None`` if they have been moved meanwhile."""
        if stretch.path is not None:
            return self._forget_in_file(source, stretch, stretch.path, is_wanted)
        at = (_BATCHES.c.source == source, _BATCHES.c.first == stretch.first)
        with self._writing() as connection:
            self._lock(connection, source)
            stored = connection.execute(sa.select(_BATCHES.c.events).where(*at)).scalar()
            if stored is None:
                return None
            table = under_log_names(unpacked(stored))
            kept = table.filter(pc.invert(is_wanted(table)))
            if kept.num_rows < table.num_rows:
                change = sa.update(_BATCHES).where(*at)
                connection.execute(change.values(events=packed(kept), row_count=kept.num_rows))
        return int(table.num_rows - kept.num_rows)

    def _forget_in_file(self, source: str, stretch: Stretch, place: str, is_wanted: Wanted) -> int | None:
        """Replace a file by one without some events."""
        with self._writing_file(source) as (connection, path):
            at = (_FILES.c.source == source, _FILES.c.first == stretch.first)
            old = connection.execute(sa.select(_FILES.c.path, _FILES.c.mark).where(*at)).first()
            if old is None or self._place(old.path) != place:
                return None
            with _file_failures(), open_parquet(place) as file:
                table = under_log_names(file.read())
            kept = table.filter(pc.invert(is_wanted(table)))
            if kept.num_rows < table.num_rows:
                connection.execute(sa.delete(_FILES).where(*at))
                self._add_file(connection, source, stretch, kept, path, old.mark)
                connection.execute(sa.insert(_LOOSE).values(source=source, path=old.path))
        return int(table.num_rows - kept.num_rows)

    def _sweep(self, source: str) -> None:
        """Delete the log's own files that it does not name: a process that writes one holds the head until it does."""
        loose = sa.select(_LOOSE.c.path).where(_LOOSE.c.source == source)
        if not self._folder.is_dir():
            return
        with self._reading() as connection:
            if connection.execute(loose).first() is None:
                return
        with self._writing() as connection:
            self._lock(connection, source)
            with _file_failures():
                for path in connection.execute(loose).scalars().all():
                    Path(self._place(path)).unlink(missing_ok=True)
            connection.execute(sa.delete(_LOOSE).where(_LOOSE.c.source == source))

    def _place(self, path: str) -> str:
        return str(self._folder / path)

    def _lock(self, connection: sa.Connection, source: str) -> Head:
        """Hold the head of a source until the transaction ends."""
        if (found := _head(connection, source, lock=True)) is not None:
            return found
        insert = insert_postgresql if connection.dialect.name == "postgresql" else insert_sqlite
        empty = insert(_HEADS).values(source=source, next_sequence=0, next_ingest_us=NOTHING_YET)
        connection.execute(empty.on_conflict_do_nothing())
        return _head(connection, source, lock=True) or Head()

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        """Read from one snapshot: compaction may move events between two statements."""
        with _told(), one_snapshot(self._engine.connect()) as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with _told(), self._engine.connect() as connection, _committed(connection):
            yield connection


def head_ahead(source: str, ahead_us: int) -> StorageError:
    """Return the error of a log whose head lies in the future, with the command that repairs it.

    Args:
        source: Name of the source.
        ahead_us: How far it is ahead of the present.
    """
    return StorageError(
        f"its head is {format_duration(ahead_us)} ahead of the present: what is pushed now would be visible only then",
        where=f"event log, source '{source}'",
        hint=f"A clock was ahead. Run 'featurestore repair-log {source}', or store.repair_log('{source}').",
        code="log-head-ahead",
    )


OUTCOME_UNKNOWN = "push-outcome-unknown"
"""Code of a push of which nobody knows whether it was committed: its commit was sent and not answered."""


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
            where=_WHERE,
            hint="The events may be committed or not. Push them again with the same idempotency key, or with event ids:"
            " they count once.",
            code=OUTCOME_UNKNOWN,
        ) from error


def _is_unanswered(error: DBAPIError) -> bool:
    """Tell whether a commit that failed may have been done: the database did not say that it was not."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return bool(code & 0xFF == sqlite3.SQLITE_IOERR)
    state = getattr(error.orig, "sqlstate", None)
    return state is None or state.startswith(("08", "57P"))


def _told() -> AbstractContextManager[None]:
    return failures(_WHERE, error=StorageError, kind="event-log")


def _head(connection: sa.Connection, source: str, *, lock: bool = False) -> Head | None:
    wanted = sa.select(*_HEAD_COLUMNS).where(_HEADS.c.source == source)
    found = connection.execute(wanted.with_for_update() if lock else wanted).first()
    return None if found is None else Head(found.next_sequence, found.next_ingest_us, found.mark)


def _add_marks(connection: sa.Connection) -> None:
    """Add the columns of marks to the tables of a log that was made before they were kept."""
    for table in (_HEADS, _BATCHES, _FILES):
        known = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
        if "mark" not in known:
            kind = _MARK.compile(connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN mark {kind} DEFAULT '' NOT NULL")


def _new_mark() -> str:
    return secrets.token_hex(8)


def _redated(events: pa.Table, ingest_us: int) -> pa.Table:
    """Give events another ingest time."""
    times = pa.repeat(pa.scalar(ingest_us, pa.int64()), events.num_rows).cast(TIMESTAMP.arrow)
    return events.set_column(events.column_names.index(INGEST_COLUMN), INGEST_COLUMN, times)


def _move(connection: sa.Connection, source: str, head: Head) -> None:
    change = sa.update(_HEADS).where(_HEADS.c.source == source)
    connection.execute(change.values(asdict(head)))


def _append(
    connection: sa.Connection,
    source: str,
    events: pa.Table,
    before: Head,
    declared: IdColumn | None,
    entered: Mapping[IdColumn, _EnteredIds],
    convert: Convert,
    present_us: int,
) -> Appended:
    """Put events into the log while its head is locked."""
    fresh: Sequence[int] = range(events.num_rows)
    if declared is not None:
        ids = identities(events.column(declared.name).to_pylist())
        fresh = _enter(connection, entered[declared].kept_as, ids)
    kept = events if len(fresh) == events.num_rows else events.take(pa.array(fresh, pa.int64()))
    head = replace(before, next_ingest_us=max(before.next_ingest_us, present_us))
    tables = []
    for start in range(0, kept.num_rows, MOST_ROWS):
        table = _dated(kept.slice(start, MOST_ROWS), head)
        tables.append(table)
        head = _add(connection, source, table, head)
    unique_by = set() if declared is None else {declared}
    for column, known in entered.items():
        if column != declared and known.is_complete:
            try:
                others = _ids_of(kept, column, convert)
            except SourceDataError:
                _note_unique_from(connection, source, column, NO_WATERMARK)
                continue
            if len(_enter(connection, known.kept_as, others)) == len(others):
                unique_by.add(column)
            else:
                _note_unique_from(connection, source, column, head.next_ingest_us)
    _move(connection, source, head)
    whole = pa.concat_tables(tables) if tables else _dated(kept, head)
    return Appended(whole, fresh, before, head, frozenset(unique_by))


def _dated(events: pa.Table, head: Head) -> pa.Table:
    """Give events the ingest time that the head says, and numbers from there on."""
    ingested = pa.repeat(pa.scalar(head.next_ingest_us, pa.int64()), events.num_rows).cast(TIMESTAMP.arrow)
    numbers = pa.array(range(head.next_sequence, head.next_sequence + events.num_rows), pa.int64())
    return events.append_column(INGEST_COLUMN, ingested).append_column(SEQUENCE_COLUMN, numbers)


def _add(connection: sa.Connection, source: str, events: pa.Table, head: Head) -> Head:
    """Put one batch into the log; return the head after it."""
    after = Head(head.next_sequence + events.num_rows, head.next_ingest_us + 1, _new_mark())
    connection.execute(
        sa.insert(_BATCHES).values(
            source=source,
            first=head.next_sequence,
            last=after.next_sequence - 1,
            row_count=events.num_rows,
            ingest_us=head.next_ingest_us,
            events=packed(events),
            mark=after.mark,
        )
    )
    return after


def _entered(connection: sa.Connection, source: str) -> dict[IdColumn, _EnteredIds]:
    """Return the columns of which the log keeps ids, or begins to."""
    mark = _mark(connection)
    statement = f"SELECT name, dtype, number, unique_from_us FROM {_ID_COLUMNS.name} WHERE source = {mark}"
    return {
        IdColumn(name, parse_dtype(dtype)): _EnteredIds(_kept_as(source, number), unique_from_us)
        for name, dtype, number, unique_from_us in connection.exec_driver_sql(statement, (source,))
    }


def _kept_as(source: str, number: int) -> str:
    """Return what the ids of a column are kept under; the first logs kept ids under the source's name alone."""
    return f"{source}\x1f{number}"


def _begin_entering(connection: sa.Connection, source: str, column: IdColumn) -> _EnteredIds:
    number = len(_entered(connection, source))
    values = {"name": column.name, "dtype": str(column.dtype), "number": number, "unique_from_us": NO_WATERMARK}
    connection.execute(sa.insert(_ID_COLUMNS).values(source=source, **values))
    return _EnteredIds(_kept_as(source, number), NO_WATERMARK)


def _note_unique_from(connection: sa.Connection, source: str, column: IdColumn, unique_from_us: int) -> None:
    of_column = (_ID_COLUMNS.c.name == column.name, _ID_COLUMNS.c.dtype == str(column.dtype))
    change = sa.update(_ID_COLUMNS).where(_ID_COLUMNS.c.source == source, *of_column)
    connection.execute(change.values(unique_from_us=unique_from_us))


def _ids_of(events: pa.Table, column: IdColumn, convert: Convert) -> list[bytes | None]:
    """Return the ids of events in a column; they have none if they have no such column."""
    if column.name not in events.column_names:
        return []
    return identities(convert(events.column(column.name), column.dtype).to_pylist())


def _enter(connection: sa.Connection, kept_as: str, ids: Sequence[bytes | None]) -> list[int]:
    """Keep ids; return the places of those that are new, and of events without an id."""
    known: set[bytes] = set()
    given = [one for one in ids if one is not None]
    mark = _mark(connection)
    for start in range(0, len(given), _IDS_AT_ONCE):
        some = given[start : start + _IDS_AT_ONCE]
        wanted = ",".join([mark] * len(some))
        statement = f"SELECT id FROM {_IDS.name} WHERE source = {mark} AND id IN ({wanted})"
        known.update(bytes(one) for (one,) in connection.exec_driver_sql(statement, (kept_as, *blobs(some))))
    fresh = []
    new: list[bytes] = []
    for place, one in enumerate(ids):
        if one is not None:
            if one in known:
                continue
            known.add(one)
            new.append(one)
        fresh.append(place)
    if new:
        rows = [(kept_as, one) for one in blobs(new)]
        connection.exec_driver_sql(f"INSERT INTO {_IDS.name} (source, id) VALUES ({mark}, {mark})", rows)
    return fresh


def _mark(connection: sa.Connection) -> str:
    """Return how a driver marks a parameter: statements about thousands of ids go to it as they are."""
    return "?" if connection.dialect.paramstyle == "qmark" else "%s"


def _numbered(table: pa.Table, first: int, last: int) -> pa.Table:
    """Return the events whose numbers lie in a range, both ends included."""
    numbers = table.column(SEQUENCE_COLUMN)
    return table.filter(pc.and_(pc.greater_equal(numbers, first), pc.less_equal(numbers, last)))


def _chosen(table: pa.Table, columns: Iterable[str]) -> pa.Table:
    return table.select([name for name in columns if name in table.column_names])


def _dtype_of(events: pa.Table, column: str) -> DType:
    dtype = from_arrow(events.schema.field(column).type)
    assert dtype is not None
    return dtype


def _read_file(path: str, columns: Sequence[str]) -> pa.Table:
    with open_parquet(path) as file:
        known = file.schema_arrow.names
        # In the order of the file: it tells the ingest time's column in files of the first logs.
        wanted = {*columns, ingest_name(known), SEQUENCE_COLUMN}
        return under_log_names(file.read([name for name in known if name in wanted]))


def _locate(connection: sa.Connection, source: str, first: int, last: int) -> _Located:
    """Return where the events of a range of numbers lie."""
    batches = sa.select(_BATCHES.c.first, _BATCHES.c.events).where(*_within(_BATCHES, source, first, last))
    files = sa.select(_FILES.c.first, _FILES.c.path).where(*_within(_FILES, source, first, last))
    return _Located(
        {row.first: row.events for row in connection.execute(batches)},
        {row.first: row.path for row in connection.execute(files)},
    )


def _up_to(most_rows: int, batches: Iterable[Any]) -> list[Any]:
    """Return the first batches that have so many rows together; at least one."""
    chosen: list[Any] = []
    rows = 0
    for batch in batches:
        rows += batch.row_count
        if chosen and rows > most_rows:
            break
        chosen.append(batch)
    return chosen


def _of_like_types(tables: list[pa.Table]) -> list[pa.Table]:
    """Return the first tables whose columns have the same types in all of them; a file holds one type of a column."""
    schema = tables[0].schema
    for count, table in enumerate(tables[1:], 1):
        try:
            schema = pa.unify_schemas([schema, table.schema])
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            return tables[:count]
    return tables


def _within(table: sa.Table, source: str, first: int, last: int) -> tuple[sa.ColumnElement[bool], ...]:
    """Return what is true of stretches that overlap a range of numbers."""
    return table.c.source == source, table.c.first <= last, table.c.last >= first


@contextmanager
def _file_failures() -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, StorageError):
            raise
        raise _unusable(error) from error


def _damaged(path: str, error: Exception) -> StorageError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    hint = "Bring the file back from a backup; its events are nowhere else."
    return StorageError(f"the file '{path}' cannot be read: {reason}", where=_WHERE, hint=hint, code="event-log-file")


def _unusable(error: Exception) -> StorageError:
    hint = "Check the folder, its rights and the disk."
    return StorageError(str(error), where=_WHERE, hint=hint, code="event-log-file")
