"""Row expressions as users write them: frozen trees without dtypes.

``col("arr_delay") > 15`` is a tree, not a value; the compiler types it against the schema of a source. The module knows
how trees are built, not what their operations mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from featurestore.core.dtypes import DType
from featurestore.core.temporal import MICROSECONDS, duration_us, instant_us

Params = tuple[tuple[str, Any], ...]

_EPOCH = date(1970, 1, 1)
_UNITS = {
    "microsecond": "us",
    "millisecond": "ms",
    "second": "s",
    "minute": "m",
    "hour": "h",
    "day": "d",
    "week": "w",
}


@dataclass(frozen=True, eq=False)
class Expr:
    """A node of an expression.

    Operators and methods build larger expressions and compute nothing. ``==`` builds a comparison, so expressions are
    compared with ``same``; they have no truth value, and ``&``, ``|``, ``~`` stand for and, or, not.

    Null rules are SQL's: an operation on null is null, ``&`` and ``|`` are three-valued. Division by zero, overflow and
    arguments outside a function's domain give null.

    Attributes:
        op: Name of the operation.
        args: Operands.
        params: Constants of the operation, sorted by name.
    """

    op: str
    args: tuple[Expr, ...] = ()
    params: Params = ()

    def __bool__(self) -> bool:
        raise TypeError("an expression has no truth value: write & for and, | for or, ~ for not, .is_in(…) for in")

    __hash__ = object.__hash__

    def same(self, other: object) -> bool:
        """Return whether another expression has the same structure."""
        return (
            isinstance(other, Expr)
            and (self.op, self.params, len(self.args)) == (other.op, other.params, len(other.args))
            and all(left.same(right) for left, right in zip(self.args, other.args, strict=True))
        )

    # Arithmetic. ``/`` is always a float64, ``//`` and ``%`` round towards minus infinity.

    def __add__(self, other: Any) -> Expr:
        return self.shift(other) if isinstance(other, timedelta) else _call("add", self, other)

    def __radd__(self, other: Any) -> Expr:
        return _call("add", other, self)

    def __sub__(self, other: Any) -> Expr:
        return self.shift(-other) if isinstance(other, timedelta) else _call("sub", self, other)

    def __rsub__(self, other: Any) -> Expr:
        return _call("sub", other, self)

    def __mul__(self, other: Any) -> Expr:
        return _call("mul", self, other)

    def __rmul__(self, other: Any) -> Expr:
        return _call("mul", other, self)

    def __truediv__(self, other: Any) -> Expr:
        return _call("div", self, other)

    def __rtruediv__(self, other: Any) -> Expr:
        return _call("div", other, self)

    def __floordiv__(self, other: Any) -> Expr:
        return _call("floordiv", self, other)

    def __rfloordiv__(self, other: Any) -> Expr:
        return _call("floordiv", other, self)

    def __mod__(self, other: Any) -> Expr:
        return _call("mod", self, other)

    def __rmod__(self, other: Any) -> Expr:
        return _call("mod", other, self)

    def __pow__(self, other: Any) -> Expr:
        return _call("pow", self, other)

    def __rpow__(self, other: Any) -> Expr:
        return _call("pow", other, self)

    def __neg__(self) -> Expr:
        return _call("neg", self)

    def __abs__(self) -> Expr:
        return self.abs()

    # Comparison and logic.

    def __eq__(self, other: object) -> Expr:  # type: ignore[override]  # builds a comparison
        return _call("eq", self, other)

    def __ne__(self, other: object) -> Expr:  # type: ignore[override]  # builds a comparison
        return _call("ne", self, other)

    def __lt__(self, other: Any) -> Expr:
        return _call("lt", self, other)

    def __le__(self, other: Any) -> Expr:
        return _call("le", self, other)

    def __gt__(self, other: Any) -> Expr:
        return _call("gt", self, other)

    def __ge__(self, other: Any) -> Expr:
        return _call("ge", self, other)

    def __and__(self, other: Any) -> Expr:
        return _call("and", self, other)

    def __rand__(self, other: Any) -> Expr:
        return _call("and", other, self)

    def __or__(self, other: Any) -> Expr:
        return _call("or", self, other)

    def __ror__(self, other: Any) -> Expr:
        return _call("or", other, self)

    def __invert__(self) -> Expr:
        return _call("not", self)

    def between(self, low: Any, high: Any) -> Expr:
        """Return whether ``low <= self <= high``, both edges inclusive."""
        return _call("and", _call("ge", self, low), _call("le", self, high))

    def is_in(self, values: Sequence[Any]) -> Expr:
        """Return whether the value is one of some constants; null stays null."""
        return _call("is_in", self, *values)

    def is_null(self) -> Expr:
        """Return whether there is no value; never null itself."""
        return _call("is_null", self)

    def is_not_null(self) -> Expr:
        """Return whether there is a value; never null itself."""
        return ~self.is_null()

    def fill_null(self, value: Any) -> Expr:
        """Return the value, or another one where it is null."""
        return coalesce(self, value)

    def cast(self, dtype: str | DType) -> Expr:
        """Convert to another dtype; what cannot be converted becomes null.

        Floats are cut towards zero to integers. Text is read as Python reads it; timestamps as text need a zone.
        Booleans are 0 and 1. Timestamps become the date in UTC, dates the midnight in UTC.
        """
        return _call("cast", self, to=str(dtype))

    # Mathematics, in float64 unless said otherwise.

    def abs(self) -> Expr:
        """Return the absolute value, in the same dtype."""
        return _call("abs", self)

    def sign(self) -> Expr:
        """Return -1, 0 or 1 as int64."""
        return _call("sign", self)

    def floor(self) -> Expr:
        """Return the largest whole number that is not greater, in the same dtype."""
        return _call("floor", self)

    def ceil(self) -> Expr:
        """Return the smallest whole number that is not less, in the same dtype."""
        return _call("ceil", self)

    def round(self, digits: int = 0) -> Expr:
        """Round to some digits after the point, halves to even, in the same dtype."""
        return _call("round", self, digits=digits)

    def exp(self) -> Expr:
        """Return e to the power of the value."""
        return _call("exp", self)

    def log(self) -> Expr:
        """Return the natural logarithm; null for numbers that have none."""
        return _call("log", self)

    def log1p(self) -> Expr:
        """Return the natural logarithm of one plus the value."""
        return _call("log1p", self)

    def log10(self) -> Expr:
        """Return the decimal logarithm."""
        return _call("log10", self)

    def sqrt(self) -> Expr:
        """Return the square root; null for negative numbers."""
        return _call("sqrt", self)

    def pow(self, exponent: Any) -> Expr:
        """Return the value to a power."""
        return _call("pow", self, exponent)

    def sin(self) -> Expr:
        """Return the sine of radians."""
        return _call("sin", self)

    def cos(self) -> Expr:
        """Return the cosine of radians."""
        return _call("cos", self)

    def tan(self) -> Expr:
        """Return the tangent of radians."""
        return _call("tan", self)

    def asin(self) -> Expr:
        """Return the arc sine in radians."""
        return _call("asin", self)

    def acos(self) -> Expr:
        """Return the arc cosine in radians."""
        return _call("acos", self)

    def atan(self) -> Expr:
        """Return the arc tangent in radians."""
        return _call("atan", self)

    def atan2(self, other: Any) -> Expr:
        """Return the angle of the point (other, self) in radians."""
        return _call("atan2", self, other)

    # Text. Positions and lengths count characters from 0.

    def lower(self) -> Expr:
        """Return the text in lower case."""
        return _call("lower", self)

    def upper(self) -> Expr:
        """Return the text in upper case."""
        return _call("upper", self)

    def strip(self) -> Expr:
        """Return the text without white space at both ends."""
        return _call("strip", self)

    def length(self) -> Expr:
        """Return the count of characters as int64."""
        return _call("length", self)

    def contains(self, text: str) -> Expr:
        """Return whether the text contains another."""
        return _call("contains", self, text=text)

    def starts_with(self, text: str) -> Expr:
        """Return whether the text begins with another."""
        return _call("starts_with", self, text=text)

    def ends_with(self, text: str) -> Expr:
        """Return whether the text ends with another."""
        return _call("ends_with", self, text=text)

    def regexp_matches(self, pattern: str) -> Expr:
        """Return whether a regular expression (RE2 syntax) is found anywhere in the text."""
        return _call("regexp_matches", self, pattern=pattern)

    def replace(self, old: str, new: str) -> Expr:
        """Return the text with every occurrence of one text replaced by another."""
        return _call("replace", self, old=old, new=new)

    def substring(self, start: int, length: int | None = None) -> Expr:
        """Return ``length`` characters from ``start`` on; all that follow if no length is given."""
        return _call("substring", self, start=start, length=length)

    # Time. Parts are those of UTC unless a zone is named, here or by ``in_zone``.

    def in_zone(self, zone: str) -> Expr:
        """Name the zone in which the parts of this instant are meant: ``at.in_zone("America/New_York").hour()``.

        The instant itself stays what it is: only ``year`` to ``microsecond``, ``day_of_week``, ``day_of_year``,
        ``is_weekend``, ``date`` and ``truncate`` read it on that zone's clock.
        """
        return _call("in_zone", self, zone=zone)

    def year(self, zone: str | None = None) -> Expr:
        """Return the year as int64."""
        return _part("year", self, zone)

    def month(self, zone: str | None = None) -> Expr:
        """Return the month, 1 to 12."""
        return _part("month", self, zone)

    def day(self, zone: str | None = None) -> Expr:
        """Return the day of the month, 1 to 31."""
        return _part("day", self, zone)

    def hour(self, zone: str | None = None) -> Expr:
        """Return the hour, 0 to 23."""
        return _part("hour", self, zone)

    def minute(self, zone: str | None = None) -> Expr:
        """Return the minute, 0 to 59."""
        return _part("minute", self, zone)

    def second(self, zone: str | None = None) -> Expr:
        """Return the second, 0 to 59."""
        return _part("second", self, zone)

    def microsecond(self, zone: str | None = None) -> Expr:
        """Return the microsecond of the second, 0 to 999,999."""
        return _part("microsecond", self, zone)

    def day_of_week(self, zone: str | None = None) -> Expr:
        """Return the day of the week, Monday is 0 and Sunday 6."""
        return _part("day_of_week", self, zone)

    def day_of_year(self, zone: str | None = None) -> Expr:
        """Return the day of the year, 1 to 366."""
        return _part("day_of_year", self, zone)

    def is_weekend(self, zone: str | None = None) -> Expr:
        """Return whether the day is a Saturday or a Sunday."""
        return _part("is_weekend", self, zone)

    def date(self, zone: str | None = None) -> Expr:
        """Return the calendar date."""
        return _part("date", self, zone)

    def truncate(self, unit: str, zone: str | None = None) -> Expr:
        """Return the instant at which a unit of the calendar began.

        Args:
            unit: ``second``, ``minute``, ``hour``, ``day``, ``week`` (from Monday), ``month``, ``quarter`` or ``year``.
            zone: The zone whose calendar is meant. A day that has no midnight there begins when its clock goes on.
        """
        instant, zone = _zone_of(self, zone)
        cut = _call("truncate", instant, unit=unit, zone=zone)
        return cut if zone == "UTC" else cut.in_zone(zone)

    def since(self, other: Any, unit: str = "second") -> Expr:
        """Return the time from another instant (or date) to this one, in a unit, as float64."""
        return _call("since", self, other, unit_us=_unit_us(unit))

    def shift(self, length: str | timedelta) -> Expr:
        """Return the instant moved by a fixed length of time; ``timedelta`` may be negative."""
        moved = length // timedelta(microseconds=1) if isinstance(length, timedelta) else duration_us(length)
        return _call("shift", self, by_us=moved)

    # Encodings.

    def hash_bucket(self, count: int) -> Expr:
        """Return one of ``count`` buckets, 0 to ``count - 1``, by a hash that is the same on every machine."""
        return _call("hash_bucket", self, count=count)

    def bucketize(self, edges: Sequence[float]) -> Expr:
        """Return how many of some ascending edges are not greater: 0 below the first, all from the last on."""
        return _call("bucketize", self, edges=tuple(float(edge) for edge in edges))


@dataclass(frozen=True, eq=False)
class When(Expr):
    """A choice without its last branch; null where no condition is true."""

    __hash__ = object.__hash__

    def when(self, condition: Any) -> Branch:
        """Add a condition, tested if none before it is true."""
        return Branch(self.args, to_expr(condition))

    def otherwise(self, value: Any) -> Expr:
        """Return the choice with its value where no condition is true."""
        return Expr("when", (*self.args, to_expr(value)))


@dataclass(frozen=True)
class Branch:
    """A condition that still needs its value."""

    before: tuple[Expr, ...]
    condition: Expr

    def then(self, value: Any) -> When:
        """Set the value for rows where the condition is true."""
        return When("when", (*self.before, self.condition, to_expr(value)))


def col(name: str) -> Expr:
    """Return a column of the source."""
    return Expr("column", params=(("name", name),))


def request(name: str) -> Expr:
    """Return a request input; for on-demand features."""
    return Expr("request", params=(("name", name),))


def as_of() -> Expr:
    """Return the instant asked about; for on-demand features."""
    return Expr("as_of")


def lit(value: Any) -> Expr:
    """Return a constant.

    Args:
        value: bool, int, float, str, an aware ``datetime``, ``date``, ``Decimal`` or ``bytes``.

    Raises:
        TypeError: The value is of another type.
        InstantError: A ``datetime`` has no time zone.
    """
    dtype, stored = _literal(value)
    return Expr("literal", params=(("dtype", dtype), ("value", stored)))


def _literal(value: Any) -> tuple[str, Any]:
    match value:
        case bool():
            return "bool", value
        case int():
            return "int64", value
        case float():
            return "float64", value
        case str():
            return "string", value
        case datetime():
            return "timestamp", instant_us(value, where="literal")
        case date():
            return "date", (value - _EPOCH).days
        case bytes():
            return "binary", value.hex()
        case Decimal() if value.is_finite():
            _, digits, exponent = value.as_tuple()
            scale = max(0, -int(exponent))
            whole = max(len(digits) + int(exponent), 0)
            return f"decimal({max(1, whole + scale)},{scale})", str(value)
    raise TypeError(
        f"{value!r} cannot be a constant: write a bool, int, float, str, aware datetime, date, Decimal or bytes"
    )


def when(condition: Any, value: Any = None) -> Any:
    """Begin a choice: ``when(c).then(x).otherwise(y)``, or shorter ``when(c, x).otherwise(y)``.

    A condition that is null counts as not true.
    """
    branch = Branch((), to_expr(condition))
    return branch if value is None else branch.then(value)


def coalesce(*values: Any) -> Expr:
    """Return the first of some values that is not null."""
    return _call("coalesce", *values)


def least(*values: Any) -> Expr:
    """Return the smallest of some values; null if any is null."""
    return _call("least", *values)


def greatest(*values: Any) -> Expr:
    """Return the largest of some values; null if any is null."""
    return _call("greatest", *values)


def concat(*values: Any) -> Expr:
    """Return texts joined; null if any is null."""
    return _call("concat", *values)


def to_expr(value: Any) -> Expr:
    """Return an expression unchanged, any other value as a constant."""
    return value if isinstance(value, Expr) else lit(value)


def _call(op: str, *operands: Any, **params: Any) -> Expr:
    return Expr(op, tuple(to_expr(operand) for operand in operands), tuple(sorted(params.items())))


def _zone_of(instant: Expr, zone: str | None) -> tuple[Expr, str]:
    """Return an instant and its zone: the argument, else that of ``in_zone``, else UTC."""
    if instant.op == "in_zone":
        return instant.args[0], zone or str(dict(instant.params)["zone"])
    return instant, zone or "UTC"


def _part(part: str, instant: Expr, zone: str | None) -> Expr:
    instant, zone = _zone_of(instant, zone)
    return _call(part, instant, zone=zone)


def _unit_us(unit: str) -> int | str:
    """Return a unit's length; an unknown one is kept as written, for the compiler to report."""
    return MICROSECONDS.get(_UNITS.get(unit.removesuffix("s") if len(unit) > 2 else unit, unit), unit)
