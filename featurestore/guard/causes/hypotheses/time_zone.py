"""``time_zone``: times of events, calendar parts or instants that are values were read in another zone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Ints
from featurestore.core.dtypes import TIMESTAMP
from featurestore.core.temporal import (
    MICROSECONDS,
    LocalClock,
    format_duration,
)
from featurestore.core.zones import from_local, to_local
from featurestore.guard.causes.altering import Change, alter
from featurestore.guard.causes.model import Assumption, Case, Hypothesis
from featurestore.guard.world.events import Events
from featurestore.guard.world.world import ViewWorld, World, each_view
from featurestore.plan.model import TypedExpr, ViewPlan

_WHOLE_HOURS = tuple(sign * hours for hours in range(1, 15) for sign in (-1, 1))
_OTHER_OFFSETS_US = tuple(
    sign * minutes * MICROSECONDS["m"] for minutes in (30, 210, 270, 330, 345, 390, 570, 630) for sign in (-1, 1)
)
ZONES_US = (*(hours * MICROSECONDS["h"] for hours in _WHOLE_HOURS), *_OTHER_OFFSETS_US)
"""By how much clocks of two zones differ, likely ones first."""


def _propose(case: Case) -> Iterator[Assumption]:
    """Propose that times of events were read in a zone other than the declared one."""
    for offset_us in ZONES_US:
        sign = "later" if offset_us > 0 else "earlier"
        yield Assumption(
            f"times of events were read {format_duration(abs(offset_us))} {sign} than they are",
            each_view(_moved, offset_us),
            {"offset_us": offset_us},
            fix="Write times with their zone, or say timezone='…' on the source; let serving read them the same way.",
        )
    for zone in sorted(zones_of(case.world)):
        yield Assumption(
            f"times of events were read as {zone} where they are UTC, or the other way round",
            each_view(_as_local, zone),
            {"zone": zone},
            fix=f"Say timezone='{zone}' on the source only if its naive times are local ones.",
        )
        yield Assumption(
            f"calendar parts were taken in UTC, not in {zone}",
            each_view(_in_utc),
            {"zone": "UTC"},
            fix=f"Take calendar parts in_zone('{zone}') on both roads.",
        )
    yield from _moved_values(case)


def _moved_values(case: Case) -> Iterator[Assumption]:
    """Propose that instants which are values themselves were served in another zone."""
    for output in case.outputs:
        if case.dtype(output) != TIMESTAMP:
            continue
        for description, change in zone_changes(ZONES_US, sorted(zones_of(case.world))):
            yield Assumption(
                f"{output} is served {description}",
                alter(change, output),
                {"change": description},
                outputs=frozenset({output}),
                fix=f"Serve {output} as an instant with its zone; let both roads read it in UTC.",
            )


def zone_changes(offsets_us: Sequence[int], zones: Sequence[str]) -> Iterator[tuple[str, Change]]:
    """Yield in words, and as a change of a column, how instants come out that are read in another zone.

    Args:
        offsets_us: Offsets between zones.
        zones: Names of zones.
    """
    for offset_us in offsets_us:
        direction = "later" if offset_us > 0 else "earlier"
        yield f"{format_duration(abs(offset_us))} {direction} than it is", partial(_offset, offset_us=offset_us)
    for zone in zones:
        yield f"as {zone} shows it", partial(_shown_in, zone=zone)
        yield f"as if its clock were that of {zone}", partial(_clock_of, zone=zone)


def _offset(array: pa.Array, offset_us: int) -> pa.Array:
    return pc.add_checked(array.cast(pa.int64()), offset_us).cast(array.type)


def _shown_in(array: pa.Array, zone: str) -> pa.Array:
    return to_local(array, zone).cast(array.type)


def _clock_of(array: pa.Array, zone: str) -> pa.Array:
    naive = array.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).cast(pa.timestamp("us"))
    return from_local(naive, LocalClock(zone, ambiguous="earlier", nonexistent="forward")).cast(array.type)


def _moved(view: ViewWorld, offset_us: int) -> ViewWorld:
    """Move every time that the source holds."""
    return replace(view, events=_with_times(view, lambda times: times + offset_us))


def _with_times(view: ViewWorld, change: Callable[[Ints], Ints]) -> Events:
    """Return the events with every time that the source holds changed, but those that are keys."""
    table = view.events.table
    for column in view.view.source.columns:
        if column.dtype == TIMESTAMP and column.name in table.column_names and column.name not in view.events.keys:
            array = table.column(column.name).combine_chunks()
            times = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
            is_null = array.is_null().to_numpy(zero_copy_only=False)
            moved = pa.array(change(times), pa.int64(), mask=is_null)
            place = table.column_names.index(column.name)
            table = table.set_column(place, column.name, moved.cast(TIMESTAMP.arrow))
    return Events(table, view.events.keys, numbers=view.events.numbers)


def zones_of(world: World) -> set[str]:
    """Return the zones that the plan names."""
    zones: set[str] = set()
    for view in world.views.values():
        if view.view.source.timezone not in (None, "UTC"):
            zones.add(str(view.view.source.timezone))
        for expression in _expressions(view.view):
            zones |= {str(value) for name, value in expression.params if name in ("zone", "timezone") and value}
    return zones - {"UTC"}


def _expressions(view: ViewPlan) -> Iterator[TypedExpr]:
    """Yield the expressions of a view, and those they are made of."""
    unvisited = [part for source in view.inputs for part in (source.value, source.where) if part is not None]
    unvisited += [view.where] if view.where is not None else []
    while unvisited:
        node = unvisited.pop()
        yield node
        unvisited += node.args


def _as_local(view: ViewWorld, zone: str) -> ViewWorld:
    """Read times that are UTC as if their clock had stood in a zone."""

    def change(times: Ints) -> Ints:
        local = _clock_of(pa.array(times).cast(TIMESTAMP.arrow), zone)
        return np.asarray(local.cast(pa.int64()).to_numpy(zero_copy_only=False), dtype=np.int64)

    return replace(view, events=_with_times(view, change))


def _in_utc(view: ViewWorld) -> ViewWorld | None:
    """Take every conversion to a zone out of the view's expressions."""
    inputs = tuple(
        replace(
            source,
            value=None if source.value is None else _without_zone(source.value),
            where=None if source.where is None else _without_zone(source.where),
        )
        for source in view.view.inputs
    )
    where = None if view.view.where is None else _without_zone(view.view.where)
    plan = replace(view.view, inputs=inputs, where=where)
    return None if plan == view.view else replace(view, view=plan)


def _without_zone(node: TypedExpr) -> TypedExpr:
    args = tuple(_without_zone(arg) for arg in node.args)
    if node.op == "in_zone":
        return args[0]
    return replace(node, args=args)


TIME_ZONE = Hypothesis("time_zone", rank=170, meaning="times were read in another zone", propose=_propose)
