"""Sentences and cells of an explanation, the same on a terminal and on a page."""

from __future__ import annotations

from collections.abc import Iterator

from featurestore.guard.explain.model import (
    Event,
    Explanation,
    Road,
    StateFacts,
    Told,
    Value,
    ViewFacts,
)
from featurestore.guard.explain.words import counted, shown

AGREE, DIFFER, ALONE = "agree", "differ", "nothing to compare"

_FATES = {
    "used": "used",
    "after_horizon": "after the horizon",
    "not_yet_known": "not yet known",
    "before_window": "before the window",
    "not_member": "not in the feature's where",
    "null": "null",
    "outranked": "outranked",
    "expired": "older than the ttl",
    "rejected": "not in the view's where",
    "duplicate": "another delivery counts",
}


def verdict(explanation: Explanation) -> str:
    """Return whether the roads agree, if any answered beside the training road."""
    answered = any(
        road is not None and road.told for value in explanation.values for road in (value.online, value.served)
    )
    if not explanation.agrees:
        return DIFFER
    return AGREE if answered else ALONE


def entity_line(explanation: Explanation) -> str:
    """Say what is explained."""
    named = {**explanation.keys, **explanation.requests}
    fields = ", ".join(f"{name}={shown(value)}" for name, value in named.items())
    return f"{fields} at {explanation.as_of}"


def view_lines(view: ViewFacts) -> Iterator[str]:
    """Say what holds for all features of a view."""
    keys = ", ".join(f"{name}={shown(value)}" for name, value in view.keys.items())
    yield f"{counted(view.rows, 'row')} of {keys} in source {view.source}"
    yield f"refresh {view.refresh}"
    yield f"visible is {view.visible}" + (f", where {view.where}" if view.where else "")
    if view.newest_visible is None:
        yield "no visible event: the entity is not known"
    else:
        yield f"the newest visible event is {view.newest_visible}"
    if view.other_spellings:
        yield f"{counted(view.other_spellings, 'row')} of keys that are spelled almost alike, which count as others"
    for road, state in (("online", view.online), ("served", view.served)):
        if state is not None:
            yield f"{road}: {_state(state)}"


def _state(state: StateFacts) -> str:
    behind = ", which lies behind what the refresh promises" if state.is_stale else ""
    return f"the state was complete up to {state.watermark}{behind}"


def road_lines(explanation: Explanation, value: Value) -> Iterator[tuple[str, str, bool | None]]:
    """Say what each road answers: name, answer, and whether it agrees with the training road."""
    yield "training", told_text(value.offline), None
    yield "online", _road(value.online), value.online.agrees
    if value.served is not None and explanation.served is not None:
        facts = explanation.served
        by = f" to {facts.model}" if facts.model else ""
        where = f" (request {facts.request_id}, row {facts.row}{by})"
        yield "served", _road(value.served) + where, value.served.agrees


def _road(road: Road) -> str:
    if road.told is None:
        return f"no answer: {road.said}"
    if road.agrees:
        return f"{told_text(road.told)}, the same"
    return f"{told_text(road.told)}, DIFFERS" + (f": {road.said}" if road.said else "")


def told_text(told: Told) -> str:
    """Write an answer."""
    return f"{shown(told.value)} ({told.status})"


def fates_line(value: Value) -> str:
    """Count the events by what became of them."""
    parts = [f"{count:,} {_FATES[fate]}" for fate, count in value.fates.items()]
    total = sum(value.fates.values())
    window = f"; window from {value.window_start}" if value.window_start else ""
    left = total - len(value.events)
    more = f"; {left:,} of them not listed" if left else ""
    return f"{counted(total, 'row')}: {', '.join(parts) or 'none'}{window}{more}"


def check_line(value: Value) -> str:
    """Say whether the list of events was checked."""
    if value.is_checked:
        return "checked: nothing but what is listed as used gives the same bits"
    return "NOT CHECKED: what is listed as used gives another value; this explanation is wrong, please report it"


def fate_words(fate: str) -> str:
    """Write what became of an event."""
    return _FATES[fate]


def event_head(value: Value) -> list[str]:
    """Return the titles of a table of events."""
    columns = value.events[0].columns if value.events else {}
    return ["#", "event_time", "ingest_time", *columns, "folds", "rule"]


def event_cells(event: Event) -> list[str]:
    """Return one line of it."""
    columns = [shown(value) for value in event.columns.values()]
    rule = event.said or ("used, and the value" if event.is_value else _FATES[event.fate])
    return [str(event.number), event.event_time, event.ingest_time, *columns, event.value or "", rule]
