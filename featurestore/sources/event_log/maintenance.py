"""Upkeep of the event log: moving old events from the database to Parquet files, and removing events for good.

Every process that shares the log must be able to read its files. An event is where the database says it is, and the
database says so in one transaction, so a crash loses and doubles nothing. Only files of the log are ever deleted: each
is recorded in the database before it is written, and again when another replaces it; a file that is recorded and not
named is left from a crash, and the next compaction deletes it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from featurestore.core.errors import ConfigError
from featurestore.core.temporal import NO_WATERMARK, NOTHING_YET
from featurestore.sources.event_log.database import BATCHES, FILES, LOOSE, WHERE
from featurestore.sources.event_log.log import EventLog
from featurestore.sources.event_log.reading import file_failures, overlapping
from featurestore.sources.event_log.stored import Stretch, packed, under_log_names, unpacked
from featurestore.storage.parquet import open_parquet, write_parquet

_FILE_ROWS = 1_000_000
_ROW_GROUP_ROWS = 250_000

Wanted: TypeAlias = Callable[[pa.Table], pa.Array]
"""Returns for a table of events a boolean array without nulls."""


def compact(log: EventLog, source: str, *, before_us: int) -> int:
    """Move the events that became known before an instant from the database to Parquet files.

    Returns:
        How many events were moved.

    Raises:
        ConfigError: Other processes that share the log might not see the files (``data-not-shared``,
            ``other-data-folder``); nothing was moved.
        StorageError: A file or the database cannot be written; what was not moved is where it was.
    """
    _check_folder(log, source)
    _sweep(log, source)
    moved = 0
    while (events := _compact_once(log, source, before_us)) is not None:
        moved += events
    return moved


def forget(
    log: EventLog, source: str, is_wanted: Wanted, *, from_us: int = NOTHING_YET, missing: list[str] | None = None
) -> int:
    """Remove events, and leave no copy of them in the log; see ``what_is_left``.

    Args:
        log: The log.
        source: Name of the source.
        is_wanted: Returns for a table of events a boolean array, true for those to remove.
        from_us: Only where events may have become known from this instant on.
        missing: Receives the paths of files that are not on this machine. Without it, they are an error.

    Returns:
        How many events were removed.

    Raises:
        StorageError: A file or the database cannot be written; what was not removed yet is still there.
    """
    removed = first = 0
    todo = _stretches_from(log, source, first, from_us)
    while todo:
        stretch = todo.pop(0)
        if missing is not None and stretch.path is not None and not Path(stretch.path).exists():
            now = _stretches_from(log, source, first, from_us)
            if stretch in now:
                missing.append(stretch.path)
                first = stretch.last + 1
            else:
                todo = now  # it was replaced meanwhile
            continue
        count = _forget_in(log, source, stretch, is_wanted)
        if count is None:
            todo = _stretches_from(log, source, first, from_us)
            continue
        removed, first = removed + count, stretch.last + 1
    _sweep(log, source)
    return removed


def _check_folder(log: EventLog, source: str) -> None:
    """Refuse a folder that other processes of the log do not see, as far as that can be known."""
    dialect = log.database.engine.dialect.name
    if dialect != "sqlite" and not log.is_shared:
        raise ConfigError(
            f"the log is in a {dialect} database that other machines may use, and the data folder is not declared "
            "as shared with them: events are not moved into it",
            where=WHERE,
            hint="If every process that uses this log sees the same data folder, write data_is_shared = true. If "
            'not, write compact = "never" under [schedule]: the events stay in the database.',
            code="data-not-shared",
        )
    newest = sa.select(FILES.c.path).where(FILES.c.source == source).order_by(FILES.c.first.desc()).limit(1)
    with log.database.reading() as connection:
        path = connection.execute(newest).scalar()
    if path is not None and not Path(log.place(path)).exists():
        raise ConfigError(
            f"compacted events of source '{source}' are in another folder: {log.place(path)} is not there",
            where=WHERE,
            hint="Let every process that uses this log have the same data folder.",
            code="other-data-folder",
        )


def _compact_once(log: EventLog, source: str, before_us: int) -> int | None:
    """Move one file's worth of events. The head is locked, so no other process moves or removes any.

    Returns:
        How many were moved; ``None`` if there is nothing left to move.
    """
    old = sa.select(BATCHES.c.last, BATCHES.c.row_count, BATCHES.c.ingest_us, BATCHES.c.first).where(
        BATCHES.c.source == source, BATCHES.c.ingest_us < before_us
    )
    with log.database.reading() as connection:
        if connection.execute(old.limit(1)).first() is None:
            return None
    with _writing_file(log, source) as (connection, path):
        chosen = _up_to(_FILE_ROWS, connection.execute(old.order_by(BATCHES.c.first)))
        if not chosen:
            return None
        events = sa.select(BATCHES.c.events).where(*overlapping(BATCHES, source, chosen[0].first, chosen[-1].last))
        stored = connection.execute(events.order_by(BATCHES.c.first)).scalars()
        tables = _of_like_types([under_log_names(unpacked(batch)) for batch in stored])
        chosen = chosen[: len(tables)]
        ending = sa.select(BATCHES.c.mark).where(BATCHES.c.source == source, BATCHES.c.first == chosen[-1].first)
        mark = connection.execute(ending).scalar_one()
        whole = Stretch(
            first=chosen[0].first,
            last=chosen[-1].last,
            row_count=sum(row.row_count for row in chosen),
            ingest_from_us=chosen[0].ingest_us,
            ingest_to_us=chosen[-1].ingest_us,
        )
        table = pa.concat_tables(tables, promote_options="default")
        connection.execute(sa.delete(BATCHES).where(*overlapping(BATCHES, source, whole.first, whole.last)))
        _add_file(log, connection, source, whole, table, path, mark)
        return whole.row_count


def _stretches_from(log: EventLog, source: str, first: int, from_us: int) -> list[Stretch]:
    """Return where the events lie from a number and an instant on."""
    known = log.stretches(source, ingest=(from_us, NO_WATERMARK))
    return [stretch for stretch in known if stretch.last >= first]


def _forget_in(log: EventLog, source: str, stretch: Stretch, is_wanted: Wanted) -> int | None:
    """Remove events of one stretch; return how many, ``None`` if they have been moved meanwhile."""
    if stretch.path is not None:
        return _forget_in_file(log, source, stretch, stretch.path, is_wanted)
    at = (BATCHES.c.source == source, BATCHES.c.first == stretch.first)
    with log.database.writing() as connection:
        log.database.lock(connection, source)
        stored = connection.execute(sa.select(BATCHES.c.events).where(*at)).scalar()
        if stored is None:
            return None
        table = under_log_names(unpacked(stored))
        kept = table.filter(pc.invert(is_wanted(table)))
        if kept.num_rows < table.num_rows:
            change = sa.update(BATCHES).where(*at)
            connection.execute(change.values(events=packed(kept), row_count=kept.num_rows))
    return int(table.num_rows - kept.num_rows)


def _forget_in_file(log: EventLog, source: str, stretch: Stretch, place: str, is_wanted: Wanted) -> int | None:
    """Replace a file by one without some events."""
    with _writing_file(log, source) as (connection, path):
        at = (FILES.c.source == source, FILES.c.first == stretch.first)
        old = connection.execute(sa.select(FILES.c.path, FILES.c.mark).where(*at)).first()
        if old is None or log.place(old.path) != place:
            return None
        with file_failures(), open_parquet(place) as file:
            table = under_log_names(file.read())
        kept = table.filter(pc.invert(is_wanted(table)))
        if kept.num_rows < table.num_rows:
            connection.execute(sa.delete(FILES).where(*at))
            _add_file(log, connection, source, stretch, kept, path, old.mark)
            connection.execute(sa.insert(LOOSE).values(source=source, path=old.path))
    return int(table.num_rows - kept.num_rows)


@contextmanager
def _writing_file(log: EventLog, source: str) -> Iterator[tuple[sa.Connection, str]]:
    """Begin a transaction that may name a new file, and yield the file's path; the source's head is locked.

    The path is recorded before, and the record is deleted by the transaction that names the file.
    """
    while True:
        path = f"source={source}/{uuid.uuid4().hex}.parquet"
        record = (LOOSE.c.source == source) & (LOOSE.c.path == path)
        with log.database.writing() as connection:
            connection.execute(sa.insert(LOOSE).values(source=source, path=path))
        with log.database.writing() as connection:
            log.database.lock(connection, source)
            if connection.execute(sa.select(LOOSE).where(record)).first() is None:
                continue  # another process has swept the record away meanwhile
            yield connection, path
            if connection.execute(sa.select(FILES).where(FILES.c.source == source, FILES.c.path == path)).first():
                connection.execute(sa.delete(LOOSE).where(record))
        return


def _add_file(
    log: EventLog, connection: sa.Connection, source: str, stretch: Stretch, table: pa.Table, path: str, mark: str
) -> None:
    """Write a file and name it in the database, with the mark of its last event."""
    with file_failures():
        write_parquet(table, Path(log.place(path)), compression="zstd", row_group_size=_ROW_GROUP_ROWS)
    values = {
        "first": stretch.first,
        "last": stretch.last,
        "row_count": table.num_rows,
        "ingest_from_us": stretch.ingest_from_us,
        "ingest_to_us": stretch.ingest_to_us,
        "mark": mark,
    }
    connection.execute(sa.insert(FILES).values(source=source, path=path, **values))


def _sweep(log: EventLog, source: str) -> None:
    """Delete recorded files that the log does not name.

    A process that writes a file holds the head until it names it.
    """
    loose = sa.select(LOOSE.c.path).where(LOOSE.c.source == source)
    if not log.folder.is_dir():
        return
    with log.database.reading() as connection:
        if connection.execute(loose).first() is None:
            return
    with log.database.writing() as connection:
        log.database.lock(connection, source)
        with file_failures():
            for path in connection.execute(loose).scalars().all():
                Path(log.place(path)).unlink(missing_ok=True)
        connection.execute(sa.delete(LOOSE).where(LOOSE.c.source == source))


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
