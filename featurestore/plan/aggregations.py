"""What aggregations take and give: dtypes, options, and whether they must name a window.

The one table that the compiler judges aggregations by. How they fold is the kernels' business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from featurestore.core.dtypes import (
    FLOAT64,
    INT64,
    DType,
    list_of,
)
from featurestore.core.temporal import MICROSECONDS
from featurestore.plan.model import Param
from featurestore.plan.operations import ORDERED_HINT

LARGEST_N = 10_000
"""Longest list ``first_n`` and ``last_n`` may give: their results have fixed room."""

LARGEST_SUMMED_PRECISION = 18
"""Digits a decimal may have to be summed: sums of more could not be held exactly."""

Params = tuple[tuple[str, Param], ...]


@dataclass(frozen=True)
class Refusal:
    """Why an aggregation does not take what it was given: problem and hint."""

    problem: str
    hint: str


@dataclass(frozen=True)
class Option:
    """One option of an aggregation.

    Attributes:
        expected: What it should be, in words.
        read: Turns what the user wrote into the plan's parameter; ``None`` if it cannot be that.
    """

    expected: str
    read: Callable[[Any], tuple[str, Param] | None]


@dataclass(frozen=True)
class Rule:
    """What the compiler knows of one aggregation.

    Attributes:
        plan_name: Its name in a plan, where two names for one thing became one.
        gives: Dtype of the result for a dtype of the operand.
        takes_events: Whether it can do without an operand.
        defaults_to_lifetime: Whether it may leave the window out.
        takes_ttl: Whether its value can expire.
        options: Its options, by the name users write.
        fixed: Parameters it always has in a plan.
    """

    plan_name: str
    gives: Callable[[DType], DType | Refusal]
    takes_events: bool = False
    defaults_to_lifetime: bool = False
    takes_ttl: bool = False
    options: Mapping[str, Option] = field(default_factory=dict)
    fixed: Params = ()


def _same(dtype: DType) -> DType | Refusal:
    return dtype


def _ordered(dtype: DType) -> DType | Refusal:
    if dtype.kind == "list":
        return Refusal(f"does not take {dtype}", "Lists have no order; aggregate something of theirs.")
    return dtype


def _sorted(dtype: DType) -> DType | Refusal:
    if dtype.is_ordered:
        return Refusal("does not take ordered categories, which are not sorted by their order here", ORDERED_HINT)
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
        return Refusal(f"does not take {dtype}", _exact_hint(dtype))
    return _not_a_number(dtype)


def _exact_hint(dtype: DType) -> str:
    """Say how a decimal of more digits than can be summed keeps its exact digits."""
    most = LARGEST_SUMMED_PRECISION
    if dtype.scale < most:
        return (
            f"Sums are exact up to decimal({most}): .cast('decimal({most},{dtype.scale})') keeps the exact digits; "
            f"a value with more than {most - dtype.scale} digits before the point becomes null."
        )
    return f"Sums are exact up to decimal({most}), which has no room for {dtype.scale} digits after the point."


def _not_a_number(dtype: DType) -> Refusal:
    if dtype.kind == "bool":
        return Refusal(f"does not take {dtype}", "Say what true counts as: .cast('int64') or .cast('float64').")
    if dtype.kind == "decimal":
        exact = dtype if dtype.precision <= LARGEST_SUMMED_PRECISION else f"decimal({LARGEST_SUMMED_PRECISION},…)"
        hint = f"It gives floats: .cast('float64'). Sums of {exact} are exact, and count how many there are."
        return Refusal(f"does not take {dtype}", hint)
    if dtype.kind == "string":
        hint = (
            "It takes numbers: .cast('float64'). If a few texts keep the column from being numbers, name them: "
            "csv=CsvOptions(null_values=('', 'NA'))."
        )
        return Refusal(f"does not take {dtype}", hint)
    return Refusal(f"does not take {dtype}", "It takes numbers.")


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

RULES: Mapping[str, Rule] = {
    "count": Rule("count", _counted, takes_events=True),
    "sum": Rule("sum", _summed),
    "mean": Rule("mean", _averaged),
    "min": Rule("min", _sorted),
    "max": Rule("max", _sorted),
    "var": Rule("var", _averaged, options={"ddof": _DDOF}),
    "std": Rule("std", _averaged, options={"ddof": _DDOF}),
    "first": Rule("first", _same, defaults_to_lifetime=True, options={"respect_nulls": _NULLS}),
    "last": Rule("last", _same, defaults_to_lifetime=True, takes_ttl=True, options={"respect_nulls": _NULLS}),
    "latest": Rule("last", _same, defaults_to_lifetime=True, takes_ttl=True, options={"respect_nulls": _NULLS}),
    "first_n": Rule("first_n", _listed, defaults_to_lifetime=True, options={"n": _N}),
    "last_n": Rule("last_n", _listed, defaults_to_lifetime=True, options={"n": _N}),
    "count_distinct": Rule("count_distinct", _counted),
    "quantile": Rule("quantile", _averaged, options={"q": _Q}),
    "median": Rule("quantile", _averaged, fixed=(("q", 0.5),)),
    "mode": Rule("mode", _ordered),
    "time_since_last": Rule(
        "time_since_last", _measured, takes_events=True, defaults_to_lifetime=True, options={"unit": _UNIT}
    ),
}
"""Every aggregation by the name users write."""
