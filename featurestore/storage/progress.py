"""Reporting the progress of long work: to a function, or as bars on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

Progress = Callable[[str, int, int], None]
"""Takes a step of the work, its rows that are done, and all its rows; may be called from several threads."""

Share = Callable[[float], None]
"""Takes the share of one step that is done, from 0 to 1."""


def silent(_: float) -> None:
    """Report nothing."""


def part_of(report: Share, begin: float, end: float) -> Share:
    """Return a function that reports the progress of a part of a step as progress of the whole step."""
    return lambda share: report(begin + share * (end - begin))


class Steps:
    """Reports steps that may be done in several rounds, never backwards."""

    def __init__(self, progress: Progress | None) -> None:
        """Take the function that gets the reports; ``None`` if there is none."""
        self._progress = progress
        self._lock = Lock()
        self._done: dict[str, int] = {}

    def step(self, name: str, rows: int, *, number: int = 0, rounds: int = 1) -> Share:
        """Return a function that reports the progress of one round of a step.

        Args:
            name: The step.
            rows: Rows of one round.
            number: Number of the round, from 0.
            rounds: Count of rounds.
        """
        progress = self._progress
        if progress is None:
            return silent

        def report(share: float) -> None:
            done = round((number + min(share, 1.0)) * rows)
            with self._lock:
                if done <= self._done.get(name, -1):
                    return
                self._done[name] = done
                progress(name, done, rounds * rows)

        report(0.0)
        return report


@contextmanager
def listening(wanted: bool | Progress | None, *, opening: str) -> Iterator[Progress | None]:
    """Set up the reports of progress.

    Args:
        wanted: A function that gets the reports; ``True`` shows bars on standard error, ``None`` does so if that is a
            terminal, and ``False`` reports nothing.
        opening: The text that is shown until the first step begins.

    Yields:
        The function that gets the reports; ``None`` if there is none.
    """
    if callable(wanted):
        yield wanted
        return
    if wanted is False:
        yield None
        return
    # Imported here because most programs show no bars.
    from rich.console import Console

    console = Console(stderr=True)
    if wanted is None and not console.is_terminal:
        yield None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as shown:
        tasks = {"": shown.add_task(opening, total=None)}

        def report(step: str, done: int, total: int) -> None:
            if (opening_task := tasks.pop("", None)) is not None:
                shown.remove_task(opening_task)
            if step not in tasks:
                tasks[step] = shown.add_task(step, total=total)
            shown.update(tasks[step], completed=done, total=total)

        yield report
