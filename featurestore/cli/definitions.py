"""Commands about definitions: applying them, and what they compile to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.common import PRINT, By, Service, app, echo, echo_json, show, store_of

if TYPE_CHECKING:
    from featurestore.plan.model import Column, Plan


@app.command()
def apply(
    context: typer.Context,
    module: Annotated[
        str, typer.Argument(help="Definitions' module; the configured one if left out.", show_default=False)
    ] = "",
    promote: Annotated[
        bool | None,
        typer.Option(
            "--promote/--no-promote",
            help="Let the applied plans answer at once, or keep those that are live; if left out, a new plan goes live "
            "when it is materialized.",
        ),
    ] = None,
    allow_removal: Annotated[
        list[str] | None,
        typer.Option(
            help="Remove this service, view or source, which the module does not define; view:NAME for one kind only. "
            "May be repeated.",
            show_default=False,
        ),
    ] = None,
    by: By = None,
) -> None:
    """Compile definitions and make them the applied ones; show what changed, and what else stays applied."""
    with store_of(context, definitions=module) as store:
        changes = store.apply(promote="auto" if promote is None else promote, remove=allow_removal or (), by=by)
    echo(str(changes))


@app.command()
def restore(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of what was removed; view:NAME for one kind only.")],
    by: By = None,
) -> None:
    """Undo the removal of a service, view or source, and of what it needs."""
    with store_of(context) as store:
        echo(str(store.restore(name, by=by)))


@app.command()
def services(context: typer.Context) -> None:
    """List the applied feature services, and which of their plans is live."""
    with store_of(context) as store:
        plans = store.services()
        live = {state.service: state.live for state in store.status()}
    show(
        ["service", "fingerprint", "live", "keys", "features"],
        [
            [
                plan.name,
                plan.fingerprint[:PRINT],
                live[plan.name][:PRINT],
                _listed(plan.join_keys),
                str(len(plan.outputs)),
            ]
            for plan in plans
        ],
    )


@app.command()
def plan(
    context: typer.Context,
    service: Service,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole plan as JSON.")] = False,
) -> None:
    """Show what a service is compiled to."""
    with store_of(context) as store:
        found = store.plan(service)
    if as_json:
        echo_json(found.to_json())
        return
    echo(f"service      {found.name}\nfingerprint  {found.fingerprint}")
    echo(f"keys         {_listed(found.join_keys)}")
    if found.request:
        echo(f"request      {_listed(found.request)}")
    show(["view", "of", "refresh", "fingerprint"], _view_rows(found))
    show(["column", "dtype"], [[output.name, str(output.dtype)] for output in found.outputs])


def _listed(columns: Sequence[Column]) -> str:
    return ", ".join(f"{column.name} {column.dtype}" for column in columns)


def _view_rows(plan: Plan) -> list[list[str]]:
    return [[use.alias, use.view.name, str(use.view.refresh), use.view.fingerprint[:PRINT]] for use in plan.uses]
