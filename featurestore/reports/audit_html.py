"""An audit as one HTML file: verdict, causes, time, slices, features and the rows that differ most."""

from __future__ import annotations

from collections.abc import Sequence

from featurestore.guard.audit.report import AuditReport, Mismatch
from featurestore.guard.causes.catalogue import UNEXPLAINED
from featurestore.guard.comparing.compare import FeatureCounts
from featurestore.guard.comparing.difference import NumberDifferences
from featurestore.guard.comparing.findings import Example, Finding
from featurestore.reports.charts import (
    BAD,
    REFERENCE,
    Series,
    bars,
    colors_of,
    line,
    percent,
    ranked,
    short,
    stacked,
)
from featurestore.reports.commands import explain_command
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

_SHOWN_FEATURES = 500
_SHOWN_NAMES = 3
_SHOWN_OF_FINDING = 10
_SHOWN_CHARTS = 6
_SHOWN_EXAMPLES = 3
_SHOWN_EVENTS = 5
_KINDS = {
    "log": "audit of what was served",
    "live": "audit of what both roads say now",
    "replay": "audit of history replayed on both roads",
    "foreign": "audit of what another system served",
}


def render_html(report: AuditReport) -> str:
    """Return an audit report as one HTML file that needs nothing else.

    Args:
        report: The report, judged or not.
    """
    return page(
        f"Audit of {report.service}: {report.verdict or 'not judged'}",
        heading(
            f"Audit of {report.service}",
            report.verdict,
            f"{_KINDS[report.kind]}, asked about {report.since} to {report.until}; ran at {report.ran_at}",
            f"a sample of {report.sample:.3%} of the entities" if report.sample < 1 else None,
            f"policy: {report.policy}" if report.policy else None,
        ),
        _lead(report) if report.different else None,
        element("p", element("b", report.telling)) if report.telling else None,
        _numbers(report),
        bullets(report.notes) if report.notes else None,
        folded(report.reasons, "reasons"),
        _causes(report),
        _over_time(report),
        _slices(report),
        _differences(report.features),
        _features(report.features),
        _worst(report),
        _facts(report),
    )


def _lead(report: AuditReport) -> list[Markup]:
    """Say how much differs, where most, and why: what a reader in a hurry takes away."""
    different = sorted((one for one in report.features if one.different), key=lambda one: (-one.share, one.name))
    named = [f"{one.name} ({percent(one.share)})" for one in different]
    where = f"in {len(different):,} of {len(report.features):,} features: {_first(named)}"
    causes = [f"{cause} ({percent(count / report.examined)})" for cause, count in report.causes.items()]
    what = f"{report.different:,} of {_values(report):,} values differ, {where}"
    why = element("p", element("b", "Why: "), _first(causes), class_="lead") if causes else None
    return [element("p", element("b", what), class_="lead"), *([why] if why else [])]


def _first(names: Sequence[str], shown: int = _SHOWN_NAMES) -> str:
    """Name the first of some, and count the others."""
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _values(report: AuditReport) -> int:
    return sum(feature.compared for feature in report.features)


def _numbers(report: AuditReport) -> Markup:
    values = _values(report)
    return tiles(
        [
            ("values that differ", f"{report.different:,}"),
            ("share that differs", percent(report.different / values if values else 0.0)),
            ("values compared", f"{values:,}"),
            ("rows compared", f"{report.compared:,}"),
            ("rows served", f"{report.served:,}"),
            ("rows of stale views", f"{report.stale:,}"),
        ]
    )


def _causes(report: AuditReport) -> Markup | None:
    if not report.findings:
        return None
    colors = colors_of(report.causes, UNEXPLAINED)
    parts = [(cause, count, colors[cause]) for cause, count in report.causes.items()]
    chart = stacked(f"Causes of {report.examined:,} values that differ", parts)
    return section(
        "Why values differ", chart, (_finding(finding, colors[finding.cause]) for finding in report.findings)
    )


def _finding(finding: Finding, color: str) -> Markup:
    features = _first([f"{name} ({count:,})" for name, count in finding.features.items()], _SHOWN_OF_FINDING)
    return panel(
        f"{finding.cause}: {finding.values:,} values, {percent(finding.share)} of those examined",
        element("p", finding.said, _proof(finding)),
        bullets(finding.evidence) if finding.evidence else None,
        element("p", element("b", "Fix: "), finding.fix) if finding.fix else None,
        element("p", f"Features: {features}", class_="muted"),
        _examples(finding.examples[:_SHOWN_EXAMPLES]),
        color=color,
    )


def _proof(finding: Finding) -> Markup | None:
    """Say whether a cause is proven; there is nothing to prove where none was found."""
    if finding.is_proven:
        return element("span", " · proven by recomputation", class_="good")
    return None if finding.cause == UNEXPLAINED else element("span", " · not proven: it only fits", class_="doubt")


def _examples(examples: Sequence[Example]) -> Markup | None:
    if not examples:
        return None
    rows = [
        (
            found.feature,
            _keys(found.keys),
            found.as_of,
            _value(found.reference, found.reference_status),
            _value(found.current, found.current_status),
            [
                element("div", _event(event.event_time, event.ingest_time, event.values))
                for event in found.events[:_SHOWN_EVENTS]
            ],
        )
        for found in examples
    ]
    head = ("feature", "entity", "as of", "reference", "served", "events that make the difference")
    return element("details", element("summary", "examples"), table(head, rows, values=(1, 3, 4, 5), shorts=(2,)))


def _event(event_time: str, ingest_time: str, values: dict[str, str | None]) -> str:
    columns = ", ".join(f"{name}={'null' if value is None else value}" for name, value in values.items())
    return f"{event_time}, known {ingest_time}: {columns}"


def _over_time(report: AuditReport) -> Markup | None:
    buckets = report.over_time
    if not buckets:
        return None
    labels = [_minute(bucket.since) for bucket in buckets]
    shares = [bucket.different / bucket.rows if bucket.rows else None for bucket in buckets]
    return section(
        "Over time",
        pairs(
            (
                panel(
                    "Share of rows in which a value differs",
                    line(
                        "Share of rows that differ, over time",
                        labels,
                        [Series("differ", shares, BAD)],
                        x="as of, UTC",
                        y="of the rows compared",
                        is_share=True,
                    ),
                ),
                panel(
                    "Rows compared",
                    bars(
                        "Rows compared, over time",
                        labels,
                        [Series("rows", [bucket.rows for bucket in buckets], REFERENCE)],
                        x="as of, UTC",
                        y="rows",
                    ),
                ),
            )
        ),
    )


def _minute(instant: str) -> str:
    """Write an instant without seconds that are none."""
    return f"{instant[:10]} {instant[11:16]}" if len(instant) == 20 and instant.endswith(":00Z") else instant


def _slices(report: AuditReport) -> Markup | None:
    if not report.slices:
        return None
    names = [f"{one.by} {one.value}" for one in report.slices]
    lines = [
        (name, f"{one.rows:,}", f"{one.different:,}", percent(one.of_different), percent(one.of_rows))
        for name, one in zip(names, report.slices, strict=True)
    ]
    shares = [
        Series("of the rows that differ", [one.of_different for one in report.slices], BAD),
        Series("of all rows", [one.of_rows for one in report.slices], REFERENCE),
    ]
    head = ("rows with", "compared", "differ", "of all that differ", "of all rows")
    return section(
        "What rows that differ have in common",
        ranked("How many of the rows that differ have it, beside all rows", names, shares, is_share=True),
        table(head, lines, numbers=(1, 2, 3, 4)),
    )


def _differences(features: Sequence[FeatureCounts]) -> Markup | None:
    known = [feature for feature in features if feature.numbers is not None or feature.confusion or feature.lists]
    if not known:
        return None
    known.sort(key=lambda feature: (-feature.different, feature.name))
    shown = known[:_SHOWN_CHARTS]
    more = f"and {len(known) - len(shown)} more features" if len(known) > len(shown) else None
    return section(
        "How far values differ",
        pairs(panel(feature.name, _difference(feature)) for feature in shown),
        element("p", more, class_="muted") if more else None,
    )


def _difference(feature: FeatureCounts) -> Child:
    parts: list[Markup] = []
    if (numbers := feature.numbers) is not None:
        places = ["median", "90th percentile", "99th percentile", "largest"]
        sizes = [numbers.median, numbers.p90, numbers.p99, numbers.largest_absolute]
        said = f"{numbers.count:,} pairs; on average served {short(numbers.mean_signed)} above the reference"
        if numbers.mean_signed < 0:
            said = f"{numbers.count:,} pairs; on average served {short(-numbers.mean_signed)} below the reference"
        if numbers.mean_relative is not None:
            said += f", {percent(numbers.mean_relative)} off"
        parts.append(_histogram(feature.name, numbers))
        parts.append(ranked("Absolute difference", places, [Series("absolute difference", sizes, BAD)]))
        parts.append(element("p", said, class_="muted"))
    if feature.confusion:
        rows = [(one.reference, one.current, f"{one.rows:,}") for one in feature.confusion]
        parts.append(table(("reference", "served", "rows"), rows, numbers=(2,), values=(0, 1)))
    if (lists := feature.lists) is not None:
        said = f"{lists.lists:,} lists: {lists.inserted:,} items too many, {lists.deleted:,} missing"
        parts.append(element("p", said))
    return parts


def _histogram(name: str, numbers: NumberDifferences) -> Markup:
    labels = [f"≤ {short(part.up_to)}" for part in numbers.histogram]
    counts = [part.pairs for part in numbers.histogram]
    return bars(
        f"Pairs of {name} by absolute difference",
        labels,
        [Series("pairs", counts, BAD)],
        x="absolute difference, logarithmic",
        y="pairs of values",
    )


def _features(features: Sequence[FeatureCounts]) -> Markup:
    ordered = sorted(features, key=lambda feature: (-feature.share, feature.name))
    shown = ordered[:_SHOWN_FEATURES]
    rows = [
        (
            one.name,
            one.dtype,
            f"{one.compared:,}",
            f"{one.equal:,}",
            f"{one.both_null:,}",
            f"{one.mismatch:,}",
            f"{one.only_in_reference:,}",
            f"{one.only_in_current:,}",
            f"{one.of_stale_views:,}",
            percent(one.share),
            _interval(one),
            "" if one.largest_difference is None else short(one.largest_difference),
        )
        for one in shown
    ]
    head = (
        *(
            "feature",
            "dtype",
            "compared",
            "equal",
            "both null",
            "differ",
            "only reference",
            "only served",
            "of stale views",
        ),
        *("share", "95 % interval", "largest"),
    )
    bad = [i for i, one in enumerate(shown) if one.different]
    more = f"and {len(ordered) - len(shown)} more, all of them in the JSON form" if len(ordered) > len(shown) else None
    return section(
        "Features",
        table(head, rows, numbers=range(2, len(head)), shorts=(1,), bad=bad),
        element("p", more, class_="muted") if more else None,
        _statuses(shown),
    )


def _interval(feature: FeatureCounts) -> str:
    low, high = feature.interval
    return "" if low == high else f"{percent(low)} to {percent(high)}"


def _statuses(features: Sequence[FeatureCounts]) -> Markup | None:
    rows = [
        (one.name, pair, f"{count:,}") for one in features for pair, count in one.status_pairs.items() if one.different
    ]
    if not rows:
        return None
    head = ("feature", "reference / served", "rows")
    return element("details", element("summary", "statuses of features that differ"), table(head, rows, numbers=(2,)))


def _worst(report: AuditReport) -> Markup | None:
    worst: Sequence[Mismatch] = report.worst
    if not worst:
        return None
    rows = [
        (
            found.feature,
            _keys(found.keys),
            found.as_of,
            _value(found.reference, found.reference_status),
            _value(found.current, found.current_status),
            "" if found.size is None else short(found.size),
            "yes" if found.is_stale else "",
            found.cause,
            f"{found.request_id} #{found.row}",
        )
        for found in worst
    ]
    head = ("feature", "entity", "as of", "reference", "served", "apart", "stale", "cause", "request")
    commands = bullets(element("code", explain_command(report, found)) for found in worst)
    return section(
        "Values that differ most",
        table(head, rows, numbers=(5,), values=(1, 3, 4, 8), shorts=(2, 6, 7)),
        _events_of_worst(worst),
        element("details", element("summary", "commands that explain them, event by event"), commands),
    )


def _events_of_worst(worst: Sequence[Mismatch]) -> Markup | None:
    rows = [
        (
            found.feature,
            _keys(found.keys),
            found.as_of,
            [element("div", _event(event.event_time, event.ingest_time, event.values)) for event in found.events],
        )
        for found in worst
        if found.events
    ]
    if not rows:
        return None
    shown = table(("feature", "entity", "as of", "events"), rows, values=(1, 3), shorts=(2,))
    return element("details", element("summary", "events that make the difference"), shown)


def _facts(report: AuditReport) -> Markup:
    rows: list[tuple[Child, Child]] = [
        (f"plan {fingerprint[:12]}", f"{count:,} rows") for fingerprint, count in report.fingerprints.items()
    ]
    rows += [(f"not compared: {skipped.reason}", f"{skipped.rows:,} rows") for skipped in report.skipped]
    if report.beyond_newest_event:
        rows.append(("ask about more than the sources hold yet", f"{report.beyond_newest_event:,} rows"))
    if report.sums:
        rows.append(("what adds up", report.sums))
    rows.append(("form", report.schema))
    return section("What was compared", facts(rows))


def _keys(keys: dict[str, str | None]) -> str:
    return ", ".join(f"{name}={'null' if value is None else value}" for name, value in keys.items())


def _value(value: str | None, status: str) -> Child:
    return ["null" if value is None else value, element("div", status, class_="muted") if status != "PRESENT" else None]
