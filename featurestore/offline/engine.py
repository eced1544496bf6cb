"""From the events of a source to the columns of a training set, view by view.

The engine decides what to read when, and in which order events stand; every value comes from the kernels. It works
through a view column by column: first keys and times, which give the order of the events, then one input at a time, so
that memory holds the times and one column of the source rather than all of it. Values that a feature merely picks
(first, last) are not moved at all: the kernels find the row, and the row is looked up at the end.

Sources larger than the memory limit are first split by entity into files, and each part is worked through by itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.dtypes import INT64
from featurestore.kernels.evaluate import (
    Queries,
    arrange_queries,
    bind,
    input_array,
    input_words,
    is_float_input,
    is_true,
)
from featurestore.kernels.events import (
    EventBlock,
    order_by_content,
    sort_keys,
    tied_places,
    time_order,
)
from featurestore.kernels.keys import UNKNOWN, KeyIndex
from featurestore.kernels.program import MEMBER_VALUE
from featurestore.kernels.words import to_words
from featurestore.plan.model import FeaturePlan, InputPlan, TypedExpr, ViewPlan

_Scalar = TypeVar("_Scalar", bound=np.generic)
Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

_ORDERED = frozenset({"first", "last", "first_n", "last_n"})
_PICKED = frozenset({"first", "last"})
_WITHOUT_VALUES = _PICKED | {"count", "time_since_last"}
_BYTES_PER_EVENT = 90
_SHARE_FOR_EVENTS = 0.45
_CODE = "__code"
_GATHER_ROWS = 1_000_000
_BUSIEST = 100
"""Entities per part that are shared out one by one, by their count of events."""


class Rows(Protocol):
    """The rows of a source, in contract dtypes."""

    @property
    def row_count(self) -> int:
        """Count of rows."""
        ...

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Return some columns of all rows, in the same order at every call."""
        ...

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Return the same rows in pieces."""
        ...


@dataclass(frozen=True)
class Resources:
    """What the engine may use.

    Attributes:
        threads: Threads of the kernels.
        memory_bytes: Bound for the whole process; events take about half of it. ``None`` is unbounded.
        spill_folder: Where parts of large sources are kept meanwhile; the system's if ``None``.
    """

    threads: int = 2
    memory_bytes: int | None = None
    spill_folder: Path | None = None


@dataclass(frozen=True)
class ViewColumns:
    """A view's features for the rows of a spine, in the spine's order.

    Attributes:
        columns: One array per feature, in plan order.
        statuses: ``Status`` codes, one row per feature.
    """

    columns: tuple[pa.Array, ...]
    statuses: Bytes


@dataclass(frozen=True)
class _Part:
    """Events of some entities: their codes, and their columns when asked for."""

    codes: Ints
    entity_count: int
    read: Callable[[Sequence[str]], dict[str, pa.Array]]


@dataclass(frozen=True)
class _Order:
    """The order in which events of a part stand: places in the order are rows of the part."""

    rows: Ints
    offsets: Ints
    event_time: Ints
    ingest_time: Ints


def evaluate_view(
    view: ViewPlan,
    rows: Rows,
    keys: Sequence[pa.Array],
    as_of: Ints,
    *,
    resources: Resources,
    hindsight: bool = False,
) -> ViewColumns:
    """Compute a view's features for every row of a spine.

    Args:
        view: The plan.
        rows: The source's rows.
        keys: The spine's key columns, in entity order and dtypes.
        as_of: The spine's instants, microseconds.
        resources: Threads and memory.
        hindsight: Whether to treat every event as known from its event time on.

    Returns:
        The features; the same bits for any resources and any order of the source's rows.
    """
    index, entity = KeyIndex.build(keys)
    count = _part_count(rows.row_count, resources)
    if count == 1:
        part = _whole(view, rows, index, resources)
        return _evaluate_part(view, part, entity, as_of, resources, hindsight)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="featurestore-", dir=resources.spill_folder))
        shares = _share_out(view, rows, index, count)
        paths = _split(view, rows, index, shares, Path(folder))
        asked = np.where(entity == UNKNOWN, 0, shares.part[entity]) if len(index) else np.zeros_like(entity)
        places: list[Ints] = []
        found: list[ViewColumns] = []
        for number, path in enumerate(paths):
            mine = np.flatnonzero(asked == number)
            local = np.where(entity[mine] == UNKNOWN, UNKNOWN, shares.code[entity[mine]])
            part = _spilled(path, int(shares.sizes[number]))
            found.append(_evaluate_part(view, part, local, as_of[mine], resources, hindsight))
            places.append(mine)
            path.unlink()
            pa.default_memory_pool().release_unused()
    return _join(found, places)


@dataclass(frozen=True)
class _Shares:
    """Which part each entity goes to.

    Attributes:
        part: Number of its part, per entity code.
        code: Its code within the part.
        sizes: Count of entities per part.
    """

    part: Ints
    code: Ints
    sizes: Ints


def _share_out(view: ViewPlan, rows: Rows, index: KeyIndex, count: int) -> _Shares:
    """Share entities out so that parts have about equally many events; a busy entity may fill a part alone."""
    keys = [key.name for key in view.entity.keys]
    events = np.zeros(len(index) + 1, dtype=np.int64)
    for batch in rows.batches(keys):
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
        mine = np.flatnonzero(part == number)
        code[mine] = np.arange(len(mine))
    return _Shares(part, code, np.bincount(part, minlength=count))


def _part_count(row_count: int, resources: Resources) -> int:
    if resources.memory_bytes is None:
        return 1
    return max(1, -(-row_count * _BYTES_PER_EVENT // int(resources.memory_bytes * _SHARE_FOR_EVENTS)))


def _join(found: Sequence[ViewColumns], places: Sequence[Ints]) -> ViewColumns:
    """Put the rows of all parts back into the spine's order."""
    back = np.argsort(np.concatenate(places), kind="stable")
    columns = tuple(
        pa.concat_arrays([part.columns[i] for part in found]).take(pa.array(back)) for i in range(len(found[0].columns))
    )
    return ViewColumns(columns, np.concatenate([part.statuses for part in found], axis=1)[:, back])


def _whole(view: ViewPlan, rows: Rows, index: KeyIndex, resources: Resources) -> _Part:
    """Take all rows as one part, read from the source again for each input."""
    kept: pa.Array | None = None
    if view.where is not None:
        table = _arrays(rows.read(sorted(view.where.columns())))
        kept = pa.array(is_true(view.where, table, rows.row_count))

    def read(columns: Sequence[str]) -> dict[str, pa.Array]:
        table = rows.read(columns)
        return _arrays(table if kept is None else table.filter(kept))

    keys = read([key.name for key in view.entity.keys])
    codes = _codes(index, [keys[key.name] for key in view.entity.keys], resources.threads)
    return _Part(codes, len(index), read)


def _codes(index: KeyIndex, keys: Sequence[pa.Array], threads: int) -> Ints:
    starts = range(0, len(keys[0]), _GATHER_ROWS)
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda at: index.codes([key.slice(at, _GATHER_ROWS) for key in keys]), starts)
        return np.concatenate([np.zeros(0, dtype=np.int64), *found])


def _split(view: ViewPlan, rows: Rows, index: KeyIndex, shares: _Shares, folder: Path) -> list[Path]:
    """Write the events of the spine's entities into one file per part, with their codes within it."""
    keys = [key.name for key in view.entity.keys]
    needed = sorted({view.source.event_time, *_ingest(view), *(n for source in view.inputs for n in source.columns())})
    columns = sorted({*keys, *needed, *(view.where.columns() if view.where is not None else ())})
    dtypes = {column.name: column.dtype.arrow for column in view.source.columns}
    schema = pa.schema([(_CODE, pa.int64()), *((name, dtypes[name]) for name in needed)])
    paths = [folder / f"part-{number:05d}.arrow" for number in range(len(shares.sizes))]
    with ExitStack() as stack:
        writers = [stack.enter_context(pa.ipc.new_file(path, schema)) for path in paths]
        for batch in rows.batches(columns):
            for number, piece in _pieces(view, batch, index, keys, needed, schema, shares):
                writers[number].write_batch(piece)
    pa.default_memory_pool().release_unused()
    return paths


def _ingest(view: ViewPlan) -> tuple[str, ...]:
    return () if view.source.ingest_time is None else (view.source.ingest_time,)


def _pieces(
    view: ViewPlan,
    batch: pa.RecordBatch,
    index: KeyIndex,
    keys: Sequence[str],
    needed: Sequence[str],
    schema: pa.Schema,
    shares: _Shares,
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


def _spilled(path: Path, entity_count: int) -> _Part:
    """Open one file of a split source; codes count within the part. The file stays mapped while its arrays live."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()

    def read(columns: Sequence[str]) -> dict[str, pa.Array]:
        return _arrays(table.select(list(columns)))

    return _Part(read([_CODE])[_CODE].to_numpy(), entity_count, read)


def _arrays(table: pa.Table) -> dict[str, pa.Array]:
    return {name: table.column(name).combine_chunks() for name in table.column_names}


def _evaluate_part(
    view: ViewPlan, part: _Part, entity: Ints, as_of: Ints, resources: Resources, hindsight: bool
) -> ViewColumns:
    order = _order(view, part, resources.threads, hindsight)
    queries = arrange_queries(entity, as_of, part.entity_count)
    columns: list[pa.Array | None] = [None] * len(view.features)
    statuses = np.empty((len(view.features), len(as_of)), dtype=np.uint8)
    shared: dict[FeaturePlan, tuple[pa.Array, Bytes]] = {}

    def run(number: int) -> None:
        chosen = [i for i, feature in enumerate(view.features) if feature.input == number]
        answers = _evaluate_input(
            view, number, [view.features[i] for i in chosen], part, order, queries, resources, shared
        )
        for i, (column, status) in zip(chosen, answers, strict=True):
            columns[i], statuses[i] = column, status

    with ThreadPoolExecutor(resources.threads) as pool:
        list(pool.map(run, range(len(view.inputs))))
    return ViewColumns(tuple(column for column in columns if column is not None), statuses)


def _order(view: ViewPlan, part: _Part, threads: int, hindsight: bool) -> _Order:
    source = view.source
    dtypes = {column.name: column.dtype for column in source.columns}
    event_time, _ = to_words(part.read([source.event_time])[source.event_time], dtypes[source.event_time])
    ingest_time = event_time
    if source.ingest_time is not None and not hindsight:
        ingest_time, _ = to_words(part.read([source.ingest_time])[source.ingest_time], dtypes[source.ingest_time])
    rows, offsets, has_ties = time_order(part.codes, part.entity_count, event_time, ingest_time, threads=threads)
    if has_ties and any(feature.aggregation in _ORDERED for feature in view.features):
        places, runs = tied_places(offsets, rows, event_time, ingest_time)
        order_by_content(places, runs, rows, [_content(source, part, rows[places]) for source in view.inputs])
    sorted_event_time = _gather(event_time, rows, threads)
    sorted_ingest_time = sorted_event_time if ingest_time is event_time else _gather(ingest_time, rows, threads)
    return _Order(rows, offsets, sorted_event_time, sorted_ingest_time)


def _content(source: InputPlan, part: _Part, rows: Ints) -> tuple[Ints, Bytes]:
    """Return the order keys and flags of one input for some rows only."""
    names = sorted(source.columns())
    taken = pa.array(rows)
    columns = {name: column.take(taken) for name, column in (part.read(names) if names else {}).items()}
    words, flags, _ = input_words(source, columns, len(rows))
    return sort_keys(words, is_float=is_float_input(source)), flags


def _evaluate_input(
    view: ViewPlan,
    number: int,
    features: Sequence[FeaturePlan],
    part: _Part,
    order: _Order,
    queries: Queries,
    resources: Resources,
    shared: dict[FeaturePlan, tuple[pa.Array, Bytes]],
) -> list[tuple[pa.Array, Bytes]]:
    """Compute all features of one input; results are in the order of ``features``."""
    source = view.inputs[number]
    columns = part.read(sorted(source.columns())) if source.columns() else {}
    array, flags = input_array(source, columns, len(part.codes))
    del columns
    answers: dict[FeaturePlan, tuple[pa.Array, Bytes]] = {}
    light = [feature for feature in features if feature.aggregation in _WITHOUT_VALUES]
    heavy = [feature for feature in features if feature.aggregation not in _WITHOUT_VALUES]
    if light:
        answers |= _by_row(view, light, array, flags, order, queries, resources, shared)
    if heavy:
        assert array is not None and source.value is not None
        words, dictionary = to_words(array, source.value.dtype)
        block = _block(order, _gather(words, order.rows, resources.threads), flags, resources.threads, dictionary)
        sub_view = _sub_view(view, source, heavy)
        answer = bind(sub_view).answer(block, queries, threads=resources.threads)
        answers |= {feature: (answer.column(i), answer.statuses[i]) for i, feature in enumerate(heavy)}
    return [answers[feature] for feature in features]


def _sub_view(view: ViewPlan, source: InputPlan, features: Sequence[FeaturePlan]) -> ViewPlan:
    """Return the view with one input and only features of it."""
    return replace(view, inputs=(source,), features=tuple(replace(feature, input=0) for feature in features))


_ROW = InputPlan(TypedExpr("column", INT64, params=(("name", "row"),)))


def _by_row(
    view: ViewPlan,
    features: Sequence[FeaturePlan],
    array: pa.Array | None,
    flags: Bytes,
    order: _Order,
    queries: Queries,
    resources: Resources,
    shared: dict[FeaturePlan, tuple[pa.Array, Bytes]],
) -> dict[FeaturePlan, tuple[pa.Array, Bytes]]:
    """Compute features for which it matters which events are members, but not what their values are.

    The kernels fold row numbers in place of values. Where all events are members with a value, the answer is the same
    for every input and is computed once.
    """
    is_full = bool((flags == MEMBER_VALUE).all())
    shape_of = {feature: _shape(feature) for feature in features}
    known = dict(shared) if is_full else {}
    wanted = sorted({shape for shape in shape_of.values() if shape not in known}, key=repr)
    if wanted:
        block = _block(order, order.rows, flags, resources.threads, None)
        answer = bind(_sub_view(view, _ROW, wanted)).answer(block, queries, threads=resources.threads)
        known |= {shape: (answer.column(i), answer.statuses[i]) for i, shape in enumerate(wanted)}
    if is_full:
        shared.update(known)
    return {feature: _looked_up(feature, array, *known[shape]) for feature, shape in shape_of.items()}


def _shape(feature: FeaturePlan) -> FeaturePlan:
    """Return what is asked of the members, whatever the input; picked rows are numbers."""
    is_picked = feature.aggregation in _PICKED
    return replace(feature, name="", input=0, dtype=INT64 if is_picked else feature.dtype)


def _looked_up(
    feature: FeaturePlan, array: pa.Array | None, answer: pa.Array, statuses: Bytes
) -> tuple[pa.Array, Bytes]:
    """Replace row numbers by the values in these rows, where the feature picks one."""
    if feature.aggregation not in _PICKED:
        return answer, statuses
    assert array is not None
    return array.take(answer), statuses


def _block(order: _Order, words: Ints, flags: Bytes, threads: int, dictionary: pa.Array | None) -> EventBlock:
    return EventBlock(
        offsets=order.offsets,
        event_time=order.event_time,
        ingest_time=order.ingest_time,
        values=words.reshape(1, -1),
        flags=_gather(flags, order.rows, threads).reshape(1, -1),
        dictionaries=(dictionary,),
    )


def _gather(values: npt.NDArray[_Scalar], rows: Ints, threads: int) -> npt.NDArray[_Scalar]:
    """Pick values by row number, in pieces shared by threads."""
    out = np.empty(len(rows), dtype=values.dtype)

    def run(at: int) -> None:
        np.take(values, rows[at : at + _GATHER_ROWS], out=out[at : at + _GATHER_ROWS], mode="clip")

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, range(0, len(rows), _GATHER_ROWS)))
    return out
