"""A world: everything an answer follows from. An assumption changes it, and the kernels compute what would follow.

Nothing here computes a feature value: a world is evaluated by the same kernels that build training sets, on just the
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
from featurestore.core.statuses import NOT_FOUND, PRESENT
from featurestore.core.temporal import NO_WATERMARK
from featurestore.guard.world.events import (
    Events,
    TieOrder,
    join_ranges,
    pick,
)
from featurestore.kernels.evaluate import bind, bounds_of
from featurestore.kernels.events import EventBlock
from featurestore.kernels.keys import UNKNOWN
from featurestore.kernels.on_demand import finish
from featurestore.plan.model import FeaturePlan, OnDemandFeature, Plan, TypedExpr, ViewPlan
from featurestore.plan.names import feature_column, view_of
from featurestore.serving_log.columns import watermark_column


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
    """One view of a service, as it is assumed to have been.

    Attributes:
        view: Its plan.
        events: The events its source holds.
        keys: Per row the entity asked about, key columns in entity order.
        watermark: Per row the exclusive bound of the ingest times its state held in full; ``None`` for all there are.
        hindsight: Whether every event counts as known from its event time on.
        ties: The order of events with equal times.
        is_missing: Rows whose entity is not there at all; ``None`` for none.
        row_events: The events of each row, one entity per row; ``None`` if rows share ``events``.
        shift_us: How much later than asked the view is answered; values age as if it were not.
    """

    view: ViewPlan
    events: Events
    keys: tuple[pa.Array, ...]
    watermark: Ints | None = None
    hindsight: bool = False
    ties: TieOrder = "content"
    is_missing: Flags | None = None
    row_events: EventBlock | None = None
    shift_us: int = 0

    def take(self, rows: Ints) -> ViewWorld:
        """Return the same for some of the rows."""
        places = pa.array(rows)
        row_events = self.row_events
        if row_events is not None:
            chosen, offsets = join_ranges(row_events.offsets[rows], row_events.offsets[rows + 1])
            row_events = pick(row_events, chosen, offsets)
        return replace(
            self,
            keys=tuple(key.take(places) for key in self.keys),
            watermark=None if self.watermark is None else self.watermark[rows],
            is_missing=None if self.is_missing is None else self.is_missing[rows],
            row_events=row_events,
        )

    def entities(self) -> tuple[EventBlock, Ints]:
        """Return the events, and per row the code of its entity."""
        if self.row_events is not None:
            codes = np.arange(len(self.row_events.offsets) - 1, dtype=np.int64)
            block = self.row_events
        else:
            block = self.events.arranged(self.view, hindsight=self.hindsight, ties=self.ties).block
            codes = self.events.index[0].codes(self.keys)
        return block, codes if self.is_missing is None else np.where(self.is_missing, UNKNOWN, codes)

    def event_times(self) -> Ints:
        """Return when each row of the table of events happened, µs."""
        return self._instants(self.view.source.event_time)

    def ingest_times(self) -> Ints:
        """Return when each row of the table of events became known, µs."""
        return self._instants(self.view.source.ingest_time or self.view.source.event_time)

    def _instants(self, name: str) -> Ints:
        column = self.events.table.column(name).combine_chunks().cast(pa.int64())
        return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.int64)

    def with_features(self, change: Callable[[FeaturePlan], FeaturePlan | None]) -> ViewWorld | None:
        """Change features of the view.

        Args:
            change: Returns the changed feature; ``None`` for a feature that it leaves as it is.

        Returns:
            The changed view; ``None`` if no feature is changed.
        """
        changed = [change(feature) for feature in self.view.features]
        if all(feature is None for feature in changed):
            return None
        features = tuple(new or old for new, old in zip(changed, self.view.features, strict=True))
        return replace(self, view=replace(self.view, features=features))

    def with_delays(self, numbers: Ints, instants: Ints) -> ViewWorld:
        """Let some events become known later than they say, beside those that are delayed already.

        Args:
            numbers: Numbers of the events.
            instants: For each the instant it becomes known, µs; ``NO_WATERMARK`` for never.
        """
        events = self.events
        if events.delays is not None:
            numbers = np.concatenate([events.delays[0], numbers])
            instants = np.concatenate([events.delays[1], instants])
        return replace(self, events=Events(events.table, events.keys, (numbers, instants), events.numbers))


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

    def with_transform(self, transform: Transform) -> World:
        """Return the same world with one more change of computed values before they are served."""
        return replace(self, transforms=(*self.transforms, transform))

    def column(self, name: str) -> pa.Array:
        """Return one column of the log."""
        return self.log.column(name).combine_chunks()

    def logged_watermarks(self, alias: str) -> Ints | None:
        """Return per row the watermark that the log has for a view, µs; ``None`` if the log has none for it.

        Rows without a watermark have ``NO_WATERMARK``.
        """
        name = watermark_column(alias)
        if name not in self.log.column_names:
            return None
        column = self.column(name).cast(pa.int64())
        if column.null_count == len(column):
            return None
        watermarks = column.fill_null(NO_WATERMARK).to_numpy(zero_copy_only=False)
        return np.asarray(watermarks, dtype=np.int64)


def each_view(change: Callable[..., ViewWorld | None], *arguments: Any) -> Callable[[World], World | None]:
    """Return a change of worlds that changes every view: ``change(view, *arguments)``."""
    return lambda world: world.with_views(lambda view: change(view, *arguments))


def of_view(alias: str, change: Callable[..., ViewWorld | None], *arguments: Any) -> Callable[[World], World | None]:
    """Return a change of worlds that changes one view: ``change(view, *arguments)``."""

    def apply(world: World) -> World | None:
        changed = change(world.views[alias], *arguments) if alias in world.views else None
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
        view = world.views[use.alias]
        features = [feature for feature in view.view.features if feature_column(use.alias, feature.name) in needed]
        if not features:
            continue
        computed = _answer_view(view, features, world.as_of, threads)
        for feature, values in zip(features, computed, strict=True):
            name = feature_column(use.alias, feature.name)
            filled = _filled(values, world.fills.get(name))
            columns[name], statuses[name] = filled.values, filled.statuses
    instants = pa.array(world.as_of).cast(TIMESTAMP.arrow)
    values_of, codes_of = finish(plan, columns, statuses, world.requests, instants)
    answered = {name: Values(values_of[name], codes_of[name]) for name in values_of}
    for transform in world.transforms:
        answered = {name: transform(world, name, values) for name, values in answered.items()}
    return answered


def _filled(values: Values, fill: Any) -> Values:
    """Put a value in place of nulls; ``None`` leaves them."""
    if fill is None or values.values.null_count == 0:
        return values
    is_null = values.values.is_null().to_numpy(zero_copy_only=False)
    statuses = np.where(is_null, np.uint8(PRESENT), values.statuses)
    return Values(values.values.fill_null(pa.scalar(fill, type=values.values.type)), statuses)


def _answer_view(world: ViewWorld, features: list[FeaturePlan], as_of: Ints, threads: int) -> list[Values]:
    """Evaluate some features of one view."""
    aged = [_aged(feature, world.shift_us) for feature in features]
    bound = bind(replace(world.view, features=tuple(aged)))
    as_of = as_of + world.shift_us
    block, codes = world.entities()
    if world.watermark is None:
        computed = bound.evaluate(block, codes, as_of, threads=threads)
    else:
        computed = bound.evaluate_each(block, codes, as_of, watermark=world.watermark, threads=threads)
    return [Values(computed.column(i), computed.statuses[i]) for i in range(len(features))]


def _aged(feature: FeaturePlan, shift_us: int) -> FeaturePlan:
    """Let a value live longer by a shift, so that its age still counts from the instant asked about."""
    if shift_us == 0 or feature.ttl_us is None:
        return feature
    return replace(feature, ttl_us=max(0, feature.ttl_us + shift_us))


def event_bounds(view: ViewPlan, as_of: Ints) -> tuple[Ints, Ints]:
    """Return the event bound and the ingest bound of requests to a store that holds everything."""
    return bounds_of(view, as_of, np.full(len(as_of), NO_WATERMARK, dtype=np.int64))


def promised_watermarks(view: ViewPlan, as_of: Ints) -> Ints:
    """Return the watermarks that a view's refresh promises to requests: up to here its state must be complete."""
    return event_bounds(view, as_of)[1]


def stale_rows(view: ViewPlan, as_of: Ints, watermark: Ints) -> Flags:
    """Return per request whether a watermark lies behind what the view's refresh promises."""
    if view.refresh.period_us == 0:
        return np.zeros(len(as_of), dtype=np.bool_)
    return np.asarray(watermark < promised_watermarks(view, as_of), dtype=np.bool_)


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
    columns: set[str] = set()
    unvisited: list[TypedExpr] = [feature.expression for feature in features]
    while unvisited:
        node = unvisited.pop()
        if node.op == "feature":
            columns.add(str(node.param("column")))
        unvisited += node.args
    return columns


def operands(plan: Plan, output: str) -> set[str]:
    """Return the columns of views and on-demand features that an output is computed from, its own included."""
    column = next(candidate.column for candidate in plan.outputs if candidate.name == output)
    needed = {column}
    for feature in reversed(plan.on_demand):
        if feature.column in needed:
            needed |= _operands((feature,))
    return needed


def views_read(plan: Plan, output: str) -> set[str]:
    """Return the aliases of the views that an output is computed from."""
    columns = operands(plan, output)
    return {view_of(column) for column in columns} & {use.alias for use in plan.uses}


def missing(count: int) -> Bytes:
    """Return statuses of rows whose entity is not there."""
    return np.full(count, NOT_FOUND, dtype=np.uint8)
