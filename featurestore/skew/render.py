"""Showing a report on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from featurestore.skew.compare import FeatureCounts
from featurestore.skew.policy import FAIL, PASS
from featurestore.skew.report import AuditReport, Mismatch

_SHOWN_ROWS = 8
_SHOWN_REASONS = 5
_STYLES = {PASS: "bold green", FAIL: "bold red"}


def render(report: AuditReport) -> RenderableType:
    """Return what a person should see: the verdict, the counts per feature, and the values that differ most."""
    parts: list[RenderableType] = [_head(report), _features(report.features)]
    if report.worst:
        parts.append(_worst(report.worst[:_SHOWN_ROWS]))
    return Group(*parts)


def _head(report: AuditReport) -> Text:
    verdict = report.verdict or "not judged"
    text = Text.assemble(
        f"audit of {report.service}, asked about {report.since} to {report.until}: ",
        (verdict, _STYLES.get(verdict, "bold yellow")),
        f"\n{report.compared} of {report.served} served rows compared, {report.stale} of them answered by a view behind"
        " its refresh",
    )
    if report.beyond_newest_event:
        text.append(f"\n{report.beyond_newest_event} rows ask about more than the sources hold yet")
    for reason in report.reasons[:_SHOWN_REASONS]:
        text.append(f"\n  {reason}")
    if len(report.reasons) > _SHOWN_REASONS:
        text.append(f"\n  and {len(report.reasons) - _SHOWN_REASONS} more")
    return text


def _features(features: tuple[FeatureCounts, ...]) -> Table:
    """List the features that differ; the others are one line together."""
    table = Table(box=None, pad_edge=False)
    table.add_column("feature", no_wrap=True)
    titles = ("rows", "equal", "null", "differ", "only ref", "only cur", "stale", "largest")
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    different = [feature for feature in features if feature.different]
    for feature in different:
        table.add_row(feature.name, *_counts([feature]), style="red")
    others = [feature for feature in features if not feature.different]
    if others:
        name = f"{len(others)} {'other features' if different else 'features'}"
        table.add_row(name, *_counts(others), style="green")
    return table


def _counts(features: Sequence[FeatureCounts]) -> list[str]:
    """Return the cells of one line: the counts of some features added up."""
    sizes = [feature.largest_difference for feature in features if feature.largest_difference is not None]
    counts = (
        sum(feature.compared for feature in features),
        sum(feature.equal for feature in features),
        sum(feature.both_null for feature in features),
        sum(feature.mismatch for feature in features),
        sum(feature.only_in_reference for feature in features),
        sum(feature.only_in_current for feature in features),
        sum(feature.of_stale_views for feature in features),
    )
    return [*(f"{count:,}" for count in counts), f"{max(sizes):.6g}" if sizes else ""]


def _worst(mismatches: tuple[Mismatch, ...]) -> Table:
    table = Table(title="values that differ most", box=None, pad_edge=False, title_justify="left")
    for title in ("feature", "entity", "as of", "reference", "current", "status", "stale"):
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
        )
    return table


def _shown(value: str | None) -> str:
    return "null" if value is None else value
