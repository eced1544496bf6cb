"""Files of events to push, read piece by piece in the form in which ``push`` takes events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from featurestore.core.dtypes import DType
from featurestore.core.errors import SourceDataError, SourceMissingError
from featurestore.definitions.sources import CSV_SUFFIXES, CsvOptions, Source
from featurestore.plan.checks import epoch_units
from featurestore.sources.convert import text_to_contract
from featurestore.sources.settings import ReadSettings
from featurestore.sources.text import local_text, read_text
from featurestore.storage.parquet import DAMAGE, open_parquet

_ROWS_AT_ONCE = 10_000
_JSON_SUFFIXES = (".jsonl", ".ndjson")


def read_events(
    path: Path, source: Source, schema: Mapping[str, DType | None], settings: ReadSettings
) -> Iterator[Any]:
    """Read a file of events.

    Args:
        path: Parquet; CSV, whose text is read in the dtypes of the source; or lines of JSON, an object each
            (``.jsonl``, ``.ndjson``). The suffix decides.
        source: The source they are for.
        schema: Its columns.
        settings: Threads and memory.

    Yields:
        Some thousand events at a time, in their order: a table or a list of mappings.

    Raises:
        SourceMissingError: The file does not exist.
        SourceDataError: It cannot be read, or is of no such kind.
    """
    where = f"file '{path}'"
    if not path.is_file():
        raise SourceMissingError("the file does not exist", where=where, code="missing-file")
    name = path.name.lower()
    if name.endswith(".parquet"):
        yield from _parquet(path, where)
    elif name.endswith(_JSON_SUFFIXES):
        yield from _json_lines(path, where)
    elif name.endswith(CSV_SUFFIXES):
        options = getattr(source, "csv", CsvOptions())
        with local_text(path, settings, where=where) as text:
            for table in read_text(str(text), options, None, settings, where=where):
                yield from _pieces(_typed(table, source, schema, where))
    else:
        hint = f"Suffixes: .parquet, {', '.join((*_JSON_SUFFIXES, *CSV_SUFFIXES))}."
        raise SourceDataError("its suffix is not that of a known format", where=where, hint=hint, code="unknown-format")


def _parquet(path: Path, where: str) -> Iterator[pa.Table]:
    try:
        with open_parquet(path) as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE):
                yield pa.Table.from_batches([batch])
    except DAMAGE as error:
        raise SourceDataError(f"it is not valid Parquet: {error}", where=where, code="corrupt-file") from error


def _json_lines(path: Path, where: str) -> Iterator[list[Any]]:
    with path.open("rb") as file:
        numbered = ((number, line) for number, line in enumerate(file, 1) if line.strip())
        while some := list(islice(numbered, _ROWS_AT_ONCE)):
            yield [_line(line, number, where) for number, line in some]


def _line(line: bytes, number: int, where: str) -> Any:
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SourceDataError(f"line {number} is not JSON: {error}", where=where, code="corrupt-file") from None


def _typed(table: pa.Table, source: Source, schema: Mapping[str, DType | None], where: str) -> pa.Table:
    """Return columns of text in the dtypes of the source; what it does not have stays text."""
    declared = getattr(source, "dtypes", {})
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        dtype = schema.get(name)
        place = f"{where}, column '{name}'"
        columns[name] = (
            column
            if dtype is None
            else text_to_contract(
                column,
                dtype,
                timezone=source.clock,
                where=place,
                epoch=epoch_units(source).get(name),
                is_guessed=name not in declared,
            )[0]
        )
    return pa.table(columns)


def _pieces(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, _ROWS_AT_ONCE):
        yield table.slice(start, _ROWS_AT_ONCE)
