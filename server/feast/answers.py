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
from featurestore.server.forms import check_size
from featurestore.server.problems import RefusedError, too_large
from featurestore.store import FeatureStore

STATUSES = {
    Status.PRESENT.name: "PRESENT",
    Status.NULL.name: "NULL_VALUE",
    Status.NOT_FOUND.name: "NOT_FOUND",
    Status.EXPIRED.name: "OUTSIDE_MAX_AGE",
}
"""What Feast calls the kinds of answers."""

NO_EVENT = format_instant(0)

_SECOND_US = 1_000_000
_BY_ROW = re.compile(r"/(?:entities|request)/(\d+)/(.+)")


@dataclass(frozen=True)
class _Feature:
    """A column that is wanted.

    Attributes:
        column: Its name in the store's answer.
        alias: View of which the event times are told; empty for on-demand features, which have none of their own.
        short: What Feast calls it.
        full: What Feast calls it with ``full_feature_names``.
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
        store: What answers.
        question: What is asked: a service, or features of views.
        limits: How many entities one question may have, and how large the answer may be.
        request_id: Name of the request; made up if not given.

    Returns:
        The reply, and the store's answer that it was made of.

    Raises:
        RequestError: Columns are missing, of several lengths or of wrong dtypes.
        RefusedError: There is no such view, feature or service; or there are too many entities, or too large an answer.
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
        own = {feature.column: feature for feature in _features_of(service)}
        names = {output.column: output.name for output in service.outputs}
        wanted = [_named(own[names[feature_column(view, name)]], view, name) for view, name in references]
        result = _ask(store, service, question.entities, count, request_id, wanted)
    else:
        wanted = [
            _Feature(feature_column(view, name), view, name, feature_column(view, name)) for view, name in references
        ]
        result = _ask_views(store, references, question.entities, count, wanted)
    check_size(result, limits.max_answer)
    return _reply(question, result, wanted), result


def _plan(store: FeatureStore, service: str, expected: str | None) -> Plan:
    try:
        return store.live_plan(service, expected_fingerprint=expected)
    except UnknownServiceError as error:
        raise UnknownServiceError(error.problem, field="/feature_service", hint=error.hint) from error
    except FingerprintMismatchError as error:
        raise FingerprintMismatchError(error.problem, field="/expected_fingerprint", hint=error.hint) from error


def _count(columns: Mapping[str, Sequence[Any]]) -> int:
    """Return how many entities there are."""
    counts = {name: len(values) for name, values in columns.items()}
    if len(set(counts.values())) > 1:
        lengths = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise RequestError(f"the columns have several lengths: {lengths}", field="/entities", code="lengths-differ")
    return next(iter(counts.values()), 0)


def _references(features: Sequence[str]) -> list[tuple[str, str]]:
    """Read the features that are asked for, each once."""
    if not features:
        raise RequestError("nothing is asked for", field="/features", hint="Give features or feature_service.")
    places: dict[str, int] = {}
    for place, text in enumerate(features):
        if places.setdefault(text, place) != place:
            problem = f"'{text}' is asked for twice"
            raise RequestError(problem, field=f"/features/{place}", hint="Name it once.", code="asked-twice")
    return [_reference(place, text) for text, place in places.items()]


def _reference(place: int, text: str) -> tuple[str, str]:
    """Read "view:feature"."""
    view, colon, name = text.partition(":")
    if not view or not colon or not name:
        raise RequestError(
            f"'{text}' is no feature", field=f"/features/{place}", hint="Write 'view:feature'.", code="reference"
        )
    return view, name


def _service_of(store: FeatureStore, references: Sequence[tuple[str, str]], given: Mapping[str, Any]) -> Plan | None:
    """Return the service that answers some features, ``None`` if their views are to be asked themselves.

    Preferred is a service that reads just the views asked for: its answers are logged, and audits cover them. On-demand
    features are known by services only; for these the one that reads the fewest views is taken. A service counts only
    if what it calls by a view's name is that view, as it answers by itself.
    """
    columns = {feature_column(view, name) for view, name in references}
    views = {view.name: view for view in store.live_views()}
    own = {name: {feature.name for feature in view.features} for name, view in views.items()}
    known = all(name in own.get(view, ()) for view, name in references)
    meant = {view: views[view] for view, _ in references if view in views}
    honest = [plan for plan in store.live_services() if _calls_by_their_names(plan, meant)]
    fitting = [plan for plan in honest if columns <= {output.column for output in plan.outputs}]
    askable = [plan for plan in fitting if _needs(plan) <= set(given)]
    if known:
        asked = {view for view, _ in references}
        askable = [plan for plan in askable if {use.alias for use in plan.uses} == asked]
    elif not fitting:
        raise _unknown(references, own, {output.column for plan in store.live_services() for output in plan.outputs})
    return min(askable or ([] if known else fitting), key=lambda plan: (len(plan.uses), plan.name), default=None)


def _calls_by_their_names(plan: Plan, views: Mapping[str, ViewPlan]) -> bool:
    """Tell whether a service means these very views, asked by their own keys, where it uses their names."""
    return all(
        use.alias not in views
        or (
            use.view.fingerprint == views[use.alias].fingerprint
            and use.view.name == use.alias
            and use.keys == tuple(key.name for key in use.view.entity.keys)
        )
        for use in plan.uses
    )


def _needs(plan: Plan) -> set[str]:
    return {column.name for column in (*plan.join_keys, *plan.request)}


def _unknown(references: Sequence[tuple[str, str]], views: Mapping[str, set[str]], shown: Set[str]) -> RefusedError:
    """Return the refusal of the first feature that is neither a view's nor shown by a service."""
    for place, (view, name) in enumerate(references):
        if view not in views and feature_column(view, name) in shown:
            continue
        if view not in views:
            return _not_found(unknown_view(view, views), f"/features/{place}")
        if name not in views[view]:
            return _not_found(unknown_feature(name, views[view], view=view), f"/features/{place}")
    detail = "No service has all of these features, and views alone do not give them. Ask for them service by service."
    return RefusedError(HTTPStatus.NOT_FOUND, detail, "no-such-service", "/features")


def _not_found(name: UnknownName, field: str) -> RefusedError:
    detail = f"{name.problem[0].upper()}{name.problem[1:]}. {name.hint}"
    return RefusedError(HTTPStatus.NOT_FOUND, detail, name.code, field)


def _features_of(plan: Plan) -> list[_Feature]:
    """Return what a service answers with."""
    own = {
        column: (use.alias, feature.name)
        for use in plan.uses
        for column, feature in zip(use.columns, use.view.features, strict=True)
    }
    found = []
    for output in plan.outputs:
        alias, name = own.get(output.column, ("", split_column(output.column)[1]))
        found.append(_Feature(output.name, alias, name if output.name == output.column else output.name, output.name))
    return found


def _named(feature: _Feature, view: str, name: str) -> _Feature:
    """Return a feature under the name it was asked by: a service may show it under another."""
    return _Feature(feature.column, feature.alias, name, feature_column(view, name))


def _ask(
    store: FeatureStore,
    plan: Plan,
    given: Mapping[str, Sequence[Any]],
    count: int,
    request_id: str | None,
    wanted: Sequence[_Feature],
    *,
    expected: str | None = None,
) -> OnlineFeatures:
    """Ask a service."""
    entities = _rows(plan.join_keys, given, count)
    inputs = _rows(plan.request, given, count) if plan.request else None
    ask = partial(
        store.get_online_features,
        plan.name,
        entities,
        inputs,
        request_id=request_id,
        expected_fingerprint=expected,
    )
    return _ask_for(wanted, ask, keys=plan.join_keys)


def _ask_for(
    wanted: Sequence[_Feature], ask: Callable[..., OnlineFeatures], *, keys: Sequence[Column]
) -> OnlineFeatures:
    """Ask the store. A sum that does not fit, of a feature that nobody wants, takes nothing away."""
    try:
        return _by_columns(ask)
    except ValueOverflowError as error:
        found = ask(partial=True)
        places = [found.columns.index(feature.column) for feature in wanted if feature.column in found.columns]
        if any(statuses[place] == ERROR for statuses in found.statuses for place in places):
            field = json_pointer("entities", keys[0].name, error.field.rpartition("/")[2])
            raise ValueOverflowError(error.problem, field=field, hint=error.hint) from error
        return found


def _ask_views(
    store: FeatureStore,
    references: Sequence[tuple[str, str]],
    given: Mapping[str, Sequence[Any]],
    count: int,
    wanted: Sequence[_Feature],
) -> OnlineFeatures:
    names = {view for view, _ in references}
    keys = [key for view in store.live_views() if view.name in names for key in view.entity.keys]
    return _ask_for(wanted, partial(store.get_online_views, names, _rows(keys, given, count)), keys=keys)


def _rows(columns: Sequence[Column], given: Mapping[str, Sequence[Any]], count: int) -> list[dict[str, Any]]:
    """Turn the columns that are needed into rows."""
    for column in columns:
        if column.name not in given:
            raise RequestError(
                f"column '{column.name}' is missing",
                field=json_pointer("entities", column.name),
                hint=f"Expected {column.dtype}. {listing('Given', given)}",
                code="missing-field",
            )
    names = [column.name for column in columns]
    values = [[_read(column.dtype, value) for value in given[column.name]] for column in columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)] if columns else [{}] * count


def _read(dtype: DType, value: Any) -> Any:
    """Read an instant from seconds, as Feast writes it; all else the store reads itself."""
    if dtype != TIMESTAMP or isinstance(value, bool) or not isinstance(value, int):
        return value
    try:
        return to_datetime(value * _SECOND_US)
    except InstantError:
        return value


def _by_columns(ask: Callable[[], OnlineFeatures]) -> OnlineFeatures:
    """Ask the store; a mistake in a row is shown where the caller wrote it, in a column."""
    try:
        return ask()
    except RequestError as error:
        found = _BY_ROW.fullmatch(error.field)
        field = f"/entities/{found[2]}/{found[1]}" if found else error.field
        raise type(error)(error.problem, field=field, hint=error.hint, code=error.code) from error


def _reply(question: FeastQuestion, result: OnlineFeatures, wanted: Sequence[_Feature]) -> FeastReply:
    features = [feature.full if question.full_feature_names else feature.short for feature in wanted]
    keys = [name for name in question.entities if name in result.keys]
    names = [*keys, *features]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise RequestError(
            f"several columns would be called '{twice[0]}'",
            field="/features",
            hint='Ask with "full_feature_names": true.',
            code="name-collision",
        )
    columns = [_key_column(question.entities[name]) for name in keys]
    return FeastReply(FeastNames(names), [*columns, *(_feature_column(result, feature) for feature in wanted)])


def _key_column(values: list[Any]) -> FeastColumn:
    statuses = ["NULL_VALUE" if value is None else "PRESENT" for value in values]
    return FeastColumn(values, statuses, [NO_EVENT] * len(values))


def _feature_column(result: OnlineFeatures, feature: _Feature) -> FeastColumn:
    if feature.column not in result.columns:
        raise StateError(
            "another plan went live meanwhile",
            where=f"feature '{feature.full}'",
            hint="Ask again.",
            code="plan-changed",
        )
    place = result.columns.index(feature.column)
    write = _writer(result.dtypes[place])
    times = result.event_times.get(feature.alias, [None] * len(result.rows))
    return FeastColumn(
        values=[write(row[place]) for row in result.rows],
        statuses=[STATUSES[statuses[place]] for statuses in result.statuses],
        event_timestamps=[NO_EVENT if at is None else format_instant(at) for at in times],
    )


def _writer(dtype: DType) -> Callable[[Any], Any]:
    """Return what writes values of a dtype: instants as whole seconds, lists item by item, others as they are."""
    if dtype == TIMESTAMP:
        return lambda value: None if value is None else instant_us(value) // _SECOND_US
    if dtype.item is not None:
        write = _writer(dtype.item)
        return lambda value: None if value is None else [write(item) for item in value]
    return lambda value: value
