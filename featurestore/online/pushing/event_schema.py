"""Checking pushed events against the schema of their source, before anything of them is kept.

A push is taken whole or rejected whole, unless the caller wants what is good of it. What is wrong is said by row and
field. Values are read as requests are (``dtypes.read_value``): strictly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa

from featurestore.core.answers import RejectedRow
from featurestore.core.dtypes import (
    TIMESTAMP,
    DType,
    from_arrow,
    read_value,
    read_values,
)
from featurestore.core.errors import RequestError, SourceDataError, did_you_mean, json_pointer
from featurestore.core.temporal import epoch_us, to_datetime
from featurestore.core.values import read_column
from featurestore.definitions.sources import Source
from featurestore.plan.checks import epoch_units
from featurestore.plan.model import ViewPlan
from featurestore.sources import ingest_column
from featurestore.sources.frames import frame_table


@dataclass(frozen=True)
class EventSchema:
    """What a source's events must look like.

    Attributes:
        source: The definition.
        dtypes: The columns that can be pushed.
        epochs: Columns whose numbers count the time since 1970, with their units.
        unusable: Columns of the source of which the contract has no dtype.
        required: Columns that every event must have.
        not_null: Columns in which every event must have a value.
    """

    source: Source
    dtypes: Mapping[str, DType]
    epochs: Mapping[str, str]
    unusable: frozenset[str]
    required: frozenset[str]
    not_null: frozenset[str]

    @classmethod
    def of(cls, source: Source, schema: Mapping[str, DType | None], views: Iterable[ViewPlan]) -> EventSchema:
        """Find out what the views of a source need of its events.

        Args:
            source: The definition.
            schema: The source's columns.
            views: The views that read it.
        """
        ingest_time = ingest_column(source)
        times = {source.event_time} | ({source.event_id} if source.event_id is not None else set())
        read = {column.name for view in views for column in view.source.columns}
        keys = {key.name for view in views for key in view.entity.keys}
        return cls(
            source=source,
            dtypes={name: dtype for name, dtype in schema.items() if dtype is not None and name != ingest_time},
            epochs=epoch_units(source),
            unusable=frozenset(name for name, dtype in schema.items() if dtype is None),
            required=frozenset((times | read) - {ingest_time}),
            not_null=frozenset({source.event_time} | (keys if source.on_null == "error" else set())),
        )

    def read(self, events: Any, *, partial: bool) -> tuple[pa.Table, tuple[RejectedRow, ...]]:
        """Check events.

        Args:
            events: A list of mappings, or a frame.
            partial: Whether the good rows are wanted if others are bad.

        Returns:
            The good rows in contract dtypes, in their order; and the others.

        Raises:
            RequestError: A row is bad and ``partial`` is not asked for; ``field`` points at the first.
        """
        if isinstance(events, Sequence) and not isinstance(events, str | bytes):
            known = self._read_columns(events)
            return (known, ()) if known is not None else self._read_rows(events, partial=partial)
        try:
            table = frame_table(events, where="events")
            _check_sound(table)
        except SourceDataError as error:
            raise RequestError(error.problem, field="/events", hint=error.hint) from error
        columns = self._plain(table)
        if columns is not None:
            return columns, ()
        return self._read_rows(_rows(table), partial=partial)

    def _plain(self, table: pa.Table) -> pa.Table | None:
        """Return a frame in contract dtypes if it needs no look at single rows; else ``None``."""
        arrays = {}
        for name in table.column_names:
            dtype, kind = self.dtypes.get(name), table.schema.field(name).type
            if dtype is None or from_arrow(kind) != dtype or pa.types.is_dictionary(kind):
                return None
            if dtype == TIMESTAMP and kind.tz is None:
                return None
            try:
                arrays[name] = read_column(table.column(name), dtype, None, f"column '{name}'")[0]
            except SourceDataError:
                return None
        return self._whole(arrays)

    def _read_columns(self, rows: Sequence[Any]) -> pa.Table | None:
        """Return rows of the same fields with nothing wrong in any; else ``None``, for row by row it can be said."""
        if not rows or not all(isinstance(row, Mapping) for row in rows):
            return None
        names = rows[0].keys()
        if not names <= self.dtypes.keys() or any(row.keys() != names for row in rows):
            return None
        try:
            arrays = {name: read_values(self.dtypes[name], [row[name] for row in rows]) for name in sorted(names)}
        except ValueError:
            return None
        return self._whole(arrays)

    def _whole(self, arrays: Mapping[str, pa.Array]) -> pa.Table | None:
        """Return columns as events if none lacks what every event must have; else ``None``."""
        if not self.required <= arrays.keys() or any(arrays[name].null_count for name in self.not_null):
            return None
        return pa.table(dict(arrays))

    def _read_rows(self, rows: Sequence[Any], *, partial: bool) -> tuple[pa.Table, tuple[RejectedRow, ...]]:
        good: list[dict[str, Any]] = []
        bad: list[RejectedRow] = []
        for number, row in enumerate(rows):
            read = self._read_row(number, row)
            if isinstance(read, RejectedRow):
                bad.append(read)
            else:
                good.append(read)
        if bad and not partial:
            raise _rejection(bad, len(rows))
        names = sorted({name for row in good for name in row} | self.required)
        arrays = [pa.array([row.get(name) for row in good], type=self.dtypes[name].arrow) for name in names]
        return pa.table(arrays, names=names), tuple(bad)

    def _read_row(self, number: int, row: Any) -> dict[str, Any] | RejectedRow:
        """Read one event, or say what is wrong with it."""
        if not isinstance(row, Mapping):
            return RejectedRow(number, "", f"got {type(row).__name__}, expected an object")
        read = {}
        for name, value in row.items():
            dtype = self.dtypes.get(name)
            if dtype is None:
                return RejectedRow(number, str(name), self._why_not(name))
            if isinstance(value, _OutOfRange):
                return RejectedRow(number, name, f"{value.said}, expected {dtype}")
            if name in self.epochs and isinstance(value, int | float) and not isinstance(value, bool):
                value = self._instant(name, value)  # noqa: PLW2901  # as the source declares it
            try:
                read[name] = read_value(dtype, value)
            except (ValueError, OverflowError) as error:
                return RejectedRow(number, name, str(error))
        if missing := sorted(self.required - read.keys()):
            return RejectedRow(number, missing[0], "it is missing; a value that is not known is null")
        if empty := sorted(name for name in self.not_null if read[name] is None):
            return RejectedRow(number, empty[0], "it is null")
        return read

    def _instant(self, name: str, value: int | float) -> Any:
        """Return the instant that a number of time since 1970 stands for; what is none stays what it is."""
        number = value if isinstance(value, int) else Decimal(repr(value))
        instant = epoch_us(number, self.epochs[name]) if math.isfinite(number) else None
        return value if instant is None else to_datetime(instant)

    def _why_not(self, name: Any) -> str:
        if name == ingest_column(self.source):
            return "the log says itself when an event became known; leave it out"
        if name in self.unusable:
            return "the column's type has no dtype; leave it out"
        return f"the source has no such column. {did_you_mean(str(name), self.dtypes)}".rstrip()


@dataclass(frozen=True)
class _OutOfRange:
    """Stands for a value of a frame that Python has no value for, such as a date after the year 9999."""

    said: str


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of a frame, to be looked at one by one."""
    columns = [_values(column) for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: pa.ChunkedArray) -> list[Any]:
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):
        return _OutOfRange(f"the value {scalar.type} is out of range")


def _check_sound(table: pa.Table) -> None:
    """Make sure that a frame is what its types say, to the last byte of its text.

    Raises:
        SourceDataError: It is not.
    """
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowException as error:
            hint = "Nothing was taken. Write the frame anew; text is UTF-8."
            raise SourceDataError(f"column '{name}' is no sound Arrow data: {error}", hint=hint) from error


def _rejection(bad: Sequence[RejectedRow], count: int) -> RequestError:
    first = bad[0]
    more = f"; {len(bad)} of {count} rows are bad" if len(bad) > 1 else ""
    field = json_pointer("events", first.row, *([first.field] if first.field else []))
    return RequestError(
        f"{first.problem}{more}",
        field=field,
        hint="Nothing was taken. Correct the rows, or ask for partial=true to have the good ones taken.",
        code="rejected-events",
    )
