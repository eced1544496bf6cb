"""Aggregations: how the events of a window become one value. ``agg`` is the builder that users write.

Windows, options and ``where`` are kept as written. The compiler checks them, so that all mistakes are reported
together. Every method returns a new aggregation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from featurestore.definitions.expr import Expr

Duration = str | timedelta
"""``"90m"``, ``"7d"`` or a ``timedelta``. A bare number is refused: it has no unit."""


@dataclass(frozen=True)
class Lifetime:
    """The window without a lower edge."""


LIFETIME = Lifetime()


@dataclass(frozen=True, eq=False)
class Aggregation:
    """One aggregation of a feature view; made by ``agg``.

    Attributes:
        name: Name of the method of ``agg``, for instance ``"mean"`` or ``"latest"``.
        value: The expression that is aggregated; ``None`` aggregates the events themselves.
        where: Events for which this is not true do not take part; ``None`` means that all do.
        windows: The windows as written; empty if none was named.
        resolution: Grid of the windows' lower edge, as written; ``None`` is exact.
        time_to_live: Time to live of a latest value, as written; ``None`` means that it never expires.
        options: Options of the aggregation by name, as written.
    """

    name: str
    value: Any = None
    where: Expr | None = None
    windows: tuple[Duration | Lifetime, ...] = ()
    resolution: Duration | None = None
    time_to_live: Duration | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def over(self, *windows: Duration, resolution: Duration | None = None) -> Aggregation:
        """Name the windows: ``horizon - window <= event_time < horizon``.

        Args:
            windows: One length, or several; with several the feature's name holds ``{window}``, which is replaced by
                each of them.
            resolution: The lower edge is rounded down to a multiple of this, so that old events may be kept as tiles.
        """
        return replace(self, windows=windows, resolution=resolution)

    def lifetime(self) -> Aggregation:
        """Aggregate every visible event, however old."""
        return replace(self, windows=(LIFETIME,), resolution=None)

    def ttl(self, length: Duration) -> Aggregation:
        """Expire a latest value when its event lies more than ``length`` before ``as_of``."""
        return replace(self, time_to_live=length)


class AggregationBuilder:
    """All aggregations. Users write ``agg.mean(col("delay")).over("7d")``.

    ``where`` selects the events of one aggregation. Nulls are skipped unless stated otherwise. Over no events
    ``count`` and ``count_distinct`` are 0 and everything else is null. ``first``, ``last``, ``first_n``, ``last_n`` and
    ``time_since_last`` use the whole lifetime unless a window is given; the others need a window.
    """

    def count(self, value: Any = None, *, where: Expr | None = None) -> Aggregation:
        """Count events, or those with a value that is not null. Gives int64."""
        return Aggregation("count", value, where)

    def sum(self, value: Any, *, where: Expr | None = None) -> Aggregation:
        """Return the exact sum, rounded once. Gives int64, float64, or decimal(38, scale)."""
        return Aggregation("sum", value, where)

    def mean(self, value: Any, *, where: Expr | None = None) -> Aggregation:
        """Divide the exact sum by the count. Gives float64."""
        return Aggregation("mean", value, where)

    def min(self, value: Any, *, where: Expr | None = None) -> Aggregation:
        """Return the smallest value."""
        return Aggregation("min", value, where)

    def max(self, value: Any, *, where: Expr | None = None) -> Aggregation:
        """Return the largest value."""
        return Aggregation("max", value, where)

    def var(self, value: Any, *, ddof: int = 1, where: Expr | None = None) -> Aggregation:
        """Return the variance from exact sums; null for fewer than ``ddof + 1`` values. Gives float64."""
        return Aggregation("var", value, where, options={"ddof": ddof})

    def std(self, value: Any, *, ddof: int = 1, where: Expr | None = None) -> Aggregation:
        """Return the square root of the variance. Gives float64."""
        return Aggregation("std", value, where, options={"ddof": ddof})

    def first(self, value: Any, *, respect_nulls: bool = False, where: Expr | None = None) -> Aggregation:
        """Return the earliest value; with ``respect_nulls`` that of the earliest event, null or not."""
        return Aggregation("first", value, where, options={"respect_nulls": respect_nulls})

    def last(self, value: Any, *, respect_nulls: bool = False, where: Expr | None = None) -> Aggregation:
        """Return the latest value; with ``respect_nulls`` that of the latest event, null or not."""
        return Aggregation("last", value, where, options={"respect_nulls": respect_nulls})

    def latest(self, value: Any, *, respect_nulls: bool = False, where: Expr | None = None) -> Aggregation:
        """Return the latest value: another name of ``last``."""
        return Aggregation("latest", value, where, options={"respect_nulls": respect_nulls})

    def first_n(self, value: Any, n: int, *, where: Expr | None = None) -> Aggregation:
        """List the ``n`` earliest values, oldest first."""
        return Aggregation("first_n", value, where, options={"n": n})

    def last_n(self, value: Any, n: int, *, where: Expr | None = None) -> Aggregation:
        """List the ``n`` latest values, oldest first."""
        return Aggregation("last_n", value, where, options={"n": n})

    def count_distinct(self, value: Any, *, where: Expr | None = None) -> Aggregation:
        """Count different values. Gives int64."""
        return Aggregation("count_distinct", value, where)

    def quantile(self, value: Any, q: float, *, where: Expr | None = None) -> Aggregation:
        """Return the value at rank ``q * (count - 1)``, linear between neighbours. Gives float64."""
        return Aggregation("quantile", value, where, options={"q": q})

    def median(self, value: Any, *, where: Expr | None = None) -> Aggregation:
        """Return the quantile at 0.5. Gives float64."""
        return Aggregation("median", value, where)

    def mode(self, value: Any, *, where: Expr | None = None) -> Aggregation:
        """Return the most frequent value, the smallest of equally frequent ones."""
        return Aggregation("mode", value, where)

    def time_since_last(self, value: Any = None, *, unit: str = "s", where: Expr | None = None) -> Aggregation:
        """Return the time from the latest event (with a non-null value) to ``as_of``, in ``unit``. Gives float64."""
        return Aggregation("time_since_last", value, where, options={"unit": unit})


agg = AggregationBuilder()
"""The aggregations: ``agg.count()``, ``agg.mean(col("delay"))`` and so on."""
