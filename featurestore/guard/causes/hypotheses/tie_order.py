"""``tie_order``: events with equal times stood in another order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from featurestore.guard.causes.model import Assumption, Case, Hypothesis
from featurestore.guard.world.events import TieOrder
from featurestore.guard.world.world import ViewWorld, each_view

_ORDERS: tuple[tuple[TieOrder, str], ...] = (
    ("content reversed", "of events with equal times the one with the smallest content came last"),
    ("source", "events with equal times stood in the order of the source's rows"),
    ("source reversed", "events with equal times stood in the reverse order of the source's rows"),
)


def _propose(_: Case) -> Iterator[Assumption]:
    """Propose the orders other than the contract's."""
    for order, statement in _ORDERS:
        yield Assumption(
            statement,
            each_view(_with_order, order),
            {"order": order},
            fix="Order events by (event_time, ingest_time, content) on both roads, or give them times that differ.",
        )


def _with_order(view: ViewWorld, order: TieOrder) -> ViewWorld:
    return replace(view, ties=order)


TIE_ORDER = Hypothesis(
    "tie_order", rank=100, meaning="events with equal times stood in another order", propose=_propose
)
