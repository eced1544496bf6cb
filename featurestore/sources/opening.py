"""From a source's definition to its schema, its rows, and scans of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from itertools import chain
from os import PathLike
from typing import assert_never

import pyarrow as pa

from featurestore.core.dtypes import (
    DATE,
    INT64,
    STRING,
    TIMESTAMP,
    DType,
    Schema,
    from_arrow,
    parse_declared,
)
from featurestore.core.errors import SourceDataError, SourceError, SourceMissingError
from featurestore.core.values import ColumnCounts
from featurestore.definitions.sources import FileSource, FrameSource, Source, SqlSource
from featurestore.plan.checks import epoch_units
from featurestore.plan.mistakes import NOT_UTF8
from featurestore.plan.model import INGEST_COLUMN, SourcePlan, ViewPlan
from featurestore.sources.convert import can_convert, guess_dtype, inconvertible, text_to_contract, to_contract
from featurestore.sources.event_log import Stretch
from featurestore.sources.files import FoundFile, find_files, is_remote
from featurestore.sources.frames import is_single_use, raw_columns, raw_names, source_table
from featurestore.sources.logged import LoggedRows, LogRows, in_contract, reads_log
from featurestore.sources.parquet import ParquetRows, stored_file
from featurestore.sources.rows import RawRows, SourceFile, TableRows, dtypes_of, missing_column, naive_columns
from featurestore.sources.scan import IngestRange, Scan
from featurestore.sources.settings import ReadSettings
from featurestore.sources.spool import Spool

_DEFAULT = ReadSettings()


def read_schema(source: Source, settings: ReadSettings = _DEFAULT) -> Schema:
    """Find out the columns of a source.

    Parquet files and frames say their types. CSV text and the results of SQL queries are guessed from their first rows;
    a table's types are the database's. Declared dtypes come before all of these.

    Args:
        source: The definition.
        settings: Threads, memory, and where relative paths count from.

    Returns:
        Columns with their dtypes; ``None`` for a type the contract has no dtype for.

    Raises:
        SourceMissingError: A file, table, or a column with a declared dtype is not there.
        SourceDataError: A file is corrupt, files disagree, or a time column says no zone and the source none either.
        SourceError: A database or a remote file cannot be reached.
    """
    found, naive = _described(source, settings)
    declared = _declared_dtypes(source)
    epochs = epoch_units(source)
    for name, dtype in declared.items():
        if name not in found:
            raise missing_column(_place(source), name, list(found))
        # What is guessed from text is declared as anything that the text may say.
        found_dtype = None if isinstance(source, FileSource) and source.file_format == "csv" else found[name]
        if found_dtype is not None and not can_convert(found_dtype, dtype, epochs.get(name)):
            unit = "" if found_dtype.is_numeric else None
            raise inconvertible(found_dtype, dtype, f"{_place(source)}, column '{name}'", unit=unit)
    schema = Schema({**found, **declared}, getattr(found, "types", {}))
    for time in (source.event_time, source.ingest_time):
        # A day begins when its zone says.
        says_no_zone = time in naive or found.get(str(time)) == DATE
        if says_no_zone and schema[str(time)] == TIMESTAMP and source.timezone is None:
            raise SourceDataError(
                f"the timestamps of column '{time}' have no time zone",
                where=_place(source),
                hint="Say which one they are in: timezone='UTC', or timezone='America/New_York'.",
                code="naive-timestamps",
            )
    return schema


def column_names(source: Source, settings: ReadSettings = _DEFAULT) -> tuple[str, ...]:
    """Return the names of a source's columns, without looking at its rows.

    Raises:
        SourceMissingError: A file or table is not there.
        SourceDataError: A file is corrupt.
        SourceError: A database or a remote file cannot be reached.
    """
    match source:
        case FrameSource():
            _check_readable_twice(source)
            return raw_names(source.frame, where=_place(source))
        case SqlSource():
            from featurestore.sources.sql import SqlRows

            return SqlRows(source.url, source.table, source.query, _place(source)).names()
        case FileSource() if source.file_format == "csv":
            heads = [next(tables) for _, tables in _csv_files(source, None, settings, limit=0)]
            return tuple(dict.fromkeys(name for head in heads for name in head.column_names))
        case _:
            return tuple(_described(source, settings)[0])


def read_raw(
    source: Source, columns: Sequence[str], settings: ReadSettings = _DEFAULT
) -> Iterator[tuple[str, int, pa.Table]]:
    """Read some columns of a source in the types they have outside; those of CSV files are text.

    Args:
        source: The definition.
        columns: Columns that it has.
        settings: Threads, memory and folders.

    Yields:
        Tables, each with its place for messages (empty if it has none) and the number of its first row there. A column
        may be of several types, one per table.

    Raises:
        SourceMissingError: A file, table or column is not there.
        SourceDataError: A file is corrupt.
        SourceError: A database or a remote file cannot be reached.
    """
    match source:
        case FrameSource():
            _check_readable_twice(source)
            yield from _numbered(
                _tables_of(TableRows(raw_columns(source.frame, columns, where=_place(source))), columns)
            )
        case FileSource() if source.file_format == "parquet" and not is_remote(str(source.path)):
            rows = ParquetRows(files_of(source, settings), where=_place(source), threads=settings.threads)
            yield from _numbered(_tables_of(rows, columns))
        case FileSource() | SqlSource():
            for file, tables in _pieces(source, columns, settings):
                place = "" if file is None else f"file '{file.path}'"
                yield from _numbered((place, table) for table in tables)
        case _:
            raise _unknown_source(source)


def _tables_of(rows: RawRows, columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    return ((rows.place(number), rows.read_piece(number, columns)) for number in range(len(rows.piece_rows)))


def _numbered(pieces: Iterable[tuple[str, pa.Table]]) -> Iterator[tuple[str, int, pa.Table]]:
    """Add to tables the number of their first row in their place."""
    seen: dict[str, int] = {}
    for place, table in pieces:
        yield place, seen.get(place, 0), table
        seen[place] = seen.get(place, 0) + table.num_rows


def _outside(source: Source, wanted: Mapping[str, DType], settings: ReadSettings) -> RawRows:
    """Open the rows that lie outside the log."""
    match source:
        case FileSource() | FrameSource() if has_nothing_outside(source, settings):
            return TableRows(pa.schema([(name, dtype.arrow) for name, dtype in wanted.items()]).empty_table())
        case FileSource() if source.file_format == "parquet" and not is_remote(str(source.path)):
            rows: RawRows = ParquetRows(files_of(source, settings), where=_place(source), threads=settings.threads)
        case FrameSource():
            rows = TableRows(*_frame(source))
        case FileSource() | SqlSource():
            return _spooled(source, wanted, settings)
        case _:
            raise _unknown_source(source)
    _check_dtypes(source, rows.dtypes, wanted)
    return rows


def read_ids(source: Source, event_id: str, kind: pa.DataType, settings: ReadSettings) -> Iterator[pa.Array]:
    """Read the event ids of the rows outside the log, piece by piece.

    Args:
        source: The definition.
        event_id: Column of the ids.
        kind: The ids' contract type.
        settings: Threads and memory.

    Raises:
        SourceError: They cannot be read, or are of another type by now.
    """
    dtype = from_arrow(kind)
    assert dtype is not None
    rows = _outside(source, {event_id: dtype}, settings)
    try:
        for number in range(len(rows.piece_rows)):
            column = rows.read_piece(number, [event_id]).column(event_id)
            yield to_contract(
                column,
                dtype,
                timezone=source.clock,
                where=_place(source),
                epoch=epoch_units(source).get(event_id),
            )[0]
    finally:
        rows.close()


def compares_ids(source: SqlSource, event_id: str, kind: pa.DataType) -> bool:
    """Tell whether a database compares event ids as the contract does: if they are whole numbers or text there, too.

    Args:
        source: The definition.
        event_id: Column of the ids.
        kind: The ids' contract type.

    Raises:
        SourceError: The database refuses.
    """
    dtype = from_arrow(kind)
    return dtype in (INT64, STRING) and _described(source, _DEFAULT)[0].get(event_id) == dtype


def has_ids(source: SqlSource, event_id: str, ids: pa.Array) -> bool:
    """Ask a database whether it holds one of some event ids, which it must compare as the contract does.

    Raises:
        SourceError: The database refuses.
    """
    from featurestore.sources.sql import SqlRows

    rows = SqlRows(source.url, source.table, source.query, _place(source))
    return rows.has_any(event_id, ids.unique().to_pylist())


def has_nothing_outside(source: Source, settings: ReadSettings) -> bool:
    """Tell whether a source that accepts pushes holds nothing else; what cannot be told cheaply may hold more."""
    match source:
        case FileSource():
            return is_yet_empty(source, settings)
        case FrameSource():
            return source.stream and int(_frame(source)[0].num_rows) == 0
        case _:
            return False


def is_yet_empty(source: FileSource, settings: ReadSettings) -> bool:
    """Tell whether a source that accepts pushes has no file yet: then its declared dtypes are its columns."""
    if not source.stream or not source.dtypes or is_remote(str(source.path)):
        return False
    try:
        files_of(source, settings)
    except SourceMissingError:
        return True
    return False


def open_scan(source: Source, plan: SourcePlan, *, keys: Iterable[str] = (), settings: ReadSettings = _DEFAULT) -> Scan:
    """Open the events of a source, for one view; close it to give back temporary files.

    Rows that are neither local Parquet nor a frame are read here, once, and kept.

    Args:
        source: The definition.
        plan: What the view needs of it.
        keys: The view's key columns; rows in which one is null are an error or dropped, as the source says.
        settings: Threads, memory and folders.

    Raises:
        SourceMissingError: A file, table or column is not there.
        SourceDataError: A file is corrupt, or a value is not of its dtype.
        SourceError: A database or a remote file cannot be reached.
        StorageError: The temporary folder is full.
    """
    outside = _outside_of(source, [plan], settings)
    try:
        rows = _with_log(source, plan, outside, _stretches(source, settings), settings)
        return Scan(rows, plan, keys=tuple(keys), on_null=source.on_null, settings=settings)
    except SourceError:
        outside.close()
        raise


def open_log_scan(source: Source, view: ViewPlan, *, settings: ReadSettings, ingest: IngestRange | None = None) -> Scan:
    """Open the pushed events of a source alone, for one view.

    Deliveries are not compared here, neither with each other nor with the rows outside. Events that were pushed before
    a column was a key or the event time, and have no value in it, are left out.

    Args:
        source: The definition.
        view: The view.
        settings: Threads and memory, and the log.
        ingest: Only where events may have become known in this range; the scan must be read with it.
    """
    stretches = _stretches(source, settings, ingest=ingest)
    rows = _log_rows(view.source, stretches, settings, where=_log_place(view))
    return _log_scan(rows, view, settings)


def scan_of_events(events: pa.Table, view: ViewPlan, *, settings: ReadSettings) -> Scan:
    """Open events that were just appended to the log as ``open_log_scan`` opens those that are read from it.

    Args:
        events: Events under the names and types of the log.
        view: The view.
        settings: Threads and memory.

    Raises:
        SourceDataError: A value is not exactly one of the plan's dtype.
    """
    names = [column.name for column in view.source.columns]
    rows = TableRows(in_contract(events, view.source, names, where=_log_place(view)))
    return _log_scan(rows, view, settings)


def _log_scan(rows: RawRows, view: ViewPlan, settings: ReadSettings) -> Scan:
    keys = tuple(key.name for key in view.entity.keys)
    return Scan(rows, replace(view.source, event_id=None), keys=keys, on_null="drop", settings=settings)


@contextmanager
def open_scans(
    views: Iterable[ViewPlan], sources: Mapping[str, Source], settings: ReadSettings = _DEFAULT
) -> Iterator[dict[str, Scan]]:
    """Open a scan for each of several views; what several of them read alike is read into a spool only once.

    Args:
        views: The views.
        sources: Definitions by name.
        settings: Threads, memory and folders.

    Yields:
        Scans by view name.
    """
    by_source: dict[str, list[ViewPlan]] = {}
    for view in {view.name: view for view in views}.values():
        by_source.setdefault(view.source.name, []).append(view)
    with ExitStack() as stack:
        scans: dict[str, Scan] = {}
        for name, group in by_source.items():
            source = sources[name]
            stretches = _stretches(source, settings)
            for alike in _read_alike(group):
                outside = _outside_of(source, [view.source for view in alike], settings)
                stack.callback(outside.close)
                for view in alike:
                    rows = _with_log(source, view.source, outside, stretches, settings)
                    keys = tuple(key.name for key in view.entity.keys)
                    scans[view.name] = Scan(
                        rows, view.source, keys=keys, on_null=source.on_null, settings=settings, owns_rows=False
                    )
        yield scans


def _read_alike(views: Iterable[ViewPlan]) -> list[list[ViewPlan]]:
    """Group views of one source, of several plans perhaps, so that in each group a column is read in one way."""
    groups: list[tuple[str | None, dict[str, DType], list[ViewPlan]]] = []
    for view in views:
        timezone, wanted = view.source.timezone, {column.name: column.dtype for column in view.source.columns}
        for known_timezone, columns, group in groups:
            if timezone == known_timezone and all(columns.get(name, dtype) == dtype for name, dtype in wanted.items()):
                columns.update(wanted)
                group.append(view)
                break
        else:
            groups.append((timezone, wanted, [view]))
    return [group for _, _, group in groups]


def _outside_of(source: Source, plans: Sequence[SourcePlan], settings: ReadSettings) -> RawRows:
    """Open the rows that lie outside the log, for plans that read columns alike."""
    log_column = {INGEST_COLUMN} if source.stream else set()
    columns = {column.name: column.dtype for plan in plans for column in plan.columns if column.name not in log_column}
    return _outside(replace(source, timezone=plans[0].timezone), columns, settings)


def _with_log(
    source: Source, plan: SourcePlan, outside: RawRows, stretches: Sequence[Stretch], settings: ReadSettings
) -> RawRows:
    """Put the pushed events behind the rows outside, if the plan reads them."""
    if not reads_log(source, plan):
        return outside
    where = f"{_place(source)}, event log"
    return LoggedRows(outside, _log_rows(plan, stretches, settings, where=where), plan)


def _log_rows(plan: SourcePlan, stretches: Sequence[Stretch], settings: ReadSettings, *, where: str) -> RawRows:
    if settings.event_log is None:
        return TableRows(pa.schema([(column.name, column.dtype.arrow) for column in plan.columns]).empty_table())
    return LogRows(settings.event_log, plan, stretches, where=where)


def _stretches(source: Source, settings: ReadSettings, *, ingest: IngestRange | None = None) -> Sequence[Stretch]:
    """Return where the pushed events of a source lie now."""
    if not source.stream or settings.event_log is None:
        return ()
    return settings.event_log.stretches(source.name, ingest=ingest)


def _log_place(view: ViewPlan) -> str:
    """Return the place of events that one plan reads: others may read the same without a mistake."""
    return f"feature view '{view.name}' (plan {view.fingerprint[:12]}), source '{view.source.name}', event log"


def ingest_column(source: Source) -> str:
    """Return the column that says when an event of a source that accepts pushes became known."""
    return INGEST_COLUMN if source.ingest_time in (None, source.event_time) else str(source.ingest_time)


def _place(source: Source) -> str:
    return f"source '{source.name}'"


def files_of(source: FileSource, settings: ReadSettings) -> tuple[FoundFile, ...]:
    """Return the files of a local source."""
    return find_files(str(source.path), kind=source.file_format, base_folder=settings.base_folder, where=_place(source))


def _frame(source: FrameSource) -> tuple[pa.Table, dict[str, SourceDataError]]:
    _check_readable_twice(source)
    return source_table(source.frame, _declared_dtypes(source), where=_place(source))


def _check_readable_twice(source: FrameSource) -> None:
    if is_single_use(source.frame):
        raise SourceDataError(
            "a reader can be read only once",
            where=_place(source),
            hint="Give a table: frame=reader.read_all().",
            code="unreadable-frame",
        )


def _declared_dtypes(source: Source) -> dict[str, DType]:
    if isinstance(source, FileSource | SqlSource | FrameSource):
        return {name: parse_declared(dtype)[0] for name, dtype in source.dtypes.items()}
    return {}


def _unknown_source(source: Source) -> SourceError:
    return SourceError(
        f"{type(source).__name__} is no kind of source that can be read",
        where=_place(source),
        hint="Use FileSource, SqlSource or FrameSource.",
    )


def _described(source: Source, settings: ReadSettings) -> tuple[dict[str, DType | None], frozenset[str]]:
    """Return the columns as they are outside, and which timestamps say no zone."""
    match source:
        case FileSource():
            if is_yet_empty(source, settings):
                return dict(_declared_dtypes(source)), frozenset()
            if source.file_format == "csv":
                return _csv_schema(source, settings)
            if is_remote(str(source.path)):
                return _remote_schema(source, settings)
            rows = ParquetRows(files_of(source, settings), where=_place(source), threads=settings.threads)
            return Schema(rows.dtypes), rows.naive
        case FrameSource():
            schema = _frame(source)[0].schema
            return dtypes_of(schema), naive_columns(schema)
        case SqlSource():
            from featurestore.sources.sql import SqlRows

            times = [name for name in (source.event_time, source.ingest_time) if name is not None]
            return SqlRows(source.url, source.table, source.query, _place(source)).schema(times)
        case _:
            raise _unknown_source(source)


def _remote_schema(source: FileSource, settings: ReadSettings) -> tuple[Schema, frozenset[str]]:
    from featurestore.sources.text import read_remote_parquet

    schema = next(iter(read_remote_parquet(str(source.path), None, settings, where=_place(source), limit=0))).schema
    return dtypes_of(schema), naive_columns(schema)


def _csv_schema(source: FileSource, settings: ReadSettings) -> tuple[Schema, frozenset[str]]:
    from featurestore.sources.text import SAMPLE_ROWS, local_text, sample_text

    samples: list[pa.Table] = []
    unread: set[str] = set()
    for file in (None,) if is_remote(str(source.path)) else files_of(source, settings):
        # What is remote is unpacked by DuckDB, if at all.
        opened: AbstractContextManager[str | PathLike[str]] = (
            nullcontext(source.path) if file is None else local_text(file.path, settings, where=_place(source))
        )
        with opened as path:
            table, undecodable = sample_text(str(path), source.csv, settings, where=_place(source), limit=SAMPLE_ROWS)
        samples.append(table if file is None else _with_partition(table, file, None))
        unread.update(undecodable)
    sample = pa.concat_tables(samples, promote_options="default")
    guesses = {name: guess_dtype(sample.column(name).combine_chunks()) for name in sample.column_names}
    naive = frozenset(name for name, (_, is_naive) in guesses.items() if is_naive)
    dtypes = {name: dtype for name, (dtype, _) in guesses.items()} | dict.fromkeys(sorted(unread))
    return Schema(dtypes, dict.fromkeys(unread, NOT_UTF8)), naive


def _spooled(source: FileSource | SqlSource, wanted: Mapping[str, DType], settings: ReadSettings) -> RawRows:
    where = _place(source)
    is_csv = isinstance(source, FileSource) and source.file_format == "csv"
    guessed = wanted.keys() - _declared_dtypes(source).keys() if is_csv else None
    spool = Spool(pa.schema([(name, dtype.arrow) for name, dtype in wanted.items()]), settings, where=where)
    files: list[SourceFile] = []
    try:
        for file, tables in _pieces(source, wanted, settings):
            place = where if file is None else f"{where}, file '{file.path}'"
            row_count = 0
            for table in tables:
                spool.add(*_contract_table(table, wanted, source, place, row_count, guessed))
                row_count += table.num_rows
            if file is not None:
                files.append(stored_file(file.path, row_count))
        return spool.finish(tuple(files))
    except BaseException:
        spool.discard()
        raise


def _pieces(
    source: FileSource | SqlSource, columns: Sequence[str] | Mapping[str, DType], settings: ReadSettings
) -> Iterator[tuple[FoundFile | None, Iterator[pa.Table]]]:
    """Return the tables of a source, file by file; a mapping says what its columns will be read as."""
    dtypes = columns if isinstance(columns, Mapping) else None
    columns = list(columns)
    match source:
        case SqlSource():
            from featurestore.sources.sql import SqlRows

            yield None, SqlRows(source.url, source.table, source.query, _place(source)).tables(columns, dtypes)
        case FileSource():
            if source.file_format == "csv":
                yield from _csv_files(source, columns, settings, limit=None)
                return
            from featurestore.sources.text import read_remote_parquet

            yield None, read_remote_parquet(str(source.path), columns, settings, where=_place(source))
        case _:
            assert_never(source)


def _csv_files(
    source: FileSource, columns: list[str] | None, settings: ReadSettings, *, limit: int | None
) -> Iterator[tuple[FoundFile | None, Iterator[pa.Table]]]:
    """Return the text of a source's files, with the values that folders give."""
    from featurestore.sources.text import local_text, read_text

    if is_remote(str(source.path)):
        yield None, read_text(str(source.path), source.csv, columns, settings, where=_place(source), limit=limit)
        return
    missing = set(columns or ())
    for file in files_of(source, settings):
        with local_text(file.path, settings, where=_place(source)) as path:
            tables = read_text(str(path), source.csv, columns, settings, where=_place(source), limit=limit)
            given = {name for name, _ in file.partition}
            first = next(tables)
            missing -= given | set(first.column_names)
            yield file, (_with_partition(table, file, columns) for table in chain([first], tables))
    if missing:
        raise missing_column(_place(source), min(missing), list(_csv_schema(source, settings)[0]))


def _with_partition(table: pa.Table, file: FoundFile, columns: list[str] | None) -> pa.Table:
    """Add the values that folders give, and nulls for columns that this file lacks."""
    for name, value in file.partition:
        if name not in table.column_names and (columns is None or name in columns):
            table = table.append_column(name, pa.repeat(pa.scalar(value, pa.string()), table.num_rows))
    for name in columns or []:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
    return table


def _contract_table(
    table: pa.Table,
    wanted: Mapping[str, DType],
    source: Source,
    place: str,
    first_row: int,
    guessed: Set[str] | None,
) -> tuple[pa.Table, dict[str, int]]:
    """Return a table in contract dtypes, and the counts of floats in it that were not finite.

    Args:
        table: The columns as they are outside.
        wanted: The contract dtypes.
        source: Its source, which says how times are read.
        place: The place, for messages.
        first_row: Number of the first row in that place.
        guessed: For text of a CSV file, the columns whose dtypes nobody declared; ``None`` for other tables.
    """
    epochs = epoch_units(source)

    def read(name: str, dtype: DType) -> tuple[pa.Array, ColumnCounts]:
        column, where, epoch = table.column(name), f"{place}, column '{name}'", epochs.get(name)
        if guessed is None:
            return to_contract(column, dtype, timezone=source.clock, where=where, first_row=first_row, epoch=epoch)
        return text_to_contract(
            column,
            dtype,
            timezone=source.clock,
            where=where,
            first_row=first_row,
            epoch=epoch,
            is_guessed=name in guessed,
        )

    found = {name: read(name, dtype) for name, dtype in wanted.items()}
    table = pa.table({name: array for name, (array, _) in found.items()})
    return table, {name: counts.not_finite for name, (_, counts) in found.items() if counts.not_finite}


def _check_dtypes(source: Source, found: Mapping[str, DType | None], wanted: Mapping[str, DType]) -> None:
    """Make sure that columns still have the dtypes the plan was made for."""
    declared = _declared_dtypes(source)
    for name, dtype in wanted.items():
        if name not in found:
            raise missing_column(_place(source), name, list(found))
        now = declared.get(name, found[name])
        if now != dtype:
            raise SourceDataError(
                f"column '{name}' is {now or 'of an unsupported type'} now, the plan was made for {dtype}",
                where=_place(source),
                hint="Apply the definitions again.",
                code="schema-changed",
            )
