"""Showing an explanation on a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from featurestore.guard.explain.model import USED, Explanation, Value
from featurestore.reports.explain_lines import (
    check_line,
    entity_line,
    event_cells,
    event_head,
    fates_line,
    road_lines,
    verdict,
    view_lines,
)

_STYLES = {"agree": "bold green", "differ": "bold red"}


def render(explanation: Explanation) -> RenderableType:
    """Return what a person should see: what each road says, the views' horizons, and value by value the events."""
    said = verdict(explanation)
    head = Text.assemble(
        f"{explanation.service} of {entity_line(explanation)}: ", (said, _STYLES.get(said, "bold yellow"))
    )
    for note in explanation.notes:
        head.append(f"\n  {note}")
    for view in explanation.views:
        head.append(f"\nview {view.alias}", style="bold")
        for line in view_lines(view):
            head.append(f"\n  {line}")
    return Group(head, *(part for value in explanation.values for part in _value(explanation, value)))


def _value(explanation: Explanation, value: Value) -> list[RenderableType]:
    text = Text.assemble("\n", (value.name, "bold"), f"  {value.declared}\n  {value.arithmetic}")
    for name, said, agrees in road_lines(explanation, value):
        text.append(f"\n  {name:9}{said}", style="red" if agrees is False else "")
    if value.view:
        text.append(f"\n  {fates_line(value)}")
    text.append(f"\n  {check_line(value)}", style="" if value.is_checked else "bold red")
    return [text, _events(value)] if value.events else [text]


def _events(value: Value) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in event_head(value):
        table.add_column(title, overflow="fold", justify="right" if title == "#" else "left")
    for event in value.events:
        table.add_row(*event_cells(event), style="green" if event.fate == USED else "dim")
    return table
