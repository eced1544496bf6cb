"""What kernels pass to each other: arrays that belong together, under one name.

The functions that fold events are called by address (``jit.IndirectCall``), so each of them takes exactly these types.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from featurestore.core.columns import Bytes, Ints
from featurestore.kernels.jit import IndirectCall


class EventArrays(NamedTuple):
    """Events of many entities in kernel order; ``events.EventBlock`` has the same arrays.

    Attributes:
        offsets: Events of entity ``e`` are ``offsets[e]:offsets[e + 1]``.
        times: Event times, ascending within an entity.
        ingests: Ingest times.
        values: Words, one row per input.
        flags: ``NOT_MEMBER``, ``MEMBER_NULL`` or ``MEMBER_VALUE``, one row per input.
    """

    offsets: Ints
    times: Ints
    ingests: Ints
    values: Ints
    flags: Bytes


class QueryArrays(NamedTuple):
    """Queries about these entities.

    Attributes:
        offsets: Queries of entity ``e`` are ``offsets[e]:offsets[e + 1]``.
        as_of: Instants asked about; within an entity neither horizon ever moves back.
        watermark: For each query the exclusive bound of the ingest times that the events hold in full.
        target: For each query the column of the result it is written to.
    """

    offsets: Ints
    as_of: Ints
    watermark: Ints
    target: Ints


class ProgramArrays(NamedTuple):
    """A view's program and the kernels it is bound to.

    Attributes:
        policy: Refresh period, refresh lag, inclusive.
        windows: Table of windows.
        groups: Table of groups.
        features: Table of features.
        folds: Addresses of the kernels that fold the groups (``ways.BoundKernels``).
        finishes: Addresses of the kernels that make features of exact sums.
    """

    policy: Ints
    windows: Ints
    groups: Ints
    features: Ints
    folds: Ints
    finishes: Ints


class ResultArrays(NamedTuple):
    """Where the values of a view are written; one column per query.

    Attributes:
        words: Words, rows as the program laid them out.
        statuses: ``Status`` codes or ``OVERFLOWED``, one row per feature.
        newest: Event time of the newest event seen.
    """

    words: Ints
    statuses: Bytes
    newest: Ints


class GroupTask(NamedTuple):
    """One group of features over the events and queries of one entity.

    Attributes:
        values: Words of the group's input, one per event, in kernel order.
        flags: ``NOT_MEMBER``, ``MEMBER_NULL`` or ``MEMBER_VALUE`` per event.
        times: Event times, ascending.
        ingests: Ingest times.
        edges: One column per query: the index of the first event of each window, and in the last row the index after
            the last event before the horizon, which all windows share.
        ingest_bounds: Per query the exclusive bound of the ingest times that it sees.
        as_of: Per query the instant asked about.
        target: Per query the column of the result.
        group: Row of the program's table of groups.
        features: Rows of the program's table of features, those of one window behind each other.
        finishes: Per feature the address of the kernel that makes it of exact sums; 0 for kinds that have none.
        words: Result, one row per word of a feature.
        statuses: Result, one row per feature.
    """

    values: Ints
    flags: Bytes
    times: Ints
    ingests: Ints
    edges: Ints
    ingest_bounds: Ints
    as_of: Ints
    target: Ints
    group: Ints
    features: Ints
    finishes: Ints
    words: Ints
    statuses: Bytes


class Turns(NamedTuple):
    """In which order events become visible, where that is not the order in which they happened.

    Attributes:
        turn: Per event the first query that sees it, through a window without a lower edge; the count of queries if
            none does.
        order: The events in the order of their turns.
    """

    turn: Ints
    order: Ints


class SumLayout(NamedTuple):
    """Where the count, the exact sum and the exact sum of squares of a group lie in a row of words.

    Word 0 is the count. The limbs of the sum follow, then those of the sum of squares; ``kernels.exact`` has their
    meaning.

    Attributes:
        is_float: Whether the input's words are the bits of floats.
        base: Limb of the unit at which the limbs of the sum begin.
        value_limbs: Count of limbs of the sum; 0 if only rows are counted.
        square_limbs: Count of limbs of the sum of squares; 0 if no feature of the group needs it.
    """

    is_float: bool
    base: int
    value_limbs: int
    square_limbs: int


_types: Any = types  # it is not annotated
_WORDS, _TABLE = _types.int64[::1], _types.int64[:, ::1]
_BYTES, _BYTE_TABLE = _types.uint8[::1], _types.uint8[:, ::1]

_TASK = _types.BaseTuple.from_types(
    (_WORDS, _BYTES, *[_WORDS] * 2, _TABLE, *[_WORDS] * 4, _TABLE, _WORDS, _TABLE, _BYTE_TABLE), GroupTask
)
_TURNS = _types.BaseTuple.from_types((_WORDS, _WORDS), Turns)
_LAYOUT = _types.BaseTuple.from_types((_types.boolean, *[_types.int64] * 3), SumLayout)

FOLD = IndirectCall(_types.void(_TASK))
"""Calls a function that folds a group whose events become visible in the order in which they happened."""

FOLD_LATE = IndirectCall(_types.void(_TASK, _TURNS))
"""Calls a function that folds a group some of whose events become visible out of order."""

FINISH = IndirectCall(_types.UniTuple(_types.int64, 3)(_WORDS, _LAYOUT, *[_types.int64] * 2))
"""Calls a function that makes a feature of exact sums: of (sums and scratch, layout, finish, parameter), it returns
(word, second word, status)."""

fold = FOLD.call
fold_late = FOLD_LATE.call
finish_sums = FINISH.call
