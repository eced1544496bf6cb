"""From the events of a source to the columns of a training set, view by view.

The engine decides what to read when, and in which order events stand; every value comes from the kernels. It works
through a view column by column: first keys and times, which give the order of the events, then one input at a time, so
that memory holds the times and one column of the source rather than all of it. Values that a feature merely picks
(first, last) are not moved at all: the kernels find the row, and the row is looked up at the end.

Views that ask only for newest events are answered from the few events that can be one, whatever the size of the
source. Other sources larger than the memory limit are first split by entity into files, and each part is worked through
by itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.core.columns import Bytes, Ints
from featurestore.core.dtypes import INT64
from featurestore.kernels.evaluate import (
    Queries,
    arrange_queries,
    bind,
    input_array,
    input_words,
    is_float_input,
    is_true,
)
from featurestore.kernels.events import EventBlock, order_by_content, sort_keys, tied_places, time_order
from featurestore.kernels.keys import UNKNOWN, KeyIndex
from featurestore.kernels.program import MEMBER_VALUE
from featurestore.kernels.words import to_words
from featurestore.offline.narrowing import narrowed
from featurestore.offline.parts import Part, Resources, Rows, arrays, ingest_columns, read_times
from featurestore.offline.spilling import share_out, spilled, split
from featurestore.plan.aggregations import aggregate_of
from featurestore.plan.model import FeaturePlan, InputPlan, TypedExpr, ViewPlan
from featurestore.storage.progress import Share, part_of, silent

_Scalar = TypeVar("_Scalar", bound=np.generic)

_GATHER_ROWS = 1_000_000
_READ = 0.5
"""Which share of the work on a view it is to read its source; about half."""


@dataclass(frozen=True)
class ViewColumns:
    """A view's features for the rows of a spine, in the spine's order.

    Attributes:
        columns: One array per feature, in plan order.
        statuses: ``Status`` codes, one row per feature.
    """

    columns: tuple[pa.Array, ...]
    statuses: Bytes


@dataclass
class _Shared:
    """Answers that are equal for all inputs without nulls, and are computed once."""

    answers: dict[FeaturePlan, tuple[pa.Array, Bytes]] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)


@dataclass(frozen=True)
class _Order:
    """The order of the events of a part: row numbers of the part, sorted."""

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
    progress: Share = silent,
) -> ViewColumns:
    """Compute a view's features for every row of a spine.

    Args:
        view: The plan.
        rows: The source's rows.
        keys: The spine's key columns, in entity order and dtypes.
        as_of: The spine's instants, microseconds.
        resources: Threads and memory.
        hindsight: Whether to treat every event as known from its event time on.
        progress: Called with the share of the work that is done.

    Returns:
        The features; the same bits for any resources and any order of the source's rows.
    """
    index, entity = KeyIndex.build(keys)
    queries = arrange_queries(entity, as_of, len(index))
    part = narrowed(view, rows, index, queries, resources, hindsight, part_of(progress, 0.0, _READ))
    if part is None:
        count = _part_count(rows.row_count, resources)
        if count > 1:
            return _evaluate_parts(view, rows, index, entity, as_of, resources, hindsight, count, progress)
        part = _whole(view, rows, index, resources)
    return _evaluate_part(view, part, queries, resources, hindsight, part_of(progress, _READ, 1.0))


def _part_count(row_count: int, resources: Resources) -> int:
    most = resources.most_events
    return 1 if most is None else max(1, -(-row_count // most))


def _evaluate_parts(
    view: ViewPlan,
    rows: Rows,
    index: KeyIndex,
    entity: Ints,
    as_of: Ints,
    resources: Resources,
    hindsight: bool,
    count: int,
    progress: Share,
) -> ViewColumns:
    """Split the source by entity, and evaluate one part after the other."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="featurestore-", dir=resources.spill_folder))
        shares = share_out(view, rows, index, count, part_of(progress, 0.0, _READ / 2))
        paths = split(view, rows, index, shares, Path(folder), part_of(progress, _READ / 2, _READ))
        part_of_row = np.where(entity == UNKNOWN, 0, shares.part[entity]) if len(index) else np.zeros_like(entity)
        places: list[Ints] = []
        answers: list[ViewColumns] = []
        for number, path in enumerate(paths):
            in_part = np.flatnonzero(part_of_row == number)
            local = np.where(entity[in_part] == UNKNOWN, UNKNOWN, shares.code[entity[in_part]])
            queries = arrange_queries(local, as_of[in_part], int(shares.sizes[number]))
            step = (1.0 - _READ) / count
            begin = _READ + number * step
            part_progress = part_of(progress, begin, begin + step)
            answers.append(_evaluate_part(view, spilled(path), queries, resources, hindsight, part_progress))
            places.append(in_part)
            path.unlink()
            pa.default_memory_pool().release_unused()
    return _join(answers, places)


def _join(parts: Sequence[ViewColumns], places: Sequence[Ints]) -> ViewColumns:
    """Restore the spine's order of the rows of all parts."""
    back = np.argsort(np.concatenate(places), kind="stable")
    columns = tuple(
        pa.concat_arrays([part.columns[i] for part in parts]).take(pa.array(back)) for i in range(len(parts[0].columns))
    )
    return ViewColumns(columns, np.concatenate([part.statuses for part in parts], axis=1)[:, back])


def _whole(view: ViewPlan, rows: Rows, index: KeyIndex, resources: Resources) -> Part:
    """Return all rows as one part, which reads the source again for each input."""
    kept: pa.Array | None = None
    if view.where is not None:
        table = arrays(rows.read(sorted(view.where.columns())))
        kept = pa.array(is_true(view.where, table, rows.row_count))

    def read(columns: Sequence[str]) -> dict[str, pa.Array]:
        table = rows.read(columns)
        return arrays(table if kept is None else table.filter(kept))

    keys = read([key.name for key in view.entity.keys])
    codes = _codes(index, [keys[key.name] for key in view.entity.keys], resources.threads)
    return Part(codes, read)


def _codes(index: KeyIndex, keys: Sequence[pa.Array], threads: int) -> Ints:
    starts = range(0, len(keys[0]), _GATHER_ROWS)
    with ThreadPoolExecutor(threads) as pool:
        codes = pool.map(lambda at: index.codes([key.slice(at, _GATHER_ROWS) for key in keys]), starts)
        return np.concatenate([np.zeros(0, dtype=np.int64), *codes])


def _evaluate_part(
    view: ViewPlan, part: Part, queries: Queries, resources: Resources, hindsight: bool, progress: Share
) -> ViewColumns:
    order = _order(view, part, len(queries.offsets) - 1, resources.threads, hindsight)
    columns: list[pa.Array | None] = [None] * len(view.features)
    statuses = np.empty((len(view.features), queries.count), dtype=np.uint8)
    shared = _Shared()
    done: list[int] = []

    def run(number: int) -> None:
        chosen = [i for i, feature in enumerate(view.features) if feature.input == number]
        answers = _evaluate_input(
            view, number, [view.features[i] for i in chosen], part, order, queries, resources, shared
        )
        for i, (column, status) in zip(chosen, answers, strict=True):
            columns[i], statuses[i] = column, status
        done.append(number)
        progress(len(done) / len(view.inputs))

    with ThreadPoolExecutor(resources.threads) as pool:
        list(pool.map(run, range(len(view.inputs))))
    return ViewColumns(tuple(column for column in columns if column is not None), statuses)


def _order(view: ViewPlan, part: Part, entity_count: int, threads: int, hindsight: bool) -> _Order:
    columns = part.read([view.source.event_time, *ingest_columns(view)])
    event_time, ingest_time = read_times(view, columns, hindsight=hindsight)
    del columns
    rows, offsets, has_ties = time_order(part.codes, entity_count, event_time, ingest_time, threads=threads)
    if has_ties and any(aggregate_of(feature).needs_order_of_ties for feature in view.features):
        places, runs = tied_places(offsets, rows, event_time, ingest_time)
        order_by_content(places, runs, rows, [_content(source, part, rows[places]) for source in view.inputs])
    sorted_event_time = _gather(event_time, rows, threads)
    sorted_ingest_time = sorted_event_time if ingest_time is event_time else _gather(ingest_time, rows, threads)
    return _Order(rows, offsets, sorted_event_time, sorted_ingest_time)


def _content(source: InputPlan, part: Part, rows: Ints) -> tuple[Ints, Bytes]:
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
    part: Part,
    order: _Order,
    queries: Queries,
    resources: Resources,
    shared: _Shared,
) -> list[tuple[pa.Array, Bytes]]:
    """Compute all features of one input; results are in the order of ``features``."""
    source = view.inputs[number]
    columns = part.read(sorted(source.columns())) if source.columns() else {}
    array, flags = input_array(source, columns, len(part.codes))
    del columns
    answers: dict[FeaturePlan, tuple[pa.Array, Bytes]] = {}
    light = [feature for feature in features if not aggregate_of(feature).needs_values]
    heavy = [feature for feature in features if aggregate_of(feature).needs_values]
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
    shared: _Shared,
) -> dict[FeaturePlan, tuple[pa.Array, Bytes]]:
    """Compute features that depend on which events are members, but not on their values.

    The kernels aggregate row numbers in place of values. If all events are members with a value, the answer is the same
    for every input and is computed once.
    """
    is_full = bool((flags == MEMBER_VALUE).all())
    shape_of = {feature: _shape(feature) for feature in features}

    def answer(known: Collection[FeaturePlan]) -> dict[FeaturePlan, tuple[pa.Array, Bytes]]:
        wanted = sorted({shape for shape in shape_of.values() if shape not in known}, key=repr)
        if not wanted:
            return {}
        block = _block(order, order.rows, flags, resources.threads, None)
        answers = bind(_sub_view(view, _ROW, wanted)).answer(block, queries, threads=resources.threads)
        return {shape: (answers.column(i), answers.statuses[i]) for i, shape in enumerate(wanted)}

    if is_full:
        with shared.lock:
            shared.answers |= answer(shared.answers)
            known = dict(shared.answers)
    else:
        known = answer(())
    return {feature: _looked_up(feature, array, *known[shape]) for feature, shape in shape_of.items()}


def _shape(feature: FeaturePlan) -> FeaturePlan:
    """Return a feature without its name and input, which equal ones share; picked values are row numbers."""
    return replace(feature, name="", input=0, dtype=INT64 if aggregate_of(feature).picks_value else feature.dtype)


def _looked_up(
    feature: FeaturePlan, array: pa.Array | None, answer: pa.Array, statuses: Bytes
) -> tuple[pa.Array, Bytes]:
    """Replace row numbers by the values in these rows, where the feature picks one."""
    if not aggregate_of(feature).picks_value:
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
