"""Commands about pushed events: pushing a file, consuming a topic, catching up, compacting and repairing the log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli.common import app, echo, parse_pair, show, store_of
from featurestore.core.cleaning import clean_line

if TYPE_CHECKING:
    from threading import Event


@app.command()
def consume(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="Name of a source that accepts pushes.", show_default=False)],
    topic: Annotated[str, typer.Option(help="Name of the topic.", show_default=False)],
    brokers: Annotated[
        str, typer.Option(help="Addresses of brokers, host:port, separated by commas.", show_default=False)
    ],
    group: Annotated[str, typer.Option(help="Name of the consumer group.")] = "featurestore",
    dead_letters: Annotated[
        Path | None,
        typer.Option(
            help="File for messages that cannot be pushed. Default: dead_letters/SOURCE.jsonl in the data folder."
        ),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="Option of the Kafka client, name=value. May be repeated.")
    ] = None,
) -> None:
    """Push the messages of a Kafka topic until stopped."""
    from featurestore.online.pushing.dead_letters import letters_file
    from featurestore.operations.consuming import consume as consume_topic

    with store_of(context) as store:
        result = consume_topic(
            store,
            source,
            brokers=brokers,
            topic=topic,
            group=group,
            dead_letters=dead_letters or letters_file(store.config.data, source),
            stop=_stop_event(),
            options=dict(parse_pair(text) for text in option or ()),
        )
    echo(
        f"{result.messages} messages: {result.accepted} events accepted, {result.duplicates} duplicates, "
        f"{result.dead} dead letters"
    )


@app.command()
def push(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="Name of a source that accepts pushes.", show_default=False)],
    file: Annotated[Path, typer.Argument(help="Parquet, CSV, or lines of JSON (.jsonl).", show_default=False)],
    partial: Annotated[bool, typer.Option("--partial", help="Accept valid rows even if others are invalid.")] = False,
) -> None:
    """Push the events of a file.

    Events are pushed some thousand at a time. If the source has an event id, the command can be repeated safely.
    """
    accepted = duplicates = rejected = 0
    with store_of(context) as store:
        for first, result in store.push_file(source, file, partial=partial):
            accepted, duplicates = accepted + result.accepted, duplicates + result.duplicates
            rejected += len(result.rejected)
            for row in result.rejected:
                echo(clean_line(f"row {first + row.row}: {row.field or 'event'}: {row.problem}"), err=True)
    echo(f"{accepted} events accepted, {duplicates} duplicates, {rejected} rejected")


@app.command("catch-up")
def catch_up(context: typer.Context) -> None:
    """Add pushed events to online state that lacks them."""
    with store_of(context) as store:
        echo(f"{store.catch_up()} events added to online state")


@app.command()
def compact(
    context: typer.Context,
    source: Annotated[
        str | None, typer.Argument(help="Only this source. Default: all sources.", show_default=False)
    ] = None,
    before: Annotated[str | None, typer.Option(help="Only events that became known before this instant.")] = None,
) -> None:
    """Move pushed events from the database to Parquet files.

    The files are written to the data folder.
    """
    with store_of(context) as store:
        moved = store.compact(source, before=before)
    show(["source", "events moved"], [[name, str(count)] for name, count in sorted(moved.items())])


@app.command("repair-log")
def repair_log(
    context: typer.Context,
    source: Annotated[
        str | None, typer.Argument(help="Only this source. Default: all sources.", show_default=False)
    ] = None,
) -> None:
    """Repair a log whose newest event lies in the future.

    Events from the future get the present instant as their ingest time, and online state of the source is rebuilt.
    """
    with store_of(context) as store:
        moved = store.repair_log(source)
    show(["source", "events moved to the present"], [[name, str(count)] for name, count in sorted(moved.items())])


def _stop_event() -> Event:
    """Return an event that SIGINT and SIGTERM set."""
    import signal
    from threading import Event

    stop = Event()

    def ask_to_stop(*_: Any) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask_to_stop)
    return stop
