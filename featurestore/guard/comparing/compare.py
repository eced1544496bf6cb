"""Comparing the same rows answered by two roads: which values differ, and by how much. Pure; it judges nothing.

``reference`` is the offline recomputation, ``current`` what was served. Values are equal if their bits are; because
floats are finite or null, every value equals itself. Statuses must be equal too: a null with the
status ``EXPIRED`` differs from a null with the status ``NOT_FOUND``.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Bytes, Flags, Floats
from featurestore.core.dtypes import DType
from featurestore.core.statuses import NOT_LOGGED, status_name
from featurestore.guard.comparing.confusion import (
    Confusion,
    ConfusionTally,
    ListEdits,
    ListTally,
)
from featurestore.guard.comparing.difference import DifferenceTally, NumberDifferences, tally_differences
from featurestore.guard.comparing.tolerance import Tolerance
from featurestore.kernels.words import validity

_Z = 1.959963984540054
"""The normal quantile of 97.5 %: two sides of 95 %."""


def wilson(count: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share.

    Args:
        count: Members of the sample that have the property.
        total: Size of the sample.

    Returns:
        Lower and upper bound, between 0 and 1; ``(0.0, 1.0)`` for an empty sample.

    Source:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    Example:
        >>> [round(bound, 4) for bound in wilson(0, 100)]
        [0.0, 0.037]
    """
    if total == 0:
        return 0.0, 1.0
    share = count / total
    spread = _Z * math.sqrt(share * (1 - share) / total + _Z * _Z / (4 * total * total))
    middle = share + _Z * _Z / (2 * total)
    scale = 1 + _Z * _Z / total
    low = 0.0 if count == 0 else (middle - spread) / scale
    high = 1.0 if count == total else (middle + spread) / scale
    return max(0.0, low), min(1.0, high)


_UNREAD_PREFIX = "unread__"


def unread_column(output: str) -> str:
    """Return the name of the column that holds served texts that are not a value of a feature."""
    return f"{_UNREAD_PREFIX}{output}"


def unread_texts(log: pa.Table, output: str) -> pa.Array:
    """Return per row of a log the served text where it is not a value of the feature; null elsewhere."""
    name = unread_column(output)
    return log.column(name).combine_chunks() if name in log.column_names else pa.nulls(log.num_rows, pa.string())


def is_unread(log: pa.Table, output: str) -> Flags:
    """Return per row of a log whether the served text is not a value of the feature."""
    if unread_column(output) not in log.column_names:
        return np.zeros(log.num_rows, dtype=np.bool_)
    return np.asarray(unread_texts(log, output).is_valid().to_numpy(zero_copy_only=False), dtype=np.bool_)


@dataclass(frozen=True)
class FeatureCounts:
    """How often one feature agreed. Every compared row is in exactly one of the five counts.

    Attributes:
        name: Column of the answer.
        dtype: Its dtype.
        equal: Both roads have a value, the same one, with the same status.
        both_null: Neither has a value, and both have the same status.
        mismatch: Both or neither have a value, but values or statuses differ.
        only_in_reference: Only the training set would have a value.
        only_in_current: Only the answer had a value.
        within_tolerance: Rows among those that differ whose numbers lie near enough for the policy; they are counted as
            differing all the same.
        of_stale_views: Rows among those that differ that were answered by a view behind its refresh.
        largest_difference: Largest absolute difference of numbers; ``None`` if no two numbers differ.
        status_pairs: How often the statuses were (reference, current), written ``"PRESENT/NULL"``.
        served: Rows of the log in which the feature was served: ``compared`` and ``skipped`` together.
        skipped: Rows in which it was served but not compared; the report gives the reason.
        interval: 95 % interval (Wilson) of the share of values that differ, over all rows a sample stands for; exact
            shares have both bounds equal.
        numbers: How far differing numbers lie apart; ``None`` for other dtypes and where none differ.
        confusion: Pairs of values that were confused, most frequent first; none for numbers.
        lists: Items that differing lists have more or less, including lists that only one road has; ``None`` for
            other dtypes and where none differ.
    """

    name: str
    dtype: str
    equal: int = 0
    both_null: int = 0
    mismatch: int = 0
    only_in_reference: int = 0
    only_in_current: int = 0
    within_tolerance: int = 0
    of_stale_views: int = 0
    largest_difference: float | None = None
    status_pairs: dict[str, int] = field(default_factory=dict)
    served: int = 0
    skipped: int = 0
    interval: tuple[float, float] = (0.0, 0.0)
    numbers: NumberDifferences | None = None
    confusion: tuple[Confusion, ...] = ()
    lists: ListEdits | None = None

    @property
    def compared(self) -> int:
        """Count of rows compared: the five counts together."""
        return self.equal + self.both_null + self.different

    @property
    def different(self) -> int:
        """Count of rows in which the roads disagree."""
        return self.mismatch + self.only_in_reference + self.only_in_current

    @property
    def share(self) -> float:
        """Share of the compared values that differ; 0 if none were compared."""
        return self.different / self.compared if self.compared else 0.0

    def __add__(self, other: FeatureCounts) -> FeatureCounts:
        """Count the rows of both, without details; they must be counts of one feature."""
        sizes = [size for size in (self.largest_difference, other.largest_difference) if size is not None]
        return FeatureCounts(
            name=self.name,
            dtype=self.dtype,
            equal=self.equal + other.equal,
            both_null=self.both_null + other.both_null,
            mismatch=self.mismatch + other.mismatch,
            only_in_reference=self.only_in_reference + other.only_in_reference,
            only_in_current=self.only_in_current + other.only_in_current,
            within_tolerance=self.within_tolerance + other.within_tolerance,
            of_stale_views=self.of_stale_views + other.of_stale_views,
            largest_difference=max(sizes, default=None),
            status_pairs=dict(sorted((Counter(self.status_pairs) + Counter(other.status_pairs)).items())),
        )


@dataclass
class Details:
    """Details of a feature's differences; those of two pieces of a log can be added."""

    numbers: DifferenceTally = field(default_factory=DifferenceTally)
    confusion: ConfusionTally = field(default_factory=ConfusionTally)
    lists: ListTally = field(default_factory=ListTally)

    def add(self, other: Details) -> None:
        """Add the details of another piece."""
        self.numbers.add(other.numbers)
        self.confusion.add(other.confusion)
        self.lists.add(other.lists)


def completed(counts: FeatureCounts, details: Details, *, served: int, is_sample: bool) -> FeatureCounts:
    """Return counts with everything that a report shows about a feature.

    Args:
        counts: The feature's counts over all pieces.
        details: Its details over all pieces.
        served: Rows of the log in which it was served.
        is_sample: Whether the compared rows are a sample of more rows.
    """
    exact = (counts.share, counts.share)
    assert sum(counts.status_pairs.values()) == counts.compared <= served, "parts of an audit do not add up"
    return replace(
        counts,
        served=served,
        skipped=served - counts.compared,
        interval=wilson(counts.different, counts.compared) if is_sample else exact,
        numbers=details.numbers.summary(),
        confusion=details.confusion.summary(),
        lists=details.lists.summary(),
    )


@dataclass(frozen=True)
class ComparedFeature:
    """One feature's comparison.

    Attributes:
        counts: How often the roads agreed.
        differs: Per row, whether they disagree.
        size: Per row, the absolute difference of two numbers that differ; infinite where only one road has a value or
            the values are not numbers; 0 where they agree, or where only a status differs.
        details: Details of the differences.
    """

    counts: FeatureCounts
    differs: Flags
    size: Floats
    details: Details


def compare(
    *,
    name: str,
    dtype: DType,
    reference: pa.Array,
    current: pa.Array,
    reference_statuses: Bytes,
    current_statuses: Bytes,
    is_stale: Flags,
    tolerance: Tolerance | None = None,
    unread: Flags | None = None,
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
        tolerance: How far apart numbers may lie to be counted as near enough; ``None`` counts none.
        unread: Per row, whether the served text is not a value of the dtype, and therefore null in ``current``: it
            differs from every value and from null. ``None`` for no row.

    Returns:
        The comparison; its counts add up to the rows.
    """
    if unread is None:
        unread = np.zeros(len(reference), dtype=np.bool_)
    has_reference, has_current = validity(reference), validity(current) | unread
    both = has_reference & has_current
    same_status = _same_status(reference_statuses, current_statuses)
    same_value = both & ~unread & _equal(reference, current, dtype)
    neither = ~has_reference & ~has_current
    equal = same_value & same_status
    both_null = neither & same_status
    differs = ~(equal | both_null)
    only_one = has_reference != has_current
    size = np.where(differs & ~neither, np.inf, 0.0)
    measured = both & differs & ~unread
    # A list that only one road has is a list of insertions or deletions.
    chosen = only_one & ~unread | measured & ~same_value if dtype.kind == "list" else measured & ~same_value
    details = _details(reference, current, dtype, chosen)
    if dtype.is_numeric and bool(measured.any()):
        size[measured] = 0.0
        details.numbers, size[measured & ~same_value] = _measured(reference, current, dtype, measured & ~same_value)
    pairs = _pairs_of(reference_statuses, current_statuses)
    counts = FeatureCounts(
        name=name,
        dtype=str(dtype),
        equal=int(equal.sum()),
        both_null=int(both_null.sum()),
        mismatch=int((differs & ~only_one).sum()),
        only_in_reference=int((has_reference & ~has_current).sum()),
        only_in_current=int((has_current & ~has_reference).sum()),
        within_tolerance=_near(reference, current, dtype, both & same_status & ~same_value & ~unread, tolerance),
        of_stale_views=int((differs & is_stale).sum()),
        largest_difference=details.numbers.largest_absolute if details.numbers.count else None,
        status_pairs={
            f"{status_name(left)}/{status_name(right)}": count for (left, right), count in sorted(pairs.items())
        },
    )
    return ComparedFeature(counts, differs, size, details)


def _near(reference: pa.Array, current: pa.Array, dtype: DType, pairs: Flags, tolerance: Tolerance | None) -> int:
    if tolerance is None or not dtype.is_numeric or not bool(pairs.any()):
        return 0
    rows = pa.array(np.flatnonzero(pairs))
    return int(tolerance.lets_pass(reference.take(rows), current.take(rows), dtype).sum())


def agrees(
    reference: pa.Array, current: pa.Array, reference_statuses: Bytes, current_statuses: Bytes, dtype: DType
) -> Flags:
    """Return per row whether both roads agree: values equal to the bit or both null, and equal statuses.

    Args:
        reference: Values of one road.
        current: Values of the other.
        reference_statuses: ``Status`` codes of one road.
        current_statuses: ``Status`` codes of the other.
        dtype: Dtype of the values.
    """
    has_reference, has_current = validity(reference), validity(current)
    same = has_reference == has_current
    same[has_reference & has_current] = _equal(reference, current, dtype)[has_reference & has_current]
    return np.asarray(same & _same_status(reference_statuses, current_statuses), dtype=np.bool_)


def _measured(reference: pa.Array, current: pa.Array, dtype: DType, chosen: Flags) -> tuple[DifferenceTally, Floats]:
    rows = pa.array(np.flatnonzero(chosen))
    return tally_differences(reference.take(rows), current.take(rows), dtype)


def _details(reference: pa.Array, current: pa.Array, dtype: DType, chosen: Flags) -> Details:
    """Count how values that are not numbers were confused."""
    details = Details()
    if dtype.is_numeric or not bool(chosen.any()):
        return details
    rows = pa.array(np.flatnonzero(chosen))
    pairs = list(zip(reference.take(rows).to_pylist(), current.take(rows).to_pylist(), strict=True))
    if dtype.kind == "list":
        details.lists.count([(left or [], right or []) for left, right in pairs])
    else:
        details.confusion.count(pairs)
    return details


def _pairs_of(reference_statuses: Bytes, current_statuses: Bytes) -> dict[tuple[int, int], int]:
    counts = np.bincount(reference_statuses.astype(np.int64) * 256 + current_statuses, minlength=1)
    return {divmod(int(pair), 256): int(counts[pair]) for pair in np.flatnonzero(counts)}


def status_names(codes: Bytes) -> pa.Array:
    """Return the names of statuses, as reports show them."""
    distinct, places = np.unique(codes, return_inverse=True)
    return pa.array([status_name(int(code)) for code in distinct], pa.string()).take(pa.array(places))


def _same_status(reference: Bytes, current: Bytes) -> Flags:
    return np.asarray((reference == current) | (current == NOT_LOGGED), dtype=np.bool_)


def _equal(reference: pa.Array, current: pa.Array, dtype: DType) -> Flags:
    """Return per row whether values are the same, to the bit; undefined for rows with a null."""
    if dtype.kind == "float64":
        left, right = (array.to_numpy(zero_copy_only=False) for array in (reference, current))
        return np.asarray(
            np.ascontiguousarray(left).view(np.int64) == np.ascontiguousarray(right).view(np.int64), dtype=np.bool_
        )
    if dtype.item is not None:
        return _equal_lists(reference, current, dtype.item)
    same = pc.equal(reference, current).fill_null(False)
    return np.asarray(same.to_numpy(zero_copy_only=False), dtype=np.bool_)


def _equal_lists(reference: pa.Array, current: pa.Array, item: DType) -> Flags:
    """Return per row whether lists have the same items in the same order."""
    lengths, others = (pc.list_value_length(array).fill_null(-1).to_numpy() for array in (reference, current))
    same = np.asarray(lengths == others, dtype=np.bool_)
    rows = np.flatnonzero(same & (lengths > 0))
    if len(rows) == 0:
        return same
    left, right = (array.take(pa.array(rows)).flatten() for array in (reference, current))
    has_left, has_right = validity(left), validity(right)
    is_equal = np.where(has_left & has_right, _equal(left, right, item), has_left == has_right)
    starts = np.concatenate([[0], np.cumsum(lengths[rows])[:-1]])
    same[rows] = np.logical_and.reduceat(is_equal, starts)
    return same
