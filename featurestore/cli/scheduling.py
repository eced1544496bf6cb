"""Commands that keep things going: the schedule, and what became of its jobs."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.common import app, show, store_of

if TYPE_CHECKING:
    from featurestore.registry import JobRecord


@app.command()
def run(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Do what is due, and end: for cron and the like.")] = False,
) -> None:
    """Keep refreshes and audits going until a signal says stop; exit code 1 if a job of --once failed."""
    from featurestore.scheduling import FAILED, Runner

    with store_of(context) as store:
        runner = Runner(store)
        if once:
            records = runner.run_due()
            for record in records:
                _say(record)
            raise typer.Exit(int(any(record.outcome == FAILED for record in records)))
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        typer.echo(f"{len(runner.jobs)} jobs")
        runner.run(stop, _say)


@app.command()
def jobs(context: typer.Context) -> None:
    """List what the schedule does, when it did it last and what came of it, and when it does it next."""
    from featurestore.scheduling import Runner
    from featurestore.temporal import format_instant, instant_us

    rows = []
    with store_of(context) as store:
        runner = Runner(store)
        for job in runner.jobs:
            last = runner.last(job)
            begun = ["", "", ""] if last is None else [format_instant(last.started_at_us), last.outcome, last.said]
            rows.append([job.name, *begun, format_instant(instant_us(runner.next_time(job)))])
    show(["job", "last", "outcome", "said", "next"], rows)


def _say(record: JobRecord) -> None:
    from featurestore.temporal import format_instant

    typer.echo(f"{format_instant(record.started_at_us)} {record.name}: {record.outcome}: {record.said}")
