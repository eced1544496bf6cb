"""Instants that are worth asking at: where an event is just seen, just leaves a window or just expires, and others.

Which events count at them is not decided here: both roads are asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from featurestore.core.temporal import format_duration, promised_at
from featurestore.guard.comparing.questions import Occurrence

_LEAST = 20
_BESIDE = {"before": -1, "after": 0}


@dataclass(frozen=True)
class Asked:
    """An instant to ask at.

    Attributes:
        instant_us: The instant.
        edges: The kinds of edges it lies beside; empty for one between them.
    """

    instant_us: int
    edges: tuple[str, ...] = ()


def kinds(picked: Sequence[Occurrence]) -> tuple[str, ...]:
    """Return all kinds of edges that picked events have: the view, on which side to ask, and what changes."""
    return tuple(_by_kind(picked))


def at_edges(picked: Sequence[Occurrence], most: int | None, *, until_us: int) -> list[Asked]:
    """Choose instants on both sides of the edges at which picked events begin or cease to count.

    Kinds take turns, so that each is asked at before any is asked at twice; an instant that lies beside edges of
    several kinds counts for all of them. A kind whose edges all lie beyond the last instant is left out.

    Args:
        picked: Events.
        most: At most so many instants; ``None`` for 20, or as many more as it takes to ask at every kind.
        until_us: Last instant allowed.

    Returns:
        Distinct instants, ascending.
    """
    known = _by_kind(picked)
    sides = {kind: set(instants) for kind, instants in known.items()}
    chosen: dict[int, tuple[str, ...]] = {}
    room = len(known) if most is None else most
    turn, is_done = 0, not known
    while not is_done:
        covered: set[str] = set()
        for place, (kind, instants) in enumerate(known.items()):
            # Each kind begins at another event, so that all of them are asked about.
            begin = (place + turn) % len(instants)
            left = (at for at in (*instants[begin:], *instants[:begin]) if at <= until_us and at not in chosen)
            instant = next(left, None)
            if instant is None or kind in covered or len(chosen) >= room:
                continue
            chosen[instant] = tuple(other for other, own in sides.items() if instant in own)
            covered.update(chosen[instant])
        if most is None:
            room = max(_LEAST, len(chosen))
        turn, is_done = turn + 1, not covered
    return [Asked(instant, chosen[instant]) for instant in sorted(chosen)]


def between(seed: str, amount: int, *, since_us: int, until_us: int) -> list[Asked]:
    """Choose instants anywhere in a span, the same ones for the same seed.

    Args:
        seed: What they follow from.
        amount: How many.
        since_us: First instant allowed.
        until_us: Last instant allowed.

    Returns:
        Distinct instants, ascending.
    """
    span = until_us - since_us + 1
    hashes = (hashlib.sha256(f"{seed} {number}".encode()).digest() for number in range(amount))
    found = {since_us + int.from_bytes(digest[:16]) % span for digest in hashes} if span > 0 else set()
    return [Asked(instant) for instant in sorted(found)]


def _by_kind(picked: Sequence[Occurrence]) -> Mapping[str, list[int]]:
    """Return for each kind of edge the instants that lie beside one, an event at a time."""
    found: dict[str, list[int]] = {}
    for event in picked:
        for what, instant in edges(event):
            for side, step in _BESIDE.items():
                found.setdefault(f"{event.use.alias}: {side} {what}", []).append(instant + step)
    return found


def edges(event: Occurrence) -> Iterator[tuple[str, int]]:
    """Yield what becomes of an event, with the first instant from which it has.

    Args:
        event: The event, taken to be one that its view's ``where`` lets pass.
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
