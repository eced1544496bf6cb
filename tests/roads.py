"""Ways to ask the kernels about events: directly, and through the engine in one or several parts."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from featurestore.core.statuses import Status
from featurestore.core.temporal import NO_WATERMARK
from featurestore.kernels.evaluate import Answer, bind
from featurestore.kernels.events import arrange
from featurestore.kernels.keys import KeyIndex
from featurestore.offline.engine import ViewColumns, evaluate_view
from featurestore.offline.parts import Resources
from featurestore.plan.model import ViewPlan
from tests.strategies import Scenario


def query_arrays(plan: ViewPlan, queries) -> tuple[list[pa.Array], np.ndarray]:
    """Return the key columns and the instants of questions."""
    keys = [
        pa.array([key[number] for key, _ in queries], type=column.dtype.arrow)
        for number, column in enumerate(plan.entity.keys)
    ]
    return keys, np.array([as_of for _, as_of in queries], dtype=np.int64)


def ask(plan: ViewPlan, table: pa.Table, queries, *, watermark: int = NO_WATERMARK, threads: int = 1) -> Answer:
    """Ask the kernels."""
    index, codes = KeyIndex.build([table.column(key.name).combine_chunks() for key in plan.entity.keys])
    bound = bind(plan)
    prepared = bound.prepare(table)
    block = arrange(prepared, codes[prepared.rows], len(index))
    keys, as_of = query_arrays(plan, queries)
    return bound.evaluate(block, index.codes(keys), as_of, watermark=watermark, threads=threads)


def ask_scenario(scenario: Scenario, events=None, queries=None, **options) -> Answer:
    """Ask the kernels a scenario's questions, or others, about its events, or others."""
    return ask(scenario.plan, scenario.table(events), scenario.queries if queries is None else queries, **options)


class TableRows:
    """Rows of a source that lie in memory, as the engine wants them."""

    def __init__(self, table: pa.Table, batch_rows: int = 3) -> None:
        self.table, self.batch_rows = table, batch_rows

    @property
    def row_count(self) -> int:
        return self.table.num_rows

    def read(self, columns: Sequence[str]) -> pa.Table:
        return self.table.select(list(columns))

    @property
    def piece_count(self) -> int:
        return -(-self.table.num_rows // self.batch_rows)

    def read_piece(self, number: int, columns: Sequence[str]) -> pa.Table:
        return self.table.select(list(columns)).slice(number * self.batch_rows, self.batch_rows)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        yield from self.table.select(list(columns)).to_batches(max_chunksize=self.batch_rows)


ONE_PART = Resources(threads=1)
MANY_PARTS = Resources(threads=2, memory_bytes=600)
"""So little memory that a handful of events is split into parts."""


def through_engine(plan: ViewPlan, table: pa.Table, queries, resources: Resources) -> ViewColumns:
    """Ask through the offline engine."""
    keys, as_of = query_arrays(plan, queries)
    return evaluate_view(plan, TableRows(table), keys, as_of, resources=resources)


def status_names(codes) -> list[str]:
    return [Status(code).name for code in np.asarray(codes).tolist()]
