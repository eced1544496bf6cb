"""From Feast's questions to answers of the store, and back to Feast's columns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from featurestore.config import ServerConfig
from featurestore.core.answers import OnlineFeatures
from featurestore.core.dtypes import TIMESTAMP, DType
from featurestore.core.errors import (
    FingerprintMismatchError,
    InstantError,
    RequestError,
    StateError,
    UnknownName,
    UnknownServiceError,
    ValueOverflowError,
    json_pointer,
    listing,
    unknown_feature,
    unknown_view,
)
from featurestore.core.statuses import ERROR, Status
from featurestore.core.temporal import format_instant, instant_us, to_datetime
from featurestore.plan.model import Column, Plan, ViewPlan
from featurestore.plan.names import feature_column, split_column
from featurestore.server.feast.messages import FeastColumn, FeastNames, FeastQuestion, FeastReply
from featurestore.server.formats import check_size
from featurestore.server.problems import RefusedError, too_large
from featurestore.store import FeatureStore

STATUSES = {
    Status.PRESENT.name: "PRESENT",
    Status.NULL.name: "NULL_VALUE",
    Status.NOT_FOUND.name: "NOT_FOUND",
    Status.EXPIRED.name: "OUTSIDE_MAX_AGE",
}
"""Feast's names of the statuses."""

NO_EVENT = format_instant(0)

_SECOND_US = 1_000_000
_BY_ROW = re.compile(r"/(?:entities|request)/(\d+)/(.+)")


@dataclass(frozen=True)
class _Feature:
    """A requested feature.

    Attributes:
        column: Its column in the store's answer.
        alias: The view whose event times are returned; empty for on-demand features, which have none of their own.
        short: Its name in Feast's answer.
        full: Its name in Feast's answer with ``full_feature_names``.
    """

    column: str
    alias: str
    short: str
    full: str


def answer(
    store: FeatureStore, question: FeastQuestion, limits: ServerConfig, *, request_id: str | None = None
) -> tuple[FeastReply, OnlineFeatures]:
    """Answer a question.

    Args:
        store: The store.
        question: The question: for a service, or for features of views.
        limits: Limits of the number of entities and of the size of the answer.
        request_id: Id of the request; generated if ``None``.

    Returns:
        The reply, and the store's answer that it was made from.

    Raises:
        RequestError: Columns are missing, have different lengths or wrong dtypes.
        RefusedError: There is no such view, feature or service; there are too many entities; or the answer is too
            large.
    """
    count = _count(question.entities)
    if count > limits.max_entities:
        detail = f"There are {count} entities; one request may have {limits.max_entities}."
        raise too_large(detail, field="/entities")
    if question.feature_service is not None:
        plan = _plan(store, question.feature_service, question.expected_fingerprint)
        features = _features_of(plan)
        expected = question.expected_fingerprint
        result = _ask(store, plan, question.entities, count, request_id, features, expected=expected)
        check_size(result, limits.max_answer)
        return _reply(question, result, features), result
    references = _references(question.features or ())
    service = _service_of(store, references, question.entities)
    if service is not None:
        by_column = {feature.column: feature for feature in _features_of(service)}
        names = {output.column: output.name for output in service.outputs}
        requested = [_named(by_column[names[feature_column(view, name)]], view, name) for view, name in references]
        result = _ask(store, service, question.entities, count, request_id, requested)
    else:
        requested = [
            _Feature(feature_column(view, name), view, name, feature_column(view, name)) for view, name in references
        ]
        result = _ask_views(store, references, question.entities, count, requested)
    check_size(result, limits.max_answer)
    return _reply(question, result, requested), result


def _plan(store: FeatureStore, service: str, expected: str | None) -> Plan:
    try:
        return store.live_plan(service, expected_fingerprint=expected)
    except UnknownServiceError as error:
        raise UnknownServiceError(error.problem, field="/feature_service", hint=error.hint) from error
    except FingerprintMismatchError as error:
        raise FingerprintMismatchError(error.problem, field="/expected_fingerprint", hint=error.hint) from error


def _count(columns: Mapping[str, Sequence[Any]]) -> int:
    """Return the number of entities."""
    counts = {name: len(values) for name, values in columns.items()}
    if len(set(counts.values())) > 1:
        lengths = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise RequestError(f"the columns have different lengths: {lengths}", field="/entities", code="lengths-differ")
    return next(iter(counts.values()), 0)


def _references(features: Sequence[str]) -> list[tuple[str, str]]:
    """Parse the requested features, which must be distinct."""
    if not features:
        raise RequestError("no features are requested", field="/features", hint="Give features or feature_service.")
    positions: dict[str, int] = {}
    for position, text in enumerate(features):
        if positions.setdefault(text, position) != position:
            problem = f"'{text}' is requested twice"
            raise RequestError(problem, field=f"/features/{position}", hint="Name it once.", code="asked-twice")
    return [_reference(position, text) for text, position in positions.items()]


def _reference(position: int, text: str) -> tuple[str, str]:
    """Parse "view:feature"."""
    view, colon, name = text.partition(":")
    if not view or not colon or not name:
        raise RequestError(
            f"'{text}' is not a feature", field=f"/features/{position}", hint="Write 'view:feature'.", code="reference"
        )
    return view, name


def _service_of(store: FeatureStore, references: Sequence[tuple[str, str]], columns: Mapping[str, Any]) -> Plan | None:
    """Return the service that answers some features; ``None`` if their views must be asked themselves.

    A service that reads exactly the requested views is preferred: its answers are logged, and audits cover them. Only
    services have on-demand features; for these the service that reads the fewest views is chosen. A service is
    considered only if each alias that equals a requested view's name refers to that view.

    Args:
        store: The store.
        references: View and name of each requested feature.
        columns: The columns of entity keys and request inputs that the question has.
    """
    outputs = {feature_column(view, name) for view, name in references}
    views = {view.name: view for view in store.live_views()}
    features = {name: {feature.name for feature in view.features} for name, view in views.items()}
    are_all_of_views = all(name in features.get(view, ()) for view, name in references)
    requested_views = {view: views[view] for view, _ in references if view in views}
    unambiguous = [plan for plan in store.live_services() if _uses_names_of(plan, requested_views)]
    complete = [plan for plan in unambiguous if outputs <= {output.column for output in plan.outputs}]
    candidates = [plan for plan in complete if _needed_columns(plan) <= set(columns)]
    if are_all_of_views:
        names = {view for view, _ in references}
        candidates = [plan for plan in candidates if {use.alias for use in plan.uses} == names]
    elif not complete:
        shown = {output.column for plan in store.live_services() for output in plan.outputs}
        raise _unknown(references, features, shown)
    if not candidates and not are_all_of_views:
        candidates = complete
    return min(candidates, key=lambda plan: (len(plan.uses), plan.name), default=None)


def _uses_names_of(plan: Plan, views: Mapping[str, ViewPlan]) -> bool:
    """Return whether each alias of a service that equals a view's name refers to that view, by the view's own keys."""
    return all(
        use.alias not in views
        or (
            use.view.fingerprint == views[use.alias].fingerprint
            and use.view.name == use.alias
            and use.keys == tuple(key.name for key in use.view.entity.keys)
        )
        for use in plan.uses
    )


def _needed_columns(plan: Plan) -> set[str]:
    return {column.name for column in (*plan.join_keys, *plan.request)}


def _unknown(references: Sequence[tuple[str, str]], views: Mapping[str, set[str]], shown: Set[str]) -> RefusedError:
    """Return the refusal of the first feature that no view and no service has (404)."""
    for position, (view, name) in enumerate(references):
        if view not in views and feature_column(view, name) in shown:
            continue
        if view not in views:
            return _not_found(unknown_view(view, views), f"/features/{position}")
        if name not in views[view]:
            return _not_found(unknown_feature(name, views[view], view=view), f"/features/{position}")
    detail = "No service has all of these features, and views alone do not have them. Ask for them service by service."
    return RefusedError(HTTPStatus.NOT_FOUND, detail, "no-such-service", "/features")


def _not_found(name: UnknownName, field: str) -> RefusedError:
    detail = f"{name.problem[0].upper()}{name.problem[1:]}. {name.hint}"
    return RefusedError(HTTPStatus.NOT_FOUND, detail, name.code, field)


def _features_of(plan: Plan) -> list[_Feature]:
    """Return the features of a service."""
    features_by_column = {
        column: (use.alias, feature.name)
        for use in plan.uses
        for column, feature in zip(use.columns, use.view.features, strict=True)
    }
    features = []
    for output in plan.outputs:
        alias, name = features_by_column.get(output.column, ("", split_column(output.column)[1]))
        short = name if output.name == output.column else output.name
        features.append(_Feature(output.name, alias, short, output.name))
    return features


def _named(feature: _Feature, view: str, name: str) -> _Feature:
    """Return a feature with the name by which it was requested: the service may use another name."""
    return _Feature(feature.column, feature.alias, name, feature_column(view, name))


def _ask(
    store: FeatureStore,
    plan: Plan,
    columns: Mapping[str, Sequence[Any]],
    count: int,
    request_id: str | None,
    requested: Sequence[_Feature],
    *,
    expected: str | None = None,
) -> OnlineFeatures:
    """Ask the store for a service."""
    entities = _rows(plan.join_keys, columns, count)
    inputs = _rows(plan.request, columns, count) if plan.request else None
    ask = partial(
        store.get_online_features,
        plan.name,
        entities,
        inputs,
        request_id=request_id,
        expected_fingerprint=expected,
    )
    return _ask_for(requested, ask, keys=plan.join_keys)


def _ask_for(
    requested: Sequence[_Feature], ask: Callable[..., OnlineFeatures], *, keys: Sequence[Column]
) -> OnlineFeatures:
    """Ask the store. An overflowing sum of a feature that was not requested does not fail the answer."""
    try:
        return _by_columns(ask)
    except ValueOverflowError as error:
        result = ask(partial=True)
        positions = [result.columns.index(feature.column) for feature in requested if feature.column in result.columns]
        if any(statuses[position] == ERROR for statuses in result.statuses for position in positions):
            field = json_pointer("entities", keys[0].name, error.field.rpartition("/")[2])
            raise ValueOverflowError(error.problem, field=field, hint=error.hint) from error
        return result


def _ask_views(
    store: FeatureStore,
    references: Sequence[tuple[str, str]],
    columns: Mapping[str, Sequence[Any]],
    count: int,
    requested: Sequence[_Feature],
) -> OnlineFeatures:
    names = {view for view, _ in references}
    keys = [key for view in store.live_views() if view.name in names for key in view.entity.keys]
    return _ask_for(requested, partial(store.get_online_views, names, _rows(keys, columns, count)), keys=keys)


def _rows(needed: Sequence[Column], columns: Mapping[str, Sequence[Any]], count: int) -> list[dict[str, Any]]:
    """Turn the needed columns into rows."""
    for column in needed:
        if column.name not in columns:
            raise RequestError(
                f"column '{column.name}' is missing",
                field=json_pointer("entities", column.name),
                hint=f"Expected {column.dtype}. {listing('Given', columns)}",
                code="missing-field",
            )
    names = [column.name for column in needed]
    values = [[_read(column.dtype, value) for value in columns[column.name]] for column in needed]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)] if needed else [{}] * count


def _read(dtype: DType, value: Any) -> Any:
    """Convert an instant from seconds, as Feast writes it. The store itself reads all other values."""
    if dtype != TIMESTAMP or isinstance(value, bool) or not isinstance(value, int):
        return value
    try:
        return to_datetime(value * _SECOND_US)
    except InstantError:
        return value


def _by_columns(ask: Callable[[], OnlineFeatures]) -> OnlineFeatures:
    """Ask the store; point at a mistake as Feast's caller wrote it, by column and row."""
    try:
        return ask()
    except RequestError as error:
        by_row = _BY_ROW.fullmatch(error.field)
        field = f"/entities/{by_row[2]}/{by_row[1]}" if by_row else error.field
        raise type(error)(error.problem, field=field, hint=error.hint, code=error.code) from error


def _reply(question: FeastQuestion, result: OnlineFeatures, requested: Sequence[_Feature]) -> FeastReply:
    features = [feature.full if question.full_feature_names else feature.short for feature in requested]
    keys = [name for name in question.entities if name in result.keys]
    names = [*keys, *features]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise RequestError(
            f"several columns would be called '{repeated[0]}'",
            field="/features",
            hint='Ask with "full_feature_names": true.',
            code="name-collision",
        )
    columns = [_key_column(question.entities[name]) for name in keys]
    return FeastReply(FeastNames(names), [*columns, *(_feature_column(result, feature) for feature in requested)])


def _key_column(values: list[Any]) -> FeastColumn:
    statuses = ["NULL_VALUE" if value is None else "PRESENT" for value in values]
    return FeastColumn(values, statuses, [NO_EVENT] * len(values))


def _feature_column(result: OnlineFeatures, feature: _Feature) -> FeastColumn:
    if feature.column not in result.columns:
        raise StateError(
            "another plan went live while the request was answered",
            where=f"feature '{feature.full}'",
            hint="Ask again.",
            code="plan-changed",
        )
    position = result.columns.index(feature.column)
    write = _writer(result.dtypes[position])
    times = result.event_times.get(feature.alias, [None] * len(result.rows))
    return FeastColumn(
        values=[write(row[position]) for row in result.rows],
        statuses=[STATUSES[statuses[position]] for statuses in result.statuses],
        event_timestamps=[NO_EVENT if at is None else format_instant(at) for at in times],
    )


def _writer(dtype: DType) -> Callable[[Any], Any]:
    """Return the encoder of a dtype: instants as whole seconds, lists item by item, other values unchanged."""
    if dtype == TIMESTAMP:
        return lambda value: None if value is None else instant_us(value) // _SECOND_US
    if dtype.item is not None:
        write = _writer(dtype.item)
        return lambda value: None if value is None else [write(item) for item in value]
    return lambda value: value
