"""Compiler passes over names, entities and sources, which run before the passes over views.

A definition holds the user's arguments, whatever their types; after these passes the types are right.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeGuard, get_args

from featurestore.core.dtypes import (
    DATE,
    INT64,
    STRING,
    DType,
    parse_dtype,
)
from featurestore.core.errors import Mistake
from featurestore.core.temporal import (
    EPOCH_UNITS,
    Ambiguous,
    Nonexistent,
    Refresh,
    is_timezone,
)
from featurestore.definitions.aggregations import Aggregation
from featurestore.definitions.collection import Definition, Definitions
from featurestore.definitions.entities import DTypeLike, Entity
from featurestore.definitions.expr import Expr
from featurestore.definitions.services import FeatureService, Listed
from featurestore.definitions.sources import CsvOptions, FileSource, Source, SqlSource
from featurestore.definitions.views import FeatureReference, FeatureView, OnDemandFeatureView, Selectable
from featurestore.plan import mistakes
from featurestore.plan.mistakes import Report, place, wrong_kind
from featurestore.plan.model import LOG_COLUMNS, Column, EntityPlan, Param
from featurestore.plan.names import AS_OF, is_name
from featurestore.plan.sql_text import dialect_of, impurity

Schema = Mapping[str, DType | None]
"""Columns of a source with their dtypes; ``None`` for types that have no dtype here."""


def kind_of(definition: Definition) -> str:
    """Return the name of a definition's kind, for messages."""
    if isinstance(definition, Entity):
        return "entity"
    if isinstance(definition, Source):
        return "source"
    if isinstance(definition, FeatureView):
        return "feature view"
    if isinstance(definition, OnDemandFeatureView):
        return "on-demand feature view"
    return "feature service"


def where_is(definition: Definition) -> str:
    """Return the place of a definition in messages: ``"source 'flights'"``."""
    return place(kind_of(definition), definition.name)


def check_names(definitions: Definitions, report: Report) -> None:
    """Report names that are not valid, and names of two definitions of one kind."""
    groups: dict[str, tuple[Definition, ...]] = {
        "entities": definitions.entities,
        "sources": definitions.sources,
        "feature views": (*definitions.views, *definitions.on_demand),
        "feature services": definitions.services,
    }
    for what, group in groups.items():
        _check_group(what, group, report)


def _check_group(what: str, group: Iterable[Definition], report: Report) -> None:
    seen: set[str] = set()
    for definition in group:
        if not is_name(definition.name):
            report(mistakes.bad_name(kind_of(definition), definition.name))
        elif definition.name in seen:
            report(mistakes.duplicate_name(where_is(definition), what))
        seen.add(str(definition.name))


def check_shapes(definitions: Definitions, report: Report) -> Definitions:
    """Report arguments of wrong Python types and return the definitions that have none of these."""
    return Definitions(
        entities=tuple(entity for entity in definitions.entities if isinstance(entity.name, str)),
        sources=tuple(source for source in definitions.sources if _is_sound(_source_shape(source), report)),
        views=tuple(view for view in definitions.views if _is_sound(_view_shape(view), report)),
        on_demand=tuple(view for view in definitions.on_demand if _is_sound(_on_demand_shape(view), report)),
        services=tuple(service for service in definitions.services if _is_sound(_service_shape(service), report)),
    )


def _is_sound(problems: Iterable[Mistake | None], report: Report) -> bool:
    """Report mistakes and return whether there were none; ``None`` is a mistake that is reported elsewhere."""
    is_sound = True
    for problem in problems:
        is_sound = False
        if problem is not None:
            report(problem)
    return is_sound


def _name_shape(definition: Definition) -> Iterator[None]:
    """Yield a mistake if a name is not text: ``check_names`` reports it."""
    if not isinstance(definition.name, str):
        yield None


def _source_shape(source: Source) -> Iterator[Mistake | None]:
    yield from _name_shape(source)
    for options, kind, expected, is_optional in _OPTION_KINDS:
        for option in options:
            value = getattr(source, option, _ABSENT)
            if value is not _ABSENT and not isinstance(value, kind) and not (value is None and is_optional):
                hint = "Write dtypes={'amount': 'float64'}." if option == "dtypes" else ""
                yield wrong_kind(where_is(source), option, value, expected, hint)


_ABSENT = object()

_OPTION_KINDS: tuple[tuple[tuple[str, ...], type, str, bool], ...] = (
    (("event_time", "on_null", "path", "url", "ambiguous", "nonexistent"), str, "text", False),
    (("ingest_time", "event_id", "timezone", "format", "table", "query"), str, "text", True),
    (("inclusive", "stream"), bool, "True or False", False),
    (("dtypes",), Mapping, "a mapping from column to dtype", False),
    (("csv",), CsvOptions, "CsvOptions(…)", False),
)
"""Options of sources: their Python type, the type in words, and whether they may be ``None``."""


def _view_shape(view: FeatureView) -> Iterator[Mistake | None]:
    where = where_is(view)
    yield from _name_shape(view)
    if not isinstance(view.entity, Entity):
        hint = "A view has one entity; several key columns are one entity: key=('buyer', 'seller')."
        yield wrong_kind(
            where, "entity", view.entity, "an Entity", hint if isinstance(view.entity, list | tuple) else ""
        )
    if not isinstance(view.source, Source):
        yield wrong_kind(where, "source", view.source, "a FileSource, SqlSource or FrameSource")
    if not isinstance(view.refresh, Refresh):
        yield wrong_kind(where, "refresh", view.refresh, "continuous() or every(…)")
    yield from _features_shape(where, view.features, "Write features={'spent_7d': agg.sum(col('amount')).over('7d')}.")


def _on_demand_shape(view: OnDemandFeatureView) -> Iterator[Mistake | None]:
    where = where_is(view)
    yield from _name_shape(view)
    yield from _features_shape(where, view.features, "Write features={'doubled': view['spent_7d'] * 2}.")
    if not isinstance(view.request, Mapping):
        hint = "Write request={'amount': 'float64'}."
        yield wrong_kind(where, "request", view.request, "a mapping from input to dtype", hint)


def _service_shape(service: FeatureService) -> Iterator[Mistake | None]:
    where = where_is(service)
    yield from _name_shape(service)
    if not isinstance(service.features, list | tuple):
        yield wrong_kind(where, "features", service.features, "a list", "Write features=[view, other['a', 'b']].")
        return
    if not service.features:
        yield mistakes.nothing_in_it(where, "List views, or features of views.")
    if not isinstance(service.policy, Mapping):
        yield wrong_kind(where, "policy", service.policy, "a mapping", "It has the keys of [policies.NAME].")


def _features_shape(where: str, features: object, example: str) -> Iterator[Mistake]:
    if not isinstance(features, Mapping):
        yield wrong_kind(where, "features", features, "a mapping from name to feature", example)
    elif not features:
        yield mistakes.nothing_in_it(where, "Add one to its features, or take it out.")


def is_expression(value: object, where: str, what: str, report: Report) -> bool:
    """Return whether a value is an expression; report it with a hint if not."""
    if not isinstance(value, Expr):
        report(wrong_kind(where, what, value, "an expression", _expression_hint(value)))
        return False
    return True


def _expression_hint(value: object) -> str:
    if isinstance(value, Aggregation):
        return "Put aggregations into a FeatureView and refer to them: view['feature']."
    return f"Write col({value!r})." if isinstance(value, str) else f"Write lit({value!r})."


def is_aggregation(value: object, where: str, report: Report) -> TypeGuard[Aggregation]:
    """Return whether a value is an aggregation; report it with a hint if not."""
    if not isinstance(value, Aggregation):
        hint = "Write how events are aggregated: agg.last(col('x')), agg.sum(col('x')).over('7d')."
        report(wrong_kind(where, "the feature", value, "an aggregation", hint))
        return False
    return True


def is_listable(value: object, where: str, what: str, report: Report) -> TypeGuard[Listed]:
    """Return whether a service can list a value; report it if not."""
    if not isinstance(value, Selectable | FeatureReference):
        hint = "Compute it in an OnDemandFeatureView and list that." if isinstance(value, Expr) else ""
        report(wrong_kind(where, what, value, "a view, view['feature'] or view.aliased(…)", hint))
        return False
    return True


def compile_entity(entity: Entity, report: Report) -> EntityPlan | None:
    """Return an entity's key columns with their dtypes, or report their mistakes."""
    where = where_is(entity)
    problems = list(_key_mistakes(entity, where))
    columns = tuple(Column(key, _key_dtype(where, key, dtype, problems.append)) for key, dtype in entity.columns)
    for mistake in problems:
        report(mistake)
    return None if problems else EntityPlan(entity.name, columns)


def _key_mistakes(entity: Entity, where: str) -> Iterator[Mistake]:
    if not entity.keys:
        yield mistakes.bad_option(where, "key", entity.key, "a column, or a tuple of columns")
    if isinstance(entity.dtype, tuple) and len(entity.dtype) > len(entity.keys):
        yield mistakes.bad_option(where, "dtype", entity.dtype, f"{len(entity.keys)} dtypes, one per key")
    if isinstance(entity.dtype, Mapping):
        unknown = sorted(set(entity.dtype) - set(entity.keys))
        yield from (mistakes.unknown_key(where, key, entity.name, entity.keys) for key in unknown)
    for key in dict.fromkeys(key for key in entity.keys if entity.keys.count(key) > 1):
        yield mistakes.bad_option(where, "key", entity.keys, f"'{key}' once")


def _key_dtype(where: str, key: object, dtype: DTypeLike | None, report: Report) -> DType:
    if not isinstance(key, str) or not key:
        report(wrong_kind(where, "a key", key, "the name of a column"))
    elif key == AS_OF:
        report(mistakes.reserved_name(where, "key", key))
    if dtype is None:
        report(wrong_kind(where, f"the dtype of key '{key}'", dtype, "a dtype"))
        return STRING
    read = read_dtype(where, dtype, report)
    if read is not None and read.kind in ("float64", "list"):
        hint = "Keys are compared for equality; use int64, string, date, timestamp, decimal, bool or binary."
        report(mistakes.wrong_dtype(where, f"key '{key}'", read, "a dtype that keys can have", hint))
    return read or STRING


def read_dtype(where: str, dtype: object, report: Report) -> DType | None:
    """Return the dtype that a user wrote, or report why it is not valid."""
    if not isinstance(dtype, str | DType):
        report(wrong_kind(where, "a dtype", dtype, "its name, for instance 'int64'"))
        return None
    try:
        return parse_dtype(dtype)
    except ValueError as error:
        report(mistakes.unknown_dtype(where, str(error)))
        return None


def check_options(source: Source, report: Report) -> None:
    """Report options of a source that are wrong for any columns."""
    where = where_is(source)
    for option, value, allowed in (
        ("on_null", source.on_null, ("error", "drop")),
        ("format", getattr(source, "format", None) or "parquet", ("parquet", "csv")),
    ):
        if value not in allowed:
            report(mistakes.bad_option(where, option, value, " or ".join(map(repr, allowed))))
    if source.timezone is not None and not is_timezone(source.timezone):
        report(mistakes.bad_option(where, "timezone", source.timezone, "a zone such as 'UTC' or 'America/New_York'"))
    if isinstance(source, SqlSource):
        _check_sql(source, where, report)
    if isinstance(source, FileSource):
        _check_csv(source.csv, where, report)
    for option, value, allowed in (
        ("ambiguous", source.ambiguous, get_args(Ambiguous)),
        ("nonexistent", source.nonexistent, get_args(Nonexistent)),
    ):
        if value not in allowed:
            report(mistakes.bad_option(where, option, value, " or ".join(map(repr, allowed))))
    for dtype in getattr(source, "dtypes", {}).values():
        if not is_epoch(dtype):
            read_dtype(where, dtype, report)


_EPOCH_DTYPES = frozenset(f"timestamp[{unit}]" for unit in EPOCH_UNITS)


def is_epoch(dtype: object) -> bool:
    """Return whether a declared dtype is one of numbers that count the time since 1970."""
    return isinstance(dtype, str) and dtype in _EPOCH_DTYPES


def epoch_units(source: Source) -> dict[str, str]:
    """Return the columns that a source declares as numbers of time since 1970, with their units."""
    declared: Mapping[str, DTypeLike] = getattr(source, "dtypes", {})
    return {name: str(dtype).removeprefix("timestamp[")[:-1] for name, dtype in declared.items() if is_epoch(dtype)}


def check_columns(source: Source, schema: Schema, report: Report) -> None:
    """Report columns that a source names but does not have, and columns of a wrong dtype."""
    where = where_is(source)
    for name in getattr(source, "dtypes", {}):
        if name not in schema:
            report(mistakes.unknown_column(where, name, source.name, schema))
    _check_times(source, schema, where, report)


def readable_sources(definitions: Definitions) -> tuple[Source, ...]:
    """Return the sources whose columns can be read: those whose options are valid.

    The compiler reports the mistakes of the others without their schemas.
    """
    readable = []
    for source in check_shapes(definitions, lambda _: None).sources:
        wrong: list[Mistake] = []
        check_options(source, wrong.append)
        if not wrong:
            readable.append(source)
    return tuple(readable)


def _check_csv(options: CsvOptions, where: str, report: Report) -> None:
    lengths = {
        "delimiter": (options.delimiter, 1, 4),
        "quote": (options.quote, 0, 1),
        "comment": (options.comment, 0, 1),
    }
    for name, (text, least, most) in lengths.items():
        if text is None and name == "delimiter":
            continue
        if not isinstance(text, str) or not least <= len(text.encode()) <= most or set(text) & set("\r\n"):
            expected = f"{least} to {most} characters, none of them a line end"
            report(mistakes.bad_option(where, f"csv=CsvOptions({name})", text, expected))
    try:
        codecs.lookup(options.encoding)
    except (LookupError, TypeError):
        expected = "an encoding that Python knows, such as 'utf-8', 'latin-1' or 'cp1252'"
        report(mistakes.bad_option(where, "csv=CsvOptions(encoding)", options.encoding, expected))


def _check_sql(source: SqlSource, where: str, report: Report) -> None:
    if (source.table is None) == (source.query is None):
        got = "neither" if source.table is None else "both"
        report(mistakes.bad_option(where, "table or query", got, "exactly one of them"))
    elif source.query is not None and (word := impurity(source.query, dialect_of(source.url))) is not None:
        report(mistakes.impure_query(where, word))


def _check_times(source: Source, schema: Schema, where: str, report: Report) -> None:
    for reserved in sorted(LOG_COLUMNS & schema.keys()) if source.stream else ():
        report(mistakes.reserved_name(where, "column", reserved))
    times = {"event_time": source.event_time, "ingest_time": source.ingest_time}
    for option, column in times.items():
        dtype = usable_dtype(source, schema, column, where, report) if column is not None else None
        if dtype is not None and dtype.kind != "timestamp":
            hint = _instants_hint(str(column), dtype)
            report(mistakes.wrong_dtype(where, f"{option} column '{column}'", dtype, "timestamp", hint))
    if source.event_id is not None:
        dtype = usable_dtype(source, schema, source.event_id, where, report)
        if dtype is not None and dtype.kind in ("float64", "list"):
            what = f"event_id column '{source.event_id}'"
            report(mistakes.wrong_dtype(where, what, dtype, "a dtype that is compared for equality, such as int64"))


def _instants_hint(column: str, dtype: DType) -> str:
    """Return how to declare a column of another dtype as one of instants, if that can be done."""
    if dtype == INT64 or dtype.kind in ("float64", "decimal"):
        return (
            "Declare the unit of its numbers since 1970, s, ms, us or ns: for milliseconds "
            f"dtypes={{'{column}': 'timestamp[ms]'}}."
        )
    if dtype == DATE:
        return f"To read dates as their midnights, write dtypes={{'{column}': 'timestamp'}} and timezone='UTC'."
    if dtype == STRING:
        return f"If its text is ISO 8601, declare the column: dtypes={{'{column}': 'timestamp'}}."
    return "Write instants where the rows are written."


def usable_dtype(source: Source, schema: Schema, column: str, where: str, report: Report) -> DType | None:
    """Return the dtype of a source's column, or report that the column does not exist or has no dtype."""
    if column not in schema:
        report(mistakes.unknown_column(where, column, source.name, schema))
        return None
    dtype = schema[column]
    if dtype is None:
        report(mistakes.unsupported_column(where, column, source.name, getattr(schema, "types", {}).get(column, "")))
        return None
    return dtype


def parsing_of(source: Source) -> tuple[tuple[str, Param], ...]:
    """Return the options that decide how a CSV source's text is read as values, those at their default left out."""
    if not isinstance(source, FileSource) or source.file_format != "csv":
        return ()
    default, options = CsvOptions(), source.csv
    values: dict[str, Param] = {
        "columns": options.columns,
        "comment": options.comment,
        "delimiter": options.delimiter,
        "encoding": options.encoding,
        "header": options.header,
        "null_values": options.null_values,
        "quote": options.quote,
    }
    return tuple((name, value) for name, value in sorted(values.items()) if value != getattr(default, name))
