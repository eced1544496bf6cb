"""Charts as inline SVG: a few shapes, colours from the page's variables, a title and text for every one.

Colours are ``var(--…)`` of the page, so a chart is light or dark as the page is. Every chart says in its title what it
shows, for those who cannot see it, and every bar and point its numbers when pointed at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from featurestore.render.markup import Markup, element

REFERENCE = "var(--reference)"
CURRENT = "var(--current)"
BAD = "var(--bad)"
GOOD = "var(--good)"
COLORS = (*(f"var(--series-{i})" for i in range(1, 7)), "var(--muted)")
"""Colours of parts of a whole; the last one is for the rest."""

_WIDTH, _HEIGHT = 640, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 26
_LANE = 170
_TICKS = 4
_LETTER = 7.2
_ROUND = (1.0, 1.2, 1.6, 2.0, 2.4, 3.2, 4.0, 6.0, 8.0, 10.0)


@dataclass(frozen=True)
class Series:
    """Numbers of one colour.

    Attributes:
        name: What they are.
        values: The numbers; ``None`` is a gap.
        color: A colour of the page.
    """

    name: str
    values: Sequence[float | None]
    color: str = CURRENT


@dataclass(frozen=True)
class Lane:
    """Marks of one kind on a timeline.

    Attributes:
        name: What they are.
        marks: Places on the axis, and what each is.
        color: A colour of the page.
    """

    name: str
    marks: Sequence[tuple[float, str]]
    color: str = CURRENT


def short(value: float) -> str:
    """Return a number in few characters.

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


def line(title: str, labels: Sequence[str], series: Sequence[Series], *, percent: bool = False) -> Markup:
    """Return lines over a common axis.

    Args:
        title: What the chart shows.
        labels: What each place of the axis is; first and last are written.
        series: The lines.
        percent: Whether the numbers are shares.
    """
    most = _most(series)
    shapes: list[Markup] = []
    for one in series:
        points = [(_x(i, len(labels)), _y(value, most)) for i, value in enumerate(one.values) if value is not None]
        if len(points) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            shapes.append(element("polyline", points=path, fill="none", stroke=one.color, stroke_width=2))
        for i, value in enumerate(one.values):
            if value is not None:
                told = f"{labels[i]}: {one.name} {_told(value, percent=percent)}"
                dot = element("title", told)
                shapes.append(
                    element(
                        "circle", dot, cx=f"{_x(i, len(labels)):.1f}", cy=f"{_y(value, most):.1f}", r=3, fill=one.color
                    )
                )
    ends = [labels[0], labels[-1]] if len(labels) > 1 else list(labels)
    return _chart(title, [*_axis(most, percent=percent), *shapes, *_ends(ends)], series)


def bars(
    title: str, labels: Sequence[str], series: Sequence[Series], *, percent: bool = False, all_labels: bool = False
) -> Markup:
    """Return bars side by side: a histogram of several samples, or counts over time.

    Args:
        title: What the chart shows.
        labels: What each group of bars is.
        series: One bar of each per group.
        percent: Whether the numbers are shares.
        all_labels: Whether to write every label, cut where it does not fit; else first and last.
    """
    most = _most(series)
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(labels))
    width = step * 0.84 / max(1, len(series))
    shapes: list[Markup] = []
    for number, one in enumerate(series):
        for i, value in enumerate(one.values):
            if not value:
                continue
            top = _y(value, most)
            told = element("title", f"{labels[i]}: {one.name} {_told(value, percent=percent)}")
            x = _LEFT + i * step + step * 0.08 + number * width
            height = _HEIGHT - _BOTTOM - top
            shapes.append(
                element(
                    "rect",
                    told,
                    x=f"{x:.1f}",
                    y=f"{top:.1f}",
                    width=f"{width:.1f}",
                    height=f"{height:.1f}",
                    fill=one.color,
                )
            )
    if all_labels:
        written = [
            _label(_cut(text, step), x=_LEFT + (i + 0.5) * step, y=_HEIGHT - 8, anchor="middle")
            for i, text in enumerate(labels)
        ]
    else:
        written = _ends([labels[0], labels[-1]] if len(labels) > 1 else list(labels))
    return _chart(title, [*_axis(most, percent=percent), *shapes, *written], series)


def ranked(
    title: str, rows: Sequence[tuple[str, float]], *, percent: bool = False, colors: Sequence[str] = ()
) -> Markup:
    """Return horizontal bars, one under the other, each with its label and number.

    Args:
        title: What the chart shows.
        rows: Label and number of each.
        percent: Whether the numbers are shares.
        colors: Colour of each bar, if they are not all the same.
    """
    most = max((value for _, value in rows), default=0.0) or 1.0
    height, label_width = 24, 220
    shapes: list[Markup] = []
    for i, (label, value) in enumerate(rows):
        y = 6 + i * height
        room = _WIDTH - label_width - 70
        told = element("title", f"{label}: {_told(value, percent=percent)}")
        color = colors[i] if colors else BAD
        width = max(1.0, room * value / most)
        shapes += [
            _label(_cut(label, label_width), x=label_width - 8, y=y + 13, anchor="end", color="var(--text)"),
            element("rect", told, x=label_width, y=y, width=f"{width:.1f}", height=height - 7, rx=2, fill=color),
            _label(_told(value, percent=percent), x=label_width + width + 6, y=y + 13, color="var(--text)"),
        ]
    return _svg(title, shapes, _WIDTH, 12 + height * len(rows))


def stacked(title: str, parts: Sequence[tuple[str, float]]) -> Markup:
    """Return one bar of parts of a whole, with a legend.

    Args:
        title: What the chart shows.
        parts: Label and size of each; beyond six they share the last colour.
    """
    whole = sum(size for _, size in parts) or 1.0
    shapes: list[Markup] = []
    legend = []
    x = 0.0
    for i, (label, size) in enumerate(parts):
        width = _WIDTH * size / whole
        color = COLORS[min(i, len(COLORS) - 1)]
        told = element("title", f"{label}: {_told(size / whole, percent=True)}")
        shapes.append(element("rect", told, x=f"{x:.1f}", y=2, width=f"{width:.1f}", height=24, fill=color))
        if width > 50:
            share = _told(size / whole, percent=True)
            shapes.append(_label(share, x=x + width / 2, y=18, anchor="middle", color="var(--on-color)"))
        legend.append((f"{label} {_told(size / whole, percent=True)}", color))
        x += width
    return element("figure", _svg(title, shapes, _WIDTH, 28), _legend(legend), class_="chart")


def timeline(
    title: str, lanes: Sequence[Lane], *, labels: tuple[str, str], band: tuple[float, float, str] | None = None
) -> Markup:
    """Return marks on a common axis of time, a lane under the other.

    Args:
        title: What the chart shows.
        lanes: The marks; numbers on the axis, of any unit.
        labels: What the first and the last place of the axis are.
        band: A stretch of the axis that is shaded, and what it is; it may begin or end beyond the marks.
    """
    places = [place for lane in lanes for place, _ in lane.marks]
    places += [edge for edge in (band[:2] if band else ()) if math.isfinite(edge)]
    low, high = min(places, default=0.0), max(places, default=0.0)
    height, bottom = 26, 6 + 26 * len(lanes)

    def x(place: float) -> float:
        share = (min(max(place, low), high) - low) / (high - low) if high > low else 0.5
        return _LANE + (_WIDTH - _LANE - _RIGHT) * share

    shapes: list[Markup] = []
    if band is not None:
        left, right = x(band[0]), x(band[1])
        told = element("title", band[2])
        shapes.append(
            element(
                "rect", told, x=f"{left:.1f}", y=2, width=f"{right - left:.1f}", height=bottom - 2, fill="var(--grid)"
            )
        )
    for number, lane in enumerate(lanes):
        y = 6 + height * number + height / 2
        shapes.append(_label(_cut(lane.name, _LANE), x=_LANE - 10, y=y + 4, anchor="end", color="var(--text)"))
        shapes += [
            element("circle", element("title", told), cx=f"{x(place):.1f}", cy=f"{y:.1f}", r=4, fill=lane.color)
            for place, told in lane.marks
        ]
    ends = ((labels[0], _LANE, "start"), (labels[1], _WIDTH - _RIGHT, "end"))
    shapes += [_label(text, x=at, y=bottom + 15, anchor=anchor) for text, at, anchor in ends]
    return element("figure", _svg(title, shapes, _WIDTH, bottom + 22), class_="chart")


def sparkline(title: str, values: Sequence[float], *, color: str = CURRENT) -> Markup:
    """Return a line of the size of a word.

    Args:
        title: What it shows.
        values: Its numbers.
        color: Its colour.
    """
    most = max(values, default=0.0) or 1.0
    step = 96 / max(1, len(values) - 1)
    points = " ".join(f"{2 + i * step:.1f},{20 - 17 * value / most:.1f}" for i, value in enumerate(values))
    shape = element("polyline", points=points, fill="none", stroke=color, stroke_width=1.5)
    return _svg(title, [shape], 100, 22, class_="spark")


def _chart(title: str, shapes: Sequence[Markup], series: Sequence[Series]) -> Markup:
    legend = _legend([(one.name, one.color) for one in series]) if len(series) > 1 else None
    return element("figure", _svg(title, shapes, _WIDTH, _HEIGHT), legend, class_="chart")


def _svg(title: str, shapes: Sequence[Markup], width: int, height: int, class_: str | None = None) -> Markup:
    return element(
        "svg",
        element("title", title),
        shapes,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=title,
        class_=class_,
        width=width,
        height=height,
    )


def _legend(entries: Sequence[tuple[str, str]]) -> Markup:
    items = (
        element("span", element("span", class_="swatch", style=f"background:{color}"), name) for name, color in entries
    )
    return element("figcaption", items)


def _axis(most: float, *, percent: bool) -> list[Markup]:
    shapes = []
    for i in range(_TICKS + 1):
        value = most * i / _TICKS
        y = _y(value, most)
        shapes.append(element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", stroke="var(--grid)"))
        shapes.append(_label(_told(value, percent=percent), x=_LEFT - 6, y=y + 4, anchor="end"))
    return shapes


def _ends(labels: Sequence[str]) -> list[Markup]:
    places = [(_LEFT, "start"), (_WIDTH - _RIGHT, "end")]
    return [
        _label(_cut(text, 280), x=x, y=_HEIGHT - 8, anchor=anchor)
        for text, (x, anchor) in zip(labels, places, strict=False)
    ]


def _label(text: str, *, x: float, y: float, anchor: str = "start", color: str = "var(--muted)") -> Markup:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, fill=color, font_size=12.5)


def _cut(text: str, width: float) -> str:
    letters = max(1, int(width / _LETTER))
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def _most(series: Sequence[Series]) -> float:
    """Return where the axis ends: the next round number that its ticks divide into round ones."""
    most = max((value for one in series for value in one.values if value is not None), default=0.0)
    if most <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(most))
    return next(unit * times for times in _ROUND if unit * times >= most * (1 - 1e-9))


def _x(place: int, count: int) -> float:
    room = _WIDTH - _LEFT - _RIGHT
    return _LEFT + room * place / (count - 1) if count > 1 else _LEFT + room / 2


def _y(value: float, most: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * value / most


def _told(value: float, *, percent: bool) -> str:
    return f"{100 * value:.3g}%" if percent else short(value)
