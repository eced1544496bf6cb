"""Charts as HTML and SVG.

Charts with an axis are inline SVG; charts with a name per bar are tables with bars in them. Both fill the available
width: positions along the axis are percentages and all other sizes are pixels, so letters are as large on a phone as on
a wide screen. Colours are ``var(--…)`` of the page, so charts are light or dark like the page. For screen readers every
chart has a title; every bar and point has its numbers as a tooltip.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from featurestore.reports.markup import Markup, element

REFERENCE = "var(--reference)"
CURRENT = "var(--current)"
BAD = "var(--bad)"
GOOD = "var(--good)"
REST = "var(--muted)"
COLORS = tuple(f"var(--series-{i})" for i in range(1, 7))
"""Colours of parts of a whole; further parts have the colour of the rest."""

_HEIGHT, _TOP, _BOTTOM = 176, 10, 24
_LANE = 34
_NARROW, _NARROW_PAGE = 270, 350
"""Least width in pixels of a chart in a box, and of a chart on the page itself, on a phone."""

_TICKS = 4
_LETTER = 7.3
_ROUND = (1.0, 1.2, 1.6, 2.0, 2.4, 3.2, 4.0, 6.0, 8.0, 10.0)


@dataclass(frozen=True)
class Series:
    """A series of numbers in one colour.

    Attributes:
        name: Name of the series.
        values: The numbers; ``None`` is a gap.
        color: A colour of the page.
    """

    name: str
    values: Sequence[float | None]
    color: str = CURRENT


@dataclass(frozen=True)
class Lane:
    """A row of marks on a timeline.

    Attributes:
        name: Name of the row.
        marks: Position and tooltip of each mark.
        color: A colour of the page.
    """

    name: str
    marks: Sequence[tuple[float, str]]
    color: str = CURRENT


def short(value: float) -> str:
    """Write a number in few characters.

    Example:
        >>> short(1234567), short(0.25), short(0.0)
        ('1.23M', '0.25', '0')
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    for bound, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= bound:
            scale = 1e3 if letter == "k" else bound
            return f"{value:.3g}" if abs(value) >= 1e15 else f"{value / scale:.3g}{letter}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def percent(share: float) -> str:
    """Write a share in few characters; only 0 and 1 are written as 0% and 100%.

    Example:
        >>> percent(0.1657), percent(1.0), percent(0.99999), percent(0.000001)
        ('16.6%', '100%', '>99.9%', '<0.01%')
    """
    if share == 0:
        return "0%"
    if abs(share) < 1e-4:
        return "<0.01%" if share > 0 else ">-0.01%"
    if 0.9995 <= share < 1:
        return ">99.9%"
    return f"{100 * share:,.0f}%" if abs(share) >= 9.995 else f"{100 * share:.3g}%"


def line(
    title: str, labels: Sequence[str], series: Sequence[Series], *, x: str, y: str, is_share: bool = False
) -> Markup:
    """Return lines over a common axis.

    Args:
        title: Title of the chart.
        labels: Label of each position of the axis; as many are written as have room, always the first and the last.
        series: The lines.
        x: Name of the labels, with their unit.
        y: Name of the numbers, with their unit.
        is_share: Whether the numbers are shares.
    """
    most = _most(series)
    places = [100 * i / (len(labels) - 1) if len(labels) > 1 else 50.0 for i in range(len(labels))]
    shapes: list[Markup] = []
    for row in series:
        points = [
            None if value is None else (at, _y(value, most)) for at, value in zip(places, row.values, strict=True)
        ]
        for left, right in pairwise(points):
            if left is not None and right is not None:
                shapes.append(_stroke(left, right, row.color))
        for i, value in enumerate(row.values):
            if value is not None:
                tooltip = element("title", f"{labels[i]}: {row.name} {_number(value, is_share=is_share)}")
                shapes.append(
                    element("circle", tooltip, cx=_share(places[i]), cy=f"{_y(value, most):.1f}", r=3, fill=row.color)
                )
    return _chart(title, [*_axis(most, is_share=is_share), *shapes, *_labels(labels, places)], series, x=x, y=y)


def bars(
    title: str, labels: Sequence[str], series: Sequence[Series], *, x: str, y: str, is_share: bool = False
) -> Markup:
    """Return bars side by side: a histogram of several samples, or counts over time.

    Args:
        title: Title of the chart.
        labels: Label of each group of bars; as many are written as have room, always the first and the last.
        series: One bar of each per group.
        x: Name of the labels, with their unit.
        y: Name of the numbers, with their unit.
        is_share: Whether the numbers are shares.
    """
    most = _most(series)
    step = 100 / max(1, len(labels))
    width = step * 0.84 / max(1, len(series))
    shapes: list[Markup] = []
    for number, row in enumerate(series):
        for i, value in enumerate(row.values):
            if not value:
                continue
            height = max(1.0, _HEIGHT - _BOTTOM - _y(value, most))
            shapes.append(
                element(
                    "rect",
                    element("title", f"{labels[i]}: {row.name} {_number(value, is_share=is_share)}"),
                    x=_share(i * step + step * 0.08 + number * width),
                    y=f"{_HEIGHT - _BOTTOM - height:.1f}",
                    width=_share(width),
                    height=f"{height:.1f}",
                    fill=row.color,
                )
            )
    written = _labels(labels, [(i + 0.5) * step for i in range(len(labels))])
    return _chart(title, [*_axis(most, is_share=is_share), *shapes, *written], series, x=x, y=y)


def ranked(
    title: str,
    labels: Sequence[str],
    series: Sequence[Series],
    *,
    is_share: bool = False,
    unit: str = "",
    most: float | None = None,
    colors: Sequence[str] = (),
) -> Markup:
    """Return horizontal bars, one under the other, each with its number, and a name per group of them.

    Args:
        title: Title of the chart, written above it.
        labels: Name of each group.
        series: One bar of each per group; ``None`` draws no bar.
        is_share: Whether the numbers are shares.
        unit: Unit, written after the numbers.
        most: Number of a bar of full length; ``None`` for the largest number.
        colors: Colour of each group, instead of the colours of the series.
    """
    largest = max((value for row in series for value in row.values if value is not None), default=0.0)
    whole = most or largest or 1.0

    def drawn(row: Series, place: int) -> Markup | None:
        value = row.values[place]
        if value is None:
            return None
        number = _number(value, is_share=is_share) + (f" {unit}" if unit else "")
        share = min(max(value / whole, 0.0), 1.0)
        style = f"width:calc((100% - 6em)*{share:.4f});background:{colors[place] if colors else row.color}"
        return element("div", element("i", style=style), number, title=f"{labels[place]}: {row.name} {number}")

    width = f"width:min({max(map(len, labels), default=0) + 2}ch,42cqw)"
    rows = (
        element(
            "tr",
            element("th", label, scope="row", style=width),
            element("td", [drawn(row, place) for row in series], class_="bars"),
        )
        for place, label in enumerate(labels)
    )
    body = element("table", element("caption", title), element("tbody", rows), class_="ranked")
    return element("figure", body, _legend_of(series), class_="chart")


def colors_of(names: Iterable[str], rest: str) -> dict[str, str]:
    """Return the colours of parts of a whole; the rest, and parts for which no colour is left, are grey.

    Args:
        names: The parts, in their order.
        rest: Name of the part that is the rest.
    """
    unused = iter(COLORS)
    return {name: REST if name == rest else next(unused, REST) for name in names}


def stacked(title: str, parts: Sequence[tuple[str, float, str]]) -> Markup:
    """Return one bar of parts of a whole, with a legend.

    Args:
        title: Title of the chart.
        parts: Label, size and colour of each.
    """
    whole = sum(size for _, size, _ in parts) or 1.0
    shapes: list[Markup] = []
    x = 0.0
    for label, size, color in parts:
        share = size / whole
        tooltip = element("title", f"{label}: {percent(share)}")
        shapes.append(
            element("rect", tooltip, x=_share(100 * x), y=0, width=_share(100 * share), height=26, fill=color)
        )
        if share * _NARROW > 45:
            place = _share(100 * (x + share / 2))
            shapes.append(_label(percent(share), x=place, y=18, anchor="middle", color="var(--on-color)"))
        x += share
    legend = _legend([(f"{label} {percent(size / whole)}", color) for label, size, color in parts])
    return element("figure", _svg(title, shapes, 26), legend, class_="chart")


def timeline(
    title: str, lanes: Sequence[Lane], *, labels: tuple[str, str], band: tuple[float, float, str] | None = None
) -> Markup:
    """Return rows of marks on a common axis of time.

    Args:
        title: Title of the chart, written above it.
        lanes: The rows; positions are numbers of any unit.
        labels: Labels of the first and the last position of the axis.
        band: Begin, end and tooltip of a shaded stretch of the axis, which may begin or end outside the marks.
    """
    places = [place for lane in lanes for place, _ in lane.marks]
    places += [edge for edge in (band[:2] if band else ()) if math.isfinite(edge)]
    low, high = min(places, default=0.0), max(places, default=0.0)
    bottom = 4 + _LANE * len(lanes)

    def x(place: float) -> float:
        share = (min(max(place, low), high) - low) / (high - low) if high > low else 0.5
        return 1 + 98 * share

    shapes: list[Markup] = []
    if band is not None:
        left, right = x(band[0]), x(band[1])
        tooltip = element("title", band[2])
        shapes.append(
            element("rect", tooltip, x=_share(left), y=0, width=_share(right - left), height=bottom, fill="var(--grid)")
        )
    for number, lane in enumerate(lanes):
        y = 4 + _LANE * number
        shapes.append(_label(lane.name, x="4", y=y + 12, color="var(--text)"))
        shapes += [
            element("circle", element("title", text), cx=_share(x(place)), cy=y + 23, r=4, fill=lane.color)
            for place, text in lane.marks
        ]
    shapes += _labels(labels, [0.0, 100.0], y=bottom + 15, room=_NARROW_PAGE)
    caption = element("p", title, class_="axis")
    return element("figure", caption, _svg(title, shapes, bottom + 22), class_="chart")


def _chart(title: str, shapes: Sequence[Markup], series: Sequence[Series], *, x: str, y: str) -> Markup:
    plot = _svg(title, shapes, _HEIGHT, class_="plot")
    above, below = element("p", f"↑ {y}", class_="axis"), element("p", f"{x} →", class_="axis along")
    return element("figure", above, plot, below, _legend_of(series), class_="chart")


def _svg(title: str, shapes: Sequence[Markup], height: int, class_: str | None = None) -> Markup:
    return element(
        "svg",
        element("title", title),
        shapes,
        role="img",
        aria_label=title,
        class_=class_,
        width="100%",
        height=height,
    )


def _legend_of(series: Sequence[Series]) -> Markup | None:
    return _legend([(row.name, row.color) for row in series]) if len(series) > 1 else None


def _legend(entries: Sequence[tuple[str, str]]) -> Markup:
    items = (
        element("span", element("span", class_="swatch", style=f"background:{color}"), name) for name, color in entries
    )
    return element("figcaption", items)


def _axis(most: float, *, is_share: bool) -> list[Markup]:
    shapes = []
    for i in range(_TICKS + 1):
        value = most * i / _TICKS
        y = _y(value, most)
        shapes.append(element("line", x1="0", x2="100%", y1=f"{y:.1f}", y2=f"{y:.1f}", stroke="var(--grid)"))
        shapes.append(_label(_number(value, is_share=is_share), x="-7", y=y + 4, anchor="end"))
    return shapes


def _stroke(left: tuple[float, float], right: tuple[float, float], color: str) -> Markup:
    return element(
        "line",
        x1=_share(left[0]),
        y1=f"{left[1]:.1f}",
        x2=_share(right[0]),
        y2=f"{right[1]:.1f}",
        stroke=color,
        stroke_width=2,
        stroke_linecap="round",
    )


def _labels(
    labels: Sequence[str], places: Sequence[float], *, y: float = _HEIGHT - 7, room: int = _NARROW
) -> list[Markup]:
    """Write the first and the last label, and as many between them as have room on a narrow screen."""
    if not labels:
        return []
    fitting = int(room / (max(map(len, labels)) * _LETTER + 8))
    gaps = min(len(labels) - 1, max(1, fitting - 1))
    chosen = sorted({round(i * (len(labels) - 1) / gaps) for i in range(gaps + 1)}) if gaps else [0]
    widest = room / len(chosen)
    written = []
    for i in chosen:
        is_first, is_last = i == 0 and len(labels) > 1, i == len(labels) - 1 and len(labels) > 1
        anchor = "start" if is_first else "end" if is_last else "middle"
        x = 0.0 if is_first else 100.0 if is_last else places[i]
        written.append(_label(_cut(labels[i], widest), x=_share(x), y=y, anchor=anchor))
    return written


def _label(text: str, *, x: str, y: float, anchor: str = "start", color: str = "var(--muted)") -> Markup:
    return element("text", text, x=x, y=f"{y:.1f}", text_anchor=anchor, fill=color, font_size=12.5)


def _cut(text: str, width: float) -> str:
    letters = max(1, int(width / _LETTER))
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def _most(series: Sequence[Series]) -> float:
    """Return the end of the axis: the next round number whose ticks are round numbers."""
    most = max((value for row in series for value in row.values if value is not None), default=0.0)
    if most <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(most))
    return next(unit * times for times in _ROUND if unit * times >= most * (1 - 1e-9))


def _share(hundredths: float) -> str:
    return f"{hundredths:.2f}%"


def _y(value: float, most: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * value / most


def _number(value: float, *, is_share: bool) -> str:
    return percent(value) if is_share else short(value)
