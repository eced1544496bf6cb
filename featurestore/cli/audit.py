"""Commands of the guard about served values: audits, past audits, explanations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.common import (
    Html,
    Json,
    Service,
    app,
    echo,
    parse_fields,
    show,
    show_report,
    store_of,
    store_of_root,
    working,
    write_file,
)
from featurestore.storage.progress import listening

if TYPE_CHECKING:
    from featurestore.guard.audit.report import AuditReport
    from featurestore.registry import AuditRecord

history = typer.Typer(help="List past audits, or show one of them.", invoke_without_command=True)
app.add_typer(history, name="audits")


@app.command()
def audit(
    context: typer.Context,
    service: Service,
    since: Annotated[
        str | None,
        typer.Option(help="Audit answers since this instant or duration ago. Default: 24h; all of a foreign log."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Audit answers about instants before this one. Default: now.", show_default=False)
    ] = None,
    sample: Annotated[float | None, typer.Option(help="Share of the entities to audit.", min=0.0, max=1.0)] = None,
    live: Annotated[
        int | None,
        typer.Option(
            help="Instead of the log, compare online and offline answers about this many entities now.", min=1
        ),
    ] = None,
    foreign: Annotated[
        str | None, typer.Option(help="Audit the log of another system: Parquet, CSV, or the URL of a database.")
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option("--map", help="TOML file that maps the columns of the foreign log.")
    ] = None,
    json: Json = None,
    html: Html = None,
    parquet: Annotated[
        Path | None, typer.Option(help="Write all values that differ to this folder, as Parquet.")
    ] = None,
    by: Annotated[
        list[str] | None, typer.Option(help="Column of the log by which to break the result down. May be repeated.")
    ] = None,
    causes: Annotated[
        bool, typer.Option(help="Prove why values differ. Without causes, the audit only counts them.")
    ] = True,
    explain_rows: Annotated[
        int | None, typer.Option(help="How many differing rows to explain. Default: all.", min=1)
    ] = None,
    alert: Annotated[
        bool | None,
        typer.Option("--alert/--no-alert", help="Send alerts about new findings. Default: as configured."),
    ] = None,
) -> None:
    """Check that served values equal recomputed ones.

    Exit code: 0 if all values are equal, 1 if some differ, 2 if the audit cannot tell.
    """
    if foreign is None and mapping is not None:
        raise typer.BadParameter("--map describes the log of another system: also give --foreign")
    if foreign is not None and mapping is None:
        raise typer.BadParameter("--foreign needs --map, which names the columns of the log")
    if explain_rows is not None and not causes:
        raise typer.BadParameter("--explain-rows needs causes: leave --no-causes out")
    if live is not None:
        log_options = {
            "--foreign": foreign,
            "--since": since,
            "--until": until,
            "--sample": sample,
            "--by": by,
            "--explain-rows": explain_rows,
        }
        if unusable := [name for name, value in log_options.items() if value is not None and value != []]:
            raise typer.BadParameter(f"--live does not read a log: leave {', '.join(unusable)} out")
    with listening(None, opening="opening the serving log") as progress, store_of(context) as store:
        if foreign is not None:
            assert mapping is not None
            report = store.audit_foreign(
                service,
                foreign,
                mapping,
                since=since,
                until=until,
                sample=sample,
                by=tuple(by or ()),
                causes=causes,
                explain_rows=explain_rows,
                mismatches=parquet,
                progress=progress,
            )
        elif live is not None:
            report = store.audit_live(service, live, causes=causes, mismatches=parquet, progress=progress)
        else:
            report = store.audit(
                service,
                since=since or "24h",
                until=until,
                sample=sample,
                by=tuple(by or ()),
                causes=causes,
                explain_rows=explain_rows,
                mismatches=parquet,
                progress=progress,
            )
        sends_alert = store.config.alerts.one_shot if alert is None else alert
        if sends_alert and (outcome := store.alert(report)):  # a failure to send changes no exit code
            echo(f"alert {outcome}", err=True)
    _show(report, json=json, html=html)
    raise typer.Exit(report.exit_code)


@history.callback()
def audits(
    context: typer.Context,
    service: Annotated[str | None, typer.Option(help="Only audits of this service.")] = None,
    limit: Annotated[int, typer.Option(help="Most audits to list.", min=1)] = 20,
) -> None:
    """List past audits, newest first."""
    if context.invoked_subcommand is not None:
        return
    with store_of_root(context) as store:
        records = store.audits(service, limit=limit)
    head = ["id", "verdict", "ran at", "service", "since", "until", "rows", "values", "differ"]
    show(head, [_audit_row(record) for record in records])


@history.command("show")
def show_audit(
    context: typer.Context,
    number: Annotated[int, typer.Argument(metavar="ID", help="Id of the audit in the list.", show_default=False)],
    json: Json = None,
    html: Html = None,
) -> None:
    """Show a past audit. The exit code is that of the audit."""
    with store_of_root(context) as store:
        report = store.audit_report(number)
    _show(report, json=json, html=html)
    raise typer.Exit(report.exit_code)


@app.command()
def explain(
    context: typer.Context,
    service: Service,
    fields: Annotated[
        list[str] | None,
        typer.Argument(help="Entity keys and request inputs: carrier=UA dep_delay=12.5", show_default=False),
    ] = None,
    at: Annotated[str | None, typer.Option(help="Instant of the value.", show_default=False)] = None,
    feature: Annotated[str | None, typer.Option(help="Only this column of the answer. Default: all.")] = None,
    request_id: Annotated[str | None, typer.Option(help="Explain the served values of this request.")] = None,
    events: Annotated[int, typer.Option(help="Most used events to list, and most unused ones.", min=0)] = 20,
    json: Json = None,
    html: Html = None,
) -> None:
    """Explain a value: its events, the rules, the arithmetic.

    The command also shows what the training set, the online store and the serving log have for this value.
    """
    with working("explaining"), store_of(context) as store:
        entity, request = parse_fields(store.plan(service), fields or [])
        explanation = store.explain(
            service,
            entity or None,
            at=at,
            feature=feature,
            request=request or None,
            request_id=request_id,
            events=events,
        )
    if html is not None:
        from featurestore.reports.explanation import render_page

        write_file(html, render_page(explanation))
    from featurestore.reports.explanation import render_text

    show_report(lambda: render_text(explanation), explanation.to_json, json)


def _show(report: AuditReport, *, json: Path | None, html: Path | None) -> None:
    from featurestore.reports.audit import render_text

    if html is not None:
        from featurestore.reports.audit import render_page

        write_file(html, render_page(report))
    show_report(lambda: render_text(report), report.to_json, json)


def _audit_row(record: AuditRecord) -> list[str]:
    from featurestore.core.errors import RegistryError
    from featurestore.core.temporal import format_instant
    from featurestore.guard.audit.report import AuditReport

    ran_at, since, until = map(format_instant, (record.ran_at_us, record.since_us, record.until_us))
    try:
        report = AuditReport.from_json(record.report)
    except RegistryError:
        counts = ["?"] * 3
    else:
        values = sum(feature.compared for feature in report.features)
        counts = [f"{report.compared:,}", f"{values:,}", f"{report.different:,}"]
    return [str(record.id), record.verdict, ran_at, record.service, since, until, *counts]
