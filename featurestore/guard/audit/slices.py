"""Common properties of differing rows: counts by time and by slice, added up piece by piece."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Flags, Ints
from featurestore.core.temporal import MICROSECONDS, format_duration, format_instant

_MOST_BUCKETS = 48
_WIDTHS = tuple(MICROSECONDS[unit] * count for unit, count in (("s", 1), ("s", 10), ("m", 1), ("m", 5), ("m", 15)))
_LONG_WIDTHS = tuple(MICROSECONDS["h"] * hours for hours in (1, 3, 6, 12, 24, 168))
_MOST_VALUES = 1_000
_SHOWN = 8
_TELLING = 0.75
"""Least share of the differing rows in a slice that is reported as telling."""

_CHANCE = 0.01
"""Largest probability that chance gives such a slice, over all slices, for a slice that is reported as telling."""

BY = "by__"
"""Prefix of the columns that a log has only to look for slices in."""


@dataclass(frozen=True)
class Bucket:
    """Counts of rows of one stretch of time.

    Attributes:
        since: First ``as_of``.
        until: One past the last.
        rows: Rows compared.
        different: Rows in which any value differs.
    """

    since: str
    until: str
    rows: int
    different: int


@dataclass(frozen=True)
class Slice:
    """Counts of rows with one property.

    Attributes:
        by: Name of the property: ``hour of day``, ``staleness of …``, ``key shard``, ``worst statuses``, a column.
        value: Its value.
        rows: Rows compared with this value.
        different: Those in which any value differs.
        of_different: Its share of all rows in which any value differs.
        of_rows: Its share of all rows compared.
    """

    by: str
    value: str
    rows: int
    different: int
    of_different: float
    of_rows: float

    def __str__(self) -> str:
        return (
            f"{self.of_different:.0%} of the rows that differ have {self.by} {self.value},"
            f" which {self.of_rows:.0%} of all rows have"
        )


@dataclass
class SliceTally:
    """Rows and differing rows by property, added up piece by piece.

    Attributes:
        width_us: Length of the stretches of time.
        rows: Rows by (property, value).
        different: Differing rows likewise.
        by_time: Rows and differing rows by number of the stretch.
    """

    width_us: int
    rows: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    different: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    by_time: dict[int, list[int]] = field(default_factory=dict)

    def add(self, as_of: Ints, differs: Flags, properties: Mapping[str, pa.Array]) -> None:
        """Count rows.

        Args:
            as_of: Instants asked about.
            differs: Rows in which any value differs.
            properties: Text of each row, per property.
        """
        numbers, counts, differing = _counted(as_of // self.width_us, differs)
        for number, count, different in zip(numbers.tolist(), counts.tolist(), differing.tolist(), strict=True):
            totals = self.by_time.setdefault(number, [0, 0])
            totals[0] += count
            totals[1] += different
        hours = pa.array((as_of // MICROSECONDS["h"] % 24).astype(np.int64)).cast(pa.string())
        for name, column in {"hour of day": hours, **properties}.items():
            encoded = column.fill_null("null").dictionary_encode()
            codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
            texts = encoded.dictionary.to_pylist()
            distinct, counts, differing = _counted(codes, differs)
            for code, count, different in zip(distinct.tolist(), counts.tolist(), differing.tolist(), strict=True):
                value = texts[code]
                if value not in self.rows[name] and len(self.rows[name]) >= _MOST_VALUES:
                    value = "other"
                self.rows[name][value] = self.rows[name].get(value, 0) + count
                self.different[name][value] = self.different[name].get(value, 0) + different

    def buckets(self) -> tuple[Bucket, ...]:
        """Return the stretches of time that have rows, in order."""
        return tuple(
            Bucket(
                format_instant(number * self.width_us),
                format_instant((number + 1) * self.width_us),
                *self.by_time[number],
            )
            for number in sorted(self.by_time)
        )

    def slices(self) -> tuple[Slice, ...]:
        """Return the slices with a larger share of the differing rows than of all rows, largest difference first."""
        parts = [part for name in self.rows for part in self._of(name)]
        telling = [part for part in parts if part.different and part.of_different > part.of_rows]
        return tuple(sorted(telling, key=_rank)[:_SHOWN])

    def telling(self) -> Slice | None:
        """Return the slice with most of the differing rows; ``None`` if there is none, or if it may be chance."""
        slice_count = sum(len(values) for values in self.rows.values())
        ranked = [
            part
            for part in self.slices()
            if part.of_different >= _TELLING and part.of_rows <= 0.5 and _chance(part) * slice_count <= _CHANCE
        ]
        return ranked[0] if ranked else None

    def _of(self, name: str) -> Iterator[Slice]:
        rows, different = self.rows[name], self.different[name]
        all_rows, all_different = sum(rows.values()), sum(different.values())
        if len(rows) < 2 or not all_different:
            return
        for value, count in rows.items():
            differing = different.get(value, 0)
            yield Slice(name, value, count, differing, differing / all_different, count / all_rows)


def _chance(part: Slice) -> float:
    """Return an upper bound of the probability that chance gives a property to so many of the differing rows.

    Source:
        Chernoff 1952, for the upper tail of a binomial distribution.
    """
    share, of_all = part.of_different, part.of_rows
    total = part.different / share
    distance = share * math.log(share / of_all)
    if share < 1:
        distance += (1 - share) * math.log((1 - share) / (1 - of_all))
    return math.exp(-total * distance)


def _rank(part: Slice) -> tuple[float, str, str]:
    return part.of_rows - part.of_different, part.by, part.value


def _counted(codes: Ints, differs: Flags) -> tuple[Ints, Ints, Ints]:
    """Return distinct codes, how often each occurs, and how often in rows that differ."""
    distinct, inverse = np.unique(codes, return_inverse=True)
    counts = np.bincount(inverse, minlength=len(distinct))
    return distinct, counts, np.bincount(inverse[differs], minlength=len(distinct))


def width_of(since_us: int, until_us: int) -> int:
    """Return the length of stretches that divides a range of time into at most 48."""
    return next(
        (width for width in (*_WIDTHS, *_LONG_WIDTHS) if (until_us - since_us) // width < _MOST_BUCKETS),
        _LONG_WIDTHS[-1],
    )


_AGES = tuple(
    MICROSECONDS[unit] * count for unit, count in (("s", 1), ("m", 1), ("m", 10), ("h", 1), ("h", 6), ("d", 1))
)


def age_classes(ages_us: Ints) -> pa.Array:
    """Return in words how far state is behind its refresh; ``"on time"`` if it is not."""
    names = ["on time", *(f"up to {format_duration(age)}" for age in _AGES), f"over {format_duration(_AGES[-1])}"]
    codes = np.where(ages_us <= 0, 0, 1 + np.searchsorted(np.array(_AGES), ages_us, side="left"))
    return pa.array(names).take(pa.array(codes))


def null_classes(are_null: Sequence[Flags]) -> pa.Array:
    """Return in words the share of null values per row.

    Args:
        are_null: For each value, the rows in which it is null.
    """
    nulls = np.sum(are_null, axis=0)
    share = nulls / max(1, len(are_null))
    names = pa.array(["none", "up to half", "over half", "all"])
    codes = np.select([share == 0, share <= 0.5, share < 1], [0, 1, 2], 3)
    return names.take(pa.array(codes))


def as_text(column: pa.Array) -> pa.Array:
    """Return a column of any type as text."""
    try:
        return pc.cast(column, pa.string())
    except pa.ArrowException:
        return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
