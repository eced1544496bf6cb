"""Commands about distributions, and about the form of reports."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.common import Service, app, show_report, store_of, working, write_page


class Kind(StrEnum):
    """Reports that have a JSON form."""

    AUDIT = "audit"
    DRIFT = "drift"
    EXPLANATION = "explanation"


@app.command()
def drift(
    context: typer.Context,
    service: Service,
    reference: Annotated[
        str,
        typer.Option(
            help="Training set, its manifest, or another period SINCE..UNTIL (instants, or how long back).",
            show_default=False,
        ),
    ],
    since: Annotated[str, typer.Option(help="Answers about this instant or later, or how long back.")] = "24h",
    until: Annotated[
        str | None, typer.Option(help="Answers about instants before this one; now if left out.", show_default=False)
    ] = None,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Split every distance into the parts of skew and of the population.")
    ] = False,
    threshold: Annotated[
        list[str] | None, typer.Option(help="Judge by this fixed threshold, such as psi-0.2; may be repeated.")
    ] = None,
    significance: Annotated[float, typer.Option(help="Probability of calling chance drift.")] = 0.01,
    allowed: Annotated[int, typer.Option(help="How many features may drift.", min=0)] = 0,
    json: Annotated[Path | None, typer.Option("--json", help="Write the report to this file, '-' to print it.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report to this file, as one page.")] = None,
) -> None:
    """Compare distributions of what was served: exit code 0 for none that drifted, 1 for drift, 2 if it cannot tell."""
    from featurestore.skew.drift.policy import DriftPolicy

    policy = DriftPolicy(significance=significance, fixed=tuple(threshold or ()), allowed_features=allowed)
    with working("comparing distributions"), store_of(context) as store:
        report = store.drift(
            service, reference=_reference(reference), current=(since, until), policy=policy, recompute=recompute
        )
    if html is not None:
        from featurestore.skew.drift.html import render_html

        write_page(html, render_html(report))
    from featurestore.skew.drift.render import render

    show_report(lambda: render(report), report.to_json, json)
    raise typer.Exit(report.exit_code)


@app.command("report-schema")
def report_schema(
    kind: Annotated[Kind, typer.Argument(help="Which report.", show_default=False)],
) -> None:
    """Print the JSON Schema of the JSON form of a report."""
    import msgspec

    from featurestore.explaining.model import Explanation
    from featurestore.skew.drift.report import DriftReport
    from featurestore.skew.report import AuditReport

    reports: dict[Kind, type[AuditReport | DriftReport | Explanation]] = {
        Kind.AUDIT: AuditReport,
        Kind.DRIFT: DriftReport,
        Kind.EXPLANATION: Explanation,
    }
    schema = reports[kind].json_schema()
    typer.echo(msgspec.json.format(msgspec.json.encode(schema)).decode())


def _reference(text: str) -> str | tuple[str, str]:
    """Read a period, or leave the text to be a path: what exists is one, also with two dots in its name."""
    since, dots, until = text.partition("..")
    return (since, until) if dots and since and until and not Path(text).exists() else text
