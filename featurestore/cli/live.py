"""Commands about live plans: showing them, promoting, rolling back, and deleting state that is not needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.common import PRINT, By, Service, app, echo, show, store_of

if TYPE_CHECKING:
    from featurestore.online.answering.live import ServiceState


@app.command()
def status(context: typer.Context) -> None:
    """Show which plans are live, and how fresh their views are.

    Problems of the store are listed at the end.
    """
    with store_of(context) as store:
        states = store.status()
        problems = store.problems()
    show(["service", "live", "applied", "previous", "goes live"], [_plan_row(state) for state in states])
    show(
        ["service", "view", "plan", "part of", "complete up to"], [row for state in states for row in _view_rows(state)]
    )
    for problem in problems:
        typer.echo(f"problem: {problem}")


@app.command()
def promote(context: typer.Context, service: Service, by: By = None) -> None:
    """Make the applied plan of a service live.

    The command fails if one of its views is not materialized.
    """
    with store_of(context) as store:
        live = store.promote(service, by=by)
    echo(f"service '{service}' answers with plan {live.fingerprint[:PRINT]}")


@app.command()
def rollback(context: typer.Context, service: Service, by: By = None) -> None:
    """Go back to the previously live plan.

    The plan that was live until now does not go live again until it is promoted.
    """
    with store_of(context) as store:
        live = store.rollback(service, by=by)
    echo(f"service '{service}' answers with plan {live.fingerprint[:PRINT]} again instead of {live.previous[:PRINT]}")


@app.command()
def history(
    context: typer.Context,
    service: Annotated[str | None, typer.Argument(help="Only this service. Default: all services.")] = None,
    limit: Annotated[int, typer.Option(help="Most changes to list.", min=1)] = 20,
) -> None:
    """Show which plans went live, newest first.

    For each change the command shows when it was made, by which command and by whom.
    """
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
    keep: Annotated[
        int,
        typer.Option(
            help="How many previously live plans of each service to keep. 0 also deletes state of removed services.",
            min=0,
        ),
    ] = 1,
) -> None:
    """Delete online state that no plan needs any more.

    State of plans that are live, applied or kept for a rollback is not deleted.
    """
    with store_of(context) as store:
        removed = store.gc(dry_run=dry_run, keep=keep)
    show(
        ["view", "plan", "keys", "because"],
        [
            [
                state.view,
                state.fingerprint[:PRINT],
                "" if dry_run or state.is_busy else str(state.count),
                f"{state.reason}; not deleted, a run is using it" if state.is_busy else state.reason,
            ]
            for state in removed
        ],
    )


def _plan_row(state: ServiceState) -> list[str]:
    when = "" if not state.is_pending else "when promoted" if state.is_decided else "when materialized"
    when += " (it was rolled back from)" if state.is_withdrawn else ""
    prints = (state.live, state.applied, state.previous or "")
    return [state.service, *(fingerprint[:PRINT] for fingerprint in prints), when]


def _view_rows(state: ServiceState) -> list[list[str]]:
    from featurestore.core.temporal import format_instant

    return [
        [
            state.service,
            view.view,
            view.fingerprint[:PRINT],
            ", ".join(name for name, is_part in (("live", view.is_live), ("applied", view.is_applied)) if is_part),
            "not materialized" if view.watermark_us is None else format_instant(view.watermark_us),
        ]
        for view in state.views
    ]
