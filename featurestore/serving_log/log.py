"""The serving log: every answered row with its question, and counts of the rows that could not be logged.

Answers are put into a queue in memory on the request's path. A thread appends them to a segment of this process and
syncs it at a stated interval: a crash loses the answers of the last interval, and only these. Segments are sealed into
Parquet, ``service=…/day=…/*.parquet`` by the day they were logged, when they are old or large, when the log is closed,
and, for processes that died, when the log is opened again. Readers see both.

Serving never waits for the disk. If the disk refuses, answers wait up to a bound. Answers beyond it are lost, and every
loss is counted, here and in ``losses.jsonl``. The thread survives every failure: it is logged and counted at once, and
other work continues. Files in the folder that are not the log's are left alone.
"""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from featurestore.core.answers import OnlineFeatures
from featurestore.core.errors import StorageError
from featurestore.core.temporal import (
    Clock,
    SystemClock,
    duration_us,
    to_datetime,
)
from featurestore.plan.model import Plan
from featurestore.serving_log.losses import LossLog
from featurestore.serving_log.merging import (
    DAY,
    day_of,
    has_work,
    maintenance,
)
from featurestore.serving_log.reading import in_range, read_file, rows_of, sealed_files, storage_error, stored_rows
from featurestore.serving_log.rows import (
    NO_CALLER,
    Caller,
    matching,
    record_of,
)
from featurestore.serving_log.seal_requests import SealRequests
from featurestore.serving_log.sealing import (
    SEGMENTS,
    seal,
    write_file,
)
from featurestore.serving_log.segments import (
    Logged,
    RecordFrame,
    SegmentWriter,
    framed,
    plan_frame,
    segments_in,
    unlocked,
)
from featurestore.storage.parquet import DAMAGE, check_footer

_LOGGER = logging.getLogger("featurestore.serving_log")

MOST_WAITING_ROWS = 200_000
"""How many rows may wait to be written by default."""

SEAL_AFTER_US = duration_us("1m")
"""A segment whose first record is older is sealed."""

_SEAL_BYTES = 64_000_000

_WRITE = "write to"
"""The work that makes rows wait when it fails."""

_MAINTENANCE_US = duration_us("1h")
"""How often old days are removed, and segments of dead processes are sealed."""


class _PendingAnswer(NamedTuple):
    """An answer that waits to be written, encoded already: so the writing thread only writes."""

    plan: int
    frame: bytes
    rows: int
    logged_at_us: int


@dataclass(frozen=True)
class _SealingProcess:
    """A process that seals a segment, which stays locked as long as the process runs."""

    segment: SegmentWriter
    process: subprocess.Popen[bytes]


class ServingLog:
    """The serving log under one folder. May be used from several threads, and from several processes."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock | None = None,
        interval_seconds: float = 1.0,
        most_waiting_rows: int = MOST_WAITING_ROWS,
        share: float = 1.0,
        retention_days: int | None = None,
        written: Callable[[], None] = lambda: None,
    ) -> None:
        """Open the log; files are made with the first write.

        Args:
            folder: The folder of its files.
            clock: Gives the instant at which a row is logged.
            interval_seconds: How long an answer may wait in memory; 0 writes only at ``flush``.
            most_waiting_rows: How many rows may wait; an answer beyond that is lost.
            share: Share of all entities that is logged, by a hash of their keys.
            retention_days: How many days rows are kept; ``None`` keeps them for ever.
            written: Called after every write; it must return at once.
        """
        self._folder = folder
        self._written = written
        self._clock = clock or SystemClock()
        self._most_waiting_rows = most_waiting_rows
        self._share = share
        self._retention_days = retention_days
        self._numbers: dict[tuple[str, str], int] = {}
        self._plans: dict[int, bytes] = {}
        self._waiting: deque[_PendingAnswer] = deque()
        self._waiting_rows = 0
        self._losses = LossLog(folder)
        self._failures: dict[str, StorageError] = {}
        self._failure_count = 0
        self._reported = ""
        self._reported_lost_rows = 0
        self._segment: SegmentWriter | None = None
        self._sealing: _SealingProcess | None = None
        self._merging: subprocess.Popen[bytes] | None = None
        self._began_us = 0
        self._seal_requests = SealRequests(folder / SEGMENTS)
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._interval_seconds = interval_seconds
        self._thread: threading.Thread | None = None

    @property
    def lost_rows(self) -> int:
        """Count of rows that this process lost because too many waited."""
        return self._losses.rows

    @property
    def waiting_rows(self) -> int:
        """Count of rows that wait to be written."""
        return self._waiting_rows

    @property
    def failure(self) -> StorageError | None:
        """Error of the last attempt to write, seal or remove; ``None`` once all of these succeed again."""
        return next(iter(self._failures.values()), None)

    @property
    def failure_count(self) -> int:
        """Count of attempts to write, seal or remove that failed."""
        return self._failure_count

    def append(self, plan: Plan, answer: OnlineFeatures, caller: Caller = NO_CALLER) -> None:
        """Queue an answer, which is written later. If too many rows wait already, it is counted as lost."""
        logged_at_us = self._clock.now_us()
        record = record_of(plan, answer, caller, logged_at_us=logged_at_us, share=self._share)
        rows = len(record.places)
        if rows == 0:
            return
        if self._waiting_rows + rows > self._most_waiting_rows:
            self._losses.add(plan.name, rows, logged_at_us)
            return
        number = self._numbers.get((plan.name, plan.fingerprint))
        if number is None:
            number = self._number_of(plan)
        frame = framed(RecordFrame(number, record))
        with self._lock:
            self._waiting_rows += rows
            self._waiting.append(_PendingAnswer(number, frame, rows, logged_at_us))
            if self._thread is None and self._interval_seconds > 0:
                self._thread = threading.Thread(target=self._run, daemon=True, name="serving-log")
                self._thread.start()

    def flush(self) -> None:
        """Write all queued answers; when this returns they are on the disk, and readers see them.

        Raises:
            StorageError: They cannot be written; they are kept, and writing is tried again.
        """
        with self._writing, self._handled(_WRITE):
            self._write_waiting()

    def seal(self) -> None:
        """Write all queued answers as Parquet, and seal the segments of processes that died.

        Raises:
            StorageError: The disk refuses; rows that are not sealed can still be read.
        """
        with self._writing:
            self._seal_segment()
            self._recover()

    def _seal_segment(self) -> None:
        with self._handled(_WRITE):
            self._write_waiting()
        with self._handled("seal segments of"):
            self._end_sealing(wait=True)
            if self._segment is not None:
                seal(self._folder, self._segment.path)
                self._close_segment()

    def close(self) -> None:
        """Write the queued answers as Parquet, and end the thread.

        Segments of processes that died are sealed as well if possible; otherwise they can still be read.

        Raises:
            StorageError: The answers of this process cannot be written.
        """
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._merging is not None:
            self._merging.terminate()
            self._merging.communicate()
        with self._writing:
            self._seal_segment()
            with suppress(StorageError):
                self._recover()

    def read(self, service: str, *, since_us: int, until_us: int, newest_first: bool = False) -> Iterator[pa.Table]:
        """Read the served rows of a service with ``as_of`` in a range.

        Args:
            service: Name of the service.
            since_us: First instant.
            until_us: One past the last instant.
            newest_first: Whether the table of the newest rows comes first.

        Yields:
            Tables with matching rows, the oldest first unless ``newest_first``; rows of a table in the order they were
            served. Tables of different plans have different columns. Files of days before ``since_us`` are not opened.

        Raises:
            StorageError: A file is damaged or cannot be read.
        """
        chosen = in_range(since_us, until_us)
        sealed, unsealed = stored_rows(self._folder, service, since_us)
        pieces: list[Path | Logged] = [*sealed, *unsealed]
        for piece in reversed(pieces) if newest_first else pieces:
            table = read_file(piece, chosen) if isinstance(piece, Path) else rows_of(piece).filter(chosen)
            if table.num_rows:
                yield table

    def count(self, service: str, *, since_us: int, until_us: int) -> int:
        """Count the rows that ``read`` would yield.

        Raises:
            StorageError: A file is damaged or cannot be read.
        """
        chosen = in_range(since_us, until_us)
        sealed, unsealed = stored_rows(self._folder, service, since_us)
        count = sum(int(rows_of(logged).filter(chosen).num_rows) for logged in unsealed)
        for path in sealed:
            try:
                check_footer(path)
                count += int(ds.dataset(path, format="parquet").count_rows(filter=chosen))
            except DAMAGE as error:
                raise storage_error("read", path, error) from error
        return count

    def losses(self, service: str, *, since_us: int, until_us: int) -> int:
        """Count the rows of a service that were served in a range of time and could not be logged.

        A stretch of losses that is partly in the range counts whole.

        Raises:
            StorageError: The losses cannot be read.
        """
        try:
            return self._losses.count(service, since_us=since_us, until_us=until_us, now_us=self._clock.now_us())
        except OSError as error:
            raise storage_error("read", self._losses.path, error) from error

    def forget(self, wanted: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, int]:
        """Remove rows that were served about some keys.

        Other processes that write the log seal their queued answers first; that takes a few seconds.

        Args:
            wanted: By service the keys: columns with their values.

        Returns:
            By service how many rows were removed; services without any are left out.

        Raises:
            StorageError: A file cannot be read or written, or a process does not seal within half a minute. Rows that
                were removed stay removed; forget again.
        """
        self._seal_everywhere()
        with self._writing, self._handled("forget rows of"), maintenance(self._folder, wait=True):
            removed = {service: self._forget_in(service, keys) for service, keys in wanted.items()}
        return {service: rows for service, rows in removed.items() if rows}

    def services(self) -> tuple[str, ...]:
        """Return the names of the services of which the folder holds sealed rows, sorted."""
        prefix = "service="
        return tuple(sorted(path.name.removeprefix(prefix) for path in self._folder.glob(f"{prefix}*")))

    def _forget_in(self, service: str, wanted: Sequence[Mapping[str, Any]]) -> int:
        removed = 0
        for path in sealed_files(self._folder, service):
            try:
                table = pq.read_table(path, partitioning=None)
                kept = table.filter(pc.invert(matching(table, wanted)))
                if kept.num_rows == 0:
                    path.unlink()
                elif kept.num_rows < table.num_rows:
                    write_file(kept, path)
            except DAMAGE as error:
                raise storage_error("forget rows of", path, error) from error
            removed += table.num_rows - kept.num_rows
        return removed

    def _seal_everywhere(self) -> None:
        self.seal()
        with self._handled("seal segments of"):
            left = self._seal_requests.request(self._interval_seconds)
        with self._writing:
            self._recover()
        for path in left:
            if path.exists():
                hint = "Does its process still serve? Forget again, or stop it first."
                raise StorageError(f"{path} is not sealed", where="serving log", hint=hint, code="segment-not-sealed")

    def prune(self) -> None:
        """Remove the sealed days that are older than the retention; files that are not the log's stay.

        Raises:
            StorageError: A file cannot be removed; the others were removed.
        """
        if self._retention_days is None:
            return
        oldest = to_datetime(self._clock.now_us() - self._retention_days * duration_us("1d")).date()
        held = maintenance(self._folder, wait=False)
        with self._writing, self._handled("remove old days of"), held as is_held, _all_tried() as trying:
            for day in self._folder.glob(f"service=*/{DAY}*") if is_held else ():
                if (date_of_day := day_of(day)) is not None and date_of_day < oldest and _is_plain_folder(day):
                    with trying():
                        _remove_day(day)

    def _run(self) -> None:
        """Write repeatedly, also after failures; seal segments that are old or large.

        It writes twice per interval: an answer that is queued just after one write is on the disk after the next one.
        """
        maintained_us: int | None = None
        while True:
            now_us = self._clock.now_us()
            for work in (self.flush, self._seal_if_due):
                with suppress(StorageError):  # logged, and tried again
                    work()
            if maintained_us is None or now_us - maintained_us >= _MAINTENANCE_US:
                for work in (self._recover_alone, self.prune, self._merge_aside):
                    with suppress(StorageError):
                        work()
                maintained_us = now_us
            if self._stop.wait(self._interval_seconds / 2):
                # An answer may be queued after the log was closed; it is sealed here, since no second close follows.
                with self._writing, suppress(StorageError):
                    self._seal_segment()
                return

    def _seal_if_due(self) -> None:
        """Start a process that seals a segment that is due; neither requests nor the next writes wait for it."""
        with self._writing, self._handled("seal segments of"):
            if failure := self._end_sealing(wait=False):
                raise OSError(failure)
            if self._sealing is not None:
                return
            is_due = self._is_due(self._clock.now_us()) or self._seal_requests.is_requested()
            if is_due and self._segment is not None:
                process = _program("sealing", self._folder, self._segment.path)
                self._sealing = _SealingProcess(self._segment, process)
                self._segment = None

    def _recover_alone(self) -> None:
        with self._writing:
            self._recover()

    def _is_due(self, now_us: int) -> bool:
        segment = self._segment
        return segment is not None and (now_us - self._began_us >= SEAL_AFTER_US or segment.size >= _SEAL_BYTES)

    def _merge_aside(self) -> None:
        """Start a process that merges the small files of past days, unless there are none or one is running."""
        if self._merging is not None and self._merging.poll() is None:
            return
        with self._handled("merge files of"):
            if self._merging is not None:
                _, output = self._merging.communicate()
                if self._merging.returncode != 0:
                    _LOGGER.warning("the serving log's files of past days were not merged: %s", _last_line(output))
                self._merging = None
            if has_work(self._folder, self._clock.now_us()):
                self._merging = _program("merging", self._folder)

    def _end_sealing(self, *, wait: bool) -> str:
        """Close the segment of the sealing process if that has ended.

        Returns:
            The reason if it failed, else nothing. A segment that was not sealed is sealed like one of a dead process.
        """
        sealing = self._sealing
        if sealing is None or (not wait and sealing.process.poll() is None):
            return ""
        _, output = sealing.process.communicate()
        self._sealing = None
        sealing.segment.close()
        if sealing.process.returncode == 0:
            return ""
        return f"sealing {sealing.segment.path} failed: {_last_line(output)}"

    def _write_waiting(self) -> None:
        with self._lock:
            answers, self._waiting = self._waiting, deque()
        try:
            self._append(answers)
        except OSError:
            with self._lock:
                answers.extend(self._waiting)
                self._waiting = answers
            with suppress(OSError):
                self._losses.write()
            raise
        with self._lock:
            self._waiting_rows -= sum(answer.rows for answer in answers)
        self._losses.write()

    def _append(self, answers: deque[_PendingAnswer]) -> None:
        if not answers:
            return
        if self._segment is None:
            self._began_us = answers[0].logged_at_us
            self._segment = SegmentWriter(self._folder / SEGMENTS, first_us=self._began_us)
        self._segment.append([(answer.plan, answer.frame) for answer in answers], self._plans)
        self._written()

    def _number_of(self, plan: Plan) -> int:
        """Return the number of a plan in this process's records; a new plan gets one."""
        with self._lock:
            number = self._numbers.setdefault((plan.name, plan.fingerprint), len(self._numbers))
            self._plans[number] = plan_frame(number, plan)
            return number

    def _recover(self) -> None:
        """Seal the segments of processes that died.

        Raises:
            StorageError: A segment cannot be sealed; the others were sealed.
        """
        with self._handled("seal segments of dead processes in"), _all_tried() as trying:
            for path in segments_in(self._folder / SEGMENTS):
                with trying(), unlocked(path) as is_held:
                    if is_held:
                        seal(self._folder, path)

    def _close_segment(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    @contextmanager
    def _handled(self, work: str) -> Iterator[None]:
        """Turn failures of some work into errors of the library; log them when they begin, count and keep them."""
        try:
            yield
        except StorageError:
            raise
        except Exception as error:  # the thread survives every failure
            failure = storage_error(work, self._folder, error)
            before = self._failures.get(work)
            self._failures[work] = failure
            self._failure_count += 1
            if work == _WRITE:
                self._report()
            elif before is None or str(before) != str(failure):
                _LOGGER.warning("%s", failure)
            raise failure from error
        before = self._failures.pop(work, None)
        if work == _WRITE:
            self._report()
        elif before is not None:
            _LOGGER.warning("serving log: it is possible again to %s %s", work, self._folder)

    def _report(self) -> None:
        """Log once when writing begins to fail, when rows begin to be lost, and when all rows are written again."""
        is_losing = self._losses.rows > self._reported_lost_rows and self._waiting_rows > 0
        state = "" if self._failures.get(_WRITE) is None and not is_losing else "losing" if is_losing else "failing"
        before, self._reported = self._reported, state
        counts = f"{self._waiting_rows} rows wait, {self._losses.rows} were lost since this process began"
        if state == before:
            return
        if not state:
            self._reported_lost_rows = self._losses.rows
            _LOGGER.warning("serving log: it is written again; %s", counts)
        elif state == "losing":
            _LOGGER.error(
                "serving log: rows are being lost: %s. %s", self._failures.get(_WRITE) or "too many wait", counts
            )
        else:
            _LOGGER.error(
                "serving log: answers continue, their rows wait in memory: %s. %s", self._failures.get(_WRITE), counts
            )


@contextmanager
def _all_tried() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Run several pieces of work although some fail; the first failure is raised at the end."""
    failures: list[Exception] = []

    @contextmanager
    def trying() -> Iterator[None]:
        try:
            yield
        except Exception as error:
            failures.append(error)

    yield trying
    if failures:
        raise failures[0]


def _is_plain_folder(day: Path) -> bool:
    """Return whether neither the folder of a day nor that of its service is a link or a file."""
    return all(stat.S_ISDIR(folder.lstat().st_mode) for folder in (day, day.parent))


def _remove_day(day: Path) -> None:
    """Remove the log's files of a day, and the folder if nothing else is in it."""
    for path in day.iterdir():
        if path.suffix in _SUFFIXES and not path.is_dir():
            path.unlink(missing_ok=True)
    with suppress(OSError):  # something else is in it
        day.rmdir()


_SUFFIXES = (".parquet", ".json", ".unfinished")


def _last_line(output: bytes) -> str:
    return "".join(output.decode(errors="replace").strip().splitlines()[-1:])


def _program(name: str, *arguments: Path) -> subprocess.Popen[bytes]:
    """Start one of the programs of this package."""
    command = [sys.executable, "-P", "-m", f"featurestore.serving_log.{name}", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
