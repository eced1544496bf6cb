"""Commands that keep things going: the schedule, and what became of its jobs."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.common import app, echo, show, store_of

if TYPE_CHECKING:
    from featurestore.registry import JobRecord


@app.command()
def run(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Do what is due, and end: for cron and the like.")] = False,
) -> None:
    """Keep refreshes and audits going until a signal says stop; exit code 1 if a job of --once could not be done.

    An audit that finds skew is done: it tells people, and its exit code is that of the command audit.
    """
    from featurestore.operations import Runner
    from featurestore.registry import FAILED

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
        echo(f"{len(runner.jobs)} jobs")
        runner.run(stop, _say, echo)


@app.command()
def jobs(context: typer.Context) -> None:
    """List what the schedule does, when it did it last and what came of it, and when it does it next."""
    from featurestore.operations import Runner

    rows = []
    with store_of(context) as store:
        runner = Runner(store)
        for job in runner.jobs:
            last = runner.last(job)
            begun = ["", "", ""] if last is None else [_second(last.started_at_us), last.outcome, last.said]
            next_us = runner.next_us(job)
            rows.append([job.name, job.about, *begun, "" if next_us is None else _second(next_us)])
    show(["job", "about", "last", "outcome", "said", "next"], rows)


@app.command()
def alerts(context: typer.Context) -> None:
    """List what people were told last of each audit and job, by which way, and why telling them failed."""
    with store_of(context) as store:
        records = store.registry.alerts()
    show(
        ["about", "way", "told at", "what is wrong", "tried at", "problem"],
        [
            [
                record.job,
                record.way,
                _second(record.told_at_us) if record.told_at_us else "",
                "\n".join(record.told),
                _second(record.tried_at_us),
                record.problem,
            ]
            for record in records
        ],
    )


def _second(instant: int) -> str:
    """Write an instant as people read it: to the second."""
    from featurestore.core.temporal import format_instant

    return format_instant(instant // 1_000_000 * 1_000_000)


def _say(record: JobRecord) -> None:
    echo(f"{_second(record.started_at_us)} {record.name}: {record.outcome}: {record.said}")
