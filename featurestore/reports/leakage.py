"""A leakage report on a terminal and as a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from featurestore.core.temporal import format_duration
from featurestore.guard.release.leakage_report import (
    HINDSIGHT,
    LABEL_TIME,
    SHIFTS,
    FeaturePower,
    LeakageReport,
    SourceDelay,
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
    folded,
    heading,
    page,
    pairs,
    panel,
    section,
    table,
)

_DELAYS = ("view", "source", "median", "95 %", "longest", "later than the lag")
_SHOWN = 20
_DRAWN = 12


def render(report: LeakageReport) -> RenderableType:
    """Return what each feature tells, what became of it, and how late events became known."""
    shown = report.features[: max(_SHOWN, len(report.flagged) + len(report.doubted))]
    features = _table(_head(report), [_cells(feature, report) for feature in shown], [_style(one) for one in shown])
    said = [Text(f"{feature.name}: {line}", style="red") for feature in report.flagged for line in feature.flags]
    said += [
        Text(f"{feature.name}: {line}", style="yellow") for feature in report.doubted for line in _doubted(feature)
    ]
    said += [Text(f"{feature.name}: {line}") for feature in shown for line in _notes(feature)]
    delays = _table(_DELAYS, [_delay(delay) for delay in report.sources], [""] * len(report.sources))
    return Group(Text(_title(report)), features, *said, Text("how late events became known", style="italic"), delays)


def render_html(report: LeakageReport) -> str:
    """Return the report as one HTML file that needs nothing else."""
    titles = _head(report)
    drawn = report.features[:_DRAWN]
    rest = [f"{feature.name}: {line}" for feature in report.features[_DRAWN:] for line in _said(feature)]
    return page(
        f"Leakage in {report.service}: {_verdict(report)}",
        heading(f"Leakage in {report.service}", _verdict(report)),
        element("p", element("b", _title(report)), class_="lead"),
        folded([f"{feature.name}: {line}" for feature in report.flagged for line in feature.flags], "reasons"),
        folded([f"{feature.name}: {line}" for feature in report.doubted for line in feature.doubts], "doubts"),
        section(
            "What features tell when they are asked earlier",
            pairs(_chart(feature, report) for feature in drawn),
            folded(rest, "remarks"),
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
            table(_DELAYS, [_delay(one) for one in report.sources], numbers=range(2, len(_DELAYS))),
        ),
    )


def _verdict(report: LeakageReport) -> str:
    return "fail" if report.flagged else "doubtful" if report.doubted else "pass"


def _title(report: LeakageReport) -> str:
    rows = f"{report.rows:,} rows"
    if report.rows < report.sampled_of:
        rows = f"{report.rows:,} of {report.sampled_of:,} rows"
    count, doubted = len(report.flagged), len(report.doubted)
    found = f"{count} of {len(report.features)} features are leaks" if count else "no feature is shown to be a leak"
    found += f", {doubted} may be" if doubted else ""
    if report.after_label:
        found += f"; {report.after_label:,} rows ask after the label's own event"
    return f"{report.service}, {rows}, predicting {report.label}: {found}"


def _moves(report: LeakageReport) -> dict[str, str]:
    """Return the ways in which features were asked otherwise, with their headings."""
    found = {shift: f"{shift} earlier" for shift in SHIFTS} | {HINDSIGHT: "hindsight changed"}
    return found | ({LABEL_TIME: "before the label"} if report.label_time else {})


def _head(report: LeakageReport) -> list[str]:
    return ["feature", "tells", *_moves(report).values()]


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
        yield f"{feature.changed:,} values are other ones now: its sources were changed since"


def _said(feature: FeaturePower) -> Iterator[str]:
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
    said = list(_said(feature))
    return panel(
        feature.name,
        ranked("Share of the label's entropy it tells", ["as trained", *moves.values()], series, is_share=True, most=1),
        bullets(said) if said else None,
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str]) -> Table:
    found = Table(box=None, pad_edge=False)
    for place, title in enumerate(head):
        found.add_column(title, justify="left" if place == 0 else "right", overflow="fold")
    for row, style in zip(rows, styles, strict=True):
        found.add_row(*row, style=style)
    return found
