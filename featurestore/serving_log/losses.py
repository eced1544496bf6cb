"""Counts of rows that were served and could not be logged.

They are kept in memory until they can be appended to ``losses.jsonl``, a line for each service and stretch of time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from io import FileIO
from pathlib import Path

import msgspec

from featurestore.serving_log.segments import write_all
from featurestore.storage.files import make_folder, opener

FILE_NAME = "losses.jsonl"
_ANY_SERVICE = ""
"""The service of losses whose line is damaged."""


class Losses(msgspec.Struct, frozen=True):
    """Rows of a service that were served and are not in the log.

    Attributes:
        service: Name of the service.
        rows: Count of rows.
        first_us: When the first of them was served.
        last_us: When the last of them was served.
    """

    service: str
    rows: int
    first_us: int
    last_us: int


class LossLog:
    """The losses of one serving log. May be used from several threads.

    Attributes:
        path: The file.
        rows: Count of rows that this process lost.
    """

    def __init__(self, folder: Path) -> None:
        """Take the folder of the serving log."""
        self._folder = folder
        self.path = folder / FILE_NAME
        self.rows = 0
        self._unwritten: dict[str, Losses] = {}
        self._lock = threading.Lock()

    def add(self, service: str, rows: int, now_us: int) -> None:
        """Count lost rows of a service; ``write`` stores the counts."""
        with self._lock:
            self.rows += rows
            known = self._unwritten.get(service, Losses(service, 0, now_us, now_us))
            self._unwritten[service] = Losses(service, known.rows + rows, known.first_us, now_us)

    def write(self) -> None:
        """Append the counts that are not in the file yet, and sync it.

        Raises:
            OSError: The disk refuses; the counts are kept for the next time.
        """
        with self._lock:
            unwritten, self._unwritten = self._unwritten, {}
        if not unwritten:
            return
        try:
            make_folder(self._folder)
            with FileIO(self.path, "ab", opener=opener) as file:
                # Each begins a line of its own, also after half a line that a crash left.
                write_all(file, b"".join(b"\n" + msgspec.json.encode(losses) + b"\n" for losses in unwritten.values()))
                os.fsync(file.fileno())
        except OSError:
            with self._lock:
                for losses in unwritten.values():
                    later = self._unwritten.get(losses.service)
                    rows, last_us = (0, losses.last_us) if later is None else (later.rows, later.last_us)
                    self._unwritten[losses.service] = Losses(
                        losses.service, losses.rows + rows, losses.first_us, last_us
                    )
            raise

    def count(self, service: str, *, since_us: int, until_us: int, now_us: int) -> int:
        """Count the rows of a service that were lost in a range of time.

        A stretch that is partly in the range counts whole. Of a stretch whose line a crash cut off it is known that it
        is later than the one before, and not later than the next one: it counts as one row of every service.

        Args:
            service: Name of the service.
            since_us: First instant.
            until_us: One past the last instant.
            now_us: The present instant.

        Raises:
            OSError: The file cannot be read.
        """
        known = _losses_of(self.path.read_bytes().splitlines() if self.path.exists() else [], now_us)
        with self._lock:
            known += self._unwritten.values()
        return sum(
            losses.rows
            for losses in known
            if losses.service in (service, _ANY_SERVICE) and losses.first_us < until_us and losses.last_us >= since_us
        )


def _losses_of(lines: Sequence[bytes], now_us: int) -> list[Losses]:
    """Parse lines of losses; a line that was cut off is bounded by the lines around it."""
    whole: list[Losses] = []
    torn: list[int] = []
    for line in filter(None, lines):
        try:
            losses = msgspec.json.decode(line, type=Losses)
        except msgspec.MsgspecError:
            torn.append(len(whole))
        else:
            whole.append(losses)
    unknown = [
        Losses(
            _ANY_SERVICE,
            1,
            whole[place - 1].last_us if place else 0,
            whole[place].first_us if place < len(whole) else now_us,
        )
        for place in torn
    ]
    return whole + unknown
