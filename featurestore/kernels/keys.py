"""Entity keys as dense codes: how the rows of a spine and the events of a source find each other.

Keys are compared as typed values, column by column: (1, 11) is not (11, 1), and "1" is not 1. A key of which any part
is null is no key. The module must not know where the columns come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Ints = npt.NDArray[np.int64]

UNKNOWN = -1
"""Code of a key that the index does not hold."""


@dataclass(frozen=True)
class KeyIndex:
    """Distinct keys, each with a code from 0 on.

    Attributes:
        steps: For each key column its distinct values, and the distinct pairs of (code so far, code of this column)
            as one number; the code of a key is the place of its last pair.
    """

    steps: tuple[tuple[pa.Array, pa.Array], ...]

    @classmethod
    def build(cls, keys: Sequence[pa.Array]) -> tuple[KeyIndex, Ints]:
        """Index the distinct keys of some rows.

        Args:
            keys: The key columns, in entity order and contract dtypes, of equal lengths.

        Returns:
            The index, and the code of each row, ``UNKNOWN`` for rows with a null in their key.
        """
        steps: list[tuple[pa.Array, pa.Array]] = []
        codes: Ints | None = None
        for column in keys:
            values = pc.unique(column).drop_null()
            part = _places(column, values)
            if codes is None:
                steps.append((values, pa.nulls(0, pa.int64())))
                codes = part
                continue
            pairs = _pairs(codes, part, len(values))
            known = pc.unique(pairs).drop_null()
            steps.append((values, known))
            codes = _places(pairs, known)
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
        codes = _places(first[0], first[1][0])
        for column, (values, pairs) in others:
            codes = _places(_pairs(codes, _places(column, values), len(values)), pairs)
        return codes


def _places(column: pa.Array, values: pa.Array) -> Ints:
    found = pc.index_in(column, value_set=values, skip_nulls=True)
    if found.null_count:
        found = found.fill_null(UNKNOWN)
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.int64)


def _pairs(codes: Ints, part: Ints, count: int) -> pa.Array:
    """Number pairs of codes; null if either is unknown."""
    missing = (codes == UNKNOWN) | (part == UNKNOWN)
    return pa.array(codes * max(count, 1) + part, mask=missing)
