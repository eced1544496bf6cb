"""What Feast's clients change: events pushed, views materialized."""

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
from featurestore.server.events import too_many
from featurestore.server.feast.messages import ROADS, FeastMaterialize, FeastPush
from featurestore.server.problems import RefusedError
from featurestore.store import FeatureStore

_BY_ROW = re.compile(r"/events/(\d+)/(.+)")


def push(store: FeatureStore, message: FeastPush, limits: ServerConfig, *, idempotency_key: str | None = None) -> None:
    """Push events; all of them or none.

    Args:
        store: What takes them.
        message: The events.
        limits: How many events, and how many columns, there may be.
        idempotency_key: Names the push, so that it can be repeated; see ``FeatureStore.push``.

    Raises:
        RequestError: An event is wrong, or the push is meant for one road only.
        RefusedError: There are too many.
    """
    if message.to not in ROADS:
        raise RequestError(
            f"got '{message.to}', expected one of {', '.join(ROADS)}",
            field="/to",
            hint="What is pushed reaches both roads: they read one log.",
        )
    if len(message.df) > limits.max_columns:
        raise too_many_columns(limits.max_columns)
    instants = _instants(store, message.push_source_name)
    labels, columns = _aligned(message.df)
    if len(labels) > limits.max_events:
        raise too_many(len(labels), limits.max_events, field="/df")
    zoned = [[_in_utc(cell) for cell in cells] if name in instants else cells for name, cells in columns.items()]
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*zoned, strict=True)]
    try:
        store.push(message.push_source_name, rows, idempotency_key=idempotency_key)
    except RequestError as error:
        field = _place(error.field, labels)
        raise type(error)(error.problem, field=field, hint=error.hint, code=error.code) from error


def materialize(store: FeatureStore, message: FeastMaterialize) -> None:
    """Fold what is new into online state.

    Raises:
        RequestError: An instant cannot be read.
        RefusedError: There is no such view.
    """
    start = _instant(message.start_ts, "/start_ts")
    end = _instant(message.end_ts, "/end_ts")
    if start is not None and end is not None and instant_us(start) > instant_us(end):
        raise RequestError(f"start_ts {start} lies after end_ts {end}", field="/start_ts")
    try:
        store.materialize(until=end, views=message.feature_views)
    except RegistryError as error:
        if error.code != "unknown-view":
            raise
        detail = f"{error.problem}. {error.hint}"
        raise RefusedError(HTTPStatus.NOT_FOUND, detail, error.code, "/feature_views") from None


def _place(field: str, labels: Sequence[str]) -> str:
    """Return the place of a mistake where Feast's caller wrote it: in a column, not in a row."""
    found = _BY_ROW.fullmatch(field)
    if found:
        return f"/df/{found[2]}{json_pointer(labels[int(found[1])])}"
    return "/push_source_name" if field == "/source" else field


def _instants(store: FeatureStore, source: str) -> frozenset[str]:
    """Return the columns of a source that hold instants, as far as a view reads them."""
    sources = [view.source for view in store.views() if view.source.name == source]
    return frozenset(column.name for found in sources for column in found.columns if column.dtype == TIMESTAMP)


def _aligned(df: Mapping[str, Sequence[Any] | Mapping[str, Any]]) -> tuple[list[str], dict[str, list[Any]]]:
    """Return the labels of the rows, and the columns in one order of rows.

    Lists are in order already, and a row's label is its place. Of columns that are objects each has its own order:
    cells with one label are one row.

    Raises:
        RequestError: Columns differ in their rows, or some are lists and others objects.
    """
    lists = {name: column for name, column in df.items() if not isinstance(column, Mapping)}
    objects = {name: column for name, column in df.items() if isinstance(column, Mapping)}
    if lists and objects:
        problem = f"column '{next(iter(lists))}' is a list and column '{next(iter(objects))}' an object by row label"
        hint = "Write all columns in one way: of a list it cannot be told which labels its rows have."
        raise RequestError(problem, field="/df", hint=hint, code="columns-differ")
    if lists:
        counts = {name: len(column) for name, column in lists.items()}
        if len(set(counts.values())) > 1:
            lengths = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise RequestError(f"the columns have several lengths: {lengths}", field="/df", code="lengths-differ")
        return [str(row) for row in range(max(counts.values()))], {name: list(cells) for name, cells in lists.items()}
    labels = list(next(iter(objects.values()), ()))
    for name, column in objects.items():
        if odd := column.keys() ^ set(labels):
            problem = f"column '{name}' and column '{next(iter(objects))}' differ in row '{min(odd)}'"
            hint = "Every column has every row; a value that is not known is null."
            raise RequestError(problem, field=json_pointer("df", name), hint=hint, code="labels-differ")
    return labels, {name: [column[label] for label in labels] for name, column in objects.items()}


def _in_utc(value: Any) -> Any:
    """Return a naive instant as one in UTC, which Feast means by it; whatever else it is the store judges."""
    if isinstance(value, str):
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            return value
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found
    return value


def _instant(text: str | None, field: str) -> datetime | None:
    if text is None:
        return None
    found = _in_utc(text)
    if not isinstance(found, datetime):
        raise RequestError(f"'{text}' is no instant", field=field, hint="Write ISO 8601: '2013-12-01T00:00:00Z'.")
    return found
