"""Rows that an audit keeps while it reads a log: all rows that differ, to explain them, and some that do not.

As many rows as fit stay in memory. If not all fit, memory holds all rows of some entities, chosen by a hash of their
key, so that differences that begin late are among them. The rows of all other entities are spilled to disk, and read
back after those in memory have been explained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.core.columns import Flags, Ints
from featurestore.core.errors import StorageError
from featurestore.guard.causes.hypotheses.stale_request_input import PREVIOUS
from featurestore.guard.comparing.compare import is_unread
from featurestore.guard.comparing.sampling import BUCKETS, key_buckets
from featurestore.kernels.keys import KeyIndex
from featurestore.plan.model import Plan
from featurestore.plan.names import AS_OF
from featurestore.serving_log.columns import key_column, request_column

_FLAG = "differs__"


class SpillFile:
    """Rows in a temporary file (under ``TMPDIR``), ordered by the bucket of their entity within each piece.

    All pieces are added first; then the rows are taken, each once. The file is memory-mapped, so rows that have not
    been taken use no memory.
    """

    def __init__(self) -> None:
        """Create an empty temporary folder; the file is created with the first rows."""
        self._folder = TemporaryDirectory(prefix="featurestore-audit-")
        self._path = Path(self._folder.name) / "rows.arrow"
        self._writer: pa.ipc.RecordBatchFileWriter | None = None
        self._reader: pa.ipc.RecordBatchFileReader | None = None
        self._buckets: list[npt.NDArray[np.int32]] = []
        self._differing = np.zeros(BUCKETS, dtype=np.int64)
        self._next_bucket = 0
        self._waiting: pa.Table | None = None

    def add(self, table: pa.Table, buckets: Ints, differs: Mapping[str, Flags]) -> None:
        """Write some rows.

        Args:
            table: The rows.
            buckets: The bucket of each.
            differs: Per output which of them differ.

        Raises:
            StorageError: The file cannot be written.
        """
        order = np.argsort(buckets, kind="stable")
        for name, flags in differs.items():
            table = table.append_column(f"{_FLAG}{name}", pa.array(flags))
        table = table.replace_schema_metadata(None).take(pa.array(order)).combine_chunks()
        with _storage_errors(self._path):
            if self._writer is None:
                self._writer = pa.ipc.new_file(self._path, table.schema)
            start = 0
            for batch in table.to_batches():
                self._writer.write_batch(batch)
                self._buckets.append(buckets[order[start : start + batch.num_rows]].astype(np.int32))
                start += batch.num_rows
        any_differs = np.any(list(differs.values()), axis=0)
        self._differing += np.bincount(buckets[any_differs], minlength=BUCKETS)

    def take(self, most: int) -> tuple[pa.Table, dict[str, Flags]] | None:
        """Take rows of the next entities.

        Args:
            most: Largest count of differing rows to take; an entity with more of them is taken in parts.

        Returns:
            The rows, and per output which of them differ; ``None`` if all rows have been taken.
        """
        if self._waiting is None:
            self._waiting = self._between(most)
        if self._waiting is None:
            return None
        flags = _flags(self._waiting)
        end = int(np.searchsorted(np.cumsum(np.any(list(flags.values()), axis=0)), most, side="right"))
        rows = self._waiting.slice(0, end)
        self._waiting = self._waiting.slice(end) if end < self._waiting.num_rows else None
        columns = rows.select([name for name in rows.column_names if not name.startswith(_FLAG)])
        return columns, {name: values[:end] for name, values in flags.items()}

    def close(self) -> None:
        """Remove the file."""
        if self._writer is not None:
            self._writer.close()
        self._waiting = self._reader = None
        self._folder.cleanup()

    def _between(self, most: int) -> pa.Table | None:
        """Return the rows of the next buckets with at most so many differing rows together, of at least one bucket."""
        rest = np.cumsum(self._differing[self._next_bucket :])
        if len(rest) == 0 or rest[-1] == 0:
            return None
        first = self._next_bucket
        filled = int(np.searchsorted(rest, 0, side="right"))
        self._next_bucket = first + max(filled + 1, int(np.searchsorted(rest, most, side="right")))
        pieces = []
        for number, buckets in enumerate(self._buckets):
            start, end = np.searchsorted(buckets, [first, self._next_bucket])
            if end > start:
                pieces.append(self._batch(number).slice(start, end - start))
        return pa.Table.from_batches(pieces)

    def _batch(self, number: int) -> pa.RecordBatch:
        with _storage_errors(self._path):
            if self._reader is None:
                assert self._writer is not None
                self._writer.close()
                self._reader = pa.ipc.open_file(pa.memory_map(str(self._path)))
            return self._reader.get_batch(number)


def _flags(table: pa.Table) -> dict[str, Flags]:
    return {
        name.removeprefix(_FLAG): np.asarray(table.column(name).to_numpy(), dtype=np.bool_)
        for name in table.column_names
        if name.startswith(_FLAG)
    }


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"rows that differ cannot be stored in {path}: {error}",
            where="audit",
            hint="Set TMPDIR to a disk with free space, or audit less: a shorter time, a sample, or without causes.",
        ) from error


MOST_ROWS = 200_000
"""Largest count of differing rows in memory."""

MOST_VALUES = 10_000_000
"""Largest count of values in these rows: fewer rows are kept of services with many features."""

_CONTROLS = 3_000
_RELATED = 6_000


@dataclass(frozen=True)
class Round:
    """Rows that are explained together.

    Attributes:
        log: The rows.
        differs: Per output which of them differ.
        share: Their share of all differing rows.
    """

    log: pa.Table
    differs: Mapping[str, Flags]
    share: float


@dataclass
class KeptRows:
    """The kept rows of one plan.

    Attributes:
        plan: The plan that answered them.
        most: Count of differing rows to explain; ``None`` for all.
        differing_rows: Count of differing rows.
        different: Count of differing values.
        clean: Per output the count of all rows that do not differ, kept or not.
        suspects: Count of the differing rows in memory.
        controls: Count of the other rows in memory.
        limit: Rows in memory are of entities whose bucket is below it.
    """

    plan: Plan
    most: int | None = None
    differing_rows: int = 0
    different: int = 0
    clean: dict[str, int] = field(default_factory=dict)
    suspects: int = 0
    controls: int = 0
    limit: int = BUCKETS
    _rows: list[pa.Table] = field(default_factory=list)
    _differs: dict[str, list[Flags]] = field(default_factory=dict)
    _spilled: SpillFile | None = None
    _width: int = 0
    _done: int = 0

    def add(self, log: pa.Table, differs: Mapping[str, Flags]) -> None:
        """Keep all rows of a piece that differ, and some that do not.

        Args:
            log: The piece.
            differs: Per output the rows that differ.

        Raises:
            StorageError: The rows fit neither into memory nor on the disk.
        """
        for name, flags in differs.items():
            self.clean[name] = self.clean.get(name, 0) + int((~flags & ~is_unread(log, name)).sum())
            self.different += int(flags.sum())
        any_differs = _any(differs, log.num_rows)
        chosen = np.union1d(np.flatnonzero(any_differs), self._chosen_controls(log, any_differs))
        if len(chosen):
            self.put(with_previous(self.plan, log, chosen), {name: flags[chosen] for name, flags in differs.items()})

    def put(self, rows: pa.Table, differs: Mapping[str, Flags]) -> None:
        """Keep all of some rows.

        Args:
            rows: The rows, with the request inputs of the row before each.
            differs: Per output which of them differ.

        Raises:
            StorageError: The rows fit neither into memory nor on the disk.
        """
        self._width = len(differs)
        self.differing_rows += int(_any(differs, rows.num_rows).sum())
        self._keep(rows, differs)
        if self.suspects > self._most_kept:
            self._thin()

    def rounds(self) -> Iterator[Round]:
        """Yield the rows to explain, once: first those in memory, then those of all other entities."""
        if self.suspects:
            log, differs = self._take_memory()
            yield self._round(log, differs)
            del log, differs
        while self._spilled is not None and (room := self._room()):
            rows = self._spilled.take(room)
            if rows is None:
                break
            yield self._round(*rows)

    def rest(self) -> Iterator[tuple[pa.Table, dict[str, Flags]]]:
        """Yield the rows that no round had, and per output which of them differ."""
        while self._spilled is not None and (rows := self._spilled.take(self._most_kept)) is not None:
            yield rows

    def close(self) -> None:
        """Remove the file on disk."""
        if self._spilled is not None:
            self._spilled.close()
            self._spilled = None

    @property
    def has_controls(self) -> bool:
        """Whether enough rows that do not differ are kept."""
        return self.controls >= _CONTROLS + _RELATED

    @property
    def to_explain(self) -> int:
        """Count of the values to explain; an estimate if not all rows are explained."""
        share = 1.0 if self.most is None else min(1.0, self.most / max(1, self.differing_rows))
        return int(self.different * share)

    @property
    def _most_kept(self) -> int:
        fitting = min(MOST_ROWS, MOST_VALUES // max(1, self._width))
        return fitting if self.most is None else min(fitting, self.most)

    def _room(self) -> int:
        """Return the largest count of differing rows for the next round."""
        return self._most_kept if self.most is None else min(self._most_kept, self.most - self._done)

    def _round(self, log: pa.Table, differs: Mapping[str, Flags]) -> Round:
        count = int(_any(differs, log.num_rows).sum())
        self._done += count
        return Round(log, differs, count / self.differing_rows)

    def _keep(self, table: pa.Table, flags: Mapping[str, Flags]) -> None:
        """Keep rows in memory, or on disk if their entities are on disk."""
        buckets = key_buckets(self.plan, table) if self.limit < BUCKETS else np.zeros(table.num_rows, dtype=np.int64)
        inside = buckets < self.limit
        differs = _any(flags, table.num_rows)
        self.suspects += int((differs & inside).sum())
        self.controls += int((~differs & inside).sum())
        self._rows.append(table.filter(pa.array(inside)))
        for name, values in flags.items():
            self._differs.setdefault(name, []).append(values[inside])
        self._spill(table, buckets, flags, ~inside)

    def _spill(self, table: pa.Table, buckets: Ints, flags: Mapping[str, Flags], is_left: Flags) -> None:
        if not bool(is_left.any()):
            return
        if self._spilled is None:
            self._spilled = SpillFile()
        left = table.filter(pa.array(is_left))
        self._spilled.add(left, buckets[is_left], {name: values[is_left] for name, values in flags.items()})

    def _thin(self) -> None:
        """Spill entities to disk until the rows in memory fit."""
        most = self._most_kept
        table, flags = self._take_memory()
        differs, buckets = _any(flags, table.num_rows), key_buckets(self.plan, table)
        ordered = np.sort(buckets[differs])
        self.limit = int(max(ordered[most // 2], ordered[0] + 1))
        inside = buckets < self.limit
        if int((differs & inside).sum()) > most:  # all of one entity
            rows = np.flatnonzero(differs & inside)
            inside[np.setdiff1d(rows, _spread(rows, most // 2))] = False
        self._rows = [table.filter(pa.array(inside))]
        self._differs = {name: [values[inside]] for name, values in flags.items()}
        self.suspects = int((differs & inside).sum())
        self.controls = int((~differs & inside).sum())
        self._spill(table, buckets, flags, ~inside)

    def _take_memory(self) -> tuple[pa.Table, dict[str, Flags]]:
        """Return the rows in memory, and keep none of them."""
        table = pa.concat_tables(self._rows)
        flags = {name: np.concatenate(parts) for name, parts in self._differs.items()}
        self._rows, self._differs = [], {}
        return table, flags

    def _chosen_controls(self, log: pa.Table, differs: Flags) -> Ints:
        """Choose rows that do not differ: some of entities with differing rows, some of all entities."""
        clean = np.flatnonzero(~differs)
        room = max(0, _CONTROLS + _RELATED - self.controls)
        if len(clean) == 0 or room == 0:
            return np.zeros(0, dtype=np.int64)
        index, codes = KeyIndex.build(_keys(self.plan, log))
        has_differing = np.zeros(len(index) + 1, dtype=np.bool_)
        has_differing[codes[differs]] = True
        has_differing[-1] = False
        related = clean[has_differing[codes[clean]]]
        return np.union1d(_spread(related, min(_RELATED, room)), _spread(clean, min(_CONTROLS, room)))


def _any(differs: Mapping[str, Flags], rows: int) -> Flags:
    any_differs = np.zeros(rows, dtype=np.bool_)
    for flags in differs.values():
        any_differs |= flags
    return any_differs


def with_previous(plan: Plan, log: pa.Table, rows: Ints) -> pa.Table:
    """Return some rows of a piece, each with the request inputs of the previous row of its entity, null without one."""
    places = pa.array(rows)
    chosen = log.take(places)
    if not plan.request:
        return chosen
    _, codes = KeyIndex.build(_keys(plan, log))
    as_of = log.column(AS_OF).combine_chunks().cast(pa.int64()).to_numpy(zero_copy_only=False)
    order = np.lexsort([np.arange(len(codes)), as_of, codes])
    before = np.full(len(codes), -1, dtype=np.int64)
    same = codes[order[1:]] == codes[order[:-1]]
    before[order[1:][same]] = order[:-1][same]
    previous = pa.array(before[rows], mask=before[rows] < 0)
    for column in plan.request:
        earlier = log.column(request_column(column.name)).combine_chunks().take(previous)
        chosen = chosen.append_column(f"{PREVIOUS}{column.name}", earlier)
    return chosen


def _keys(plan: Plan, log: pa.Table) -> Sequence[pa.Array]:
    return [log.column(key_column(column.name)).combine_chunks() for column in plan.join_keys]


def _spread(rows: Ints, most: int) -> Ints:
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)] if most else rows[:0]
