"""A drift report as one HTML file: verdict, what moved most with its distributions, and all distances."""

from __future__ import annotations

from collections.abc import Sequence

from featurestore.core.temporal import duration_us
from featurestore.guard.drift.distribution import AGED
from featurestore.guard.drift.report import (
    Category,
    DriftReport,
    FeatureDrift,
    Measured,
    Split,
)
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
from featurestore.reports.drift_text import largest_difference, moved_most
from featurestore.reports.markup import Child, Markup, element
from featurestore.reports.page import (
    bullets,
    facts,
    folded,
    heading,
    page,
    pairs,
    panel,
    section,
    table,
    tiles,
)

_SHOWN_CHARTS = 24
_SHOWN_RANKED = 20
_SHOWN_SPLITS = 8
_SHOWN_CATEGORIES = 12
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


def render_html(report: DriftReport) -> str:
    """Return a drift report as one HTML file that needs nothing else.

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
        folded(report.reasons, "reasons"),
        _overview(ordered),
        _splits(ordered, report),
        _distributions(ordered),
        _all(ordered),
        _not_compared(report),
    )


def _overview(features: Sequence[FeatureDrift]) -> Markup | None:
    shown = features[:_SHOWN_RANKED]
    if not shown:
        return None
    said = "The largest difference of distribution functions (numbers) or of shares (categories, nulls), from 0 to 1."
    colors = [BAD if feature.is_drift else GOOD for feature in shown]
    names = [feature.name for feature in shown]
    distances = Series("distance", [largest_difference(feature) for feature in shown])
    chart = ranked("Distance by feature; red where it drifted", names, [distances], colors=colors)
    return section("What moved most", element("p", said, class_="muted"), chart)


def _splits(features: Sequence[FeatureDrift], report: DriftReport) -> Markup | None:
    first, rest = (
        [_split_row(feature.name, part) for feature in some for part in feature.split if part.total]
        for some in (features[:_SHOWN_SPLITS], features[_SHOWN_SPLITS:])
    )
    if not first and not rest:
        return None
    said = (
        "Reference to served, in three steps that add up: to what the reference's definition has for the rows that were"
        " served (population), from there to what the definition has that answered (definition), and from there to what"
        " was served (skew)."
    )
    left_out = [f"{rows:,} rows are left out: {reason}" for reason, rows in report.not_recomputed.items()]
    head = ("feature", "measure", "total", "population", "definition", "skew", "share of skew")
    more = element("summary", f"{len(features) - _SHOWN_SPLITS:,} more features")
    return section(
        "Skew or population",
        element("p", said, class_="muted"),
        bullets(left_out) if left_out else None,
        table(head, first, numbers=(2, 3, 4, 5, 6)),
        element("details", more, table(head, rest, numbers=(2, 3, 4, 5, 6))) if rest else None,
    )


def _split_row(name: str, part: Split) -> tuple[Child, ...]:
    numbers = (f"{number:.4g}" for number in (part.total, part.population, part.definition, part.skew))
    return name, _NAMES.get(part.measure, part.measure), *numbers, percent(part.skew / part.total)


def _distributions(features: Sequence[FeatureDrift]) -> Markup | None:
    shown = [feature for feature in features if feature.bins or feature.categories][:_SHOWN_CHARTS]
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
    known = feature.categories[:_SHOWN_CATEGORIES]
    chart = ranked(
        "Share of the rows with a value, by category",
        [one.value for one in known],
        _both(
            [one.reference for one in known],
            [one.current for one in known],
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
    named = ", ".join(f"{one.value} ({one.reference + one.current:,})" for one in categories)
    return element("p", element("b", f"{what}: "), named)


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
    """Show a number; of instants and dates how many days before the instant asked about they lie."""
    if dtype in AGED:
        return f"{short(value / _DAY_US if dtype == 'timestamp' else value)} d before"
    return short(value)


def _measures(feature: FeatureDrift) -> Markup:
    rows = [_measure_row(one) for one in feature.measures]
    bad = [i for i, one in enumerate(feature.measures) if one.is_drift]
    head = ("measure", "distance", "by chance up to", "p-value")
    return element("details", element("summary", "distances"), table(head, rows, numbers=(1, 2, 3), bad=bad))


def _measure_row(one: Measured) -> tuple[Child, ...]:
    distance = f"{one.value:.4g}" + (f" to {one.value + one.error:.4g}" if one.error > abs(one.value) / 1000 else "")
    p_value = one.p_value if one.adjusted is None else one.adjusted
    return (
        _NAMES.get(one.measure, one.measure),
        distance,
        "" if one.by_chance is None else f"{one.by_chance:.4g}",
        f"{p_value:.2g}" + ("" if one.adjusted is None else " corrected"),
    )


def _all(features: Sequence[FeatureDrift]) -> Markup:
    names = list(_NAMES)
    rows = [
        (
            feature.name,
            feature.dtype,
            f"{min(feature.reference_effective_rows, feature.current_effective_rows):,}",
            *("" if (one := feature.measured(name)) is None else f"{one.value:.3g}" for name in names),
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
