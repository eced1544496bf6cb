"""Requests of Feast's clients that change something: pushing events, materializing views."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from featurestore.config import ServerConfig
from featurestore.core.dtypes import TIMESTAMP
from featurestore.core.errors import RegistryError, RequestError, json_pointer
from featurestore.core.temporal import instant_us
from featurestore.server.arrow import too_many_columns
from featurestore.server.events import too_many_events
from featurestore.server.feast.messages import PUSH_TARGETS, FeastMaterialize, FeastPush
from featurestore.server.problems import RefusedError
from featurestore.store import FeatureStore

_BY_ROW = re.compile(r"/events/(\d+)/(.+)")


def push(store: FeatureStore, message: FeastPush, limits: ServerConfig, *, idempotency_key: str | None = None) -> None:
    """Push events; all of them or none.

    Args:
        store: The store.
        message: The events.
        limits: Limits of the number of events and columns.
        idempotency_key: Names the push, so that it can be repeated; see ``FeatureStore.push``.

    Raises:
        RequestError: An event is invalid, or the push is meant for the offline store only.
        RefusedError: There are too many events or columns.
    """
    if message.to not in PUSH_TARGETS:
        raise RequestError(
            f"got '{message.to}', expected one of {', '.join(PUSH_TARGETS)}",
            field="/to",
            hint="Pushed events always reach both online and offline answers: they read one log.",
        )
    if len(message.df) > limits.max_columns:
        raise too_many_columns(limits.max_columns)
    instants = _instants(store, message.push_source_name)
    labels, columns = _aligned(message.df)
    if len(labels) > limits.max_events:
        raise too_many_events(len(labels), limits.max_events, field="/df")
    zoned = [[_in_utc(cell) for cell in cells] if name in instants else cells for name, cells in columns.items()]
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*zoned, strict=True)]
    try:
        store.push(message.push_source_name, rows, idempotency_key=idempotency_key)
    except RequestError as error:
        field = _field_in_columns(error.field, labels)
        raise type(error)(error.problem, field=field, hint=error.hint, code=error.code) from error


def materialize(store: FeatureStore, message: FeastMaterialize) -> None:
    """Bring online state up to date with new events.

    Raises:
        RequestError: An instant cannot be parsed.
        RefusedError: There is no such view.
    """
    start = _instant(message.start_ts, "/start_ts")
    end = _instant(message.end_ts, "/end_ts")
    if start is not None and end is not None and instant_us(start) > instant_us(end):
        raise RequestError(f"start_ts {start} is after end_ts {end}", field="/start_ts")
    try:
        store.materialize(until=end, views=message.feature_views)
    except RegistryError as error:
        if error.code != "unknown-view":
            raise
        detail = f"{error.problem}. {error.hint}"
        raise RefusedError(HTTPStatus.NOT_FOUND, detail, error.code, "/feature_views") from None


def _field_in_columns(field: str, labels: Sequence[str]) -> str:
    """Return the JSON pointer to a mistake as Feast's caller wrote it: by column and row, not by row and column."""
    by_row = _BY_ROW.fullmatch(field)
    if by_row:
        return f"/df/{by_row[2]}{json_pointer(labels[int(by_row[1])])}"
    return "/push_source_name" if field == "/source" else field


def _instants(store: FeatureStore, source: str) -> frozenset[str]:
    """Return the columns of a source that hold instants and are read by a view."""
    sources = [view.source for view in store.views() if view.source.name == source]
    return frozenset(column.name for used in sources for column in used.columns if column.dtype == TIMESTAMP)


def _aligned(df: Mapping[str, Sequence[Any] | Mapping[str, Any]]) -> tuple[list[str], dict[str, list[Any]]]:
    """Return the labels of the rows, and the columns in one order of rows.

    Lists are in order already, and a row's label is its position. Objects may each have another order: the cells with
    one label are one row.

    Raises:
        RequestError: Columns differ in their rows, or some are lists and others objects.
    """
    lists = {name: column for name, column in df.items() if not isinstance(column, Mapping)}
    objects = {name: column for name, column in df.items() if isinstance(column, Mapping)}
    if lists and objects:
        problem = f"column '{next(iter(lists))}' is a list and column '{next(iter(objects))}' an object by row label"
        hint = "Write all columns as lists, or all as objects: a list does not say which labels its rows have."
        raise RequestError(problem, field="/df", hint=hint, code="columns-differ")
    if lists:
        counts = {name: len(column) for name, column in lists.items()}
        if len(set(counts.values())) > 1:
            lengths = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise RequestError(f"the columns have different lengths: {lengths}", field="/df", code="lengths-differ")
        return [str(row) for row in range(max(counts.values()))], {name: list(cells) for name, cells in lists.items()}
    labels = list(next(iter(objects.values()), ()))
    for name, column in objects.items():
        if odd := column.keys() ^ set(labels):
            problem = f"column '{name}' and column '{next(iter(objects))}' differ in row '{min(odd)}'"
            hint = "Every column has every row; a value that is not known is null."
            raise RequestError(problem, field=json_pointer("df", name), hint=hint, code="labels-differ")
    return labels, {name: [column[label] for label in labels] for name, column in objects.items()}


def _in_utc(value: Any) -> Any:
    """Return a naive instant as one in UTC, as Feast means it. Any other value is left for the store to check."""
    if isinstance(value, str):
        try:
            instant = datetime.fromisoformat(value)
        except ValueError:
            return value
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant
    return value


def _instant(text: str | None, field: str) -> datetime | None:
    if text is None:
        return None
    instant = _in_utc(text)
    if not isinstance(instant, datetime):
        raise RequestError(f"'{text}' is not an instant", field=field, hint="Write ISO 8601: '2013-12-01T00:00:00Z'.")
    return instant
