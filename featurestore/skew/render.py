"""Showing a report on a terminal."""

from __future__ import annotations

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
    table = Table(box=None, pad_edge=False)
    table.add_column("feature")
    titles = ("compared", "equal", "both null", "mismatch", "only reference", "only current", "stale", "largest")
    for title in titles:
        table.add_column(title, justify="right")
    for feature in features:
        largest = "" if feature.largest_difference is None else f"{feature.largest_difference:.6g}"
        counts = (
            feature.compared,
            feature.equal,
            feature.both_null,
            feature.mismatch,
            feature.only_in_reference,
            feature.only_in_current,
            feature.of_stale_views,
        )
        style = "red" if feature.different else None
        table.add_row(feature.name, *map(str, counts), largest, style=style)
    return table


def _worst(mismatches: tuple[Mismatch, ...]) -> Table:
    table = Table(title="values that differ most", box=None, pad_edge=False, title_justify="left")
    for title in ("feature", "entity", "as of", "reference", "current", "status", "stale"):
        table.add_column(title)
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
