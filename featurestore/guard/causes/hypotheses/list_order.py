"""``list_order``: lists whose items stand in another order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa

from featurestore.guard.causes.altering import alter, map_values
from featurestore.guard.causes.model import Assumption, Case, Hypothesis


def _sorted(items: list[Any]) -> list[Any]:
    """Sort items, nulls last."""
    return sorted(items, key=lambda item: (item is None, item if item is not None else 0))


_ORDERS: tuple[tuple[str, Callable[[list[Any]], list[Any]]], ...] = (
    ("in reverse", lambda items: items[::-1]),
    ("sorted", _sorted),
    ("sorted from the largest on", lambda items: _sorted(items)[::-1]),
)


def _propose(case: Case) -> Iterator[Assumption]:
    """Propose that items of lists were reversed or sorted."""
    lists = frozenset(output for output in case.outputs if case.dtype(output).kind == "list")
    for order, change in _ORDERS if lists else ():
        yield Assumption(
            f"items of lists are served {order}",
            alter(partial(_reordered, change)),
            {"order": order},
            outputs=lists,
            fix="Serve items of lists in the order they are computed in, from the oldest event to the newest.",
        )


def _reordered(change: Callable[[list[Any]], list[Any]], array: pa.Array) -> pa.Array:
    return map_values(array, change) if pa.types.is_list(array.type) else array


LIST_ORDER = Hypothesis(
    "list_order", rank=140, meaning="items of lists stand in another order", propose=_propose, alters_values=True
)
