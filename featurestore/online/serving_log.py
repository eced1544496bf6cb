"""What was served, kept for audits: every answered row with its question, as Parquet.

Answers are taken into memory on the request's path and written by a thread of their own, at a stated interval; a file
is complete or not there. What was taken within the last interval can be lost by a crash, and only that.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC
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


class ServingLog:
    """Appends answers to Parquet files under one folder, ``service=…/day=…/*.parquet`` by the day they were logged."""

    def __init__(self, folder: Path, *, clock: Clock | None = None, interval_seconds: float = 1.0) -> None:
        """Open the log.

        Args:
            folder: Where its files lie; made with the first file.
            clock: Tells when a row was logged.
            interval_seconds: How long an answer may wait in memory; 0 writes only at ``flush``.
        """
        self._folder = folder
        self._clock = clock or SystemClock()
        self._waiting: dict[tuple[str, str], list[tuple[Plan, OnlineFeatures, int]]] = defaultdict(list)
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._failure: StorageError | None = None
        self._thread: threading.Thread | None = None
        if interval_seconds > 0:
            self._thread = threading.Thread(target=self._run, args=(interval_seconds,), daemon=True)
            self._thread.start()

    def append(self, plan: Plan, answer: OnlineFeatures) -> None:
        """Take an answer; it is written later."""
        with self._lock:
            self._waiting[plan.name, plan.fingerprint].append((plan, answer, self._clock.now_us()))

    def flush(self) -> None:
        """Write everything taken so far; when it returns, readers see it.

        Raises:
            StorageError: It cannot be written, now or by the thread before; what could not be written is kept and
                tried again.
        """
        with self._writing:
            with self._lock:
                waiting, self._waiting = self._waiting, defaultdict(list)
            for name, answers in waiting.items():
                try:
                    self._write(answers[0][0], [(answer, logged) for _, answer, logged in answers])
                except OSError as error:
                    with self._lock:
                        self._waiting[name] = answers + self._waiting[name]
                    raise StorageError(
                        f"cannot write to {self._folder}: {error}",
                        where="serving log",
                        hint="Check the path, its rights and the disk.",
                    ) from error

    def close(self) -> None:
        """Write what is left and end the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()

    def _run(self, interval_seconds: float) -> None:
        """Write again and again; a failure is kept and tried again, and told by the next ``flush`` that fails."""
        while not self._stop.wait(interval_seconds):
            try:
                self.flush()
            except StorageError as error:
                self._failure = error

    def _write(self, plan: Plan, answers: Sequence[tuple[OnlineFeatures, int]]) -> None:
        table = _table(plan, answers)
        if table.num_rows == 0:
            return
        day = to_datetime(answers[0][1]).astimezone(UTC).date().isoformat()
        folder = self._folder / f"service={plan.name}" / f"day={day}"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{answers[0][1]:020d}-{uuid.uuid4().hex}.parquet"
        unfinished = folder / f".{name}.unfinished"
        try:
            with unfinished.open("wb") as file:
                pq.write_table(table, file, compression="zstd", use_dictionary=["service", "fingerprint"])
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(folder / name)
        finally:
            unfinished.unlink(missing_ok=True)

    def read(self, service: str, *, since_us: int, until_us: int) -> Iterator[pa.Table]:
        """Read what was served of a service, asked about in a range of ``as_of``.

        Args:
            service: Name of the service.
            since_us: First instant.
            until_us: One past the last instant.

        Yields:
            One table per file with matching rows, oldest file first; rows in the order they were served. Files of
            different plans have different columns.
        """
        folder = self._folder / f"service={service}"
        since, until = (pa.scalar(at, pa.int64()).cast(_INSTANT) for at in (since_us, until_us))
        wanted = (pc.field("as_of") >= since) & (pc.field("as_of") < until)
        for path in sorted(folder.glob("day=*/*.parquet")):
            table = ds.dataset(path, format="parquet").to_table(filter=wanted)
            if table.num_rows:
                yield table


def _table(plan: Plan, answers: Sequence[tuple[OnlineFeatures, int]]) -> pa.Table:
    """Lay answers of one plan out as rows of its log."""
    lengths = np.array([len(answer.rows) for answer, _ in answers])
    each = [answer for answer, _ in answers]

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
        instants([logged for _, logged in answers]),
        repeated([answer.service for answer in each], pa.string()),
        repeated([answer.fingerprint for answer in each], pa.string()),
        *(pa.array([row[c.name] for row in entities], type=c.dtype.arrow) for c in plan.join_keys),
        *(pa.array([row[c.name] for row in requests], type=c.dtype.arrow) for c in plan.request),
        *(pa.array([row[i] for row in rows], type=o.dtype.arrow) for i, o in enumerate(plan.outputs)),
        *(pa.array([_CODES[row[i]] for row in statuses], type=pa.uint8()) for i in range(len(plan.outputs))),
        *(instants([answer.views[use.alias].watermark_us for answer in each]) for use in plan.uses),
    ]
    return pa.Table.from_arrays(arrays, schema=log_schema(plan))
