"""Commands of the online road: looking values up."""

from __future__ import annotations

from typing import Annotated

import typer

from featurestore.cli.common import PRINT, Service, app, asked_of, echo, pair, print_json, show, store_of, typed


@app.command()
def get(
    context: typer.Context,
    service: Service,
    fields: Annotated[
        list[str], typer.Argument(help="Keys and request inputs: carrier=UA dep_delay=12.5", show_default=False)
    ],
    as_of: Annotated[str | None, typer.Option(help="Instant asked about; now if left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print values and statuses as JSON.")] = False,
) -> None:
    """Look up the features of one entity, as the server does."""
    with store_of(context) as store:
        entity, request = asked_of(store.plan(service), fields)
        answer = store.get_online_features(service, [entity], request=request or None, as_of=as_of)
    values = dict(zip(answer.columns, zip(answer.rows[0], answer.statuses[0], strict=True), strict=True))
    if as_json:
        print_json({name: {"value": value, "status": status} for name, (value, status) in values.items()})
        return
    show(["column", "value", "status"], [[name, str(value), status] for name, (value, status) in values.items()])


@app.command()
def forget(
    context: typer.Context,
    entity: Annotated[str, typer.Argument(help="Name of an entity.", show_default=False)],
    fields: Annotated[list[str], typer.Argument(help="Its keys: carrier=UA", show_default=False)],
    wait: Annotated[float, typer.Option(help="Seconds to wait for a run on a view to end.", min=0)] = 60.0,
) -> None:
    """Remove what is kept about one entity, and name what lies elsewhere."""
    with store_of(context) as store:
        keys = {key.name: key for view in store.views() for key in view.entity.keys if view.entity.name == entity}
        given = dict(pair(field) for field in fields)
        own = {name: typed(tuple(keys.values()), name, text) for name, text in given.items()}
        found = store.forget(entity, own, wait_seconds=wait)
    show(
        ["removed", "of", "count"],
        [
            *(["state", f"view {state.view}, plan {state.fingerprint[:PRINT]}", "1"] for state in found.states),
            *(["pushed events", f"source {name}", str(count)] for name, count in found.events.items()),
            *(["dead letters", f"source {name}", str(count)] for name, count in found.dead_letters.items()),
            *(["served rows", f"service {name}", str(count)] for name, count in found.served.items()),
        ],
    )
    echo("out of reach:")
    for sentence in found.unreachable:
        echo(f"- {sentence}")
