"""Validation of pushed events against the schema of their source, before any event is stored.

A push is accepted or rejected as a whole, unless the caller wants the valid rows accepted. Errors name row and field.
Values are read as strictly as those of requests (``dtypes.read_value``).
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
    """The schema of a source's events.

    Attributes:
        source: The definition.
        dtypes: The columns that can be pushed.
        epochs: Columns whose numbers count time units since 1970, with these units.
        unusable: Columns of the source whose types have no dtype.
        required: Columns that every event must have.
        not_null: Columns that must not be null.
    """

    source: Source
    dtypes: Mapping[str, DType]
    epochs: Mapping[str, str]
    unusable: frozenset[str]
    required: frozenset[str]
    not_null: frozenset[str]

    @classmethod
    def of(cls, source: Source, schema: Mapping[str, DType | None], views: Iterable[ViewPlan]) -> EventSchema:
        """Derive the schema from a source and the views that read it.

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
            partial: Whether to accept the valid rows if others are invalid.

        Returns:
            The valid rows in contract dtypes, in their order; and the invalid rows.

        Raises:
            RequestError: A row is invalid and ``partial`` is false; ``field`` points at the first one.
        """
        if isinstance(events, Sequence) and not isinstance(events, str | bytes):
            table = self._read_columns(events)
            return (table, ()) if table is not None else self._read_rows(events, partial=partial)
        try:
            table = frame_table(events, where="events")
            _check_sound(table)
        except SourceDataError as error:
            raise RequestError(error.problem, field="/events", hint=error.hint) from error
        valid = self._convert(table)
        if valid is not None:
            return valid, ()
        return self._read_rows(_rows(table), partial=partial)

    def _convert(self, table: pa.Table) -> pa.Table | None:
        """Convert a frame to contract dtypes column by column; ``None`` if its rows must be checked one by one."""
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
        return self._complete(arrays)

    def _read_columns(self, rows: Sequence[Any]) -> pa.Table | None:
        """Read rows column by column; ``None`` if a row is invalid or differs in its fields."""
        if not rows or not all(isinstance(row, Mapping) for row in rows):
            return None
        names = rows[0].keys()
        if not names <= self.dtypes.keys() or any(row.keys() != names for row in rows):
            return None
        try:
            arrays = {name: read_values(self.dtypes[name], [row[name] for row in rows]) for name in sorted(names)}
        except ValueError:
            return None
        return self._complete(arrays)

    def _complete(self, arrays: Mapping[str, pa.Array]) -> pa.Table | None:
        """Return columns as a table of events; ``None`` if required columns or values are missing."""
        if not self.required <= arrays.keys() or any(arrays[name].null_count for name in self.not_null):
            return None
        return pa.table(dict(arrays))

    def _read_rows(self, rows: Sequence[Any], *, partial: bool) -> tuple[pa.Table, tuple[RejectedRow, ...]]:
        valid: list[dict[str, Any]] = []
        rejected: list[RejectedRow] = []
        for number, row in enumerate(rows):
            event = self._read_row(number, row)
            if isinstance(event, RejectedRow):
                rejected.append(event)
            else:
                valid.append(event)
        if rejected and not partial:
            raise _rejection(rejected, len(rows))
        names = sorted({name for event in valid for name in event} | self.required)
        arrays = [pa.array([event.get(name) for event in valid], type=self.dtypes[name].arrow) for name in names]
        return pa.table(arrays, names=names), tuple(rejected)

    def _read_row(self, number: int, row: Any) -> dict[str, Any] | RejectedRow:
        """Read one event; return a ``RejectedRow`` if it is invalid."""
        if not isinstance(row, Mapping):
            return RejectedRow(number, "", f"got {type(row).__name__}, expected an object")
        event = {}
        for name, value in row.items():
            dtype = self.dtypes.get(name)
            if dtype is None:
                return RejectedRow(number, str(name), self._why_refused(name))
            if isinstance(value, _OutOfRange):
                return RejectedRow(number, name, f"{value.problem}, expected {dtype}")
            if name in self.epochs and isinstance(value, int | float) and not isinstance(value, bool):
                value = self._instant(name, value)  # noqa: PLW2901  # as the source declares it
            try:
                event[name] = read_value(dtype, value)
            except (ValueError, OverflowError) as error:
                return RejectedRow(number, name, str(error))
        if missing := sorted(self.required - event.keys()):
            return RejectedRow(number, missing[0], "it is missing; use null for an unknown value")
        if empty := sorted(name for name in self.not_null if event[name] is None):
            return RejectedRow(number, empty[0], "it is null")
        return event

    def _instant(self, name: str, value: int | float) -> Any:
        """Return the instant of a number that counts time units since 1970; a number out of range is returned as is."""
        number = value if isinstance(value, int) else Decimal(repr(value))
        instant = epoch_us(number, self.epochs[name]) if math.isfinite(number) else None
        return value if instant is None else to_datetime(instant)

    def _why_refused(self, name: Any) -> str:
        if name == ingest_column(self.source):
            return f"do not send '{name}': the log sets the ingest time itself"
        if name in self.unusable:
            return "the column's type has no dtype; leave it out"
        return f"the source has no such column. {did_you_mean(str(name), self.dtypes)}".rstrip()


@dataclass(frozen=True)
class _OutOfRange:
    """Stands for a value of a frame that Python cannot represent, such as a date after the year 9999."""

    problem: str


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of a frame as mappings."""
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
            hint = "No event was accepted. Write the frame again; text is UTF-8."
            raise SourceDataError(f"column '{name}' holds damaged Arrow data: {error}", hint=hint) from error


def _rejection(rejected: Sequence[RejectedRow], count: int) -> RequestError:
    first = rejected[0]
    more = f"; {len(rejected)} of {count} rows are invalid" if len(rejected) > 1 else ""
    field = json_pointer("events", first.row, *([first.field] if first.field else []))
    return RequestError(
        f"{first.problem}{more}",
        field=field,
        hint="No event was accepted. Correct the rows, or set partial=true to accept the valid ones.",
        code="rejected-events",
    )
