"""A leakage report on a terminal and as a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from featurestore.render.charts import BAD, CURRENT, Series, bars
from featurestore.render.markup import Markup, element
from featurestore.render.page import bullets, page, panel, section, table
from featurestore.skew.leakage import HINDSIGHT, SHIFTS, FeaturePower, LeakageReport, SourceDelay
from featurestore.temporal import format_duration

_MOVES = (*SHIFTS, HINDSIGHT)
_HEAD = ("feature", "tells", *(f"{shift} earlier" for shift in SHIFTS), "hindsight changed")
_DELAYS = ("view", "source", "median", "95 %", "longest", "later than the lag")
_SHOWN = 20
_DRAWN = 12


def render(report: LeakageReport) -> RenderableType:
    """Return what each feature tells, what became of it, and how late events became known."""
    shown = report.features[: max(_SHOWN, len(report.flagged))]
    features = _table(_HEAD, [_cells(feature) for feature in shown], [bool(feature.flags) for feature in shown])
    said = [Text(f"{feature.name}: {line}", style="red") for feature in report.flagged for line in feature.flags]
    said += [Text(f"{feature.name}: {line}") for feature in shown for line in _notes(feature)]
    delays = _table(_DELAYS, [_delay(delay) for delay in report.sources], [False] * len(report.sources))
    return Group(Text(_title(report)), features, *said, Text("how late events became known", style="italic"), delays)


def render_html(report: LeakageReport) -> str:
    """Return the report as one HTML file that needs nothing else."""
    return page(
        f"Leakage in {report.service}",
        element("header", element("h1", f"Leakage in {report.service}"), element("p", _title(report))),
        bullets(f"{feature.name}: {line}" for feature in report.flagged for line in feature.flags),
        section("Asked earlier", *(_chart(feature) for feature in report.features[:_DRAWN])),
        section("All features", table(_HEAD, [_cells(feature) for feature in report.features], numbers=range(1, 7))),
        bullets(f"{feature.name}: {line}" for feature in report.features for line in _notes(feature)),
        section("How late events became known", table(_DELAYS, [_delay(one) for one in report.sources])),
    )


def _title(report: LeakageReport) -> str:
    count = len(report.flagged)
    found = "no feature looks like a leak" if not count else f"{count} of {len(report.features)} look like leaks"
    return f"{report.service}, {report.rows:,} rows, predicting {report.label}: {found}"


def _cells(feature: FeaturePower) -> list[str]:
    shares = [feature.share, *(feature.earlier[move] for move in _MOVES)]
    return [feature.name, *(f"{share:.3f}" for share in shares)]


def _notes(feature: FeaturePower) -> Iterator[str]:
    yield from feature.notes
    if feature.changed:
        yield f"{feature.changed:,} values are other ones now: its sources were changed since"


def _delay(delay: SourceDelay) -> list[str]:
    ages = [format_duration(round(seconds * 1e6)) for seconds in (delay.median_s, delay.p95_s, delay.longest_s)]
    return [delay.view, delay.source, *ages, f"{delay.beyond_lag:.1%}"]


def _chart(feature: FeaturePower) -> Markup:
    values = [feature.share, *(feature.earlier[move] for move in _MOVES)]
    color = BAD if feature.flags else CURRENT
    labels = ["as trained", *(f"−{shift}" for shift in SHIFTS), "hindsight"]
    series = [Series("share of the label's entropy", values, color)]
    return panel(feature.name, bars(feature.name, labels, series, percent=True, all_labels=True))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], marked: Sequence[bool]) -> Table:
    found = Table(box=None, pad_edge=False)
    for place, title in enumerate(head):
        found.add_column(title, justify="left" if place == 0 else "right", overflow="fold")
    for row, is_marked in zip(rows, marked, strict=True):
        found.add_row(*row, style="red" if is_marked else "")
    return found
