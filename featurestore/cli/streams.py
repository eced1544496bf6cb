"""Commands about pushed events: pushing a file, consuming a topic, catching up, compacting the log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli.common import app, echo, show, store_of
from featurestore.core.cleaning import clean_line

if TYPE_CHECKING:
    from threading import Event


@app.command()
def consume(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="Name of a source that accepts pushes.", show_default=False)],
    topic: Annotated[str, typer.Option(help="The topic.", show_default=False)],
    brokers: Annotated[str, typer.Option(help="Addresses of brokers: host:port, with commas.", show_default=False)],
    group: Annotated[str, typer.Option(help="Name of the consumer group.")] = "featurestore",
    dead_letters: Annotated[
        Path | None, typer.Option(help="File for what cannot be pushed; dead_letters/SOURCE.jsonl in the data folder.")
    ] = None,
    option: Annotated[list[str] | None, typer.Option(help="Option of the client, name=value; may be repeated.")] = None,
) -> None:
    """Push the messages of a Kafka topic until stopped by a signal."""
    from featurestore.online.pushing.dead_letters import letters_file
    from featurestore.operations.consuming import consume as run

    with store_of(context) as store:
        done = run(
            store,
            source,
            brokers=brokers,
            topic=topic,
            group=group,
            dead_letters=dead_letters or letters_file(store.config.data, source),
            stop=_until_signalled(),
            options=dict(_option(text) for text in option or ()),
        )
    echo(
        f"{done.messages} messages: {done.accepted} events accepted, {done.duplicates} known already, {done.dead} dead"
    )


@app.command()
def push(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="Name of a source that accepts pushes.", show_default=False)],
    file: Annotated[Path, typer.Argument(help="Parquet, CSV, or lines of JSON (.jsonl).", show_default=False)],
    partial: Annotated[bool, typer.Option("--partial", help="Take good rows although others are bad.")] = False,
) -> None:
    """Push the events of a file, some thousand at a time; with an event id it may be repeated."""
    accepted = duplicates = rejected = 0
    with store_of(context) as store:
        for first, result in store.push_file(source, file, partial=partial):
            accepted, duplicates = accepted + result.accepted, duplicates + result.duplicates
            rejected += len(result.rejected)
            for row in result.rejected:
                echo(clean_line(f"row {first + row.row}: {row.field or 'event'}: {row.problem}"), err=True)
    echo(f"{accepted} events accepted, {duplicates} known already, {rejected} rejected")


@app.command("catch-up")
def catch_up(context: typer.Context) -> None:
    """Fold the pushed events that online state does not have yet."""
    with store_of(context) as store:
        echo(f"{store.catch_up()} events folded")


@app.command()
def compact(
    context: typer.Context,
    source: Annotated[str | None, typer.Argument(help="Name of a source; all if left out.", show_default=False)] = None,
    before: Annotated[str | None, typer.Option(help="Only what became known before this instant.")] = None,
) -> None:
    """Move pushed events from the log's database to Parquet files under the data folder."""
    with store_of(context) as store:
        moved = store.compact(source, before=before)
    show(["source", "events moved"], [[name, str(count)] for name, count in sorted(moved.items())])


@app.command("repair-log")
def repair_log(
    context: typer.Context,
    source: Annotated[str | None, typer.Argument(help="Name of a source; all if left out.", show_default=False)] = None,
) -> None:
    """Bring a log whose head lies in the future back to the present, and rebuild the states made of it."""
    with store_of(context) as store:
        moved = store.repair_log(source)
    show(["source", "events given the present instant"], [[name, str(count)] for name, count in sorted(moved.items())])


def _until_signalled() -> Event:
    """Return an event that SIGINT and SIGTERM set."""
    import signal
    from threading import Event

    stop = Event()

    def ask_to_stop(*_: Any) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask_to_stop)
    return stop


def _option(text: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not mark:
        raise typer.BadParameter(f"got '{text}', expected name=value")
    return name, value
