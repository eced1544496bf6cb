"""The report of an audit as text for a terminal, and as an HTML page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from featurestore.guard.audit.report import AuditReport, Mismatch
from featurestore.guard.causes.catalogue import UNEXPLAINED
from featurestore.guard.comparing.compare import FeatureCounts
from featurestore.guard.comparing.difference import NumberDifferences
from featurestore.guard.comparing.findings import Example, Finding
from featurestore.guard.report import FAIL, PASS
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

_TEXT_ROWS = 8
_TEXT_FEATURES = 20
_TEXT_REASONS = 5
_TEXT_FINDINGS = 8
_LEAST_NAME = 8
_STYLES = {PASS: "bold green", FAIL: "bold red"}


def render_text(report: AuditReport) -> RenderableType:
    """Return the report for a terminal: verdict, counts per feature, causes, and the values that differ most."""
    parts: list[RenderableType] = [_text_head(report), _text_features(report.features)]
    if report.findings:
        parts.append(_text_findings(report))
    if report.worst:
        parts += [
            _text_worst(report.worst[:_TEXT_ROWS]),
            Text(f"the first, event by event: {explain_command(report, report.worst[0])}"),
        ]
    return Group(*parts)


def _text_head(report: AuditReport) -> Text:
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
        text.append(f"\n{report.sample:.3g} of the entities were compared, chosen by a hash of their key")
    if report.beyond_newest_event:
        text.append(f"\n{report.beyond_newest_event} rows ask about more than the sources hold yet")
    for note in report.notes:
        text.append(f"\n{note}")
    for reason in report.reasons[:_TEXT_REASONS]:
        text.append(f"\n  {reason}")
    if len(report.reasons) > _TEXT_REASONS:
        text.append(f"\n  and {len(report.reasons) - _TEXT_REASONS} more")
    if report.telling:
        text.append(f"\n{report.telling}", style="bold")
    return text


def _text_features(features: tuple[FeatureCounts, ...]) -> Table:
    """List the features that differ most; the other differing features share one line, and all equal ones another."""
    different = sorted(
        (feature for feature in features if feature.different), key=lambda feature: (-feature.share, feature.name)
    )
    others = [feature for feature in features if not feature.different]
    rows = [([feature.name, *_counts([feature])], "red") for feature in different[:_TEXT_FEATURES]]
    if rest := different[_TEXT_FEATURES:]:
        rows.append(([f"{len(rest)} more that differ", *_counts(rest)], "red"))
    if others:
        name = f"{len(others)} {'other features' if different else 'features'}"
        rows.append(([name, *_counts(others)], "green"))
    titles = ("feature", "rows", "equal", "null", "differ", "only ref", "only cur", "stale", "largest")
    grid = Table(box=None, pad_edge=False)
    for place, title in enumerate(titles):
        # On a narrow terminal the names are cut, not the numbers.
        widest = max(len(title), *(len(cells[place]) for cells, _ in rows)) if rows else len(title)
        least = widest if place else _LEAST_NAME
        grid.add_column(title, justify="right" if place else "left", no_wrap=True, min_width=least)
    for cells, style in rows:
        grid.add_row(*cells, style=style)
    return grid


def _counts(features: Sequence[FeatureCounts]) -> list[str]:
    """Return the cells of one line: the sums of the counts of some features."""
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


def _text_findings(report: AuditReport) -> RenderableType:
    """List the causes: values explained, assumption, evidence, an example and the fix."""
    text = Text.assemble(("causes, proven by recomputation", "italic"))
    for finding in report.findings[:_TEXT_FINDINGS]:
        proven = "" if finding.is_proven or finding.cause == UNEXPLAINED else " (not proven)"
        text.append(f"\n{finding.cause}{proven}", style="bold")
        text.append(f"  {finding.values:,} of {report.examined:,} values ({finding.share:.1%}), {finding.rows:,} rows")
        text.append(f"\n  {finding.said}")
        for reason in finding.evidence[:_TEXT_REASONS]:
            text.append(f"\n  · {reason}")
        for example in finding.examples[:1]:
            text.append(f"\n  for example {_example_text(example)}")
        if finding.fix:
            text.append(f"\n  → {finding.fix}")
    if len(report.findings) > _TEXT_FINDINGS:
        text.append(f"\nand {len(report.findings) - _TEXT_FINDINGS} more")
    return text


def _example_text(example: Example) -> str:
    keys = ", ".join(f"{name}={value}" for name, value in example.keys.items())
    events = f"; events at {', '.join(event.event_time for event in example.events)}" if example.events else ""
    return (
        f"{example.feature} of {keys} at {example.as_of}: {_text_value(example.reference)}"
        f" ({example.reference_status}) in training, {_text_value(example.current)} ({example.current_status}) served"
        f"{events}"
    )


def _text_worst(mismatches: tuple[Mismatch, ...]) -> Table:
    grid = Table(title="values that differ most", box=None, pad_edge=False, title_justify="left")
    for title in ("feature", "entity", "as of", "reference", "current", "status", "stale", "cause"):
        grid.add_column(title, overflow="fold")
    for mismatch in mismatches:
        keys = ", ".join(f"{name}={value}" for name, value in mismatch.keys.items())
        statuses = f"{mismatch.reference_status}/{mismatch.current_status}"
        grid.add_row(
            mismatch.feature,
            keys,
            mismatch.as_of,
            _text_value(mismatch.reference),
            _text_value(mismatch.current),
            statuses,
            "yes" if mismatch.is_stale else "",
            mismatch.cause,
        )
    return grid


def _text_value(value: str | None) -> str:
    return "null" if value is None else value


def explain_command(report: AuditReport, mismatch: Mismatch) -> str:
    """Return the shell command that explains one value of an audit.

    A value of the serving log is identified by its request id; for other values the command has the request inputs.

    Example:
        >>> at = "2026-01-02T00:00:00Z"
        >>> row = Mismatch("spend__last", "r-1", 0, {"user": "ann"}, at, "1", "2", "", "", False, {})
        >>> report = AuditReport("churn", "", "", "", 1, 1, 0, 0, {}, (), (row,), ())
        >>> explain_command(report, row)
        'featurestore explain churn user=ann --at 2026-01-02T00:00:00Z --feature spend__last --request-id r-1'
    """
    inputs = mismatch.keys if report.kind == "log" else {**mismatch.keys, **mismatch.requests}
    fields = [f"{name}={value}" for name, value in inputs.items() if value is not None]
    arguments = ["explain", report.service, *fields, "--at", mismatch.as_of, "--feature", mismatch.feature]
    if report.kind == "log":
        arguments += ["--request-id", mismatch.request_id]
    return shlex.join(["featurestore", *arguments])


_PAGE_FEATURES = 500
_PAGE_NAMES = 3
_PAGE_FEATURES_OF_FINDING = 10
_PAGE_CHARTS = 6
_PAGE_EXAMPLES = 3
_PAGE_EVENTS = 5
_KINDS = {
    "log": "audit of the serving log",
    "live": "live audit of both paths",
    "replay": "audit of replayed history",
    "foreign": "audit of the log of another system",
}


def render_page(report: AuditReport) -> str:
    """Return an audit report as one self-contained HTML file.

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
        collapsed(report.reasons, "reasons"),
        _causes(report),
        _over_time(report),
        _slices(report),
        _differences(report.features),
        _features(report.features),
        _worst(report),
        _facts(report),
    )


def _lead(report: AuditReport) -> list[Markup]:
    """Summarize the audit in two lines: how much differs and where, and the most frequent causes."""
    different = sorted(
        (feature for feature in report.features if feature.different),
        key=lambda feature: (-feature.share, feature.name),
    )
    names = [f"{feature.name} ({percent(feature.share)})" for feature in different]
    where = f"in {len(different):,} of {len(report.features):,} features: {_first(names)}"
    causes = [f"{cause} ({percent(count / report.examined)})" for cause, count in report.causes.items()]
    summary = f"{report.different:,} of {_values(report):,} values differ, {where}"
    why = element("p", element("b", "Why: "), _first(causes), class_="lead") if causes else None
    return [element("p", element("b", summary), class_="lead"), *([why] if why else [])]


def _first(names: Sequence[str], shown: int = _PAGE_NAMES) -> str:
    """Return the first names, and the count of the others."""
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
    features = _first([f"{name} ({count:,})" for name, count in finding.features.items()], _PAGE_FEATURES_OF_FINDING)
    return panel(
        f"{finding.cause}: {finding.values:,} values, {percent(finding.share)} of those examined",
        element("p", finding.said, _proof(finding)),
        bullets(finding.evidence) if finding.evidence else None,
        element("p", element("b", "Fix: "), finding.fix) if finding.fix else None,
        element("p", f"Features: {features}", class_="muted"),
        _examples(finding.examples[:_PAGE_EXAMPLES]),
        color=color,
    )


def _proof(finding: Finding) -> Markup | None:
    """Return whether a cause is proven; unexplained values have no proof."""
    if finding.is_proven:
        return element("span", " · proven by recomputation", class_="good")
    return None if finding.cause == UNEXPLAINED else element("span", " · not proven: it only fits", class_="doubt")


def _examples(examples: Sequence[Example]) -> Markup | None:
    if not examples:
        return None
    rows = [
        (
            example.feature,
            _keys(example.keys),
            example.as_of,
            _value(example.reference, example.reference_status),
            _value(example.current, example.current_status),
            [
                element("div", _event(event.event_time, event.ingest_time, event.values))
                for event in example.events[:_PAGE_EVENTS]
            ],
        )
        for example in examples
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
    """Write an instant, without zero seconds."""
    return f"{instant[:10]} {instant[11:16]}" if len(instant) == 20 and instant.endswith(":00Z") else instant


def _slices(report: AuditReport) -> Markup | None:
    if not report.slices:
        return None
    names = [f"{part.by} {part.value}" for part in report.slices]
    lines = [
        (name, f"{part.rows:,}", f"{part.different:,}", percent(part.of_different), percent(part.of_rows))
        for name, part in zip(names, report.slices, strict=True)
    ]
    shares = [
        Series("of the rows that differ", [part.of_different for part in report.slices], BAD),
        Series("of all rows", [part.of_rows for part in report.slices], REFERENCE),
    ]
    head = ("rows with", "compared", "differ", "of all that differ", "of all rows")
    return section(
        "What differing rows have in common",
        ranked("How many of the rows that differ have it, beside all rows", names, shares, is_share=True),
        table(head, lines, numbers=(1, 2, 3, 4)),
    )


def _differences(features: Sequence[FeatureCounts]) -> Markup | None:
    known = [feature for feature in features if feature.numbers is not None or feature.confusion or feature.lists]
    if not known:
        return None
    known.sort(key=lambda feature: (-feature.different, feature.name))
    shown = known[:_PAGE_CHARTS]
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
        note = f"{numbers.count:,} pairs; on average served {short(numbers.mean_signed)} above the reference"
        if numbers.mean_signed < 0:
            note = f"{numbers.count:,} pairs; on average served {short(-numbers.mean_signed)} below the reference"
        if numbers.mean_relative is not None:
            note += f", {percent(numbers.mean_relative)} off"
        parts.append(_histogram(feature.name, numbers))
        parts.append(ranked("Absolute difference", places, [Series("absolute difference", sizes, BAD)]))
        parts.append(element("p", note, class_="muted"))
    if feature.confusion:
        rows = [(pair.reference, pair.current, f"{pair.rows:,}") for pair in feature.confusion]
        parts.append(table(("reference", "served", "rows"), rows, numbers=(2,), values=(0, 1)))
    if (lists := feature.lists) is not None:
        note = f"{lists.lists:,} lists: {lists.inserted:,} extra items, {lists.deleted:,} missing items"
        parts.append(element("p", note))
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
    shown = ordered[:_PAGE_FEATURES]
    rows = [
        (
            feature.name,
            feature.dtype,
            f"{feature.compared:,}",
            f"{feature.equal:,}",
            f"{feature.both_null:,}",
            f"{feature.mismatch:,}",
            f"{feature.only_in_reference:,}",
            f"{feature.only_in_current:,}",
            f"{feature.of_stale_views:,}",
            percent(feature.share),
            _interval(feature),
            "" if feature.largest_difference is None else short(feature.largest_difference),
        )
        for feature in shown
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
    bad = [i for i, feature in enumerate(shown) if feature.different]
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
        (feature.name, pair, f"{count:,}")
        for feature in features
        for pair, count in feature.status_pairs.items()
        if feature.different
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
            mismatch.feature,
            _keys(mismatch.keys),
            mismatch.as_of,
            _value(mismatch.reference, mismatch.reference_status),
            _value(mismatch.current, mismatch.current_status),
            "" if mismatch.size is None else short(mismatch.size),
            "yes" if mismatch.is_stale else "",
            mismatch.cause,
            f"{mismatch.request_id} #{mismatch.row}",
        )
        for mismatch in worst
    ]
    head = ("feature", "entity", "as of", "reference", "served", "apart", "stale", "cause", "request")
    commands = bullets(element("code", explain_command(report, mismatch)) for mismatch in worst)
    return section(
        "Values that differ most",
        table(head, rows, numbers=(5,), values=(1, 3, 4, 8), shorts=(2, 6, 7)),
        _events_of_worst(worst),
        element("details", element("summary", "commands that explain them, event by event"), commands),
    )


def _events_of_worst(worst: Sequence[Mismatch]) -> Markup | None:
    rows = [
        (
            mismatch.feature,
            _keys(mismatch.keys),
            mismatch.as_of,
            [element("div", _event(event.event_time, event.ingest_time, event.values)) for event in mismatch.events],
        )
        for mismatch in worst
        if mismatch.events
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
        rows.append(("rows beyond the newest event of a source", f"{report.beyond_newest_event:,} rows"))
    if report.sums:
        rows.append(("sums", report.sums))
    rows.append(("form", report.schema))
    return section("What was compared", facts(rows))


def _keys(keys: dict[str, str | None]) -> str:
    return ", ".join(f"{name}={'null' if value is None else value}" for name, value in keys.items())


def _value(value: str | None, status: str) -> Child:
    return ["null" if value is None else value, element("div", status, class_="muted") if status != "PRESENT" else None]
