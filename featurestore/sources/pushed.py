"""The pushed events of a source on their way into online state: in steps, without reading the rows outside.

Only if an event id of a step may also lie outside are the rows outside read: which delivery of an event counts is
decided where it always is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from threading import Lock

import numpy as np
import pyarrow as pa

from featurestore.definitions.sources import FileSource, FrameSource, Source, SqlSource
from featurestore.errors import SourceError
from featurestore.event_log import Stretch
from featurestore.plan.model import ViewPlan
from featurestore.sources.deliveries import id_hashes
from featurestore.sources.files import is_remote
from featurestore.sources.frames import frame_table
from featurestore.sources.known_ids import Hashes, HashSet
from featurestore.sources.opening import (
    compares_ids,
    files_of,
    has_ids,
    is_yet_empty,
    open_log_scan,
    open_scans,
    read_ids,
)
from featurestore.sources.scan import Scan
from featurestore.sources.settings import ReadSettings


def outside_identity(source: Source, settings: ReadSettings) -> str:
    """Return a text that stays the same as long as the rows outside the log do; empty if that cannot be told cheaply.

    For local files it is a hash of their paths, sizes and times of writing. What lies elsewhere has none.

    Raises:
        SourceMissingError: A file is not there.
    """
    if not isinstance(source, FileSource) or is_remote(str(source.path)):
        return ""
    known = "\n".join(f"{path} {stamp}" for path, stamp in _stamps(source, settings).items())
    return hashlib.sha256(known.encode()).hexdigest()


def _stamps(source: FileSource, settings: ReadSettings) -> dict[str, str]:
    """Return the files of a local source, each with its size and time of writing."""
    found = () if is_yet_empty(source, settings) else files_of(source, settings)
    stats = [(str(file.path), file.path.stat()) for file in found]
    return {path: f"{stat.st_size} {stat.st_mtime_ns}" for path, stat in stats}


def has_nothing_outside(source: Source, settings: ReadSettings) -> bool:
    """Tell whether a source holds nothing but pushed events; what cannot be told cheaply may hold more."""
    match source:
        case FileSource():
            return is_yet_empty(source, settings)
        case FrameSource():
            return int(frame_table(source.frame, where=f"source '{source.name}'").num_rows) == 0
        case _:
            return False


@dataclass
class OutsideIds:
    """The event ids of the rows outside, as far as it is cheap to know them. May be used from several threads.

    Of local files and frames hashes are kept, and only files that are new are read. A database is asked about the ids
    in question. What lies elsewhere is read each time.
    """

    source: Source
    settings: ReadSettings
    _known: HashSet | None = field(default=None, init=False)
    _stamps: dict[str, str] = field(default_factory=dict, init=False)
    _is_compared: bool | None = field(default=None, init=False)
    _lock: Lock = field(default_factory=Lock, init=False)

    def may_hold(self, ids: pa.Array) -> bool:
        """Tell whether one of some event ids may lie outside; ``False`` is certain.

        Args:
            ids: The ids, in contract dtype.

        Raises:
            SourceError: What lies outside cannot be read.
            StorageError: The temporary folder refuses the hashes of many ids.
        """
        ids = ids.drop_null()
        if not len(ids):
            return False
        source = self.source
        match source:
            case SqlSource() if self._compares(source, ids.type):
                return has_ids(source, ids)
            case SqlSource():
                return self._is_read(ids)
            case FileSource() if is_remote(str(source.path)):
                return self._is_read(ids)
            case _:
                with self._lock:
                    return self._kept(ids.type).has_any(id_hashes(ids)[0])

    def _compares(self, source: SqlSource, kind: pa.DataType) -> bool:
        with self._lock:
            if self._is_compared is None:
                self._is_compared = compares_ids(source, kind)
            return self._is_compared

    def _is_read(self, ids: pa.Array) -> bool:
        """Read all ids outside, and tell whether one of some is among them."""
        wanted = HashSet(self.settings)
        wanted.add(id_hashes(ids)[0])
        return any(wanted.has_any(hashes) for hashes in self._hashes(self.source, ids.type))

    def _kept(self, kind: pa.DataType) -> HashSet:
        """Return the ids of local files or of a frame, after what is new of them was read."""
        source = self.source
        stamps = _stamps(source, self.settings) if isinstance(source, FileSource) else {"": ""}
        if self._known is None or any(stamps.get(path) != stamp for path, stamp in self._stamps.items()):
            self._known, self._stamps = HashSet(self.settings), {}
        for path, stamp in stamps.items():
            if path not in self._stamps:
                part = replace(source, path=path) if isinstance(source, FileSource) else source
                for hashes in self._hashes(part, kind):
                    self._known.add(hashes)
                self._stamps[path] = stamp
        return self._known

    def _hashes(self, source: Source, kind: pa.DataType) -> Iterator[Hashes]:
        for ids in read_ids(source, kind, self.settings):
            hashes, is_known = id_hashes(ids)
            yield hashes[is_known]


@dataclass(frozen=True)
class Recent:
    """Events that were just appended, so that they need not be read back.

    Attributes:
        from_us: Nothing else became known from this instant on, and
        until_us: before this one.
        events: The events, at most of one instant.
    """

    from_us: int
    until_us: int
    events: pa.Table


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

    def head_us(self) -> int:
        """Return the instant before which all events became known that are to be followed."""
        if self.recent is not None:
            return self.recent.until_us
        assert self.settings.event_log is not None
        return self.settings.event_log.head(self.source.name).next_ingest_us

    def read_back(self) -> PushedEvents:
        """Return the same without what was just appended, which is read from the log then."""
        return replace(self, recent=None)

    def steps(self, from_us: int, until_us: int, most_events: int) -> Iterator[tuple[int, pa.Table]]:
        """Read the events with ``from_us <= ingest_time < until_us`` in the order they became known.

        Args:
            from_us: Inclusive bound.
            until_us: Exclusive bound.
            most_events: About how many events a step has; those that became known at one instant stay together.

        Yields:
            For each step the exclusive bound it goes to, the last one ``until_us``; and the view's columns.
        """
        recent = self.recent
        if recent is not None and recent.from_us <= from_us < until_us == recent.until_us:
            yield until_us, self._checked(recent.events.select(self._columns), from_us, until_us)
            return
        assert self.settings.event_log is not None
        stretches = self.settings.event_log.stretches(self.source.name, ingest=(from_us, until_us))
        begin = from_us
        for group in _groups(stretches, most_events):
            end = min(until_us, group[-1].ingest_to_us + 1)
            yield from _cut(self._read(begin, end), self._ingest_column, end, most_events)
            begin = end
        if begin < until_us:
            yield until_us, self._read(until_us, until_us)

    @property
    def _ingest_column(self) -> str:
        return self.view.source.ingest_time or self.view.source.event_time

    @property
    def _columns(self) -> list[str]:
        return [column.name for column in self.view.source.columns]

    def _read(self, begin: int, end: int) -> pa.Table:
        with open_log_scan(self.source, self.view, settings=self.settings, ingest=(begin, end)) as scan:
            return self._checked(scan.read(self._columns, ingest=(begin, end)), begin, end)

    def _checked(self, table: pa.Table, begin: int, end: int) -> pa.Table:
        """Return events of a range without those of which a delivery outside counts."""
        event_id = self.view.source.event_id
        if event_id is None or not table.num_rows or not self._may_be_outside(table.column(event_id)):
            return table
        with open_scans([self.view], {self.source.name: self.source}, self.settings) as scans:
            whole: Scan = scans[self.view.name]
            return whole.logged().read(self._columns, ingest=(begin, end))

    def _may_be_outside(self, ids: pa.ChunkedArray) -> bool:
        try:
            return self.outside_ids.may_hold(ids.combine_chunks())
        except SourceError:
            # What lies outside cannot be read now; the scan says so, or finds that it can.
            return True


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
