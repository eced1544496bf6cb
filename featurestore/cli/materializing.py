"""Commands that fill online state, and tell what was filled."""

from __future__ import annotations

from typing import Annotated

import typer

from featurestore.cli.common import PRINT, app, print_json, show, store_of
from featurestore.storage.progress import listening


@app.command()
def materialize(
    context: typer.Context,
    until: Annotated[
        str | None, typer.Option(help="Fold what became known before this instant; now if left out.")
    ] = None,
    views: Annotated[
        list[str] | None, typer.Option("--views", "--view", help="Only these, separated by commas; may be repeated.")
    ] = None,
    full: Annotated[bool, typer.Option(help="Fold everything again, beside what serves.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for another run on a view to end.", min=0)] = 0.0,
) -> None:
    """Fold what became known into the online state."""
    from featurestore.core.temporal import format_instant

    names = [name.strip() for given in views for name in given.split(",") if name.strip()] if views else None
    if names == []:
        raise typer.BadParameter(f"got {views}, expected names of views, separated by commas", param_hint="--views")
    with listening(None, opening="opening sources") as told, store_of(context) as store:
        runs = store.materialize(until, names, full=full, wait_seconds=wait, progress=told)
    show(
        ["view", "events", "entities", "from", "until", "rebuilt because"],
        [
            [
                run.view,
                str(run.events),
                str(run.entities),
                *map(format_instant, (run.from_us, run.until_us)),
                run.rebuilt,
            ]
            for run in runs
        ],
    )


@app.command()
def runs(
    context: typer.Context,
    view: Annotated[str | None, typer.Option(help="Only this view.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the runs as JSON.")] = False,
) -> None:
    """List what materializing did, newest run first, also what failed."""
    from dataclasses import asdict

    from featurestore.core.temporal import format_instant

    with store_of(context) as store:
        found = store.runs(view, limit=limit)
    if as_json:
        print_json([asdict(run) for run in found])
        return
    show(
        ["began", "seconds", "view", "plan", "outcome", "events", "entities", "until", "note"],
        [
            [
                format_instant(run.started_at_us),
                f"{(run.finished_at_us - run.started_at_us) / 1e6:.1f}",
                run.view,
                run.fingerprint[:PRINT],
                run.outcome,
                str(run.event_count),
                str(run.entity_count),
                format_instant(run.until_us),
                run.problem or run.note,
            ]
            for run in found
        ],
    )
