"""The questions of a verification: at which instants it asks, about which entities, with which request inputs.

Instants lie on both sides of the edges at which an event is just seen, just leaves a window or just expires, and
anywhere between them. Which events count at an instant is not decided here: both paths are asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from featurestore.core.dtypes import DType
from featurestore.core.temporal import format_duration, promised_at, to_datetime
from featurestore.guard.comparing.questions import Occurrence
from featurestore.plan.model import Column, Plan

_LEAST_INSTANTS = 20
_SIDES = {"before": -1, "after": 0}
_UNKNOWN_SHARE = 10
"""One in so many entities that are asked about is unknown."""


@dataclass(frozen=True)
class AskedInstant:
    """An instant to ask at.

    Attributes:
        instant_us: The instant.
        edges: The kinds of edges it lies beside; empty for an instant between edges.
    """

    instant_us: int
    edges: tuple[str, ...] = ()


def choose_instants(
    plan: Plan, events: Sequence[Occurrence], at_edges_count: int | None, between_count: int, now_us: int
) -> list[AskedInstant]:
    """Choose instants at edges, and between the first and the last of these; none after the present instant."""
    at_edges = edge_instants(events, at_edges_count, until_us=now_us)
    if not at_edges:
        return []
    since_us, until_us = at_edges[0].instant_us, at_edges[-1].instant_us
    others = random_instants(plan.fingerprint, between_count, since_us=since_us, until_us=until_us)
    distinct = {asked.instant_us: asked for asked in (*others, *at_edges)}
    return [distinct[instant] for instant in sorted(distinct)]


def edge_kinds(events: Sequence[Occurrence]) -> tuple[str, ...]:
    """Return all kinds of edges that events have: the view, the side of the edge, and what changes there."""
    return tuple(_by_kind(events))


def edge_instants(events: Sequence[Occurrence], most: int | None, *, until_us: int) -> list[AskedInstant]:
    """Choose instants on both sides of the edges at which events begin or cease to count.

    Kinds of edges take turns, so that no kind is asked at twice before every kind has been asked at once. An instant
    that lies beside edges of several kinds counts for all of them. A kind whose edges all lie after the last instant is
    left out.

    Args:
        events: The events.
        most: Largest count of instants; ``None`` for 20, or for as many as it takes to ask at every kind.
        until_us: Last instant allowed.

    Returns:
        Distinct instants, ascending.
    """
    by_kind = _by_kind(events)
    sets = {kind: set(instants) for kind, instants in by_kind.items()}
    chosen: dict[int, tuple[str, ...]] = {}
    room = len(by_kind) if most is None else most
    turn, is_done = 0, not by_kind
    while not is_done:
        covered: set[str] = set()
        for place, (kind, instants) in enumerate(by_kind.items()):
            # Each kind begins at another event, so that all events are asked about.
            begin = (place + turn) % len(instants)
            left = (at for at in (*instants[begin:], *instants[:begin]) if at <= until_us and at not in chosen)
            instant = next(left, None)
            if instant is None or kind in covered or len(chosen) >= room:
                continue
            chosen[instant] = tuple(other for other, of_kind in sets.items() if instant in of_kind)
            covered.update(chosen[instant])
        if most is None:
            room = max(_LEAST_INSTANTS, len(chosen))
        turn, is_done = turn + 1, not covered
    return [AskedInstant(instant, chosen[instant]) for instant in sorted(chosen)]


def random_instants(seed: str, amount: int, *, since_us: int, until_us: int) -> list[AskedInstant]:
    """Choose instants anywhere in a range of time, the same ones for the same seed.

    Args:
        seed: The seed.
        amount: Count of instants.
        since_us: First instant allowed.
        until_us: Last instant allowed.

    Returns:
        Distinct instants, ascending.
    """
    span = until_us - since_us + 1
    hashes = (hashlib.sha256(f"{seed} {number}".encode()).digest() for number in range(amount))
    instants = {since_us + int.from_bytes(digest[:16]) % span for digest in hashes} if span > 0 else set()
    return [AskedInstant(instant) for instant in sorted(instants)]


def _by_kind(events: Sequence[Occurrence]) -> Mapping[str, list[int]]:
    """Return for each kind of edge the instants that lie beside one, in the order of the events."""
    by_kind: dict[str, list[int]] = {}
    for event in events:
        for change, instant in edges(event):
            for side, step in _SIDES.items():
                by_kind.setdefault(f"{event.use.alias}: {side} {change}", []).append(instant + step)
    return by_kind


def edges(event: Occurrence) -> Iterator[tuple[str, int]]:
    """Yield what changes about an event, with the first instant at which the change has happened.

    Args:
        event: The event, which is assumed to pass its view's ``where``.
    """
    view = event.use.view
    inclusive = int(view.source.inclusive)
    timing = (view.refresh.period_us, view.refresh.lag_us)
    seen = max(event.event_time_us, event.ingest_time_us - view.refresh.lag_us) + 1 - inclusive
    yield "it is known", promised_at(seen, *timing)
    windows = {(feature.window_us, feature.resolution_us) for feature in view.features if feature.window_us}
    for length, resolution in sorted(windows):
        left = event.event_time_us + 1
        if resolution:
            left = -(-left // resolution) * resolution
        name = f"the {format_duration(length)} window" + (f" by {format_duration(resolution)}" if resolution else "")
        yield f"it leaves {name}", promised_at(left + length, *timing)
    for ttl in sorted({feature.ttl_us for feature in view.features if feature.ttl_us}):
        yield f"its ttl of {format_duration(ttl)} ends", event.event_time_us + ttl + 1


def choose_entities(
    plan: Plan, known: Sequence[dict[str, Any]], involved: Sequence[dict[str, Any]], number: int, count: int
) -> list[dict[str, Any]]:
    """Choose the entities to ask about at one instant.

    Args:
        plan: The plan.
        known: Keys of entities that occur.
        involved: Keys of the entities whose events have edges; they are always chosen.
        number: Number of the instant: the other known entities take turns.
        count: Count of entities, at least as many as there are involved ones.

    Returns:
        Distinct keys, some of them unknown.
    """
    begin = number * count % len(known)
    others = [*known[begin:], *known[:begin]]
    unknown = [
        {column.name: _unknown_key(column.dtype, row[column.name]) for column in plan.join_keys}
        for row in others[: max(1, count // _UNKNOWN_SHARE)]
    ]
    chosen = [*involved, *unknown, *others][: max(count, len(involved) + len(unknown))]
    distinct = {tuple(row[column.name] for column in plan.join_keys): row for row in chosen}
    return list(distinct.values())


def _unknown_key(dtype: DType, value: Any) -> Any:
    """Return a key that most likely does not occur, of the dtype of one that does."""
    if value is None:
        return None
    match dtype.kind:
        case "string":
            return f"{value}\N{SYMBOL FOR NULL}"
        case "int64":
            return -(value // 2) - 7_919
        case "bool":
            return not value
        case "binary":
            return value + b"\x00"
        case "timestamp" | "date":
            return value + timedelta(days=7_919)
        case "decimal":
            return -value - Decimal(1)
        case _:
            return value


def request_inputs(
    plan: Plan, keys: Sequence[dict[str, Any]], last: Mapping[tuple[Any, ...], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the request inputs of questions: the last ones sent for an entity, otherwise synthetic ones.

    Args:
        plan: The plan.
        keys: The entities.
        last: The last request inputs by entity.
    """
    names = [column.name for column in plan.join_keys]
    return [
        last.get(tuple(row[name] for name in names))
        or {column.name: _synthetic(column, number) for column in plan.request}
        for number, row in enumerate(keys)
    ]


def _synthetic(column: Column, number: int) -> Any:
    """Return a synthetic value of a request input; every fifth is null."""
    if number % 5 == 4:
        return None
    match column.dtype.kind:
        case "bool":
            return number % 2 == 0
        case "int64":
            return number - 3
        case "float64":
            return number / 3 - 1
        case "string":
            return "abc"[: number % 4]
        case "timestamp":
            return to_datetime(number * 3_600_000_000)
        case "date":
            return to_datetime(number * 86_400_000_000).date()
        case "binary":
            return bytes(number % 4)
        case _:
            return None
