"""The command that explains single values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.common import Service, app, asked_of, show_report, store_of, working, write_page


@app.command()
def explain(
    context: typer.Context,
    service: Service,
    fields: Annotated[
        list[str] | None,
        typer.Argument(help="Keys and request inputs: carrier=UA dep_delay=12.5", show_default=False),
    ] = None,
    at: Annotated[str | None, typer.Option(help="Instant asked about.", show_default=False)] = None,
    feature: Annotated[str | None, typer.Option(help="Column of the answer; all if left out.")] = None,
    request_id: Annotated[str | None, typer.Option(help="Explain what was served in this request.")] = None,
    events: Annotated[int, typer.Option(help="List so many events that are used, and so many others.", min=0)] = 20,
    json: Annotated[Path | None, typer.Option("--json", help="Write it to this file, '-' to print it.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write it to this file, as one page.")] = None,
) -> None:
    """Say why a value is what it is: its events, the rules, the arithmetic, and what each road says."""
    with working("explaining"), store_of(context) as store:
        entity, request = asked_of(store.plan(service), fields or [])
        found = store.explain(
            service,
            entity or None,
            at=at,
            feature=feature,
            request=request or None,
            request_id=request_id,
            events=events,
        )
    if html is not None:
        from featurestore.reports.explain_html import render_html

        write_page(html, render_html(found))
    from featurestore.reports.explain_text import render

    show_report(lambda: render(found), found.to_json, json)
