"""Commands of the guard."""

from __future__ import annotations

from typing import Annotated

import typer

from featurestore.cli.common import Service, app, printed, store_of, working


@app.command()
def audit(
    context: typer.Context,
    service: Service,
    since: Annotated[str, typer.Option(help="Answers about this instant or later.", show_default=False)],
    until: Annotated[str, typer.Option(help="Answers about instants before this one.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Recompute what was served and compare: exit code 0 for equal, 1 for skew, 2 if it could not tell."""
    with working("recomputing what was served"), store_of(context) as store:
        report = store.audit(service, since=since, until=until)
    if as_json:
        typer.echo(report.to_json())
    else:
        from featurestore.skew.render import render

        printed(render(report))
    raise typer.Exit(report.exit_code)
