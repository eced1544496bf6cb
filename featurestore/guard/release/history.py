"""The history of a source for a replay: its pushed events, its other events, and the content of state at an instant.

Events of a source that accepts pushes enter online state by a push or by a run. Which of the two follows from the
instant at which the event became known, so that all readers of the history decide alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Flags, Ints
from featurestore.core.temporal import NOTHING_YET
from featurestore.online.filling.streaming import Stream
from featurestore.sources import Scan, SourceFile
from featurestore.sources.event_log import Head

Ingest = tuple[int, int] | None
_T = TypeVar("_T")

_MIXER = np.uint64(0x9E3779B97F4A7C15)
_TOP_BIT = np.uint64(63)


@dataclass(frozen=True)
class FilteredScan:
    """The events of a source that became known at certain instants, with the interface of a scan.

    Attributes:
        scan: The source.
        has: Returns by ingest times which events belong to the part.
    """

    scan: Scan
    has: Callable[[Ints], Flags]

    @property
    def ingest_column(self) -> str:
        """The column that says when an event became known."""
        return self.scan.ingest_column

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """The files of the source."""
        return self.scan.files

    @property
    def piece_count(self) -> int:
        """Count of the pieces in which rows are read."""
        return self.scan.piece_count

    @cached_property
    def row_count(self) -> int:
        """Count of events."""
        return sum(int(self.has(_instants(batch.column(0))).sum()) for batch in self.scan.batches([self.ingest_column]))

    def read(self, columns: Sequence[str], *, ingest: Ingest = None) -> pa.Table:
        """Return some columns of the events that became known in a range."""
        return self._kept(self.scan.read(self._with_ingest(columns), ingest=ingest), columns)

    def read_piece(self, number: int, columns: Sequence[str]) -> pa.Table:
        """Return some columns of the events of one piece."""
        return self._kept(self.scan.read_piece(number, self._with_ingest(columns)), columns)

    def each(self, columns: Sequence[str], work: Callable[[pa.Table], _T], *, ingest: Ingest = None) -> list[_T]:
        """Apply a function to the same rows, table by table; return its results."""
        return self.scan.each(self._with_ingest(columns), lambda table: work(self._kept(table, columns)), ingest=ingest)

    def batches(self, columns: Sequence[str], *, ingest: Ingest = None) -> Iterator[pa.RecordBatch]:
        """Return the rows of ``read`` in batches."""
        for batch in self.scan.batches(self._with_ingest(columns), ingest=ingest):
            yield self._kept(batch, columns)

    def count_below(self, ingest_us: int) -> int:
        """Count the events that became known before an instant."""
        return len(self.times(NOTHING_YET, ingest_us))

    def files_below(self, _: int) -> tuple[SourceFile, ...]:
        """Return all files: history changes none of them."""
        return self.files

    def repeats_logged(self, _: tuple[int, int], *, before_us: int) -> bool:  # noqa: ARG002  # the Protocol's name
        """Return ``False``: history has one delivery of each event."""
        return False

    def times(self, from_us: int, until_us: int) -> Ints:
        """Return the instants of a range at which events became known, ascending, one per event."""
        first, end = np.searchsorted(self._times, [from_us, until_us])
        return self._times[first:end]

    @cached_property
    def _times(self) -> Ints:
        return np.sort(_instants(self.read([self.ingest_column]).column(0)))

    def check_unchanged(self) -> None:
        """Raise ``SourceError`` if the source has changed since it was opened."""
        self.scan.check_unchanged()

    def _with_ingest(self, columns: Sequence[str]) -> list[str]:
        return list(dict.fromkeys([*columns, self.ingest_column]))

    def _kept(self, rows: Any, columns: Sequence[str]) -> Any:
        """Return the rows of a table or batch that belong to the part, each column in one chunk."""
        kept = rows.filter(pa.array(self.has(_instants(rows.column(self.ingest_column))))).select(list(columns))
        return kept.combine_chunks() if isinstance(kept, pa.Table) else kept


@dataclass(frozen=True)
class Pushes:
    """Events that are pushed in a replay, in the order in which they became known.

    Attributes:
        part: The events.
        known_us: All events became known before this instant.
    """

    part: FilteredScan
    known_us: int

    def head(self) -> Head:
        """Return the end of the log; history needs no sequence number, because it loses no events."""
        return Head(next_ingest_us=self.known_us)

    def is_past(self, _: Head) -> bool:
        """Return ``True``: history loses no events."""
        return True

    def seal(self, until_us: int) -> None:
        """Do nothing: history is complete."""

    def read_back(self) -> Pushes:
        """Return the same: no event is removed from history."""
        return self

    def steps(self, from_us: int, until_us: int, most_events: int) -> Iterator[tuple[int, pa.Table]]:
        """Yield the events of a range of ingest times, cut between instants; see ``streaming.Pushed``."""
        columns = list(self.part.scan.schema)
        times = self.part.times(from_us, until_us)
        while len(times) > most_events:
            end_us = max(int(times[most_events]), int(times[0]) + 1)
            yield end_us, self.part.read(columns, ingest=(from_us, end_us))
            from_us, times = end_us, times[np.searchsorted(times, end_us) :]
        if from_us < until_us:
            yield until_us, self.part.read(columns, ingest=(from_us, until_us))


@dataclass(frozen=True)
class History:
    """All events of the source of a view.

    Attributes:
        scan: The source.
        accepts_pushes: Whether its events may be pushed.
    """

    scan: Scan
    accepts_pushes: bool

    @cached_property
    def is_all_pushed(self) -> bool:
        """Whether all events are replayed as pushes, because the source has no others."""
        return self.accepts_pushes and self.scan.outside().row_count == 0

    def pushed(self, ingest: Ints) -> Flags:
        """Return by ingest times which events are pushed: about half, by hash, if the source also has other events."""
        if not self.accepts_pushes or self.is_all_pushed:
            return np.full(len(ingest), self.accepts_pushes, dtype=np.bool_)
        return np.asarray((ingest.astype(np.uint64) * _MIXER) >> _TOP_BIT == 1, dtype=np.bool_)

    def outside(self) -> Scan | FilteredScan:
        """Return the events that enter state by a run."""
        if not self.accepts_pushes:
            return self.scan
        return self.scan.outside() if self.is_all_pushed else self._outside

    @cached_property
    def _outside(self) -> FilteredScan:
        return FilteredScan(self.scan, lambda ingest: ~self.pushed(ingest))

    @cached_property
    def _pushed(self) -> FilteredScan:
        return FilteredScan(self.scan, self.pushed)

    def stream(self, known_us: int) -> Stream | None:
        """Return the stream that a view follows; ``None`` if its source accepts no pushes."""
        if not self.accepts_pushes:
            return None
        return Stream(Pushes(self._pushed, known_us), outside="nothing" if self.is_all_pushed else "")

    def middle_us(self, from_us: int, until_us: int) -> int | None:
        """Return an instant after half of the pushes of a range; ``None`` if there are none."""
        times = self._pushed.times(from_us, until_us) if self.accepts_pushes else ()
        return int(times[(len(times) - 1) // 2]) + 1 if len(times) else None

    def held(self, *, outside_us: int, pushed_us: int) -> FilteredScan:
        """Return the events of a state that has runs up to one instant, and pushes up to another.

        Args:
            outside_us: Events of runs became known before this instant.
            pushed_us: Pushed events became known before this instant.
        """
        return FilteredScan(self.scan, lambda ingest: ingest < np.where(self.pushed(ingest), pushed_us, outside_us))


def _instants(column: pa.Array | pa.ChunkedArray) -> Ints:
    return np.asarray(column.cast(pa.int64()).to_numpy(), dtype=np.int64)
