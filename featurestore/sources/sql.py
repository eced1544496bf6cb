"""Rows of a database that SQLAlchemy reaches, in chunks, as the driver gives them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy
from sqlalchemy import exc, types
from sqlalchemy.pool import NullPool
from sqlalchemy.sql import quoted_name

from featurestore.dtypes import BINARY, BOOL, DATE, FLOAT64, INT64, STRING, TIMESTAMP, DType, from_arrow
from featurestore.errors import SourceDataError, SourceError, SourceMissingError, listing
from featurestore.sources.convert import guess_dtype
from featurestore.sources.rows import missing_column
from featurestore.urls import expanded, without_secrets

_CHUNK_ROWS = 50_000
_SAMPLE_ROWS = 10_000
_MOST_VALUES = 1_000
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

    def schema(self) -> tuple[dict[str, DType | None], frozenset[str]]:
        """Return the columns with their dtypes, and the names of those that hold instants without a zone.

        A table's dtypes are what the database declares, a query's what its first rows hold. ``NUMERIC`` without a
        precision is read as float64.
        """
        with self._connected() as connection:
            declared = {} if self.table is None else self._reflected(connection)
            sample = next(iter(self._chunks(connection, None, limit=_SAMPLE_ROWS)))
        dtypes = {name: declared.get(name) or self._guessed(sample.column(name)) for name in sample.column_names}
        return dtypes, frozenset(name for name in sample.column_names if _is_naive(sample.column(name)))

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

    def tables(self, columns: Sequence[str] | None) -> Iterator[pa.Table]:
        """Read the rows in chunks.

        Args:
            columns: Columns to read; ``None`` reads all.

        Yields:
            Tables in the types the driver gives; at least one, which may be empty. A type may differ from chunk to
            chunk where the database lets the type of values vary.

        Raises:
            SourceMissingError: The database, table or a column is not there.
            SourceError: The database refuses.
            SourceDataError: A column holds values of several types.
        """
        with self._connected() as connection:
            # SQLite takes a quoted name that no column has for a text constant.
            known = self._names(connection)
            for name in columns or ():
                if name not in known:
                    raise missing_column(self.where, name, known)
            yield from self._chunks(connection, columns, limit=None)

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
                found = sqlalchemy.select(sqlalchemy.literal_column("1", types.Integer)).select_from(self._rows())
                if connection.execute(found.where(is_wanted).limit(1)).first() is not None:
                    return True
            return False

    def _rows(self) -> sqlalchemy.FromClause | sqlalchemy.TextClause:
        if self.query is not None:
            # A colon would begin the name of a parameter.
            query = self.query.strip().rstrip(";").replace(":", "\\:")
            return sqlalchemy.text(f"({query}\n) AS featurestore_rows")
        schema, name = self._name()
        return sqlalchemy.table(quoted_name(name, True), schema=None if schema is None else quoted_name(schema, True))

    @contextmanager
    def _connected(self) -> Iterator[sqlalchemy.Connection]:
        engine = self._engine()
        try:
            with engine.connect() as connection:
                yield connection.execution_options(stream_results=True, no_parameters=True)
        except exc.NoSuchTableError as error:
            raise self._no_table(engine) from error
        except exc.SQLAlchemyError as error:
            raise self._refused(error) from error
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
            return sqlalchemy.create_engine(url, poolclass=NullPool)
        except ValueError:  # a port that is no number; or a part of a password, which the message would show
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

    def _reflected(self, connection: sqlalchemy.Connection) -> dict[str, DType | None]:
        schema, name = self._name()
        columns = sqlalchemy.inspect(connection).get_columns(name, schema=schema)
        return {str(column["name"]): _declared(column["type"]) for column in columns}

    def _chunks(
        self, connection: sqlalchemy.Connection, columns: Sequence[str] | None, limit: int | None
    ) -> Iterator[pa.Table]:
        with connection.exec_driver_sql(self._statement(connection, columns)) as result:
            names = list(result.keys())
            rows_at_once = _CHUNK_ROWS if limit is None else limit
            found = result.fetchmany(rows_at_once)
            row = 0
            while True:
                yield self._table(names, found, row)
                row += len(found)
                if limit is not None or not (found := result.fetchmany(rows_at_once)):
                    return

    def _statement(self, connection: sqlalchemy.Connection, columns: Sequence[str] | None) -> str:
        quote = connection.dialect.identifier_preparer.quote_identifier
        names = "*" if columns is None else ", ".join(quote(name) for name in columns)
        if self.query is not None:
            return f"SELECT {names} FROM ({self.query.strip().rstrip(';')}\n) AS featurestore_rows"
        schema, name = self._name()
        return f"SELECT {names} FROM {'' if schema is None else quote(schema) + '.'}{quote(name)}"

    def _table(self, names: Sequence[str], rows: Sequence[Any], first_row: int) -> pa.Table:
        columns = zip(*rows, strict=True) if rows else [()] * len(names)
        arrays = [self._array(name, values, first_row) for name, values in zip(names, columns, strict=True)]
        return pa.table(arrays, names=list(names))

    def _array(self, name: str, values: Sequence[Any], first_row: int) -> pa.Array:
        if any(isinstance(value, uuid.UUID) for value in values):
            values = [None if value is None else str(value) for value in values]
        try:
            array = pa.array(values)
        except (pa.ArrowException, OverflowError) as error:
            raise self._mixed(name, first_row, str(error)) from error
        zones = {value.tzinfo is None for value in values if value is not None} if _is_instants(array) else set()
        if len(zones) > 1:
            raise self._mixed(name, first_row, "instants with and without a time zone")
        return array

    def _mixed(self, name: str, first_row: int, reason: str) -> SourceDataError:
        return SourceDataError(
            f"values from row {first_row} on have several types, or one that Arrow has none for: {reason}",
            where=f"{self.where}, column '{name}'",
            hint="Cast the column in the query.",
            code="wrong-dtype",
        )

    def _guessed(self, column: pa.ChunkedArray) -> DType | None:
        return None if pa.types.is_null(column.type) else from_arrow(column.type)

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
    """Tell whether a column of text holds instants without a zone."""
    dtype, is_naive = guess_dtype(column.combine_chunks())
    return dtype == TIMESTAMP and is_naive


def _is_instants(array: pa.Array) -> bool:
    return bool(pa.types.is_timestamp(array.type))


def _is_naive(column: pa.ChunkedArray) -> bool:
    if pa.types.is_string(column.type):
        return text_is_naive(column)
    return pa.types.is_timestamp(column.type) and column.type.tz is None


def _declared(kind: types.TypeEngine[Any]) -> DType | None:
    """Return the dtype of a column that the database declares, ``None`` if the values must tell."""
    if isinstance(kind, types.Numeric) and not isinstance(kind, types.Float):
        precision, scale = kind.precision, kind.scale or 0
        if precision is None or not 1 <= precision <= 38 or not 0 <= scale <= precision:
            return FLOAT64
        return DType("decimal", precision=precision, scale=scale)
    return next((dtype for known, dtype in _KINDS if isinstance(kind, known)), None)
