"""Commands for the time before a release: do both roads agree, how fresh need they be, what was trained on?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.common import PRINT, Service, app, echo, show, show_report, store_of, working, write_page


@app.command()
def verify(
    context: typer.Context,
    service: Service,
    rows: Annotated[int, typer.Option(help="About how many pairs of entity and instant.", min=1)] = 2_000,
    instants: Annotated[
        int | None,
        typer.Option(
            help="At how many instants beside edges; as many as every kind of edge needs, if left out.", min=1
        ),
    ] = None,
    between: Annotated[int, typer.Option(help="At how many other instants.", min=0)] = 10,
    json: Annotated[Path | None, typer.Option(help="Write the certificate to this file.", show_default=False)] = None,
) -> None:
    """Replay history on both roads and compare to the bit: exit code 0 for equal, 1 if not, 2 if it could not tell."""
    with working("replaying history"), store_of(context) as store:
        certificate = store.verify(service, rows=rows, instants=instants, between=between)
    if json is not None:
        write_page(json, certificate.to_json())
    echo(str(certificate))
    show(
        ["state", "rows", "complete", "values", "differ"],
        [
            [phase.name, f"{phase.rows:,}", f"{phase.complete:,}", f"{phase.values:,}", f"{phase.different:,}"]
            for phase in certificate.phases
        ],
    )
    for kind in certificate.not_asked:
        echo(f"  not asked: {kind}")
    for warning in certificate.warnings:
        echo(f"  warning: {warning}")
    for reason in certificate.reasons:
        echo(f"  {reason}")
    raise typer.Exit(certificate.exit_code)


@app.command()
def certificates(
    context: typer.Context,
    service: Annotated[str | None, typer.Option(help="Only of this service.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1)] = 20,
) -> None:
    """List what verifications found, newest first."""
    with store_of(context) as store:
        found = store.certificates(service, limit=limit)
    show(
        ["ran at", "service", "plan", "verdict", "instants", "rows", "values", "differ"],
        [
            [
                one.ran_at,
                one.service,
                one.fingerprint[:PRINT],
                one.verdict,
                str(one.instants),
                f"{one.rows:,}",
                f"{one.values:,}",
                f"{one.different:,}",
            ]
            for one in found
        ],
    )


@app.command()
def gate(
    context: typer.Context,
    manifest: Annotated[Path, typer.Argument(help="A training set's folder, or its manifest.", show_default=False)],
    max_audit_age: Annotated[
        str | None, typer.Option(help="How old what was audited may be; the configured age, or 7d, if left out.")
    ] = None,
    max_state_age: Annotated[
        str | None,
        typer.Option(help="How old the state of continuous views may be; the configured age, or 1d, if left out."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write what was found to this file.", show_default=False)] = None,
) -> None:
    """Is what would be served what was trained on? Exit code 0 to go on, 1 to stop, 2 if it cannot tell."""
    with store_of(context) as store:
        found = store.gate(manifest, max_audit_age=max_audit_age, max_state_age=max_state_age)
    if json is not None:
        write_page(json, found.to_json())
    show(["check", "result", "found"], [[check.name, check.result, "\n".join(check.said)] for check in found.checks])
    echo(f"{found.service}: {found.verdict}")
    raise typer.Exit(found.exit_code)


@app.command()
def simulate(
    context: typer.Context,
    view: Annotated[str, typer.Argument(help="Name of a feature view.", show_default=False)],
    refresh: Annotated[list[str], typer.Option(help="A policy: 'every 1h lag 10m', 'continuous'. May be repeated.")],
    spine: Annotated[
        Path | None, typer.Option(help="Questions: a Parquet file with keys and as_of.", show_default=False)
    ] = None,
    as_of: Annotated[str, typer.Option(help="Column of the spine that holds the instants.")] = "as_of",
    rows: Annotated[int, typer.Option(help="How many questions to choose.", min=1)] = 20_000,
    json: Annotated[Path | None, typer.Option(help="Write what was found to this file.", show_default=False)] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots to this file.", show_default=False)] = None,
) -> None:
    """Show how far values would lie from fresh ones under some refresh policies, on real history."""
    from featurestore.reports.simulation import render, render_html

    with working("answering under each policy"), store_of(context) as store:
        found = store.simulate(view, refresh, spine=spine, as_of=as_of, rows=rows)
    if html is not None:
        write_page(html, render_html(found))
    show_report(lambda: render(found), found.to_json, json)


@app.command()
def leakage(
    context: typer.Context,
    training_set: Annotated[Path, typer.Argument(help="Folder of a training set.", show_default=False)],
    label: Annotated[str, typer.Option(help="Column that is predicted.", show_default=False)],
    label_time: Annotated[
        str | None, typer.Option(help="Column that says when the label's event happened.", show_default=False)
    ] = None,
    rows: Annotated[int, typer.Option(help="How many rows to look at.", min=100)] = 50_000,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 for doubts, too.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file.", show_default=False)] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report as a page.", show_default=False)] = None,
) -> None:
    """Find features that tell of the label what nobody could know: exit code 1 if that is proven of any."""
    from featurestore.reports.leakage import render, render_html

    with working("asking earlier"), store_of(context) as store:
        report = store.leakage(training_set, label, label_time=label_time, rows=rows)
    if html is not None:
        write_page(html, render_html(report))
    show_report(lambda: render(report), report.to_json, json)
    raise typer.Exit(1 if strict and report.doubted else report.exit_code)
