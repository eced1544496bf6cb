"""Rows of an audit that do not fit into memory together: on disk, to be taken back entity by entity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.core.columns import Flags, Ints
from featurestore.core.errors import StorageError
from featurestore.guard.comparing.sampling import BUCKETS

_FLAG = "differs__"


class Spilled:
    """Rows in a temporary file (under ``TMPDIR``), in the order of their buckets within each piece.

    First all pieces are added, then rows are taken, each once. The file is mapped, not read: what is not taken costs no
    memory.
    """

    def __init__(self) -> None:
        """Begin without rows."""
        self._folder = TemporaryDirectory(prefix="featurestore-audit-")
        self._path = Path(self._folder.name) / "rows.arrow"
        self._writer: pa.ipc.RecordBatchFileWriter | None = None
        self._reader: pa.ipc.RecordBatchFileReader | None = None
        self._buckets: list[npt.NDArray[np.int32]] = []
        self._differing = np.zeros(BUCKETS, dtype=np.int64)
        self._next_bucket = 0
        self._waiting: pa.Table | None = None

    def add(self, table: pa.Table, buckets: Ints, differs: Mapping[str, Flags]) -> None:
        """Write some rows.

        Args:
            table: The rows.
            buckets: The bucket of each.
            differs: Per output which of them differ.

        Raises:
            StorageError: The disk refuses.
        """
        order = np.argsort(buckets, kind="stable")
        for name, flags in differs.items():
            table = table.append_column(f"{_FLAG}{name}", pa.array(flags))
        table = table.replace_schema_metadata(None).take(pa.array(order)).combine_chunks()
        with _told(self._path):
            if self._writer is None:
                self._writer = pa.ipc.new_file(self._path, table.schema)
            start = 0
            for batch in table.to_batches():
                self._writer.write_batch(batch)
                self._buckets.append(buckets[order[start : start + batch.num_rows]].astype(np.int32))
                start += batch.num_rows
        any_differs = np.any(list(differs.values()), axis=0)
        self._differing += np.bincount(buckets[any_differs], minlength=BUCKETS)

    def take(self, most: int) -> tuple[pa.Table, dict[str, Flags]] | None:
        """Take rows of the next entities.

        Args:
            most: Count of rows that differ which are taken at most; an entity with more of them is taken in parts.

        Returns:
            The rows, and per output which of them differ; ``None`` if all were taken.
        """
        if self._waiting is None:
            self._waiting = self._between(most)
        if self._waiting is None:
            return None
        flags = _flags(self._waiting)
        end = int(np.searchsorted(np.cumsum(np.any(list(flags.values()), axis=0)), most, side="right"))
        taken = self._waiting.slice(0, end)
        self._waiting = self._waiting.slice(end) if end < self._waiting.num_rows else None
        plain = taken.select([name for name in taken.column_names if not name.startswith(_FLAG)])
        return plain, {name: own[:end] for name, own in flags.items()}

    def close(self) -> None:
        """Remove the file."""
        if self._writer is not None:
            self._writer.close()
        self._waiting = self._reader = None
        self._folder.cleanup()

    def _between(self, most: int) -> pa.Table | None:
        """Return the rows of the next buckets that have so many rows that differ, of one bucket at least."""
        rest = np.cumsum(self._differing[self._next_bucket :])
        if len(rest) == 0 or rest[-1] == 0:
            return None
        first = self._next_bucket
        filled = int(np.searchsorted(rest, 0, side="right"))
        self._next_bucket = first + max(filled + 1, int(np.searchsorted(rest, most, side="right")))
        pieces = []
        for number, buckets in enumerate(self._buckets):
            start, end = np.searchsorted(buckets, [first, self._next_bucket])
            if end > start:
                pieces.append(self._batch(number).slice(start, end - start))
        return pa.Table.from_batches(pieces)

    def _batch(self, number: int) -> pa.RecordBatch:
        with _told(self._path):
            if self._reader is None:
                assert self._writer is not None
                self._writer.close()
                self._reader = pa.ipc.open_file(pa.memory_map(str(self._path)))
            return self._reader.get_batch(number)


def _flags(table: pa.Table) -> dict[str, Flags]:
    return {
        name.removeprefix(_FLAG): np.asarray(table.column(name).to_numpy(), dtype=np.bool_)
        for name in table.column_names
        if name.startswith(_FLAG)
    }


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot keep rows that differ in {path}: {error}",
            where="audit",
            hint="Set TMPDIR to a disk with room, or audit less: a shorter time, a sample, or without causes.",
        ) from error
