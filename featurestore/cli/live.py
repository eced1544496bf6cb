"""Commands about which plans answer: showing, promoting, rolling back, and removing what nobody needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.common import PRINT, By, Service, app, echo, show, store_of

if TYPE_CHECKING:
    from featurestore.online.answering.live import ServiceState


@app.command()
def status(context: typer.Context) -> None:
    """Show which plan of each service is live, which is applied, how far their views are, and what is wrong."""
    with store_of(context) as store:
        states = store.status()
        problems = store.problems()
    show(["service", "live", "applied", "previous", "goes live"], [_plans_row(state) for state in states])
    show(["service", "view", "plan", "part of", "complete up to"], [row for state in states for row in _rows(state)])
    for problem in problems:
        typer.echo(f"problem: {problem}")


@app.command()
def promote(context: typer.Context, service: Service, by: By = None) -> None:
    """Let a service answer by its applied plan from now on; refused if a view of it is not materialized."""
    with store_of(context) as store:
        live = store.promote(service, by=by)
    echo(f"service '{service}' answers by {live.fingerprint[:PRINT]}")


@app.command()
def rollback(context: typer.Context, service: Service, by: By = None) -> None:
    """Go back to the previously live plan; the plan that is left stays down until it is promoted."""
    with store_of(context) as store:
        live = store.rollback(service, by=by)
    echo(f"service '{service}' answers by {live.fingerprint[:PRINT]} again, no more by {live.previous[:PRINT]}")


@app.command()
def history(
    context: typer.Context,
    service: Annotated[str | None, typer.Argument(help="Name of a service; all if left out.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many changes.", min=1)] = 20,
) -> None:
    """Show which plans of a service went live, when, by which command and by whom, newest first."""
    from featurestore.core.temporal import format_instant

    with store_of(context) as store:
        changes = store.live_changes(service, limit=limit)
    show(
        ["at", "service", "from", "to", "verb", "by"],
        [
            [
                format_instant(change.changed_at_us),
                change.service,
                change.previous[:PRINT],
                change.fingerprint[:PRINT],
                change.verb,
                change.changed_by,
            ]
            for change in changes
        ],
    )


@app.command()
def gc(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
    keep: Annotated[
        int,
        typer.Option(
            help="Plans of each service to keep that were live before; 0 also drops what was just removed.", min=0
        ),
    ] = 1,
) -> None:
    """Remove online state that no plan needs which is live, applied, or kept to roll back to."""
    with store_of(context) as store:
        removed = store.gc(dry_run=dry_run, keep=keep)
    show(
        ["view", "plan", "keys", "because"],
        [
            [
                one.view,
                one.fingerprint[:PRINT],
                "" if dry_run or one.is_busy else str(one.count),
                f"{one.reason}; left, a run is at work on it" if one.is_busy else one.reason,
            ]
            for one in removed
        ],
    )


def _plans_row(state: ServiceState) -> list[str]:
    when = "" if not state.is_pending else "when promoted" if state.is_decided else "when materialized"
    when += " (it was rolled back from)" if state.is_withdrawn else ""
    prints = (state.live, state.applied, state.previous or "")
    return [state.service, *(one[:PRINT] for one in prints), when]


def _rows(state: ServiceState) -> list[list[str]]:
    from featurestore.core.temporal import format_instant

    return [
        [
            state.service,
            view.view,
            view.fingerprint[:PRINT],
            ", ".join(name for name, is_part in (("live", view.is_live), ("applied", view.is_applied)) if is_part),
            "nothing is materialized" if view.watermark_us is None else format_instant(view.watermark_us),
        ]
        for view in state.views
    ]
