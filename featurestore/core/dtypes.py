"""The dtypes a feature, a key or a column may have, and the reading of single values from outside into them.

A dtype is a small frozen name; the Arrow type behind it is looked up only when Arrow is needed. The module must not
know expressions, sources or kernels.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Context, Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from featurestore.core.errors import InstantError, listing
from featurestore.core.temporal import (
    format_instant,
    instant_us,
    to_datetime,
    within_years,
)

if TYPE_CHECKING:
    import pyarrow as pa

_SIMPLE = ("bool", "int64", "float64", "string", "timestamp", "date", "binary")
_ALIASES = {"int": "int64", "float": "float64", "str": "string", "bytes": "binary", "datetime": "timestamp"}
_DECIMAL = re.compile(r"decimal\((\d+),\s*(\d+)\)")
_EPOCH = re.compile(r"timestamp\[(s|ms|us|ns)\]")
_LIST = re.compile(r"list<(.+)>")
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class DType:
    """One dtype of the contract.

    Attributes:
        kind: ``bool``, ``int64``, ``float64``, ``string``, ``timestamp`` (UTC microseconds), ``date``, ``binary``,
            ``decimal`` or ``list``.
        precision: Digits of a decimal, 1 to 38; 0 otherwise.
        scale: Digits after the point of a decimal; 0 otherwise.
        item: The dtype of a list's items; ``None`` otherwise.
        is_ordered: Whether the values are categories that have an order of their own, which is not that of their text.
            It changes no value, so it is no part of a dtype's name or equality; what would sort such values is refused.
    """

    kind: str
    precision: int = 0
    scale: int = 0
    item: DType | None = None
    is_ordered: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        if self.kind == "decimal":
            return f"decimal({self.precision},{self.scale})"
        if self.kind == "list":
            return f"list<{self.item}>"
        return self.kind

    @property
    def is_numeric(self) -> bool:
        """Whether arithmetic is defined: int64, float64 and decimal."""
        return self.kind in ("int64", "float64", "decimal")

    @property
    def arrow(self) -> pa.DataType:
        """The Arrow type that columns of this dtype have everywhere inside the library."""
        import pyarrow as pa

        if self.kind == "decimal":
            return pa.decimal128(self.precision, self.scale)
        if self.kind == "list":
            assert self.item is not None
            return pa.list_(self.item.arrow)
        simple: dict[str, pa.DataType] = {
            "bool": pa.bool_(),
            "int64": pa.int64(),
            "float64": pa.float64(),
            "string": pa.string(),
            "timestamp": pa.timestamp("us", tz="UTC"),
            "date": pa.date32(),
            "binary": pa.binary(),
        }
        return simple[self.kind]


BOOL = DType("bool")
INT64 = DType("int64")
FLOAT64 = DType("float64")
STRING = DType("string")
TIMESTAMP = DType("timestamp")
DATE = DType("date")
BINARY = DType("binary")


def list_of(item: DType) -> DType:
    """Return the dtype of lists of ``item``."""
    return DType("list", item=item)


def parse_dtype(text: str | DType) -> DType:
    """Read a dtype from its name, the inverse of ``str(dtype)``; common aliases (``int``, ``float``, ``str``) work.

    Raises:
        ValueError: The text is not the name of a dtype.

    Example:
        >>> str(parse_dtype("list<decimal(10, 2)>"))
        'list<decimal(10,2)>'
    """
    if isinstance(text, DType):
        return text
    name = _ALIASES.get(text, text)
    if name in _SIMPLE:
        return DType(name)
    if (match := _DECIMAL.fullmatch(name)) and 1 <= int(match[1]) <= 38 and int(match[2]) <= int(match[1]):
        return DType("decimal", precision=int(match[1]), scale=int(match[2]))
    if match := _LIST.fullmatch(name):
        return list_of(parse_dtype(match[1]))
    known = (*_SIMPLE, "decimal(precision,scale)", "list<item>")
    raise ValueError(f"'{text}' is not a dtype. {listing('Dtypes', known, wrong=text)}")


def parse_declared(text: str | DType) -> tuple[DType, str | None]:
    """Read a dtype that a source declares for a column, and the unit of time that its numbers count since 1970.

    Args:
        text: What ``parse_dtype`` reads; or ``"timestamp[s]"``, ``"timestamp[ms]"``, ``"timestamp[us]"`` or
            ``"timestamp[ns]"`` for a column of numbers that stand for instants.

    Returns:
        The dtype, and the unit; ``None`` for a dtype without one.

    Raises:
        ValueError: The text is not the name of a dtype.

    Example:
        >>> parse_declared("timestamp[ms]")[1]
        'ms'
    """
    if isinstance(text, str) and (match := _EPOCH.fullmatch(text)):
        return DType("timestamp"), match[1]
    return parse_dtype(text), None


def from_arrow(arrow: pa.DataType) -> DType | None:
    """Return the dtype that columns of an Arrow type are read as, ``None`` if the contract has none for it.

    Integers of every width become int64, floats float64, timestamps of every unit and zone UTC microseconds,
    dictionaries the dtype of their values, which is marked if their categories have an order.
    """
    import pyarrow.types as kinds

    if kinds.is_dictionary(arrow):
        values = from_arrow(arrow.value_type)
        return replace(values, is_ordered=True) if arrow.ordered and values is not None else values
    if is_list_layout(arrow):
        item = from_arrow(arrow.value_type)
        return None if item is None else list_of(item)
    if kinds.is_decimal(arrow) and arrow.precision <= 38 and 0 <= arrow.scale <= arrow.precision:
        return DType("decimal", precision=arrow.precision, scale=arrow.scale)
    table = (
        (kinds.is_boolean, BOOL),
        (kinds.is_integer, INT64),
        (kinds.is_floating, FLOAT64),
        (kinds.is_string, STRING),
        (kinds.is_large_string, STRING),
        (kinds.is_string_view, STRING),
        (kinds.is_timestamp, TIMESTAMP),
        (kinds.is_date, DATE),
        (kinds.is_binary, BINARY),
        (kinds.is_large_binary, BINARY),
        (kinds.is_binary_view, BINARY),
        (kinds.is_fixed_size_binary, BINARY),
    )
    return next((dtype for matches, dtype in table if matches(arrow)), None)


def is_list_layout(arrow: pa.DataType) -> bool:
    """Return whether an Arrow type is one of those that hold lists: plain, large, of a fixed size, or views."""
    import pyarrow.types as kinds

    return bool(
        kinds.is_list(arrow)
        or kinds.is_large_list(arrow)
        or kinds.is_fixed_size_list(arrow)
        or kinds.is_list_view(arrow)
        or kinds.is_large_list_view(arrow)
    )


def is_read_as(arrow: pa.DataType, dtype: DType) -> bool:
    """Return whether columns of an Arrow type are read as a dtype; columns and lists of nulls alone are read as any."""
    import pyarrow.types as kinds

    if kinds.is_null(arrow):
        return True
    if kinds.is_dictionary(arrow):
        return is_read_as(arrow.value_type, dtype)
    if is_list_layout(arrow) and dtype.item is not None:
        return is_read_as(arrow.value_type, dtype.item)
    return from_arrow(arrow) == dtype


def holds_nulls_alone(arrow: pa.DataType) -> bool:
    """Return whether an Arrow type says nothing about values: ``null``, or lists of it."""
    import pyarrow.types as kinds

    if kinds.is_dictionary(arrow) or is_list_layout(arrow):
        return holds_nulls_alone(arrow.value_type)
    return bool(kinds.is_null(arrow))


class Schema(dict[str, DType | None]):
    """Columns of a source with their dtypes; ``None`` for a type that the contract has no dtype for.

    Attributes:
        types: The types of such columns, as the source names them.
    """

    def __init__(self, dtypes: Mapping[str, DType | None], types: Mapping[str, str] | None = None) -> None:
        """Store the columns, and the types of those without a dtype as far as they are known."""
        super().__init__(dtypes)
        known = types if types is not None else getattr(dtypes, "types", {})
        self.types: Mapping[str, str] = {name: known[name] for name in known if self.get(name, BOOL) is None}


def read_value(dtype: DType, value: Any) -> Any:
    """Read one outside value (from JSON or Python) as a dtype, strictly: ``"1"`` is not 1 and 1 is not True.

    Integers are taken as floats, ISO 8601 text as timestamps and dates, text or integers as decimals, base64 text as
    binary. Floats that are not finite become ``None``, negative zero becomes zero, also of decimals, as at every
    boundary. Numbers of NumPy and missing values of pandas are what ``plain`` makes of them.

    Args:
        dtype: What the value should be.
        value: The value; ``None`` stays ``None``.

    Returns:
        bool, int, float, str, aware UTC ``datetime``, ``date``, ``Decimal``, ``bytes`` or a list of these.

    Raises:
        ValueError: The value is not of the dtype; the message has the value and the expected dtype.
    """
    if value is None:
        return None
    try:
        read = _READERS[dtype.kind](dtype, value)
    except (InstantError, InvalidOperation, binascii.Error) as error:
        raise ValueError(f"got {value!r}, expected {dtype}: {error}") from None
    if read is not _WRONG:
        return read
    simple = plain(value)
    if simple is value:
        raise ValueError(f"got {type(value).__name__} {value!r}, expected {dtype}")
    return read_value(dtype, simple)


def plain(value: Any) -> Any:
    """Return a number of NumPy as Python's, exactly, and a missing value of pandas as ``None``; others unchanged."""
    pandas, numpy = sys.modules.get("pandas"), sys.modules.get("numpy")
    if pandas is not None and (value is pandas.NA or value is pandas.NaT):
        return None
    if numpy is not None and isinstance(value, numpy.bool_ | numpy.integer | numpy.floating):
        simple = value.item()
        return value if type(simple) is type(value) else simple
    return value


def argument_text(value: Any) -> str:
    """Write a value as the arguments of commands are written: text that is read back as the same value.

    Example:
        >>> argument_text(True), argument_text([1, None]), argument_text(date(2026, 2, 28))
        ('true', '[1, null]', '2026-02-28')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return format_instant(instant_us(value))
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, bool | float | list):
        return json.dumps(value, ensure_ascii=False, default=argument_text)
    return str(value)


def literal(value: Any) -> str:
    """Write a value as definitions are written, where ``date``, ``datetime``, ``UTC`` and ``Decimal`` are imported.

    Example:
        >>> literal(Decimal("0.00")), literal("card"), literal(date(2026, 2, 28))
        ('Decimal("0.00")', '"card"', 'date(2026, 2, 28)')
    """
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Decimal):
        return f'Decimal("{value}")'
    if isinstance(value, datetime):
        return repr(value.astimezone(UTC)).removeprefix("datetime.").replace("datetime.timezone.utc", "UTC")
    if isinstance(value, date):
        return repr(value).removeprefix("datetime.")
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    return repr(value)


def read_values(dtype: DType, values: Sequence[Any]) -> pa.Array:
    """Read a column of outside values, each as ``read_value`` does.

    Raises:
        ValueError: One of them is not of the dtype; the error of ``read_value`` explains it.
    """
    import pyarrow as pa

    if (alike := _read_alike(dtype, values)) is not None:
        return alike
    read = _read_instant if dtype.kind == "timestamp" else _READERS[dtype.kind]
    try:
        items = [None if value is None else read(dtype, value) for value in values]
    except (InstantError, InvalidOperation, binascii.Error) as error:
        raise ValueError(f"expected {dtype}: {error}") from None
    if any(value is _WRONG for value in items):
        simple = [plain(value) for value in values]
        if all(new is old for new, old in zip(simple, values, strict=True)):
            raise ValueError(f"expected {dtype}")
        return read_values(dtype, simple)
    if dtype.kind == "timestamp":
        return pa.array(items, pa.int64()).cast(dtype.arrow)
    return pa.array(items, dtype.arrow)


def _read_alike(dtype: DType, values: Sequence[Any]) -> pa.Array | None:
    """Read a column at once if all values are of the very type that the dtype has in Python, instants in UTC.

    Returns:
        What ``read_values`` would return; ``None`` if the values must be looked at one by one.
    """
    import pyarrow as pa

    known = [value for value in values if value is not None]
    if {type(value) for value in known} != {_PLAIN_TYPES.get(dtype.kind)}:
        return None
    if dtype.kind == "timestamp" and not all(value.tzinfo is UTC for value in known):
        return None
    if dtype.kind == "float64":
        values = [None if value is None else _finite(value) for value in values]
    try:
        return pa.array(values, dtype.arrow)
    except (OverflowError, ValueError):
        return None


_PLAIN_TYPES = {"bool": bool, "int64": int, "float64": float, "string": str, "timestamp": datetime}
_WRONG = object()


def _read_bool(_: DType, value: Any) -> Any:
    return value if isinstance(value, bool) else _WRONG


def _read_int(_: DType, value: Any) -> Any:
    return value if isinstance(value, int) and not isinstance(value, bool) and value in _INT64 else _WRONG


def _read_float(_: DType, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _WRONG
    try:
        number = float(value)
    except OverflowError:
        return _WRONG
    return _finite(number)


def _finite(number: float) -> float | None:
    """Return a float as the contract has it: zero has no sign, and what is not finite is null."""
    return number + 0.0 if math.isfinite(number) else None


def _read_string(_: DType, value: Any) -> Any:
    if not isinstance(value, str):
        return _WRONG
    return value if value.isascii() or _is_unicode(value) else _WRONG


def _is_unicode(value: str) -> bool:
    """Return whether text can be stored: lone surrogates, which JSON can spell, cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_timestamp(dtype: DType, value: Any) -> Any:
    instant = _read_instant(dtype, value)
    return instant if instant is _WRONG else to_datetime(instant)


def _read_instant(_: DType, value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, datetime) and value == value):  # noqa: PLR0124  # NaT is not
        return within_years(instant_us(value))
    return _WRONG


def _read_date(_: DType, value: Any) -> Any:
    if isinstance(value, str):
        try:
            return date.fromisoformat(value)
        except ValueError:
            return _WRONG
    return value if isinstance(value, date) and not isinstance(value, datetime) else _WRONG


def _read_binary(_: DType, value: Any) -> Any:
    if isinstance(value, str):
        return base64.b64decode(value, validate=True)
    return value if isinstance(value, bytes) else _WRONG


def _read_decimal(dtype: DType, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return _WRONG
    number = Decimal(value)
    if not number.is_finite():
        return None
    exact = number.quantize(Decimal(1).scaleb(-dtype.scale), context=_EXACT)
    exact = exact.copy_abs() if exact.is_zero() else exact
    return exact if exact == number and len(exact.as_tuple().digits) <= dtype.precision else _WRONG


def _read_list(dtype: DType, value: Any) -> Any:
    if not isinstance(value, list | tuple) or dtype.item is None:
        return _WRONG
    return [read_value(dtype.item, item) for item in value]


_EXACT = Context(prec=60)

_READERS = {
    "bool": _read_bool,
    "int64": _read_int,
    "float64": _read_float,
    "string": _read_string,
    "timestamp": _read_timestamp,
    "date": _read_date,
    "binary": _read_binary,
    "decimal": _read_decimal,
    "list": _read_list,
}
