"""Builds training sets: a spine in, a service's features beside it, Parquet and manifest out.

The rows are exactly the spine's, in its order. A spine too large to answer at once is answered in consecutive pieces;
nothing of the result depends on how it was cut.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.core.statuses import STATUS_NAMES
from featurestore.core.temporal import Clock, format_instant
from featurestore.definitions.sources import Source
from featurestore.offline.build import Features, compute_features, in_pieces, questions_of
from featurestore.offline.coverage import EmptyRows, RowsWithoutValues, count_beyond_newest, warning_of
from featurestore.offline.dataset import TrainingSet
from featurestore.offline.digest import content_digest
from featurestore.offline.manifest import Manifest, library_versions, plan_document, source_entry
from featurestore.offline.parts import Resources
from featurestore.offline.spine import read_spine
from featurestore.offline.writer import Piece, Written, check_target, write_training_set
from featurestore.plan.model import Plan, ViewUse
from featurestore.plan.names import AS_OF
from featurestore.sources import ReadSettings, Scan, open_scans
from featurestore.storage.progress import Progress, Share, Steps

STATUS_SUFFIX = "__status"
"""What is added to a feature's column name for the column of its statuses."""

_WRITTEN = 0.8
"""Which share of writing is done when the last rows were handed over; files and profile come after."""

_LOGGER = logging.getLogger("featurestore.offline")

_NAMES = pa.array(STATUS_NAMES)


def build_training_set(
    plan: Plan,
    spine: Any,
    path: str | os.PathLike[str],
    *,
    sources: Mapping[str, Source],
    settings: ReadSettings,
    clock: Clock,
    hindsight: bool = False,
    statuses: bool = False,
    as_of: str = AS_OF,
    as_of_unit: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> TrainingSet:
    """Build a training set and put it in its place.

    Args:
        plan: The service.
        spine: Rows to fill; see ``read_spine``.
        path: The folder it will be; what is there must be empty, or a training set to replace.
        sources: Definitions of the sources its views read, by name.
        settings: Threads, memory and folders.
        clock: Tells when it was built.
        hindsight: Whether to treat every event as known from its event time on.
        statuses: Whether to write, for each feature, a column of its statuses.
        as_of: Column of the spine that holds the instants asked about.
        as_of_unit: What numbers in the spine's column of instants count since 1970; ``None`` refuses numbers.
        overwrite: Whether a training set that is there is replaced.
        progress: Called with how many rows each view has read, and how many rows are written.

    Returns:
        The training set: the spine's columns, then the features, then the statuses if wanted.

    Raises:
        SpineError: The spine cannot be used.
        SourceError: A source cannot give its rows, or was rewritten while it was read.
        StorageError: The target cannot be written. Nothing is left behind.
    """
    check_target(path, overwrite=overwrite)
    reserved = [_status_column(output.name) for output in plan.outputs] if statuses else []
    table = read_spine(spine, plan, as_of=as_of, as_of_unit=as_of_unit, reserved=reserved)
    questions = questions_of(table, plan, as_of)
    resources = _resources(settings)
    steps = Steps(progress)
    empty = EmptyRows()
    with open_scans([use.view for use in plan.uses], sources, settings) as scans:
        written = steps.step("rows written", table.num_rows)

        def pieces() -> Iterator[Piece]:
            ranges = list(in_pieces(plan, table.num_rows, resources))
            for number, (offset, length) in enumerate(ranges):

                def progress_of(use: ViewUse, number: int = number) -> Share:
                    rows = scans[use.view.name].row_count
                    return steps.step(f"view {use.alias}", rows, number=number, rounds=len(ranges))

                part = table.slice(offset, length)
                features = compute_features(
                    plan,
                    questions.slice(offset, length),
                    scans,
                    resources=resources,
                    hindsight=hindsight,
                    progress=progress_of,
                    observe=empty.add,
                )
                yield _piece(part, features, statuses=statuses)
                written((offset + length) / max(1, table.num_rows) * _WRITTEN)

        def describe(written: Written) -> Manifest:
            without_values = empty.count(plan, questions, scans, resources)
            for scan in scans.values():
                scan.check_unchanged()
            _warn(plan, without_values, table.num_rows)
            return _manifest(
                plan, table, as_of, scans, written, clock, without_values, hindsight=hindsight, statuses=statuses
            )

        features = {output.name: output.dtype for output in plan.outputs}
        built = write_training_set(
            path, pieces(), features=features, describe=describe, threads=settings.threads, overwrite=overwrite
        )
        written(1.0)
        return built


def compute_reference(
    plan: Plan, spine: pa.Table, *, sources: Mapping[str, Source], settings: ReadSettings, hindsight: bool = False
) -> tuple[Features, dict[str, int | None]]:
    """Compute what a training set would hold, statuses included, without writing it.

    Args:
        plan: The service.
        spine: Keys, ``as_of`` and request inputs in contract dtypes.
        sources: Definitions of the sources its views read, by name.
        settings: Threads, memory and folders.
        hindsight: Whether to treat every event as known from its event time on.

    Returns:
        The features; and per view the newest event time its source held, ``None`` if it held no event.

    Raises:
        SourceError: A source cannot give its rows.
    """
    resources = _resources(settings)
    with open_scans([use.view for use in plan.uses], sources, settings) as scans:
        parts = [
            compute_features(plan, spine.slice(offset, length), scans, resources=resources, hindsight=hindsight)
            for offset, length in in_pieces(plan, spine.num_rows, resources)
        ]
        newest = {name: scan.stats().newest_event_time_us for name, scan in scans.items()}
    return _joined(plan, parts), newest


def _joined(plan: Plan, parts: list[Features]) -> Features:
    if len(parts) == 1:
        return parts[0]
    names = [output.name for output in plan.outputs]
    return Features(
        {name: pa.concat_arrays([part.values[name] for part in parts]) for name in names},
        {name: np.concatenate([part.statuses[name] for part in parts]) for name in names},
    )


def _resources(settings: ReadSettings) -> Resources:
    return Resources(settings.threads, settings.memory_bytes, settings.temp_folder)


def _status_column(name: str) -> str:
    return f"{name}{STATUS_SUFFIX}"


def _piece(spine: pa.Table, features: Features, *, statuses: bool) -> Piece:
    columns = {name: spine.column(name) for name in spine.column_names} | features.values
    if statuses:
        for name, codes in features.statuses.items():
            columns[_status_column(name)] = pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int8)), _NAMES)
    return Piece(pa.table(columns), features.statuses)


def _warn(plan: Plan, without_values: tuple[RowsWithoutValues, ...], row_count: int) -> None:
    ingest_times = {use.alias: use.view.source.ingest_time for use in plan.uses}
    for rows in without_values:
        if (warning := warning_of(rows, row_count, ingest_times[rows.view])) is not None:
            _LOGGER.warning("service '%s', %s", plan.name, warning)


def _manifest(
    plan: Plan,
    spine: pa.Table,
    as_of: str,
    scans: Mapping[str, Scan],
    written: Written,
    clock: Clock,
    without_values: tuple[RowsWithoutValues, ...],
    *,
    hindsight: bool,
    statuses: bool,
) -> Manifest:
    entries = {use.view.name: source_entry(use.view, scans[use.view.name]) for use in plan.uses}
    newest = {name: scan.stats().newest_event_time_us for name, scan in scans.items()}
    instants = spine.column(as_of).combine_chunks().cast(pa.int64()).to_numpy(zero_copy_only=False)
    return Manifest(
        service=plan.name,
        plan=plan_document(plan),
        fingerprint=plan.fingerprint,
        view_fingerprints={use.view.name: use.view.fingerprint for use in plan.uses},
        spine_digest=content_digest(spine),
        spine_columns=tuple(spine.column_names),
        row_count=written.row_count,
        rows_beyond_newest_event=count_beyond_newest(plan, instants, newest),
        rows_without_values=without_values,
        sources=tuple(entries[name] for name in sorted(entries)),
        features=written.features,
        has_statuses=statuses,
        hindsight=hindsight,
        as_of=as_of,
        content_digest=written.content_digest,
        files=written.files,
        libraries=library_versions(),
        created_at=format_instant(clock.now_us()),
    )
