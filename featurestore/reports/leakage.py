"""A leakage report as text for a terminal, and as an HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from featurestore.core.temporal import format_duration
from featurestore.guard.release.delays import SourceDelay
from featurestore.guard.release.leakage import (
    HINDSIGHT,
    LABEL_TIME,
    SHIFTS,
    FeaturePower,
    LeakageReport,
)
from featurestore.reports.charts import (
    BAD,
    CURRENT,
    Series,
    ranked,
)
from featurestore.reports.markup import Markup, element
from featurestore.reports.page import (
    bullets,
    collapsed,
    heading,
    page,
    pairs,
    panel,
    section,
    table,
)

_DELAYS = ("view", "source", "median", "95 %", "longest", "later than the lag")
_TEXT_FEATURES = 20
_PAGE_CHARTS = 12


def render_text(report: LeakageReport) -> RenderableType:
    """Return the report for a terminal: the features, reasons and doubts, and the delays of events."""
    shown = report.features[: max(_TEXT_FEATURES, len(report.flagged) + len(report.doubted))]
    features = _table(
        _head(report), [_cells(feature, report) for feature in shown], [_style(feature) for feature in shown]
    )
    remarks = [Text(f"{feature.name}: {line}", style="red") for feature in report.flagged for line in feature.flags]
    remarks += [
        Text(f"{feature.name}: {line}", style="yellow") for feature in report.doubted for line in _doubted(feature)
    ]
    remarks += [Text(f"{feature.name}: {line}") for feature in shown for line in _notes(feature)]
    delays = _table(_DELAYS, [_delay(delay) for delay in report.sources], [""] * len(report.sources))
    return Group(Text(_title(report)), features, *remarks, Text("how late events became known", style="italic"), delays)


def render_page(report: LeakageReport) -> str:
    """Return the report as one self-contained HTML file."""
    titles = _head(report)
    drawn = report.features[:_PAGE_CHARTS]
    rest = [f"{feature.name}: {line}" for feature in report.features[_PAGE_CHARTS:] for line in _remarks(feature)]
    return page(
        f"Leakage in {report.service}: {report.verdict}",
        heading(f"Leakage in {report.service}", report.verdict),
        element("p", element("b", _title(report)), class_="lead"),
        collapsed([f"{feature.name}: {line}" for feature in report.flagged for line in feature.flags], "reasons"),
        collapsed([f"{feature.name}: {line}" for feature in report.doubted for line in feature.doubts], "doubts"),
        section(
            "Association with the label, computed earlier",
            pairs(_chart(feature, report) for feature in drawn),
            collapsed(rest, "remarks"),
        ),
        section(
            "All features",
            table(
                titles,
                [_cells(feature, report) for feature in report.features],
                numbers=range(1, len(titles)),
                bad=[i for i, feature in enumerate(report.features) if feature.flags],
                doubtful=[i for i, feature in enumerate(report.features) if feature.doubts],
            ),
        ),
        section(
            "How late events became known",
            table(_DELAYS, [_delay(delay) for delay in report.sources], numbers=range(2, len(_DELAYS))),
        ),
    )


def _title(report: LeakageReport) -> str:
    rows = f"{report.rows:,} rows"
    if report.rows < report.sampled_of:
        rows = f"{report.rows:,} of {report.sampled_of:,} rows"
    count, doubted = len(report.flagged), len(report.doubted)
    result = f"{count} of {len(report.features)} features are leaks" if count else "no feature is proven to be a leak"
    result += f", {doubted} may be" if doubted else ""
    if report.after_label:
        result += f"; {report.after_label:,} rows ask after the label's event"
    return f"{report.service}, {rows}, predicting {report.label}: {result}"


def _moves(report: LeakageReport) -> dict[str, str]:
    """Return the headings of the ways in which features were computed otherwise."""
    moves = {shift: f"{shift} earlier" for shift in SHIFTS} | {HINDSIGHT: "hindsight changed"}
    return moves | ({LABEL_TIME: "before the label"} if report.label_time else {})


def _head(report: LeakageReport) -> list[str]:
    return ["feature", "share", *_moves(report).values()]


def _cells(feature: FeaturePower, report: LeakageReport) -> list[str]:
    shares = [feature.share, *(feature.earlier[move] for move in _moves(report))]
    return [feature.name, *(f"{share:.3f}" for share in shares)]


def _style(feature: FeaturePower) -> str:
    return "red" if feature.flags else "yellow" if feature.doubts else ""


def _doubted(feature: FeaturePower) -> Iterator[str]:
    yield from feature.doubts
    yield from feature.evidence


def _notes(feature: FeaturePower) -> Iterator[str]:
    yield from feature.notes
    if feature.changed:
        yield f"{feature.changed:,} values have changed: its sources were modified since the training set was built"


def _remarks(feature: FeaturePower) -> Iterator[str]:
    yield from feature.flags
    yield from _doubted(feature)
    yield from _notes(feature)


def _delay(delay: SourceDelay) -> list[str]:
    ages = [format_duration(round(seconds * 1e6)) for seconds in (delay.median_s, delay.p95_s, delay.longest_s)]
    return [delay.view, delay.source, *ages, f"{delay.beyond_lag:.1%}"]


def _chart(feature: FeaturePower, report: LeakageReport) -> Markup:
    moves = _moves(report)
    values = [feature.share, *(feature.earlier[move] for move in moves)]
    series = [Series("share", values, BAD if feature.flags else CURRENT)]
    remarks = list(_remarks(feature))
    return panel(
        feature.name,
        ranked(
            "Share of the label's entropy that it removes",
            ["as trained", *moves.values()],
            series,
            is_share=True,
            most=1,
        ),
        bullets(remarks) if remarks else None,
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str]) -> Table:
    grid = Table(box=None, pad_edge=False)
    for place, title in enumerate(head):
        grid.add_column(title, justify="left" if place == 0 else "right", overflow="fold")
    for row, style in zip(rows, styles, strict=True):
        grid.add_row(*row, style=style)
    return grid
