"""Sources larger than memory: split by entity into files, each of which is a part that memory can hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Ints
from featurestore.kernels.evaluate import is_true
from featurestore.kernels.keys import UNKNOWN, KeyIndex
from featurestore.offline.parts import Part, Rows, arrays, ingest_columns, value_columns
from featurestore.plan.model import ViewPlan
from featurestore.storage.progress import Share

_CODE = "__code"
_BUSIEST = 100
"""Entities per part that are assigned one by one, by their count of events."""


@dataclass(frozen=True)
class Shares:
    """The part of each entity.

    Attributes:
        part: Number of its part, per entity code.
        code: Its code within the part.
        sizes: Count of entities per part.
    """

    part: Ints
    code: Ints
    sizes: Ints


def share_out(view: ViewPlan, rows: Rows, index: KeyIndex, count: int, progress: Share) -> Shares:
    """Assign entities to parts with about equally many events; a busy entity may be a part alone."""
    keys = [key.name for key in view.entity.keys]
    events = np.zeros(len(index) + 1, dtype=np.int64)
    read = 0
    for batch in rows.batches(keys):
        read += batch.num_rows
        progress(read / rows.row_count)
        codes = index.codes([batch.column(key) for key in keys])
        events += np.bincount(np.where(codes == UNKNOWN, len(index), codes), minlength=len(index) + 1)
    part = np.arange(len(index)) % count
    busy = np.argsort(-events[:-1], kind="stable")[: _BUSIEST * count]
    part[busy] = -1
    loads = np.bincount(part[part >= 0], weights=events[:-1][part >= 0], minlength=count)
    for entity in busy.tolist():
        part[entity] = int(np.argmin(loads))
        loads[part[entity]] += events[entity]
    code = np.empty(len(index), dtype=np.int64)
    for number in range(count):
        entities = np.flatnonzero(part == number)
        code[entities] = np.arange(len(entities))
    return Shares(part, code, np.bincount(part, minlength=count))


def split(view: ViewPlan, rows: Rows, index: KeyIndex, shares: Shares, folder: Path, progress: Share) -> list[Path]:
    """Write the events of the spine's entities into one file per part, with their codes within it."""
    keys = [key.name for key in view.entity.keys]
    needed = sorted({view.source.event_time, *ingest_columns(view), *value_columns(view)})
    columns = sorted({*keys, *needed, *(view.where.columns() if view.where is not None else ())})
    dtypes = {column.name: column.dtype.arrow for column in view.source.columns}
    schema = pa.schema([(_CODE, pa.int64()), *((name, dtypes[name]) for name in needed)])
    paths = [folder / f"part-{number:05d}.arrow" for number in range(len(shares.sizes))]
    with ExitStack() as stack:
        writers = [stack.enter_context(pa.ipc.new_file(path, schema)) for path in paths]
        read = 0
        for batch in rows.batches(columns):
            read += batch.num_rows
            progress(read / rows.row_count)
            for number, piece in _pieces(view, batch, index, keys, needed, schema, shares):
                writers[number].write_batch(piece)
    pa.default_memory_pool().release_unused()
    return paths


def _pieces(
    view: ViewPlan,
    batch: pa.RecordBatch,
    index: KeyIndex,
    keys: Sequence[str],
    needed: Sequence[str],
    schema: pa.Schema,
    shares: Shares,
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Split one batch by part; rows that ``where`` rejects or no spine row asks for are dropped."""
    columns = {name: batch.column(name) for name in batch.schema.names}
    codes = index.codes([columns[key] for key in keys])
    if view.where is not None:
        codes[~is_true(view.where, columns, batch.num_rows)] = UNKNOWN
    known = np.flatnonzero(codes != UNKNOWN)
    number = shares.part[codes[known]]
    order = known[np.argsort(number, kind="stable")]
    cuts = np.searchsorted(np.sort(number), np.arange(len(shares.sizes) + 1))
    taken = pa.array(order)
    arrays = [pa.array(shares.code[codes[order]]), *(columns[name].take(taken) for name in needed)]
    sorted_batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
    for part in range(len(shares.sizes)):
        if cuts[part + 1] > cuts[part]:
            yield part, sorted_batch.slice(cuts[part], cuts[part + 1] - cuts[part])


def spilled(path: Path) -> Part:
    """Open one file of a split source; codes count within the part. The file stays mapped while its arrays live."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()

    def read(columns: Sequence[str]) -> dict[str, pa.Array]:
        return arrays(table.select(list(columns)))

    return Part(read([_CODE])[_CODE].to_numpy(), read)
