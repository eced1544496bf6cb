"""The durable log of pushed events, in a SQL database and, once compacted, in Parquet files.

Every event gets an ingest time and a number when it is appended. Both only grow within a source, whatever the clock
does and however many processes append: an append locks the source's head until it is committed. So a reader that has
seen the head can read every event before it.

What is acknowledged is committed: SQLite syncs every commit to the disk, PostgreSQL as it is configured.

Events are stored under names and types of the log's own: the ingest time has one name, whatever the source calls it,
and an event keeps the types it was pushed with. Plans convert what they read.

A source's ``event_id`` may be declared, changed or taken away at any time. So the log keeps the ids of every column
that was ever declared, each under the column's name and dtype. For each it knows the instant from which no event
repeats an id of an earlier one. Every append keeps the ids of all these columns, whatever definition the appending
process knows. It refuses an event as a duplicate only by the column that this definition declares. Ids are remembered
for ever: numbers as they are, others as 16 bytes of a hash.

``database.py`` has the tables and transactions, ``ids.py`` the ids, ``maintenance.py`` compaction and forgetting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import insert as insert_sqlite

from featurestore.core.dtypes import TIMESTAMP, DType, from_arrow
from featurestore.core.errors import SourceDataError, StorageError
from featurestore.core.retrying import retry
from featurestore.core.temporal import NO_WATERMARK, NOTHING_YET, duration_us, format_duration
from featurestore.plan.model import INGEST_COLUMN, SEQUENCE_COLUMN
from featurestore.sources.event_log.database import (
    BATCHES,
    FILES,
    KEYS,
    LogDatabase,
    database_failures,
    head_of,
    move_head,
    new_mark,
)
from featurestore.sources.event_log.ids import (
    Convert,
    KnownIds,
    begin_entering,
    enter,
    ids_of,
    known_ids,
    set_unique_from,
)
from featurestore.sources.event_log.reading import Located, file_failures, locate, open_events
from featurestore.sources.event_log.stored import (
    Head,
    IdColumn,
    Stretch,
    identities,
    packed,
    under_log_names,
    unpacked,
)
from featurestore.storage.database import what_is_left

MOST_ROWS = 5_000
"""Most events of one batch: what the online state folds in one transaction. Larger appends are cut."""

_ATTEMPTS = 6
"""How often to try to read events while compaction replaces files that the database has named."""

MOST_AHEAD_US = duration_us("1s")
"""How far ahead of the present the head of a log may be."""

KEYS_KEPT_US = duration_us("1d")
"""How long the log remembers the idempotency key of a push, at least."""

_FORGET_KEYS_EVERY_US = duration_us("10s")

_ENTERED_AT_ONCE = 50_000
"""How many events of the log have their ids entered in one transaction; pushes wait for it."""


@dataclass(frozen=True)
class Appended:
    """The outcome of an append.

    Attributes:
        events: The events that were new, with their ingest times.
        places: Their positions in the pushed table, ascending; the log had the ids of the others already.
        before: The log's head when the append began: events of other appends became known before it, or after ``head``.
        head: The log's head after it; ``next_sequence - 1`` is the number of its last event.
        unique_by: The id columns by which none of the events repeats another event of the log.
    """

    events: pa.Table
    places: Sequence[int]
    before: Head
    head: Head
    unique_by: frozenset[IdColumn] = frozenset()


@dataclass(frozen=True)
class PushKey:
    """The idempotency key of a push, and its outcome.

    Attributes:
        key: A hash of the key.
        content: A hash of the events: the same key with other events is not the same push.
        accepted: How many of its events were new.
        head: The log's head after it, without its mark.
    """

    key: bytes
    content: bytes
    accepted: int
    head: Head


class KnownKeysError(Exception):
    """The log already has the idempotency key of a push."""


class EventLog:
    """The log of all pushed sources of one store. May be used from several threads and processes.

    Attributes:
        database: Its database.
        folder: Where compaction writes its files.
        is_shared: Whether every process that uses the log sees the same files in the folder. Unless it is known, only
            a log in a SQLite file is compacted, which belongs to one machine as the folder does.
    """

    def __init__(self, url: str, folder: Path, *, is_shared: bool = False) -> None:
        """Take the places of the log; it is opened, and made if it is absent, with the first use.

        Args:
            url: SQLAlchemy URL of a SQLite file or a PostgreSQL database.
            folder: The folder of its files.
            is_shared: Whether every process that uses the log sees the same files in the folder.
        """
        self.database = LogDatabase(url)
        self.folder = folder
        self.is_shared = is_shared
        self._keys_forgotten_us: dict[str, int] = {}

    def close(self) -> None:
        """Close all connections; the next use opens them again."""
        self.database.close()

    def head(self, source: str) -> Head:
        """Return how far a source's log goes: every acknowledged event is before it.

        Raises:
            StorageError: The database cannot be read.
        """
        with self.database.reading() as connection:
            return head_of(connection, source) or Head()

    def is_past(self, source: str, head: Head) -> bool:
        """Return whether the log once had this head, and still has all events before it.

        This is false of a log that was restored from a copy, or that failed over to a replica which was behind, even if
        other events were appended since. Where a mark is not known, or lies in the midst of a compacted file, the
        ingest times of the events before the head decide.

        Args:
            source: Name of the source.
            head: How far the log went. Its ingest time is only used as a bound: every event before the head became
                known earlier.

        Raises:
            StorageError: The database or a file cannot be read.
        """
        with self.database.reading() as connection:
            present = head_of(connection, source) or Head()
            if head.next_sequence >= present.next_sequence:
                is_same_mark = not head.mark or not present.mark or head.mark == present.mark
                return head.next_sequence == present.next_sequence and is_same_mark
            if head.next_sequence <= 0:
                return True
            ends = (
                connection.execute(
                    sa.select(table.c.mark).where(table.c.source == source, table.c.last == head.next_sequence - 1)
                ).scalar()
                for table in (BATCHES, FILES)
            )
            mark = next((mark for mark in ends if mark is not None), "")
        if mark and head.mark:
            return mark == head.mark
        return self._is_known_before(source, head)

    def _is_known_before(self, source: str, head: Head) -> bool:
        """Return whether all events with numbers below a head became known before it."""
        last = head.next_sequence - 1
        later = self.stretches(source, ingest=(head.next_ingest_us, NO_WATERMARK))
        tables = (
            table
            for stretch in later
            if stretch.first <= last
            for table in self.read(source, stretch.first, min(stretch.last, last), [])
        )
        return all(
            pc.max(table.column(INGEST_COLUMN).cast(pa.int64())).as_py() < head.next_ingest_us for table in tables
        )

    def now_us(self, machine_us: int) -> int:
        """Return about the present instant by the log's clock, and never a later one.

        Args:
            machine_us: The present instant by the clock of this machine. It is also the log's if the database has no
                clock of its own, or as long as that was not read.
        """
        return machine_us - self.database.ahead_us

    def ahead_us(self, source: str, *, machine_us: int) -> int:
        """Return how far the head of a source is ahead of the present; 0 if it is not.

        While it is, pushes are refused. ``redate`` ends that.

        Args:
            source: Name of the source.
            machine_us: The present instant by the clock of this machine.

        Raises:
            StorageError: The database cannot be read.
        """
        with self.database.reading() as connection:
            head = head_of(connection, source) or Head()
            return max(0, head.next_ingest_us - self.database.clock_us(connection, lambda: machine_us))

    def seal(self, source: str, until_us: int) -> Head:
        """Promise that no event to come has an ingest time before an instant; return the head.

        If the database has a clock of its own, the promise reaches at most a second beyond its present: a machine whose
        clock is ahead does not make the events of others visible late.

        Raises:
            StorageError: The database cannot be written.
        """
        known = self.head(source)
        if known.next_ingest_us >= until_us:
            return known
        with self.database.writing() as connection:
            head, present_us = self.database.lock_now(connection, source, lambda: until_us)
            latest_us = min(until_us, present_us + MOST_AHEAD_US)
            sealed = replace(head, next_ingest_us=max(head.next_ingest_us, latest_us))
            move_head(connection, source, sealed)
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
            events: The events in contract dtypes, without an ingest time, and no two of them with the same id.
            event_id: Column of the id; ``None`` if every row is its own event.
            convert: Converts ids to the dtypes in which the log keeps them.
            now_us: Returns the present instant by the clock of this machine. The ingest time of the events is the
                present, read after the head was locked, by the database's clock if it has one and else by this one;
                or the head's, if that is later.
            keys: Returns for the positions of the new events, and the head after them, the idempotency keys to remember
                with them.

        Raises:
            SourceDataError: Ids that the log holds in the column are not of the dtype; nothing was appended.
            KnownKeysError: The log has one of the keys; nothing was appended.
            StorageError: The database cannot be written, or the head is more than a second ahead of the present
                (``log-head-ahead``); nothing was appended. If the code is ``OUTCOME_UNKNOWN``, it is not known whether
                the events were appended.
        """
        declared = None if event_id is None else IdColumn(event_id, _dtype_of(events, event_id))
        while True:
            with self.database.writing() as connection:
                before, present_us = self.database.lock_now(connection, source, now_us)
                if before.next_ingest_us > present_us + MOST_AHEAD_US:
                    raise head_ahead(source, before.next_ingest_us - present_us)
                entered = known_ids(connection, source)
                if declared is None or (declared in entered and entered[declared].is_complete):
                    appended = _append(connection, source, events, before, declared, entered, convert, present_us)
                    if keys is not None:
                        self._remember_keys(connection, source, keys(appended.places, appended.head), present_us)
                    return appended
            self.enter_ids(source, declared, convert=convert)

    def enter_ids(self, source: str, column: IdColumn, *, convert: Convert) -> None:
        """Keep the ids of a column from now on, and enter those of the events in the log unless that was done before.

        It takes several transactions, and pushes go on between them.

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
            with self.database.writing() as connection:
                head = self.database.lock(connection, source)
                known = known_ids(connection, source).get(column) or begin_entering(connection, source, column)
                if known.is_complete:
                    return
                if first >= head.next_sequence:
                    unique_from_us = head.next_ingest_us if has_repeated else NOTHING_YET
                    set_unique_from(connection, source, column, unique_from_us)
                    return
                last = first + _ENTERED_AT_ONCE - 1
                located = locate(connection, source, first, last)
                for table in open_events(located, self.place, first, last, [column.name]):
                    ids = ids_of(table, column, convert)
                    has_repeated |= len(enter(connection, known.kept_as, ids)) < len(ids)
                first = last + 1

    def unique_from_us(self, source: str, column: IdColumn) -> int:
        """Return the instant from which no event in the log repeats an id of an earlier one in a column.

        ``NO_WATERMARK`` if it is not known.

        Raises:
            StorageError: The database cannot be read.
        """
        with self.database.reading() as connection:
            known = known_ids(connection, source).get(column)
        return NO_WATERMARK if known is None else known.unique_from_us

    def pushed_before(self, source: str, keys: Sequence[bytes]) -> dict[bytes, PushKey]:
        """Return those idempotency keys that the log has, each with the outcome of its push.

        Raises:
            StorageError: The database cannot be read.
        """
        with self.database.reading() as connection:
            rows = connection.execute(sa.select(KEYS).where(KEYS.c.source == source, KEYS.c.key.in_(keys)))
            return {
                row.key: PushKey(row.key, row.content, row.accepted, Head(row.next_sequence, row.next_ingest_us))
                for row in rows
            }

    def _remember_keys(self, connection: sa.Connection, source: str, keys: Sequence[PushKey], present_us: int) -> None:
        """Keep idempotency keys for a day or a little longer.

        Raises:
            KnownKeysError: The log has one of them already.
        """
        if not keys:
            return
        if not 0 <= present_us - self._keys_forgotten_us.get(source, NOTHING_YET) < _FORGET_KEYS_EVERY_US:
            self._keys_forgotten_us[source] = present_us
            old = (KEYS.c.source == source) & (KEYS.c.pushed_us < present_us - KEYS_KEPT_US)
            connection.execute(sa.delete(KEYS).where(old))
        insert = insert_postgresql if connection.dialect.name == "postgresql" else insert_sqlite
        rows = [
            {
                "source": source,
                "key": key.key,
                "content": key.content,
                "accepted": key.accepted,
                "next_sequence": key.head.next_sequence,
                "next_ingest_us": key.head.next_ingest_us,
                "pushed_us": present_us,
            }
            for key in keys
        ]
        statement = insert(KEYS).values(rows).on_conflict_do_nothing()
        if connection.execute(statement.execution_options(preserve_rowcount=True)).rowcount < len(rows):
            raise KnownKeysError

    def redate(self, source: str, *, machine_us: int) -> int:
        """Set the ingest time of events that lie in the future to the present, and move the head back to it.

        Their order stays. The log's marks change, so states that were made of these events are rebuilt.

        Args:
            source: Name of the source.
            machine_us: The present instant by the clock of this machine.

        Returns:
            How many events got another ingest time.

        Raises:
            StorageError: The database cannot be written, or events of the future lie in a compacted file; nothing was
                changed.
        """
        with self.database.writing() as connection:
            head, present_us = self.database.lock_now(connection, source, lambda: machine_us)
            if head.next_ingest_us <= present_us:
                return 0
            compacted = sa.select(FILES.c.first).where(FILES.c.source == source, FILES.c.ingest_to_us >= present_us)
            if connection.execute(compacted).first() is not None:
                raise StorageError(
                    "events of the future were compacted",
                    where=f"event log, source '{source}'",
                    hint="Wait until then, or restore the log from before the compaction.",
                    code="event-log-file",
                )
            later = sa.select(BATCHES.c.first, BATCHES.c.events).where(
                BATCHES.c.source == source, BATCHES.c.ingest_us >= present_us
            )
            rows = connection.execute(later.order_by(BATCHES.c.first)).all()
            moved = 0
            for at_us, row in enumerate(rows, present_us):
                events = _redated(under_log_names(unpacked(row.events)), at_us)
                change = sa.update(BATCHES).where(BATCHES.c.source == source, BATCHES.c.first == row.first)
                connection.execute(change.values(events=packed(events), ingest_us=at_us, mark=new_mark()))
                moved += events.num_rows
            after = replace(head, next_ingest_us=present_us + len(rows) + 1, mark=new_mark())
            move_head(connection, source, after)
            for table in (BATCHES, FILES):
                ending = (table.c.source == source) & (table.c.last == head.next_sequence - 1)
                connection.execute(sa.update(table).where(ending).values(mark=after.mark))
            return moved

    def stretches(self, source: str, *, ingest: tuple[int, int] | None = None) -> list[Stretch]:
        """Return where the events of a source are stored, in the order of their numbers.

        Args:
            source: Name of the source.
            ingest: Only stretches that may hold events with ``from <= ingest_time < until``.

        Raises:
            StorageError: The database cannot be read.
        """
        files = sa.select(FILES).where(FILES.c.source == source)
        batches = sa.select(
            BATCHES.c.first, BATCHES.c.last, BATCHES.c.row_count, BATCHES.c.ingest_us.label("ingest_us")
        ).where(BATCHES.c.source == source)
        if ingest is not None:
            files = files.where(FILES.c.ingest_to_us >= ingest[0], FILES.c.ingest_from_us < ingest[1])
            batches = batches.where(BATCHES.c.ingest_us >= ingest[0], BATCHES.c.ingest_us < ingest[1])
        with self.database.reading() as connection:
            stretches = [
                Stretch(row.first, row.last, row.row_count, row.ingest_from_us, row.ingest_to_us, self.place(row.path))
                for row in connection.execute(files)
            ]
            stretches += [
                Stretch(row.first, row.last, row.row_count, row.ingest_us, row.ingest_us)
                for row in connection.execute(batches)
            ]
        return sorted((stretch for stretch in stretches if stretch.row_count), key=lambda stretch: stretch.first)

    def read(self, source: str, first: int, last: int, columns: Sequence[str]) -> list[pa.Table]:
        """Return events by number, from the database or from files.

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
        with file_failures():
            return retry(
                lambda: open_events(self._located(source, first, last), self.place, first, last, columns),
                is_transient=lambda error: isinstance(error, FileNotFoundError),
                attempts=_ATTEMPTS,
            )

    def _located(self, source: str, first: int, last: int) -> Located:
        with self.database.reading() as connection:
            return locate(connection, source, first, last)

    def what_is_left(self) -> str:
        """Overwrite removed events as far as the database allows; return where copies may remain, empty if nowhere.

        Raises:
            StorageError: The database cannot be written.
        """
        with database_failures():
            return what_is_left(self.database.engine)

    def place(self, path: str) -> str:
        """Return the absolute path of a file that the database names."""
        return str(self.folder / path)


def head_ahead(source: str, ahead_us: int) -> StorageError:
    """Return the error of a log whose head is in the future, with the command that repairs it.

    Args:
        source: Name of the source.
        ahead_us: How far it is ahead of the present.
    """
    return StorageError(
        f"its head is {format_duration(ahead_us)} ahead of the present: events pushed now would be visible only then",
        where=f"event log, source '{source}'",
        hint=f"A clock was ahead. Run 'featurestore repair-log {source}', or store.repair_log('{source}').",
        code="log-head-ahead",
    )


def _redated(events: pa.Table, ingest_us: int) -> pa.Table:
    """Give events another ingest time."""
    times = pa.repeat(pa.scalar(ingest_us, pa.int64()), events.num_rows).cast(TIMESTAMP.arrow)
    return events.set_column(events.column_names.index(INGEST_COLUMN), INGEST_COLUMN, times)


def _append(
    connection: sa.Connection,
    source: str,
    events: pa.Table,
    before: Head,
    declared: IdColumn | None,
    entered: Mapping[IdColumn, KnownIds],
    convert: Convert,
    present_us: int,
) -> Appended:
    """Append events while the head is locked."""
    fresh: Sequence[int] = range(events.num_rows)
    if declared is not None:
        ids = identities(events.column(declared.name).to_pylist())
        fresh = enter(connection, entered[declared].kept_as, ids)
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
                others = ids_of(kept, column, convert)
            except SourceDataError:
                set_unique_from(connection, source, column, NO_WATERMARK)
                continue
            if len(enter(connection, known.kept_as, others)) == len(others):
                unique_by.add(column)
            else:
                set_unique_from(connection, source, column, head.next_ingest_us)
    move_head(connection, source, head)
    whole = pa.concat_tables(tables) if tables else _dated(kept, head)
    return Appended(whole, fresh, before, head, frozenset(unique_by))


def _dated(events: pa.Table, head: Head) -> pa.Table:
    """Add the ingest time and the numbers that follow the head to events."""
    ingested = pa.repeat(pa.scalar(head.next_ingest_us, pa.int64()), events.num_rows).cast(TIMESTAMP.arrow)
    numbers = pa.array(range(head.next_sequence, head.next_sequence + events.num_rows), pa.int64())
    return events.append_column(INGEST_COLUMN, ingested).append_column(SEQUENCE_COLUMN, numbers)


def _add(connection: sa.Connection, source: str, events: pa.Table, head: Head) -> Head:
    """Insert one batch; return the head after it."""
    after = Head(head.next_sequence + events.num_rows, head.next_ingest_us + 1, new_mark())
    connection.execute(
        sa.insert(BATCHES).values(
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


def _dtype_of(events: pa.Table, column: str) -> DType:
    dtype = from_arrow(events.schema.field(column).type)
    assert dtype is not None
    return dtype
