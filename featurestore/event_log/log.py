"""The durable log of pushed events, in a SQL database and, once compacted, in Parquet files.

Every event gets an ingest time and a number when it is taken. Both only grow within a source, whatever the clock does
and however many processes append: an append locks the source's head until it is committed. So whoever has seen the
head has seen every event before it.

What is acknowledged is committed: SQLite syncs every commit to the disk, PostgreSQL as it is configured. An event id is
taken once; the log remembers ids for ever: numbers as they are, others as 16 bytes of a hash.

Compaction moves old events to files, which every process that shares the log must be able to read. An event is where
the database says it is, and the database says so in one transaction, so a crash loses and doubles nothing. The log
deletes no files but its own: each is recorded in the database before it is written, and again when another replaces it;
what is recorded and not named is left from a crash, and a later compaction deletes it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import insert as insert_sqlite

from featurestore.database import blobs, failures, for_writing, one_snapshot, open_database, what_is_left
from featurestore.dtypes import TIMESTAMP
from featurestore.errors import ConfigError, StorageError
from featurestore.event_log.stored import Head, Stretch, identities, packed, unpacked
from featurestore.files import write_parquet
from featurestore.plan.model import SEQUENCE_COLUMN
from featurestore.temporal import NO_WATERMARK, NOTHING_YET

_WHERE = "event log"
_METADATA = sa.MetaData()
_NAME = sa.String(500)

_HEADS = sa.Table(
    "event_log_heads",
    _METADATA,
    sa.Column("source", _NAME, primary_key=True),
    sa.Column("next_sequence", sa.BigInteger, nullable=False),
    sa.Column("next_ingest_us", sa.BigInteger, nullable=False),
)
_BATCHES = sa.Table(
    "event_log_batches",
    _METADATA,
    sa.Column("source", _NAME, primary_key=True),
    sa.Column("first", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("last", sa.BigInteger, nullable=False),
    sa.Column("row_count", sa.BigInteger, nullable=False),
    sa.Column("ingest_us", sa.BigInteger, nullable=False),
    sa.Column("events", sa.LargeBinary, nullable=False),
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

MOST_ROWS = 5_000
"""Most events of one batch: what the online state folds in one transaction. Larger appends are cut."""

_READ_AGAIN = 5
"""How often a read begins anew because files that the database named were replaced before they were opened."""

_FILE_ROWS = 1_000_000
_ROW_GROUP_ROWS = 250_000
_IDS_AT_ONCE = 10_000


Wanted: TypeAlias = Callable[[pa.Table], pa.Array]
"""Gives for a table of events a boolean array without nulls."""


@dataclass(frozen=True)
class Appended:
    """What an append did.

    Attributes:
        events: The events that are now in the log, with their ingest times.
        places: Their places among those given, ascending; the ids of the others the log had.
        before: The log's head when the append began: every event of others has become known before it, or after
            ``head``.
        head: The log's head after it; ``next_sequence - 1`` is the number of its last event.
    """

    events: pa.Table
    places: Sequence[int]
    before: Head
    head: Head


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

    @property
    def _engine(self) -> sa.Engine:
        with self._opening:
            if self._opened is None:
                engine = open_database(self._url, where=_WHERE, error=StorageError, kind="event-log")
                try:
                    with _told(), engine.connect() as connection, for_writing(connection).begin():
                        _METADATA.create_all(connection)
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

    def seal(self, source: str, until_us: int) -> Head:
        """Promise that no event to come has an ingest time before an instant; return the head.

        Raises:
            StorageError: The database cannot be written.
        """
        known = self.head(source)
        if known.next_ingest_us >= until_us:
            return known
        with self._writing() as connection:
            head = self._lock(connection, source)
            sealed = Head(head.next_sequence, max(head.next_ingest_us, until_us))
            _move(connection, source, sealed)
            return sealed

    def append(
        self, source: str, events: pa.Table, *, event_id: str | None, ingest_time: str, now_us: Callable[[], int]
    ) -> Appended:
        """Commit events; when it returns, no crash loses them.

        Args:
            source: Name of the source.
            events: The events in contract dtypes, without an ingest time. Of events with one id only one is given.
            event_id: Column of the id; ``None`` if every row is its own event.
            ingest_time: Name the column of ingest times gets.
            now_us: Gives the present instant, once nobody else appends: the events' ingest time, unless the log is
                there already.

        Raises:
            StorageError: The database cannot be written; nothing was appended.
        """
        ids = identities(events.column(event_id).to_pylist()) if event_id is not None else []
        with self._writing() as connection:
            before = self._lock(connection, source)
            fresh = _fresh(connection, source, ids) if ids else range(events.num_rows)
            kept = events if len(fresh) == events.num_rows else events.take(pa.array(fresh, pa.int64()))
            _remember(connection, source, [ids[place] for place in fresh] if ids else [])
            head = Head(before.next_sequence, max(before.next_ingest_us, now_us()))
            tables = []
            for start in range(0, kept.num_rows, MOST_ROWS):
                table = _dated(kept.slice(start, MOST_ROWS), head, ingest_time)
                tables.append(table)
                head = _add(connection, source, table, head)
            _move(connection, source, head)
        whole = pa.concat_tables(tables) if tables else _dated(kept, head, ingest_time)
        return Appended(whole, fresh, before, head)

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
            columns: Columns to read, the ingest time's among them; those that events do not have are left out.

        Returns:
            Tables in the order of the numbers. Tables of different times may have different columns.

        Raises:
            StorageError: The database or a file cannot be read.
        """
        for _ in range(_READ_AGAIN):
            with suppress(FileNotFoundError):
                return self._read(source, first, last, columns)
        with _file_failures():
            return self._read(source, first, last, columns)

    def _read(self, source: str, first: int, last: int, columns: Sequence[str]) -> list[pa.Table]:
        """Read events once.

        Raises:
            FileNotFoundError: A file was replaced after the database had named it.
        """
        with self._reading() as connection:
            batches = connection.execute(
                sa.select(_BATCHES.c.first, _BATCHES.c.events).where(*_within(_BATCHES, source, first, last))
            ).all()
            files = connection.execute(
                sa.select(_FILES.c.first, _FILES.c.path).where(*_within(_FILES, source, first, last))
            ).all()
        tables = {row.first: unpacked(row.events) for row in batches}
        for row in files:
            path = self._place(row.path)
            try:
                tables[row.first] = _read_file(path, columns)
            except FileNotFoundError:
                raise
            except (OSError, pa.ArrowException) as error:
                raise _unusable(error) from error
        found = [_numbered(table, first, last) for _, table in sorted(tables.items())]
        return [_chosen(table, columns) for table in found if table.num_rows]

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
            tables = _of_like_types([unpacked(one) for one in stored])
            chosen = chosen[: len(tables)]
            whole = Stretch(
                first=chosen[0].first,
                last=chosen[-1].last,
                row_count=sum(row.row_count for row in chosen),
                ingest_from_us=chosen[0].ingest_us,
                ingest_to_us=chosen[-1].ingest_us,
            )
            table = pa.concat_tables(tables, promote_options="default")
            connection.execute(sa.delete(_BATCHES).where(*_within(_BATCHES, source, whole.first, whole.last)))
            self._add_file(connection, source, whole, table, path)
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

    def _add_file(self, connection: sa.Connection, source: str, stretch: Stretch, table: pa.Table, path: str) -> None:
        """Write a file and name it in the database."""
        with _file_failures():
            write_parquet(table, Path(self._place(path)), compression="zstd", row_group_size=_ROW_GROUP_ROWS)
        values = {
            "first": stretch.first,
            "last": stretch.last,
            "row_count": table.num_rows,
            "ingest_from_us": stretch.ingest_from_us,
            "ingest_to_us": stretch.ingest_to_us,
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
            table = unpacked(stored)
            kept = table.filter(pc.invert(is_wanted(table)))
            if kept.num_rows < table.num_rows:
                change = sa.update(_BATCHES).where(*at)
                connection.execute(change.values(events=packed(kept), row_count=kept.num_rows))
        return int(table.num_rows - kept.num_rows)

    def _forget_in_file(self, source: str, stretch: Stretch, place: str, is_wanted: Wanted) -> int | None:
        """Replace a file by one without some events."""
        with self._writing_file(source) as (connection, path):
            at = (_FILES.c.source == source, _FILES.c.first == stretch.first)
            old = connection.execute(sa.select(_FILES.c.path).where(*at)).scalar()
            if old is None or self._place(old) != place:
                return None
            with _file_failures():
                table = pq.read_table(place, partitioning=None)
            kept = table.filter(pc.invert(is_wanted(table)))
            if kept.num_rows < table.num_rows:
                connection.execute(sa.delete(_FILES).where(*at))
                self._add_file(connection, source, stretch, kept, path)
                connection.execute(sa.insert(_LOOSE).values(source=source, path=old))
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
        with _told(), self._engine.connect() as connection, for_writing(connection).begin():
            yield connection


def _told() -> AbstractContextManager[None]:
    return failures(_WHERE, error=StorageError, kind="event-log")


def _head(connection: sa.Connection, source: str, *, lock: bool = False) -> Head | None:
    wanted = sa.select(_HEADS.c.next_sequence, _HEADS.c.next_ingest_us).where(_HEADS.c.source == source)
    found = connection.execute(wanted.with_for_update() if lock else wanted).first()
    return None if found is None else Head(found.next_sequence, found.next_ingest_us)


def _move(connection: sa.Connection, source: str, head: Head) -> None:
    change = sa.update(_HEADS).where(_HEADS.c.source == source)
    connection.execute(change.values(next_sequence=head.next_sequence, next_ingest_us=head.next_ingest_us))


def _dated(events: pa.Table, head: Head, ingest_time: str) -> pa.Table:
    """Give events the ingest time that the head says, and numbers from there on."""
    ingested = pa.repeat(pa.scalar(head.next_ingest_us, pa.int64()), events.num_rows).cast(TIMESTAMP.arrow)
    numbers = pa.array(range(head.next_sequence, head.next_sequence + events.num_rows), pa.int64())
    return events.append_column(ingest_time, ingested).append_column(SEQUENCE_COLUMN, numbers)


def _add(connection: sa.Connection, source: str, events: pa.Table, head: Head) -> Head:
    """Put one batch into the log; return the head after it."""
    after = Head(head.next_sequence + events.num_rows, head.next_ingest_us + 1)
    connection.execute(
        sa.insert(_BATCHES).values(
            source=source,
            first=head.next_sequence,
            last=after.next_sequence - 1,
            row_count=events.num_rows,
            ingest_us=head.next_ingest_us,
            events=packed(events),
        )
    )
    return after


def _fresh(connection: sa.Connection, source: str, ids: Sequence[bytes | None]) -> list[int]:
    """Return the places of the ids that the log does not have."""
    known: set[bytes] = set()
    given = [one for one in ids if one is not None]
    mark = _mark(connection)
    for start in range(0, len(given), _IDS_AT_ONCE):
        some = given[start : start + _IDS_AT_ONCE]
        wanted = ",".join([mark] * len(some))
        statement = f"SELECT id FROM {_IDS.name} WHERE source = {mark} AND id IN ({wanted})"
        known.update(bytes(one) for (one,) in connection.exec_driver_sql(statement, (source, *blobs(some))))
    return [place for place, one in enumerate(ids) if one is None or one not in known]


def _remember(connection: sa.Connection, source: str, ids: Iterable[bytes | None]) -> None:
    """Keep ids for ever."""
    if new := [(source, one) for one in blobs(one for one in ids if one is not None)]:
        mark = _mark(connection)
        connection.exec_driver_sql(f"INSERT INTO {_IDS.name} (source, id) VALUES ({mark}, {mark})", new)


def _mark(connection: sa.Connection) -> str:
    """Return how a driver marks a parameter: statements about thousands of ids go to it as they are."""
    return "?" if connection.dialect.paramstyle == "qmark" else "%s"


def _numbered(table: pa.Table, first: int, last: int) -> pa.Table:
    """Return the events whose numbers lie in a range, both ends included."""
    numbers = table.column(SEQUENCE_COLUMN)
    return table.filter(pc.and_(pc.greater_equal(numbers, first), pc.less_equal(numbers, last)))


def _chosen(table: pa.Table, columns: Iterable[str]) -> pa.Table:
    return table.select([name for name in columns if name in table.column_names])


def _read_file(path: str, columns: Iterable[str]) -> pa.Table:
    with pq.ParquetFile(path) as file:
        known = file.schema_arrow.names
        return file.read([SEQUENCE_COLUMN, *(name for name in columns if name in known)])


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


def _unusable(error: Exception) -> StorageError:
    hint = "Check the folder, its rights and the disk."
    return StorageError(str(error), where=_WHERE, hint=hint, code="event-log-file")
