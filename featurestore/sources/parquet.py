"""Rows in Parquet files: a piece is a row group, read by pyarrow, and only the columns that are needed.

No predicate is ever pushed into a file: files written elsewhere may hold NaN, which their statistics do not show. The
statistics that are used are null counts, and bounds of integers that stand for instants.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.core.dtypes import (
    FLOAT64,
    DType,
    Schema,
    from_arrow,
    holds_nulls_alone,
    is_list_layout,
    is_read_as,
    list_of,
)
from featurestore.core.errors import (
    SourceDataError,
    SourceError,
    SourceMissingError,
    repeated,
)
from featurestore.core.values import one_chunk
from featurestore.sources.convert import guess_dtype
from featurestore.sources.files import FoundFile, partition_columns
from featurestore.sources.rows import SourceFile, naive_columns
from featurestore.storage.parquet import DAMAGE, check_column_chunk, open_parquet

_BUFFER_BYTES = 1 << 16
"""What is read of a column at a time: a buffer that stays in the processor's cache, where a whole chunk would not."""

_MICROSECONDS = {"milliseconds": (1_000, 1), "microseconds": (1, 1), "nanoseconds": (1, 1_000)}
"""For each unit of time of the format: microseconds are its number times the one and over the other."""


@dataclass(frozen=True)
class _Opened:
    """A file with the contents of its footer."""

    file: FoundFile
    stored: SourceFile
    metadata: pq.FileMetaData
    schema: pa.Schema
    places: Mapping[str, int]
    int96: frozenset[str]


@dataclass(frozen=True)
class _Group:
    """A row group of a file."""

    opened: _Opened
    number: int


class ParquetRows:
    """Rows of one or several Parquet files, in the order of the files and of their row groups."""

    def __init__(self, files: Sequence[FoundFile], *, where: str, threads: int) -> None:
        """Read the files' footers.

        Args:
            files: The files, in the order they are read in.
            where: The source, for messages.
            threads: Threads that read.

        Raises:
            SourceMissingError: A file is not there.
            SourceDataError: A file is not sound Parquet, or files disagree on the type of a column.
        """
        self._where = where
        with ThreadPoolExecutor(threads) as pool:
            self._opened = list(pool.map(lambda file: _open(file, where), files))
        self._partition = partition_columns(files)
        self._groups = [_Group(opened, i) for opened in self._opened for i in range(opened.metadata.num_row_groups)]
        self._use_threads = len(self._groups) < threads
        self._types = self._column_types()
        self.dtypes: Mapping[str, DType | None] = Schema(
            {**self._unified(), **self._partition_dtypes()},
            {name: str(next(iter(types))) for name, types in self._types.items()},
        )
        self.naive = frozenset[str]().union(*(naive_columns(opened.schema) for opened in self._opened))
        self.not_finite: Mapping[str, int] = {}
        self.files = tuple(opened.stored for opened in self._opened)
        self.piece_rows: Sequence[int] = [
            group.opened.metadata.row_group(group.number).num_rows for group in self._groups
        ]

    def read_piece(self, number: int, columns: Sequence[str]) -> pa.Table:
        """Return some columns of one row group; columns that this file lacks are null."""
        opened = self._groups[number].opened
        stored = [name for name in columns if name in opened.places]
        table = self._read(self._groups[number], stored)
        if len(stored) == len(columns):
            return table.select(list(columns))
        partition = dict(opened.file.partition)
        columns_by_name = {
            name: pa.repeat(pa.scalar(partition.get(name), pa.string()), self.piece_rows[number])
            for name in columns
            if name not in opened.places
        }
        return pa.table(
            {name: columns_by_name[name] if name in columns_by_name else table.column(name) for name in columns}
        )

    def place(self, number: int) -> str:
        """Return the file of a piece."""
        return f"file '{self._groups[number].opened.file.path}'"

    def null_count(self, number: int, column: str) -> int | None:
        """Return the null count of the footer."""
        group = self._groups[number]
        if column not in group.opened.places:
            missing = dict(group.opened.file.partition).get(column) is None
            return self.piece_rows[number] if missing else 0
        if pa.types.is_floating(group.opened.schema.field(column).type):
            return None
        statistics = self._statistics(group, column)
        return int(statistics.null_count) if statistics is not None and statistics.has_null_count else None

    def bounds_us(self, number: int, column: str) -> tuple[int, int] | None:
        """Return the bounds in the footer of a timestamp column with a zone."""
        group = self._groups[number]
        if column not in group.opened.places:
            return None
        kind = group.opened.schema.field(column).type
        if not pa.types.is_timestamp(kind) or kind.tz is None:
            return None
        statistics = self._statistics(group, column)
        logical = group.opened.metadata.schema.column(group.opened.places[column]).logical_type
        scale = _MICROSECONDS.get(json.loads(logical.to_json()).get("timeUnit"))
        if statistics is None or not statistics.has_min_max or scale is None:
            return None
        times, over = scale
        return int(statistics.min_raw) * times // over, int(statistics.max_raw) * times // over

    def estimated_bytes(self, columns: Sequence[str]) -> int:
        """Return the uncompressed size of the columns in the footers, or their fixed widths if that is more."""
        total = 0
        for group, row_count in zip(self._groups, self.piece_rows, strict=True):
            details = group.opened.metadata.row_group(group.number)
            for name in columns:
                place = group.opened.places.get(name)
                stored = 0 if place is None else int(details.column(place).total_uncompressed_size)
                total += max(stored, 8 * row_count)
        return total

    def check_unchanged(self) -> None:
        """Raise if a file was rewritten or removed since it was opened."""
        for opened in self._opened:
            check_file(opened.stored, self._where)

    def close(self) -> None:
        """Do nothing: files are open only while they are read."""

    def _read(self, group: _Group, columns: Sequence[str]) -> pa.Table:
        path = group.opened.file.path
        try:
            with open_parquet(
                path, metadata=group.opened.metadata, buffer_size=_BUFFER_BYTES, pre_buffer=False
            ) as file:
                table = file.read_row_group(group.number, columns=list(columns), use_threads=self._use_threads)
            self._check_int96(group, table)
            return table
        except FileNotFoundError:
            raise _vanished(str(path), self._where) from None
        except DAMAGE as error:
            check_file(group.opened.stored, self._where)
            raise _corrupt(path, self._where, error) from error

    def _check_int96(self, group: _Group, table: pa.Table) -> None:
        """Make sure that INT96 timestamps fit into microseconds, in which Arrow lets them wrap.

        Raises:
            SourceDataError: One does not.
        """
        names = [name for name in table.column_names if name in group.opened.int96]
        if not names:
            return
        path = group.opened.file.path
        with open_parquet(path, metadata=group.opened.metadata, coerce_int96_timestamp_unit="ms") as file:
            coarse = file.read_row_group(group.number, columns=names, use_threads=self._use_threads)
        for name in names:
            if not _agree(one_chunk(table.column(name)), one_chunk(coarse.column(name))):
                raise SourceDataError(
                    f"an instant in row group {group.number} of file '{path}' is outside the years 1 to 9999",
                    where=f"{self._where}, column '{name}'",
                    hint="Correct the rows where they are written; write null for an instant that is not known.",
                    code="out-of-range",
                )

    def _statistics(self, group: _Group, column: str) -> pq.Statistics | None:
        try:
            details = check_column_chunk(group.opened.metadata, group.number, group.opened.places[column])
        except DAMAGE as error:
            raise _corrupt(group.opened.file.path, self._where, error) from error
        return details.statistics if details.is_stats_set else None

    def _column_types(self) -> dict[str, dict[pa.DataType, Path]]:
        """Return for each column its types, each with the first file that has it."""
        types: dict[str, dict[pa.DataType, Path]] = {}
        for opened in self._opened:
            for field in opened.schema:
                types.setdefault(field.name, {}).setdefault(field.type, opened.file.path)
        return types

    def _unified(self) -> dict[str, DType | None]:
        return {name: self._one_dtype(name, types) for name, types in self._types.items()}

    def _one_dtype(self, name: str, types: Mapping[pa.DataType, Path]) -> DType | None:
        known = {kind: path for kind, path in types.items() if not holds_nulls_alone(kind)}
        dtypes = [from_arrow(kind) for kind in known]
        if not dtypes:
            return None
        unified = reduce(_common, dtypes)
        unlike = () if unified is None else [kind for kind in types.keys() - known if not is_read_as(kind, unified)]
        if unlike or (unified is None and None not in dtypes):
            (one, first), *others = known.items()
            differing = ((kind, types[kind]) for kind in (*unlike, *dict(others)))
            other, second = next((kind, path) for kind, path in differing if from_arrow(kind) != from_arrow(one))
            raise SourceDataError(
                f"column '{name}' is {one} in '{first}' and {other} in '{second}'",
                where=self._where,
                hint="Write the files with one type, or make two sources of them.",
                code="files-disagree",
            )
        return unified

    def _partition_dtypes(self) -> dict[str, DType | None]:
        """Return the columns that folders give and files do not hold; their values are read as text is."""
        wanted = [name for name in self._partition if name not in self._types]
        values = {name: [dict(opened.file.partition).get(name) for opened in self._opened] for name in wanted}
        return {name: guess_dtype(pa.array(texts, pa.string()))[0] for name, texts in values.items()}


def stored_file(path: Path, row_count: int) -> SourceFile:
    """Return what a file is now."""
    status = path.stat()
    return SourceFile(str(path), status.st_size, status.st_mtime_ns, row_count)


def check_file(file: SourceFile, where: str) -> None:
    """Raise an error if a file has changed.

    Raises:
        SourceMissingError: It is gone.
        SourceDataError: Its size or time of writing differs.
    """
    try:
        now = stored_file(Path(file.path), file.row_count)
    except FileNotFoundError:
        raise _vanished(file.path, where) from None
    if now != file:
        raise SourceDataError(
            f"the file '{file.path}' changed while it was read",
            where=where,
            hint="Write new files beside old ones, or under another name and rename; then run again.",
            code="source-changed",
        )


def _open(file: FoundFile, where: str) -> _Opened:
    try:
        with open_parquet(file.path) as opened:
            metadata, schema = opened.metadata, opened.schema_arrow
            names = schema.names
            columns = [metadata.schema.column(i) for i in range(metadata.num_columns)]
            paths = [column.path for column in columns]
            stored = stored_file(file.path, metadata.num_rows)
    except FileNotFoundError:
        raise _vanished(str(file.path), where) from None
    except PermissionError as error:
        problem = f"the file '{file.path}' may not be read"
        raise SourceError(problem, where=where, hint="Check its permissions.", code="unreadable-file") from error
    except DAMAGE as error:
        raise _corrupt(file.path, where, error) from error
    if twice := repeated(names):
        problem = f"the file '{file.path}' has two columns '{twice[0]}'"
        raise SourceDataError(problem, where=where, hint="Rename one.", code="duplicate-column")
    int96 = frozenset(
        path.split(".", 1)[0] for path, column in zip(paths, columns, strict=True) if column.physical_type == "INT96"
    )
    by_path = {path: i for i, path in reversed(list(enumerate(paths)))}
    first = {path.split(".", 1)[0]: i for i, path in reversed(list(enumerate(paths)))}
    places = {name: by_path.get(name, first.get(name, 0)) for name in names}
    return _Opened(file, stored, metadata, schema, places, int96)


def _agree(fine: pa.Array, coarse: pa.Array) -> bool:
    """Return whether instants in microseconds and in milliseconds, or lists of them, are the same."""
    while is_list_layout(fine.type):
        fine, coarse = fine.flatten(), coarse.flatten()
    if not pa.types.is_timestamp(fine.type):
        return True
    whole = [one.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False) for one in (fine, coarse)]
    return bool(np.array_equal(np.floor_divide(whole[0], 1_000), whole[1]))


def _common(left: DType | None, right: DType | None) -> DType | None:
    """Return the dtype two files' columns can both be read as without loss, ``None`` if there is none."""
    if left == right or left is None or right is None:
        return (left if left is None or left.is_ordered else right) if left == right else None
    if left.item is not None and right.item is not None:
        item = _common(left.item, right.item)
        return None if item is None else list_of(item)
    if {left.kind, right.kind} == {"int64", "float64"}:
        return FLOAT64
    if left.kind == right.kind == "decimal":
        scale = max(left.scale, right.scale)
        precision = max(left.precision - left.scale, right.precision - right.scale) + scale
        return DType("decimal", precision=precision, scale=scale) if precision <= 38 else None
    return None


def _vanished(path: str, where: str) -> SourceMissingError:
    return SourceMissingError(f"the file '{path}' is not there any more", where=where, code="missing-file")


def _corrupt(path: Path, where: str, error: Exception) -> SourceDataError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return SourceDataError(
        f"the file '{path}' is not sound Parquet: {reason}",
        where=where,
        hint="Write it again; if it is CSV, declare format='csv'.",
        code="corrupt-file",
    )
