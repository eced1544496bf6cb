"""An explanation as one HTML file."""

from __future__ import annotations

from featurestore.explaining.lines import (
    check_line,
    entity_line,
    event_cells,
    event_head,
    fates_line,
    road_lines,
    verdict,
    view_lines,
)
from featurestore.explaining.model import USED, Explanation, Value
from featurestore.render.markup import Markup, element
from featurestore.render.page import bullets, heading, page, panel, section, table


def render_html(explanation: Explanation) -> str:
    """Return an explanation as one HTML file that needs nothing else."""
    title = f"Explanation of {explanation.service}"
    return page(
        f"{title}: {entity_line(explanation)}",
        heading(title, verdict(explanation), entity_line(explanation), f"plan {explanation.fingerprint[:12]}"),
        bullets(explanation.notes) if explanation.notes else None,
        section("What could be seen", (panel(view.alias, bullets(view_lines(view))) for view in explanation.views))
        if explanation.views
        else None,
        (_value(explanation, value) for value in explanation.values),
    )


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
        _events(value),
        element("p", check_line(value), class_="muted" if value.is_checked else "bad"),
    )


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
    return table(head, rows, shorts=(1, 2), values=range(3, len(head) - 1))
