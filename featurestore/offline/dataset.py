"""A training set on disk: a folder of Parquet files in row order, and a manifest.

The manifest's name begins with ``_``, so that every tool that reads a folder of Parquet files reads this one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.core.errors import StorageError, TrainingSetError, unknown_column
from featurestore.core.frames import to_frame
from featurestore.offline.digest import ContentDigest
from featurestore.offline.manifest import Manifest
from featurestore.storage.parquet import DAMAGE, open_parquet

if TYPE_CHECKING:
    import pandas as pd

MANIFEST_NAME = "_manifest.json"

_BATCH_ROWS = 1 << 17


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read the manifest of a training set.

    Args:
        path: The training set's folder, or the manifest itself.

    Raises:
        TrainingSetError: There is none, or it is damaged.
    """
    path = Path(path)
    return _manifest(path, path if path.is_file() else path / MANIFEST_NAME)


def _manifest(path: Path, file: Path) -> Manifest:
    where = f"training set '{path}'"
    try:
        text = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        problem = "it has no manifest" if path.is_dir() else "the folder does not exist"
        hint = f"A training set is a folder with Parquet files and a {MANIFEST_NAME}."
        raise TrainingSetError(problem, where=where, hint=hint, code="training-set-missing") from None
    except OSError as error:
        raise StorageError(f"the manifest cannot be read: {error.strerror}", where=where) from error
    return Manifest.from_json(text, where=where)


@dataclass(frozen=True)
class TrainingSet:
    """A training set that was built.

    Attributes:
        path: Its folder.
        manifest: Its manifest.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> TrainingSet:
        """Open a training set by its folder.

        Raises:
            TrainingSetError: There is none, or its manifest is damaged.
        """
        folder = Path(path)
        return cls(folder, _manifest(folder, folder / MANIFEST_NAME))

    @property
    def row_count(self) -> int:
        """Count of rows."""
        return self.manifest.row_count

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read columns as an Arrow table, in row order.

        Args:
            columns: Names; ``None`` reads all.

        Raises:
            TrainingSetError: A file is missing or damaged, or the column does not exist.
        """
        tables = [self._read(file.path, columns) for file in self.manifest.files]
        return pa.concat_tables(tables)

    def to_pandas(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Read columns as a pandas frame, in row order.

        Integers and booleans with nulls stay what they are, as in answers; see ``featurestore.core.frames``.

        Args:
            columns: Names; ``None`` reads all.

        Raises:
            TrainingSetError: A file is missing or damaged, or the column does not exist.
        """
        return to_frame(self.to_arrow(columns))

    def scan(self, columns: Sequence[str] | None = None, *, rows: int = _BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Read columns in batches, in row order, without holding them all.

        Args:
            columns: Names; ``None`` reads all.
            rows: Largest batch.

        Raises:
            TrainingSetError: A file is missing or damaged, or the column does not exist.
        """
        for file in self.manifest.files:
            yield from self._batches(file.path, columns, rows)

    def scan_questions(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Read the instants asked about, as column ``as_of``, and some other columns, in batches, in row order.

        Args:
            columns: Names of the other columns.

        Raises:
            TrainingSetError: A file is missing or damaged, or the column does not exist.
        """
        names = self._question_columns(columns)
        for batch in self.scan(list(names)):
            yield batch.rename_columns(list(names.values()))

    def read_questions(self, columns: Sequence[str]) -> pa.Table:
        """Read what ``scan_questions`` reads as one table."""
        names = self._question_columns(columns)
        return self.to_arrow(list(names)).rename_columns(list(names.values()))

    def _question_columns(self, columns: Sequence[str]) -> dict[str, str]:
        """Return the names under which columns are returned, by their names in the files."""
        return {name: name for name in columns} | {self.manifest.as_of: "as_of"}

    def verify(self) -> None:
        """Read everything again and compare it with the manifest.

        Raises:
            TrainingSetError: A file is missing or damaged, rows are missing, or a value differs.
        """
        digest: ContentDigest | None = None
        row_count = 0
        for batch in self.scan():
            table = pa.Table.from_batches([batch])
            digest = digest or ContentDigest(table.schema)
            digest.update(table)
            row_count += table.num_rows
        if row_count != self.manifest.row_count:
            raise self._error(
                f"it has {row_count} rows, the manifest says {self.manifest.row_count}", code="training-set-changed"
            )
        digest = digest or ContentDigest(self.to_arrow().schema)
        if (found := digest.finish()) != self.manifest.content_digest:
            raise self._error(
                f"its content has the digest {found}, the manifest says {self.manifest.content_digest}",
                code="training-set-changed",
            )

    def _read(self, name: str, columns: Sequence[str] | None) -> pa.Table:
        with self._opened(name, columns) as file:
            try:
                return file.read(columns=None if columns is None else list(columns))
            except DAMAGE as error:
                raise self._damaged(name, error) from error

    def _batches(self, name: str, columns: Sequence[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
        with self._opened(name, columns) as file:
            batches = file.iter_batches(batch_size=rows, columns=None if columns is None else list(columns))
            while True:
                try:
                    batch = next(batches, None)
                except DAMAGE as error:
                    raise self._damaged(name, error) from error
                if batch is None:
                    return
                yield batch

    def _opened(self, name: str, columns: Sequence[str] | None) -> pq.ParquetFile:
        try:
            file = open_parquet(self.path / name)
        except FileNotFoundError:
            raise self._error(f"the file '{name}' is missing", code="training-set-changed") from None
        except DAMAGE as error:
            raise self._damaged(name, error) from error
        known = file.schema_arrow.names
        for column in columns or ():
            if column not in known:
                file.close()
                raise unknown_column(column, known).error(TrainingSetError, f"training set '{self.path}'")
        return file

    def _damaged(self, name: str, error: Exception) -> TrainingSetError:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return self._error(f"the file '{name}' is not sound Parquet: {reason}", code="training-set-changed")

    def _error(self, problem: str, *, code: str) -> TrainingSetError:
        hint = "It was changed after it was built; build it again."
        return TrainingSetError(problem, where=f"training set '{self.path}'", hint=hint, code=code)
