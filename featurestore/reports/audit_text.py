"""Showing a report on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from featurestore.guard.audit.report import AuditReport, Mismatch
from featurestore.guard.causes.catalogue import UNEXPLAINED
from featurestore.guard.comparing.compare import FeatureCounts
from featurestore.guard.comparing.findings import Example
from featurestore.guard.comparing.verdicts import FAIL, PASS
from featurestore.reports.commands import explain_command

_SHOWN_ROWS = 8
_SHOWN_FEATURES = 20
_SHOWN_REASONS = 5
_SHOWN_FINDINGS = 8
_LEAST_NAME = 8
_STYLES = {PASS: "bold green", FAIL: "bold red"}


def render(report: AuditReport) -> RenderableType:
    """Return what a person should see: the verdict, counts per feature, causes, and the values that differ most."""
    parts: list[RenderableType] = [_head(report), _features(report.features)]
    if report.findings:
        parts.append(_findings(report))
    if report.worst:
        parts += [
            _worst(report.worst[:_SHOWN_ROWS]),
            Text(f"the first, event by event: {explain_command(report, report.worst[0])}"),
        ]
    return Group(*parts)


def _head(report: AuditReport) -> Text:
    verdict = report.verdict or "not judged"
    text = Text.assemble(
        f"audit of {report.service}, asked about {report.since} to {report.until}: ",
        (verdict, _STYLES.get(verdict, "bold yellow")),
        f"\n{report.compared} of {report.served} served rows compared, {report.stale} of them answered by a view behind"
        " its refresh",
    )
    if report.sums:
        text.append(f"\n{report.sums}")
    if report.sample < 1.0:
        text.append(f"\n{report.sample:.3g} of the entities were looked at, by hash of their key")
    if report.beyond_newest_event:
        text.append(f"\n{report.beyond_newest_event} rows ask about more than the sources hold yet")
    for note in report.notes:
        text.append(f"\n{note}")
    for reason in report.reasons[:_SHOWN_REASONS]:
        text.append(f"\n  {reason}")
    if len(report.reasons) > _SHOWN_REASONS:
        text.append(f"\n  and {len(report.reasons) - _SHOWN_REASONS} more")
    if report.telling:
        text.append(f"\n{report.telling}", style="bold")
    return text


def _features(features: tuple[FeatureCounts, ...]) -> Table:
    """List the features that differ most; those that differ less are one line together, and the others one more."""
    different = sorted((feature for feature in features if feature.different), key=lambda one: (-one.share, one.name))
    others = [feature for feature in features if not feature.different]
    rows = [([feature.name, *_counts([feature])], "red") for feature in different[:_SHOWN_FEATURES]]
    if rest := different[_SHOWN_FEATURES:]:
        rows.append(([f"{len(rest)} more that differ", *_counts(rest)], "red"))
    if others:
        name = f"{len(others)} {'other features' if different else 'features'}"
        rows.append(([name, *_counts(others)], "green"))
    titles = ("feature", "rows", "equal", "null", "differ", "only ref", "only cur", "stale", "largest")
    table = Table(box=None, pad_edge=False)
    for place, title in enumerate(titles):
        # Numbers keep their width on a narrow terminal; the name gives way.
        widest = max(len(title), *(len(cells[place]) for cells, _ in rows)) if rows else len(title)
        least = widest if place else _LEAST_NAME
        table.add_column(title, justify="right" if place else "left", no_wrap=True, min_width=least)
    for cells, style in rows:
        table.add_row(*cells, style=style)
    return table


def _counts(features: Sequence[FeatureCounts]) -> list[str]:
    """Return the cells of one line: the counts of some features added up."""
    sizes = [feature.largest_difference for feature in features if feature.largest_difference is not None]
    edits = [feature.lists.largest_distance for feature in features if feature.lists is not None]
    counts = (
        sum(feature.compared for feature in features),
        sum(feature.equal for feature in features),
        sum(feature.both_null for feature in features),
        sum(feature.mismatch for feature in features),
        sum(feature.only_in_reference for feature in features),
        sum(feature.only_in_current for feature in features),
        sum(feature.of_stale_views for feature in features),
    )
    largest = f"{max(sizes):.6g}" if sizes else f"{max(edits):,} items" if edits else ""
    return [*(f"{count:,}" for count in counts), largest]


def _findings(report: AuditReport) -> RenderableType:
    """Tell each cause in a few lines: how much it explains, what was assumed, what speaks for it, what would help."""
    text = Text.assemble(("causes, proven by recomputation", "italic"))
    for finding in report.findings[:_SHOWN_FINDINGS]:
        proven = "" if finding.is_proven or finding.cause == UNEXPLAINED else " (not proven)"
        text.append(f"\n{finding.cause}{proven}", style="bold")
        text.append(f"  {finding.values:,} of {report.examined:,} values ({finding.share:.1%}), {finding.rows:,} rows")
        text.append(f"\n  {finding.said}")
        for line in finding.evidence[:_SHOWN_REASONS]:
            text.append(f"\n  · {line}")
        for example in finding.examples[:1]:
            text.append(f"\n  for instance {_told(example)}")
        if finding.fix:
            text.append(f"\n  → {finding.fix}")
    if len(report.findings) > _SHOWN_FINDINGS:
        text.append(f"\nand {len(report.findings) - _SHOWN_FINDINGS} more")
    return text


def _told(example: Example) -> str:
    keys = ", ".join(f"{name}={value}" for name, value in example.keys.items())
    events = f"; events at {', '.join(event.event_time for event in example.events)}" if example.events else ""
    return (
        f"{example.feature} of {keys} at {example.as_of}: {_shown(example.reference)} ({example.reference_status}) in"
        f" training, {_shown(example.current)} ({example.current_status}) served{events}"
    )


def _worst(mismatches: tuple[Mismatch, ...]) -> Table:
    table = Table(title="values that differ most", box=None, pad_edge=False, title_justify="left")
    for title in ("feature", "entity", "as of", "reference", "current", "status", "stale", "cause"):
        table.add_column(title, overflow="fold")
    for found in mismatches:
        keys = ", ".join(f"{name}={value}" for name, value in found.keys.items())
        statuses = f"{found.reference_status}/{found.current_status}"
        table.add_row(
            found.feature,
            keys,
            found.as_of,
            _shown(found.reference),
            _shown(found.current),
            statuses,
            "yes" if found.is_stale else "",
            found.cause,
        )
    return table


def _shown(value: str | None) -> str:
    return "null" if value is None else value
