"""What Feast's clients change: events pushed, views materialized."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from featurestore.dtypes import TIMESTAMP
from featurestore.errors import RegistryError, RequestError
from featurestore.store import FeatureStore
from featurestore.temporal import instant_us
from server.feast.messages import ROADS, FeastMaterialize, FeastPush
from server.problems import RefusedError

_BY_ROW = re.compile(r"/events/(\d+)/(.+)")


def push(store: FeatureStore, message: FeastPush) -> None:
    """Push events; all of them or none.

    Raises:
        RequestError: An event is wrong, or the push is meant for one road only.
    """
    if message.to not in ROADS:
        raise RequestError(
            f"got '{message.to}', expected one of {', '.join(ROADS)}",
            field="/to",
            hint="What is pushed reaches both roads: they read one log.",
        )
    instants = _instants(store, message.push_source_name)
    columns = {name: _cells(column) for name, column in message.df.items()}
    if len({len(cells) for cells in columns.values()}) > 1:
        raise RequestError("the columns have several lengths", field="/df", code="lengths-differ")
    zoned = [[_in_utc(cell) for cell in cells] if name in instants else cells for name, cells in columns.items()]
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*zoned, strict=True)]
    try:
        store.push(message.push_source_name, rows)
    except RequestError as error:
        raise type(error)(error.problem, field=_place(error.field), hint=error.hint, code=error.code) from error


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


def _place(field: str) -> str:
    """Return the place of a mistake where Feast's caller wrote it: in a column, not in a row."""
    found = _BY_ROW.fullmatch(field)
    if found:
        return f"/df/{found[2]}/{found[1]}"
    return "/push_source_name" if field == "/source" else field


def _instants(store: FeatureStore, source: str) -> frozenset[str]:
    """Return the columns of a source that hold instants, as far as a view reads them."""
    sources = [view.source for view in store.views() if view.source.name == source]
    return frozenset(column.name for found in sources for column in found.columns if column.dtype == TIMESTAMP)


def _cells(column: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
    return list(column.values()) if isinstance(column, Mapping) else list(column)


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
