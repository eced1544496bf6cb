"""The columns of a source and their dtypes, found without reading its rows; text and query results are sampled.

DuckDB and SQL drivers are imported when a source needs them: most processes never do.
"""

from __future__ import annotations

import pyarrow as pa

from featurestore.core.dtypes import DATE, TIMESTAMP, DType, Schema, parse_declared
from featurestore.core.errors import SourceDataError, SourceError, SourceMissingError
from featurestore.definitions.sources import FileSource, FrameSource, Source, SqlSource
from featurestore.plan.checks import epoch_units
from featurestore.sources.convert import can_convert, inconvertible
from featurestore.sources.csv_files import csv_columns, csv_files
from featurestore.sources.files import files_of, is_remote, place_of
from featurestore.sources.frames import is_single_use, raw_names, source_table
from featurestore.sources.parquet import ParquetRows
from featurestore.sources.rows import dtypes_of, missing_column, naive_columns
from featurestore.sources.settings import ReadSettings

DEFAULT_SETTINGS = ReadSettings()


def read_schema(source: Source, settings: ReadSettings = DEFAULT_SETTINGS) -> Schema:
    """Return the columns of a source with their dtypes.

    Parquet files and frames have types. Those of CSV text and of the results of SQL queries are inferred from the first
    rows; a table's types are the database's. Declared dtypes override all of these.

    Args:
        source: The definition.
        settings: Threads, memory, and where relative paths count from.

    Returns:
        Columns with their dtypes; ``None`` for a type the contract has no dtype for.

    Raises:
        SourceMissingError: A file, table, or a column with a declared dtype does not exist.
        SourceDataError: A file is corrupt, files disagree, or neither a time column nor the source has a time zone.
        SourceError: A database or a remote file cannot be reached.
    """
    columns, naive = columns_outside(source, settings)
    declared = declared_dtypes(source)
    epochs = epoch_units(source)
    for name, dtype in declared.items():
        if name not in columns:
            raise missing_column(place_of(source), name, list(columns))
        # Text may be declared as anything.
        stored_dtype = None if isinstance(source, FileSource) and source.file_format == "csv" else columns[name]
        if stored_dtype is not None and not can_convert(stored_dtype, dtype, epochs.get(name)):
            unit = "" if stored_dtype.is_numeric else None
            raise inconvertible(stored_dtype, dtype, f"{place_of(source)}, column '{name}'", unit=unit)
    schema = Schema({**columns, **declared}, getattr(columns, "types", {}))
    for time in (source.event_time, source.ingest_time):
        # The zone decides when a day begins.
        is_naive = time in naive or columns.get(str(time)) == DATE
        if is_naive and schema[str(time)] == TIMESTAMP and source.timezone is None:
            raise SourceDataError(
                f"the timestamps of column '{time}' have no time zone",
                where=place_of(source),
                hint="State their time zone: timezone='UTC', or timezone='America/New_York'.",
                code="naive-timestamps",
            )
    return schema


def column_names(source: Source, settings: ReadSettings = DEFAULT_SETTINGS) -> tuple[str, ...]:
    """Return the names of a source's columns, without looking at its rows.

    Raises:
        SourceMissingError: A file or table is not there.
        SourceDataError: A file is corrupt.
        SourceError: A database or a remote file cannot be reached.
    """
    match source:
        case FrameSource():
            check_readable_twice(source)
            return raw_names(source.frame, where=place_of(source))
        case SqlSource():
            from featurestore.sources.sql import SqlRows

            return SqlRows(source.url, source.table, source.query, place_of(source)).names()
        case FileSource() if source.file_format == "csv":
            heads = [next(tables) for _, tables in csv_files(source, None, settings, limit=0)]
            return tuple(dict.fromkeys(name for head in heads for name in head.column_names))
        case _:
            return tuple(columns_outside(source, settings)[0])


def columns_outside(source: Source, settings: ReadSettings) -> tuple[dict[str, DType | None], frozenset[str]]:
    """Return the columns with the dtypes they have in the source, and which of them are naive timestamps."""
    match source:
        case FileSource():
            if is_yet_empty(source, settings):
                return dict(declared_dtypes(source)), frozenset()
            if source.file_format == "csv":
                return csv_columns(source, settings)
            if is_remote(str(source.path)):
                return _remote_schema(source, settings)
            rows = ParquetRows(files_of(source, settings), where=place_of(source), threads=settings.threads)
            return Schema(rows.dtypes), rows.naive
        case FrameSource():
            schema = frame_of(source)[0].schema
            return dtypes_of(schema), naive_columns(schema)
        case SqlSource():
            from featurestore.sources.sql import SqlRows

            times = [name for name in (source.event_time, source.ingest_time) if name is not None]
            return SqlRows(source.url, source.table, source.query, place_of(source)).schema(times)
        case _:
            raise unknown_source(source)


def _remote_schema(source: FileSource, settings: ReadSettings) -> tuple[Schema, frozenset[str]]:
    from featurestore.sources.text import read_remote_parquet

    schema = next(iter(read_remote_parquet(str(source.path), None, settings, where=place_of(source), limit=0))).schema
    return dtypes_of(schema), naive_columns(schema)


def is_yet_empty(source: FileSource, settings: ReadSettings) -> bool:
    """Return whether a source that accepts pushes has no file yet: then its declared dtypes are its columns."""
    if not source.stream or not source.dtypes or is_remote(str(source.path)):
        return False
    try:
        files_of(source, settings)
    except SourceMissingError:
        return True
    return False


def frame_of(source: FrameSource) -> tuple[pa.Table, dict[str, SourceDataError]]:
    """Return the rows of a frame, and the columns that cannot be read, each with its error."""
    check_readable_twice(source)
    return source_table(source.frame, declared_dtypes(source), where=place_of(source))


def check_readable_twice(source: FrameSource) -> None:
    """Refuse readers and iterators, whose rows are gone once they were read."""
    if is_single_use(source.frame):
        raise SourceDataError(
            "a reader can be read only once",
            where=place_of(source),
            hint="Give a table: frame=reader.read_all().",
            code="unreadable-frame",
        )


def declared_dtypes(source: Source) -> dict[str, DType]:
    """Return the dtypes that a definition declares for columns."""
    if isinstance(source, FileSource | SqlSource | FrameSource):
        return {name: parse_declared(dtype)[0] for name, dtype in source.dtypes.items()}
    return {}


def unknown_source(source: Source) -> SourceError:
    """Return the error for a source that is of none of the known kinds."""
    return SourceError(
        f"{type(source).__name__} is not a kind of source that can be read",
        where=place_of(source),
        hint="Use FileSource, SqlSource or FrameSource.",
    )
