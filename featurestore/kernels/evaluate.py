"""The one function that turns events into feature values: ``bind(view).evaluate(events, queries)``.

The module does no I/O and reads no clock. The training-set builder calls it with many events and queries, the online
lookup with those of a few entities. No other code in the project computes an aggregated feature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from decimal import Context, Decimal
from functools import cached_property, lru_cache
from struct import Struct
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.core import temporal
from featurestore.core.columns import Bytes, Flags, Ints
from featurestore.core.dtypes import DType
from featurestore.core.errors import ValueOverflowError
from featurestore.core.statuses import NOT_FOUND, OVERFLOWED, PRESENT
from featurestore.core.temporal import NO_WATERMARK
from featurestore.core.values import one_chunk
from featurestore.kernels.core import evaluate_entities
from featurestore.kernels.events import NO_EVENT, EventBlock, PreparedEvents, in_parallel, move, time_order
from featurestore.kernels.expressions import Environment
from featurestore.kernels.expressions import evaluate as evaluate_expression
from featurestore.kernels.jit import inner, jit
from featurestore.kernels.program import (
    MEMBER_NULL,
    MEMBER_VALUE,
    NOT_MEMBER,
    Program,
    Slot,
    compile_program,
)
from featurestore.kernels.tasks import EventArrays, ProgramArrays, QueryArrays, ResultArrays
from featurestore.kernels.ways import bind_kernels
from featurestore.kernels.words import from_wide_words, from_words, reader_of, to_words, validity
from featurestore.plan.aggregations import aggregate_of
from featurestore.plan.model import FeaturePlan, InputPlan, TypedExpr, ViewPlan

_horizons = inner(temporal.horizons)


@dataclass(frozen=True)
class Answer:
    """Values of a view's features, one column per query, in the order of the queries.

    Attributes:
        features: What the rows of ``statuses`` are, in plan order.
        slots: For each feature its rows of ``words``.
        words: 64-bit words.
        statuses: ``Status`` codes, one row per feature.
        newest: Event time of the newest event each query saw, ``NO_EVENT`` if none.
        dictionaries: Per input of the view the values its words are codes of.
    """

    features: tuple[FeaturePlan, ...]
    slots: tuple[Slot, ...]
    words: Ints
    statuses: Bytes
    newest: Ints
    dictionaries: tuple[pa.Array | None, ...]

    def is_valid(self, index: int) -> Flags:
        """Return, per query, whether a feature has a value; counts always have one."""
        if aggregate_of(self.features[index]).over_no_rows is not None:
            return np.ones(self.words.shape[1], dtype=np.bool_)
        return np.asarray(self.statuses[index] == PRESENT, dtype=np.bool_)

    def column(self, index: int) -> pa.Array:
        """Return one feature as an Arrow column of its dtype."""
        feature, slot = self.features[index], self.slots[index]
        is_valid = self.is_valid(index)
        dictionary = self.dictionaries[feature.input] if self.dictionaries else None
        if feature.dtype.kind == "list" and slot.width > 1:
            return _list_column(self.words, slot, is_valid, feature.dtype, dictionary)
        if slot.width == 2:
            return self._wide_column(index, is_valid)
        return from_words(self.words[slot.row], is_valid, feature.dtype, dictionary)

    def _wide_column(self, index: int, is_valid: Flags) -> pa.Array:
        feature, row = self.features[index], self.slots[index].row
        return from_wide_words(self.words[row], self.words[row + 1], is_valid, feature.dtype)

    def columns(self) -> list[pa.Array]:
        """Return all features as Arrow columns, in plan order."""
        return [self.column(i) for i in range(len(self.features))]


Dictionaries = Callable[[int, int], Sequence[Any]]
"""Returns the values that the codes of (input, query) stand for."""

ReadValue = Callable[[list[list[int]], Dictionaries, int], Any]
"""Returns the value of a query that has one, from the answer's words and its dictionaries."""


@dataclass(frozen=True)
class Reader:
    """How a feature's Python values are read from an answer's words.

    Attributes:
        row: Row of words.
        is_float: Whether the words are floats.
        has_always: Whether every query has a value, whatever its status.
        value: Reads the value of one query; ``None`` if words are values.
    """

    row: int
    is_float: bool
    has_always: bool
    value: ReadValue | None


@dataclass(frozen=True)
class Picked:
    """A feature to read, among those of several views.

    Attributes:
        reader: How its values are read.
        view: Number of its view.
        feature: Its row of statuses, among those of all views.
        first_row: Row of words that its view begins at.
    """

    reader: Reader
    view: int
    feature: int
    first_row: int


def reader_of_feature(feature: FeaturePlan, slot: Slot) -> Reader:
    """Return how a feature's values are read."""
    is_plain = feature.dtype.kind in ("float64", "int64")
    return Reader(
        row=slot.row,
        is_float=feature.dtype.kind == "float64",
        has_always=aggregate_of(feature).over_no_rows is not None,
        value=None if is_plain else _value_reader(feature, slot),
    )


class RowReader:
    """Reads words as rows of Python values: whole columns of numbers at once, other dtypes value by value."""

    def __init__(self, picked: Sequence[Picked]) -> None:
        """Prepare to read features, in the order of a row's values."""
        self._picked = picked
        self._words = np.array([feature.first_row + feature.reader.row for feature in picked], dtype=np.int64)
        self._features = np.array([feature.feature for feature in picked], dtype=np.int64)
        self._can_be_null = [place for place, feature in enumerate(picked) if not feature.reader.has_always]
        self._without_value = lru_cache(maxsize=512)(self._find_without_value)
        # All numbers of a row are read at once. The words of other dtypes are read again, one by one.
        self._row = Struct("=" + "".join("d" if feature.reader.is_float else "q" for feature in picked))
        self._others = [(place, feature) for place, feature in enumerate(picked) if feature.reader.value is not None]

    def read(self, words: Ints, statuses: Bytes, dictionaries: Sequence[Dictionaries]) -> tuple[list[list[Any]], Bytes]:
        """Return one row per query, ``None`` for null; and the statuses, one row per feature picked.

        Args:
            words: Words of all views, view behind view.
            statuses: Statuses of all features, likewise.
            dictionaries: Per view a function that returns the values that codes stand for.
        """
        codes = statuses.take(self._features, axis=0)
        chosen = words.take(self._words, axis=0)
        if self._picked:
            rows: list[list[Any]] = [list(row) for row in self._row.iter_unpack(chosen.T.tobytes())]
        else:
            rows = [[] for _ in range(words.shape[1])]
        width, all_codes = len(self._picked), codes.T.tobytes()
        for query, row in enumerate(rows):
            for place in self._without_value(all_codes[query * width : (query + 1) * width]):
                row[place] = None
        if self._others:
            self._read_others(rows, words.tolist(), codes.tolist(), dictionaries)
        return rows, codes

    def _find_without_value(self, codes: bytes) -> tuple[int, ...]:
        """Return the places of a row that have no value; cached, since rows have few combinations of statuses."""
        return tuple([place for place in self._can_be_null if codes[place] != PRESENT])

    def _read_others(
        self,
        rows: list[list[Any]],
        words: list[list[int]],
        codes: list[list[int]],
        dictionaries: Sequence[Dictionaries],
    ) -> None:
        for place, feature in self._others:
            value, find = feature.reader.value, dictionaries[feature.view]
            assert value is not None
            view_words = words[feature.first_row :]
            for query, (row, code) in enumerate(zip(rows, codes[place], strict=True)):
                if code == PRESENT:
                    row[place] = value(view_words, find, query)


def _value_reader(feature: FeaturePlan, slot: Slot) -> ReadValue:
    row, source, dtype = slot.row, feature.input, feature.dtype
    if dtype.kind == "decimal" and slot.width == 2:
        return lambda whole, find, q: _wide_decimal(whole[row][q], whole[row + 1][q], dtype)
    if slot.width > 1:
        assert dtype.item is not None
        item = reader_of(dtype.item)

        def read_list(whole: list[list[int]], find: Dictionaries, q: int) -> list[Any]:
            dictionary = find(source, q)
            return [item(words[q], dictionary) for words in whole[row + 1 : row + 1 + whole[row][q]]]

        return read_list
    value = reader_of(dtype)
    return lambda whole, find, q: value(whole[row][q], find(source, q))


def _wide_decimal(low: int, high: int, dtype: DType) -> Any:
    unscaled = (high << 64) | (low & 0xFFFFFFFFFFFFFFFF)
    return Decimal(unscaled).scaleb(-dtype.scale, context=Context(prec=60))


def _list_column(words: Ints, slot: Slot, is_valid: Flags, dtype: DType, dictionary: pa.Array | None) -> pa.Array:
    """Gather lists from fixed slots: the first row holds lengths, the others items, oldest first."""
    assert dtype.item is not None
    lengths = np.where(is_valid, words[slot.row], 0)
    width = slot.width - 1
    taken = np.arange(width)[None, :] < lengths[:, None]
    items = words[slot.row + 1 : slot.row + slot.width].T[taken]
    values = from_words(items, np.ones(len(items), dtype=np.bool_), dtype.item, dictionary)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    missing = ~is_valid
    return pa.ListArray.from_arrays(
        pa.array(offsets), values, type=dtype.arrow, mask=pa.array(missing) if missing.any() else None
    )


@dataclass(frozen=True)
class Queries:
    """Queries about a block of events, sorted by entity and by the events that they see.

    Attributes:
        offsets: Queries about entity ``e`` are ``offsets[e]:offsets[e + 1]``.
        as_of: Instants, microseconds.
        watermark: For each the exclusive bound of the ingest times that the block holds in full; events from beyond it
            are not used.
        target: For each the column of the answer it belongs to.
        count: Columns of the answer, including queries about unknown entities.
    """

    offsets: Ints
    as_of: Ints
    watermark: Ints
    target: Ints
    count: int


def arrange_queries(entity: Ints, as_of: Ints, entity_count: int, *, watermark: int = NO_WATERMARK) -> Queries:
    """Sort queries as the kernels read them.

    Args:
        entity: Entity code of each query; negative ones are answered as not found.
        as_of: Instant of each, microseconds.
        entity_count: Count of entities of the block.
        watermark: Watermark of all queries.
    """
    target, offsets, _ = time_order(entity, entity_count, as_of, as_of)
    return Queries(offsets, as_of[target], np.full(len(target), watermark, dtype=np.int64), target, len(as_of))


def arrange_watermarked(
    view: ViewPlan, entity: Ints, as_of: Ints, entity_count: int, *, watermark: Ints
) -> Iterator[Queries]:
    """Sort queries that have a watermark each.

    Args:
        view: The view, for its refresh.
        entity: Entity code of each query; negative ones are answered as not found.
        as_of: Instant of each, microseconds.
        entity_count: Count of entities of the block.
        watermark: Watermark of each.

    Yields:
        Batches of arranged queries, which together are all queries about known entities. There are as few batches as
        possible so that within an entity of a batch each query sees all that the one before sees. One is enough unless
        later queries have older watermarks.
    """
    event_bound, ingest_bound = bounds_of(view, as_of, watermark)
    batch = np.zeros(len(as_of), dtype=np.int64)
    if view.refresh.period_us == 0:
        target, offsets, _ = time_order(entity, entity_count, event_bound, ingest_bound)
        _assign_batches(offsets, target, ingest_bound, batch)
    for number in range(int(batch.max(initial=-1)) + 1):
        members = np.where(batch == number, entity, -1)
        target, offsets, _ = time_order(members, entity_count, event_bound, ingest_bound)
        yield Queries(offsets, as_of[target], watermark[target], target, len(as_of))


def bounds_of(view: ViewPlan, as_of: Ints, watermark: Ints) -> tuple[Ints, Ints]:
    """Return the event bound and the ingest bound of queries, both exclusive.

    Args:
        view: The view, for its refresh.
        as_of: Instants, microseconds.
        watermark: Per query the exclusive bound of the ingest times that the events hold in full.
    """
    bounds = np.empty((2, len(as_of)), dtype=np.int64)
    _bounds(as_of, watermark, view.refresh.period_us, view.refresh.lag_us, int(view.source.inclusive), bounds)
    return bounds[0], bounds[1]


@jit
def _bounds(as_of: Ints, watermark: Ints, period_us: int, lag_us: int, inclusive: int, bounds: Ints) -> None:
    """Write the bounds of queries.

    Args:
        as_of: Instants asked about.
        watermark: Watermark of each.
        period_us: Refresh period.
        lag_us: Refresh lag.
        inclusive: 1 if events at the horizon itself are seen, else 0.
        bounds: Receives the event bounds and, in the second row, the ingest bounds.
    """
    for i in range(as_of.size):
        bounds[0, i], bounds[1, i] = _horizons(as_of[i], watermark[i], period_us, lag_us, inclusive)


@jit
def _assign_batches(offsets: Ints, order: Ints, bound: Ints, batch: Ints) -> None:
    """Give each query of an entity the first batch whose last ingest bound does not lie beyond its own.

    Args:
        offsets: Queries of entity ``e`` are ``order[offsets[e]:offsets[e + 1]]``.
        order: Queries in the order of their event bounds.
        bound: Ingest bound of each query.
        batch: Result, the number of each query's batch.
    """
    for entity in range(offsets.size - 1):
        low, high = offsets[entity], offsets[entity + 1]
        last = np.full(high - low, temporal.NOTHING_YET)
        for q in range(low, high):
            chosen = 0
            while last[chosen] > bound[order[q]]:
                chosen += 1
            batch[order[q]] = chosen
            last[chosen] = bound[order[q]]


class BoundView:
    """A view's plan with its kernels; it is built once and used for every block of events.

    Attributes:
        view: The plan.
        program: Its features as tables of numbers.
        policy: Refresh period, refresh lag, inclusive.
        readers: Per feature how its Python values are read from words.
    """

    def __init__(self, view: ViewPlan) -> None:
        self.view = view
        self.program: Program = compile_program(view)
        self.is_float = tuple(is_float_input(source) for source in view.inputs)
        self.readers = [
            reader_of_feature(feature, slot) for feature, slot in zip(view.features, self.program.slots, strict=True)
        ]
        self.policy = (view.refresh.period_us, view.refresh.lag_us, int(view.source.inclusive))

    @cached_property
    def _arrays(self) -> ProgramArrays:
        """The program with its kernels, which are compiled when the first block is evaluated."""
        program, kernels = self.program, bind_kernels(self.program)
        return ProgramArrays(
            policy=np.array(self.policy, dtype=np.int64),
            windows=program.windows,
            groups=program.groups,
            features=program.features,
            folds=kernels.folds,
            finishes=kernels.finishes,
        )

    def prepare(self, table: pa.Table) -> PreparedEvents:
        """Evaluate the view's row expressions.

        Args:
            table: The source's columns that the view needs, in contract dtypes, in any row order.

        Returns:
            The events for which ``where`` is true, in the table's order, with their inputs as words.
        """
        prepared, inputs = self.prepare_inputs(table)
        values = np.array(inputs, dtype=np.int64).reshape(len(inputs), len(prepared))
        return replace(prepared, values=values)

    def prepare_inputs(self, table: pa.Table) -> tuple[PreparedEvents, list[Ints]]:
        """Do the same without putting the inputs together, for callers that want few of the events.

        Returns:
            The events without their words; and the words, input by input.
        """
        columns = {name: one_chunk(table.column(name)) for name in table.column_names}
        rows = np.arange(table.num_rows, dtype=np.int64)
        if self.view.where is not None:
            kept = is_true(self.view.where, columns, table.num_rows)
            rows = np.flatnonzero(kept)
            columns = {name: column.filter(pa.array(kept)) for name, column in columns.items()}
        source = self.view.source
        event_time, _ = to_words(columns[source.event_time], _dtype_of(self.view, source.event_time))
        ingest = source.ingest_time
        ingest_time = event_time if ingest is None else to_words(columns[ingest], _dtype_of(self.view, ingest))[0]
        inputs = [input_words(source_input, columns, len(rows)) for source_input in self.view.inputs]
        prepared = PreparedEvents(
            rows=rows,
            event_time=event_time,
            ingest_time=ingest_time,
            values=np.empty((0, len(rows)), dtype=np.int64),
            flags=np.array([flags for _, flags, _ in inputs], dtype=np.uint8).reshape(len(inputs), len(rows)),
            dictionaries=tuple(dictionary for _, _, dictionary in inputs),
            is_float=self.is_float,
        )
        return prepared, [words for words, _, _ in inputs]

    def evaluate(
        self, block: EventBlock, entity: Ints, as_of: Ints, *, watermark: int = NO_WATERMARK, threads: int = 1
    ) -> Answer:
        """Compute every feature for every query.

        Args:
            block: Arranged events.
            entity: Entity of each query as a code of the block; -1 if it is not in it.
            as_of: Instant of each query, microseconds.
            watermark: Exclusive bound of the ingest times the block holds in full; events from beyond it are not used.
            threads: How many threads share the entities.

        Returns:
            The answer, one column per query in their order; the same bits for every number of threads.

        Raises:
            ValueOverflowError: An integer sum does not fit into int64.
        """
        queries = arrange_queries(entity, as_of, len(block.offsets) - 1, watermark=watermark)
        return self.answer(block, queries, threads=threads)

    def evaluate_each(
        self, block: EventBlock, entity: Ints, as_of: Ints, *, watermark: Ints, threads: int = 1
    ) -> Answer:
        """Compute every feature for queries that have a watermark each; see ``evaluate``."""
        count = len(block.offsets) - 1
        answer = self._empty_answer(block, len(as_of))
        for queries in arrange_watermarked(self.view, entity, as_of, count, watermark=watermark):
            self._write(answer, block, queries, threads)
        return answer

    def answer(self, block: EventBlock, queries: Queries, *, threads: int = 1) -> Answer:
        """Compute every feature for queries that are arranged already; see ``evaluate``."""
        answer = self._empty_answer(block, queries.count)
        if queries.count < _MANY_QUERIES:
            self._write(answer, block, queries, threads)
            return answer
        # Answers to many queries are written side by side and moved to their places at the end, row by row: to write
        # each to its place at once costs a cache miss every time.
        self._write(answer, block, replace(queries, target=np.arange(len(queries.target))), threads)
        moved = [*((row, 0) for row in answer.words), *((row, NOT_FOUND) for row in answer.statuses)]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda row: move(row[0], queries.target, row[1]), [*moved, (answer.newest, NO_EVENT)]))
        return answer

    def _empty_answer(self, block: EventBlock, count: int) -> Answer:
        words = np.zeros((self.program.row_count, count), dtype=np.int64)
        statuses = np.empty((len(self.view.features), count), dtype=np.uint8)
        statuses.fill(NOT_FOUND)
        newest = np.empty(count, dtype=np.int64)
        newest.fill(NO_EVENT)
        return Answer(self.view.features, self.program.slots, words, statuses, newest, block.dictionaries)

    def _write(self, answer: Answer, block: EventBlock, queries: Queries, threads: int) -> None:
        events = EventArrays(
            _plain(block.offsets),
            _plain(block.event_time),
            _plain(block.ingest_time),
            _plain(block.values),
            _plain(block.flags),
        )
        query_arrays = QueryArrays(
            _plain(queries.offsets), _plain(queries.as_of), _plain(queries.watermark), _plain(queries.target)
        )
        results = ResultArrays(answer.words, answer.statuses, answer.newest)
        program = self._arrays

        def run(first: int, stop: int) -> bool:
            return evaluate_entities(first, stop, events, query_arrays, program, results)

        if in_parallel(run, block.offsets, threads):
            self.raise_overflow(answer.statuses)

    def raise_overflow(self, statuses: Bytes) -> NoReturn:
        """Raise ``ValueOverflowError`` for the features whose sums did not fit."""
        broken = [f.name for f, row in zip(self.view.features, statuses, strict=True) if (row == OVERFLOWED).any()]
        raise overflow(self.view.name, broken)


def _plain(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array of the kind that kernels are compiled for, contiguous and writable; a copy only if it is not."""
    return array if array.flags.c_contiguous and array.flags.writeable else array.copy()


def overflow(view: str, features: Sequence[str], *, field: str = "") -> ValueOverflowError:
    """Return the error for features whose exact sums do not fit into int64.

    Args:
        view: Name of their view.
        features: Their names, or those of their columns.
        field: JSON pointer to the entity in a request, if there is one.
    """
    return ValueOverflowError(
        f"the exact sum of {', '.join(repr(name) for name in features)} does not fit into int64",
        where=f"feature view '{view}'",
        field=field,
        hint="Sum it as float64 or decimal: agg.sum(col(…).cast('float64')).",
    )


_MANY_QUERIES = 1 << 14


@lru_cache(maxsize=1024)
def bind(view: ViewPlan) -> BoundView:
    """Return the view with its kernels; equal plans share one."""
    return BoundView(view)


def is_true(expression: TypedExpr, columns: Mapping[str, pa.Array], length: int) -> Flags:
    """Evaluate a condition; null counts as not true."""
    truth = evaluate_expression(expression, Environment(columns=columns, length=length))
    return np.asarray(truth.fill_null(False).to_numpy(zero_copy_only=False), dtype=np.bool_)


def input_array(source: InputPlan, columns: Mapping[str, pa.Array], length: int) -> tuple[pa.Array | None, Bytes]:
    """Evaluate one input over a table that the view's ``where`` has passed.

    Returns:
        The values, ``None`` if events themselves are counted; and per event ``NOT_MEMBER``, ``MEMBER_NULL`` or
        ``MEMBER_VALUE``.
    """
    array = None
    flags = np.full(length, MEMBER_VALUE, dtype=np.uint8)
    if source.value is not None:
        array = evaluate_expression(source.value, Environment(columns=columns, length=length))
        if array.null_count:
            flags[~validity(array)] = MEMBER_NULL
    if source.where is not None:
        flags[~is_true(source.where, columns, length)] = NOT_MEMBER
    return array, flags


def input_words(source: InputPlan, columns: Mapping[str, pa.Array], length: int) -> tuple[Ints, Bytes, pa.Array | None]:
    """Evaluate one input as words.

    Returns:
        Words, flags, and the dictionary the words are codes of. Events that are not members, or whose value is null,
        have the word 0, so that equal content has equal words.
    """
    array, flags = input_array(source, columns, length)
    if array is None or source.value is None:
        return np.zeros(length, dtype=np.int64), flags, None
    words, dictionary = to_words(array, source.value.dtype)
    if source.where is not None:
        words = np.where(flags == NOT_MEMBER, 0, words)
    return words, flags, dictionary


def is_float_input(source: InputPlan) -> bool:
    """Return whether an input's words are the bits of floats."""
    return source.value is not None and source.value.dtype.kind == "float64"


def _dtype_of(view: ViewPlan, name: str) -> DType:
    return next(column.dtype for column in view.source.columns if column.name == name)
