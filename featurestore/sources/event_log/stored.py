"""Stored events: Arrow bytes in the database or Parquet files, and their descriptions, which need no reading."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.dtypes import DType
from featurestore.core.errors import StorageError
from featurestore.core.temporal import NOTHING_YET
from featurestore.plan.model import INGEST_COLUMN, SEQUENCE_COLUMN

_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)  # a batch is too small to share out

_LARGEST = 1 << 63


@dataclass(frozen=True)
class Head:
    """How far the log of one source goes.

    Attributes:
        next_sequence: Number of the next event.
        next_ingest_us: Least ingest time of the next event; every event before it is committed.
        mark: Random text that is drawn with the last event. It tells a log that lost this event and got others since
            from one that did not. Empty if there is no event, or if it was appended before marks were kept.
    """

    next_sequence: int = 0
    next_ingest_us: int = NOTHING_YET
    mark: str = ""

    def is_behind_same_event(self, other: Head) -> bool:
        """Return whether the last event before both heads is the same."""
        return (self.next_sequence, self.mark) == (other.next_sequence, other.mark)


@dataclass(frozen=True)
class Stretch:
    """Events of one source that lie together, in a batch of the database or in a file.

    Attributes:
        first: Number of the first event.
        last: Number of the last event.
        row_count: How many there are.
        ingest_from_us: Smallest ingest time.
        ingest_to_us: Largest ingest time.
        path: File that holds them; ``None`` if the database does.
    """

    first: int
    last: int
    row_count: int
    ingest_from_us: int
    ingest_to_us: int
    path: str | None = None


@dataclass(frozen=True)
class IdColumn:
    """A column by which the log tells deliveries of one event apart from other events.

    Attributes:
        name: Name of the column.
        dtype: What its values are compared as.
    """

    name: str
    dtype: DType


def packed(table: pa.Table) -> bytes:
    """Return a table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=_OPTIONS) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def unpacked(stored: bytes) -> pa.Table:
    """Read what ``packed`` wrote.

    Raises:
        StorageError: It is damaged.
    """
    try:
        table = pa.ipc.open_stream(stored).read_all()
        # With a wrong length or offset, readers would read beside the events.
        table.validate(full=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        hint = "Bring the database back from a backup; its events are nowhere else."
        problem = f"a batch of events in the database is damaged: {error}"
        raise StorageError(problem, where="event log", hint=hint, code="event-log-damaged") from error
    return table


def under_log_names(table: pa.Table) -> pa.Table:
    """Return stored events with their ingest time under the log's own name.

    The first logs stored it under the name that the source had for it; it is the column before the event's number.

    Raises:
        pa.ArrowInvalid: The ingest time of some events cannot be found.
    """
    stored_name = ingest_name(table.column_names)
    if stored_name == INGEST_COLUMN:
        if table.column(stored_name).null_count:
            # Only in a file of the first logs: the column of its later events' ingest times is not known.
            raise pa.ArrowInvalid("events of an older log have no ingest time")
        return table
    ingested = table.column(stored_name)
    rest = table.drop_columns(
        [name for name in (stored_name, INGEST_COLUMN, SEQUENCE_COLUMN) if name in table.column_names]
    )
    if INGEST_COLUMN in table.column_names:
        # The file's events were stored under both names, and callers may have sent a column of the old name since.
        known = table.column(INGEST_COLUMN)
        rest = rest.append_column(stored_name, pc.if_else(pc.is_valid(known), ingested, pa.scalar(None, ingested.type)))
        ingested = pc.coalesce(known, ingested)
    return rest.append_column(INGEST_COLUMN, ingested).append_column(SEQUENCE_COLUMN, table.column(SEQUENCE_COLUMN))


def ingest_name(names: list[str]) -> str:
    """Return the column of stored events that holds the ingest time of the oldest of them."""
    return names[names.index(SEQUENCE_COLUMN) - 1]


def identities(ids: Iterable[Any]) -> list[bytes | None]:
    """Return bytes that stand for each event id, ``None`` for events without one.

    A number of 64 bits is itself, in 8 bytes that sort as numbers do: ids that are counted up lie side by side, and an
    append changes a page or two of their index. Anything else is 16 bytes of a hash, each on a page of its own.
    """
    return [None if value is None else _number(value) if type(value) is int else _hash(value) for value in ids]


def _number(value: int) -> bytes:
    return (value + _LARGEST).to_bytes(8, "big")


def _hash(value: Any) -> bytes:
    return hashlib.blake2b(repr(value).encode(), digest_size=16).digest()
