"""Changes of columns: what programs do to values, texts and request inputs on their way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Floats
from featurestore.guard.causes.model import Case
from featurestore.guard.world.world import Values, World
from featurestore.kernels.words import validity

Change = Callable[[pa.Array], pa.Array]

SPELLINGS: tuple[tuple[str, Change], ...] = (
    ("trimmed", pc.utf8_trim_whitespace),
    ("in lower case", pc.utf8_lower),
    ("in upper case", pc.utf8_upper),
)
"""What programs do to text of any kind: features, keys and request inputs."""


def alter(change: Change, output: str | None = None) -> Callable[[World], World]:
    """Return a change of worlds that changes computed values of one output (or all) before they are served."""

    def transform(_: World, name: str, computed: Values) -> Values:
        if output is not None and name != output:
            return computed
        return Values(change(computed.values), computed.statuses)

    return lambda world: world.with_transform(transform)


def differing_values(case: Case, output: str) -> tuple[pa.Array, pa.Array]:
    """Return the values of both roads where both have one and they differ."""
    reference, served = case.reference[output].values, case.served[output].values
    rows = pa.array(np.flatnonzero(case.differs[output] & validity(reference) & validity(served)))
    return reference.take(rows), served.take(rows)


def as_floats(array: pa.Array) -> Floats:
    """Return numbers as floats; nulls are NaN."""
    return np.asarray(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)


def as_floats_or_zero(array: pa.Array) -> Floats:
    """Return numbers as floats; nulls are 0."""
    return as_floats(array.fill_null(0))


def in_type_of(array: pa.Array, numbers: Floats) -> pa.Array:
    """Return numbers in the type of a column, null where it is; whole numbers are rounded, those too large are null."""
    missing = ~validity(array) | ~np.isfinite(numbers)
    if pa.types.is_integer(array.type):
        missing |= np.abs(numbers) >= 2.0**63
        whole = np.rint(np.where(missing, 0.0, numbers)).astype(np.int64)
        return pa.array(whole, mask=missing)
    return pa.array(np.where(missing, 0.0, numbers) + 0.0, mask=missing)


def map_values(array: pa.Array, change: Callable[[Any], Any]) -> pa.Array:
    """Change Python values one by one; nulls stay."""
    return pa.array([None if value is None else change(value) for value in array.to_pylist()], type=array.type)


def map_items(array: pa.Array, change: Change) -> pa.Array:
    """Change the items of lists; lists that are null stay so."""
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    mask = pa.array(~validity(array)) if array.null_count else None
    return pa.ListArray.from_arrays(offsets, change(array.flatten()), type=array.type, mask=mask)
