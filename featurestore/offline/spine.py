"""The spine: the rows to fill, from whatever holds them to one Arrow table.

Keys, request inputs and the instants come out in contract dtypes, everything else untouched, in the spine's row order.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.dtypes import TIMESTAMP, DType, from_arrow
from featurestore.errors import SourceDataError, SpineError, listing, repeated
from featurestore.plan.model import Column, Plan
from featurestore.sources.convert import to_contract
from featurestore.sources.frames import frame_table
from featurestore.sources.parquet import DAMAGE

AS_OF = "as_of"
"""Column of the instants asked about, unless another one is named."""

WHERE = "spine"

_USUAL_NAMES = ("event_timestamp", "timestamp", "datetime", "date", "ts", "time")
"""Names of the column of instants in other systems, the most usual first."""

_SQL_HINT = "Give SQL as SqlSpine(url='postgresql://…', query='SELECT …')."
_KINDS = "Give a pandas or Polars frame, a pyarrow table, a DuckDB relation, the path of a Parquet file, or a SqlSpine."


@dataclass(frozen=True)
class SqlSpine:
    """A spine in a database.

    Attributes:
        url: SQLAlchemy URL.
        query: SQL text that gives the rows; say ``ORDER BY``, or the order is the database's.
    """

    url: str
    query: str

    def __repr__(self) -> str:
        return f"SqlSpine(query={self.query!r})"


def read_spine(spine: Any, plan: Plan, *, as_of: str = AS_OF, reserved: Iterable[str] = ()) -> pa.Table:
    """Read a spine for a service.

    Args:
        spine: pandas or Polars frame (a lazy one is collected), pyarrow table or reader, DuckDB relation, anything with
            ``__arrow_c_stream__``, the path of a Parquet file or folder, or a ``SqlSpine``.
        plan: The service; it says which columns are keys and request inputs, and which names its outputs take.
        as_of: Column of the instants asked about. It keeps its name.
        reserved: Further names that the training set will have.

    Returns:
        The spine's columns in their order and exactly its rows in their order. Key columns and request inputs have
        their declared dtypes (integers of any width are taken, text never as a number), the instants are UTC
        microseconds (below that is cut off), other columns have the types they came with. A key may be null: nothing is
        known of it.

    Raises:
        SpineError: It cannot be read; a key, request or ``as_of`` column is missing or of another dtype; an instant is
            null or has no time zone; a name is taken twice, by two columns or by a column and an output.
    """
    table = _load(spine)
    _check_names(table, [*(output.name for output in plan.outputs), *reserved])
    if as_of not in table.column_names:
        raise _without_instants(as_of, table)
    typed = {as_of: _instants(table.column(as_of), as_of)}
    for column in plan.join_keys:
        typed[column.name] = _typed(table, column, "an entity key")
    for column in plan.request:
        typed[column.name] = _typed(table, column, "a request input")
    for field in table.schema:
        if field.name not in typed:
            _check_storable(field)
    return pa.table([typed.get(name, table.column(name)) for name in table.column_names], names=table.column_names)


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
        table = pq.read_table(text)
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


def _instants(column: pa.ChunkedArray, name: str) -> pa.Array:
    where = f"{WHERE}, column '{name}'"
    kind = column.type
    if from_arrow(kind) != TIMESTAMP and not pa.types.is_null(kind):
        raise SpineError(
            f"the column holds {kind}, expected instants",
            where=where,
            hint=f"In pandas: spine['{name}'] = pd.to_datetime(spine['{name}'], utc=True).",
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
    return _read(column, TIMESTAMP, where)


def _typed(table: pa.Table, column: Column, role: str) -> pa.Array:
    if column.name not in table.column_names:
        raise _missing(column.name, role, table)
    found = table.column(column.name)
    where = f"{WHERE}, column '{column.name}'"
    kind = from_arrow(found.type)
    if kind != column.dtype and not pa.types.is_null(found.type):
        hint = f"Convert it; in pandas: spine['{column.name}'].astype('{_PANDAS.get(column.dtype.kind, 'object')}')."
        raise SpineError(
            f"the column holds {found.type}, expected {column.dtype} ({role})",
            where=where,
            hint=hint,
            code="wrong-dtype",
        )
    return _read(found, column.dtype, where)


_PANDAS = {"int64": "Int64", "float64": "float64", "string": "str", "bool": "boolean"}


def _read(column: pa.ChunkedArray, dtype: DType, where: str) -> pa.Array:
    try:
        array, _ = to_contract(column, dtype, timezone=None, where=where)
    except SourceDataError as error:
        raise SpineError(error.problem, where=where, hint=error.hint, code=error.code) from error
    return array


def _first_null(column: pa.ChunkedArray) -> int:
    return int(column.is_null().index(True).as_py())


def _check_storable(field: pa.Field) -> None:
    """Make sure, before any work, that Parquet has a type for a column that is only passed through."""
    try:
        pq.write_table(pa.schema([field]).empty_table(), pa.BufferOutputStream())
    except pa.ArrowException as error:
        raise SpineError(
            f"Parquet has no type for {field.type}",
            where=f"{WHERE}, column '{field.name}'",
            hint="Drop the column or convert it.",
            code="wrong-dtype",
        ) from error
