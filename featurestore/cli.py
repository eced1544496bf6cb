"""The command line: every command is one verb of the store, and shows what it gives.

What a command needs is imported when it runs, so that ``--help`` is quick. Mistakes are told in one message on standard
error, with exit code 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.errors import FeatureStoreError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from featurestore.dtypes import DType
    from featurestore.plan.model import Column, Plan
    from featurestore.store import FeatureStore

COULD_NOT_TELL = 2
"""Exit code of a command that could not do its work."""

_PRINT = 12

app = typer.Typer(
    name="featurestore",
    help="Training sets and online answers from one compiled plan, and an audit that proves them equal.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Service = Annotated[str, typer.Argument(help="Name of a feature service.", show_default=False)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code.

    Args:
        arguments: Those of the process if ``None``.
    """
    try:
        app(args=arguments, prog_name="featurestore")
    except FeatureStoreError as error:
        typer.echo(f"featurestore: {error}", err=True)
        sys.exit(COULD_NOT_TELL)


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[
        Path, typer.Option("--config", "-c", envvar="FEATURESTORE_CONFIG", help="Configuration file, or its folder.")
    ] = Path("featurestore.toml"),
) -> None:
    """Take what all commands have in common."""
    context.obj = config


@app.command()
def apply(
    context: typer.Context,
    module: Annotated[
        str, typer.Argument(help="Definitions' module; the configured one if left out.", show_default=False)
    ] = "",
) -> None:
    """Compile definitions and make them the applied ones; show what changed."""
    with _store(context, definitions=module) as store:
        typer.echo(str(store.apply()))


@app.command()
def services(context: typer.Context) -> None:
    """List the applied feature services."""
    with _store(context) as store:
        plans = store.services()
    _show(
        ["service", "fingerprint", "keys", "features"],
        [[plan.name, plan.fingerprint[:_PRINT], _listed(plan.join_keys), str(len(plan.outputs))] for plan in plans],
    )


@app.command()
def plan(
    context: typer.Context,
    service: Service,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole plan as JSON.")] = False,
) -> None:
    """Show what a service is compiled to."""
    with _store(context) as store:
        found = store.plan(service)
    if as_json:
        typer.echo(found.to_json())
        return
    typer.echo(f"service      {found.name}\nfingerprint  {found.fingerprint}")
    typer.echo(f"keys         {_listed(found.join_keys)}")
    if found.request:
        typer.echo(f"request      {_listed(found.request)}")
    _show(["view", "of", "refresh", "fingerprint"], _view_rows(found))
    _show(["column", "dtype"], [[output.name, str(output.dtype)] for output in found.outputs])


@app.command("training-set")
def training_set(
    context: typer.Context,
    service: Service,
    spine: Annotated[Path, typer.Argument(help="Parquet file of the rows to fill.", show_default=False)],
    path: Annotated[Path, typer.Argument(help="Folder that the training set will be.", show_default=False)],
    hindsight: Annotated[bool, typer.Option(help="Ignore when events became known.")] = False,
    statuses: Annotated[bool, typer.Option(help="Add a status column for each feature.")] = False,
) -> None:
    """Build a training set: the features of a service at each row's own instant."""
    with _working("building the training set"), _store(context) as store:
        built = store.training_set(service, spine, path=path, hindsight=hindsight, statuses=statuses)
    typer.echo(f"{built.row_count} rows in {built.path}, content {built.manifest.content_digest[:_PRINT]}")


@app.command()
def materialize(
    context: typer.Context,
    until: Annotated[
        str | None, typer.Option(help="Fold what became known before this instant; now if left out.")
    ] = None,
    view: Annotated[list[str] | None, typer.Option(help="Only this view; may be repeated.")] = None,
    full: Annotated[bool, typer.Option(help="Fold everything again.")] = False,
) -> None:
    """Fold what became known into the online state."""
    from featurestore.temporal import format_instant

    with _working("materializing"), _store(context) as store:
        runs = store.materialize(until, view, full=full)
    _show(
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
    with _store(context) as store:
        found = store.plan(service)
        given = dict(_pair(field) for field in fields)
        inputs = {column.name for column in found.request}
        entity = {name: _typed(found.join_keys, name, text) for name, text in given.items() if name not in inputs}
        request = {name: _typed(found.request, name, text) for name, text in given.items() if name in inputs}
        answer = store.get_online_features(service, [entity], request=request or None, as_of=as_of)
    values = dict(zip(answer.columns, zip(answer.rows[0], answer.statuses[0], strict=True), strict=True))
    if as_json:
        import msgspec

        document = {name: {"value": value, "status": status} for name, (value, status) in values.items()}
        typer.echo(msgspec.json.format(msgspec.json.encode(document)).decode())
        return
    _show(["column", "value", "status"], [[name, str(value), status] for name, (value, status) in values.items()])


@app.command()
def audit(
    context: typer.Context,
    service: Service,
    since: Annotated[str, typer.Option(help="Answers about this instant or later.", show_default=False)],
    until: Annotated[str, typer.Option(help="Answers about instants before this one.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Recompute what was served and compare: exit code 0 for equal, 1 for skew, 2 if it could not tell."""
    with _working("recomputing what was served"), _store(context) as store:
        report = store.audit(service, since=since, until=until)
    if as_json:
        typer.echo(report.to_json())
    else:
        from featurestore.skew.render import render

        _print(render(report))
    raise typer.Exit(report.exit_code)


@app.command()
def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on; the configured one if left out.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, 0 for a free one.")] = None,
) -> None:
    """Serve features over HTTP until stopped."""
    chosen = [*(["--host", host] if host else []), *(["--port", str(port)] if port is not None else [])]
    # The server stands above the library: it is started, not imported, and signals go straight to it.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "server", "--config", str(context.obj), *chosen])


def _store(context: typer.Context, *, definitions: str = "") -> FeatureStore:
    from featurestore.config import Config
    from featurestore.store import FeatureStore

    config = Config.load(context.obj)
    return FeatureStore(config.model_copy(update={"definitions": definitions}) if definitions else config)


def _working(what: str) -> AbstractContextManager[Any]:
    """Show on a terminal that something is under way, and for how long; elsewhere nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    console = Console(stderr=True)
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    progress.add_task(what, total=None)
    return progress


def _show(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; columns are as wide as they must be, so that output can be cut and searched."""
    from rich import box
    from rich.table import Table

    table = Table(*head, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    _print(table)


def _print(shown: RenderableType) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = max(80, console.measure(shown).maximum)
    console.print(shown)


def _listed(columns: Sequence[Column]) -> str:
    return ", ".join(f"{column.name} {column.dtype}" for column in columns)


def _view_rows(plan: Plan) -> list[list[str]]:
    return [[use.alias, use.view.name, str(use.view.refresh), use.view.fingerprint[:_PRINT]] for use in plan.uses]


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


if __name__ == "__main__":
    main()
