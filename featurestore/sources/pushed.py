"""The pushed events of a source on their way into online state: in steps, without reading the rows outside.

Only if an event id of a step may also lie outside are the rows outside read: which delivery of an event counts is
decided where it always is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.definitions.sources import FileSource, FrameSource, Source
from featurestore.errors import SourceError
from featurestore.event_log import Stretch
from featurestore.plan.model import ViewPlan
from featurestore.sources.deliveries import id_hashes
from featurestore.sources.files import is_remote
from featurestore.sources.frames import frame_table
from featurestore.sources.opening import files_of, is_yet_empty, open_log_scan, open_scans, read_ids
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
    found = () if is_yet_empty(source, settings) else files_of(source, settings)
    stats = [(str(file.path), file.path.stat()) for file in found]
    known = "\n".join(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)
    return hashlib.sha256(known.encode()).hexdigest()


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
    """Hashes of the event ids of the rows outside, kept as long as these stay the same."""

    source: Source
    settings: ReadSettings
    _identity: str = field(default="", init=False)
    _hashes: npt.NDArray[np.uint64] | None = field(default=None, init=False)

    def may_hold(self, ids: pa.Array) -> bool:
        """Tell whether one of some event ids may lie outside; ``False`` is certain."""
        outside = self._outside()
        if len(outside) == 0:
            return False
        hashes, known = id_hashes(ids)
        return bool(np.isin(hashes[known], outside).any())

    def _outside(self) -> npt.NDArray[np.uint64]:
        identity = outside_identity(self.source, self.settings)
        is_same = identity == self._identity and (identity or isinstance(self.source, FrameSource))
        if self._hashes is None or not is_same:
            self._identity, self._hashes = identity, self._read()
        return self._hashes

    def _read(self) -> npt.NDArray[np.uint64]:
        found = [id_hashes(ids) for ids in read_ids(self.source, self.settings)]
        return np.unique(np.concatenate([np.zeros(0, np.uint64), *(hashes[known] for hashes, known in found)]))


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
