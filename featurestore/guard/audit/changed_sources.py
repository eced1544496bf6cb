"""How sources differ from what materialize runs read: rows were added late, changed, or removed.

A run records how many events it read below its watermark, their content hash, and their files with row counts. Rows
beyond these counts did not exist yet. If the other rows have the content hash of the run, no row that was read has
changed: rows were only added. One reading of the source answers this for all runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Flags, Ints, Words
from featurestore.core.temporal import format_instant
from featurestore.definitions.sources import Source
from featurestore.guard.causes.model import LateRows, SourceChange
from featurestore.plan.model import ViewPlan
from featurestore.registry import FileRead, Registry, RunRecord
from featurestore.sources import ReadSettings, Scan, open_scans
from featurestore.sources.content import row_hashes
from featurestore.sources.rows import SourceFile

_MOST_RUNS = 200
"""Count of the newest runs of a view with which its source is compared."""

_SHOWN = 5


def source_comparer(
    sources: Callable[[Iterable[str]], Mapping[str, Source]], registry: Registry, settings: ReadSettings
) -> Callable[[ViewPlan], SourceChange | None]:
    """Return a function that compares the source of a view with what its materialize runs read.

    The source is read at the first call, once per view.

    Args:
        sources: Returns definitions of sources by name.
        registry: The runs, and the files they read.
        settings: Resources for reading.
    """
    changes: dict[str, SourceChange | None] = {}

    def compare(view: ViewPlan) -> SourceChange | None:
        if view.fingerprint not in changes:
            runs = _comparable(registry.runs(view.name, limit=_MOST_RUNS), view.fingerprint)
            source = sources([view.source.name])[view.source.name]
            changes[view.fingerprint] = _source_change(view, source, runs, registry, settings) if runs else None
        return changes[view.fingerprint]

    return compare


def _comparable(runs: Sequence[RunRecord], fingerprint: str) -> list[RunRecord]:
    """Return the runs of a plan that recorded their content, oldest first, from where on their bounds only grow."""
    comparable: list[RunRecord] = []
    for run in runs:
        if run.fingerprint != fingerprint or not run.is_done or not run.content:
            continue
        if comparable and run.until_us > comparable[-1].until_us:
            break
        comparable.append(run)
    return comparable[::-1]


@dataclass(frozen=True)
class _Comparison:
    """The events of a source below the bounds of some runs, oldest run first, compared with what the runs read.

    Attributes:
        count: Count of events now.
        is_same: Whether they are the events that the run read.
        is_grown: Whether they are the events that the run read and others that were added later.
        hashes: Hashes of events that were added later.
        newest_run: For each of them, the newest run that did not read it.
    """

    count: Ints
    is_same: Flags
    is_grown: Flags
    hashes: Words
    newest_run: Ints


def _source_change(
    view: ViewPlan, source: Source, runs: Sequence[RunRecord], registry: Registry, settings: ReadSettings
) -> SourceChange | None:
    with open_scans([view], {source.name: source}, settings) as scans:
        scan = scans[view.name]
        outside = scan.outside() if source.stream else scan
        files = scan.files
        counts = _files_counts(files, runs, registry) if files else _order_counts(outside, runs)
        ends = np.cumsum([file.row_count for file in files]) if files else np.array([np.iinfo(np.int64).max])
        comparison = _compare(outside, [column.name for column in view.source.columns], runs, counts, ends)
    came = tuple(_came(comparison, runs))
    row_count = np.array([run.row_count for run in runs], dtype=np.int64)
    is_other = ~comparison.is_same & ~comparison.is_grown
    lost = np.flatnonzero(is_other[:-1] & (comparison.count <= row_count)[:-1])
    if bool(comparison.is_same[-1]) and not came and not len(lost):
        return None
    changes = [] if comparison.is_same[-1] else list(_file_changes(files, registry.files_read(runs[-1].files)))
    is_touched = any(is_before for is_before, _ in changes)
    grown = np.flatnonzero(is_other & (comparison.count > row_count))
    reported = [*([len(runs) - 1] if not comparison.is_same[-1] else []), *lost[-1:].tolist()]
    return SourceChange(
        view=view.name,
        source=source.name,
        descriptions=(
            *_came_lines(came),
            *(_count_line(runs[number], int(comparison.count[number])) for number in reported),
            *(text for _, text in changes),
        ),
        is_rewritten=bool(is_other[-1]) and (is_touched or int(comparison.count[-1]) <= runs[-1].row_count),
        was_rewritten=len(lost) > 0,
        late_rows=came,
        grown_until_us=runs[int(grown[-1])].until_us if len(grown) else None,
    )


def _files_counts(files: Sequence[SourceFile], runs: Sequence[RunRecord], registry: Registry) -> Ints:
    """Return for each file and run the count of the file's rows that the run read, for files that only grow."""
    place = {file.path: number for number, file in enumerate(files)}
    counts = np.zeros((len(files), len(runs)), dtype=np.int64)
    for number, run in enumerate(runs):
        for file in registry.files_read(run.files):
            if file.path in place:
                counts[place[file.path], number] = file.row_count
    return np.asarray(np.maximum.accumulate(counts, axis=1), dtype=np.int64)


def _order_counts(scan: Scan, runs: Sequence[RunRecord]) -> Ints:
    """Return the same for a source without files: each run read the first rows below its bound."""
    pieces = [(rows, _instants(batch)) for rows, batch in scan.numbered([scan.ingest_column])]
    rows = np.concatenate([numbers for numbers, _ in pieces]) if pieces else np.zeros(0, dtype=np.int64)
    times = np.concatenate([instants for _, instants in pieces]) if pieces else np.zeros(0, dtype=np.int64)
    counts = np.full((1, len(runs)), np.iinfo(np.int64).max, dtype=np.int64)
    for number, run in enumerate(runs):
        below = np.flatnonzero(times < run.until_us)
        if len(below) > run.row_count:
            counts[0, number] = rows[below[run.row_count]]
    return np.asarray(np.maximum.accumulate(counts, axis=1), dtype=np.int64)


def _compare(scan: Scan, columns: Sequence[str], runs: Sequence[RunRecord], counts: Ints, ends: Ints) -> _Comparison:
    """Read a source and compare its events with what runs read.

    Args:
        scan: The source.
        columns: Columns that the runs read.
        runs: The runs, oldest first.
        counts: For each file and run the count of the file's rows that the run read.
        ends: For each file one past its last row, numbered over all files.
    """
    until = np.array([run.until_us for run in runs], dtype=np.int64)
    # Sums of hashes and counts of the events that each run is the first to include; and of those added after runs.
    content, without = np.zeros(len(runs) + 1, dtype=np.uint64), np.zeros(len(runs) + 1, dtype=np.uint64)
    count, missing = np.zeros(len(runs) + 1, dtype=np.int64), np.zeros(len(runs) + 1, dtype=np.int64)
    late: list[tuple[Words, Ints]] = []
    for rows, batch in scan.numbered(columns):
        hashes = row_hashes(batch)
        first = np.searchsorted(until, _instants(batch.select([scan.ingest_column])), side="right")
        newest = _newest_without(rows, counts, ends)
        np.add.at(content, first, hashes)
        np.add.at(count, first, 1)
        is_late = newest >= first
        np.add.at(without, first[is_late], hashes[is_late])
        np.subtract.at(without, newest[is_late] + 1, hashes[is_late])
        np.add.at(missing, first[is_late], 1)
        np.subtract.at(missing, newest[is_late] + 1, 1)
        late.append((hashes[is_late], newest[is_late]))
    content, without = np.cumsum(content)[:-1], np.cumsum(without)[:-1]
    count, missing = np.cumsum(count)[:-1], np.cumsum(missing)[:-1]
    read = np.array([int(run.content, 16) for run in runs], dtype=np.uint64)
    row_count = np.array([run.row_count for run in runs], dtype=np.int64)
    is_same = (content == read) & (count == row_count)
    return _Comparison(
        count=count,
        is_same=is_same,
        is_grown=~is_same & (content - without == read) & (count - missing == row_count),
        hashes=np.concatenate([np.zeros(0, dtype=np.uint64), *(part for part, _ in late)]),
        newest_run=np.concatenate([np.zeros(0, dtype=np.int64), *(part for _, part in late)]),
    )


def _newest_without(rows: Ints, counts: Ints, ends: Ints) -> Ints:
    """Return for each row the newest run that did not read it, -1 if all runs did."""
    newest = np.full(len(rows), -1, dtype=np.int64)
    of_file = np.searchsorted(ends, rows, side="right")
    for file in np.unique(of_file).tolist():
        places = np.flatnonzero(of_file == file)
        start = int(ends[file - 1]) if file else 0
        newest[places] = np.searchsorted(counts[file], rows[places] - start, side="right") - 1
    return newest


def _instants(batch: pa.RecordBatch) -> Ints:
    """Return the only column as microseconds."""
    return np.asarray(batch.column(0).cast(pa.int64()).to_numpy(zero_copy_only=False), dtype=np.int64)


def _came(comparison: _Comparison, runs: Sequence[RunRecord]) -> Iterator[LateRows]:
    for number in np.unique(comparison.newest_run).tolist():
        if comparison.is_grown[number]:
            following = runs[number + 1] if number + 1 < len(runs) else None
            yield LateRows(
                read_until_us=runs[number].until_us,
                seen_at_us=None if following is None else following.finished_at_us,
                hashes=comparison.hashes[comparison.newest_run == number],
            )


def _came_lines(came: Sequence[LateRows]) -> Iterator[str]:
    for arrival in came[-_SHOWN:]:
        events = "1 event was" if len(arrival.hashes) == 1 else f"{len(arrival.hashes)} events were"
        reader = (
            "no run has read"
            if arrival.seen_at_us is None
            else f"the run that ended at {format_instant(arrival.seen_at_us)} read"
        )
        them = "it" if len(arrival.hashes) == 1 else "them"
        yield (
            f"{events} not in the source when the run up to {format_instant(arrival.read_until_us)} read it; "
            f"{reader} {them}{' yet' if arrival.seen_at_us is None else ''}"
        )


def _count_line(run: RunRecord, count: int) -> str:
    at = format_instant(run.until_us)
    if count == run.row_count:
        return f"the {count} events below {at} have other values than when the run up to then read them"
    return f"the run up to {at} read {run.row_count} events; below that the source has {count} now"


def _file_changes(now: Sequence[SourceFile], then: Sequence[FileRead]) -> Iterator[tuple[bool, str]]:
    """Yield what happened to files, and whether a run had read them."""
    new = {file.path: (file.size, file.mtime_ns) for file in now}
    old = {file.path: (file.size, file.mtime_ns) for file in then}
    changed = sorted(path for path in old.keys() & new.keys() if old[path] != new[path])
    gone, came = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
    for is_before, verb, paths in (
        (True, "was rewritten", changed),
        (True, "is gone", gone),
        (False, "was added", came),
    ):
        for path in paths[:_SHOWN]:
            yield is_before, f"{Path(path).name} {verb}"
