"""Rows of CSV files and of remote files: DuckDB splits them into values, whose text is converted strictly here.

DuckDB returns text only. Its own conversion would round ``2.5`` in a column that looks like integers, and read
instants without a zone as UTC beside others that have one.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from io import TextIOWrapper
from itertools import takewhile
from pathlib import Path
from typing import IO, Any, cast

import duckdb
import pyarrow as pa

from featurestore.core.errors import (
    SourceDataError,
    SourceError,
    SourceMissingError,
    repeated,
)
from featurestore.definitions.sources import CsvOptions
from featurestore.sources.settings import ReadSettings, duckdb_connection, temporary_folder

SAMPLE_ROWS = 20_000
"""Rows of a file from which the dtypes of its columns are inferred."""

_BATCH_ROWS = 1 << 17
_TEXT = "'VARCHAR'"
_DELIMITERS = (",", "\t", ";", "|")
_NEVER = "\x01"
_COMMENT = "#"
_NO_CHARACTER = "\ufffd"
_HEAD_LINES = 100
_HEAD_BYTES = 1 << 20
_OTHER_ENCODING = re.compile(r"File is not (\S+) encoded")
_LINE_END = re.compile("\r\n|\n|\r")
_COPIED_CHARACTERS = 1 << 20
_ENCODINGS = {"utf-8": "utf-8", "utf-16": "utf-16", "iso8859-1": "latin-1"}
"""Encodings that DuckDB reads by itself, by Python's name; files in others are written anew in UTF-8 first."""
_LONGEST_REASON = 500
_REMOTE_HINT = (
    "Remote files need DuckDB's httpfs extension, which DuckDB downloads when it is first needed; "
    "check the address, your credentials and the connection."
)


@contextmanager
def local_text(path: Path, settings: ReadSettings, *, where: str) -> Iterator[Path]:
    """Yield the path of text that DuckDB reads; the one file of a ``.zip`` is unpacked meanwhile.

    Raises:
        SourceDataError: The archive is damaged or holds several files.
    """
    if path.suffix.lower() != ".zip":
        yield path
        return
    with temporary_folder(settings) as folder:
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
        SourceMissingError: The file does not exist.
        SourceDataError: A line cannot be cut as the first one is.
        SourceError: A remote file cannot be reached.
    """
    skipped = 0
    if codecs.lookup(options.encoding).name not in _ENCODINGS:
        yield from _read_copy(path, options, columns, settings, where=where, limit=limit)
        return
    try:
        for table in _read(path, options, columns, settings, where=where, limit=limit):
            yield table
            skipped += table.num_rows
    except SourceDataError as error:
        # DuckDB stops in one way or another at a line that ends otherwise than those before.
        if error.code != "corrupt-file" or not _can_be_copied(path) or not _has_several_line_ends(Path(path)):
            raise
        for table in _read_copy(path, options, columns, settings, where=where, limit=limit):
            kept = table.slice(min(skipped, table.num_rows))
            skipped -= table.num_rows - kept.num_rows
            yield kept


def sample_text(
    path: str, options: CsvOptions, settings: ReadSettings, *, where: str, limit: int
) -> tuple[pa.Table, tuple[str, ...]]:
    """Read the first rows of a CSV file; columns whose text is not of the encoding are left out.

    Args:
        path: File, or URL that DuckDB reads.
        options: How its text is cut.
        settings: Threads and memory.
        where: The source, for messages.
        limit: Rows to read.

    Returns:
        The rows, and the columns left out.

    Raises:
        SourceMissingError: The file does not exist.
        SourceDataError: A line cannot be cut as the first one is.
        SourceError: A remote file cannot be reached.
    """
    try:
        return pa.concat_tables(read_text(path, options, None, settings, where=where, limit=limit)), ()
    except SourceDataError as error:
        if error.code != "wrong-encoding":
            raise
    names = next(read_text(path, options, None, settings, where=where, limit=0)).column_names
    columns: dict[str, pa.ChunkedArray] = {}
    for name in names:
        try:
            tables = list(read_text(path, options, [name], settings, where=where, limit=limit))
        except SourceDataError as error:
            if error.code != "wrong-encoding":
                raise
        else:
            columns[name] = pa.concat_tables(tables).column(name)
    return pa.table(columns), tuple(name for name in names if name not in columns)


def _read(
    path: str,
    options: CsvOptions,
    columns: Sequence[str] | None,
    settings: ReadSettings,
    *,
    where: str,
    limit: int | None,
    copy: Path | None = None,
) -> Iterator[pa.Table]:
    """Do what ``read_text`` does, for a file with one kind of line ends, or from such a copy of it."""
    with _duckdb(path, settings, where) as connection:
        path = str(copy or path)
        head = _head(connection, path, options, where)
        chosen = head.names if columns is None else [name for name in columns if name in head.names]
        # Columns get names of our own, since DuckDB ignores case in names and refuses empty ones.
        numbers = {name: f"c{i}" for i, name in enumerate(head.names)}
        arguments = {
            "auto_detect": "false",
            "columns": f"{{{', '.join(f'{_literal(name)}: {_TEXT}' for name in numbers.values())}}}",
            "header": str(options.header).lower(),
            "skip": str(head.skipped_lines),
            "delim": _literal(head.delimiter),
            "quote": _literal(options.quote),
            "escape": _literal(options.quote),
            "nullstr": _literal(list(options.null_values)),
            "encoding": _literal(_ENCODINGS[codecs.lookup(options.encoding).name]),
            **({"comment": _literal(options.comment)} if options.comment else {}),
        }
        call = ", ".join([_literal(path), *(f"{name} = {value}" for name, value in arguments.items())])
        # Asked for no column at all, the file still has rows.
        wanted = ", ".join(numbers[name] for name in chosen) or "1"
        for table in _tables(connection, f"SELECT {wanted} FROM read_csv({call})", limit):
            yield table.rename_columns(chosen) if chosen else table


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
        SourceMissingError: The file does not exist.
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
        except (duckdb.Error, pa.ArrowException, OSError, EOFError, zlib.error) as error:
            raise _failure(path, error, where) from error


def _tables(connection: duckdb.DuckDBPyConnection, query: str, limit: int | None) -> Iterator[pa.Table]:
    relation = connection.sql(query if limit is None else f"{query} LIMIT {limit}")
    reader = relation.to_arrow_reader(_BATCH_ROWS)
    yield reader.schema.empty_table()
    for batch in reader:
        yield pa.Table.from_batches([batch])


@dataclass(frozen=True)
class _Head:
    """How a file begins.

    Attributes:
        delimiter: What stands between its values.
        names: Its columns.
        skipped_lines: Lines above the header that are comments.
    """

    delimiter: str
    names: list[str]
    skipped_lines: int


def _head(connection: duckdb.DuckDBPyConnection, path: str, options: CsvOptions, where: str) -> _Head:
    """Find out what stands between a file's values, and the names of its columns."""
    lines = _first_lines(connection, path, options)
    if options.comment:
        lines = ["" if line.startswith(options.comment) else line for line in lines]
    filled = [place for place, line in enumerate(lines) if line]
    if not filled:
        raise _bad_file(path, "it is empty", where)
    begin = next((place for place in filled if options.comment or not lines[place].startswith(_COMMENT)), filled[0])
    above = [place for place in filled if place < begin]
    body = lines[begin:]
    delimiter = options.delimiter or max(
        _DELIMITERS, key=lambda candidate: _fit(_records(body, candidate, options.quote))
    )
    first = _records(body, delimiter, options.quote)[0]
    if above:
        # The last of the lines with # above the others may be the header, "#user,at", rather than a comment.
        last = _records(lines[above[-1] : begin], delimiter, options.quote)[0]
        if len(last) == len(first):
            first, begin = last, above.pop()
    skipped = 0 if options.comment else begin
    named = list(options.columns) or (first if options.header else [""] * len(first))
    if any(_NO_CHARACTER in name for name in named):
        raise _wrong_encoding(path, "its header", where)
    names = [name or f"column{i}" for i, name in enumerate(named)]
    if twice := repeated(names):
        raise _bad_file(path, f"two columns are named '{twice[0]}'", where, "Rename one, or name them all: ")
    return _Head(delimiter, names, skipped)


def _first_lines(connection: duckdb.DuckDBPyConnection, path: str, options: CsvOptions) -> list[str]:
    """Return the first lines of a file; what is not of its encoding is marked in them."""
    if _can_be_copied(path):
        with _opened(Path(path)) as file:
            data = file.read(_HEAD_BYTES)
        text = codecs.getincrementaldecoder(options.encoding)("replace").decode(data, final=len(data) < _HEAD_BYTES)
        lines = _LINE_END.split(text)
        # The last line may be cut off, unless there is no other.
        lines = lines[:-1] if len(data) == _HEAD_BYTES and len(lines) > 1 else lines
    else:
        rows = connection.sql(
            f"SELECT line FROM read_csv({_literal(path)}, auto_detect = false, columns = {{'line': {_TEXT}}}, "
            f"delim = {_literal(_NEVER)}, quote = '', escape = '', header = false, strict_mode = false, "
            f"encoding = {_literal(_ENCODINGS[codecs.lookup(options.encoding).name])}) LIMIT {_HEAD_LINES}"
        )
        lines = [str(line or "") for (line,) in rows.fetchall()]
    return [lines[0].removeprefix("\ufeff"), *lines[1:_HEAD_LINES]] if lines else []


def _opened(path: Path) -> IO[bytes]:
    is_packed = path.name.lower().endswith(".gz")
    opened: Any = gzip.open(path) if is_packed else path.open("rb")  # noqa: SIM115  # the caller closes it
    return cast(IO[bytes], opened)


def _records(lines: Sequence[str], delimiter: str, quote: str) -> list[list[str]]:
    """Cut lines into records; a quoted value may go over several."""
    # Python's reader knows delimiters of one character only.
    single = delimiter if len(delimiter) == 1 else _NEVER
    text = [line if single == delimiter else line.replace(delimiter, single) for line in lines]
    records = [line.split(single) for line in text]
    # A value may be longer than Python's reader takes: then its quotes are left to DuckDB.
    with suppress(csv.Error):
        if quote:
            records = list(csv.reader([f"{line}\n" for line in text], delimiter=single, quotechar=quote))
    cells = [[cell if single == delimiter else cell.replace(single, delimiter) for cell in cells] for cells in records]
    return [record for record in cells if record] or [[""]]


def _fit(records: Sequence[Sequence[str]]) -> tuple[bool, float, int]:
    """Say how well a delimiter fits: whether there are several columns, how many records agree, how many columns."""
    width = len(records[0])
    # The last record may be cut off where the lines end.
    whole = records[:-1] if len(records) > 2 else records
    return width > 1, sum(len(record) == width for record in whole) / len(whole), width


def _can_be_copied(path: str) -> bool:
    return Path(path).is_file() and not path.lower().endswith(".zst")


def _has_several_line_ends(path: Path) -> bool:
    """Return whether lines of a file may end in several ways; line ends in quotes count, too."""
    both = feeds = returns = 0
    before = b""
    with _opened(path) as file:
        while piece := file.read(_COPIED_CHARACTERS):
            both += (before + piece).count(b"\r\n")
            feeds, returns, before = feeds + piece.count(b"\n"), returns + piece.count(b"\r"), piece[-1:]
            before = b"" if before != b"\r" else before
    return sum(count > 0 for count in (both, feeds - both, returns - both)) > 1


def _read_copy(
    path: str,
    options: CsvOptions,
    columns: Sequence[str] | None,
    settings: ReadSettings,
    *,
    where: str,
    limit: int | None,
) -> Iterator[pa.Table]:
    """Read a local file from a copy in UTF-8 of which every line ends alike."""
    if not _can_be_copied(path):
        reason = f"files in {options.encoding} are read from the local disk only, and not from .zst"
        raise _bad_file(path, reason, where, "Write it in UTF-8, or copy and unpack it first; else ")
    with temporary_folder(settings) as folder:
        copy = Path(folder) / "rows.csv"
        try:
            _with_same_line_ends(Path(path), copy, options)
        except UnicodeError as error:
            raise _wrong_encoding(path, f"its text ({error})", where, options.encoding) from error
        options = replace(options, encoding="utf-8")
        yield from _read(path, options, columns, settings, where=where, limit=limit, copy=copy)


def _with_same_line_ends(path: Path, target: Path, options: CsvOptions) -> None:
    """Copy a file so that every line ends alike; what stands in quotes stays as it is."""
    is_quoted = False
    with (
        TextIOWrapper(_opened(path), encoding=options.encoding, newline="") as text,
        target.open("w", encoding="utf-8", newline="") as copy,
    ):
        rest = ""
        while piece := text.read(_COPIED_CHARACTERS):
            piece, rest = (rest + piece)[:-1], (rest + piece)[-1]
            is_quoted = _copy_lines(piece, copy, options.quote, is_quoted=is_quoted)
        _copy_lines(rest, copy, options.quote, is_quoted=is_quoted)


def _copy_lines(text: str, copy: IO[str], quote: str, *, is_quoted: bool) -> bool:
    """Write text with one kind of line ends outside quotes; return whether it ends inside."""
    for number, part in enumerate(text.split(quote) if quote else [text]):
        if number:
            copy.write(quote)
            is_quoted = not is_quoted
        copy.write(part if is_quoted else part.replace("\r\n", "\n").replace("\r", "\n"))
    return is_quoted


def _failure(path: str, error: Exception, where: str) -> SourceError:
    reason = str(error).strip()
    first = reason.splitlines()[0] if reason else type(error).__name__
    if "No files found" in reason or "404" in first:
        return SourceMissingError(f"no file matches '{path}'", where=where, code="missing-file")
    if isinstance(error, duckdb.HTTPException) or "httpfs" in reason:
        return SourceError(f"'{path}' cannot be read: {first}", where=where, hint=_REMOTE_HINT, code="unreachable-file")
    if "Invalid unicode" in reason:
        line = next((line.strip() for line in reason.splitlines() if "Error on Line" in line), "a line")
        return _wrong_encoding(path, line.removeprefix("Invalid Input Error: ").removeprefix("CSV Error on "), where)
    if other := _OTHER_ENCODING.search(reason):
        return _wrong_encoding(path, "its text", where, other[1])
    lines = takewhile(lambda line: not line.startswith("Possible"), (line.strip() for line in reason.splitlines()))
    return _bad_file(path, "; ".join(line for line in lines if line)[:_LONGEST_REASON], where)


def _wrong_encoding(path: str, what: str, where: str, encoding: str = "UTF-8") -> SourceDataError:
    return SourceDataError(
        f"the file '{path}' cannot be read: {what.rstrip(':')} is not {encoding}",
        where=where,
        hint="Say how its characters are written: csv=CsvOptions(encoding='latin-1'), or 'cp1252', or 'utf-16'.",
        code="wrong-encoding",
    )


def _bad_file(
    path: str, reason: str, where: str, first: str = "Correct the file, or declare how its text is split: "
) -> SourceDataError:
    return SourceDataError(
        f"the file '{path}' cannot be read: {reason}",
        where=where,
        hint=f"{first}csv=CsvOptions(delimiter=…, quote=…, header=…, columns=…, comment=…, encoding=…).",
        code="corrupt-file",
    )


def _literal(value: str | Sequence[str]) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return f"[{', '.join(_literal(item) for item in value)}]"


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'
