"""Views that need only newest events: the source is read once, piece by piece, keeping events that can matter.

The size of the kept events is that of the spine, however large the source is, so nothing has to be sorted, gathered
or spilled. Features are then computed from them as from a whole source; ``kernels.newest`` guarantees that no event is
missing. A piece is read column by column, the values last and only for the kept rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain

import numpy as np
import pyarrow as pa

from featurestore.kernels.evaluate import Queries, is_true
from featurestore.kernels.keys import UNKNOWN, KeyIndex
from featurestore.kernels.newest import Horizons, asks_only_newest, deciding_columns
from featurestore.offline.parts import Part, Resources, Rows, arrays, ingest_columns, read_times, value_columns
from featurestore.plan.model import ViewPlan
from featurestore.storage.progress import Share, silent

_CODE = "__code"
_LEAST_GAIN = 4
"""Narrowing is tried if there are at least this many times as many events as questions."""

_MOST_KEPT = 0.4
"""How much of the first piece may be kept. Most sources are roughly in order of time. Otherwise every piece keeps much,
and sorting the source costs less."""

_LEAST_CROWD = 1 << 16
"""Rows that may wait, however few the questions are, before rows are dropped that newer pieces superseded."""


def narrowed(
    view: ViewPlan,
    rows: Rows,
    index: KeyIndex,
    queries: Queries,
    resources: Resources,
    hindsight: bool,
    progress: Share = silent,
) -> Part | None:
    """Read a source once, keeping the events that can matter.

    Args:
        view: The plan.
        rows: The source's rows.
        index: The entities of the spine.
        queries: The questions, sorted by entity and instant.
        resources: Threads and memory.
        hindsight: Whether every event is known from its event time on.
        progress: Called with the share of the rows that were read.

    Returns:
        Events with the same answers as all events of the source; ``None`` if the view needs more than newest events,
        or if little would be gained: then the whole source has to be evaluated.
    """
    if not asks_only_newest(view) or rows.row_count < _LEAST_GAIN * queries.count:
        return None
    narrowing = _Narrowing(view, rows, index, queries, hindsight)
    if rows.piece_count == 0:
        return _part(narrowing.schema.empty_table())
    most = resources.most_events
    first = narrowing.piece(0, resources.threads)
    fits = most is None or rows.row_count <= most
    if fits and first.num_rows * rows.piece_count > _MOST_KEPT * rows.row_count:
        return None
    most = min(rows.row_count // 2, most or rows.row_count)
    kept: list[pa.Table] = []
    waiting, crowd = 0, max(2 * queries.count, _LEAST_CROWD)
    others = _in_turn(narrowing.piece, range(1, rows.piece_count), resources.threads)
    for number, piece in enumerate(chain([first], others)):
        progress((number + 1) / rows.piece_count)
        kept.append(piece)
        waiting += piece.num_rows
        if waiting > crowd:
            kept = [narrowing.again(pa.concat_tables(kept))]
            waiting = kept[0].num_rows
            if waiting > most:
                return None
            crowd = max(crowd, 2 * waiting)
    return _part(pa.concat_tables(kept))


def _part(table: pa.Table) -> Part:
    return Part(arrays(table.select([_CODE]))[_CODE].to_numpy(), lambda columns: arrays(table.select(list(columns))))


class _Narrowing:
    """What is the same for all pieces."""

    def __init__(self, view: ViewPlan, rows: Rows, index: KeyIndex, queries: Queries, hindsight: bool) -> None:
        self._view, self._rows, self._index = view, rows, index
        self._horizons = Horizons(view, queries)
        self._hindsight = hindsight
        self._keys = [key.name for key in view.entity.keys]
        self._times = [view.source.event_time, *ingest_columns(view)]
        self._deciding = deciding_columns(view)
        self._kept = sorted({*self._times, *value_columns(view)})
        dtypes = {column.name: column.dtype for column in view.source.columns}
        self.schema = pa.schema([(_CODE, pa.int64()), *((name, dtypes[name].arrow) for name in self._kept)])

    def piece(self, number: int, threads: int = 1) -> pa.Table:
        """Return what is kept of a piece, its columns shared out among threads."""
        where = set() if self._view.where is None else self._view.where.columns()
        first = sorted({*self._keys, *self._times, *self._deciding, *where})
        columns = arrays(self._rows.read_piece(number, first))
        codes = self._index.codes([columns[key] for key in self._keys])
        if self._view.where is not None:
            codes = np.where(is_true(self._view.where, columns, len(codes)), codes, UNKNOWN)
        event_time, ingest_time = read_times(self._view, columns, hindsight=self._hindsight)
        found = self._horizons.newest(codes, event_time, ingest_time, columns)
        taken = pa.array(found)

        def take(name: str) -> pa.Array:
            if name in columns:
                return columns[name].take(taken)
            return self._rows.read_piece(number, [name]).column(0).combine_chunks().take(taken)

        with ThreadPoolExecutor(threads) as pool:
            return pa.table([pa.array(codes[found]), *pool.map(take, self._kept)], schema=self.schema)

    def again(self, table: pa.Table) -> pa.Table:
        """Return what is kept of several pieces together."""
        columns = arrays(table.select([_CODE, *sorted({*self._times, *self._deciding})]))
        event_time, ingest_time = read_times(self._view, columns, hindsight=self._hindsight)
        found = self._horizons.newest(columns[_CODE].to_numpy(), event_time, ingest_time, columns)
        return table.take(pa.array(found))


def _in_turn(work: Callable[[int], pa.Table], numbers: range, threads: int) -> Iterator[pa.Table]:
    """Do work in order, as many steps at a time as there are threads."""
    with ThreadPoolExecutor(threads) as pool:
        coming: deque[Future[pa.Table]] = deque()
        for number in numbers:
            coming.append(pool.submit(work, number))
            if len(coming) > threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
