"""The input of the engine: the rows of a source, a part of them, and the resources for evaluating them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from featurestore.core.columns import Ints
from featurestore.kernels.words import to_words
from featurestore.plan.model import ViewPlan

BYTES_PER_EVENT = 90
"""About how many bytes an event of a part takes while it is evaluated."""

SHARE_FOR_EVENTS = 0.45
"""Share of the memory bound that events may take."""


class Rows(Protocol):
    """The rows of a source, in contract dtypes."""

    @property
    def row_count(self) -> int:
        """Count of rows."""
        ...

    @property
    def piece_count(self) -> int:
        """Count of the pieces in which rows can be read."""
        ...

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Return some columns of all rows, in the same order at every call."""
        ...

    def read_piece(self, number: int, columns: Sequence[str]) -> pa.Table:
        """Return some columns of one piece, in one chunk each; pieces in order give the rows in order."""
        ...

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Return the same rows in batches."""
        ...


@dataclass(frozen=True)
class Resources:
    """Resources of the engine.

    Attributes:
        threads: Threads of the kernels.
        memory_bytes: Bound for the whole process; events take about half of it. ``None`` is unbounded.
        spill_folder: Folder for parts of large sources; the system's if ``None``.
    """

    threads: int = 2
    memory_bytes: int | None = None
    spill_folder: Path | None = None

    @property
    def most_events(self) -> int | None:
        """Events that memory may hold at a time; ``None`` if there is no bound."""
        if self.memory_bytes is None:
            return None
        return max(1, int(self.memory_bytes * SHARE_FOR_EVENTS) // BYTES_PER_EVENT)


@dataclass(frozen=True)
class Part:
    """Events of some entities: their codes, and their columns, which are read on demand.

    Attributes:
        codes: Entity of each event; negative for those that nothing asks about.
        read: Gives columns of the events, each in one chunk, in the order of ``codes``.
    """

    codes: Ints
    read: Callable[[Sequence[str]], dict[str, pa.Array]]


def arrays(table: pa.Table) -> dict[str, pa.Array]:
    """Return the columns of a table, each in one chunk."""
    return {name: table.column(name).combine_chunks() for name in table.column_names}


def ingest_columns(view: ViewPlan) -> tuple[str, ...]:
    """Return the column of the ingest time, if the source has one."""
    return () if view.source.ingest_time is None else (view.source.ingest_time,)


def value_columns(view: ViewPlan) -> set[str]:
    """Return the columns that the view's inputs are computed from."""
    return {name for source in view.inputs for name in source.columns()}


def read_times(view: ViewPlan, columns: Mapping[str, pa.Array], *, hindsight: bool) -> tuple[Ints, Ints]:
    """Return event and ingest times, microseconds; the same array if an event is known from its event time on."""
    dtypes = {column.name: column.dtype for column in view.source.columns}
    name, ingest = view.source.event_time, view.source.ingest_time
    event_time, _ = to_words(columns[name], dtypes[name])
    if ingest is None or hindsight:
        return event_time, event_time
    return event_time, to_words(columns[ingest], dtypes[ingest])[0]
