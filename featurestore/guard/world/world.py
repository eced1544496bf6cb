"""A world: everything an answer follows from. A hypothesis is a change of one, and the kernels say what would follow.

Nothing here knows a rule of values: a world is evaluated by the same kernels that build training sets, on just the
events of the entities in question.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Bytes, Flags, Ints
from featurestore.core.dtypes import TIMESTAMP
from featurestore.core.statuses import NOT_FOUND
from featurestore.core.temporal import NO_WATERMARK
from featurestore.guard.world.events import (
    Events,
    TieOrder,
    picked,
    spread,
)
from featurestore.kernels.evaluate import bind, bounds_of
from featurestore.kernels.events import EventBlock
from featurestore.kernels.keys import UNKNOWN
from featurestore.kernels.on_demand import finish
from featurestore.plan.model import FeaturePlan, OnDemandFeature, Plan, TypedExpr, ViewPlan, ViewUse
from featurestore.plan.names import feature_column


@dataclass(frozen=True)
class Values:
    """One feature of some rows.

    Attributes:
        values: An array of its dtype.
        statuses: ``Status`` codes.
    """

    values: pa.Array
    statuses: Bytes


Transform = Callable[["World", str, Values], Values]
"""What happens to a computed feature before it is served: (world, output name, computed) to served."""


@dataclass(frozen=True)
class ViewWorld:
    """One view of a service, as it is taken to have been.

    Attributes:
        view: Its plan.
        events: The events its source holds.
        keys: Per row the entity asked about, key columns in entity order.
        watermark: Per row the exclusive bound of the ingest times its state held in full; ``None`` for all there are.
        hindsight: Whether every event counts as known from its event time on.
        ties: How events of equal times stand.
        is_missing: Rows whose entity is not there at all; ``None`` for none.
        own: Events of each row by itself, one entity per row; ``None`` if rows share the events.
        shift_us: How much later than asked the view is answered; values age as if it were not.
    """

    view: ViewPlan
    events: Events
    keys: tuple[pa.Array, ...]
    watermark: Ints | None = None
    hindsight: bool = False
    ties: TieOrder = "content"
    is_missing: Flags | None = None
    own: EventBlock | None = None
    shift_us: int = 0

    def take(self, rows: Ints) -> ViewWorld:
        """Return the same for some of the rows."""
        places = pa.array(rows)
        own = self.own
        if own is not None:
            chosen, offsets = spread(own.offsets[rows], own.offsets[rows + 1])
            own = picked(own, chosen, offsets)
        return replace(
            self,
            keys=tuple(key.take(places) for key in self.keys),
            watermark=None if self.watermark is None else self.watermark[rows],
            is_missing=None if self.is_missing is None else self.is_missing[rows],
            own=own,
        )

    def entities(self) -> tuple[EventBlock, Ints]:
        """Return the events, and per row the code of its entity."""
        if self.own is not None:
            codes = np.arange(len(self.own.offsets) - 1, dtype=np.int64)
            block = self.own
        else:
            block = self.events.arranged(self.view, hindsight=self.hindsight, ties=self.ties).block
            codes = self.events.index[0].codes(self.keys)
        return block, codes if self.is_missing is None else np.where(self.is_missing, UNKNOWN, codes)


@dataclass(frozen=True)
class World:
    """What the rows of an audit are answered from.

    Attributes:
        plan: The definitions.
        log: The rows as they were logged, with what the audit adds to them.
        as_of: Instants asked about, µs.
        views: The views by alias.
        requests: Request inputs by name.
        fills: Values that stand for null in features of views, by ``alias__feature``.
        transforms: What is done to the answer, one after the other.
    """

    plan: Plan
    log: pa.Table
    as_of: Ints
    views: Mapping[str, ViewWorld]
    requests: Mapping[str, pa.Array]
    fills: Mapping[str, Any] = field(default_factory=dict)
    transforms: tuple[Transform, ...] = ()

    def __len__(self) -> int:
        return len(self.as_of)

    def take(self, rows: Ints) -> World:
        """Return the same world for some of the rows."""
        places = pa.array(rows)
        return replace(
            self,
            log=self.log.take(places),
            as_of=self.as_of[rows],
            views={alias: view.take(rows) for alias, view in self.views.items()},
            requests={name: column.take(places) for name, column in self.requests.items()},
        )

    def with_views(self, change: Callable[[ViewWorld], ViewWorld | None]) -> World | None:
        """Change every view; ``None`` if the change concerns none of them."""
        changed = {alias: change(view) for alias, view in self.views.items()}
        if all(view is None for view in changed.values()):
            return None
        return replace(self, views={alias: view or self.views[alias] for alias, view in changed.items()})

    def column(self, name: str) -> pa.Array:
        """Return one column of the log."""
        return self.log.column(name).combine_chunks()


def each_view(change: Callable[..., ViewWorld | None], *given: Any) -> Callable[[World], World | None]:
    """Return a change of worlds that changes every view: ``change(view, *given)``."""
    return lambda world: world.with_views(lambda view: change(view, *given))


def of_view(alias: str, change: Callable[..., ViewWorld | None], *given: Any) -> Callable[[World], World | None]:
    """Return a change of worlds that changes one view: ``change(view, *given)``."""

    def apply(world: World) -> World | None:
        changed = change(world.views[alias], *given) if alias in world.views else None
        return None if changed is None else replace(world, views={**world.views, alias: changed})

    return apply


def answer(world: World, outputs: Collection[str], *, threads: int = 1) -> dict[str, Values]:
    """Compute features of a world's rows.

    Args:
        world: The world.
        outputs: Names of outputs of its plan.
        threads: Threads of the kernels.

    Returns:
        The outputs by name.

    Raises:
        ValueOverflowError: An integer sum does not fit.
    """
    plan = _reduced(world.plan, outputs)
    needed = {output.column for output in plan.outputs} | _operands(plan.on_demand)
    columns: dict[str, pa.Array] = {}
    statuses: dict[str, Bytes] = {}
    for use in world.plan.uses:
        features = [
            feature for feature in _view(world, use).features if feature_column(use.alias, feature.name) in needed
        ]
        if not features:
            continue
        found = _answer_view(world.views[use.alias], features, world.as_of, threads)
        for feature, values in zip(features, found, strict=True):
            name = feature_column(use.alias, feature.name)
            filled = _filled(values, world.fills.get(name))
            columns[name], statuses[name] = filled.values, filled.statuses
    instants = pa.array(world.as_of).cast(TIMESTAMP.arrow)
    values_of, codes_of = finish(plan, columns, statuses, world.requests, instants)
    answered = {name: Values(values_of[name], codes_of[name]) for name in values_of}
    for transform in world.transforms:
        answered = {name: transform(world, name, values) for name, values in answered.items()}
    return answered


def _view(world: World, use: ViewUse) -> ViewPlan:
    return world.views[use.alias].view


def _filled(values: Values, fill: Any) -> Values:
    if fill is None or values.values.null_count == 0:
        return values
    is_null = values.values.is_null().to_numpy(zero_copy_only=False)
    statuses = np.where(is_null, np.uint8(0), values.statuses)
    return Values(values.values.fill_null(pa.scalar(fill, type=values.values.type)), statuses)


def _answer_view(world: ViewWorld, features: list[FeaturePlan], as_of: Ints, threads: int) -> list[Values]:
    """Evaluate some features of one view."""
    aged = [_aged(feature, world.shift_us) for feature in features]
    bound = bind(replace(world.view, features=tuple(aged)))
    as_of = as_of + world.shift_us
    block, codes = world.entities()
    if world.watermark is None:
        found = bound.evaluate(block, codes, as_of, threads=threads)
    else:
        found = bound.evaluate_each(block, codes, as_of, watermark=world.watermark, threads=threads)
    return [Values(found.column(i), found.statuses[i]) for i in range(len(features))]


def _aged(feature: FeaturePlan, shift_us: int) -> FeaturePlan:
    """Let a value live longer by a shift, so that its age still counts from the instant asked about."""
    if shift_us == 0 or feature.ttl_us is None:
        return feature
    return replace(feature, ttl_us=max(0, feature.ttl_us + shift_us))


def event_bounds(view: ViewPlan, as_of: Ints) -> tuple[Ints, Ints]:
    """Return the event bound and the ingest bound of questions to a road that holds everything."""
    return bounds_of(view, as_of, np.full(len(as_of), NO_WATERMARK, dtype=np.int64))


def stale_rows(view: ViewPlan, as_of: Ints, watermark: Ints) -> Flags:
    """Tell per question whether a watermark lies behind what the view's refresh promises."""
    if view.refresh.period_us == 0:
        return np.zeros(len(as_of), dtype=np.bool_)
    return np.asarray(watermark < event_bounds(view, as_of)[1], dtype=np.bool_)


def _reduced(plan: Plan, outputs: Collection[str]) -> Plan:
    """Return a plan of some outputs only, and of the on-demand features they need."""
    chosen = tuple(output for output in plan.outputs if output.name in outputs)
    needed = {output.column for output in chosen}
    kept: list[OnDemandFeature] = []
    for feature in reversed(plan.on_demand):
        if feature.column in needed:
            kept.append(feature)
            needed |= _operands((feature,))
    return replace(plan, outputs=chosen, on_demand=tuple(reversed(kept)))


def _operands(features: Collection[OnDemandFeature]) -> set[str]:
    """Return the columns that on-demand features read."""
    found: set[str] = set()
    waiting: list[TypedExpr] = [feature.expression for feature in features]
    while waiting:
        node = waiting.pop()
        if node.op == "feature":
            found.add(str(node.param("column")))
        waiting += node.args
    return found


def operands(plan: Plan, output: str) -> set[str]:
    """Return the columns of views and on-demand features that an output is made of, its own included."""
    column = next(found.column for found in plan.outputs if found.name == output)
    needed = {column}
    for feature in reversed(plan.on_demand):
        if feature.column in needed:
            needed |= _operands((feature,))
    return needed


def missing(count: int) -> Bytes:
    """Return statuses of rows whose entity is not there."""
    return np.full(count, NOT_FOUND, dtype=np.uint8)
