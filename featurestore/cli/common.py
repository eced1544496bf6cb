"""What all commands share: the application, opening the store, and printing results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from featurestore.core.cleaning import clean, clean_json

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    from featurestore.plan.model import Column, Plan
    from featurestore.store import FeatureStore

PRINT = 12
"""How many characters of a fingerprint are shown."""

_MAX_WIDTH = 2_000
_SECTIONS = {
    "Definitions": ("apply", "restore", "services", "plan"),
    "Live plans": ("status", "promote", "rollback", "history", "gc"),
    "Features": ("training-set", "materialize", "runs", "get", "forget"),
    "Pushed events": ("push", "consume", "catch-up", "compact", "repair-log"),
    "Guard": ("audit", "audits", "explain", "drift", "drifts", "report-schema"),
    "Before a release": ("verify", "certificates", "gate", "simulate", "leakage"),
    "Server and schedule": ("serve", "keys", "warm", "run", "jobs", "alerts"),
}
"""The commands as ``--help`` lists them."""


class _Commands(TyperGroup):
    """Lists the commands in sections."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  # the signature is typer's
        """Write the commands with the first sentences of their help."""
        width = formatter.width - 6 - max(map(len, self.commands))
        for title, names in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(width)) for name in names])


app = typer.Typer(
    name="featurestore",
    cls=_Commands,
    help="Builds training sets and answers online lookups with one compiled plan, and checks that both agree.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Service = Annotated[str, typer.Argument(help="Name of the feature service.", show_default=False)]
By = Annotated[str | None, typer.Option(help="Name to record in the history. Default: user@host.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write the report to this file as an HTML page.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the report to this file as JSON; '-' prints it.")]


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[
        Path,
        typer.Option(
            "--config", "-c", envvar="FEATURESTORE_CONFIG", help="Configuration file, or the folder that has it."
        ),
    ] = Path("featurestore.toml"),
) -> None:
    """Store the options that all commands share."""
    context.obj = config


def store_of(context: typer.Context, *, definitions: str = "") -> FeatureStore:
    """Open the configured store.

    Args:
        context: Holds the path of the configuration.
        definitions: Module of the definitions; the configured one if empty.
    """
    from featurestore.config import Config
    from featurestore.store import FeatureStore

    config = Config.load(context.obj)
    return FeatureStore(config.model_copy(update={"definitions": definitions}) if definitions else config)


def store_of_root(context: typer.Context) -> FeatureStore:
    """Open the configured store for a subcommand: only the root context holds the path of the configuration."""
    return store_of(context.find_root())  # type: ignore[arg-type]  # typer's contexts are click's


def parse_fields(plan: Plan, fields: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parse arguments ``name=value`` into an entity of a service and its request inputs."""
    texts = dict(parse_pair(field) for field in fields)
    inputs = {column.name for column in plan.request}
    entity = {name: parse_value(plan.join_keys, name, text) for name, text in texts.items() if name not in inputs}
    return entity, {name: parse_value(plan.request, name, text) for name, text in texts.items() if name in inputs}


def parse_pair(field: str) -> tuple[str, str]:
    """Parse ``name=value``."""
    name, mark, text = field.partition("=")
    if not mark:
        raise typer.BadParameter(f"got '{field}', expected name=value")
    return name, text


def parse_value(columns: Sequence[Column], name: str, text: str) -> Any:
    """Parse an argument by the dtype of its column; the store checks unknown columns and malformed values."""
    kind = next((column.dtype.kind for column in columns if column.name == name), "")
    if kind not in ("int64", "float64", "bool", "list"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def working(activity: str) -> AbstractContextManager[Any]:
    """Show an activity and its duration while it lasts, if standard error is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    console = Console(stderr=True)
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    progress.add_task(activity, total=None)
    return progress


def echo(text: str, *, err: bool = False) -> None:
    """Print text without characters that control the terminal, which names and values may contain.

    Args:
        text: The text.
        err: Whether to print to standard error.
    """
    typer.echo(clean(text), err=err)


def echo_json(document: str) -> None:
    """Print a JSON document; characters that control the terminal are escaped."""
    typer.echo(clean_json(document))


def print_json(document: Any) -> None:
    """Print an object as indented JSON."""
    import msgspec

    echo_json(msgspec.json.format(msgspec.json.encode(document)).decode())


def show(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table. Its columns are never shortened, so that the output can be cut and searched."""
    from rich import box
    from rich.table import Table

    table = Table(*head, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    print_wide(table)


def print_wide(renderable: RenderableType) -> None:
    """Print something as wide as it is, also if the output is not a terminal."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        # A console measures nothing as wider than itself: it must be wide while it measures.
        console.width = _MAX_WIDTH
        console.width = max(80, console.measure(renderable).maximum)
    console.print(_Clean(renderable))


class _Clean:
    """Renders something without characters that control the terminal, which values may contain."""

    def __init__(self, renderable: RenderableType) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        from rich.segment import Segment

        for segment in console.render(self._renderable, options):
            yield segment if segment.control else Segment(clean(segment.text), segment.style)


def show_report(render: Callable[[], RenderableType], document: Callable[[], str], file: Path | None) -> None:
    """Print a report, and write its JSON to a file if there is one; ``-`` prints the JSON instead of the report."""
    if file is not None and str(file) == "-":
        echo_json(document())
        return
    if file is not None:
        write_file(file, document())
    print_wide(render())


def write_file(path: Path, content: str) -> None:
    """Write a file.

    Raises:
        ConfigError: The path is an address of a remote system.
        StorageError: The file cannot be written.
    """
    from featurestore.core.errors import StorageError
    from featurestore.storage.files import local_target

    try:
        local_target(path, where="report").write_text(content, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"the file cannot be written: {error.strerror}", where=f"file '{path}'") from error
