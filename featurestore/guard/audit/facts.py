"""Facts beside the log, for proving causes: events of the entities, today's online state, and lost events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Ints
from featurestore.core.errors import FeatureStoreError
from featurestore.core.statuses import status_code
from featurestore.core.temporal import Clock, to_datetime
from featurestore.definitions.sources import Source
from featurestore.guard.causes.model import HeldState, SourceChange
from featurestore.guard.world.events import CountEvents, loose
from featurestore.guard.world.world import Values
from featurestore.kernels.keys import UNKNOWN, KeyIndex
from featurestore.online.answering.lookup import OnlineReader
from featurestore.online.stores.store import AHEAD_OF_LOG, OnlineStore, records_of
from featurestore.plan.model import Plan, ViewPlan
from featurestore.plan.names import AS_OF
from featurestore.serving_log.columns import key_column, request_column
from featurestore.sources import ReadSettings, open_scans

_MOST_ASKED = 20_000


def event_reader(
    sources: Callable[[Iterable[str]], Mapping[str, Source]], settings: ReadSettings
) -> Callable[[ViewPlan, Sequence[pa.Array], bool], pa.Table]:
    """Return a function that reads the events of some entities from their source.

    Events of entities whose text key differs only by case, surrounding spaces or leading zeros are included, so that
    mixed-up spellings of a key can be detected.

    Args:
        sources: Returns definitions of sources by name.
        settings: Resources for reading.
    """

    def read(view: ViewPlan, keys: Sequence[pa.Array], every_delivery: bool) -> pa.Table:
        source = sources([view.source.name])[view.source.name]
        if every_delivery:
            source = replace(source, event_id=None)
            view = replace(view, source=replace(view.source, event_id=None))
        names = [column.name for column in view.source.columns]
        key_names = [key.name for key in view.entity.keys]
        index, _ = KeyIndex.build([loose(key) for key in keys])
        schema = pa.schema([(column.name, column.dtype.arrow) for column in view.source.columns])
        kept: list[pa.RecordBatch] = []
        with open_scans([view], {source.name: source}, settings) as scans:
            for batch in scans[view.name].batches(names):
                codes = index.codes([loose(batch.column(name)) for name in key_names])
                chosen = codes != UNKNOWN
                if bool(chosen.any()):
                    kept.append(batch.filter(pa.array(chosen)))
        return pa.Table.from_batches(kept, schema=schema).combine_chunks()

    return read


def event_counter(sources: Callable[[Iterable[str]], Mapping[str, Source]], settings: ReadSettings) -> CountEvents:
    """Return a function that counts the events of entities that ``event_reader`` would read.

    Args:
        sources: Returns definitions of sources by name.
        settings: Resources for reading.
    """

    def count(view: ViewPlan, keys: Sequence[pa.Array]) -> Ints:
        source = sources([view.source.name])[view.source.name]
        key_names = [key.name for key in view.entity.keys]
        index, asked = KeyIndex.build([loose(key) for key in keys])
        counts = np.zeros(len(index) + 1, dtype=np.int64)
        with open_scans([view], {source.name: source}, settings) as scans:
            for batch in scans[view.name].batches(key_names):
                codes = index.codes([loose(batch.column(name)) for name in key_names])
                counts[:-1] += np.bincount(codes[codes != UNKNOWN], minlength=len(index))
        return np.asarray(counts[asked], dtype=np.int64)

    return count


def with_lost_events(
    changes: Callable[[ViewPlan], SourceChange | None], store: OnlineStore
) -> Callable[[ViewPlan], SourceChange | None]:
    """Add events that event logs have lost to the changes of sources.

    Runs do not record pushed events. The record of a view in the online store notes if the event log has lost some.

    Args:
        changes: Returns how a source differs from what runs read.
        store: The online store.
    """

    def changed(view: ViewPlan) -> SourceChange | None:
        change = changes(view)
        try:
            loss = records_of(store, [view])[view.name].lost
        except FeatureStoreError:
            return change
        if loss is None or loss.code != AHEAD_OF_LOG:
            return change
        base = change or SourceChange(view.name, view.source.name, (), is_rewritten=True)
        return replace(base, descriptions=(loss.problem, *base.descriptions), is_rewritten=True)

    return changed


def state_reader(store: OnlineStore, clock: Clock) -> Callable[[Plan, pa.Table], HeldState | None]:
    """Return a function that asks today's online state the questions of a log.

    Args:
        store: The online store.
        clock: The present instant.
    """
    readers: dict[str, OnlineReader] = {}

    def held(plan: Plan, log: pa.Table) -> HeldState | None:
        reader = readers.setdefault(plan.fingerprint, OnlineReader(plan, store, clock))
        keys = log.select([key_column(column.name) for column in plan.join_keys]).to_pylist()
        requests = log.select([request_column(column.name) for column in plan.request]).to_pylist()
        instants = log.column(AS_OF).combine_chunks().cast(pa.int64()).to_pylist()
        rows = list(range(min(_MOST_ASKED, log.num_rows)))
        answered = np.zeros(log.num_rows, dtype=np.bool_)
        columns: list[list[object]] = [[None] * log.num_rows for _ in plan.outputs]
        codes = np.zeros((len(plan.outputs), log.num_rows), dtype=np.uint8)
        for row in rows:
            entity = {key.name: keys[row][key_column(key.name)] for key in plan.join_keys}
            request = {column.name: requests[row][request_column(column.name)] for column in plan.request}
            try:
                answer = reader.get([entity], request=request or None, as_of=to_datetime(instants[row]))
            except FeatureStoreError:
                continue
            answered[row] = True
            for place, (value, status) in enumerate(zip(answer.rows[0], answer.statuses[0], strict=True)):
                columns[place][row], codes[place, row] = value, status_code(status)
        values = {
            output.name: Values(pa.array(columns[i], type=output.dtype.arrow), codes[i])
            for i, output in enumerate(plan.outputs)
        }
        return HeldState(values, answered) if bool(answered.any()) else None

    return held
