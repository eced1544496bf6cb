"""Rows in CSV files, and in remote files: DuckDB cuts them into values, and their text is read strictly here.

DuckDB is asked for text only. Its own conversion would round ``2.5`` in a column it took for integers, and read
instants without a zone as UTC beside others that have one.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa

from featurestore.definitions.sources import CsvOptions
from featurestore.errors import SourceDataError, SourceError, SourceMissingError, repeated
from featurestore.sources.settings import ReadSettings, duckdb_connection

SAMPLE_ROWS = 20_000
"""Rows of a file that are looked at to find out the dtypes of its columns."""

_BATCH_ROWS = 1 << 17
_TEXT = "'VARCHAR'"
_DELIMITERS = (",", "\t", ";", "|")
_NEVER = "\x01"
_LONGEST_REASON = 500
_REMOTE_HINT = (
    "Remote files need DuckDB's httpfs extension, which DuckDB downloads when it is first needed; "
    "check the address, your credentials and the connection."
)


@contextmanager
def local_text(path: Path, settings: ReadSettings, *, where: str) -> Iterator[Path]:
    """Give a path of plain text; the one file of a ``.zip`` is unpacked meanwhile.

    Raises:
        SourceDataError: The archive is damaged or holds several files.
    """
    if path.suffix.lower() != ".zip":
        yield path
        return
    with TemporaryDirectory(prefix="featurestore-", dir=settings.temp_folder) as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                members = [name for name in archive.namelist() if not name.endswith("/")]
                if len(members) != 1:
                    raise _bad_file(str(path), f"the archive holds {len(members)} files, expected 1", where)
                unpacked = Path(archive.extract(members[0], folder))
        except zipfile.BadZipFile as error:
            raise _bad_file(str(path), str(error), where) from error
        yield unpacked


def read_text(
    path: str,
    options: CsvOptions,
    columns: Sequence[str] | None,
    settings: ReadSettings,
    *,
    where: str,
    limit: int | None = None,
) -> Iterator[pa.Table]:
    """Read a CSV file as columns of text, in the order of its rows.

    Args:
        path: File, or URL that DuckDB reads.
        options: How its text is cut. Without a delimiter it is that of ``, ; | tab`` which the first line has most of.
        columns: Columns to read; those the file lacks are left out. ``None`` reads all.
        settings: Threads and memory.
        where: The source, for messages.
        limit: Rows to read; ``None`` reads all.

    Yields:
        Tables of string columns; at least one, which may be empty.

    Raises:
        SourceMissingError: There is no such file.
        SourceDataError: A line cannot be cut as the first one is.
        SourceError: A remote file cannot be reached.
    """
    with _duckdb(path, settings, where) as connection:
        delimiter, names = _head(connection, path, options, where)
        chosen = names if columns is None else [name for name in columns if name in names]
        arguments = {
            "auto_detect": "false",
            "columns": f"{{{', '.join(f'{_literal(name)}: {_TEXT}' for name in names)}}}",
            "header": str(options.header).lower(),
            "delim": _literal(delimiter),
            "quote": _literal(options.quote),
            "escape": _literal(options.quote),
            "nullstr": _literal(list(options.null_values)),
        }
        call = ", ".join([_literal(path), *(f"{name} = {value}" for name, value in arguments.items())])
        # Asked for no column at all, the file still has rows.
        yield from _tables(connection, f"SELECT {', '.join(map(_name, chosen)) or '1'} FROM read_csv({call})", limit)


def read_remote_parquet(
    path: str, columns: Sequence[str] | None, settings: ReadSettings, *, where: str, limit: int | None = None
) -> Iterator[pa.Table]:
    """Read a remote Parquet file or glob through DuckDB; nothing is filtered there.

    Args:
        path: URL that DuckDB reads.
        columns: Columns to read; ``None`` reads all.
        settings: Threads and memory.
        where: The source, for messages.
        limit: Rows to read; ``None`` reads all.

    Yields:
        Tables in the types of the file; at least one, which may be empty.

    Raises:
        SourceMissingError: There is no such file.
        SourceDataError: It is not sound Parquet.
    """
    names = "*" if columns is None else ", ".join(map(_name, columns))
    with _duckdb(path, settings, where) as connection:
        yield from _tables(connection, f"SELECT {names} FROM read_parquet({_literal(path)})", limit)


@contextmanager
def _duckdb(path: str, settings: ReadSettings, where: str) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb_connection(settings) as connection:
        try:
            yield connection
        except (duckdb.Error, pa.ArrowException) as error:
            raise _failure(path, error, where) from error


def _tables(connection: duckdb.DuckDBPyConnection, query: str, limit: int | None) -> Iterator[pa.Table]:
    relation = connection.sql(query if limit is None else f"{query} LIMIT {limit}")
    reader = relation.to_arrow_reader(_BATCH_ROWS)
    yield reader.schema.empty_table()
    for batch in reader:
        yield pa.Table.from_batches([batch])


def _head(connection: duckdb.DuckDBPyConnection, path: str, options: CsvOptions, where: str) -> tuple[str, list[str]]:
    """Return what stands between a file's values, and the names of its columns."""
    lines = connection.sql(
        f"SELECT line FROM read_csv({_literal(path)}, auto_detect = false, columns = {{'line': {_TEXT}}}, "
        f"delim = {_literal(_NEVER)}, quote = '', escape = '', header = false) LIMIT 1"
    ).fetchall()
    if not lines:
        raise _bad_file(path, "it is empty", where)
    line = str(lines[0][0]).removeprefix("\ufeff")
    delimiter = options.delimiter or max(_DELIMITERS, key=_without_quoted(line, options.quote).count)
    if options.quote:
        cells = next(csv.reader([line], delimiter=delimiter, quotechar=options.quote))
    else:
        cells = line.split(delimiter)
    names = list(options.columns) or (cells if options.header else [f"column{i}" for i in range(len(cells))])
    if twice := repeated(names):
        raise _bad_file(path, f"two columns are named '{twice[0]}'", where)
    return delimiter, names


def _without_quoted(line: str, quote: str) -> str:
    return "".join(line.split(quote)[::2]) if quote else line


def _failure(path: str, error: Exception, where: str) -> SourceError:
    reason = str(error).strip()
    first = reason.splitlines()[0] if reason else type(error).__name__
    if "No files found" in reason or "404" in first:
        return SourceMissingError(f"no file matches '{path}'", where=where, code="missing-file")
    if isinstance(error, duckdb.HTTPException) or "httpfs" in reason:
        return SourceError(f"'{path}' cannot be read: {first}", where=where, hint=_REMOTE_HINT, code="unreachable-file")
    told = takewhile(lambda line: not line.startswith("Possible"), (line.strip() for line in reason.splitlines()))
    return _bad_file(path, "; ".join(line for line in told if line)[:_LONGEST_REASON], where)


def _bad_file(path: str, reason: str, where: str) -> SourceDataError:
    return SourceDataError(
        f"the file '{path}' cannot be read: {reason}",
        where=where,
        hint="Correct the file, or say how its text is cut with csv=CsvOptions(…).",
        code="corrupt-file",
    )


def _literal(value: str | Sequence[str]) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return f"[{', '.join(_literal(item) for item in value)}]"


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'
