"""Rows of a source outside the event log: Parquet and frames are read in place, anything else into a spool.

DuckDB, SQL drivers and the readers of text are imported when a source needs them: most processes never do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import assert_never

import pyarrow as pa

from featurestore.core.dtypes import INT64, STRING, DType, from_arrow
from featurestore.core.errors import SourceDataError
from featurestore.core.values import ColumnCounts
from featurestore.definitions.sources import FileSource, FrameSource, Source, SqlSource
from featurestore.plan.checks import epoch_units
from featurestore.sources.convert import text_to_contract, to_contract
from featurestore.sources.csv_files import csv_files
from featurestore.sources.files import FoundFile, files_of, is_remote, place_of
from featurestore.sources.frames import raw_columns
from featurestore.sources.parquet import ParquetRows, stored_file
from featurestore.sources.rows import RawRows, SourceFile, TableRows, missing_column
from featurestore.sources.schema import (
    check_readable_twice,
    columns_outside,
    declared_dtypes,
    frame_of,
    is_yet_empty,
    unknown_source,
)
from featurestore.sources.settings import ReadSettings
from featurestore.sources.spool import Spool

_DEFAULT = ReadSettings()


def open_outside(source: Source, wanted: Mapping[str, DType], settings: ReadSettings) -> RawRows:
    """Open the rows of a source outside the event log, in pieces; what cannot be read in pieces is spooled.

    Raises:
        SourceMissingError: A file, table or column does not exist.
        SourceDataError: A file is corrupt, or a column has another dtype than the plan was made for.
        SourceError: A database or a remote file cannot be reached.
    """
    match source:
        case FileSource() | FrameSource() if has_nothing_outside(source, settings):
            return TableRows(pa.schema([(name, dtype.arrow) for name, dtype in wanted.items()]).empty_table())
        case FileSource() if source.file_format == "parquet" and not is_remote(str(source.path)):
            rows: RawRows = ParquetRows(files_of(source, settings), where=place_of(source), threads=settings.threads)
        case FrameSource():
            rows = TableRows(*frame_of(source))
        case FileSource() | SqlSource():
            return _spooled(source, wanted, settings)
        case _:
            raise unknown_source(source)
    _check_dtypes(source, rows.dtypes, wanted)
    return rows


def read_raw(
    source: Source, columns: Sequence[str], settings: ReadSettings = _DEFAULT
) -> Iterator[tuple[str, int, pa.Table]]:
    """Read some columns of a source in the types they have in it; those of CSV files are text.

    Args:
        source: The definition.
        columns: Columns that it has.
        settings: Threads, memory and folders.

    Yields:
        Tables, each with its place for messages (empty if it has none) and the number of its first row there. A column
        may be of several types, one per table.

    Raises:
        SourceMissingError: A file, table or column does not exist.
        SourceDataError: A file is corrupt.
        SourceError: A database or a remote file cannot be reached.
    """
    match source:
        case FrameSource():
            check_readable_twice(source)
            yield from _numbered(
                _tables_of(TableRows(raw_columns(source.frame, columns, where=place_of(source))), columns)
            )
        case FileSource() if source.file_format == "parquet" and not is_remote(str(source.path)):
            rows = ParquetRows(files_of(source, settings), where=place_of(source), threads=settings.threads)
            yield from _numbered(_tables_of(rows, columns))
        case FileSource() | SqlSource():
            for file, tables in _pieces(source, columns, settings):
                place = "" if file is None else f"file '{file.path}'"
                yield from _numbered((place, table) for table in tables)
        case _:
            raise unknown_source(source)


def read_ids(source: Source, event_id: str, kind: pa.DataType, settings: ReadSettings) -> Iterator[pa.Array]:
    """Read the event ids of the rows outside the log, piece by piece.

    Args:
        source: The definition.
        event_id: Column of the ids.
        kind: The ids' contract type.
        settings: Threads and memory.

    Raises:
        SourceError: They cannot be read, or their type has changed.
    """
    dtype = from_arrow(kind)
    assert dtype is not None
    rows = open_outside(source, {event_id: dtype}, settings)
    try:
        for number in range(len(rows.piece_rows)):
            column = rows.read_piece(number, [event_id]).column(event_id)
            yield to_contract(
                column,
                dtype,
                timezone=source.clock,
                where=place_of(source),
                epoch=epoch_units(source).get(event_id),
            )[0]
    finally:
        rows.close()


def compares_ids(source: SqlSource, event_id: str, kind: pa.DataType) -> bool:
    """Return whether a database compares event ids as the contract does: if they are whole numbers or text in it.

    Args:
        source: The definition.
        event_id: Column of the ids.
        kind: The ids' contract type.

    Raises:
        SourceError: The database refuses.
    """
    dtype = from_arrow(kind)
    return dtype in (INT64, STRING) and columns_outside(source, _DEFAULT)[0].get(event_id) == dtype


def has_ids(source: SqlSource, event_id: str, ids: pa.Array) -> bool:
    """Return whether a database holds one of some event ids, which it must compare as the contract does.

    Raises:
        SourceError: The database refuses.
    """
    from featurestore.sources.sql import SqlRows

    rows = SqlRows(source.url, source.table, source.query, place_of(source))
    return rows.has_any(event_id, ids.unique().to_pylist())


def has_nothing_outside(source: Source, settings: ReadSettings) -> bool:
    """Return whether a source that accepts pushes is known to hold nothing else; false if that takes a query."""
    match source:
        case FileSource():
            return is_yet_empty(source, settings)
        case FrameSource():
            return source.stream and int(frame_of(source)[0].num_rows) == 0
        case _:
            return False


def _spooled(source: FileSource | SqlSource, wanted: Mapping[str, DType], settings: ReadSettings) -> RawRows:
    where = place_of(source)
    is_csv = isinstance(source, FileSource) and source.file_format == "csv"
    guessed = wanted.keys() - declared_dtypes(source).keys() if is_csv else None
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

            yield None, SqlRows(source.url, source.table, source.query, place_of(source)).tables(columns, dtypes)
        case FileSource():
            if source.file_format == "csv":
                yield from csv_files(source, columns, settings, limit=None)
                return
            from featurestore.sources.text import read_remote_parquet

            yield None, read_remote_parquet(str(source.path), columns, settings, where=place_of(source))
        case _:
            assert_never(source)


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
        table: The columns as they are in the source.
        wanted: The contract dtypes.
        source: Its source, which declares how times are read.
        place: The place, for messages.
        first_row: Number of the first row in that place.
        guessed: For text of a CSV file, the columns without a declared dtype; ``None`` for other tables.
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

    columns = {name: read(name, dtype) for name, dtype in wanted.items()}
    table = pa.table({name: array for name, (array, _) in columns.items()})
    return table, {name: counts.not_finite for name, (_, counts) in columns.items() if counts.not_finite}


def _check_dtypes(source: Source, dtypes: Mapping[str, DType | None], wanted: Mapping[str, DType]) -> None:
    """Refuse columns that no longer have the dtypes the plan was made for."""
    declared = declared_dtypes(source)
    for name, dtype in wanted.items():
        if name not in dtypes:
            raise missing_column(place_of(source), name, list(dtypes))
        now = declared.get(name, dtypes[name])
        if now != dtype:
            raise SourceDataError(
                f"column '{name}' is {now or 'of an unsupported type'} now, the plan was made for {dtype}",
                where=place_of(source),
                hint="Apply the definitions again.",
                code="schema-changed",
            )


def _tables_of(rows: RawRows, columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    return ((rows.place(number), rows.read_piece(number, columns)) for number in range(len(rows.piece_rows)))


def _numbered(pieces: Iterable[tuple[str, pa.Table]]) -> Iterator[tuple[str, int, pa.Table]]:
    """Add to tables the number of their first row in their place."""
    seen: dict[str, int] = {}
    for place, table in pieces:
        yield place, seen.get(place, 0), table
        seen[place] = seen.get(place, 0) + table.num_rows
