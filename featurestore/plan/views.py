"""Compiler pass over feature views: from aggregations over a source's columns to a ``ViewPlan``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from featurestore.core.dtypes import TIMESTAMP, DType
from featurestore.core.errors import (
    ConfigError,
    InstantError,
    Mistake,
    repeated,
)
from featurestore.core.temporal import duration_name, duration_us, format_duration
from featurestore.definitions.aggregations import Aggregation, Duration, Lifetime
from featurestore.definitions.collection import nodes_of
from featurestore.definitions.expr import Expr
from featurestore.definitions.sources import Source, SqlSource
from featurestore.definitions.udf import find_udf
from featurestore.definitions.views import FeatureView
from featurestore.plan import mistakes
from featurestore.plan.aggregations import SPELLINGS, Params, Refusal, Spelling
from featurestore.plan.checks import (
    Schema,
    epoch_units,
    is_aggregation,
    is_expression,
    parsing_of,
    usable_dtype,
    where_is,
)
from featurestore.plan.codec import canonical, encode
from featurestore.plan.mistakes import Report, place
from featurestore.plan.model import (
    INGEST_COLUMN,
    Column,
    EntityPlan,
    FeaturePlan,
    InputPlan,
    SourcePlan,
    TypedExpr,
    ViewPlan,
)
from featurestore.plan.names import is_name
from featurestore.plan.typing import Scope, infer
from featurestore.plan.udf_trials import trial_mistakes

WINDOW = "{window}"
"""Placeholder for each window in the name of a feature over several windows."""

_LOOK_AHEAD = {"request": "a request input", "as_of": "as_of()", "feature": "another feature"}


@dataclass(frozen=True)
class _Events:
    """The columns that expressions over events may use, and the callback for their mistakes."""

    source: Source
    schema: Schema
    report: Report

    @cached_property
    def scope(self) -> Scope:
        """The scope of expressions: the columns that have a dtype."""
        return Scope(columns={name: dtype for name, dtype in self.schema.items() if dtype is not None})


@dataclass(frozen=True)
class _Draft:
    """A feature before its input has an index."""

    name: str
    spelling: Spelling
    input: InputPlan
    dtype: DType
    window_us: int | None
    resolution_us: int
    ttl_us: int | None
    params: Params


def feature_names(view: FeatureView) -> tuple[str, ...]:
    """Return the names of a view's features, sorted, with the windows filled in."""
    named = ((key, written) for key, written in view.features.items() if isinstance(key, str))
    return tuple(sorted({name for key, written in named for name, _ in named_windows(key, written)}))


def named_windows(key: str, aggregation: Any) -> list[tuple[str, Duration | Lifetime | None]]:
    """Return the features that one entry of a view's ``features`` stands for: their names and windows as written."""
    if not isinstance(aggregation, Aggregation) or not aggregation.windows:
        return [(key, None)]
    return [(key.replace(WINDOW, window_text(window)), window) for window in aggregation.windows]


def window_text(window: Duration | Lifetime) -> str:
    """Return a window as it is written in a feature's name: as the user wrote it, without spaces."""
    if isinstance(window, Lifetime):
        return "lifetime"
    if isinstance(window, str):
        return window.replace(" ", "")
    try:
        return duration_name(duration_us(window))
    except InstantError:
        return "unreadable"


def compile_view(view: FeatureView, entity: EntityPlan | None, schema: Schema, report: Report) -> ViewPlan | None:
    """Compile one feature view; its source is checked elsewhere.

    Args:
        view: A view whose arguments have the right types.
        entity: Its entity; ``None`` if that has mistakes, which are reported elsewhere.
        schema: The columns of its source.
        report: Called with each mistake.

    Returns:
        The plan, or ``None`` if there were mistakes.
    """
    problems: list[Mistake] = []
    where = where_is(view)
    events = _Events(view.source, schema, problems.append)
    condition = _condition(view.where, events, where)
    drafts = [
        draft
        for key, aggregation in view.features.items()
        for draft in _compile_feature(key, aggregation, events, place("feature view", view.name, key))
    ]
    _check_twice(where, [draft.name for draft in drafts], problems.append)
    if entity is not None:
        _check_keys(view, entity, schema, problems.append)
    for mistake in problems:
        report(mistake)
    if problems or entity is None:
        return None
    inputs = tuple(sorted({draft.input for draft in drafts}, key=_canonical_input))
    return ViewPlan(
        name=view.name,
        entity=entity,
        source=_source_plan(view.source, entity, schema, (condition, *_expressions(inputs))),
        refresh=view.refresh,
        inputs=inputs,
        features=tuple(sorted((_feature_plan(draft, inputs) for draft in drafts), key=lambda plan: plan.name)),
        where=condition,
    )


def _canonical_input(source: InputPlan) -> str:
    return canonical(encode(source))


def _expressions(inputs: tuple[InputPlan, ...]) -> Iterator[TypedExpr | None]:
    for source in inputs:
        yield source.value
        yield source.where


def _feature_plan(draft: _Draft, inputs: tuple[InputPlan, ...]) -> FeaturePlan:
    return FeaturePlan(
        name=draft.name,
        aggregation=draft.spelling.aggregate.name,
        input=inputs.index(draft.input),
        dtype=draft.dtype,
        window_us=draft.window_us,
        resolution_us=draft.resolution_us,
        ttl_us=draft.ttl_us,
        params=draft.params,
    )


def _check_twice(where: str, names: list[str], report: Report) -> None:
    for name in repeated(names):
        report(mistakes.duplicate_feature(where, name))


def _check_keys(view: FeatureView, entity: EntityPlan, schema: Schema, report: Report) -> None:
    where = where_is(view)
    for key in entity.keys:
        dtype = usable_dtype(view.source, schema, key.name, where, report)
        if dtype is not None and dtype != key.dtype:
            what = f"key column '{key.name}' of source '{view.source.name}'"
            expected = f"{key.dtype} as in entity '{entity.name}'"
            hint = "Declare the entity's dtype as the source has it, or convert the column where rows are written."
            report(mistakes.wrong_dtype(where, what, dtype, expected, hint))


def _source_plan(
    source: Source, entity: EntityPlan, schema: Schema, expressions: tuple[TypedExpr | None, ...]
) -> SourcePlan:
    """Return the part of a source that decides which events a view reads, above all the columns."""
    names = {key.name for key in entity.keys} | {source.event_time}
    names |= {name for name in (source.ingest_time, source.event_id) if name is not None}
    names |= {name for expression in expressions if expression is not None for name in columns_of(expression)}
    columns = {name: schema.get(name) for name in names}
    ingest_time = None if source.ingest_time == source.event_time else source.ingest_time
    if source.stream and ingest_time is None:
        ingest_time = INGEST_COLUMN
        columns[INGEST_COLUMN] = TIMESTAMP
    epochs = epoch_units(source)
    if INGEST_COLUMN in columns and source.event_time in epochs:
        # Outside the log it is the event time.
        epochs[INGEST_COLUMN] = epochs[source.event_time]
    return SourcePlan(
        name=source.name,
        columns=tuple(Column(name, dtype) for name, dtype in sorted(columns.items()) if dtype is not None),
        event_time=source.event_time,
        ingest_time=ingest_time,
        event_id=source.event_id,
        timezone=source.timezone,
        inclusive=source.inclusive,
        rows=source.rows if isinstance(source, SqlSource) else None,
        parsing=parsing_of(source),
        **_clock_options(source),
        epochs=tuple((name, unit) for name, unit in sorted(epochs.items()) if name in columns),
    )


def _clock_options(source: Source) -> dict[str, Any]:
    """Return how naive timestamps are read; without a zone there are none, so the options change no value."""
    return {} if source.timezone is None else {"ambiguous": source.ambiguous, "nonexistent": source.nonexistent}


def columns_of(expression: TypedExpr) -> Iterator[str]:
    """Yield the names of the columns an expression reads."""
    if expression.op == "column":
        yield str(expression.param("name"))
    for operand in expression.args:
        yield from columns_of(operand)


def _compile_feature(key: Any, aggregation: object, events: _Events, where: str) -> Iterator[_Draft]:
    """Compile one entry of ``features``: a feature, or one per window."""
    report = events.report
    if not is_aggregation(aggregation, where, report):
        return
    spelling = SPELLINGS.get(aggregation.name)
    if spelling is None:
        report(mistakes.bad_option(where, "the aggregation", aggregation.name, f"one of {', '.join(SPELLINGS)}"))
        return
    value, dtype = _operand(aggregation, spelling, events, where)
    condition = _condition(aggregation.where, events, where)
    params = _params(aggregation, spelling, where, report)
    ttl_us = _time_to_live(aggregation, spelling, where, report)
    for name, window_us, resolution_us in _windows(key, aggregation, spelling, where, report):
        if dtype is not None and params is not None:
            yield _Draft(name, spelling, InputPlan(value, condition), dtype, window_us, resolution_us, ttl_us, params)


def _operand(
    aggregation: Aggregation, spelling: Spelling, events: _Events, where: str
) -> tuple[TypedExpr | None, DType | None]:
    """Return the typed operand and the dtype of the result; no dtype if there was a mistake."""
    if aggregation.value is None:
        dtype = spelling.aggregate.over_events
        if dtype is None:
            example = f"agg.{aggregation.name}(col('x'))"
            events.report(mistakes.wrong_kind(where, "the operand", None, "an expression", f"Write {example}."))
        return None, dtype
    value = _type_over_events(aggregation.value, events, where, "the operand")
    if value is None:
        return None, None
    result = spelling.aggregate.gives(value.dtype)
    if isinstance(result, Refusal):
        events.report(Mistake(where, f"agg.{aggregation.name} {result.problem}", result.hint, "wrong-dtype"))
        return None, None
    return value, result


def _condition(condition: Expr | None, events: _Events, where: str) -> TypedExpr | None:
    if condition is None:
        return None
    typed = _type_over_events(condition, events, where, "where")
    if typed is not None and typed.dtype.kind != "bool":
        events.report(mistakes.wrong_dtype(where, "where", typed.dtype, "bool", "Compare it: col('x') > 0."))
    return typed


def _type_over_events(expression: Expr, events: _Events, where: str, what: str) -> TypedExpr | None:
    """Type an expression over a source's columns, or report what it cannot read."""
    if not is_expression(expression, where, what, events.report):
        return None
    problems: list[Mistake] = []
    for node in nodes_of(expression):
        if node.op in _LOOK_AHEAD:
            problems.append(mistakes.look_ahead(where, _LOOK_AHEAD[node.op]))
        elif node.op == "column":
            usable_dtype(events.source, events.schema, str(dict(node.params)["name"]), where, problems.append)
    problems += udf_mistakes(expression, where)
    for mistake in dict.fromkeys(problems):
        events.report(mistake)
    if problems:
        return None
    typed = infer(expression, events.scope, events.report, where)
    return None if typed is None else without_trial_mistakes(typed, where, events.report)


def without_trial_mistakes(expression: TypedExpr, where: str, report: Report) -> TypedExpr | None:
    """Return an expression if all of its functions pass their trials; report those that fail."""
    problems = list(dict.fromkeys(trial_mistakes(expression, where)))
    for mistake in problems:
        report(mistake)
    return None if problems else expression


def udf_mistakes(expression: Expr, where: str) -> Iterator[Mistake]:
    """Yield the mistakes of user-defined functions inside an expression."""
    for node in nodes_of(expression):
        if node.op == "udf":
            params: Mapping[str, Any] = dict(node.params)
            try:
                problems = list(find_udf(params["name"], params["source"]).problems())
            except ConfigError as error:
                problems = [error.problem]
            yield from (mistakes.impure_udf(where, params["name"], problem) for problem in problems)


def _params(aggregation: Aggregation, spelling: Spelling, where: str, report: Report) -> Params | None:
    params = dict(spelling.fixed)
    for name, option in spelling.options.items():
        read = option.read(aggregation.options.get(name))
        if read is None:
            report(mistakes.bad_option(where, name, aggregation.options.get(name), option.expected))
            return None
        params[read[0]] = read[1]
    return tuple(sorted(params.items()))


def _time_to_live(aggregation: Aggregation, spelling: Spelling, where: str, report: Report) -> int | None:
    if aggregation.time_to_live is None:
        return None
    if not spelling.aggregate.takes_ttl:
        report(mistakes.misplaced_ttl(where, f"agg.{aggregation.name}"))
        return None
    length = _length(aggregation.time_to_live, where, report)
    if length == 0:
        report(mistakes.empty_window(where, "a ttl"))
    return length


def _windows(
    key: Any, aggregation: Aggregation, spelling: Spelling, where: str, report: Report
) -> Iterator[tuple[str, int | None, int]]:
    """Yield name, length and resolution of each feature, or report why its windows cannot be read."""
    if not isinstance(key, str):
        report(mistakes.bad_name(where, key))
        return
    if not aggregation.windows and not spelling.aggregate.defaults_to_lifetime:
        report(mistakes.missing_window(where, f"agg.{aggregation.name}"))
    if len(aggregation.windows) > 1 and WINDOW not in key:
        report(mistakes.ambiguous_window(where, len(aggregation.windows)))
        return
    resolution_us = _length(aggregation.resolution, where, report) if aggregation.resolution is not None else 0
    for name, window in named_windows(key, aggregation):
        if not is_name(name):
            report(mistakes.bad_name(where, name))
        length = (
            None
            if window is None or isinstance(window, Lifetime)
            else _window_length(window, resolution_us, where, report)
        )
        yield name, length, 0 if length is None else resolution_us or 0


def _window_length(window: Any, resolution_us: int | None, where: str, report: Report) -> int | None:
    length = _length(window, where, report)
    if length == 0:
        report(mistakes.empty_window(where, "a window"))
    elif length is not None and (resolution_us or 0) > length:
        expected = f"no more than the window, {format_duration(length)}"
        report(mistakes.bad_option(where, "resolution", format_duration(resolution_us or 0), expected))
    return length


def _length(duration: Any, where: str, report: Report) -> int | None:
    try:
        return duration_us(duration)
    except InstantError as error:
        report(Mistake(where, error.problem, error.hint, error.code))
        return None
