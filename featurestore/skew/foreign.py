"""Logs that other systems wrote, as rows that an audit can compare.

What such a log does not say stays unsaid: statuses are not compared, there are no watermarks, and features that are not
mapped are left out of the plan that is asked.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, ValidationError

from featurestore.definitions.sources import FileSource, FrameSource, Source, SqlSource
from featurestore.dtypes import INT64, STRING, TIMESTAMP, DType, read_value
from featurestore.errors import ConfigError, SourceDataError, listing
from featurestore.online.serving_log import log_schema
from featurestore.plan.model import Column, OnDemandFeature, Plan, TypedExpr
from featurestore.skew.compare import NOT_LOGGED
from featurestore.sources import ReadSettings, open_rows
from featurestore.sources.convert import to_contract
from featurestore.temporal import MICROSECONDS

_WHERE = "foreign log"
_HINTS = {
    "naive-timestamps": 'Say in the mapping which zone they are in: timezone = "UTC".',
    "ambiguous-local-time": "Log instants in UTC, or leave these rows out.",
}
_UNITS = {"s": MICROSECONDS["s"], "ms": MICROSECONDS["ms"], "us": 1}


class ForeignMapping(BaseModel):
    """Which column of a log holds what; a TOML file with these keys.

    Attributes:
        as_of: Column of the instant that was asked about.
        as_of_unit: What its numbers count since 1970, if it holds numbers: ``"s"``, ``"ms"`` or ``"us"``.
        timezone: Zone of timestamps that say none.
        keys: Column of each key column of the service.
        request: Column of each request input.
        features: Column of each feature; features left out are not compared.
        constants: Values of keys and request inputs that are the same in all rows.
        request_id: Column that names the request.
        model: Column of the model that asked.
        model_version: Column of its version.
        table: Table that holds the log, in a database.
        query: SQL text that gives the log, in a database.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    as_of: str
    as_of_unit: Literal["s", "ms", "us"] | None = None
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


def read_mapping(path: str | os.PathLike[str]) -> ForeignMapping:
    """Read a mapping from a TOML file.

    Raises:
        ConfigError: There is no such file, it is no TOML, or a key is unknown, missing or of a wrong type.
    """
    where = f"mapping '{path}'"
    try:
        document = tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise ConfigError(str(error.strerror), where=where, hint="Name a TOML file.", code="mapping") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"it is no TOML: {error}", where=where, code="mapping") from None
    try:
        return ForeignMapping.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        hint = f"Keys are {', '.join(ForeignMapping.model_fields)}."
        raise ConfigError(f"{place}: {first['msg']}", where=where, hint=hint, code="mapping") from None


@dataclass(frozen=True)
class ForeignLog:
    """A log of another system, laid out as the plan wants it.

    Attributes:
        plan: The service's plan, of the mapped features alone.
        left_out: Features of the service that are not mapped.
        source: Where the rows lie.
        mapping: Which column holds what.
        settings: What reading may use.
    """

    plan: Plan
    left_out: tuple[str, ...]
    source: Source
    mapping: ForeignMapping
    settings: ReadSettings

    @classmethod
    def open(cls, plan: Plan, place: Any, mapping: ForeignMapping, settings: ReadSettings) -> ForeignLog:
        """Match a mapping with a service.

        Args:
            plan: The service's plan.
            place: Parquet or CSV file or glob, the SQLAlchemy URL of a database, or a frame.
            mapping: Which column holds what.
            settings: What reading may use.

        Raises:
            ConfigError: The mapping names what the service does not have, or lacks what it needs.
        """
        names = [output.name for output in plan.outputs]
        _check_known("features", mapping.features, names)
        own = _of_features(plan, mapping.features)
        given = {**dict.fromkeys(mapping.keys), **dict.fromkeys(mapping.request), **mapping.constants}
        needed = [column.name for column in (*own.join_keys, *own.request)]
        _check_known("keys", mapping.keys, [column.name for column in plan.join_keys])
        _check_known("request", mapping.request, [column.name for column in plan.request])
        _check_known("constants", mapping.constants, [column.name for column in (*plan.join_keys, *plan.request)])
        for name in needed:
            if name not in given:
                part = "keys" if name in {column.name for column in own.join_keys} else "request"
                hint = f"Name its column under [{part}], or its value under [constants]."
                raise ConfigError(f"'{name}' is not mapped", where=_WHERE, hint=hint, code="not-mapped")
        left_out = tuple(name for name in names if name not in mapping.features)
        return cls(own, left_out, _source(place, mapping, _dtypes(own, mapping)), mapping, settings)

    def tables(self, *, since_us: int | None, until_us: int | None) -> Iterator[pa.Table]:
        """Read the log, piece by piece, with the columns of a serving log except watermarks.

        Args:
            since_us: First instant asked about; all if ``None``.
            until_us: One past the last; all if ``None``.

        Raises:
            SourceError: It cannot be read, lacks a column, or holds what is no value of a feature.
        """
        first = 0
        for columns in self._pieces(_dtypes(self.plan, self.mapping)):
            count = len(next(iter(columns.values())))
            table = self._laid_out(columns, count, first)
            first += count
            if (kept := _between(table, since_us, until_us)).num_rows:
                yield kept

    def range_us(self, *, since_us: int | None, until_us: int | None) -> tuple[int, int]:
        """Return the first instant asked about and one past the last; what is given is not looked for in the log.

        Raises:
            SourceError: The log cannot be read, or lacks the column.
        """
        if since_us is not None and until_us is not None:
            return since_us, until_us
        name = self.mapping.as_of
        dtype = _dtypes(self.plan, self.mapping)[name]
        ends = [pc.min_max(self._instants(piece[name]).cast(pa.int64())) for piece in self._pieces({name: dtype})]
        lowest = min((end["min"].as_py() for end in ends if end["min"].is_valid), default=0)
        highest = max((end["max"].as_py() for end in ends if end["max"].is_valid), default=0)
        return lowest if since_us is None else since_us, highest + 1 if until_us is None else until_us

    def _pieces(self, dtypes: Mapping[str, DType]) -> Iterator[dict[str, pa.Array]]:
        """Read some columns of the log in contract dtypes, piece by piece."""
        rows = open_rows(self.source, [Column(name, dtype) for name, dtype in dtypes.items()], self.settings)
        try:
            for number in range(len(rows.piece_rows)):
                place = rows.place(number) or _WHERE
                piece = rows.read_piece(number, list(dtypes))
                yield {
                    name: self._read(piece.column(name), dtype, f"{place}, column '{name}'")
                    for name, dtype in dtypes.items()
                }
        finally:
            rows.close()

    def _read(self, column: pa.ChunkedArray, dtype: DType, where: str) -> pa.Array:
        """Read a column; what helps is said in the words of a mapping."""
        try:
            return to_contract(column, dtype, timezone=self.mapping.timezone, where=where)[0]
        except SourceDataError as error:
            hint = _HINTS.get(error.code, f"Map a column that holds {dtype} values.")
            raise SourceDataError(error.problem, where=where, hint=hint, code=error.code) from error

    def _laid_out(self, columns: Mapping[str, pa.Array], count: int, first: int) -> pa.Table:
        mapping, plan = self.mapping, self.plan
        numbers = pa.array(np.arange(first, first + count))
        found: dict[str, pa.Array] = {
            "request_id": _text(columns, mapping.request_id, default=numbers.cast(pa.string())),
            "row": numbers,
            "as_of": self._instants(columns[mapping.as_of]),
            "service": pa.array([plan.name] * count, pa.string()),
            "fingerprint": pa.array([plan.fingerprint] * count, pa.string()),
        }
        for name in ("model", "model_version"):
            if (column := getattr(mapping, name)) is not None:
                found[name] = columns[column].cast(pa.string())
        for prefix, wanted, chosen in (
            ("key__", plan.join_keys, mapping.keys),
            ("request__", plan.request, mapping.request),
        ):
            for column in wanted:
                found[f"{prefix}{column.name}"] = (
                    columns[chosen[column.name]] if column.name in chosen else self._constant(column, count)
                )
        for output in plan.outputs:
            found[f"value__{output.name}"] = columns[mapping.features[output.name]]
            found[f"status__{output.name}"] = pa.array(np.full(count, NOT_LOGGED, dtype=np.uint8))
        types = log_schema(plan)
        arrays = {
            name: array.cast(types.field(name).type) if name in types.names else array for name, array in found.items()
        }
        return pa.table(arrays)

    def _instants(self, column: pa.Array) -> pa.Array:
        if self.mapping.as_of_unit is None:
            return column
        return pc.multiply_checked(column, _UNITS[self.mapping.as_of_unit]).cast(TIMESTAMP.arrow)

    def _constant(self, column: Column, count: int) -> pa.Array:
        try:
            value = read_value(column.dtype, self.mapping.constants[column.name])
        except ValueError as error:
            raise ConfigError(f"{column.name}: {error}", where=f"{_WHERE}, constants", code="mapping") from None
        return pa.array([value] * count, column.dtype.arrow)


def _check_known(part: str, names: Mapping[str, Any], known: list[str]) -> None:
    for name in names:
        if name not in known:
            hint = listing("It has", known, wrong=name)
            raise ConfigError(
                f"the service has no '{name}'", where=f"{_WHERE}, mapping [{part}]", hint=hint, code="mapping"
            )


def _of_features(plan: Plan, names: Mapping[str, str]) -> Plan:
    """Return a plan of some features only: of the views, on-demand features and request inputs these need."""
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


def _dtypes(plan: Plan, mapping: ForeignMapping) -> dict[str, DType]:
    """Return the columns of the log that are read, with the dtypes they must have."""
    roles = [(mapping.as_of, TIMESTAMP if mapping.as_of_unit is None else INT64)]
    roles += [(name, STRING) for name in (mapping.request_id, mapping.model, mapping.model_version) if name is not None]
    for wanted, chosen in ((plan.join_keys, mapping.keys), (plan.request, mapping.request)):
        roles += [(chosen[column.name], column.dtype) for column in wanted if column.name in chosen]
    roles += [(mapping.features[output.name], output.dtype) for output in plan.outputs]
    found: dict[str, DType] = {}
    for name, dtype in roles:
        if found.setdefault(name, dtype) != dtype:
            raise ConfigError(
                f"column '{name}' is mapped twice: as {found[name]} and as {dtype}",
                where=_WHERE,
                hint="Name the column that holds each of them.",
                code="mapping",
            )
    return found


def _source(place: Any, mapping: ForeignMapping, dtypes: Mapping[str, DType]) -> Source:
    if not isinstance(place, str):
        return FrameSource(_WHERE, frame=place, event_time=mapping.as_of, timezone=mapping.timezone)
    if "://" in place and not place.startswith(("file://", "http://", "https://", "s3://", "gs://")):
        if mapping.table is None and mapping.query is None:
            hint = 'Say in the mapping which: table = "…" or query = "…".'
            raise ConfigError("a database holds many tables", where=_WHERE, hint=hint, code="mapping")
        return SqlSource(
            _WHERE,
            url=place,
            table=mapping.table,
            query=mapping.query,
            event_time=mapping.as_of,
            timezone=mapping.timezone,
            dtypes=dtypes,
        )
    # A log is named on a command line, from wherever that is; sources count from the configuration.
    path = place if "://" in place else os.path.abspath(place)  # noqa: PTH100  # it may be a glob
    return FileSource(_WHERE, path=path, event_time=mapping.as_of, timezone=mapping.timezone, dtypes=dtypes)


def _text(columns: Mapping[str, pa.Array], name: str | None, *, default: pa.Array) -> pa.Array:
    return default if name is None else columns[name]


def _between(table: pa.Table, since_us: int | None, until_us: int | None) -> pa.Table:
    """Return the rows asked about in a range of time; those without an instant are an error of the log."""
    instants = table.column("as_of").cast(pa.int64())
    if instants.null_count:
        raise ConfigError(
            f"{instants.null_count} rows have no as_of",
            where=_WHERE,
            hint="Map the column of the instant that was asked about, or leave these rows out.",
            code="null-as-of",
        )
    kept = table
    if since_us is not None:
        kept = kept.filter(pc.greater_equal(kept.column("as_of").cast(pa.int64()), since_us))
    if until_us is not None:
        kept = kept.filter(pc.less(kept.column("as_of").cast(pa.int64()), until_us))
    return kept
