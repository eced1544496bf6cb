"""Entity keys as dense codes, by which the rows of a spine and the events of a source are matched.

Keys are compared as typed values, column by column: (1, 11) is not (11, 1), and "1" is not 1. A key with a null part is
not a key. The module must not know where the columns come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Ints
from featurestore.kernels.jit import jit

UNKNOWN = -1
"""Code of a key that the index does not hold."""


@dataclass(frozen=True)
class KeyIndex:
    """Distinct keys, each with a code from 0 on.

    Attributes:
        steps: For each key column its distinct values, and the distinct pairs of (code so far, code of this column)
            as one number; the code of a key is the place of its last pair.
    """

    steps: tuple[tuple[_Values, _Values], ...]

    @classmethod
    def build(cls, keys: Sequence[pa.Array]) -> tuple[KeyIndex, Ints]:
        """Index the distinct keys of some rows.

        Args:
            keys: The key columns, in entity order and contract dtypes, of equal lengths.

        Returns:
            The index, and the code of each row, ``UNKNOWN`` for rows with a null in their key.
        """
        steps: list[tuple[_Values, _Values]] = []
        codes: Ints | None = None
        for column in keys:
            values = _Values.of(column)
            part = values.places(column)
            if codes is None:
                steps.append((values, _Values(pa.nulls(0, pa.int64()))))
                codes = part
                continue
            pairs = _pairs(codes, part, len(values))
            known = _Values.of(pairs)
            steps.append((values, known))
            codes = known.places(pairs)
        assert codes is not None
        return cls(tuple(steps)), codes

    def __len__(self) -> int:
        values, pairs = self.steps[-1]
        return len(values) if len(self.steps) == 1 else len(pairs)

    def codes(self, keys: Sequence[pa.Array]) -> Ints:
        """Return the code of each row's key, ``UNKNOWN`` if the index does not hold it.

        Args:
            keys: The key columns, in entity order and of the dtypes the index was built with.
        """
        first, *others = zip(keys, self.steps, strict=True)
        codes = first[1][0].places(first[0])
        for column, (values, pairs) in others:
            codes = pairs.places(_pairs(codes, values.places(column), len(values)))
        return codes


_LARGEST_TABLE = 1 << 22
_ROOM = 8
"""A table of integers may be at most this many times as long as the column."""


@dataclass(frozen=True)
class _Values:
    """Distinct values, each with its place.

    Attributes:
        values: The values, none of them null.
        table: For integers that lie close together, the place of every number from ``lowest`` on, ``UNKNOWN`` where
            there is none: looking there is several times faster than hashing.
        lowest: The smallest value, if there is a table.
    """

    values: pa.Array
    table: Ints | None = None
    lowest: int = 0

    @classmethod
    def of(cls, column: pa.Array) -> _Values:
        """Find the distinct values of a column, without null, in the order of their first rows."""
        column = column.drop_null() if column.null_count else column
        if not pa.types.is_int64(column.type) or not len(column):
            return cls(pc.unique(column))
        numbers = column.to_numpy()
        lowest, width = int(numbers.min()), int(numbers.max()) - int(numbers.min()) + 1
        if width > min(_LARGEST_TABLE, _ROOM * len(numbers)):
            return cls(pc.unique(column))
        table = np.full(width, UNKNOWN, dtype=np.int64)
        distinct = np.empty(min(width, len(numbers)), dtype=np.int64)
        count = _number(numbers, lowest, table, distinct)
        return cls(pa.array(distinct[:count]), table, lowest)

    def __len__(self) -> int:
        return len(self.values)

    def places(self, column: pa.Array) -> Ints:
        """Return the place of each row's value, ``UNKNOWN`` for null and for values that are not among these."""
        if self.table is None or column.null_count:
            indices = pc.index_in(column, value_set=self.values, skip_nulls=True)
            if indices.null_count:
                indices = indices.fill_null(UNKNOWN)
            return np.asarray(indices.to_numpy(zero_copy_only=False), dtype=np.int64)
        places = np.empty(len(column), dtype=np.int64)
        _look_up(column.to_numpy(), self.lowest, self.table, places)
        return places


@jit
def _number(numbers: Ints, lowest: int, table: Ints, distinct: Ints) -> int:
    """Give each distinct number the next place.

    Args:
        numbers: The column.
        lowest: The smallest number.
        table: Holds ``UNKNOWN``; receives the place of each number, counted from ``lowest``.
        distinct: Receives the numbers by place.

    Returns:
        Count of distinct numbers.
    """
    count = 0
    for i in range(numbers.size):
        at = numbers[i] - lowest
        if table[at] < 0:
            table[at] = count
            distinct[count] = numbers[i]
            count += 1
    return count


@jit
def _look_up(numbers: Ints, lowest: int, table: Ints, places: Ints) -> None:
    """Write the place of each number, ``UNKNOWN`` if the table does not hold it.

    Args:
        numbers: The column.
        lowest: The number that the table begins at.
        table: Place of every number from there on.
        places: Result.
    """
    highest = lowest + (table.size - 1)
    for i in range(numbers.size):
        number = numbers[i]
        places[i] = table[number - lowest] if lowest <= number <= highest else UNKNOWN


def _pairs(codes: Ints, part: Ints, count: int) -> pa.Array:
    """Return one number per pair of codes, null if either is unknown."""
    missing = (codes == UNKNOWN) | (part == UNKNOWN)
    return pa.array(codes * max(count, 1) + part, mask=missing)
