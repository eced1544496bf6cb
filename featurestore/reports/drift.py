"""A drift report as text for a terminal, and as an HTML page."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from featurestore.core.temporal import duration_us
from featurestore.guard.drift.distribution import AGED
from featurestore.guard.drift.report import (
    Category,
    DriftReport,
    FeatureDrift,
    Measured,
    Split,
)
from featurestore.guard.report import FAIL, PASS
from featurestore.reports.charts import (
    BAD,
    CURRENT,
    GOOD,
    REFERENCE,
    Series,
    bars,
    percent,
    ranked,
    short,
)
from featurestore.reports.markup import Child, Markup, element
from featurestore.reports.page import (
    bullets,
    collapsed,
    facts,
    heading,
    page,
    pairs,
    panel,
    section,
    table,
    tiles,
)

_TEXT_REASONS = 10
_TEXT_FEATURES = 30
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


def render_text(report: DriftReport) -> RenderableType:
    """Return the report for a terminal: the verdict, and the distances of the features that moved most."""
    parts: list[RenderableType] = [_text_head(report), _text_features(report)]
    splits = [feature for feature in report.features if feature.split]
    if splits:
        parts.append(_text_splits(splits))
    return Group(*parts)


def _text_head(report: DriftReport) -> Text:
    verdict = report.verdict or "not judged"
    text = Text.assemble(
        f"drift of {report.service}, asked about {report.since} to {report.until}, from {report.reference}: ",
        (verdict, _STYLES.get(verdict, "bold yellow")),
        f"\n{report.reference_rows} rows of the reference, {report.current_rows} current rows{_worth(report)}; "
        f"{report.policy}",
    )
    for reason in report.reasons[:_TEXT_REASONS]:
        text.append(f"\n  {reason}")
    if len(report.reasons) > _TEXT_REASONS:
        text.append(f"\n  and {len(report.reasons) - _TEXT_REASONS} more")
    for name, reason in report.not_compared.items():
        text.append(f"\n  {name} was not compared: {reason}")
    for reason, rows in report.not_recomputed.items():
        text.append(f"\n  {rows} current rows were not recomputed: {reason}")
    return text


def _worth(report: DriftReport) -> str:
    """Return the effective sample sizes in words, if entities have several rows."""
    reference, current = report.effective_rows
    if (reference, current) == (report.reference_rows, report.current_rows):
        return ""
    return f" (effective sample sizes {reference} and {current})"


def moved_most(report: DriftReport) -> list[FeatureDrift]:
    """Return the features, drifted ones first, then by their largest distance."""
    return sorted(
        report.features, key=lambda feature: (not feature.is_drift, -largest_difference(feature), feature.name)
    )


def largest_difference(feature: FeatureDrift) -> float:
    """Return the largest difference of distribution functions (numbers) or of shares (categories, nulls), 0 to 1."""
    measures = ("kolmogorov_smirnov", "l_infinity", "null_share")
    return max((abs(distance.value) for distance in feature.measures if distance.measure in measures), default=0.0)


def _text_features(report: DriftReport) -> Table:
    grid = Table(box=None, pad_edge=False)
    grid.add_column("feature", no_wrap=True)
    for title in ("worth", "nulls", *_COLUMNS):
        grid.add_column(title, justify="right", no_wrap=True)
    shown = moved_most(report)[:_TEXT_FEATURES]
    for feature in shown:
        cells = [_number(feature, measure) for measure in _COLUMNS.values()]
        worth = f"{min(feature.reference_effective_rows, feature.current_effective_rows):,}"
        grid.add_row(feature.name, worth, _nulls(feature), *cells, style="red" if feature.is_drift else "green")
    if len(report.features) > len(shown):
        grid.add_row(f"and {len(report.features) - len(shown)} more")
    return grid


def _number(feature: FeatureDrift, measure: str) -> str:
    distance = feature.measured(measure)
    return "" if distance is None else f"{distance.value:.3g}"


def _nulls(feature: FeatureDrift) -> str:
    distance = feature.measured("null_share")
    return "" if distance is None else f"{distance.value:+.2%}"


def _text_splits(features: list[FeatureDrift]) -> Table:
    grid = Table(title="reference to served, by cause", box=None, pad_edge=False, title_justify="left")
    grid.add_column("feature", no_wrap=True)
    for title in ("measure", "total", "population", "definition", "skew"):
        grid.add_column(title, justify="left" if title == "measure" else "right", no_wrap=True)
    for feature in features[:_TEXT_FEATURES]:
        for part in feature.split:
            if part.total:
                numbers = (part.total, part.population, part.definition, part.skew)
                grid.add_row(feature.name, part.measure, *(f"{number:.3g}" for number in numbers))
    return grid


_PAGE_CHARTS = 24
_PAGE_RANKED = 20
_PAGE_SPLITS = 8
_PAGE_CATEGORIES = 12
_DAY_US = duration_us("1d")
_NAMES = {
    "kolmogorov_smirnov": "Kolmogorov-Smirnov",
    "wasserstein": "Wasserstein, normalised",
    "l_infinity": "L-infinity",
    "psi": "PSI",
    "jensen_shannon": "Jensen-Shannon",
    "chi_square": "Cramér's V (chi-square)",
    "null_share": "nulls",
    "beyond_range": "beyond the range",
    "new_categories": "new categories",
    "vanished_categories": "vanished categories",
}


def render_page(report: DriftReport) -> str:
    """Return a drift report as one self-contained HTML file.

    Args:
        report: The report, judged or not.
    """
    ordered = moved_most(report)
    return page(
        f"Drift of {report.service}: {report.verdict or 'not judged'}",
        heading(
            f"Drift of {report.service}",
            report.verdict,
            f"asked about {report.since} to {report.until}, from {report.reference}; ran at {report.ran_at}",
            report.policy,
        ),
        tiles(
            [
                ("features that drifted", f"{len(report.drifted):,}"),
                ("features compared", f"{len(report.features):,}"),
                ("rows of the reference", f"{report.reference_rows:,}"),
                ("current rows", f"{report.current_rows:,}"),
                ("effective rows of both", " and ".join(f"{count:,}" for count in report.effective_rows)),
            ]
        ),
        collapsed(report.reasons, "reasons"),
        _overview(ordered),
        _splits(ordered, report),
        _distributions(ordered),
        _all(ordered),
        _not_compared(report),
    )


def _overview(features: Sequence[FeatureDrift]) -> Markup | None:
    shown = features[:_PAGE_RANKED]
    if not shown:
        return None
    note = "The largest difference of distribution functions (numbers) or of shares (categories, nulls), from 0 to 1."
    colors = [BAD if feature.is_drift else GOOD for feature in shown]
    names = [feature.name for feature in shown]
    distances = Series("distance", [largest_difference(feature) for feature in shown])
    chart = ranked("Distance by feature; red where it drifted", names, [distances], colors=colors)
    return section("What moved most", element("p", note, class_="muted"), chart)


def _splits(features: Sequence[FeatureDrift], report: DriftReport) -> Markup | None:
    first, rest = (
        [_split_row(feature.name, part) for feature in some for part in feature.split if part.total]
        for some in (features[:_PAGE_SPLITS], features[_PAGE_SPLITS:])
    )
    if not first and not rest:
        return None
    note = (
        "From the reference to the served values in three steps that add up: to the served rows computed with the"
        " definition of the reference (population), to these rows computed with the definition that answered"
        " (definition), and to these rows as they were served (skew)."
    )
    left_out = [f"{rows:,} rows are left out: {reason}" for reason, rows in report.not_recomputed.items()]
    head = ("feature", "measure", "total", "population", "definition", "skew", "share of skew")
    more = element("summary", f"{len(features) - _PAGE_SPLITS:,} more features")
    return section(
        "Skew or population",
        element("p", note, class_="muted"),
        bullets(left_out) if left_out else None,
        table(head, first, numbers=(2, 3, 4, 5, 6)),
        element("details", more, table(head, rest, numbers=(2, 3, 4, 5, 6))) if rest else None,
    )


def _split_row(name: str, part: Split) -> tuple[Child, ...]:
    numbers = (f"{number:.4g}" for number in (part.total, part.population, part.definition, part.skew))
    return name, _NAMES.get(part.measure, part.measure), *numbers, percent(part.skew / part.total)


def _distributions(features: Sequence[FeatureDrift]) -> Markup | None:
    shown = [feature for feature in features if feature.bins or feature.categories][:_PAGE_CHARTS]
    if not shown:
        return None
    left = sum(bool(feature.bins or feature.categories) for feature in features) - len(shown)
    return section(
        "Distributions",
        pairs(panel(feature.name, _distribution(feature), _measures(feature)) for feature in shown),
        element("p", f"and {left:,} more features", class_="muted") if left else None,
    )


def _distribution(feature: FeatureDrift) -> Child:
    if feature.bins is not None:
        bins = feature.bins
        labels = [_bound(feature.dtype, edge) for edge in bins.lower_edges]
        chart = bars(
            f"Distribution of {feature.name}, in bins by lower edge",
            labels,
            _both(bins.reference, bins.current, (sum(bins.reference), sum(bins.current))),
            x="value, in bins by lower edge",
            y="share of the rows with a value",
            is_share=True,
        )
        return [chart, element("p", _ranges(feature), class_="muted")]
    categories = feature.categories[:_PAGE_CATEGORIES]
    chart = ranked(
        "Share of the rows with a value, by category",
        [category.value for category in categories],
        _both(
            [category.reference for category in categories],
            [category.current for category in categories],
            (feature.reference_rows - feature.reference_nulls, feature.current_rows - feature.current_nulls),
        ),
        is_share=True,
    )
    return [chart, _listed("new", feature.new_categories), _listed("vanished", feature.vanished_categories)]


def _both(reference: Sequence[int], current: Sequence[int], wholes: tuple[int, int]) -> list[Series]:
    left, right = wholes
    return [
        Series("reference", [count / (left or 1) for count in reference], REFERENCE),
        Series("current", [count / (right or 1) for count in current], CURRENT),
    ]


def _listed(what: str, categories: Sequence[Category]) -> Markup | None:
    if not categories:
        return None
    names = ", ".join(f"{category.value} ({category.reference + category.current:,})" for category in categories)
    return element("p", element("b", f"{what}: "), names)


def _ranges(feature: FeatureDrift) -> str:
    sides = []
    each = (
        ("reference", feature.reference_range, feature.reference_mean),
        ("current", feature.current_range, feature.current_mean),
    )
    for name, extremes, mean in each:
        if extremes is not None and mean is not None:
            low, high = (_bound(feature.dtype, end) for end in extremes)
            sides.append(f"{name}: {low} to {high}, mean {_bound(feature.dtype, mean)}")
    return "; ".join(sides)


def _bound(dtype: str, value: float) -> str:
    """Write a number; for instants and dates, their age in days."""
    if dtype in AGED:
        return f"{short(value / _DAY_US if dtype == 'timestamp' else value)} d before"
    return short(value)


def _measures(feature: FeatureDrift) -> Markup:
    rows = [_measure_row(measured) for measured in feature.measures]
    bad = [i for i, measured in enumerate(feature.measures) if measured.is_drift]
    head = ("measure", "distance", "by chance up to", "p-value")
    return element("details", element("summary", "distances"), table(head, rows, numbers=(1, 2, 3), bad=bad))


def _measure_row(measured: Measured) -> tuple[Child, ...]:
    value, error = measured.value, measured.error
    distance = f"{value:.4g}" + (f" to {value + error:.4g}" if error > abs(value) / 1000 else "")
    p_value = measured.p_value if measured.adjusted is None else measured.adjusted
    return (
        _NAMES.get(measured.measure, measured.measure),
        distance,
        "" if measured.by_chance is None else f"{measured.by_chance:.4g}",
        f"{p_value:.2g}" + ("" if measured.adjusted is None else " corrected"),
    )


def _all(features: Sequence[FeatureDrift]) -> Markup:
    names = list(_NAMES)
    rows = [
        (
            feature.name,
            feature.dtype,
            f"{min(feature.reference_effective_rows, feature.current_effective_rows):,}",
            *(_number(feature, name) for name in names),
        )
        for feature in features
    ]
    bad = [i for i, feature in enumerate(features) if feature.is_drift]
    head = ("feature", "dtype", "worth", *_NAMES.values())
    return section("All features", table(head, rows, numbers=range(2, len(head)), shorts=(1,), bad=bad))


def _not_compared(report: DriftReport) -> Markup | None:
    if not report.not_compared:
        return None
    return section("Not compared", facts(report.not_compared.items()))
