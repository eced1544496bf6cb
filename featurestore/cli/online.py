"""Commands of the online road: looking values up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli.common import PRINT, Service, app, print_json, show, store_of

if TYPE_CHECKING:
    from featurestore.dtypes import DType
    from featurestore.plan.model import Column


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
        found = store.plan(service)
        given = dict(_pair(field) for field in fields)
        inputs = {column.name for column in found.request}
        entity = {name: _typed(found.join_keys, name, text) for name, text in given.items() if name not in inputs}
        request = {name: _typed(found.request, name, text) for name, text in given.items() if name in inputs}
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
    wait: Annotated[float, typer.Option(help="Seconds to wait for a run on a view to end.")] = 60.0,
) -> None:
    """Remove what is kept about one entity, and name what lies elsewhere."""
    with store_of(context) as store:
        keys = {key.name: key for view in store.views() for key in view.entity.keys if view.entity.name == entity}
        given = dict(_pair(field) for field in fields)
        typed = {name: _typed(tuple(keys.values()), name, text) for name, text in given.items()}
        found = store.forget(entity, typed, wait_seconds=wait)
    show(
        ["removed", "of", "count"],
        [
            *(["state", f"view {state.view}, plan {state.fingerprint[:PRINT]}", "1"] for state in found.states),
            *(["pushed events", f"source {name}", str(count)] for name, count in found.events.items()),
            *(["served rows", f"service {name}", str(count)] for name, count in found.served.items()),
        ],
    )
    typer.echo("out of reach:")
    for sentence in found.unreachable:
        typer.echo(f"- {sentence}")


def _pair(field: str) -> tuple[str, str]:
    name, mark, text = field.partition("=")
    if not mark:
        raise typer.BadParameter(f"got '{field}', expected name=value")
    return name, text


def _typed(columns: Sequence[Column], name: str, text: str) -> Any:
    """Read an argument as the dtype of its column; what is unknown or unreadable is left for the store to judge."""
    dtype = {column.name: column.dtype for column in columns}.get(name)
    return text if dtype is None else _read(dtype, text)


def _read(dtype: DType, text: str) -> Any:
    import json

    if dtype.kind not in ("int64", "float64", "bool", "list"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
