"""Where rows are kept that cannot be read twice at will: in memory while they are few, then in a Parquet file."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.core.dtypes import DType
from featurestore.core.errors import StorageError
from featurestore.sources.files import FoundFile
from featurestore.sources.parquet import ParquetRows, check_file
from featurestore.sources.rows import RawRows, SourceFile, TableRows
from featurestore.sources.settings import ReadSettings

_GROUP_ROWS = 1 << 19


class Spool:
    """Takes tables of one schema, in order, and gives them back as rows that can be read many times."""

    def __init__(self, schema: pa.Schema, settings: ReadSettings, *, where: str) -> None:
        self._schema = schema
        self._settings = settings
        self._where = where
        self._waiting: list[pa.Table] = []
        self._waiting_bytes = 0
        self._waiting_rows = 0
        self._not_finite: dict[str, int] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._writer: pq.ParquetWriter | None = None

    def add(self, table: pa.Table, not_finite: Mapping[str, int]) -> None:
        """Append rows.

        Args:
            table: The rows.
            not_finite: Counts of NaN and infinities that became null in them, by column.

        Raises:
            StorageError: The temporary folder refuses them.
        """
        for name, count in not_finite.items():
            self._not_finite[name] = self._not_finite.get(name, 0) + count
        self._waiting.append(table)
        self._waiting_bytes += table.nbytes
        self._waiting_rows += table.num_rows
        limit_bytes = self._settings.spool_bytes
        if self._waiting_bytes > limit_bytes if self._writer is None else self._waiting_rows >= _GROUP_ROWS:
            self._write()

    def finish(self, files: tuple[SourceFile, ...] = ()) -> SpooledRows:
        """Return all rows; nothing can be added after.

        Args:
            files: The files the rows came from.
        """
        if self._writer is None:
            table = pa.concat_tables([self._schema.empty_table(), *self._waiting])
            self._waiting = []
            return SpooledRows(TableRows(table), files, self._not_finite, None, self._where)
        self._write()
        self._writer.close()
        assert self._folder is not None
        rows = ParquetRows([FoundFile(self._path())], where=self._where, threads=self._settings.threads)
        return SpooledRows(rows, files, self._not_finite, self._folder, self._where)

    def discard(self) -> None:
        """Drop everything, after a failure."""
        self._waiting = []
        if self._folder is not None:
            self._folder.cleanup()

    def _path(self) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / "rows.parquet"

    def _write(self) -> None:
        table = pa.concat_tables([self._schema.empty_table(), *self._waiting])
        self._waiting, self._waiting_bytes, self._waiting_rows = [], 0, 0
        try:
            if self._writer is None:
                self._folder = tempfile.TemporaryDirectory(prefix="featurestore-", dir=self._settings.temp_folder)
                words = [field.name for field in self._schema if pa.types.is_string(field.type)]
                self._writer = pq.ParquetWriter(self._path(), self._schema, compression="lz4", use_dictionary=words)
            self._writer.write_table(table, row_group_size=_GROUP_ROWS)
        except OSError as error:
            raise StorageError(
                f"the temporary folder refuses rows: {error.strerror or error}",
                where=self._where,
                hint="Make room there, or name another folder for temporary files.",
                code="temporary-folder",
            ) from error


class SpooledRows:
    """Rows of a spool, which remember the files they came from."""

    def __init__(
        self,
        rows: RawRows,
        files: tuple[SourceFile, ...],
        not_finite: Mapping[str, int],
        folder: tempfile.TemporaryDirectory[str] | None,
        where: str,
    ) -> None:
        self._rows = rows
        self._folder = folder
        self._where = where
        self.files = files
        self.not_finite = not_finite
        self.dtypes: Mapping[str, DType | None] = rows.dtypes
        self.naive = rows.naive
        self.piece_rows: Sequence[int] = rows.piece_rows

    def read_piece(self, number: int, columns: Sequence[str]) -> pa.Table:
        """Return some columns of one piece."""
        return self._rows.read_piece(number, columns)

    def place(self, _: int) -> str:
        """Return an empty place: users do not know the spool."""
        return ""

    def null_count(self, number: int, column: str) -> int | None:
        """Return the null count of a column of a piece."""
        return self._rows.null_count(number, column)

    def bounds_us(self, number: int, column: str) -> tuple[int, int] | None:
        """Return the bounds of a column of a piece."""
        return self._rows.bounds_us(number, column)

    def estimated_bytes(self, columns: Sequence[str]) -> int:
        """Return about how many bytes some columns take in memory."""
        return self._rows.estimated_bytes(columns)

    def check_unchanged(self) -> None:
        """Raise if a file the rows came from was rewritten or removed since."""
        for file in self.files:
            check_file(file, self._where)

    def close(self) -> None:
        """Remove the temporary file."""
        self._rows.close()
        if self._folder is not None:
            self._folder.cleanup()
