"""Rows of a database that SQLAlchemy reaches, in chunks, as the driver gives them.

What a column is comes from the database's own description of it, never from the rows at hand: so an empty table and a
full one are the same source. Only the columns that are needed are read.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy
from sqlalchemy import exc, types
from sqlalchemy.pool import NullPool
from sqlalchemy.sql import quoted_name

from featurestore.core.dtypes import (
    BINARY,
    BOOL,
    DATE,
    FLOAT64,
    INT64,
    STRING,
    TIMESTAMP,
    DType,
    list_of,
)
from featurestore.core.errors import (
    SourceDataError,
    SourceError,
    SourceMissingError,
    listing,
)
from featurestore.core.urls import expanded, without_secrets
from featurestore.plan.sql_text import times_or_texts, without_end
from featurestore.sources.convert import article, guess_dtype
from featurestore.sources.rows import WIDE_DECIMAL, missing_column
from featurestore.storage.database import with_driver

_CHUNK_ROWS = 50_000
_SAMPLE_ROWS = 10_000
_MOST_VALUES = 1_000
_LARGEST_PRECISION = 38
_KINDS: tuple[tuple[type[types.TypeEngine[Any]], DType], ...] = (
    (types.Boolean, BOOL),
    (types.Integer, INT64),
    (types.Float, FLOAT64),
    (types.DateTime, TIMESTAMP),
    (types.Date, DATE),
    (types.LargeBinary, BINARY),
    (types.Uuid, STRING),
    (types.String, STRING),
)
_NUMERIC_OID, _NAIVE_OID, _NUMERIC_ARRAY_OID = 1700, 1114, 1231
_OIDS: dict[int, DType] = {
    16: BOOL,
    17: BINARY,
    **dict.fromkeys((20, 21, 23, 26), INT64),
    **dict.fromkeys((700, 701), FLOAT64),
    **dict.fromkeys((18, 19, 25, 1042, 1043), STRING),
    **dict.fromkeys((142, 790, 1560, 1562), STRING),
    2950: STRING,
    1082: DATE,
    **dict.fromkeys((_NAIVE_OID, 1184), TIMESTAMP),
}
"""PostgreSQL's types that have a dtype, by number; xml, money and bits come as text."""

_TIMES = (1082, 1083, 1114, 1184, 1266)
"""PostgreSQL's dates and times, of which some values are none of Python's."""

_TIME_ARRAYS = (1182, 1183, 1115, 1185, 1270)
_NO_PYTHON_TIME = r"(infinity| BC|(^|[^0-9.])[0-9]{5,}-|(^|[^0-9:. ])24:)"

_AFFINITIES: dict[str, DType | None] = {"INT": INT64, "REAL": FLOAT64, "TEXT": STRING, "NUM": None}
"""Types that SQLite reports for expressions, with the dtypes of expressions that are cast to them."""

Schema = dict[str, DType | None]


@dataclass(frozen=True)
class _Described:
    """A column as the database describes it.

    Attributes:
        dtype: Its dtype; ``None`` if the database reports no type, or one without a dtype.
        oid: PostgreSQL's number of its type.
        is_naive: Whether its instants have no zone; ``None`` if only the values show it.
    """

    dtype: DType | None
    oid: int | None = None
    is_naive: bool | None = None


@dataclass(frozen=True)
class SqlRows:
    """The rows of a table or query.

    Attributes:
        url: SQLAlchemy URL.
        table: Table or view, ``"schema.table"`` if need be; or
        query: SQL text that gives the rows.
        where: What they are for, for messages.
    """

    url: str
    table: str | None
    query: str | None
    where: str

    def schema(self, times: Sequence[str] = ()) -> tuple[Schema, frozenset[str]]:
        """Return the columns with their dtypes, and the names of those that hold instants without a zone.

        The dtypes are those that the database reports; ``None`` for a column without a type, or with one that the
        contract has no dtype for. Only whether text in a time column has a zone is inferred from rows.

        Args:
            times: Columns that hold times.

        Raises:
            SourceMissingError: The database or table is not there.
            SourceDataError: The query holds a text that the database reads as the present time.
            SourceError: The database refuses.
        """
        with self._connected() as connection:
            self._check_pure(connection)
            described = self._described(connection)
            naive = {name for name, column in described.items() if column.is_naive}
            doubtful = [name for name in dict.fromkeys(times) if name in described and described[name].is_naive is None]
            if doubtful:
                sample = next(iter(self._chunks(connection, doubtful, {}, limit=_SAMPLE_ROWS)))
                naive |= {name for name in doubtful if _is_naive(sample.column(name))}
        return {name: column.dtype for name, column in described.items()}, frozenset(naive)

    def names(self) -> tuple[str, ...]:
        """Return the names of the columns.

        Raises:
            SourceMissingError: The database or table is not there.
            SourceError: The database refuses.
        """
        with self._connected() as connection:
            return tuple(self._names(connection))

    def _names(self, connection: sqlalchemy.Connection) -> list[str]:
        with connection.exec_driver_sql(f"{self._statement(connection, None)} WHERE 1 = 0") as nothing:
            return list(nothing.keys())

    def tables(self, columns: Sequence[str] | None, dtypes: Mapping[str, DType] | None = None) -> Iterator[pa.Table]:
        """Read the rows in chunks.

        Args:
            columns: Columns to read; ``None`` reads all.
            dtypes: Dtypes that columns will be read as; values of other columns stay as the driver returns them.

        Yields:
            Tables in the types the driver gives; at least one, which may be empty. A type may differ from chunk to
            chunk where the database lets the type of values vary.

        Raises:
            SourceMissingError: The database, table or a column is not there.
            SourceError: The database refuses.
            SourceDataError: A column holds values of several types, or one that Python or its dtype has none for.
        """
        with self._connected() as connection:
            # SQLite takes a quoted name that no column has for a text constant.
            known = self._described(connection)
            for name in columns or ():
                if name not in known:
                    raise missing_column(self.where, name, list(known))
            try:
                yield from self._chunks(connection, columns, dtypes or {}, limit=None)
            except exc.DataError as error:
                times = [name for name in columns or known if known[name].oid in (*_TIMES, *_TIME_ARRAYS)]
                raise self._no_python_time(connection, times, error) from error

    def has_any(self, column: str, values: Sequence[Any]) -> bool:
        """Ask whether a column holds one of some values.

        Args:
            column: The column.
            values: Values as its driver takes them.

        Raises:
            SourceMissingError: The table is not there.
            SourceError: The database refuses.
        """
        with self._connected() as connection:
            for start in range(0, len(values), _MOST_VALUES):
                is_wanted = sqlalchemy.column(quoted_name(column, True)).in_(values[start : start + _MOST_VALUES])
                rows = sqlalchemy.select(sqlalchemy.literal_column("1", types.Integer)).select_from(self._rows())
                if connection.execute(rows.where(is_wanted).limit(1)).first() is not None:
                    return True
            return False

    def _rows(self) -> sqlalchemy.FromClause | sqlalchemy.TextClause:
        if self.query is not None:
            # A colon would begin the name of a parameter.
            query = without_end(self.query, self._dialect).replace(":", "\\:")
            return sqlalchemy.text(f"({query}\n) AS featurestore_rows")
        schema, name = self._name()
        return sqlalchemy.table(quoted_name(name, True), schema=None if schema is None else quoted_name(schema, True))

    @contextmanager
    def _connected(self) -> Iterator[sqlalchemy.Connection]:
        engine = self._engine()
        try:
            with engine.connect() as connection:
                yield connection.execution_options(stream_results=True, no_parameters=True)
        except exc.SQLAlchemyError as error:
            raise (self._no_table(engine) if self._lacks_table(engine) else self._refused(error)) from error
        finally:
            engine.dispose()

    def _engine(self) -> sqlalchemy.Engine:
        place = expanded(self.url, where=self.where)
        try:
            url = sqlalchemy.make_url(place)
            file = url.database if url.get_backend_name() == "sqlite" else None
            if file and file != ":memory:" and not file.startswith("file:") and not Path(file).is_file():
                # SQLite would make an empty database of it.
                raise SourceMissingError(f"the database '{file}' is not there", where=self.where, code="missing-file")
            return sqlalchemy.create_engine(with_driver(url), poolclass=NullPool)
        except ValueError:  # the port is not a number; the message could show a part of a password
            raise SourceError("the URL's port is not a number", where=self.where, code="database-url") from None
        except (exc.ArgumentError, ImportError) as error:
            raise SourceError(
                without_secrets(f"the URL cannot be used: {error}", place),
                where=self.where,
                hint="Write a SQLAlchemy URL, 'postgresql://user@host/database', and install its driver.",
                code="database-url",
            ) from error

    def _name(self) -> tuple[str | None, str]:
        assert self.table is not None
        schema, _, name = self.table.rpartition(".")
        return schema or None, name

    @property
    def _dialect(self) -> str:
        return sqlalchemy.make_url(self.url).get_backend_name()

    def _described(self, connection: sqlalchemy.Connection) -> dict[str, _Described]:
        """Return the columns as the database describes them."""
        if connection.dialect.name == "postgresql":
            return self._described_by_cursor(connection)
        names = self._names(connection)
        if self.table is not None:
            schema, name = self._name()
            declared = self._reflected(connection, name, schema)
        elif connection.dialect.name == "sqlite":
            declared = self._described_by_view(connection)
        else:
            declared = {}
        return {name: declared.get(name, _Described(None)) for name in names}

    def _reflected(self, connection: sqlalchemy.Connection, name: str, schema: str | None) -> dict[str, _Described]:
        columns = sqlalchemy.inspect(connection).get_columns(name, schema=schema)
        return {str(column["name"]): _Described(_declared(column["type"])) for column in columns}

    def _described_by_view(self, connection: sqlalchemy.Connection) -> dict[str, _Described]:
        """Let SQLite describe a query: its columns have types if they are columns of tables, or casts.

        A view over it knows the types of columns, in some versions also of expressions; a table made of it knows of
        expressions what they are cast to, in all.
        """
        name = f"featurestore_{uuid.uuid4().hex}"
        rows = self._statement(connection, None)
        connection.exec_driver_sql(f"CREATE TEMP VIEW {name}_view AS {rows}")
        connection.exec_driver_sql(f"CREATE TEMP TABLE {name}_table AS {rows} LIMIT 0")
        try:
            declared = self._reflected(connection, f"{name}_view", "temp")
            for _, column, kind, *_ in connection.exec_driver_sql(f"PRAGMA temp.table_info({name}_view)").fetchall():
                if kind in ("", *_AFFINITIES):
                    declared[column] = _Described(None)
            for _, column, kind, *_ in connection.exec_driver_sql(f"PRAGMA temp.table_info({name}_table)").fetchall():
                if declared[column].dtype is None:
                    declared[column] = _Described(_AFFINITIES.get(kind))
            return declared
        finally:
            connection.exec_driver_sql(f"DROP VIEW temp.{name}_view")
            connection.exec_driver_sql(f"DROP TABLE temp.{name}_table")

    def _described_by_cursor(self, connection: sqlalchemy.Connection) -> dict[str, _Described]:
        statement = f"{self._statement(connection, None)} WHERE 1 = 0"
        options = {"stream_results": False}
        with connection.exec_driver_sql(statement, execution_options=options) as nothing:
            assert nothing.cursor is not None
            description: Any = nothing.cursor.description
            columns = [(str(found[0]), int(found[1]), found[4], found[5]) for found in description]
        others = _other_dtypes(connection, {oid for _, oid, _, _ in columns} - _OIDS.keys() - {_NUMERIC_OID})
        return {
            name: _Described(
                _numeric(precision, scale) if oid == _NUMERIC_OID else _OIDS.get(oid, others.get(oid)),
                oid,
                oid == _NAIVE_OID if oid in _TIMES else None,
            )
            for name, oid, precision, scale in columns
        }

    def _check_pure(self, connection: sqlalchemy.Connection) -> None:
        """Raise if the database reads a text of the query, such as ``'now'``, as a time: then its plan lacks it."""
        texts = times_or_texts(self.query or "", connection.dialect.name)
        if not texts or connection.dialect.name != "postgresql":
            return
        statement = f"EXPLAIN (VERBOSE, COSTS OFF) {self._statement(connection, None)}"
        with connection.exec_driver_sql(statement, execution_options={"stream_results": False}) as found:
            plan = "\n".join(str(row[0]) for row in found)
        for text in sorted(texts):
            if f"'{text}'" not in plan and text not in _in_arrays(plan):
                raise SourceDataError(
                    f"the query has '{text}', which the database reads as a time, so it could give different rows "
                    "when it runs again",
                    where=self.where,
                    hint=f"Leave it out: features depend on as_of, not on the clock. For text write '{text}'::text.",
                    code="impure-query",
                )

    def _chunks(
        self,
        connection: sqlalchemy.Connection,
        columns: Sequence[str] | None,
        dtypes: Mapping[str, DType],
        limit: int | None,
    ) -> Iterator[pa.Table]:
        with connection.exec_driver_sql(self._statement(connection, columns)) as result:
            names = list(result.keys())
            rows_at_once = _CHUNK_ROWS if limit is None else limit
            found = result.fetchmany(rows_at_once)
            row = 0
            while True:
                yield self._table(names, found, dtypes, row)
                row += len(found)
                if limit is not None or not (found := result.fetchmany(rows_at_once)):
                    return

    def _statement(self, connection: sqlalchemy.Connection, columns: Sequence[str] | None) -> str:
        quote = connection.dialect.identifier_preparer.quote_identifier
        names = "*" if columns is None else ", ".join(quote(name) for name in columns)
        if self.query is not None:
            return f"SELECT {names} FROM ({without_end(self.query, self._dialect)}\n) AS featurestore_rows"
        schema, name = self._name()
        return f"SELECT {names} FROM {'' if schema is None else quote(schema) + '.'}{quote(name)}"

    def _table(
        self, names: Sequence[str], rows: Sequence[Any], dtypes: Mapping[str, DType], first_row: int
    ) -> pa.Table:
        columns = zip(*rows, strict=True) if rows else [()] * len(names)
        arrays = [
            self._array(name, values, dtypes.get(name), first_row) for name, values in zip(names, columns, strict=True)
        ]
        return pa.table(arrays, names=list(names))

    def _array(self, name: str, values: Sequence[Any], dtype: DType | None, first_row: int) -> pa.Array:
        prepare, is_exact = _PREPARATIONS.get("" if dtype is None else dtype.kind, (_plain, False))
        wanted = dtype.arrow if dtype is not None and is_exact else None
        try:
            array = pa.array([prepare(value) for value in values], wanted)
        except (pa.ArrowException, OverflowError, TypeError, ValueError, InvalidOperation):
            raise self._unreadable(name, values, dtype, prepare, wanted, first_row) from None
        zones = {value.tzinfo is None for value in values if value is not None} if _is_instants(array) else set()
        if len(zones) > 1:
            raise self._mixed(name, first_row, "instants with and without a time zone")
        return array

    def _unreadable(
        self,
        name: str,
        values: Sequence[Any],
        dtype: DType | None,
        prepare: Callable[[Any], Any],
        wanted: pa.DataType | None,
        first_row: int,
    ) -> SourceDataError:
        """Return the error for values of which not all fit into one column, naming the first that does not."""
        expected = "a value that features can be made of" if dtype is None else f"{article(dtype)} {dtype}"
        row, known = 0, wanted
        for row, value in enumerate(values):  # noqa: B007  # the last one is named if none stands out
            try:
                one = pa.array([prepare(value)], known)
            except (pa.ArrowException, OverflowError, TypeError, ValueError, InvalidOperation):
                break
            if known is None and not pa.types.is_null(one.type):
                known = one.type
        shown = repr(values[row]) if not isinstance(values[row], Decimal) else str(values[row])
        hint = "Correct the row, leave it out in the query, or cast the column there."
        if dtype is not None and dtype.kind == "decimal":
            read = f"declare dtypes={{'{name}': 'float64'}}"
            hint = f"In a query, write NULLIF(\"{name}\", '{shown}') or cast the column; or {read}."
        return SourceDataError(
            f"row {first_row + row} holds {shown}, which is not {expected}",
            where=f"{self.where}, column '{name}'",
            hint=hint,
            code="wrong-dtype",
        )

    def _no_python_time(
        self, connection: sqlalchemy.Connection, columns: Sequence[str], error: exc.SQLAlchemyError
    ) -> SourceError:
        """Return the error for a date or time of PostgreSQL's that Python has none for, naming the row."""
        quote = connection.dialect.identifier_preparer.quote_identifier
        with connection.engine.connect() as other:
            for name in columns:
                text = (
                    "SELECT row_of, shown FROM (SELECT row_number() OVER () - 1 AS row_of, "
                    f"CAST({quote(name)} AS text) AS shown FROM ({self._statement(connection, [name])}\n) "
                    "AS featurestore_values) AS featurestore_texts "
                    f"WHERE shown ~ '{_NO_PYTHON_TIME}' ORDER BY row_of LIMIT 1"
                )
                found = other.exec_driver_sql(text).first()
                if found is not None:
                    return SourceDataError(
                        f"row {found[0]} holds {found[1]}, which is not a time between the years 1 and 9999",
                        where=f"{self.where}, column '{name}'",
                        hint=f"Correct the row, or read it as null in a query: NULLIF({quote(name)}, '{found[1]}').",
                        code="out-of-range",
                    )
        return self._refused(error)

    def _mixed(self, name: str, first_row: int, reason: str) -> SourceDataError:
        return SourceDataError(
            f"values from row {first_row} on have several types, or one that Arrow has none for: {reason}",
            where=f"{self.where}, column '{name}'",
            hint="Cast the column in the query.",
            code="wrong-dtype",
        )

    def _lacks_table(self, engine: sqlalchemy.Engine) -> bool:
        """Return whether the database can be reached and has no such table."""
        if self.table is None:
            return False
        schema, name = self._name()
        try:
            return not sqlalchemy.inspect(engine).has_table(name, schema=schema)
        except exc.SQLAlchemyError:
            return False

    def _no_table(self, engine: sqlalchemy.Engine) -> SourceMissingError:
        schema, name = self._name()
        inspector = sqlalchemy.inspect(engine)
        known = [*inspector.get_table_names(schema=schema), *inspector.get_view_names(schema=schema)]
        return SourceMissingError(
            f"there is no table '{self.table}'",
            where=self.where,
            hint=listing("Tables", known, wrong=name),
            code="missing-table",
        )

    def _refused(self, error: exc.SQLAlchemyError) -> SourceError:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        hint = "Check the address, the credentials, and the names in the query."
        problem = without_secrets(f"the database refuses: {reason}", expanded(self.url, where=self.where))
        return SourceError(problem, where=self.where, hint=hint, code="database")


def text_is_naive(column: pa.ChunkedArray) -> bool:
    """Return whether a column of text holds instants without a zone."""
    dtype, is_naive = guess_dtype(column.combine_chunks())
    return dtype == TIMESTAMP and is_naive


def _is_instants(array: pa.Array) -> bool:
    return bool(pa.types.is_timestamp(array.type))


def _is_naive(column: pa.ChunkedArray) -> bool:
    if pa.types.is_string(column.type):
        return text_is_naive(column)
    return pa.types.is_timestamp(column.type) and column.type.tz is None


def _declared(kind: types.TypeEngine[Any]) -> DType | None:
    """Return the dtype of a column that the database declares, ``None`` if it declares none."""
    if isinstance(kind, types.Numeric) and not isinstance(kind, types.Float):
        return _numeric(kind.precision, kind.scale)
    return next((dtype for known, dtype in _KINDS if isinstance(kind, known)), None)


def _numeric(precision: int | None, scale: int | None) -> DType:
    """Return the dtype of ``NUMERIC``: as declared if a decimal has so many digits, else the widest one.

    A negative scale rounds to tens; a scale beyond the precision leaves no digit before the point.
    """
    if precision is None:
        return WIDE_DECIMAL
    scale = scale or 0
    if scale > 1_000:
        scale -= 2_048  # PostgreSQL keeps it in eleven bits
    digits, places = (precision - scale, 0) if scale < 0 else (max(precision, scale), scale)
    if digits > _LARGEST_PRECISION:
        return DType("decimal", precision=_LARGEST_PRECISION, scale=min(places, _LARGEST_PRECISION))
    return DType("decimal", precision=digits, scale=places)


def _other_dtypes(connection: sqlalchemy.Connection, oids: set[int]) -> dict[int, DType | None]:
    """Return the dtypes of PostgreSQL's types that are not built in, or are lists of others."""
    if not oids:
        return {}
    numbers = ", ".join(map(str, sorted(oids)))
    text = f"SELECT oid, typtype, typcategory, typelem FROM pg_catalog.pg_type WHERE oid IN ({numbers})"
    with connection.exec_driver_sql(text, execution_options={"stream_results": False}) as found:
        rows = [(int(oid), kind, category, int(item)) for oid, kind, category, item in found]
    items = {item for _, _, category, item in rows if category == "A"}
    known = {**_OIDS, _NUMERIC_OID: WIDE_DECIMAL, **_other_dtypes(connection, items - _OIDS.keys() - {_NUMERIC_OID})}
    return {oid: _dtype_of(kind, category, known.get(item)) for oid, kind, category, item in rows}


def _dtype_of(kind: str, category: str, item: DType | None) -> DType | None:
    if category == "A":
        return None if item is None else list_of(item)
    return STRING if kind == "e" or category == "S" else None


def _in_arrays(plan: str) -> set[str]:
    """Return the texts inside array constants of PostgreSQL's plans: ``'{now,later}'::text[]``."""
    return {text.strip('"') for part in plan.split("'{")[1:] for text in part.split("}'")[0].split(",")}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, uuid.UUID) else value


def _as_decimal(value: Any) -> Any:
    """Return a number as the decimal it is written as."""
    if value is None or isinstance(value, Decimal):
        return value
    return Decimal(repr(value) if isinstance(value, float) else str(value))


def _as_number(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value


_PREPARATIONS: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "decimal": (_as_decimal, True),
    "float64": (_as_number, False),
}
"""By the kind of a dtype: how values are made ready for Arrow, and whether it must make just that dtype of them."""
