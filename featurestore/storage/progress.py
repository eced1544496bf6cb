"""Telling how far long work is: to a function, or as bars on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

Progress = Callable[[str, int, int], None]
"""Is told a step of the work, how many rows of it are done, and how many it has; perhaps from several threads."""

Share = Callable[[float], None]
"""Is told which share of one step is done, from 0 to 1."""


def silent(_: float) -> None:
    """Tell nobody."""


def part_of(told: Share, begin: float, end: float) -> Share:
    """Return what tells a part of a step as that part of the whole."""
    return lambda share: told(begin + share * (end - begin))


class Steps:
    """Tells somebody about steps that may be done in several rounds, never backwards."""

    def __init__(self, progress: Progress | None) -> None:
        """Take the listener; ``None`` if there is none."""
        self._progress = progress
        self._lock = Lock()
        self._done: dict[str, int] = {}

    def step(self, name: str, rows: int, *, number: int = 0, rounds: int = 1) -> Share:
        """Return what tells how far one round of a step is.

        Args:
            name: The step.
            rows: Rows of one round.
            number: Which round it is, from 0.
            rounds: How many there will be.
        """
        progress = self._progress
        if progress is None:
            return silent

        def told(share: float) -> None:
            done = round((number + min(share, 1.0)) * rows)
            with self._lock:
                if done <= self._done.get(name, -1):
                    return
                self._done[name] = done
                progress(name, done, rounds * rows)

        told(0.0)
        return told


@contextmanager
def listening(wanted: bool | Progress | None, *, opening: str) -> Iterator[Progress | None]:
    """Find out who is to be told about progress.

    Args:
        wanted: A function to tell; ``True`` shows bars on standard error, ``None`` does so if that is a terminal, and
            ``False`` tells nobody.
        opening: What is shown until the first step begins.

    Yields:
        The function to tell; ``None`` if nobody listens.
    """
    if callable(wanted):
        yield wanted
        return
    if wanted is False:
        yield None
        return
    # Imported here: most programs have no terminal to show bars on.
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

        def told(step: str, done: int, total: int) -> None:
            if (begun := tasks.pop("", None)) is not None:
                shown.remove_task(begun)
            if step not in tasks:
                tasks[step] = shown.add_task(step, total=total)
            shown.update(tasks[step], completed=done, total=total)

        yield told
