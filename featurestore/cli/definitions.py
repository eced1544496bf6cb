"""Commands about definitions: applying them, and showing the plans they compile to."""

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
        str, typer.Argument(help="Module of the definitions. Default: the configured one.", show_default=False)
    ] = "",
    promote: Annotated[
        bool | None,
        typer.Option(
            "--promote/--no-promote",
            help="Make the applied plans live at once, or keep the live ones. Default: a new plan goes live once its "
            "views are materialized.",
        ),
    ] = None,
    allow_removal: Annotated[
        list[str] | None,
        typer.Option(
            help="Remove this applied service, view or source, which the module does not define. Write view:NAME to "
            "name the kind. May be repeated.",
            show_default=False,
        ),
    ] = None,
    by: By = None,
) -> None:
    """Compile definitions and apply them.

    The command shows what changed. Applied services, views and sources that the module does not define stay applied.
    """
    with store_of(context, definitions=module) as store:
        changes = store.apply(promote="auto" if promote is None else promote, remove=allow_removal or (), by=by)
    echo(str(changes))


@app.command()
def restore(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="Name of the removed service, view or source. Write view:NAME to name the kind.")
    ],
    by: By = None,
) -> None:
    """Undo the removal of a service, view or source.

    What it needs is restored, too.
    """
    with store_of(context) as store:
        echo(str(store.restore(name, by=by)))


@app.command()
def services(context: typer.Context) -> None:
    """List the applied feature services and their live plans."""
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
                _column_list(plan.join_keys),
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
    """Show the plan of a service."""
    with store_of(context) as store:
        compiled = store.plan(service)
    if as_json:
        echo_json(compiled.to_json())
        return
    echo(f"service      {compiled.name}\nfingerprint  {compiled.fingerprint}")
    echo(f"keys         {_column_list(compiled.join_keys)}")
    if compiled.request:
        echo(f"request      {_column_list(compiled.request)}")
    show(["view", "of", "refresh", "fingerprint"], _view_rows(compiled))
    show(["column", "dtype"], [[output.name, str(output.dtype)] for output in compiled.outputs])


def _column_list(columns: Sequence[Column]) -> str:
    return ", ".join(f"{column.name} {column.dtype}" for column in columns)


def _view_rows(plan: Plan) -> list[list[str]]:
    return [[use.alias, use.view.name, str(use.view.refresh), use.view.fingerprint[:PRINT]] for use in plan.uses]
