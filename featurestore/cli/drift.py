"""Commands about drift of distributions, and the JSON Schemas of all reports."""

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
    store_of,
    store_of_root,
    working,
    write_file,
)

if TYPE_CHECKING:
    from featurestore.guard.drift.report import DriftReport
    from featurestore.registry import DriftRecord

history = typer.Typer(help="List past drift reports, or show one of them.", invoke_without_command=True)
app.add_typer(history, name="drifts")


class Kind(StrEnum):
    """Reports that can be written as JSON."""

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
            help="What to compare with: a training set, its manifest, or a period SINCE..UNTIL.",
            show_default=False,
        ),
    ],
    since: Annotated[str, typer.Option(help="Use answers since this instant or duration ago.")] = "24h",
    until: Annotated[
        str | None, typer.Option(help="Use answers about instants before this one. Default: now.", show_default=False)
    ] = None,
    recompute: Annotated[
        bool,
        typer.Option("--recompute", help="Split every distance into a part from skew and a part from the population."),
    ] = False,
    threshold: Annotated[
        list[str] | None, typer.Option(help="Use this fixed threshold, such as psi-0.2. May be repeated.")
    ] = None,
    significance: Annotated[
        float | None,
        typer.Option(help="Accepted probability of a false alarm. Default: the configured one, else 0.01."),
    ] = None,
    allowed: Annotated[
        int | None, typer.Option(help="How many features may drift. Default: the configured number, else 0.", min=0)
    ] = None,
    record: Annotated[bool, typer.Option(help="Keep the report in the registry.")] = True,
    json: Json = None,
    html: Html = None,
) -> None:
    """Check whether distributions of served values changed.

    Exit code: 0 without drift, 1 with drift, 2 if there is not enough data to tell.
    """
    from featurestore.guard.drift.policy import DriftPolicy
    from featurestore.guard.drift.reference import read_reference

    with working("comparing distributions"), store_of(context) as store:
        configured_policy = DriftPolicy.configured(store.policy(service))
        policy = replace(
            configured_policy,
            significance=configured_policy.significance if significance is None else significance,
            fixed=tuple(threshold or configured_policy.fixed),
            allowed_features=configured_policy.allowed_features if allowed is None else allowed,
        )
        report = store.drift(
            service,
            reference=read_reference(reference),
            current=(since, until),
            policy=policy,
            recompute=recompute,
            record=record,
        )
    _show(report, json=json, html=html)
    raise typer.Exit(report.exit_code)


@history.callback()
def drifts(
    context: typer.Context,
    service: Annotated[str | None, typer.Option(help="Only reports of this service.")] = None,
    limit: Annotated[int, typer.Option(help="Most reports to list.", min=1)] = 20,
) -> None:
    """List past drift reports, newest first."""
    if context.invoked_subcommand is not None:
        return
    with store_of_root(context) as store:
        records = store.drifts(service, limit=limit)
    head = ["id", "verdict", "ran at", "service", "since", "until", "rows", "features", "drifted", "from"]
    show(head, [_row(record) for record in records])


@history.command("show")
def show_drift(
    context: typer.Context,
    number: Annotated[int, typer.Argument(metavar="ID", help="Id of the report in the list.", show_default=False)],
    json: Json = None,
    html: Html = None,
) -> None:
    """Show a past drift report. The exit code is that of the report."""
    with store_of_root(context) as store:
        report = store.drift_report(number)
    _show(report, json=json, html=html)
    raise typer.Exit(report.exit_code)


@app.command("report-schema")
def report_schema(
    kind: Annotated[Kind, typer.Argument(help="Kind of report.", show_default=False)],
) -> None:
    """Print the JSON Schema of a report."""
    import msgspec

    from featurestore.guard.audit.report import AuditReport
    from featurestore.guard.drift.report import DriftReport
    from featurestore.guard.explain.report import Explanation
    from featurestore.guard.release.certificate import Certificate
    from featurestore.guard.release.leakage import LeakageReport
    from featurestore.guard.release.simulate import Simulation

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


def _show(report: DriftReport, *, json: Path | None, html: Path | None) -> None:
    from featurestore.reports.drift import render_text

    if html is not None:
        from featurestore.reports.drift import render_page

        write_file(html, render_page(report))
    show_report(lambda: render_text(report), report.to_json, json)


def _row(record: DriftRecord) -> list[str]:
    from featurestore.core.errors import RegistryError
    from featurestore.core.temporal import format_instant
    from featurestore.guard.drift.report import DriftReport

    ran_at, since, until = map(format_instant, (record.ran_at_us, record.since_us, record.until_us))
    try:
        report = DriftReport.from_json(record.report)
    except RegistryError:
        counts = ["?"] * 4
    else:
        counts = [f"{report.current_rows:,}", str(len(report.features)), str(len(report.drifted)), report.reference]
    return [str(record.id), record.verdict, ran_at, record.service, since, until, *counts]
