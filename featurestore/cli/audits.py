"""Commands of the guard: audits, and the audits that were."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.common import Html, Json, Service, app, echo, show, show_report, store_above, store_of, write_page
from featurestore.storage.progress import listening

if TYPE_CHECKING:
    from featurestore.guard.audit.report import AuditReport
    from featurestore.registry import AuditRecord
    from featurestore.store import FeatureStore

history = typer.Typer(help="List the audits that were, or show one of them.", invoke_without_command=True)
app.add_typer(history, name="audits")


@app.command()
def audit(
    context: typer.Context,
    service: Service,
    since: Annotated[
        str | None,
        typer.Option(help="Answers about this instant or later, or how long back: 24h; all of a foreign log."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Answers about instants before this one; now if left out.", show_default=False)
    ] = None,
    sample: Annotated[float | None, typer.Option(help="Share of the entities to look at.", min=0.0, max=1.0)] = None,
    live: Annotated[
        int | None, typer.Option(help="Ask both roads about so many entities now, instead of the log.", min=1)
    ] = None,
    foreign: Annotated[
        str | None, typer.Option(help="Compare the log of another system: Parquet, CSV, or a database's URL.")
    ] = None,
    mapping: Annotated[Path | None, typer.Option("--map", help="Which column of it holds what: a TOML file.")] = None,
    json: Json = None,
    html: Html = None,
    parquet: Annotated[Path | None, typer.Option(help="Write every value that differs to this folder.")] = None,
    by: Annotated[
        list[str] | None, typer.Option(help="Column of the log to look for slices in; may be repeated.")
    ] = None,
    causes: Annotated[bool, typer.Option(help="Prove why values differ; without it an audit only counts.")] = True,
    explain_rows: Annotated[
        int | None, typer.Option(help="Of how many rows that differ; all if left out.", min=1)
    ] = None,
    alert: Annotated[
        bool | None,
        typer.Option(
            "--alert/--no-alert", help="Tell the people under [alerts] what is news; as configured if left out."
        ),
    ] = None,
) -> None:
    """Recompute what was served and compare: exit code 0 for equal, 1 for skew, 2 if it could not tell."""
    if foreign is None and mapping is not None:
        raise typer.BadParameter("--map is about the log of another system: name it with --foreign")
    if foreign is not None and mapping is None:
        raise typer.BadParameter("say with --map which column holds what")
    if explain_rows is not None and not causes:
        raise typer.BadParameter("--no-causes explains nothing: leave --explain-rows out")
    if live is not None:
        given = {
            "--foreign": foreign,
            "--since": since,
            "--until": until,
            "--sample": sample,
            "--by": by,
            "--explain-rows": explain_rows,
        }
        if named := [name for name, value in given.items() if value is not None and value != []]:
            raise typer.BadParameter(f"--live asks now, not a log: leave {', '.join(named)} out")
    with listening(None, opening="opening the serving log") as told, store_of(context) as store:
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
                progress=told,
            )
        elif live is not None:
            report = store.audit_live(service, live, causes=causes, mismatches=parquet, progress=told)
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
                progress=told,
            )
        if store.config.alerts.one_shot if alert is None else alert:
            _alert(store, report)
    _tell(report, json=json, html=html)
    raise typer.Exit(report.exit_code)


@history.callback()
def audits(
    context: typer.Context,
    service: Annotated[str | None, typer.Option(help="Only of this service.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1)] = 20,
) -> None:
    """List the audits that the registry keeps, newest first."""
    if context.invoked_subcommand is not None:
        return
    with store_above(context) as store:
        records = store.audits(service, limit=limit)
    head = ["id", "verdict", "ran at", "service", "since", "until", "rows", "values", "differ"]
    show(head, [_row(record) for record in records])


@history.command("show")
def show_audit(
    context: typer.Context,
    number: Annotated[int, typer.Argument(metavar="ID", help="Number of the audit in the list.", show_default=False)],
    json: Json = None,
    html: Html = None,
) -> None:
    """Show an audit that was, with its exit code."""
    with store_above(context) as store:
        report = store.audit_report(number)
    _tell(report, json=json, html=html)
    raise typer.Exit(report.exit_code)


def _tell(report: AuditReport, *, json: Path | None, html: Path | None) -> None:
    from featurestore.reports.audit_text import render

    if html is not None:
        from featurestore.reports.audit_html import render_html

        write_page(html, render_html(report))
    show_report(lambda: render(report), report.to_json, json)


def _alert(store: FeatureStore, report: AuditReport) -> None:
    """Tell people; that they could not be told is said, and changes no exit code."""
    told = store.alert(report)
    if told:
        echo(f"alert {told}", err=True)


def _row(record: AuditRecord) -> list[str]:
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
