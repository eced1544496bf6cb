"""Frames in memory as Arrow tables: pandas, and whatever offers ``__arrow_c_stream__``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from featurestore.errors import SourceDataError, repeated

_ACCEPTED = "Give a pandas or Polars frame, a pyarrow table, a DuckDB relation, or anything with __arrow_c_stream__."


def frame_table(frame: Any, *, where: str) -> pa.Table:
    """Return a frame's columns as they are; a pandas index is left out.

    Args:
        frame: The frame. Polars' lazy frames are collected.
        where: What it is, for messages.

    Raises:
        SourceDataError: It is no frame, or a column holds values of several types.
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
    if twice := repeated(table.column_names):
        raise SourceDataError(
            f"the frame has two columns '{twice[0]}'", where=where, hint="Rename one.", code="duplicate-column"
        )
    return table.replace_schema_metadata(None)


def raw_names(frame: Any, *, where: str) -> tuple[str, ...]:
    """Return the names of a frame's columns.

    Raises:
        SourceDataError: It is no frame.
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
        SourceDataError: It is no frame, or two columns have one name.
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
    """Tell whether a pandas column can be read as Arrow."""
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
    """Tell whether a frame can be read only once."""
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
