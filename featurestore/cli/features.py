"""Commands that compute, look up and delete feature values: training sets and online state."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.common import (
    PRINT,
    Service,
    app,
    echo,
    parse_fields,
    parse_pair,
    parse_value,
    print_json,
    show,
    store_of,
)
from featurestore.storage.progress import listening


@app.command("training-set")
def training_set(
    context: typer.Context,
    service: Service,
    spine: Annotated[Path, typer.Argument(help="Parquet file of the rows to fill.", show_default=False)],
    path: Annotated[Path, typer.Argument(help="Folder to write the training set to.", show_default=False)],
    hindsight: Annotated[bool, typer.Option(help="Also use events that became known too late for a row.")] = False,
    statuses: Annotated[bool, typer.Option(help="Add a status column for each feature.")] = False,
    as_of: Annotated[str, typer.Option(help="Column of the spine with the instants.")] = "as_of",
    as_of_unit: Annotated[
        str | None, typer.Option(help="Unit of numbers in as_of since 1970: s, ms, us or ns.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing training set.")] = False,
) -> None:
    """Build a training set.

    Each row of the spine gets the features of the service at its own instant.
    """
    with store_of(context) as store:
        built = store.training_set(
            service,
            spine,
            path=path,
            hindsight=hindsight,
            statuses=statuses,
            as_of=as_of,
            as_of_unit=as_of_unit,
            overwrite=overwrite,
        )
    echo(f"{built.row_count} rows in {built.path}, content {built.manifest.content_digest[:PRINT]}")


@app.command()
def materialize(
    context: typer.Context,
    until: Annotated[
        str | None, typer.Option(help="Include events that became known before this instant. Default: now.")
    ] = None,
    views: Annotated[
        list[str] | None,
        typer.Option("--views", "--view", help="Only these views, separated by commas. May be repeated."),
    ] = None,
    full: Annotated[
        bool, typer.Option(help="Rebuild the state from all events; the old state serves meanwhile.")
    ] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for another run on the same view.", min=0)] = 0.0,
) -> None:
    """Bring online state up to date with new events."""
    from featurestore.core.temporal import format_instant

    names = [name.strip() for option in views for name in option.split(",") if name.strip()] if views else None
    if names == []:
        raise typer.BadParameter(f"got {views}, expected names of views, separated by commas", param_hint="--views")
    with listening(None, opening="opening sources") as progress, store_of(context) as store:
        view_runs = store.materialize(until, names, full=full, wait_seconds=wait, progress=progress)
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
            for run in view_runs
        ],
    )


@app.command()
def runs(
    context: typer.Context,
    view: Annotated[str | None, typer.Option(help="Only runs of this view.")] = None,
    limit: Annotated[int, typer.Option(help="Most runs to list.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the runs as JSON.")] = False,
) -> None:
    """List runs of materialize, newest first.

    Failed runs are listed, too.
    """
    from dataclasses import asdict

    from featurestore.core.temporal import format_instant

    with store_of(context) as store:
        records = store.runs(view, limit=limit)
    if as_json:
        print_json([asdict(run) for run in records])
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
            for run in records
        ],
    )


@app.command()
def get(
    context: typer.Context,
    service: Service,
    fields: Annotated[
        list[str],
        typer.Argument(help="Entity keys and request inputs: carrier=UA dep_delay=12.5", show_default=False),
    ],
    as_of: Annotated[str | None, typer.Option(help="Instant of the lookup. Default: now.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print values and statuses as JSON.")] = False,
) -> None:
    """Look up the features of one entity, as the server does."""
    with store_of(context) as store:
        entity, request = parse_fields(store.plan(service), fields)
        answer = store.get_online_features(service, [entity], request=request or None, as_of=as_of)
    values = dict(zip(answer.columns, zip(answer.rows[0], answer.statuses[0], strict=True), strict=True))
    if as_json:
        print_json({name: {"value": value, "status": status} for name, (value, status) in values.items()})
        return
    show(["column", "value", "status"], [[name, str(value), status] for name, (value, status) in values.items()])


@app.command()
def forget(
    context: typer.Context,
    entity: Annotated[str, typer.Argument(help="Name of the kind of entity, for instance user.", show_default=False)],
    fields: Annotated[list[str], typer.Argument(help="Its keys: carrier=UA", show_default=False)],
    wait: Annotated[float, typer.Option(help="Seconds to wait for a run on a view to end.", min=0)] = 60.0,
) -> None:
    """Delete the data of one entity.

    The command also lists where else data of the entity may be, which it cannot delete.
    """
    with store_of(context) as store:
        columns = {key.name: key for view in store.views() for key in view.entity.keys if view.entity.name == entity}
        texts = dict(parse_pair(field) for field in fields)
        keys = {name: parse_value(tuple(columns.values()), name, text) for name, text in texts.items()}
        forgotten = store.forget(entity, keys, wait_seconds=wait)
    show(
        ["deleted", "of", "count"],
        [
            *(["state", f"view {state.view}, plan {state.fingerprint[:PRINT]}", "1"] for state in forgotten.states),
            *(["pushed events", f"source {name}", str(count)] for name, count in forgotten.events.items()),
            *(["dead letters", f"source {name}", str(count)] for name, count in forgotten.dead_letters.items()),
            *(["served rows", f"service {name}", str(count)] for name, count in forgotten.served.items()),
        ],
    )
    echo("not deleted:")
    for sentence in forgotten.unreachable:
        echo(f"- {sentence}")
