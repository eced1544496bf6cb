"""What was served, kept for audits: every answered row with its question, as Parquet.

Answers are taken into memory on the request's path and written by a thread of their own, at a stated interval; a file
is complete or not there. What was taken within the last interval can be lost by a crash, and only that. If the folder
cannot be written, answers wait and are tried again, up to a bound; what is beyond it is lost and counted.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from featurestore.dtypes import TIMESTAMP
from featurestore.errors import StorageError
from featurestore.kernels.events import Status
from featurestore.online.result import OnlineFeatures
from featurestore.plan.model import Plan
from featurestore.temporal import Clock, SystemClock, to_datetime

_CODES = {status.name: int(status) for status in Status}
_INSTANT = TIMESTAMP.arrow

MOST_WAITING_ROWS = 200_000
"""How many rows may wait to be written, if nothing else is said."""


def log_schema(plan: Plan) -> pa.Schema:
    """Return the columns of a service's serving log.

    ``request_id``, ``row`` (place of the entity in its request), ``as_of``, ``logged_at``, ``service`` and
    ``fingerprint``; ``key__…`` and ``request__…`` in their dtypes; ``value__…`` and ``status__…`` (``Status`` codes)
    per feature; ``watermark__…`` per view.
    """
    return pa.schema(
        [
            ("request_id", pa.string()),
            ("row", pa.int32()),
            ("as_of", _INSTANT),
            ("logged_at", _INSTANT),
            ("service", pa.string()),
            ("fingerprint", pa.string()),
            *((f"key__{column.name}", column.dtype.arrow) for column in plan.join_keys),
            *((f"request__{column.name}", column.dtype.arrow) for column in plan.request),
            *((f"value__{output.name}", output.dtype.arrow) for output in plan.outputs),
            *((f"status__{output.name}", pa.uint8()) for output in plan.outputs),
            *((f"watermark__{use.alias}", _INSTANT) for use in plan.uses),
        ]
    )


@dataclass(frozen=True)
class _Taken:
    """An answer that waits to be written."""

    plan: Plan
    answer: OnlineFeatures
    logged_at_us: int


class ServingLog:
    """Appends answers to Parquet files under one folder, ``service=…/day=…/*.parquet`` by the day they were logged."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock | None = None,
        interval_seconds: float = 1.0,
        most_waiting_rows: int = MOST_WAITING_ROWS,
    ) -> None:
        """Open the log.

        Args:
            folder: Where its files lie; made with the first file.
            clock: Tells when a row was logged.
            interval_seconds: How long an answer may wait in memory; 0 writes only at ``flush``.
            most_waiting_rows: How many rows may wait; an answer that would make them more is lost.
        """
        self._folder = folder
        self._clock = clock or SystemClock()
        self._most_waiting_rows = most_waiting_rows
        self._waiting: dict[tuple[str, str], list[_Taken]] = defaultdict(list)
        self._waiting_rows = 0
        self._lost_rows = 0
        self._failure: StorageError | None = None
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if interval_seconds > 0:
            self._thread = threading.Thread(target=self._run, args=(interval_seconds,), daemon=True)
            self._thread.start()

    @property
    def lost_rows(self) -> int:
        """Count of rows that were not taken because too many waited."""
        return self._lost_rows

    @property
    def failure(self) -> StorageError | None:
        """Why the last attempt to write failed; ``None`` if it did not."""
        return self._failure

    def append(self, plan: Plan, answer: OnlineFeatures) -> None:
        """Take an answer; it is written later. If too many rows wait already, it is counted as lost."""
        logged_at_us = self._clock.now_us()
        rows = len(answer.rows)
        with self._lock:
            if self._waiting_rows + rows > self._most_waiting_rows:
                self._lost_rows += rows
                return
            self._waiting_rows += rows
            self._waiting[plan.name, plan.fingerprint].append(_Taken(plan, answer, logged_at_us))

    def flush(self) -> None:
        """Write everything taken so far; when it returns, readers see it.

        Raises:
            StorageError: It cannot be written; it is kept and will be tried again.
        """
        with self._writing:
            with self._lock:
                names = list(self._waiting)
            for name in names:
                with self._lock:
                    taken = self._waiting.pop(name)
                try:
                    self._write(taken[0].plan, taken)
                except OSError as error:
                    with self._lock:
                        self._waiting[name] = taken + self._waiting[name]
                    self._failure = self._storage_error("write to", self._folder, error)
                    raise self._failure from error
                with self._lock:
                    self._waiting_rows -= sum(len(one.answer.rows) for one in taken)
            self._failure = None

    def close(self) -> None:
        """Write what is left and end the thread.

        Raises:
            StorageError: What is left cannot be written.
        """
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()

    def _run(self, interval_seconds: float) -> None:
        """Write again and again, also after failures."""
        while not self._stop.wait(interval_seconds):
            with suppress(StorageError):
                self.flush()

    def _storage_error(self, verb: str, path: Path, error: Exception) -> StorageError:
        return StorageError(
            f"cannot {verb} {path}: {error}", where="serving log", hint="Check the path, its rights and the disk."
        )

    def _write(self, plan: Plan, taken: Sequence[_Taken]) -> None:
        table = _table(plan, taken)
        if table.num_rows == 0:
            return
        first_us = taken[0].logged_at_us
        folder = self._folder / f"service={plan.name}" / f"day={to_datetime(first_us).date().isoformat()}"
        folder.mkdir(parents=True, exist_ok=True)
        _write_file(table, folder / f"{first_us:020d}-{uuid.uuid4().hex}.parquet")

    def forget(self, service: str, wanted: Sequence[Mapping[str, Any]]) -> int:
        """Remove rows that were served about some keys.

        What another process took and has not written yet stays.

        Args:
            service: Name of the service.
            wanted: Keys: columns with their values.

        Returns:
            How many rows were removed.

        Raises:
            StorageError: A file cannot be read or written; what was removed is removed, forget again.
        """
        self.flush()
        removed = 0
        with self._writing:
            for path in sorted((self._folder / f"service={service}").glob("day=*/*.parquet")):
                try:
                    table = pq.read_table(path, partitioning=None)
                    kept = table.filter(pc.invert(_matching(table, wanted)))
                    if kept.num_rows == 0:
                        path.unlink()
                    elif kept.num_rows < table.num_rows:
                        _write_file(kept, path)
                except (OSError, pa.ArrowException) as error:
                    raise self._storage_error("forget rows of", path, error) from error
                removed += table.num_rows - kept.num_rows
        return removed

    def read(self, service: str, *, since_us: int, until_us: int) -> Iterator[pa.Table]:
        """Read what was served of a service, asked about in a range of ``as_of``.

        Args:
            service: Name of the service.
            since_us: First instant.
            until_us: One past the last instant.

        Yields:
            One table per file with matching rows, oldest file first; rows in the order they were served. Files of
            different plans have different columns.

        Raises:
            StorageError: A file is damaged or cannot be read.
        """
        folder = self._folder / f"service={service}"
        since, until = (pa.scalar(at, pa.int64()).cast(_INSTANT) for at in (since_us, until_us))
        wanted = (pc.field("as_of") >= since) & (pc.field("as_of") < until)
        for path in sorted(folder.glob("day=*/*.parquet")):
            try:
                table = ds.dataset(path, format="parquet").to_table(filter=wanted)
            except (OSError, pa.ArrowException) as error:
                raise self._storage_error("read", path, error) from error
            if table.num_rows:
                yield table


def _write_file(table: pa.Table, path: Path) -> None:
    """Write a file that is complete or not there, or what was there before."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            pq.write_table(table, file, compression="zstd", use_dictionary=["service", "fingerprint"])
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _matching(table: pa.Table, wanted: Iterable[Mapping[str, Any]]) -> pa.Array:
    """Tell for each row whether it has the key columns and values of any of some keys."""
    found = pa.array(np.zeros(table.num_rows, dtype=np.bool_))
    for keys in wanted:
        columns = {f"key__{name}": value for name, value in keys.items()}
        if not set(columns) <= set(table.column_names):
            continue
        matches = pa.array(np.ones(table.num_rows, dtype=np.bool_))
        for name, value in columns.items():
            column = table.column(name).combine_chunks()
            try:
                given = pa.scalar(value, column.type)
            except (pa.ArrowException, TypeError):
                # The key had another dtype when these rows were served.
                matches = pa.array(np.zeros(table.num_rows, dtype=np.bool_))
                break
            matches = pc.and_(matches, pc.equal(column, given).fill_null(False))
        found = pc.or_(found, matches)
    return found


def _table(plan: Plan, taken: Sequence[_Taken]) -> pa.Table:
    """Lay answers of one plan out as rows of its log."""
    each = [one.answer for one in taken]
    lengths = np.array([len(answer.rows) for answer in each], dtype=np.int64)

    def repeated(values: Sequence[Any], dtype: pa.DataType) -> pa.Array:
        return pa.array(values, type=dtype).take(pa.array(np.repeat(np.arange(len(values)), lengths)))

    def instants(values: Sequence[int]) -> pa.Array:
        return repeated(values, pa.int64()).cast(_INSTANT)

    entities = [row for answer in each for row in answer.entities]
    requests = [row for answer in each for row in answer.requests]
    rows = [row for answer in each for row in answer.rows]
    statuses = [row for answer in each for row in answer.statuses]
    arrays = [
        repeated([answer.request_id for answer in each], pa.string()),
        pa.array([i for answer in each for i in range(len(answer.rows))], type=pa.int32()),
        instants([answer.as_of_us for answer in each]),
        instants([one.logged_at_us for one in taken]),
        repeated([answer.service for answer in each], pa.string()),
        repeated([answer.fingerprint for answer in each], pa.string()),
        *(pa.array([row[c.name] for row in entities], type=c.dtype.arrow) for c in plan.join_keys),
        *(pa.array([row[c.name] for row in requests], type=c.dtype.arrow) for c in plan.request),
        *(pa.array([row[i] for row in rows], type=o.dtype.arrow) for i, o in enumerate(plan.outputs)),
        *(pa.array([_CODES[row[i]] for row in statuses], type=pa.uint8()) for i in range(len(plan.outputs))),
        *(instants([answer.views[use.alias].watermark_us for answer in each]) for use in plan.uses),
    ]
    return pa.Table.from_arrays(arrays, schema=log_schema(plan))
