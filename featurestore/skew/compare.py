"""Comparing the same rows answered by two roads: what differs, and by how much. Pure; it judges nothing.

``reference`` is the offline recomputation, ``current`` what was served. Values are equal if their bits are; because
floats are finite or null there is nothing that does not equal itself. Statuses must be equal too: a null that says
``EXPIRED`` is not a null that says ``NOT_FOUND``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.dtypes import DType
from featurestore.kernels.events import Status
from featurestore.kernels.words import validity

Flags = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

_NAMES = {int(status): status.name for status in Status}


@dataclass(frozen=True)
class FeatureCounts:
    """How often one feature agreed. Every compared row is in exactly one of the five counts.

    Attributes:
        name: Column of the answer.
        dtype: Its dtype.
        equal: Both roads have a value, the same one, with the same status.
        both_null: Neither has a value, and both say so with the same status.
        mismatch: Both or neither have a value, but values or statuses differ.
        only_in_reference: Only the training set would have a value.
        only_in_current: Only the answer had a value.
        of_stale_views: Rows among those that differ that were answered by a view behind its refresh.
        largest_difference: Largest absolute difference of numbers; ``None`` if no two numbers differ.
        status_pairs: How often the statuses were (reference, current), written ``"PRESENT/NULL"``.
    """

    name: str
    dtype: str
    equal: int = 0
    both_null: int = 0
    mismatch: int = 0
    only_in_reference: int = 0
    only_in_current: int = 0
    of_stale_views: int = 0
    largest_difference: float | None = None
    status_pairs: dict[str, int] = field(default_factory=dict)

    @property
    def compared(self) -> int:
        """Count of rows compared: the five counts together."""
        return self.equal + self.both_null + self.different

    @property
    def different(self) -> int:
        """Count of rows in which the roads disagree."""
        return self.mismatch + self.only_in_reference + self.only_in_current

    def __add__(self, other: FeatureCounts) -> FeatureCounts:
        """Count the rows of both; they must be counts of one feature."""
        sizes = [size for size in (self.largest_difference, other.largest_difference) if size is not None]
        return FeatureCounts(
            name=self.name,
            dtype=self.dtype,
            equal=self.equal + other.equal,
            both_null=self.both_null + other.both_null,
            mismatch=self.mismatch + other.mismatch,
            only_in_reference=self.only_in_reference + other.only_in_reference,
            only_in_current=self.only_in_current + other.only_in_current,
            of_stale_views=self.of_stale_views + other.of_stale_views,
            largest_difference=max(sizes, default=None),
            status_pairs=dict(sorted((Counter(self.status_pairs) + Counter(other.status_pairs)).items())),
        )


@dataclass(frozen=True)
class ComparedFeature:
    """One feature's comparison.

    Attributes:
        counts: How often the roads agreed.
        differs: Per row, whether they disagree.
        size: Per row, the absolute difference of two numbers that differ; infinite where only one road has a value or
            the values are no numbers; 0 where they agree.
    """

    counts: FeatureCounts
    differs: Flags
    size: Floats


def compare(
    *,
    name: str,
    dtype: DType,
    reference: pa.Array,
    current: pa.Array,
    reference_statuses: Bytes,
    current_statuses: Bytes,
    is_stale: Flags,
) -> ComparedFeature:
    """Compare one feature of the same rows on both roads.

    Args:
        name: Column of the answer.
        dtype: Its dtype; both arrays have it.
        reference: Values of the training set.
        current: Values that were served.
        reference_statuses: ``Status`` codes of the training set.
        current_statuses: ``Status`` codes that were served.
        is_stale: Per row, whether it was answered by a view behind its refresh.

    Returns:
        The comparison; its counts add up to the rows.
    """
    has_reference, has_current = validity(reference), validity(current)
    both = has_reference & has_current
    same_status = reference_statuses == current_statuses
    same_value = both & _equal(reference, current, dtype)
    neither = ~has_reference & ~has_current
    equal = same_value & same_status
    both_null = neither & same_status
    differs = ~(equal | both_null)
    only_one = has_reference != has_current
    size = np.where(differs, np.inf, 0.0)
    measured = both & differs
    if dtype.is_numeric and bool(measured.any()):
        size[measured] = np.abs(_numbers(reference)[measured] - _numbers(current)[measured])
    finite = size[measured & ~same_value]
    pairs = Counter(zip(reference_statuses.tolist(), current_statuses.tolist(), strict=True))
    counts = FeatureCounts(
        name=name,
        dtype=str(dtype),
        equal=int(equal.sum()),
        both_null=int(both_null.sum()),
        mismatch=int((differs & ~only_one).sum()),
        only_in_reference=int((has_reference & ~has_current).sum()),
        only_in_current=int((has_current & ~has_reference).sum()),
        of_stale_views=int((differs & is_stale).sum()),
        largest_difference=float(finite.max()) if dtype.is_numeric and len(finite) else None,
        status_pairs={f"{_name(left)}/{_name(right)}": count for (left, right), count in sorted(pairs.items())},
    )
    return ComparedFeature(counts, differs, size)


def _name(code: int) -> str:
    return _NAMES.get(code, str(code))


def _equal(reference: pa.Array, current: pa.Array, dtype: DType) -> Flags:
    """Tell per row whether values are the same, to the bit; rows with a null may say anything."""
    if dtype.kind == "float64":
        left, right = (array.fill_null(0.0).to_numpy(zero_copy_only=False) for array in (reference, current))
        return np.asarray(
            np.ascontiguousarray(left).view(np.int64) == np.ascontiguousarray(right).view(np.int64), dtype=np.bool_
        )
    if dtype.kind == "list":
        pairs = zip(reference.to_pylist(), current.to_pylist(), strict=True)
        return np.array([left == right for left, right in pairs], dtype=np.bool_)
    same = pc.equal(reference, current).fill_null(False)
    return np.asarray(same.to_numpy(zero_copy_only=False), dtype=np.bool_)


def _numbers(array: pa.Array) -> Floats:
    numbers = array.cast(pa.float64(), safe=False).fill_null(0.0)
    return np.asarray(numbers.to_numpy(zero_copy_only=False), dtype=np.float64)
