"""The rows of a source as events: contract dtypes, the policy on nulls, one row per event id, one fixed order.

A scan is opened for one view: its policy on nulls is about that view's keys. All its values have gone through
``core.values.read_column``. It may be read from several threads at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from types import TracebackType
from typing import TypeVar

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Flags, Ints
from featurestore.core.dtypes import DType
from featurestore.core.values import one_chunk
from featurestore.definitions.sources import OnNull
from featurestore.plan.model import SourcePlan
from featurestore.sources.convert import to_contract
from featurestore.sources.deliveries import id_hashes
from featurestore.sources.rows import PIECE_BYTES, RawRows, SourceFile, missing_column, rows_within
from featurestore.sources.selection import Selection, select_events
from featurestore.sources.settings import ReadSettings

IngestRange = tuple[int, int]
"""Microseconds: rows with ``from <= ingest_time < until``."""

BATCH_ROWS = 1 << 17
PART_ROWS = 1 << 19
"""Pieces are worked on together up to so many rows, or ``PIECE_BYTES``."""

_INSTANT = pa.timestamp("us", tz="UTC")
_S = TypeVar("_S")
_T = TypeVar("_T")


@dataclass(frozen=True)
class SourceStats:
    """Counts and newest times of a source when it was read.

    Attributes:
        row_count: Events: rows that were not dropped.
        null_rows: Rows dropped because a key or time was null.
        nulls: Null count of each key and time column that had any.
        duplicate_rows: Rows dropped because another delivery of their event counts.
        newest_event_time_us: Largest event time; ``None`` if there are no rows.
        newest_ingest_time_us: Largest ingest time; ``None`` if there are no rows.
        not_finite: Count of NaN and infinities that became null, for each column read so far that had any.
    """

    row_count: int
    null_rows: int = 0
    nulls: tuple[tuple[str, int], ...] = ()
    duplicate_rows: int = 0
    newest_event_time_us: int | None = None
    newest_ingest_time_us: int | None = None
    not_finite: tuple[tuple[str, int], ...] = ()


class Scan:
    """The events of a source, for one view."""

    def __init__(
        self,
        rows: RawRows,
        plan: SourcePlan,
        *,
        keys: Sequence[str],
        on_null: OnNull,
        settings: ReadSettings,
        owns_rows: bool = True,
    ) -> None:
        """Take the rows; nothing is read yet.

        Args:
            rows: The rows as they are in the source.
            plan: Columns, times and zone.
            keys: The view's key columns.
            on_null: What to do with rows whose key or time is null, see ``selection``.
            settings: Threads and memory.
            owns_rows: Whether closing the scan closes the rows.

        Raises:
            SourceMissingError: The rows lack a column of the plan.
        """
        self._rows = rows
        self._plan = plan
        self._keys = tuple(keys)
        self._on_null = on_null
        self._settings = settings
        self._owns_rows = owns_rows
        self._where = f"source '{plan.name}'"
        self._lock = Lock()
        self._selecting = Lock()
        self._not_finite: dict[tuple[int, str], int] = {}
        self._known: Selection | None = None
        self._numbers = range(len(rows.piece_rows))
        for column in plan.columns:
            if column.name not in rows.dtypes:
                raise missing_column(self._where, column.name, list(rows.dtypes))
        starts = np.concatenate([[0], np.cumsum(rows.piece_rows, dtype=np.int64)])
        self._starts: list[int] = [int(start) for start in starts]

    @cached_property
    def schema(self) -> Mapping[str, DType]:
        """The plan's columns and their dtypes."""
        return {column.name: column.dtype for column in self._plan.columns}

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """The files that hold the rows; none for frames and databases."""
        return self._rows.files

    @property
    def row_count(self) -> int:
        """Count of events.

        Raises:
            SourceDataError: A key or time is null, and the source's policy is an error.
        """
        return self._selection().row_count

    @property
    def ingest_column(self) -> str:
        """The column with the instant at which an event became known."""
        return self._plan.ingest_time or self._plan.event_time

    def read(self, columns: Sequence[str], *, ingest: IngestRange | None = None) -> pa.Table:
        """Read some columns of all events.

        Args:
            columns: Names of plan columns.
            ingest: Only events that became known in this range; ``None`` reads all.

        Returns:
            A table of the columns in that order, in contract dtypes, each in one chunk. Events stand in an order that
            is the same at every call and for every choice of columns.

        Raises:
            SourceDataError: A value breaks the source's contract, or a file is corrupt.
            SourceMissingError: A file has gone.
        """
        self._selection()
        parts = self._each_piece(lambda number: self._events(number, columns, ingest))
        return _joined(parts, columns, self.schema, self._settings.threads)

    def each(
        self, columns: Sequence[str], work: Callable[[pa.Table], _T], *, ingest: IngestRange | None = None
    ) -> list[_T]:
        """Apply a function to the rows that ``read`` returns, a few pieces at a time, and keep only its results.

        Args:
            columns: Names of plan columns.
            work: Called with tables, which may be empty, from several threads at once.
            ingest: Only events that became known in this range; ``None`` reads all.

        Returns:
            The results, in the order of the rows. A table is one piece (row group), or several small ones.
        """
        self._selection()

        def done(numbers: Sequence[int]) -> _T:
            parts = [self._events(number, columns, ingest) for number in numbers]
            return work(_joined(parts, columns, self.schema, 1))

        return self._in_threads(done, self._parts(columns))

    def _parts(self, columns: Sequence[str]) -> list[list[int]]:
        """Return the numbers of all pieces, small ones that follow each other together."""
        most = rows_within(PART_ROWS, PIECE_BYTES, self._starts[-1], self._rows.estimated_bytes(columns))
        parts: list[list[int]] = []
        rows = 0
        for number in self._numbers:
            rows += self._rows.piece_rows[number]
            if not parts or rows > most:
                parts.append([])
                rows = self._rows.piece_rows[number]
            parts[-1].append(number)
        return parts

    @property
    def piece_count(self) -> int:
        """Count of the pieces of the rows."""
        return len(self._numbers)

    def read_piece(self, number: int, columns: Sequence[str]) -> pa.Table:
        """Read the rows of one piece; the pieces in order give the rows that ``read`` gives, in the same order."""
        schema = pa.schema([(name, self.schema[name].arrow) for name in columns])
        return pa.table(self._events(self._numbers[number], columns, None), schema=schema)

    def batches(
        self, columns: Sequence[str], *, rows: int = BATCH_ROWS, ingest: IngestRange | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Read the same rows as ``read`` in the same order, in batches of at most ``rows`` rows.

        Memory holds a few pieces (row groups) of the source at a time.
        """
        self._selection()
        schema = pa.schema([(name, self.schema[name].arrow) for name in columns])
        for arrays in _ahead(lambda number: self._events(number, columns, ingest), self._numbers):
            batch = pa.RecordBatch.from_arrays(arrays, schema=schema) if columns else None
            for start in range(0, batch.num_rows if batch is not None else 0, rows):
                assert batch is not None
                yield batch.slice(start, rows)

    def numbered(self, columns: Sequence[str]) -> Iterator[tuple[Ints, pa.RecordBatch]]:
        """Read the same rows as ``read`` in the same order, piece by piece, each with its number.

        A row's number counts all rows before it, also those that are not events: so the rows of ``files`` follow each
        other, ``row_count`` each.
        """
        masks = self._selection().masks
        schema = pa.schema([(name, self.schema[name].arrow) for name in columns])
        for number, arrays in zip(
            self._numbers, _ahead(lambda piece: self._events(piece, columns, None), self._numbers), strict=True
        ):
            mask = masks[number]
            kept = np.arange(self._rows.piece_rows[number]) if mask is None else np.flatnonzero(mask)
            yield self._starts[number] + kept, pa.RecordBatch.from_arrays(arrays, schema=schema)

    def count_below(self, ingest_us: int) -> int:
        """Count the events with ``ingest_time < ingest_us``.

        A run remembers this count beside its watermark; another count later means that rows appeared below the
        watermark, or went.
        """
        self._selection()
        return sum(self._each_piece(lambda number: int(np.count_nonzero(self._below(number, ingest_us)))))

    def files_below(self, ingest_us: int) -> frozenset[SourceFile]:
        """Return those of ``files`` that hold an event with ``ingest_time < ingest_us``."""
        ends = np.cumsum([file.row_count for file in self.files])

        def below(number: int) -> Ints:
            rows = self._starts[number] + np.flatnonzero(self._below(number, ingest_us))
            return np.unique(np.searchsorted(ends, rows, side="right"))

        places = {int(place) for found in self._each_piece(below) for place in found}
        return frozenset(file for place, file in enumerate(self.files) if place in places)

    def repeats_logged(self, ingest: IngestRange, *, before_us: int) -> bool:
        """Report whether events that became known in a range replace deliveries that the event log had before.

        Args:
            ingest: The range.
            before_us: Only deliveries in the log with ``ingest_time < before_us``.
        """
        event_id = self._plan.event_id
        if event_id is None:
            return False
        replaced = [np.zeros(0, np.uint64)]
        for number in range(self._outside_pieces, len(self._rows.piece_rows)):
            mask = self._selection().masks[number]
            if mask is not None and not mask.all():
                columns = self._converted(number, [event_id, self.ingest_column])
                hashes, has_id = id_hashes(columns[event_id])
                replaced.append(hashes[has_id & ~mask & (_instants(columns[self.ingest_column]) < before_us)])
        if not any(map(len, replaced)):
            return False
        hashes, has_id = id_hashes(one_chunk(self.read([event_id], ingest=ingest).column(event_id)))
        return bool(np.isin(hashes[has_id], np.concatenate(replaced)).any())

    def outside(self) -> Scan:
        """Return the same events without those of the event log; the choice among deliveries of an event stays."""
        self._selection()
        part = copy(self)
        part._numbers = range(self._outside_pieces)
        part._owns_rows = False
        return part

    def logged(self) -> Scan:
        """Return only the events of the event log; the choice among deliveries of an event stays."""
        part = self.outside()
        part._numbers = range(part._numbers.stop, len(self._rows.piece_rows))
        return part

    def stats(self) -> SourceStats:
        """Return counts and newest times of the events."""
        selection = self._selection()
        event_time = self._newest(self._plan.event_time)
        ingest_time = event_time if self._plan.ingest_time is None else self._newest(self._plan.ingest_time)
        with self._lock:
            counts = {name: count for name, count in self._rows.not_finite.items() if name in self.schema}
            for (_, name), count in self._not_finite.items():
                counts[name] = counts.get(name, 0) + count
        return SourceStats(
            row_count=selection.row_count,
            null_rows=selection.null_rows,
            nulls=selection.nulls,
            duplicate_rows=selection.duplicate_rows,
            newest_event_time_us=event_time,
            newest_ingest_time_us=ingest_time,
            not_finite=tuple(sorted((name, count) for name, count in counts.items() if count)),
        )

    def estimated_bytes(self, columns: Sequence[str]) -> int:
        """Return about how many bytes some columns of all rows take in memory."""
        return self._rows.estimated_bytes(columns)

    def check_unchanged(self) -> None:
        """Make sure that the files are still those that were opened.

        Raises:
            SourceDataError: A file was written since.
            SourceMissingError: A file has gone.
        """
        self._rows.check_unchanged()

    def close(self) -> None:
        """Remove temporary files."""
        if self._owns_rows:
            self._rows.close()

    def __enter__(self) -> Scan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _each_piece(self, work: Callable[[int], _T]) -> list[_T]:
        return self._in_threads(work, self._numbers)

    def _in_threads(self, work: Callable[[_S], _T], items: Sequence[_S]) -> list[_T]:
        """Apply a function to items, in as many threads as the settings allow."""
        if len(items) <= 1 or self._settings.threads == 1:
            return [work(item) for item in items]
        with ThreadPoolExecutor(self._settings.threads) as pool:
            return list(pool.map(work, items))

    def _converted(self, number: int, columns: Sequence[str]) -> dict[str, pa.Array]:
        """Read columns of one piece in contract dtypes, all its rows."""
        if unknown := [name for name in columns if name not in self.schema]:
            raise missing_column(self._where, unknown[0], list(self.schema))
        table = self._rows.read_piece(number, columns)
        place = self._rows.place(number)
        first_row = 0 if place else self._starts[number]
        return {name: self._column(number, name, table.column(name), place, first_row) for name in columns}

    def _column(self, number: int, name: str, column: pa.ChunkedArray, place: str, first_row: int) -> pa.Array:
        where = f"{self._where}, column '{name}'" + (f", {place}" if place else "")
        array, counts = to_contract(
            column,
            self.schema[name],
            timezone=self._plan.clock,
            where=where,
            first_row=first_row,
            epoch=self._plan.epoch_unit(name),
        )
        if counts.not_finite:
            with self._lock:
                self._not_finite[number, name] = counts.not_finite
        return array

    def _events(self, number: int, columns: Sequence[str], ingest: IngestRange | None) -> list[pa.Array]:
        """Read columns of the events of one piece."""
        mask = self._selection().masks[number]
        needed = list(columns)
        if ingest is not None:
            bounds = self._rows.bounds_us(number, self.ingest_column)
            if bounds is not None and (bounds[1] < ingest[0] or bounds[0] >= ingest[1]):
                return [pa.array([], self.schema[name].arrow) for name in columns]
            if bounds is None or bounds[0] < ingest[0] or bounds[1] >= ingest[1]:
                times = _instants(self._converted(number, [self.ingest_column])[self.ingest_column])
                inside = (times >= ingest[0]) & (times < ingest[1])
                mask = inside if mask is None else inside & mask
        if mask is not None and not mask.any():
            return [pa.array([], self.schema[name].arrow) for name in columns]
        arrays = self._converted(number, needed)
        if mask is None or mask.all():
            return [arrays[name] for name in columns]
        chosen = pa.array(mask)
        return [arrays[name].filter(chosen) for name in columns]

    def _below(self, number: int, ingest_us: int) -> Flags:
        """Return which rows of a piece are events with ``ingest_time < ingest_us``."""
        mask = self._selection().masks[number]
        bounds = self._rows.bounds_us(number, self.ingest_column)
        if bounds is not None and (bounds[1] < ingest_us or bounds[0] >= ingest_us):
            below = np.full(self._rows.piece_rows[number], bounds[1] < ingest_us)
        else:
            below = _instants(self._converted(number, [self.ingest_column])[self.ingest_column]) < ingest_us
        return below if mask is None else below & mask

    def _newest(self, column: str) -> int | None:
        newest = self._each_piece(lambda number: self._newest_in(number, column))
        return max((instant for instant in newest if instant is not None), default=None)

    def _newest_in(self, number: int, column: str) -> int | None:
        if self._selection().masks[number] is None and (bounds := self._rows.bounds_us(number, column)) is not None:
            return bounds[1]
        (times,) = self._events(number, [column], None)
        return int(_instants(times).max()) if len(times) else None

    def _selection(self) -> Selection:
        with self._selecting:
            if self._known is None:
                self._known = select_events(
                    self._rows,
                    self._converted,
                    self._each_piece,
                    plan=self._plan,
                    keys=self._keys,
                    on_null=self._on_null,
                    outside_pieces=self._outside_pieces,
                )
            return self._known

    @property
    def _outside_pieces(self) -> int:
        """How many of the rows' pieces are outside the event log."""
        return int(getattr(self._rows, "outside_pieces", len(self._rows.piece_rows)))


def _instants(array: pa.Array) -> Ints:
    """Return instants as microseconds; nulls have any value."""
    if array.null_count:
        array = array.fill_null(pa.scalar(0, _INSTANT))
    return np.asarray(array.cast(pa.int64()).to_numpy(zero_copy_only=False), dtype=np.int64)


def _joined(
    parts: Sequence[Sequence[pa.Array]], columns: Sequence[str], schema: Mapping[str, DType], threads: int
) -> pa.Table:
    """Concatenate the columns of pieces."""

    def join(i: int) -> pa.Array:
        kind = schema[columns[i]].arrow
        arrays = [part[i] for part in parts if len(part[i])]
        return arrays[0] if len(arrays) == 1 else pa.concat_arrays([pa.array([], kind), *arrays])

    if threads == 1:
        arrays = [join(i) for i in range(len(columns))]
    else:
        with ThreadPoolExecutor(threads) as pool:
            arrays = list(pool.map(join, range(len(columns))))
    return pa.table(arrays, names=list(columns))


def _ahead(work: Callable[[int], _T], numbers: Sequence[int]) -> Iterator[_T]:
    """Apply a function in order, computing each result while the one before is used."""
    if not numbers:
        return
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(work, numbers[0])
        for following in numbers[1:]:
            ready = coming.result()
            coming = pool.submit(work, following)
            yield ready
            del ready
        yield coming.result()
