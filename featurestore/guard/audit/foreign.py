"""Logs of other systems, as rows that an audit can compare.

Such a log has no statuses, so only values are compared, and no watermarks. Features that are not mapped are left out of
the plan. Columns are read in their own type. A value that cannot be converted to the dtype of its feature is compared
as text (``unread``); a row whose question cannot be read is left out and counted.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, ValidationError

from featurestore.core.columns import Flags
from featurestore.core.dtypes import TIMESTAMP, DType, read_value
from featurestore.core.errors import ConfigError, SourceDataError, SourceMissingError, listing, unknown_column
from featurestore.core.statuses import NOT_LOGGED
from featurestore.core.temporal import is_timezone
from featurestore.definitions.sources import CsvOptions, FileSource, FrameSource, Source, SqlSource
from featurestore.guard.audit.foreign_values import plain_column, read_foreign, read_instants, texts_of
from featurestore.guard.audit.slices import BY
from featurestore.guard.audit.tally import Remarks
from featurestore.guard.comparing.compare import unread_column
from featurestore.plan.model import Column, OnDemandFeature, Plan, TypedExpr
from featurestore.serving_log.columns import (
    KEY_PREFIX,
    MODEL,
    MODEL_VERSION,
    REQUEST_PREFIX,
    VALUE_PREFIX,
    key_column,
    log_schema,
    status_column,
    value_column,
)
from featurestore.sources import ReadSettings, column_names, read_raw

_WHERE = "foreign log"


class ForeignMapping(BaseModel):
    """The meaning of the columns of a log; a TOML file with these keys.

    Attributes:
        as_of: Column of the instant that was asked about.
        as_of_unit: Unit of its numbers, counted since 1970, if it holds numbers: ``"s"``, ``"ms"``, ``"us"`` or
            ``"ns"``.
        timezone: Zone of timestamps without a zone.
        keys: Column of each key column of the service.
        request: Column of each request input.
        features: Column of each feature; features left out are not compared.
        constants: Values of keys and request inputs that are the same in all rows.
        request_id: Column of the id of the request.
        model: Column of the model that asked.
        model_version: Column of its version.
        table: Table with the log, in a database.
        query: SQL query that returns the log, in a database.
        format: ``"parquet"`` or ``"csv"``; by default from the file name.
        null_values: Texts of CSV files that mean null.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    as_of: str
    as_of_unit: Literal["s", "ms", "us", "ns"] | None = None
    timezone: str | None = None
    keys: dict[str, str] = {}
    request: dict[str, str] = {}
    features: dict[str, str]
    constants: dict[str, Any] = {}
    request_id: str | None = None
    model: str | None = None
    model_version: str | None = None
    table: str | None = None
    query: str | None = None
    format: Literal["parquet", "csv"] | None = None
    null_values: tuple[str, ...] = ("", "NULL", "null")


def read_mapping(path: str | os.PathLike[str]) -> ForeignMapping:
    """Read a mapping from a TOML file.

    Raises:
        ConfigError: There is no such file, it is not TOML, or a key is unknown, missing or of a wrong type.
    """
    where = f"mapping '{path}'"
    try:
        document = tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise ConfigError(str(error.strerror), where=where, hint="Name a TOML file.", code="mapping") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"it is not valid TOML: {error}", where=where, code="mapping") from None
    try:
        return ForeignMapping.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        hint = f"Keys are {', '.join(ForeignMapping.model_fields)}."
        raise ConfigError(f"{place}: {first['msg']}", where=where, hint=hint, code="mapping") from None


@dataclass(frozen=True)
class _Role:
    """The role of a column of the log.

    Attributes:
        column: Name of the column.
        key: Key of the mapping that names the column.
        dtype: Dtype to read.
        target: Column of the serving log for its values.
    """

    column: str
    key: str
    dtype: DType
    target: str


@dataclass(frozen=True)
class ForeignLog:
    """A log of another system, read with the columns of a serving log.

    Attributes:
        plan: The plan of the service, with the mapped features only.
        left_out: Features of the service that are not mapped.
        source: Source of the rows.
        mapping: The meaning of the columns.
        settings: Resources for reading.
        by: Columns of the log to look for slices in, beside the mapped columns.
        remarks: Remarks on the rows read so far.
    """

    plan: Plan
    left_out: tuple[str, ...]
    source: Source
    mapping: ForeignMapping
    settings: ReadSettings
    by: tuple[str, ...] = ()
    remarks: Remarks = field(default_factory=Remarks)

    @classmethod
    def open(
        cls, plan: Plan, place: Any, mapping: ForeignMapping, settings: ReadSettings, *, by: Sequence[str] = ()
    ) -> ForeignLog:
        """Open a log, and check the mapping against the service and the log.

        Args:
            plan: The service's plan.
            place: Parquet or CSV file or glob, the SQLAlchemy URL of a database, or a frame.
            mapping: The meaning of the columns.
            settings: Resources for reading.
            by: Columns to look for slices in: of the log, or keys and request inputs of the service.

        Raises:
            ConfigError: The mapping names something that the service does not have, or lacks something that it needs.
            SourceError: The log cannot be read, or lacks a column.
        """
        _check_names(plan, mapping)
        _check_zone(mapping.timezone)
        mapped = _of_features(plan, mapping.features)
        _check_complete(mapped, mapping)
        _check_roles(_roles(mapped, mapping), mapping.as_of)
        source = _source(place, mapping)
        with _hints_for_mappings():
            known = column_names(source, settings)
        _check_columns(_mapped_columns(mapped, mapping), known)
        left_out = tuple(output.name for output in plan.outputs if output.name not in mapping.features)
        return cls(mapped, left_out, source, mapping, settings, _slice_columns(mapped, by, known))

    def tables(self, *, since_us: int | None, until_us: int | None) -> Iterator[pa.Table]:
        """Read the log piece by piece, with the columns of a serving log except watermarks.

        Rows whose keys or request inputs cannot be converted to their dtype are left out; ``remarks`` counts them.

        Args:
            since_us: First instant asked about; all if ``None``.
            until_us: One past the last; all if ``None``.

        Raises:
            SourceError: The log cannot be read, or an ``as_of`` is not an instant.
        """
        columns = dict.fromkeys([*_mapped_columns(self.plan, self.mapping), *self.by])
        number = 0
        without_key: dict[str, int] = {}
        for place, first, piece in self._read(list(columns)):
            instants = self._instants(piece, place, first)
            chosen = pa.array(_between(instants, since_us, until_us))
            table = self._log_rows(piece.filter(chosen), instants.filter(chosen), place, number, chosen)
            number += piece.num_rows
            if not table.num_rows:
                continue
            for key in self.plan.join_keys:
                missing = table.column(key_column(key.name)).null_count
                without_key[key.name] = without_key.get(key.name, 0) + missing
            yield table
        self.remarks.notes += [
            f"rows without '{name}': {count:,}; training sets have no entity without a key"
            for name, count in without_key.items()
            if count
        ]

    def range_us(self, *, since_us: int | None, until_us: int | None) -> tuple[int, int]:
        """Return the first instant asked about and one past the last; a bound that is passed is returned as it is.

        Raises:
            SourceError: The log cannot be read, or an ``as_of`` is not an instant.
        """
        if since_us is not None and until_us is not None:
            return since_us, until_us
        pieces = self._read([self.mapping.as_of])
        ends = [pc.min_max(self._instants(piece, place, first).cast(pa.int64())) for place, first, piece in pieces]
        lowest = min((end["min"].as_py() for end in ends if end["min"].is_valid), default=0)
        highest = max((end["max"].as_py() for end in ends if end["max"].is_valid), default=0)
        return lowest if since_us is None else since_us, highest + 1 if until_us is None else until_us

    def _read(self, columns: Sequence[str]) -> Iterator[tuple[str, int, pa.Table]]:
        with _hints_for_mappings():
            for place, first, piece in read_raw(self.source, columns, self.settings):
                yield place, first, pa.table({name: plain_column(piece.column(name)) for name in columns})

    def _instants(self, piece: pa.Table, place: str, first: int) -> pa.Array:
        name = self.mapping.as_of
        return read_instants(
            piece.column(name),
            unit=self.mapping.as_of_unit,
            timezone=self.mapping.timezone,
            where=_column_place(place, name),
            first_row=first,
        )

    def _log_rows(self, piece: pa.Table, instants: pa.Array, place: str, number: int, chosen: pa.Array) -> pa.Table:
        """Return the rows of a piece with the columns of a serving log.

        Args:
            piece: The rows.
            instants: The instants they ask about.
            place: Where the rows are, for messages.
            number: Number in the log of the first row of the whole piece.
            chosen: Which rows of the whole piece these are.
        """
        plan, count = self.plan, piece.num_rows
        numbers = pa.array(number + np.flatnonzero(chosen.to_numpy(zero_copy_only=False)))
        columns: dict[str, pa.Array] = {
            "request_id": self._request_ids(piece, numbers),
            "row": numbers,
            "as_of": instants,
            "service": pa.array([plan.name] * count, pa.string()),
            "fingerprint": pa.array([plan.fingerprint] * count, pa.string()),
        }
        for name in (MODEL, MODEL_VERSION):
            if (column := getattr(self.mapping, name)) is not None:
                columns[name] = texts_of(piece.column(column))
        columns |= {f"{BY}{name}": texts_of(piece.column(name)) for name in self.by}
        columns |= self._constants(count)
        is_readable = np.ones(count, dtype=np.bool_)
        for role in _roles(plan, self.mapping):
            where = _column_place(place, role.column)
            read = read_foreign(piece.column(role.column), role.dtype, timezone=self.mapping.timezone, where=where)
            columns[role.target] = read.values
            if role.target.startswith(VALUE_PREFIX):
                columns[unread_column(role.target.removeprefix(VALUE_PREFIX))] = read.unread
            else:
                is_readable &= self._skip(role, read.unread, is_readable)
        for output in plan.outputs:
            columns[status_column(output.name)] = pa.array(np.full(count, NOT_LOGGED, dtype=np.uint8))
        types = log_schema(plan)
        arrays = {
            name: array.cast(types.field(name).type) if name in types.names else array
            for name, array in columns.items()
        }
        return pa.table(arrays).filter(pa.array(is_readable))

    def _request_ids(self, piece: pa.Table, numbers: pa.Array) -> pa.Array:
        """Return the request id of each row; for rows without one, the number of the row."""
        texts = numbers.cast(pa.string())
        name = self.mapping.request_id
        return texts if name is None else pc.coalesce(texts_of(piece.column(name)), texts)

    def _constants(self, count: int) -> dict[str, pa.Array]:
        plan, mapping = self.plan, self.mapping
        return {
            f"{prefix}{column.name}": self._constant(column, count)
            for prefix, wanted, chosen in (
                (KEY_PREFIX, plan.join_keys, mapping.keys),
                (REQUEST_PREFIX, plan.request, mapping.request),
            )
            for column in wanted
            if column.name not in chosen
        }

    def _constant(self, column: Column, count: int) -> pa.Array:
        try:
            value = read_value(column.dtype, self.mapping.constants[column.name])
        except ValueError as error:
            raise ConfigError(f"{column.name}: {error}", where=f"{_WHERE}, constants", code="mapping") from None
        return pa.array([value] * count, column.dtype.arrow)

    def _skip(self, role: _Role, unread: pa.Array, is_readable: Flags) -> Flags:
        """Count the rows whose question cannot be read because of a column; return the rows without a problem there."""
        is_bad = unread.is_valid().to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(is_bad & is_readable)
        if len(rows):
            reason = f"column '{role.column}' ({role.key} in the mapping) has values that are not {role.dtype}"
            known = next((key for key in self.remarks.skipped if key.startswith(reason)), None)
            self.remarks.skipped[known or f"{reason}: {unread[int(rows[0])].as_py()!r}"] += len(rows)
        return np.asarray(~is_bad, dtype=np.bool_)


def _check_names(plan: Plan, mapping: ForeignMapping) -> None:
    """Raise ``ConfigError`` if the mapping has no feature, or names something that the service does not have."""
    features = [output.name for output in plan.outputs]
    if not mapping.features:
        hint = f"Name the columns of features under [features]. {listing('Features', features)}"
        raise _mapping_error("no feature is mapped", hint)
    keys, inputs = ([column.name for column in columns] for columns in (plan.join_keys, plan.request))
    _check_known("features", mapping.features, features)
    _check_known("keys", mapping.keys, keys)
    _check_known("request", mapping.request, inputs)
    _check_known("constants", mapping.constants, [*keys, *inputs])


def _check_complete(plan: Plan, mapping: ForeignMapping) -> None:
    """Raise ``ConfigError`` if a key or request input of the mapped features is not mapped."""
    for part, columns in (("keys", plan.join_keys), ("request", plan.request)):
        for column in columns:
            if column.name not in {**mapping.keys, **mapping.request, **mapping.constants}:
                hint = f"Name its column under [{part}], or its value under [constants]."
                raise ConfigError(f"'{column.name}' is not mapped", where=_WHERE, hint=hint, code="not-mapped")


def _check_known(part: str, names: Mapping[str, Any], known: list[str]) -> None:
    for name in names:
        if name not in known:
            raise _mapping_error(
                f"the service has no '{name}'", listing("It has", known, wrong=name), part=f" [{part}]"
            )


def _mapping_error(problem: str, hint: str, *, part: str = "") -> ConfigError:
    return ConfigError(problem, where=f"{_WHERE}, mapping{part}", hint=hint, code="mapping")


def _check_zone(timezone: str | None) -> None:
    if timezone is not None and not is_timezone(timezone):
        hint = 'Write timezone = "UTC", or a name such as "Europe/Berlin".'
        raise _mapping_error(f"there is no time zone '{timezone}'", hint)


def _of_features(plan: Plan, names: Mapping[str, str]) -> Plan:
    """Return a plan of some features only, with the views, on-demand features and request inputs they need."""
    chosen = tuple(output for output in plan.outputs if output.name in names)
    needed = {output.column for output in chosen}
    kept: list[OnDemandFeature] = []
    inputs: set[str] = set()
    for feature in reversed(plan.on_demand):
        if feature.column in needed:
            kept.append(feature)
            for leaf in _leaves(feature.expression):
                needed |= {str(leaf.param("column"))} if leaf.op == "feature" else set()
                inputs |= {str(leaf.param("name"))} if leaf.op == "request" else set()
    return replace(
        plan,
        uses=tuple(use for use in plan.uses if any(column.startswith(f"{use.alias}__") for column in needed)),
        on_demand=tuple(reversed(kept)),
        request=tuple(column for column in plan.request if column.name in inputs),
        outputs=chosen,
    )


def _leaves(expression: TypedExpr) -> Iterator[TypedExpr]:
    if not expression.args:
        yield expression
    for argument in expression.args:
        yield from _leaves(argument)


def _roles(plan: Plan, mapping: ForeignMapping) -> list[_Role]:
    """Return the roles of the mapped columns."""
    keys = [(column, f"[keys] {column.name}", KEY_PREFIX, mapping.keys) for column in plan.join_keys]
    inputs = [(column, f"[request] {column.name}", REQUEST_PREFIX, mapping.request) for column in plan.request]
    roles = [
        _Role(chosen[column.name], key, column.dtype, f"{prefix}{column.name}")
        for column, key, prefix, chosen in (*keys, *inputs)
        if column.name in chosen
    ]
    return roles + [
        _Role(mapping.features[output.name], f"[features] {output.name}", output.dtype, value_column(output.name))
        for output in plan.outputs
    ]


def _check_roles(roles: Sequence[_Role], as_of: str) -> None:
    """Raise ``ConfigError`` if one column is mapped to different dtypes."""
    dtypes = {as_of: TIMESTAMP}
    for role in roles:
        if dtypes.setdefault(role.column, role.dtype) != role.dtype:
            raise _mapping_error(
                f"column '{role.column}' is mapped twice: as {dtypes[role.column]} and as {role.dtype}",
                "Name a separate column for each.",
            )


def _mapped_columns(plan: Plan, mapping: ForeignMapping) -> dict[str, str]:
    """Return the mapped columns, each with the first key of the mapping that names it."""
    columns = {mapping.as_of: "as_of"}
    for role in _roles(plan, mapping):
        columns.setdefault(role.column, role.key)
    for key in ("request_id", "model", "model_version"):
        if (column := getattr(mapping, key)) is not None:
            columns.setdefault(column, key)
    return columns


def _check_columns(columns: Mapping[str, str], known: Sequence[str]) -> None:
    for column, key in columns.items():
        if column not in known:
            raise unknown_column(column, known).error(SourceMissingError, f"{_WHERE}, {key} in the mapping")


def _slice_columns(plan: Plan, by: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of the log to look for slices in, beside keys and request inputs."""
    asked = [column.name for column in (*plan.join_keys, *plan.request)]
    for name in by:
        if name not in known and name not in asked:
            hint = listing("It has", sorted({*known, *asked}), wrong=name)
            raise ConfigError(
                f"the log has no column '{name}'", where=f"{_WHERE}, by", hint=hint, code="unknown-column"
            )
    return tuple(dict.fromkeys(name for name in by if name in known))


def _column_place(place: str, column: str) -> str:
    return f"{_WHERE}{', ' if place else ''}{place}, column '{column}'"


@contextmanager
def _hints_for_mappings() -> Iterator[None]:
    """Replace the hint of a file that cannot be read by one about the mapping."""
    try:
        yield
    except SourceDataError as error:
        if error.code != "corrupt-file":
            raise
        hint = 'Set format = "csv" or format = "parquet" in the mapping, or write the file again.'
        raise SourceDataError(error.problem, where=_WHERE, hint=hint, code=error.code) from error


def _source(place: Any, mapping: ForeignMapping) -> Source:
    if not isinstance(place, str | os.PathLike):
        return FrameSource(_WHERE, frame=place, event_time=mapping.as_of)
    path = os.fspath(place)
    if "://" in path and not path.startswith(("file://", "http://", "https://", "s3://", "gs://")):
        if mapping.table is None and mapping.query is None:
            raise _mapping_error("the mapping of a database names no table", 'Set table = "…" or query = "…".')
        return SqlSource(_WHERE, url=path, table=mapping.table, query=mapping.query, event_time=mapping.as_of)
    # Paths of logs are relative to the working directory, paths of sources to the configuration.
    local = path if "://" in path else os.path.abspath(path)  # noqa: PTH100  # it may be a glob
    options = CsvOptions(null_values=mapping.null_values)
    return FileSource(_WHERE, path=local, event_time=mapping.as_of, format=mapping.format, csv=options)


def _between(instants: pa.Array, since_us: int | None, until_us: int | None) -> Flags:
    """Return which instants are in a range of time."""
    numbers = instants.cast(pa.int64()).to_numpy(zero_copy_only=False)
    chosen = np.ones(len(numbers), dtype=np.bool_)
    if since_us is not None:
        chosen &= numbers >= since_us
    if until_us is not None:
        chosen &= numbers < until_us
    return chosen
