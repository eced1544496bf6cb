"""CSV sources: the text of their files with the values that folders give, and the columns that text seems to hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from os import PathLike

import pyarrow as pa

from featurestore.core.dtypes import Schema
from featurestore.definitions.sources import FileSource
from featurestore.plan.mistakes import NOT_UTF8
from featurestore.sources.convert import guess_dtype
from featurestore.sources.files import FoundFile, files_of, is_remote, place_of
from featurestore.sources.rows import missing_column
from featurestore.sources.settings import ReadSettings

# DuckDB, which cuts text into values, is imported only where a source is text: most processes read none.


def csv_files(
    source: FileSource, columns: list[str] | None, settings: ReadSettings, *, limit: int | None
) -> Iterator[tuple[FoundFile | None, Iterator[pa.Table]]]:
    """Yield the text of a source's files, with the values that folders give; a remote path is one without a file.

    Args:
        source: The definition.
        columns: Names of columns, of which each file may lack some; all if ``None``.
        settings: Threads, memory and folders.
        limit: Most rows of each file; all if ``None``.

    Raises:
        SourceMissingError: There is no file, or none has a column.
        SourceDataError: A file is damaged.
    """
    from featurestore.sources.text import local_text, read_text

    if is_remote(str(source.path)):
        yield None, read_text(str(source.path), source.csv, columns, settings, where=place_of(source), limit=limit)
        return
    missing = set(columns or ())
    for file in files_of(source, settings):
        with local_text(file.path, settings, where=place_of(source)) as path:
            tables = read_text(str(path), source.csv, columns, settings, where=place_of(source), limit=limit)
            first = next(tables)
            missing -= {name for name, _ in file.partition} | set(first.column_names)
            yield file, (_with_partition(table, file, columns) for table in chain([first], tables))
    if missing:
        raise missing_column(place_of(source), min(missing), list(csv_columns(source, settings)[0]))


def csv_columns(source: FileSource, settings: ReadSettings) -> tuple[Schema, frozenset[str]]:
    """Return the columns of text with the dtypes that its first rows allow, and which of them are naive timestamps."""
    from featurestore.sources.text import SAMPLE_ROWS, local_text, sample_text

    samples: list[pa.Table] = []
    unread: set[str] = set()
    for file in (None,) if is_remote(str(source.path)) else files_of(source, settings):
        # DuckDB unpacks remote files itself.
        opened: AbstractContextManager[str | PathLike[str]] = (
            nullcontext(source.path) if file is None else local_text(file.path, settings, where=place_of(source))
        )
        with opened as path:
            table, undecodable = sample_text(str(path), source.csv, settings, where=place_of(source), limit=SAMPLE_ROWS)
        samples.append(table if file is None else _with_partition(table, file, None))
        unread.update(undecodable)
    sample = pa.concat_tables(samples, promote_options="default")
    guesses = {name: guess_dtype(sample.column(name).combine_chunks()) for name in sample.column_names}
    naive = frozenset(name for name, (_, is_naive) in guesses.items() if is_naive)
    dtypes = {name: dtype for name, (dtype, _) in guesses.items()} | dict.fromkeys(sorted(unread))
    return Schema(dtypes, dict.fromkeys(unread, NOT_UTF8)), naive


def _with_partition(table: pa.Table, file: FoundFile, columns: list[str] | None) -> pa.Table:
    """Add the values that folders give, and nulls for columns that the file lacks."""
    for name, value in file.partition:
        if name not in table.column_names and (columns is None or name in columns):
            table = table.append_column(name, pa.repeat(pa.scalar(value, pa.string()), table.num_rows))
    for name in columns or []:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
    return table
