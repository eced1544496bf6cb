"""An explanation as text for a terminal, and as an HTML page, both with the same sentences and cells."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from featurestore.core.errors import InstantError
from featurestore.core.temporal import MIN_INSTANT_US, instant_us
from featurestore.guard.explain.report import (
    USED,
    Answer,
    Event,
    Explanation,
    PathAnswer,
    StateFacts,
    Value,
    ViewFacts,
    view_of,
)
from featurestore.guard.explain.words import counted, shown
from featurestore.reports.charts import (
    GOOD,
    REFERENCE,
    Lane,
    timeline,
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
    """Return whether the paths agree, if any path but training has an answer."""
    answered = any(
        path is not None and path.told for value in explanation.values for path in (value.online, value.served)
    )
    if not explanation.agrees:
        return DIFFER
    return AGREE if answered else ALONE


def entity_line(explanation: Explanation) -> str:
    """Return the entity, the request inputs and the instant in one line."""
    inputs = {**explanation.keys, **explanation.requests}
    fields = ", ".join(f"{name}={shown(value)}" for name, value in inputs.items())
    return f"{fields} at {explanation.as_of}"


def view_lines(view: ViewFacts) -> Iterator[str]:
    """Yield the facts that are the same for all features of a view."""
    keys = ", ".join(f"{name}={shown(value)}" for name, value in view.keys.items())
    yield f"{counted(view.rows, 'row')} of {keys} in source {view.source}"
    yield f"refresh {view.refresh}"
    yield f"visible is {view.visible}" + (f", where {view.where}" if view.where else "")
    if view.newest_visible is None:
        yield "no visible event: the entity is not known"
    else:
        yield f"the newest visible event is {view.newest_visible}"
    if view.other_spellings:
        yield f"{counted(view.other_spellings, 'row')} with other spellings of the key, which count as other entities"
    for path, state in (("online", view.online), ("served", view.served)):
        if state is not None:
            yield f"{path}: {_state(state)}"


def _state(state: StateFacts) -> str:
    behind = ", which is behind its refresh" if state.is_stale else ""
    return f"the state was complete up to {state.watermark}{behind}"


def path_lines(explanation: Explanation, value: Value) -> Iterator[tuple[str, str, bool | None]]:
    """Yield for each path its name, its answer, and whether the answer agrees with the training path."""
    yield "training", answer_text(value.offline), None
    yield "online", _path(value.online), value.online.agrees
    if value.served is not None and explanation.served is not None:
        facts = explanation.served
        by = f" to {facts.model}" if facts.model else ""
        where = f" (request {facts.request_id}, row {facts.row}{by})"
        yield "served", _path(value.served) + where, value.served.agrees


def _path(path: PathAnswer) -> str:
    if path.told is None:
        return f"no answer: {path.said}"
    if path.agrees:
        return f"{answer_text(path.told)}, the same"
    return f"{answer_text(path.told)}, DIFFERS" + (f": {path.said}" if path.said else "")


def answer_text(answer: Answer) -> str:
    """Write an answer."""
    return f"{shown(answer.value)} ({answer.status})"


def fates_line(value: Value) -> str:
    """Count the events by fate."""
    parts = [f"{count:,} {_FATES[fate]}" for fate, count in value.fates.items()]
    total = sum(value.fates.values())
    window = f"; window from {value.window_start}" if value.window_start else ""
    left = total - len(value.events)
    more = f"; {left:,} of them not listed" if left else ""
    return f"{counted(total, 'row')}: {', '.join(parts) or 'none'}{window}{more}"


def check_line(value: Value) -> str:
    """Write whether the list of events was checked."""
    if value.is_checked:
        return "checked: recomputed from the used events alone, identical"
    return "NOT CHECKED: the used events give another value; this explanation is wrong, please report it"


def fate_words(fate: str) -> str:
    """Write the fate of an event."""
    return _FATES[fate]


def event_head(value: Value) -> list[str]:
    """Return the titles of a table of events."""
    columns = value.events[0].columns if value.events else {}
    return ["#", "event_time", "ingest_time", *columns, "value used", "rule"]


def event_cells(event: Event) -> list[str]:
    """Return the cells of one event."""
    columns = [shown(value) for value in event.columns.values()]
    rule = event.said or ("used, and the value" if event.is_value else _FATES[event.fate])
    return [str(event.number), event.event_time, event.ingest_time, *columns, event.value or "", rule]


_STYLES = {"agree": "bold green", "differ": "bold red"}


def render_text(explanation: Explanation) -> RenderableType:
    """Return the explanation for a terminal: the answer of each path, the horizons, and the events of each value."""
    result = verdict(explanation)
    head = Text.assemble(
        f"{explanation.service} of {entity_line(explanation)}: ", (result, _STYLES.get(result, "bold yellow"))
    )
    for note in explanation.notes:
        head.append(f"\n  {note}")
    for view in explanation.views:
        head.append(f"\nview {view.alias}", style="bold")
        for line in view_lines(view):
            head.append(f"\n  {line}")
    return Group(head, *(part for value in explanation.values for part in _text_value(explanation, value)))


def _text_value(explanation: Explanation, value: Value) -> list[RenderableType]:
    text = Text.assemble("\n", (value.name, "bold"), f"  {value.declared}\n  {value.arithmetic}")
    for name, answer, agrees in path_lines(explanation, value):
        text.append(f"\n  {name:9}{answer}", style="red" if agrees is False else "")
    if value.view:
        text.append(f"\n  {fates_line(value)}")
    text.append(f"\n  {check_line(value)}", style="" if value.is_checked else "bold red")
    return [text, _text_events(value)] if value.events else [text]


def _text_events(value: Value) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in event_head(value):
        grid.add_column(title, overflow="fold", justify="right" if title == "#" else "left")
    for event in value.events:
        grid.add_row(*event_cells(event), style="green" if event.fate == USED else "dim")
    return grid


def render_page(explanation: Explanation) -> str:
    """Return an explanation as one self-contained HTML file."""
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
    """Return a table of the answers of all paths, with differing ones marked."""
    if not explanation.values:
        return None
    paths = [{path: answer for path, answer, _ in path_lines(explanation, value)} for value in explanation.values]
    names = list(dict.fromkeys(name for answers in paths for name in answers))
    rows = [
        (value.name, *(answers.get(name, "") for name in names))
        for value, answers in zip(explanation.values, paths, strict=True)
    ]
    bad = [
        place
        for place, value in enumerate(explanation.values)
        if any(agrees is False for *_, agrees in path_lines(explanation, value))
    ]
    return section("Answers of each path", table(("value", *names), rows, values=range(1, len(names) + 1), bad=bad))


def _value(explanation: Explanation, value: Value) -> Markup:
    lines = [
        element("span", f"{name}: {answer}", class_="bad" if agrees is False else None)
        for name, answer, agrees in path_lines(explanation, value)
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
    """Draw the listed events, a row per fate, with the window shaded."""
    view = view_of(explanation, value)
    if not value.events or view is None:
        return None
    lanes: dict[str, list[tuple[float, str]]] = {}
    for event in value.events:
        tooltip = f"event {event.number}, {event.event_time}, known {event.ingest_time}"
        lanes.setdefault(event.fate, []).append((_place(event.event_time), tooltip))
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
    """Return the position of an instant on an axis; a text that is not an instant is at its beginning."""
    try:
        return float(instant_us(text))
    except InstantError:
        return float(MIN_INSTANT_US)


def _operands(value: Value) -> Markup | None:
    if not value.operands:
        return None
    rows = [(operand.name, operand.kind, shown(operand.value)) for operand in value.operands]
    return table(("operand", "is a", "value"), rows, values=(0, 2))


def _events(value: Value) -> Markup | None:
    if not value.events:
        return None
    head = event_head(value)
    rows = [
        [element("b", cell) if event.fate == USED else cell for cell in event_cells(event)] for event in value.events
    ]
    return table(head, rows, numbers=(0,), shorts=(1, 2), values=range(3, len(head) - 1))
