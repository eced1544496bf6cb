"""Commands before a release: verifying, gating, simulating refresh policies, finding leakage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.common import PRINT, Service, app, echo, show, show_report, store_of, working, write_file


@app.command()
def verify(
    context: typer.Context,
    service: Service,
    rows: Annotated[int, typer.Option(help="About how many pairs of entity and instant to compare.", min=1)] = 2_000,
    instants: Annotated[
        int | None,
        typer.Option(
            help="How many instants next to edges, such as window ends. Default: as many as all kinds of edges need.",
            min=1,
        ),
    ] = None,
    between: Annotated[int, typer.Option(help="How many other instants.", min=0)] = 10,
    json: Annotated[
        Path | None, typer.Option(help="Write the certificate to this file as JSON.", show_default=False)
    ] = None,
) -> None:
    """Replay history and compare offline and online answers.

    Values are compared to the bit. Exit code: 0 if all are equal, 1 if some differ, 2 if the command cannot tell.
    """
    with working("replaying history"), store_of(context) as store:
        certificate = store.verify(service, rows=rows, instants=instants, between=between)
    if json is not None:
        write_file(json, certificate.to_json())
    echo(str(certificate))
    show(
        ["state", "rows", "complete", "values", "differ"],
        [
            [phase.name, f"{phase.rows:,}", f"{phase.complete:,}", f"{phase.values:,}", f"{phase.different:,}"]
            for phase in certificate.phases
        ],
    )
    for kind in certificate.not_asked:
        echo(f"  not tested: {kind}")
    for warning in certificate.warnings:
        echo(f"  warning: {warning}")
    for reason in certificate.reasons:
        echo(f"  {reason}")
    raise typer.Exit(certificate.exit_code)


@app.command()
def certificates(
    context: typer.Context,
    service: Annotated[str | None, typer.Option(help="Only verifications of this service.")] = None,
    limit: Annotated[int, typer.Option(help="Most verifications to list.", min=1)] = 20,
) -> None:
    """List past verifications, newest first."""
    with store_of(context) as store:
        records = store.certificates(service, limit=limit)
    show(
        ["ran at", "service", "plan", "verdict", "instants", "rows", "values", "differ"],
        [
            [
                record.ran_at,
                record.service,
                record.fingerprint[:PRINT],
                record.verdict,
                str(record.instants),
                f"{record.rows:,}",
                f"{record.values:,}",
                f"{record.different:,}",
            ]
            for record in records
        ],
    )


@app.command()
def gate(
    context: typer.Context,
    manifest: Annotated[Path, typer.Argument(help="Folder of a training set, or its manifest.", show_default=False)],
    max_audit_age: Annotated[
        str | None, typer.Option(help="Maximum age of the audited answers. Default: as configured, else 7d.")
    ] = None,
    max_state_age: Annotated[
        str | None,
        typer.Option(help="Maximum age of the state of continuous views. Default: as configured, else 1d."),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write the report to this file as JSON.", show_default=False)
    ] = None,
) -> None:
    """Check that serving still matches a training set.

    Exit code: 0 to release, 1 to stop, 2 if the command cannot tell.
    """
    with store_of(context) as store:
        result = store.gate(manifest, max_audit_age=max_audit_age, max_state_age=max_state_age)
    if json is not None:
        write_file(json, result.to_json())
    show(["check", "result", "details"], [[check.name, check.result, "\n".join(check.said)] for check in result.checks])
    echo(f"{result.service}: {result.verdict}")
    raise typer.Exit(result.exit_code)


@app.command()
def simulate(
    context: typer.Context,
    view: Annotated[str, typer.Argument(help="Name of a feature view.", show_default=False)],
    refresh: Annotated[
        list[str], typer.Option(help="Refresh policy: 'every 1h lag 10m' or 'continuous'. May be repeated.")
    ],
    spine: Annotated[
        Path | None,
        typer.Option(
            help="Parquet file of questions: entity keys and as_of. Default: questions are chosen from history.",
            show_default=False,
        ),
    ] = None,
    as_of: Annotated[str, typer.Option(help="Column of the spine with the instants.")] = "as_of",
    rows: Annotated[int, typer.Option(help="How many questions to choose without a spine.", min=1)] = 20_000,
    json: Annotated[
        Path | None, typer.Option(help="Write the report to this file as JSON.", show_default=False)
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the report to this file as an HTML page.", show_default=False)
    ] = None,
) -> None:
    """Compare refresh policies of a view on real history.

    For each policy the command shows how far its values are from fresh ones.
    """
    from featurestore.reports.simulation import render_page, render_text

    with working("answering under each policy"), store_of(context) as store:
        report = store.simulate(view, refresh, spine=spine, as_of=as_of, rows=rows)
    if html is not None:
        write_file(html, render_page(report))
    show_report(lambda: render_text(report), report.to_json, json)


@app.command()
def leakage(
    context: typer.Context,
    training_set: Annotated[Path, typer.Argument(help="Folder of a training set.", show_default=False)],
    label: Annotated[str, typer.Option(help="Column of the label.", show_default=False)],
    label_time: Annotated[
        str | None, typer.Option(help="Column with the event time of the label.", show_default=False)
    ] = None,
    rows: Annotated[int, typer.Option(help="How many rows to test.", min=100)] = 50_000,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 1 for suspicions, too.")] = False,
    json: Annotated[
        Path | None, typer.Option(help="Write the report to this file as JSON.", show_default=False)
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the report to this file as an HTML page.", show_default=False)
    ] = None,
) -> None:
    """Find features that leak the label.

    Exit code: 1 if leakage is proven, else 0.
    """
    from featurestore.reports.leakage import render_page, render_text

    with working("testing for leakage"), store_of(context) as store:
        report = store.leakage(training_set, label, label_time=label_time, rows=rows)
    if html is not None:
        write_file(html, render_page(report))
    show_report(lambda: render_text(report), report.to_json, json)
    raise typer.Exit(1 if strict and report.doubted else report.exit_code)
