"""Which rows of a source are events: rows with keys and times, one row per event id.

A row whose key, event time or ingest time is null is not an event. ``on_null`` of the source decides what happens to
it: ``"error"`` refuses the source, ``"drop"`` leaves the row out and counts it. Pushed events are never an error here:
a push with such nulls is rejected (``online.pushing.event_schema``), and only a column that became a key since can be
null in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Flags
from featurestore.core.errors import SourceDataError
from featurestore.definitions.sources import OnNull
from featurestore.plan.model import SourcePlan
from featurestore.sources.deliveries import repeated_deliveries
from featurestore.sources.rows import RawRows

ReadPiece: TypeAlias = Callable[[int, Sequence[str]], dict[str, pa.Array]]
"""Returns columns of one piece in contract dtypes, all its rows."""

Validity: TypeAlias = tuple[Flags | None, dict[str, int]]
"""Which rows of a piece have no null in required columns, ``None`` if all; and the null counts of these columns."""


@dataclass(frozen=True)
class Selection:
    """Which rows are events.

    Attributes:
        masks: For each piece a mask of its rows, ``None`` if all are events.
        row_count: Count of events.
        null_rows: Count of rows that were dropped because a key or time is null.
        nulls: Null count of each key and time column that has any.
        duplicate_rows: Count of rows that were dropped because another delivery of their event counts.
    """

    masks: tuple[Flags | None, ...]
    row_count: int
    null_rows: int
    nulls: tuple[tuple[str, int], ...]
    duplicate_rows: int


def select_events(
    rows: RawRows,
    read: ReadPiece,
    each_piece: Callable[
        [Callable[[int], tuple[Flags | None, dict[str, int]]]], list[tuple[Flags | None, dict[str, int]]]
    ],
    *,
    plan: SourcePlan,
    keys: Sequence[str],
    on_null: OnNull,
    outside_pieces: int,
) -> Selection:
    """Select the events of some rows.

    Args:
        rows: The rows.
        read: Reads columns of a piece.
        each_piece: Calls a function with the number of each piece, perhaps in threads, and returns the results in
            order.
        plan: Names the times and the event id.
        keys: The view's key columns.
        on_null: What to do with rows outside the event log in which a key or time is null.
        outside_pieces: How many pieces, the first ones, are outside the event log.

    Raises:
        SourceDataError: A key (``null-key``) or time (``null-time``) is null outside the log, and that is an error.
    """
    required = list(dict.fromkeys([*keys, plan.event_time, plan.ingest_time or plan.event_time]))
    validity = each_piece(lambda number: _valid_rows(rows, read, number, required))
    outside = validity[:outside_pieces]
    if on_null == "error" and any(counts for _, counts in outside):
        column = next(name for name in required if any(name in counts for _, counts in outside))
        role = "key" if column in keys else "time"
        raise _null_error(rows, read, plan.name, column, role, [counts.get(column, 0) for _, counts in outside])
    masks = [mask for mask, _ in validity]
    null_rows = sum(int(len(mask) - mask.sum()) for mask in masks if mask is not None)
    nulls = {name: sum(counts.get(name, 0) for _, counts in validity) for name in required}
    duplicate_rows = 0
    if plan.event_id is not None:
        masks, duplicate_rows = repeated_deliveries(
            read,
            masks,
            rows.piece_rows,
            event_id=plan.event_id,
            ingest_time=plan.ingest_time or plan.event_time,
            columns=sorted(column.name for column in plan.columns),
        )
    return Selection(
        tuple(masks),
        sum(rows.piece_rows) - null_rows - duplicate_rows,
        null_rows,
        tuple((name, count) for name, count in nulls.items() if count),
        duplicate_rows,
    )


def _valid_rows(rows: RawRows, read: ReadPiece, number: int, columns: Sequence[str]) -> Validity:
    """Return which rows of a piece have no null in some columns (``None`` if all), and the columns' null counts."""
    known = {name: rows.null_count(number, name) for name in columns}
    uncertain = [name for name, count in known.items() if count != 0]
    arrays = read(number, uncertain) if uncertain else {}
    counts = {name: int(array.null_count) for name, array in arrays.items() if array.null_count}
    if not counts:
        return None, {}
    mask = np.ones(rows.piece_rows[number], dtype=np.bool_)
    for name in counts:
        mask &= np.asarray(pc.is_valid(arrays[name]).to_numpy(zero_copy_only=False))
    return mask, counts


def _null_error(
    rows: RawRows, read: ReadPiece, source: str, column: str, role: str, counts: Sequence[int]
) -> SourceDataError:
    """Return the error for nulls in a key or time, with the place of the first one.

    Args:
        rows: The rows.
        read: Reads columns of a piece.
        source: Name of the source.
        column: The column.
        role: ``"key"`` or ``"time"``.
        counts: Null count of the column in each piece.
    """
    number = next(piece for piece, count in enumerate(counts) if count)
    array = read(number, [column])[column]
    row = int(np.argmin(np.asarray(pc.is_valid(array).to_numpy(zero_copy_only=False))))
    place = rows.place(number)
    where_row = f"row {row} of row group in {place}" if place else f"row {sum(rows.piece_rows[:number]) + row}"
    count = sum(counts)
    return SourceDataError(
        f"the {role} '{column}' is null in {count} {'row' if count == 1 else 'rows'}, first in {where_row}",
        where=f"source '{source}'",
        hint="Fill the column, or declare on_null='drop' to leave such rows out.",
        code=f"null-{role}",
    )
