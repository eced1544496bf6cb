"""Lists whose items stand in another order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa

from featurestore.guard.causes.altering import changed, dtype_of, each
from featurestore.guard.causes.model import Case, Hypothesis, Variant


def _sorted(items: list[Any]) -> list[Any]:
    """Sort items, nulls last."""
    return sorted(items, key=lambda item: (item is None, item if item is not None else 0))


_ORDERS: tuple[tuple[str, Callable[[list[Any]], list[Any]]], ...] = (
    ("in reverse", lambda items: items[::-1]),
    ("sorted", _sorted),
    ("sorted from the largest on", lambda items: _sorted(items)[::-1]),
)


def list_order(case: Case) -> Iterator[Variant]:
    """Propose that items of lists were turned around, or sorted."""
    lists = frozenset(output for output in case.outputs if dtype_of(case, output).kind == "list")
    for said, change in _ORDERS if lists else ():
        yield Variant(
            "list_order",
            f"items of lists are served {said}",
            changed(partial(_reordered, change)),
            {"order": said},
            outputs=lists,
            fix="Serve items of lists in the order they are computed in, from the oldest event to the newest.",
        )


def _reordered(change: Callable[[list[Any]], list[Any]], array: pa.Array) -> pa.Array:
    return each(array, change) if pa.types.is_list(array.type) else array


LIST_ORDER = Hypothesis("list_order", "items of lists stand in another order", list_order)
