"""Deliveries of one event: rows with the same event id are one event, in whatever order they are.

The earliest ingest time wins; of those with equal ones the smallest by content: all columns the view reads, in the
order of their names, nulls first. Rows without an event id are events of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Flags, Words
from featurestore.core.dtypes import from_arrow
from featurestore.core.values import one_chunk
from featurestore.kernels.words import to_words, validity
from featurestore.sources.content import row_hashes

Reader: TypeAlias = Callable[[int, Sequence[str]], dict[str, pa.Array]]
"""Returns columns of a piece in contract dtypes."""


def repeated_deliveries(
    read: Reader,
    masks: Sequence[Flags | None],
    piece_rows: Sequence[int],
    *,
    event_id: str,
    ingest_time: str,
    columns: Sequence[str],
) -> tuple[list[Flags | None], int]:
    """Leave one delivery of each event.

    All ids are hashed once; only rows with a repeated hash are compared. So memory holds 16 bytes a row,
    and the content of the few rows in question.

    Args:
        read: Reads columns of a piece.
        masks: For each piece the rows that count so far, ``None`` for all.
        piece_rows: Row count of each piece.
        event_id: Column of the id.
        ingest_time: Column of the instant a row became known.
        columns: The columns that make up a row's content, in the order they are compared in.

    Returns:
        The masks without the other deliveries, and how many rows these were.
    """
    numbers = range(len(piece_rows))
    hashed = [_counted(read(number, [event_id])[event_id], masks[number]) for number in numbers]
    seen = _repeated(np.concatenate([np.zeros(0, np.uint64), *(hashes[usable] for hashes, usable in hashed)]))
    if len(seen) == 0:
        return list(masks), 0
    doubtful = [usable & np.isin(hashes, seen) for hashes, usable in hashed]
    tables = [
        pa.table(read(number, columns)).filter(pa.array(rows)) for number, rows in enumerate(doubtful) if rows.any()
    ]
    dropped = _all_but_first(pa.concat_tables(tables), [event_id, ingest_time, *columns])
    return _without(masks, piece_rows, doubtful, dropped), int(dropped.sum())


def one_delivery_each(table: pa.Table, event_id: str) -> Flags:
    """Return which rows of a table that became known at one instant do not repeat an event id."""
    ids = table.column(event_id)
    kept = np.ones(table.num_rows, dtype=np.bool_)
    named = table.filter(pc.is_valid(ids))
    if len(pc.unique(named.column(event_id))) < named.num_rows:
        places = np.flatnonzero(np.asarray(pc.is_valid(ids).to_numpy()))
        kept[places] = ~_all_but_first(named, [event_id, *sorted(table.column_names)])
    return kept


def id_hashes(ids: pa.Array) -> tuple[Words, Flags]:
    """Return a 64-bit hash of each event id, and which rows have one."""
    return row_hashes(pa.table([ids], names=["id"])), np.asarray(pc.is_valid(ids).to_numpy(zero_copy_only=False))


def _counted(ids: pa.Array, mask: Flags | None) -> tuple[Words, Flags]:
    """Return a hash of each id, and which rows count: those that have one and are not masked."""
    hashes, known = id_hashes(ids)
    return hashes, known if mask is None else known & mask


def _repeated(hashes: Words) -> Words:
    hashes.sort()
    return np.unique(hashes[1:][hashes[1:] == hashes[:-1]])


def _all_but_first(table: pa.Table, order_by: Sequence[str]) -> Flags:
    """Return which rows of a table another row with the same value in the first column comes before."""
    codes = table.column(order_by[0]).combine_chunks().dictionary_encode().indices
    # A column may be compared twice: names are numbers, so that none clashes.
    columns = {"0": codes, **{str(i): _sortable(table.column(name)) for i, name in enumerate(order_by[1:], 1)}}
    keys = [(name, "ascending", "at_start") for name in columns]
    order = pc.sort_indices(pa.table(columns), sort_keys=keys).to_numpy()
    sorted_codes = codes.to_numpy()[order]
    dropped = np.zeros(len(order), dtype=np.bool_)
    dropped[order[1:]] = sorted_codes[1:] == sorted_codes[:-1]
    return dropped


def _sortable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column that sorts as its values do; Arrow cannot sort lists."""
    if not pa.types.is_list(column.type):
        return column
    array, dtype = one_chunk(column), from_arrow(column.type)
    assert dtype is not None
    ranks, _ = to_words(array, dtype)
    return pa.chunked_array([pa.array(ranks, mask=~validity(array))])


def _without(
    masks: Sequence[Flags | None], piece_rows: Sequence[int], doubtful: Sequence[Flags], dropped: Flags
) -> list[Flags | None]:
    kept: list[Flags | None] = []
    start = 0
    for mask, count, rows in zip(masks, piece_rows, doubtful, strict=True):
        places = np.flatnonzero(rows)
        mine = dropped[start : start + len(places)]
        start += len(places)
        if not mine.any():
            kept.append(mask)
            continue
        changed = np.ones(count, dtype=np.bool_) if mask is None else mask.copy()
        changed[places[mine]] = False
        kept.append(changed)
    return kept
