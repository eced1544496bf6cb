"""Commands of the schedule: running it, its jobs, its alerts."""

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
    once: Annotated[
        bool, typer.Option("--once", help="Run the jobs that are due, then exit: for cron and similar.")
    ] = False,
) -> None:
    """Run scheduled refreshes and audits until stopped.

    Exit code with --once: 1 if a job failed, else 0. An audit that finds skew has not failed: it sends an alert.
    """
    from featurestore.operations import Runner
    from featurestore.registry import FAILED

    with store_of(context) as store:
        runner = Runner(store)
        if once:
            records = runner.run_due()
            for record in records:
                _print_record(record)
            raise typer.Exit(int(any(record.outcome == FAILED for record in records)))
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        echo(f"{len(runner.jobs)} jobs")
        runner.run(stop, _print_record, echo)


@app.command()
def jobs(context: typer.Context) -> None:
    """List scheduled jobs with their last and next run."""
    from featurestore.operations import Runner

    rows = []
    with store_of(context) as store:
        runner = Runner(store)
        for job in runner.jobs:
            last = runner.last(job)
            last_run = ["", "", ""] if last is None else [_second(last.started_at_us), last.outcome, last.said]
            next_us = runner.next_us(job)
            rows.append([job.name, job.about, *last_run, "" if next_us is None else _second(next_us)])
    show(["job", "about", "last", "outcome", "result", "next"], rows)


@app.command()
def alerts(context: typer.Context) -> None:
    """List the last alert of each audit and job.

    For each the command shows the channel, and the error if sending failed.
    """
    with store_of(context) as store:
        records = store.registry.alerts()
    show(
        ["job", "channel", "sent at", "problem", "last try", "error"],
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
    """Format an instant to the second."""
    from featurestore.core.temporal import format_instant

    return format_instant(instant // 1_000_000 * 1_000_000)


def _print_record(record: JobRecord) -> None:
    echo(f"{_second(record.started_at_us)} {record.name}: {record.outcome}: {record.said}")
