"""Commands about distributions, and about the form of reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli.common import (
    Html,
    Json,
    Service,
    app,
    echo_json,
    show,
    show_report,
    store_above,
    store_of,
    working,
    write_page,
)

if TYPE_CHECKING:
    from featurestore.guard.drift.report import DriftReport
    from featurestore.registry import DriftRecord

history = typer.Typer(help="List the drift reports that were, or show one of them.", invoke_without_command=True)
app.add_typer(history, name="drifts")


class Kind(StrEnum):
    """Reports that have a JSON form."""

    AUDIT = "audit"
    DRIFT = "drift"
    EXPLANATION = "explanation"
    LEAKAGE = "leakage"
    SIMULATION = "simulation"
    CERTIFICATE = "certificate"


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
    significance: Annotated[
        float | None, typer.Option(help="Probability of calling chance drift; the configured one, else 0.01.")
    ] = None,
    allowed: Annotated[
        int | None, typer.Option(help="How many features may drift; as configured, else none.", min=0)
    ] = None,
    record: Annotated[bool, typer.Option(help="Keep the report in the registry.")] = True,
    json: Json = None,
    html: Html = None,
) -> None:
    """Compare distributions of what was served: exit code 0 for none that drifted, 1 for drift, 2 if it cannot tell."""
    from featurestore.guard.drift.drifter import configured, read_reference

    with working("comparing distributions"), store_of(context) as store:
        known = configured(store.policy(service))
        policy = replace(
            known,
            significance=known.significance if significance is None else significance,
            fixed=tuple(threshold or known.fixed),
            allowed_features=known.allowed_features if allowed is None else allowed,
        )
        report = store.drift(
            service,
            reference=read_reference(reference),
            current=(since, until),
            policy=policy,
            recompute=recompute,
            record=record,
        )
    _tell(report, json=json, html=html)
    raise typer.Exit(report.exit_code)


@history.callback()
def drifts(
    context: typer.Context,
    service: Annotated[str | None, typer.Option(help="Only of this service.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1)] = 20,
) -> None:
    """List the drift reports that the registry keeps, newest first."""
    if context.invoked_subcommand is not None:
        return
    with store_above(context) as store:
        records = store.drifts(service, limit=limit)
    head = ["id", "verdict", "ran at", "service", "since", "until", "rows", "features", "drifted", "from"]
    show(head, [_row(record) for record in records])


@history.command("show")
def show_drift(
    context: typer.Context,
    number: Annotated[int, typer.Argument(metavar="ID", help="Number of the report in the list.", show_default=False)],
    json: Json = None,
    html: Html = None,
) -> None:
    """Show a drift report that was, with its exit code."""
    with store_above(context) as store:
        report = store.drift_report(number)
    _tell(report, json=json, html=html)
    raise typer.Exit(report.exit_code)


@app.command("report-schema")
def report_schema(
    kind: Annotated[Kind, typer.Argument(help="Which report.", show_default=False)],
) -> None:
    """Print the JSON Schema of the JSON form of a report."""
    import msgspec

    from featurestore.guard.audit.report import AuditReport
    from featurestore.guard.drift.report import DriftReport
    from featurestore.guard.explain.model import Explanation
    from featurestore.guard.release.certificate import Certificate
    from featurestore.guard.release.leakage_report import LeakageReport
    from featurestore.guard.release.simulation import Simulation

    schemas: dict[Kind, Callable[[], dict[str, Any]]] = {
        Kind.AUDIT: AuditReport.json_schema,
        Kind.DRIFT: DriftReport.json_schema,
        Kind.EXPLANATION: Explanation.json_schema,
        Kind.LEAKAGE: LeakageReport.json_schema,
        Kind.SIMULATION: Simulation.json_schema,
        Kind.CERTIFICATE: Certificate.json_schema,
    }
    schema = schemas[kind]()
    echo_json(msgspec.json.format(msgspec.json.encode(schema)).decode())


def _tell(report: DriftReport, *, json: Path | None, html: Path | None) -> None:
    from featurestore.reports.drift_text import render

    if html is not None:
        from featurestore.reports.drift_html import render_html

        write_page(html, render_html(report))
    show_report(lambda: render(report), report.to_json, json)


def _row(record: DriftRecord) -> list[str]:
    from featurestore.core.errors import RegistryError
    from featurestore.core.temporal import format_instant
    from featurestore.guard.drift.report import DriftReport

    ran_at, since, until = map(format_instant, (record.ran_at_us, record.since_us, record.until_us))
    try:
        report = DriftReport.from_json(record.report)
    except RegistryError:
        found = ["?"] * 4
    else:
        found = [f"{report.current_rows:,}", str(len(report.features)), str(len(report.drifted)), report.reference]
    return [str(record.id), record.verdict, ran_at, record.service, since, until, *found]
