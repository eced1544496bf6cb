"""Aggregations: one record each, which holds every trait that any part of the library asks for.

To add an aggregation, write one record here, its kernel (``featurestore.kernels.program`` names the kernels) and its
method of ``agg``; the laws in ``tests/laws`` find it by its record. No other module may compare names of aggregations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any

from featurestore.core.dtypes import (
    FLOAT64,
    INT64,
    DType,
    list_of,
)
from featurestore.core.temporal import MICROSECONDS
from featurestore.plan.model import FeaturePlan, Param
from featurestore.plan.operations import ORDERED_HINT

LARGEST_N = 10_000
"""Longest list that ``first_n`` and ``last_n`` return: their results have a fixed size."""

LARGEST_SUMMED_PRECISION = 18
"""Digits that a decimal may have to be summed: sums of longer decimals could not be kept exactly."""

Params = tuple[tuple[str, Param], ...]


class Kind(IntEnum):
    """How the events of a window are aggregated."""

    ADDITIVE = 0
    """Sums are kept that can be added to and subtracted from (algebraic, invertible)."""
    EXTREME = 1
    """The smallest or largest value is kept (distributive, not invertible)."""
    ORDERED = 2
    """Events are picked from one end of the order of time."""
    HOLISTIC = 3
    """All values of the window are needed at once."""


class End(Enum):
    """From which end of the order of time an aggregation picks its events."""

    OLDEST = "oldest"
    NEWEST = "newest"


class Result(Enum):
    """What a result is made of."""

    COMPUTED = "computed"
    """A number that no event need hold."""
    VALUE = "value"
    """The value of one event."""
    LIST = "list"
    """The values of up to ``n`` events."""


class Contribution(Enum):
    """What one event adds to a linear aggregate."""

    ONE = "one"
    """One: the aggregate counts."""
    VALUE = "value"
    """Its value: the aggregate is a sum."""
    DEVIATION = "deviation"
    """Its value less the mean, divided by the count: the aggregate is a mean."""


@dataclass(frozen=True)
class Refusal:
    """Why an aggregation does not accept an operand: problem and hint."""

    problem: str
    hint: str


@dataclass(frozen=True)
class Option:
    """An option of an aggregation.

    Attributes:
        expected: The accepted values, in words.
        read: Returns the plan's parameter (name, value) for the value that the user wrote; ``None`` if it is not valid.
    """

    expected: str
    read: Callable[[Any], tuple[str, Param] | None]


@dataclass(frozen=True)
class Aggregate:
    """The traits of one aggregation.

    Attributes:
        name: Its name in plans.
        kind: How events are aggregated.
        gives: Dtype of the result for a dtype of the operand, or why that dtype is refused.
        sentence: How a value was computed, as a format string. Fields: ``{value}`` the value; ``{events}`` the number
            of events used, with its noun, and ``{number}`` without it; ``{used}`` the numbers of these events;
            ``{members}`` the number of events that the window holds; names of options; names of other aggregations, for
            their values over the same events.
        result: Whether the result is computed or made of values of events.
        end: End of the order of time that events are picked from; ``None`` unless the kind is ``ORDERED``.
        over_no_rows: The value over no events; ``None`` is null.
        over_events: Dtype of the result without an operand; ``None`` if the aggregation needs one.
        needs_values: Whether the kernel reads the values of events. Otherwise times and memberships suffice; a result
            that is the value of one event is then looked up in the row that the kernel returned.
        powers: Highest power of the values of which sums are kept; 0 unless the kind is ``ADDITIVE``.
        contribution: What each event adds to the result; ``None`` if the aggregate is not linear.
        defaults_to_lifetime: Whether a window may be left out.
        takes_ttl: Whether a value can expire.
        options: Its options, by the name that users write.
        aliases: Other names that users write for it, each with the parameters that the name fixes.
    """

    name: str
    kind: Kind
    gives: Callable[[DType], DType | Refusal]
    sentence: str
    result: Result = Result.COMPUTED
    end: End | None = None
    over_no_rows: int | None = None
    over_events: DType | None = None
    needs_values: bool = True
    powers: int = 0
    contribution: Contribution | None = None
    defaults_to_lifetime: bool = False
    takes_ttl: bool = False
    options: Mapping[str, Option] = field(default_factory=dict)
    aliases: Mapping[str, Params] = field(default_factory=dict)

    @property
    def needs_newest_only(self) -> bool:
        """Whether the newest event that takes part decides the value alone."""
        return self.end is End.NEWEST and self.result is not Result.LIST

    @property
    def picks_value(self) -> bool:
        """Whether the result is the value of the one event that the order of time decides on."""
        return self.kind is Kind.ORDERED and self.result is Result.VALUE

    @property
    def needs_order_of_ties(self) -> bool:
        """Whether the order of events with equal times can change the result."""
        return self.kind is Kind.ORDERED and self.result is not Result.COMPUTED


@dataclass(frozen=True)
class Spelling:
    """An aggregation under a name that users write.

    Attributes:
        aggregate: The aggregation.
        fixed: Parameters that the name fixes: ``median`` is the quantile at 0.5.
    """

    aggregate: Aggregate
    fixed: Params = ()

    @property
    def options(self) -> Mapping[str, Option]:
        """The options that are left to the user."""
        fixed = dict(self.fixed)
        return {name: option for name, option in self.aggregate.options.items() if name not in fixed}


def _same(dtype: DType) -> DType | Refusal:
    return dtype


def _ordered(dtype: DType) -> DType | Refusal:
    if dtype.kind == "list":
        return Refusal(f"does not accept {dtype}", "Lists have no order; aggregate a value computed from them.")
    return dtype


def _sorted(dtype: DType) -> DType | Refusal:
    if dtype.is_ordered:
        return Refusal("does not accept ordered categories: they are not sorted by their order", ORDERED_HINT)
    return _ordered(dtype)


def _counted(_: DType) -> DType | Refusal:
    return INT64


def _measured(_: DType) -> DType | Refusal:
    return FLOAT64


def _listed(dtype: DType) -> DType | Refusal:
    return list_of(dtype)


def _averaged(dtype: DType) -> DType | Refusal:
    if dtype.kind in ("int64", "float64"):
        return FLOAT64
    return _not_a_number(dtype)


def _summed(dtype: DType) -> DType | Refusal:
    if dtype.kind in ("int64", "float64"):
        return dtype
    if dtype.kind == "decimal" and dtype.precision <= LARGEST_SUMMED_PRECISION:
        return DType("decimal", precision=38, scale=dtype.scale)
    if dtype.kind == "decimal":
        return Refusal(f"does not accept {dtype}", _exact_hint(dtype))
    return _not_a_number(dtype)


def _exact_hint(dtype: DType) -> str:
    """Return the hint on how a decimal with too many digits to be summed keeps its exact digits."""
    most = LARGEST_SUMMED_PRECISION
    if dtype.scale < most:
        return (
            f"Sums are exact up to decimal({most}): .cast('decimal({most},{dtype.scale})') keeps the exact digits; "
            f"a value with more than {most - dtype.scale} digits before the point becomes null."
        )
    return f"Sums are exact up to decimal({most}), which has no room for {dtype.scale} digits after the point."


def _not_a_number(dtype: DType) -> Refusal:
    if dtype.kind == "bool":
        return Refusal(
            f"does not accept {dtype}", "Convert true and false to numbers: .cast('int64') or .cast('float64')."
        )
    if dtype.kind == "decimal":
        exact = dtype if dtype.precision <= LARGEST_SUMMED_PRECISION else f"decimal({LARGEST_SUMMED_PRECISION},…)"
        hint = f"It returns floats: .cast('float64'). Sums of {exact} are exact; divide them by a count."
        return Refusal(f"does not accept {dtype}", hint)
    if dtype.kind == "string":
        hint = (
            "It needs numbers: .cast('float64'). If some texts in the column are not numbers, declare them as null: "
            "csv=CsvOptions(null_values=('', 'NA'))."
        )
        return Refusal(f"does not accept {dtype}", hint)
    return Refusal(f"does not accept {dtype}", "It needs numbers.")


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


_DDOF = Option("a whole number, 0 or more", lambda value: ("ddof", value) if _whole(value, 0, 2**31) else None)
_N = Option(f"a whole number, 1 to {LARGEST_N}", lambda value: ("n", value) if _whole(value, 1, LARGEST_N) else None)
_NULLS = Option("True or False", lambda value: ("respect_nulls", value) if isinstance(value, bool) else None)
_UNIT = Option(
    f"one of {', '.join(MICROSECONDS)}",
    lambda value: ("unit_us", MICROSECONDS[value]) if isinstance(value, str) and value in MICROSECONDS else None,
)


def _read_rank(value: Any) -> tuple[str, Param] | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return ("q", float(value) + 0.0) if is_number and 0 <= value <= 1 else None


_Q = Option("a number from 0 to 1", _read_rank)

_ORDER = "by (event_time, ingest_time, content)"

_RECORDS = (
    Aggregate(
        "count",
        Kind.ADDITIVE,
        _counted,
        "{events} counted = {value}",
        over_no_rows=0,
        over_events=INT64,
        needs_values=False,
        contribution=Contribution.ONE,
    ),
    Aggregate(
        "sum",
        Kind.ADDITIVE,
        _summed,
        "exact sum of {events}, rounded once = {value}",
        powers=1,
        contribution=Contribution.VALUE,
    ),
    Aggregate(
        "mean",
        Kind.ADDITIVE,
        _averaged,
        "exact sum {sum} of {events} / {number} = {value}",
        powers=1,
        contribution=Contribution.DEVIATION,
    ),
    Aggregate("min", Kind.EXTREME, _sorted, "the smallest of {events} = {value}", result=Result.VALUE),
    Aggregate("max", Kind.EXTREME, _sorted, "the largest of {events} = {value}", result=Result.VALUE),
    Aggregate(
        "var",
        Kind.ADDITIVE,
        _averaged,
        "exact variance of {events} with mean {mean}, divided by n - {ddof} = {value}",
        powers=2,
        options={"ddof": _DDOF},
    ),
    Aggregate(
        "std",
        Kind.ADDITIVE,
        _averaged,
        "exact standard deviation of {events} with mean {mean}, divided by n - {ddof} = {value}",
        powers=2,
        options={"ddof": _DDOF},
    ),
    Aggregate(
        "first",
        Kind.ORDERED,
        _same,
        f"first of {{members}} {_ORDER}: {{used}} = {{value}}",
        result=Result.VALUE,
        end=End.OLDEST,
        needs_values=False,
        defaults_to_lifetime=True,
        options={"respect_nulls": _NULLS},
    ),
    Aggregate(
        "last",
        Kind.ORDERED,
        _same,
        f"last of {{members}} {_ORDER}: {{used}} = {{value}}",
        result=Result.VALUE,
        end=End.NEWEST,
        needs_values=False,
        defaults_to_lifetime=True,
        takes_ttl=True,
        options={"respect_nulls": _NULLS},
        aliases={"latest": ()},
    ),
    Aggregate(
        "first_n",
        Kind.ORDERED,
        _listed,
        f"the first of {{members}} {_ORDER}: {{used}} = {{value}}",
        result=Result.LIST,
        end=End.OLDEST,
        defaults_to_lifetime=True,
        options={"n": _N},
    ),
    Aggregate(
        "last_n",
        Kind.ORDERED,
        _listed,
        f"the last of {{members}} {_ORDER}: {{used}} = {{value}}",
        result=Result.LIST,
        end=End.NEWEST,
        defaults_to_lifetime=True,
        options={"n": _N},
    ),
    Aggregate("count_distinct", Kind.HOLISTIC, _counted, "distinct values among {events} = {value}", over_no_rows=0),
    Aggregate(
        "quantile",
        Kind.HOLISTIC,
        _averaged,
        "quantile {q} of {events} from {min} to {max}, linear between neighbours = {value}",
        options={"q": _Q},
        aliases={"median": (("q", 0.5),)},
    ),
    Aggregate(
        "mode",
        Kind.HOLISTIC,
        _ordered,
        "the most frequent of {events}, the smallest of equally frequent ones = {value}",
        result=Result.VALUE,
    ),
    Aggregate(
        "time_since_last",
        Kind.ORDERED,
        _measured,
        "as_of - event_time of the last event ({used}), in units of {unit} = {value}",
        end=End.NEWEST,
        over_events=FLOAT64,
        needs_values=False,
        defaults_to_lifetime=True,
        options={"unit": _UNIT},
    ),
)

AGGREGATES: Mapping[str, Aggregate] = {record.name: record for record in _RECORDS}
"""Every aggregation by its name in plans."""

SPELLINGS: Mapping[str, Spelling] = {
    name: Spelling(record, fixed) for record in _RECORDS for name, fixed in ((record.name, ()), *record.aliases.items())
}
"""Every aggregation by the names that users write."""


def aggregate_of(feature: FeaturePlan) -> Aggregate:
    """Return the traits of a feature's aggregation."""
    return AGGREGATES[feature.aggregation]


def members_wanted(feature: FeaturePlan) -> int:
    """Return how many events a feature of kind ``ORDERED`` picks at most, counted from its end."""
    count = dict(feature.params).get("n", 1)
    assert isinstance(count, int)
    return count
