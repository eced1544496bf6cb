"""Reading the spine, the rows to fill, from frames, files or SQL as one Arrow table.

Keys, request inputs and the instants get contract dtypes; other columns and the order of the rows stay.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featurestore.core.dtypes import (
    STRING,
    TIMESTAMP,
    DType,
    from_arrow,
    is_read_as,
)
from featurestore.core.errors import (
    SourceDataError,
    SpineError,
    listing,
    repeated,
)
from featurestore.core.temporal import EPOCH_UNITS, likely_unit
from featurestore.plan.model import Column, Plan
from featurestore.plan.names import AS_OF
from featurestore.sources.convert import guess_dtype, to_contract
from featurestore.sources.files import refuse_table
from featurestore.sources.frames import frame_table
from featurestore.storage.parquet import DAMAGE, INT96_UNIT

WHERE = "spine"

_USUAL_NAMES = ("event_timestamp", "timestamp", "datetime", "date", "ts", "time")
"""Names of the column of instants in other systems, the most usual first."""

_SQL_HINT = "Give SQL as SqlSpine(url='postgresql://…', query='SELECT …')."
_TABLE_HINT = "Read its rows with a reader of the format, and give the frame."
_KINDS = "Give a pandas or Polars frame, a pyarrow table, a DuckDB relation, the path of a Parquet file, or a SqlSpine."


@dataclass(frozen=True)
class SqlSpine:
    """A spine in a database.

    Attributes:
        url: SQLAlchemy URL.
        query: SQL text that returns the rows; without ``ORDER BY`` their order is the database's.
    """

    url: str
    query: str

    def __repr__(self) -> str:
        return f"SqlSpine(query={self.query!r})"


def read_spine(
    spine: Any, plan: Plan, *, as_of: str = AS_OF, as_of_unit: str | None = None, reserved: Iterable[str] = ()
) -> pa.Table:
    """Read a spine for a service.

    Args:
        spine: pandas or Polars frame (a lazy one is collected), pyarrow table or reader, DuckDB relation, anything with
            ``__arrow_c_stream__``, the path of a Parquet file or folder, or a ``SqlSpine``.
        plan: The service; it says which columns are keys and request inputs, and which names its outputs take.
        as_of: Column of the instants asked about. It keeps its name.
        as_of_unit: What that column's numbers count since 1970, ``"s"``, ``"ms"``, ``"us"`` or ``"ns"``; ``None``
            refuses numbers.
        reserved: Further names that the training set will have.

    Returns:
        The spine's columns in their order and exactly its rows in their order. Key columns and request inputs have
        their declared dtypes (integers of any width are taken, also for decimals; text never as a number), the
        instants are UTC microseconds (below that is cut off), other columns have the types they came with. A key may be
        null: nothing is known of it.

    Raises:
        SpineError: It cannot be read; a key, request or ``as_of`` column is missing or of another dtype; an instant is
            null or has no time zone; a name is taken twice, by two columns or by a column and an output.
    """
    table = _load(spine)
    _check_names(table, [*(output.name for output in plan.outputs), *reserved])
    if as_of not in table.column_names:
        raise _without_instants(as_of, table)
    typed = {as_of: _instants(table.column(as_of), as_of, as_of_unit)}
    for column in plan.join_keys:
        typed[column.name] = _typed(table, column, "an entity key")
    for column in plan.request:
        typed[column.name] = _typed(table, column, "a request input")
    columns = {name: typed[name] if name in typed else _storable(table.column(name)) for name in table.column_names}
    for name, column in columns.items():
        if name not in typed:
            _check_storable(pa.field(name, column.type))
    return pa.table(columns)


def _load(spine: Any) -> pa.Table:
    if isinstance(spine, SqlSpine):
        return _from_database(spine)
    if isinstance(spine, str | os.PathLike):
        return _from_files(spine)
    try:
        return frame_table(spine, where=WHERE)
    except SourceDataError as error:
        hint = error.hint if hasattr(spine, "__arrow_c_stream__") else _KINDS
        raise SpineError(error.problem, where=WHERE, hint=hint, code=error.code) from error


def _from_database(spine: SqlSpine) -> pa.Table:
    # SQLAlchemy is imported only where a database is read.
    from featurestore.sources.sql import SqlRows

    tables = list(SqlRows(spine.url, None, spine.query, WHERE).tables(None))
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        hint = "Cast the column in the query."
        raise SpineError(f"values of a column differ in type: {error}", where=WHERE, hint=hint) from error


def _from_files(path: str | os.PathLike[str]) -> pa.Table:
    text = os.fspath(path)
    if text.lstrip()[:7].upper().startswith(("SELECT ", "WITH ", "SELECT\n", "WITH\n")):
        raise SpineError("SQL text without a database", where=WHERE, hint=_SQL_HINT, code="unreadable-frame")
    if not Path(text).exists():
        hint = f"A text is the path of a Parquet file. {_SQL_HINT}"
        raise SpineError(f"the file '{text}' is not there", where=WHERE, hint=hint, code="unreadable-frame")
    try:
        refuse_table(Path(text).resolve(), WHERE)
    except SourceDataError as error:
        raise SpineError(error.problem, where=WHERE, hint=_TABLE_HINT, code=error.code) from error
    try:
        table = pq.read_table(text, coerce_int96_timestamp_unit=INT96_UNIT)
    except DAMAGE as error:
        reason = str(error).splitlines()[0]
        problem = f"the file '{text}' is not sound Parquet: {reason}"
        hint = "Read other formats with pandas or Polars and give the frame."
        raise SpineError(problem, where=WHERE, hint=hint, code="unreadable-frame") from error
    return table.replace_schema_metadata(None)


def _check_names(table: pa.Table, outputs: Sequence[str]) -> None:
    names = table.column_names
    if twice := repeated(names):
        raise SpineError(
            f"two columns are named '{twice[0]}'", where=WHERE, hint="Rename one.", code="duplicate-column"
        )
    if taken := [name for name in outputs if name in names]:
        raise SpineError(
            f"the column '{taken[0]}' has the name of a feature",
            where=WHERE,
            hint="Rename or drop it in the spine, or rename the feature in the service.",
            code="name-taken",
        )


def _missing(name: str, role: str, table: pa.Table, *, advice: str = "") -> SpineError:
    return SpineError(
        f"there is no column '{name}' ({role})",
        where=WHERE,
        hint=advice + listing("Columns", table.column_names, wrong=name),
        code="spine-column",
    )


def _without_instants(as_of: str, table: pa.Table) -> SpineError:
    instants = [field.name for field in table.schema if from_arrow(field.type) == TIMESTAMP]
    if not instants:
        return _missing(as_of, "the instants asked about", table)
    name = next((name for name in _USUAL_NAMES if name in instants), instants[0])
    advice = f"If '{name}' holds them, say as_of='{name}' (on the command line --as-of {name}). "
    return _missing(as_of, "the instants asked about", table, advice=advice)


def _instants(column: pa.ChunkedArray, name: str, unit: str | None) -> pa.Array:
    where = f"{WHERE}, column '{name}'"
    kind = column.type
    if unit is not None and unit not in EPOCH_UNITS:
        hint = f"Units: {', '.join(EPOCH_UNITS)}."
        raise SpineError(f"as_of_unit is {unit!r}", where=where, hint=hint, code="bad-option")
    dtype = from_arrow(kind)
    if unit is None and dtype != TIMESTAMP and not pa.types.is_null(kind):
        raise SpineError(
            f"the column holds {kind}, expected instants",
            where=where,
            hint=_instants_hint(column, name, dtype),
            code="wrong-dtype",
        )
    if column.null_count:
        raise SpineError(
            f"{column.null_count} of {len(column)} instants are null, the first in row {_first_null(column)}",
            where=where,
            hint="Every row of a spine needs the instant it asks about: drop the others.",
            code="null-as-of",
        )
    if pa.types.is_timestamp(kind) and kind.tz is None:
        raise SpineError(
            "the instants have no time zone",
            where=where,
            hint=f"Say which one they are in; in pandas: spine['{name}'] = spine['{name}'].dt.tz_localize('UTC').",
            code="naive-instant",
        )
    return _read(column, TIMESTAMP, where, epoch=unit)


def _instants_hint(column: pa.ChunkedArray, name: str, dtype: DType | None) -> str:
    """Return how to make instants of a column, in words that are right for what it holds."""
    frame = f"spine['{name}']"
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if dtype is not None and dtype.is_numeric:
        bounds = pc.min_max(column)
        known = [abs(bound.as_py()) for bound in (bounds["min"], bounds["max"]) if bound.is_valid]
        unit = likely_unit(max(known, default=0))
        return (
            f"If its numbers count {unit} since 1970, say as_of_unit='{unit}'. "
            f"In pandas: {frame} = pd.to_datetime({frame}, unit='{unit}', utc=True)."
        )
    has_zone = dtype == STRING and guess_dtype(column.combine_chunks().cast(pa.string())) == (TIMESTAMP, False)
    if has_zone:
        return f"In pandas: {frame} = pd.to_datetime({frame}, utc=True)."
    localized = f"{frame} = pd.to_datetime({frame}).dt.tz_localize('UTC')"
    return f"In pandas, with the zone that its times are in: {localized}."


def _typed(table: pa.Table, column: Column, role: str) -> pa.Array:
    if column.name not in table.column_names:
        raise _missing(column.name, role, table)
    found = table.column(column.name)
    where = f"{WHERE}, column '{column.name}'"
    kind = from_arrow(found.type)
    is_exact = kind is not None and column.dtype.kind == "decimal" and kind.kind in ("int64", "decimal")
    if not is_exact and not is_read_as(found.type, column.dtype):
        hint = f"Convert it; in pandas: spine['{column.name}'].astype('{_PANDAS.get(column.dtype.kind, 'object')}')."
        raise SpineError(
            f"the column holds {found.type}, expected {column.dtype} ({role})",
            where=where,
            hint=hint,
            code="wrong-dtype",
        )
    return _read(found, column.dtype, where)


_PANDAS = {"int64": "Int64", "float64": "float64", "string": "str", "bool": "boolean"}


def _read(column: pa.ChunkedArray, dtype: DType, where: str, epoch: str | None = None) -> pa.Array:
    try:
        array, _ = to_contract(column, dtype, timezone=None, where=where, epoch=epoch)
    except SourceDataError as error:
        raise SpineError(error.problem, where=where, hint=error.hint, code=error.code) from error
    return array


def _first_null(column: pa.ChunkedArray) -> int:
    return int(column.is_null().index(True).as_py())


def _storable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column that is only passed through as Parquet can hold it.

    Views of text become text, because Parquet of older Arrow has no type for them, and no dictionary may hold a null.
    """
    if pa.types.is_string_view(column.type):
        return column.cast(pa.large_string())
    if pa.types.is_binary_view(column.type):
        return column.cast(pa.large_binary())
    if not pa.types.is_dictionary(column.type) or not any(chunk.dictionary.null_count for chunk in column.chunks):
        return column
    return pa.chunked_array([chunk.dictionary_decode() for chunk in column.chunks])


def _check_storable(field: pa.Field) -> None:
    """Make sure, before any work, that Parquet has a type for a column that is only passed through."""
    try:
        pq.write_table(pa.schema([field]).empty_table(), pa.BufferOutputStream())
    except (pa.ArrowException, OSError) as error:
        raise SpineError(
            f"Parquet has no type for {field.type}",
            where=f"{WHERE}, column '{field.name}'",
            hint="Drop the column or convert it.",
            code="wrong-dtype",
        ) from error
