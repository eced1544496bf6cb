"""Changes of values after they were computed: what the hypotheses about altered values share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Floats
from featurestore.core.dtypes import DType
from featurestore.guard.causes.model import Case
from featurestore.guard.world.world import Values, World
from featurestore.kernels.words import validity

Change = Callable[[pa.Array], pa.Array]

LEARNED_BITS = 17.0
"""What an assumption costs whose number was taken from the values it explains."""

HELD_SHARE = 0.9
"""Share of a feature's values that a constant must hold for where some rows alone would say little: nearly all.

Whole numbers come out by chance, and events that were lost or counted twice change counts by small ones."""


def dtype_of(case: Case, output: str) -> DType:
    """Return the dtype of an output."""
    return next(found.dtype for found in case.world.plan.outputs if found.name == output)


def changed(change: Change, output: str | None = None) -> Callable[[World], World]:
    """Return what makes a world in which computed values of one output (or all) are changed before they are served."""

    def transform(_: World, name: str, found: Values) -> Values:
        if output is not None and name != output:
            return found
        return Values(change(found.values), found.statuses)

    return lambda world: replace(world, transforms=(*world.transforms, transform))


def differing(case: Case, output: str) -> tuple[pa.Array, pa.Array]:
    """Return the values of both roads where both have one and they differ."""
    reference, served = case.reference[output].values, case.served[output].values
    rows = pa.array(np.flatnonzero(case.differs[output] & validity(reference) & validity(served)))
    return reference.take(rows), served.take(rows)


def floats(array: pa.Array) -> Floats:
    """Return numbers as floats; nulls are NaN."""
    return np.asarray(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)


def plain(array: pa.Array) -> Floats:
    """Return numbers as floats; nulls are 0."""
    return floats(array.fill_null(0))


def as_numbers(array: pa.Array, numbers: Floats) -> pa.Array:
    """Return numbers in the type of a column, null where it is; whole numbers are rounded, those too large are null."""
    missing = ~validity(array) | ~np.isfinite(numbers)
    if pa.types.is_integer(array.type):
        missing |= np.abs(numbers) >= 2.0**63
        whole = np.rint(np.where(missing, 0.0, numbers)).astype(np.int64)
        return pa.array(whole, mask=missing)
    return pa.array(np.where(missing, 0.0, numbers) + 0.0, mask=missing)


def each(array: pa.Array, change: Callable[[Any], Any]) -> pa.Array:
    """Change Python values one by one; nulls stay."""
    return pa.array([None if value is None else change(value) for value in array.to_pylist()], type=array.type)


def of_items(array: pa.Array, change: Change) -> pa.Array:
    """Change the items of lists; lists that are null stay so."""
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    mask = pa.array(~validity(array)) if array.null_count else None
    return pa.ListArray.from_arrays(offsets, change(array.flatten()), type=array.type, mask=mask)
