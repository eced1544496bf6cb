"""Frames in memory as Arrow tables: pandas, and whatever offers ``__arrow_c_stream__``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa

from featurestore.core.dtypes import (
    DType,
    from_arrow,
    list_of,
    read_value,
    read_values,
)
from featurestore.core.errors import SourceDataError, repeated
from featurestore.sources.convert import article
from featurestore.sources.rows import WIDE_DECIMAL

_ACCEPTED = "Give a pandas or Polars frame, a pyarrow table, a DuckDB relation, or anything with __arrow_c_stream__."


def frame_table(frame: Any, *, where: str) -> pa.Table:
    """Return a frame's columns as they are; a pandas index is left out.

    Args:
        frame: The frame. Polars' lazy frames are collected.
        where: What it is, for messages.

    Raises:
        SourceDataError: It is not a frame, or a column holds values of several types.
    """
    try:
        table = _table(frame, where)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, SourceDataError):
            raise
        reason = " ".join(str(part) for part in error.args) or type(error).__name__
        raise SourceDataError(
            f"the frame cannot be read as Arrow: {reason}",
            where=where,
            hint="Make every column hold values of one type.",
            code="unreadable-frame",
        ) from error
    _check_names(table.column_names, where)
    return table.replace_schema_metadata(None)


def _check_names(names: Sequence[str], where: str) -> None:
    if twice := repeated(names):
        raise SourceDataError(
            f"the frame has two columns '{twice[0]}'", where=where, hint="Rename one.", code="duplicate-column"
        )


def source_table(frame: Any, dtypes: Mapping[str, DType], *, where: str) -> tuple[pa.Table, dict[str, SourceDataError]]:
    """Return a frame's columns as a source reads them, with types that do not depend on the rows.

    pandas' columns of Python objects have no type of their own. Those of ``Decimal`` become ``decimal(38,18)``,
    whatever their digits, unless a dtype is declared. Those of values of several types are read one by one as the
    declared dtype; without one they have no type.

    Args:
        frame: The frame.
        dtypes: Declared dtypes of columns.
        where: What it is, for messages.

    Returns:
        The columns; and by name those of which some value is not of the column's dtype, with the error for views that
        use them.

    Raises:
        SourceDataError: It is not a frame.
    """
    is_object = [_holds_objects(frame.iloc[:, i]) for i in range(frame.shape[1])] if _is_pandas(frame) else []
    if not any(is_object):
        return frame_table(frame, where=where), {}
    typed = frame_table(frame.loc[:, [not untyped for untyped in is_object]], where=where)
    columns = dict(zip(typed.column_names, typed.columns, strict=True))
    names = [name for name, untyped in zip(frame.columns, is_object, strict=True) if untyped]
    _check_names([*typed.column_names, *names], where)
    unreadable: dict[str, SourceDataError] = {}
    for name in names:
        try:
            columns[name] = _object_column(frame[name].astype(object), dtypes.get(name), f"{where}, column '{name}'")
        except _UnreadableError as error:
            columns[name] = pa.nulls(len(frame), error.dtype.arrow)
            unreadable[name] = error.reason
    return pa.table({name: columns[name] for name in frame.columns}), unreadable


class _UnreadableError(Exception):
    """A column of which some value is not of its dtype."""

    def __init__(self, dtype: DType, reason: SourceDataError) -> None:
        super().__init__(str(reason))
        self.dtype = dtype
        self.reason = reason


def _holds_objects(series: Any) -> bool:
    """Return whether a pandas column holds Python objects, or decimals as categories."""
    if str(series.dtype) == "category":
        return any(isinstance(value, Decimal) for value in series.cat.categories)
    return str(series.dtype) == "object"


def _object_column(series: Any, dtype: DType | None, where: str) -> pa.Array:
    """Return a pandas column of Python objects."""
    try:
        array = pa.array(series, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        array = None
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    inferred = None if array is None else from_arrow(array.type)
    if array is None or pa.types.is_decimal(array.type):
        inferred = WIDE_DECIMAL if _holds_decimals(_values(series)) else None
    elif inferred is not None and inferred.item is not None:
        inferred = _widened(inferred)
    if array is not None and (inferred is None or inferred == from_arrow(array.type)):
        return array
    wanted = dtype or inferred
    return pa.nulls(len(series)) if wanted is None else _one_by_one(series, wanted, where)


def _holds_decimals(values: Sequence[Any]) -> bool:
    """Return whether values are ``Decimal`` objects, whole numbers among them or not."""
    known = [value for value in values if value is not None]
    is_number = (isinstance(value, Decimal | int) and not isinstance(value, bool) for value in known)
    return any(isinstance(value, Decimal) for value in known) and all(is_number)


def _widened(dtype: DType) -> DType:
    """Return a dtype of lists of which the decimals, if it has any, are the widest."""
    if dtype.item is None:
        return WIDE_DECIMAL if dtype.kind == "decimal" else dtype
    return list_of(_widened(dtype.item))


def _one_by_one(series: Any, dtype: DType, where: str) -> pa.Array:
    """Read Python objects as a dtype, or raise naming the first that is not one."""
    values = _values(series)
    row = next((row for row, value in enumerate(values) if not _is_readable(dtype, value)), None)
    if row is None:
        return read_values(dtype, values)
    hint = "Correct the row, convert the column, or declare in dtypes={…} a dtype that all rows have."
    problem = f"row {row} holds {values[row]!r}, which is not {article(dtype)} {dtype}"
    raise _UnreadableError(dtype, SourceDataError(problem, where=where, hint=hint, code="wrong-dtype"))


def _is_readable(dtype: DType, value: Any) -> bool:
    try:
        read_value(dtype, value)
    except (ValueError, OverflowError):
        return False
    return not (isinstance(value, Decimal) and not value.is_finite())


def raw_names(frame: Any, *, where: str) -> tuple[str, ...]:
    """Return the names of a frame's columns.

    Raises:
        SourceDataError: It is not a frame.
    """
    if _is_pandas(frame):
        return tuple(str(name) for name in frame.columns)
    return tuple(frame_table(frame, where=where).column_names)


def raw_columns(frame: Any, columns: Sequence[str], *, where: str) -> pa.Table:
    """Return some columns of a frame as they are; a pandas column that holds values of several types becomes text.

    Args:
        frame: The frame.
        columns: Columns that it has.
        where: What it is, for messages.

    Raises:
        SourceDataError: It is not a frame, or two columns have one name.
    """
    if not _is_pandas(frame):
        return frame_table(frame, where=where).select(list(columns))
    chosen = frame.loc[:, list(columns)]
    mixed = [name for place, name in enumerate(chosen.columns) if not _is_of_one_type(chosen.iloc[:, place])]
    if mixed:
        texts = {name: [None if value is None else str(value) for value in _values(chosen[name])] for name in mixed}
        chosen = chosen.assign(**texts)
    return frame_table(chosen, where=where)


def _is_of_one_type(series: Any) -> bool:
    """Return whether a pandas column can be read as Arrow."""
    try:
        pa.array(series, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False
    return True


def _values(series: Any) -> list[Any]:
    """Return the values of a pandas column, ``None`` for what it takes for missing."""
    return [None if missing else value for value, missing in zip(series, series.isna(), strict=True)]


def _is_pandas(frame: Any) -> bool:
    return type(frame).__module__.partition(".")[0] == "pandas" and hasattr(frame, "columns")


def is_single_use(frame: Any) -> bool:
    """Return whether a frame can be read only once."""
    return isinstance(frame, pa.RecordBatchReader)


def _table(frame: Any, where: str) -> pa.Table:
    if isinstance(frame, pa.Table):
        return frame
    if isinstance(frame, pa.RecordBatch):
        return pa.Table.from_batches([frame])
    if isinstance(frame, pa.RecordBatchReader):
        return frame.read_all()
    if _is_pandas(frame):
        if wrong := [name for name in frame.columns if not isinstance(name, str)]:
            raise SourceDataError(
                f"the frame has a column named {wrong[0]!r}",
                where=where,
                hint="Column names are text: frame.columns = frame.columns.astype(str).",
                code="unreadable-frame",
            )
        return pa.Table.from_pandas(frame, preserve_index=False)
    if type(frame).__module__.partition(".")[0] == "polars" and hasattr(frame, "collect"):
        frame = frame.collect()
    if not hasattr(frame, "__arrow_c_stream__"):
        raise SourceDataError(
            f"got {type(frame).__name__}, expected a frame", where=where, hint=_ACCEPTED, code="unreadable-frame"
        )
    return pa.RecordBatchReader.from_stream(frame).read_all()
