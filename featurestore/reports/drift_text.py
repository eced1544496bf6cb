"""Showing a drift report on a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from featurestore.guard.comparing.verdicts import FAIL, PASS
from featurestore.guard.drift.report import DriftReport, FeatureDrift

_SHOWN_REASONS = 10
_SHOWN_FEATURES = 30
_STYLES = {PASS: "bold green", FAIL: "bold red"}
_COLUMNS = {
    "ks": "kolmogorov_smirnov",
    "wasserstein": "wasserstein",
    "l-inf": "l_infinity",
    "psi": "psi",
    "js": "jensen_shannon",
    "beyond range": "beyond_range",
    "new": "new_categories",
}


def render(report: DriftReport) -> RenderableType:
    """Return what a person should see: the verdict, and the distances of the features that moved most."""
    parts: list[RenderableType] = [_head(report), _features(report)]
    splits = [feature for feature in report.features if feature.split]
    if splits:
        parts.append(_splits(splits))
    return Group(*parts)


def _head(report: DriftReport) -> Text:
    verdict = report.verdict or "not judged"
    text = Text.assemble(
        f"drift of {report.service}, asked about {report.since} to {report.until}, from {report.reference}: ",
        (verdict, _STYLES.get(verdict, "bold yellow")),
        f"\n{report.reference_rows} rows of the reference, {report.current_rows} current rows{_worth(report)}; "
        f"{report.policy}",
    )
    for reason in report.reasons[:_SHOWN_REASONS]:
        text.append(f"\n  {reason}")
    if len(report.reasons) > _SHOWN_REASONS:
        text.append(f"\n  and {len(report.reasons) - _SHOWN_REASONS} more")
    for name, reason in report.not_compared.items():
        text.append(f"\n  {name} was not compared: {reason}")
    for reason, rows in report.not_recomputed.items():
        text.append(f"\n  {rows} current rows were not recomputed: {reason}")
    return text


def _worth(report: DriftReport) -> str:
    """Say what rows are worth, if entities have several."""
    reference, current = report.effective_rows
    if (reference, current) == (report.reference_rows, report.current_rows):
        return ""
    return f" (worth {reference} and {current} of independent entities)"


def moved_most(report: DriftReport) -> list[FeatureDrift]:
    """Return the features, drifted ones first, then by their largest distance."""
    return sorted(
        report.features, key=lambda feature: (not feature.is_drift, -largest_difference(feature), feature.name)
    )


def largest_difference(feature: FeatureDrift) -> float:
    """Return the largest difference of distribution functions (numbers) or of shares (categories, nulls), 0 to 1."""
    wanted = ("kolmogorov_smirnov", "l_infinity", "null_share")
    return max((abs(one.value) for one in feature.measures if one.measure in wanted), default=0.0)


def _features(report: DriftReport) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("feature", no_wrap=True)
    for title in ("worth", "nulls", *_COLUMNS):
        table.add_column(title, justify="right", no_wrap=True)
    shown = moved_most(report)[:_SHOWN_FEATURES]
    for feature in shown:
        cells = [_number(feature, measure) for measure in _COLUMNS.values()]
        worth = f"{min(feature.reference_effective_rows, feature.current_effective_rows):,}"
        table.add_row(feature.name, worth, _nulls(feature), *cells, style="red" if feature.is_drift else "green")
    if len(report.features) > len(shown):
        table.add_row(f"and {len(report.features) - len(shown)} more")
    return table


def _number(feature: FeatureDrift, measure: str) -> str:
    found = feature.measured(measure)
    return "" if found is None else f"{found.value:.3g}"


def _nulls(feature: FeatureDrift) -> str:
    found = feature.measured("null_share")
    return "" if found is None else f"{found.value:+.2%}"


def _splits(features: list[FeatureDrift]) -> Table:
    table = Table(title="reference to served, by cause", box=None, pad_edge=False, title_justify="left")
    table.add_column("feature", no_wrap=True)
    for title in ("measure", "total", "population", "definition", "skew"):
        table.add_column(title, justify="left" if title == "measure" else "right", no_wrap=True)
    for feature in features[:_SHOWN_FEATURES]:
        for part in feature.split:
            if part.total:
                numbers = (part.total, part.population, part.definition, part.skew)
                table.add_row(feature.name, part.measure, *(f"{number:.3g}" for number in numbers))
    return table
