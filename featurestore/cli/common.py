"""What all commands share: the application, the store they work on, and how they show what they found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.core.cleaning import clean, clean_json

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    from featurestore.core.dtypes import DType
    from featurestore.plan.model import Column, Plan
    from featurestore.store import FeatureStore

PRINT = 12
"""How many characters of a hash are shown."""

_WIDEST = 2_000

app = typer.Typer(
    name="featurestore",
    help="Training sets and online answers from one compiled plan, and an audit that proves them equal.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Service = Annotated[str, typer.Argument(help="Name of a feature service.", show_default=False)]
By = Annotated[str | None, typer.Option(help="Who does it, for the history; user@host if left out.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write the report to this file, as one page.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the report to this file, '-' to print it.")]


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[
        Path, typer.Option("--config", "-c", envvar="FEATURESTORE_CONFIG", help="Configuration file, or its folder.")
    ] = Path("featurestore.toml"),
) -> None:
    """Take what all commands have in common."""
    context.obj = config


def store_of(context: typer.Context, *, definitions: str = "") -> FeatureStore:
    """Open the configured store.

    Args:
        context: Holds the place of the configuration.
        definitions: The definitions' module; the configured one if empty.
    """
    from featurestore.config import Config
    from featurestore.store import FeatureStore

    config = Config.load(context.obj)
    return FeatureStore(config.model_copy(update={"definitions": definitions}) if definitions else config)


def store_above(context: typer.Context) -> FeatureStore:
    """Open the configured store for a command of a group, whose own context does not know where it is."""
    return store_of(context.find_root())  # type: ignore[arg-type]  # typer's contexts are click's


def asked_of(plan: Plan, fields: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read arguments ``name=value`` as an entity of a service, and its request inputs."""
    given = dict(pair(field) for field in fields)
    inputs = {column.name for column in plan.request}
    entity = {name: typed(plan.join_keys, name, text) for name, text in given.items() if name not in inputs}
    return entity, {name: typed(plan.request, name, text) for name, text in given.items() if name in inputs}


def pair(field: str) -> tuple[str, str]:
    """Read ``name=value``."""
    name, mark, text = field.partition("=")
    if not mark:
        raise typer.BadParameter(f"got '{field}', expected name=value")
    return name, text


def typed(columns: Sequence[Column], name: str, text: str) -> Any:
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


def working(what: str) -> AbstractContextManager[Any]:
    """Show on a terminal that something is under way, and for how long; elsewhere nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    console = Console(stderr=True)
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    progress.add_task(what, total=None)
    return progress


def echo(text: str, *, err: bool = False) -> None:
    """Print text, without the characters that names and values may hold to control the terminal.

    Args:
        text: The text.
        err: Whether it goes to standard error.
    """
    typer.echo(clean(text), err=err)


def echo_json(document: str) -> None:
    """Print a JSON document, with characters that control a terminal written as escapes."""
    typer.echo(clean_json(document))


def print_json(document: Any) -> None:
    """Print something as JSON that people can read."""
    import msgspec

    echo_json(msgspec.json.format(msgspec.json.encode(document)).decode())


def show(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; columns are as wide as they must be, so that output can be cut and searched."""
    from rich import box
    from rich.table import Table

    table = Table(*head, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    printed(table)


def printed(shown: RenderableType) -> None:
    """Print something as wide as it must be, also where the output is no terminal."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        # Measured on something wide: a console measures nothing as wider than itself.
        console.width = _WIDEST
        console.width = max(80, console.measure(shown).maximum)
    console.print(_Clean(shown))


class _Clean:
    """Something to print, without the characters that values may hold to control the terminal."""

    def __init__(self, shown: RenderableType) -> None:
        self._shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        from rich.segment import Segment

        for segment in console.render(self._shown, options):
            yield segment if segment.control else Segment(clean(segment.text), segment.style)


def show_report(shown: Callable[[], RenderableType], document: Callable[[], str], json: Path | None) -> None:
    """Print a report, and write its JSON to a file if one is given; ``-`` prints the JSON instead."""
    if json is not None and str(json) == "-":
        echo_json(document())
        return
    if json is not None:
        write_page(json, document())
    printed(shown())


def write_page(path: Path, content: str) -> None:
    """Write a file.

    Raises:
        ConfigError: It is the address of another place.
        StorageError: It cannot be written.
    """
    from featurestore.core.errors import StorageError
    from featurestore.storage.files import local_target

    try:
        local_target(path, where="report").write_text(content, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"it cannot be written: {error.strerror}", where=f"file '{path}'") from error
