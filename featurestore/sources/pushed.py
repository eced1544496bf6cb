"""The pushed events of a source on their way into online state: in steps, without reading the rows outside.

Only if an event id of a step may also lie outside, or may be repeated in the log, is everything read: which delivery of
an event counts is decided where it always is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from threading import Lock

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Words
from featurestore.core.dtypes import DType
from featurestore.core.errors import SourceDataError, SourceError
from featurestore.core.temporal import NOTHING_YET
from featurestore.definitions.sources import FileSource, Source, SqlSource
from featurestore.plan.model import SourcePlan, ViewPlan
from featurestore.sources.convert import to_contract
from featurestore.sources.deliveries import id_hashes
from featurestore.sources.event_log import (
    EventLog,
    Head,
    IdColumn,
    Stretch,
)
from featurestore.sources.files import files_of, is_remote
from featurestore.sources.known_ids import HashSet
from featurestore.sources.logged import is_in_contract, under_plan_names
from featurestore.sources.opening import open_log_scan, open_scans, scan_of_events
from featurestore.sources.outside import compares_ids, has_ids, read_ids
from featurestore.sources.scan import Scan
from featurestore.sources.schema import is_yet_empty
from featurestore.sources.settings import ReadSettings


def outside_identity(source: Source, settings: ReadSettings) -> str:
    """Return a text that changes when the rows outside the log do; empty if that takes reading them.

    For local files it is a hash of their paths, sizes and times of writing. Other sources have none.

    Raises:
        SourceMissingError: A file is not there.
    """
    if not isinstance(source, FileSource) or is_remote(str(source.path)):
        return ""
    known = "\n".join(f"{path} {stamp}" for path, stamp in _stamps(source, settings).items())
    return hashlib.sha256(known.encode()).hexdigest()


def _stamps(source: FileSource, settings: ReadSettings) -> dict[str, str]:
    """Return the files of a local source, each with its size and time of writing."""
    files = () if is_yet_empty(source, settings) else files_of(source, settings)
    stats = [(str(file.path), file.path.stat()) for file in files]
    return {path: f"{stat.st_size} {stat.st_mtime_ns}" for path, stat in stats}


@dataclass
class OutsideIds:
    """The event ids of the rows outside, as far as it is cheap to know them. May be used from several threads.

    Plans of one source may have their ids in different columns, or of different dtypes.
    """

    source: Source
    settings: ReadSettings
    _columns: dict[tuple[str, pa.DataType, str | None], _OutsideColumn] = field(default_factory=dict, init=False)
    _lock: Lock = field(default_factory=Lock, init=False)

    def may_hold(self, plan: SourcePlan, ids: pa.Array) -> bool:
        """Return whether one of some event ids may be among the rows outside; ``False`` is certain.

        Args:
            plan: The plan whose ids they are.
            ids: The ids, in its dtype.

        Raises:
            SourceError: The rows outside cannot be read.
            StorageError: The temporary folder refuses the hashes of many ids.
        """
        ids = ids.drop_null()
        if not len(ids):
            return False
        assert plan.event_id is not None
        key = (plan.event_id, ids.type, plan.timezone)
        with self._lock:
            if key not in self._columns:
                source = replace(self.source, timezone=plan.timezone)
                self._columns[key] = _OutsideColumn(source, plan.event_id, ids.type, self.settings)
            column = self._columns[key]
        return column.may_hold(ids)


@dataclass
class _OutsideColumn:
    """The event ids of one column of the rows outside.

    Of local files and frames hashes are kept, and only files that are new are read. A database is queried for the ids
    in question. Other sources are read each time.
    """

    source: Source
    event_id: str
    kind: pa.DataType
    settings: ReadSettings
    _known: HashSet | None = field(default=None, init=False)
    _stamps: dict[str, str] = field(default_factory=dict, init=False)
    _is_compared: bool | None = field(default=None, init=False)
    _lock: Lock = field(default_factory=Lock, init=False)

    def may_hold(self, ids: pa.Array) -> bool:
        """Return whether one of some event ids, none of them null, may be among the rows outside."""
        source = self.source
        match source:
            case SqlSource() if self._compares(source):
                return has_ids(source, self.event_id, ids)
            case SqlSource():
                return self._is_read(ids)
            case FileSource() if is_remote(str(source.path)):
                return self._is_read(ids)
            case _:
                with self._lock:
                    return self._kept().has_any(id_hashes(ids)[0])

    def _compares(self, source: SqlSource) -> bool:
        with self._lock:
            if self._is_compared is None:
                self._is_compared = compares_ids(source, self.event_id, self.kind)
            return self._is_compared

    def _is_read(self, ids: pa.Array) -> bool:
        """Read all ids outside, and tell whether one of some is among them."""
        wanted = HashSet(self.settings)
        wanted.add(id_hashes(ids)[0])
        return any(wanted.has_any(hashes) for hashes in self._hashes(self.source))

    def _kept(self) -> HashSet:
        """Return the ids of local files or of a frame, after what is new of them was read."""
        source = self.source
        stamps = _stamps(source, self.settings) if isinstance(source, FileSource) else {"": ""}
        if self._known is None or any(stamps.get(path) != stamp for path, stamp in self._stamps.items()):
            self._known, self._stamps = HashSet(self.settings), {}
        for path, stamp in stamps.items():
            if path not in self._stamps:
                part = replace(source, path=path) if isinstance(source, FileSource) else source
                for hashes in self._hashes(part):
                    self._known.add(hashes)
                self._stamps[path] = stamp
        return self._known

    def _hashes(self, source: Source) -> Iterator[Words]:
        for ids in read_ids(source, self.event_id, self.kind, self.settings):
            hashes, is_known = id_hashes(ids)
            yield hashes[is_known]


def id_column(plan: SourcePlan) -> IdColumn | None:
    """Return the column of the event ids of a plan, ``None`` if it has none."""
    if plan.event_id is None:
        return None
    return next(IdColumn(column.name, column.dtype) for column in plan.columns if column.name == plan.event_id)


def enter_ids(source: Source, dtype: DType, log: EventLog) -> None:
    """Let the log keep the ids of a source's ``event_id``, those of the events it has among them.

    Raises:
        SourceDataError: An event in the log has an id that is not of the dtype.
        StorageError: The log cannot be used.
    """
    assert source.event_id is not None
    log.enter_ids(source.name, IdColumn(source.event_id, dtype), convert=partial(id_values, source=source.name))


def id_values(column: pa.ChunkedArray, dtype: DType, *, source: str) -> pa.Array:
    """Return event ids of the log in a dtype.

    Raises:
        SourceDataError: One of them is not of it.
    """
    try:
        return to_contract(column, dtype, timezone=None, where=f"source '{source}', event log")[0]
    except SourceDataError as error:
        raise SourceDataError(
            f"pushed events have values in this event_id that are not of its dtype: {error.problem}",
            where=error.where,
            hint="Declare the dtype that the events in the log have, or name another column as event_id. "
            "Under another name the source begins a log of its own.",
            code="event-id-dtype",
        ) from error


@dataclass(frozen=True)
class Recent:
    """Events that were just appended, so that they need not be read back.

    Attributes:
        before: The log's head before: nothing else became known from its instant on, and
        head: before the instant of this one.
        events: The events under the names and types of the log, at most of one instant.
        unique_by: The id columns by which none of them repeats another event of the log.
    """

    before: Head
    head: Head
    events: pa.Table
    unique_by: frozenset[IdColumn] = frozenset()


@dataclass(frozen=True)
class PushedEvents:
    """The pushed events of a source, for one view.

    Attributes:
        source: The definition.
        view: The view.
        settings: Threads and memory, and the log.
        outside_ids: The event ids outside the log.
        recent: Events that were just appended, if any.
    """

    source: Source
    view: ViewPlan
    settings: ReadSettings
    outside_ids: OutsideIds
    recent: Recent | None = None

    def head(self) -> Head:
        """Return how far the log goes that is to be followed."""
        if self.recent is not None:
            return self.recent.head
        return self._log.head(self.source.name)

    def is_past(self, head: Head) -> bool:
        """Return whether the log once had this head, and still has all events before it."""
        recent = self.recent
        if recent is not None and any(map(head.is_behind_same_event, (recent.before, recent.head))):
            return True
        return self._log.is_past(self.source.name, head)

    def seal(self, until_us: int) -> None:
        """Promise that no event to come has an ingest time before an instant."""
        self._log.seal(self.source.name, until_us)

    def read_back(self) -> PushedEvents:
        """Return the same without what was just appended, which is read from the log then."""
        return replace(self, recent=None)

    def steps(self, from_us: int, until_us: int, most_events: int) -> Iterator[tuple[int, pa.Table]]:
        """Read the events with ``from_us <= ingest_time < until_us`` in the order they became known.

        Of several deliveries of one event only the one that counts is returned, by the same rule as in a training set.
        They are compared with each other and with the rows outside only if the log may repeat an id.

        Args:
            from_us: Inclusive bound.
            until_us: Exclusive bound.
            most_events: About how many events a step has; those that became known at one instant stay together.

        Yields:
            For each step the exclusive bound it goes to, the last one ``until_us``; and the view's columns.
        """
        with ExitStack() as stack:
            whole = _Whole(self, stack)
            recent = self.recent
            if recent is not None and recent.before.next_ingest_us <= from_us < until_us == recent.head.next_ingest_us:
                if self._id_column is None or self._id_column in recent.unique_by:
                    yield until_us, self._checked(self._recent(recent), from_us, until_us, whole)
                else:
                    yield until_us, whole.read(from_us, until_us)
                return
            stretches = self._log.stretches(self.source.name, ingest=(from_us, until_us))
            unique_from_us = self._unique_from_us() if stretches else NOTHING_YET
            begin = from_us
            for group in _groups(stretches, most_events):
                end = min(until_us, group[-1].ingest_to_us + 1)
                table = self._read(begin, end, whole) if begin >= unique_from_us else whole.read(begin, end)
                yield from _cut(table, self._ingest_column, end, most_events)
                begin = end
            if begin < until_us:
                yield until_us, self._read(until_us, until_us, whole)

    @property
    def _log(self) -> EventLog:
        assert self.settings.event_log is not None
        return self.settings.event_log

    @cached_property
    def _id_column(self) -> IdColumn | None:
        return id_column(self.view.source)

    def _unique_from_us(self) -> int:
        """Return the instant from which no event of the log repeats an id of the plan."""
        column = self._id_column
        return NOTHING_YET if column is None else self._log.unique_from_us(self.source.name, column)

    @property
    def _ingest_column(self) -> str:
        return self.view.source.ingest_time or self.view.source.event_time

    @property
    def columns(self) -> list[str]:
        """The columns of the view."""
        return [column.name for column in self.view.source.columns]

    def _recent(self, recent: Recent) -> pa.Table:
        """Return what was just appended as reading it from the log would give it."""
        plan, events = self.view.source, recent.events
        if is_in_contract(events, plan):
            found = under_plan_names(events, plan)
            must = {*(key.name for key in self.view.entity.keys), plan.event_time}
            if not any(found.column(name).null_count for name in must):
                return found
        with scan_of_events(events, self.view, settings=self.settings) as scan:
            return scan.read(self.columns)

    def _read(self, begin: int, end: int, whole: _Whole) -> pa.Table:
        with open_log_scan(self.source, self.view, settings=self.settings, ingest=(begin, end)) as scan:
            return self._checked(scan.read(self.columns, ingest=(begin, end)), begin, end, whole)

    def _checked(self, table: pa.Table, begin: int, end: int, whole: _Whole) -> pa.Table:
        """Return events of a range without those of which a delivery outside counts."""
        event_id = self.view.source.event_id
        if event_id is None or not table.num_rows or not self._may_be_outside(table.column(event_id)):
            return table
        return whole.read(begin, end)

    def _may_be_outside(self, ids: pa.ChunkedArray) -> bool:
        try:
            return self.outside_ids.may_hold(self.view.source, ids.combine_chunks())
        except SourceError:
            # The rows outside cannot be read now; opening the scan raises the error, or succeeds.
            return True


class _Whole:
    """Reads events of the log where which delivery of an event counts is decided over everything there is.

    Everything is opened at most once, when it is first needed.
    """

    def __init__(self, pushed: PushedEvents, stack: ExitStack) -> None:
        self._pushed = pushed
        self._stack = stack
        self._scan: Scan | None = None

    def read(self, begin: int, end: int) -> pa.Table:
        """Return the events of the log that count and became known in a range."""
        pushed = self._pushed
        if self._scan is None:
            scans = open_scans([pushed.view], {pushed.source.name: pushed.source}, pushed.settings)
            self._scan = self._stack.enter_context(scans)[pushed.view.name].logged()
        return self._scan.read(pushed.columns, ingest=(begin, end))


def _groups(stretches: list[Stretch], most_events: int) -> Iterator[list[Stretch]]:
    """Put neighbouring stretches together while they have few events; those that share an instant stay together."""
    group: list[Stretch] = []
    rows = 0
    for stretch in stretches:
        if group and rows + stretch.row_count > most_events and stretch.ingest_from_us > group[-1].ingest_to_us:
            yield group
            group, rows = [], 0
        group.append(stretch)
        rows += stretch.row_count
    if group:
        yield group


def _cut(table: pa.Table, ingest_column: str, end_us: int, most_events: int) -> Iterator[tuple[int, pa.Table]]:
    """Cut events, in the order they became known, between instants."""
    times = table.column(ingest_column).cast(pa.int64()).to_numpy()
    start = 0
    while len(times) - start > most_events:
        last = times[start + most_events - 1]
        stop = int(np.searchsorted(times, last, side="right"))
        if stop == len(times):
            break
        yield int(times[stop]), table.slice(start, stop - start)
        start = stop
    yield end_us, table.slice(start)
