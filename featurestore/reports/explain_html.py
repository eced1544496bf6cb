"""An explanation as one HTML file."""

from __future__ import annotations

import math

from featurestore.core.errors import InstantError
from featurestore.core.temporal import MIN_INSTANT_US, instant_us
from featurestore.guard.explain.model import (
    USED,
    Explanation,
    Value,
    view_of,
)
from featurestore.reports.charts import (
    GOOD,
    REFERENCE,
    Lane,
    timeline,
)
from featurestore.reports.explain_lines import (
    check_line,
    entity_line,
    event_cells,
    event_head,
    fate_words,
    fates_line,
    road_lines,
    verdict,
    view_lines,
)
from featurestore.reports.markup import Markup, element
from featurestore.reports.page import (
    bullets,
    heading,
    page,
    panel,
    section,
    table,
)


def render_html(explanation: Explanation) -> str:
    """Return an explanation as one HTML file that needs nothing else."""
    title = f"Explanation of {explanation.service}"
    return page(
        f"{title}: {entity_line(explanation)}",
        heading(title, verdict(explanation), entity_line(explanation), f"plan {explanation.fingerprint[:12]}"),
        bullets(explanation.notes) if explanation.notes else None,
        _summary(explanation),
        section("What could be seen", (panel(view.alias, bullets(view_lines(view))) for view in explanation.views))
        if explanation.views
        else None,
        (_value(explanation, value) for value in explanation.values),
    )


def _summary(explanation: Explanation) -> Markup | None:
    """Put the answers of all roads side by side, those that differ marked."""
    if not explanation.values:
        return None
    roads = [{road: said for road, said, _ in road_lines(explanation, value)} for value in explanation.values]
    names = list(dict.fromkeys(name for one in roads for name in one))
    rows = [
        (value.name, *(one.get(name, "") for name in names))
        for value, one in zip(explanation.values, roads, strict=True)
    ]
    bad = [
        place
        for place, value in enumerate(explanation.values)
        if any(agrees is False for *_, agrees in road_lines(explanation, value))
    ]
    return section("What each road answers", table(("value", *names), rows, values=range(1, len(names) + 1), bad=bad))


def _value(explanation: Explanation, value: Value) -> Markup:
    lines = [
        element("span", f"{name}: {said}", class_="bad" if agrees is False else None)
        for name, said, agrees in road_lines(explanation, value)
    ]
    return section(
        value.name,
        element("p", element("code", value.declared), element("span", f" · {value.dtype}", class_="muted")),
        element("p", element("b", value.arithmetic)),
        bullets(lines),
        _operands(value),
        element("p", fates_line(value), class_="muted") if value.view else None,
        _timeline(explanation, value),
        _events(value),
        element("p", check_line(value), class_="muted" if value.is_checked else "bad"),
    )


def _timeline(explanation: Explanation, value: Value) -> Markup | None:
    """Draw the events listed: a lane per fate, and where the value may come from shaded."""
    view = view_of(explanation, value)
    if not value.events or view is None:
        return None
    lanes: dict[str, list[tuple[float, str]]] = {}
    for event in value.events:
        told = f"event {event.number}, {event.event_time}, known {event.ingest_time}"
        lanes.setdefault(event.fate, []).append((_place(event.event_time), told))
    order = sorted(lanes, key=lambda fate: (fate != USED, fate))
    first = value.window_start or "the beginning"
    begin = _place(value.window_start) if value.window_start else -math.inf
    edges = [view.event_horizon, *([value.window_start] if value.window_start else [])]
    times = sorted((event.event_time for event in value.events), key=_place)
    shown = sorted([times[0], times[-1], *edges], key=_place)
    return timeline(
        f"Events of {value.name} that are listed, by event time; the window is shaded",
        [Lane(fate_words(fate), lanes[fate], GOOD if fate == USED else REFERENCE) for fate in order],
        labels=(shown[0], shown[-1]),
        band=(begin, _place(view.event_horizon), f"window from {first} to {view.event_horizon}"),
    )


def _place(text: str) -> float:
    """Return where an instant of an explanation lies on an axis; what is no instant lies at its beginning."""
    try:
        return float(instant_us(text))
    except InstantError:
        return float(MIN_INSTANT_US)


def _operands(value: Value) -> Markup | None:
    if not value.operands:
        return None
    rows = [(one.name, one.kind, "null" if one.value is None else one.value) for one in value.operands]
    return table(("operand", "is a", "value"), rows, values=(0, 2))


def _events(value: Value) -> Markup | None:
    if not value.events:
        return None
    head = event_head(value)
    rows = [
        [element("b", cell) if event.fate == USED else cell for cell in event_cells(event)] for event in value.events
    ]
    return table(head, rows, numbers=(0,), shorts=(1, 2), values=range(3, len(head) - 1))
