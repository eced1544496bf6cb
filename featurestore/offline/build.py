"""A service's columns for the rows of a spine: every view through the engine, then the on-demand features.

Training sets and audits are built by this one function; it writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Bytes
from featurestore.kernels.on_demand import finish
from featurestore.offline.engine import ViewColumns, evaluate_view
from featurestore.offline.parts import Resources, Rows
from featurestore.plan.model import Plan, ViewUse
from featurestore.plan.names import AS_OF
from featurestore.storage.progress import Share, silent

_SHARE_FOR_ANSWERS = 0.5
_BYTES_PER_VALUE = 20


@dataclass(frozen=True)
class Features:
    """A service's answer to a spine, in the spine's row order.

    Attributes:
        values: One array per output, in the order of ``plan.outputs``.
        statuses: ``Status`` codes per output.
    """

    values: dict[str, pa.Array]
    statuses: dict[str, Bytes]


def compute_features(
    plan: Plan,
    spine: pa.Table,
    sources: Mapping[str, Rows],
    *,
    resources: Resources,
    hindsight: bool = False,
    progress: Callable[[ViewUse], Share] = lambda _: silent,
    observe: Callable[[ViewUse, ViewColumns], None] = lambda *_: None,
) -> Features:
    """Compute a service's features at each row's ``as_of``.

    Args:
        plan: The service.
        spine: Key columns, ``as_of`` and request inputs in contract dtypes; other columns are ignored.
        sources: The events each view of the plan reads, by view name.
        resources: Threads and memory.
        hindsight: Whether to treat every event as known from its event time on.
        progress: Returns, for each use of a view, the function to report its progress to.
        observe: Called with the features of each use of a view.

    Returns:
        Exactly one value per output and spine row.
    """
    as_of = _one(spine, AS_OF)
    instants = np.ascontiguousarray(as_of.cast(pa.int64()).to_numpy(zero_copy_only=False))
    columns: dict[str, pa.Array] = {}
    statuses: dict[str, Bytes] = {}
    for use in plan.uses:
        answer = evaluate_view(
            use.view,
            sources[use.view.name],
            [_one(spine, key) for key in use.keys],
            instants,
            resources=resources,
            hindsight=hindsight,
            progress=progress(use),
        )
        observe(use, answer)
        for name, column, status in zip(use.columns, answer.columns, answer.statuses, strict=True):
            columns[name], statuses[name] = column, status
    requests = {column.name: _one(spine, column.name) for column in plan.request}
    values, codes = finish(plan, columns, statuses, requests, as_of)
    return Features(values, codes)


def questions_of(spine: pa.Table, plan: Plan, as_of: str) -> pa.Table:
    """Return the columns that ``compute_features`` needs of a spine whose instants are in a column of any name.

    Args:
        spine: Key columns, instants and request inputs in contract dtypes, among other columns.
        plan: The service.
        as_of: Column of the instants.

    Returns:
        The instants as ``as_of``, the key columns and the request inputs; the spine's rows in the spine's order.
    """
    names = [column.name for column in (*plan.join_keys, *plan.request)]
    return pa.table({AS_OF: spine.column(as_of)} | {name: spine.column(name) for name in names if name != AS_OF})


def in_pieces(plan: Plan, row_count: int, resources: Resources) -> Iterator[tuple[int, int]]:
    """Return ranges of spine rows, so that the features of one range fit into memory.

    Yields:
        ``(offset, length)`` of consecutive ranges; one empty range for an empty spine.
    """
    length = max(1, row_count)
    if resources.memory_bytes is not None:
        width = _BYTES_PER_VALUE * (len(plan.on_demand) + sum(len(use.view.features) for use in plan.uses))
        length = min(length, max(100_000, int(resources.memory_bytes * _SHARE_FOR_ANSWERS) // max(1, width)))
    for offset in range(0, max(1, row_count), length):
        yield offset, min(length, row_count - offset)


def _one(table: pa.Table, name: str) -> pa.Array:
    return table.column(name).combine_chunks()
