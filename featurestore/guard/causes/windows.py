"""Windows that lie elsewhere than they should, and times that were read in another zone."""

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
    Refresh,
    format_duration,
)
from featurestore.core.zones import from_local, to_local
from featurestore.guard.causes.altering import Change, changed, dtype_of
from featurestore.guard.causes.model import Case, Hypothesis, Variant
from featurestore.guard.causes.rules import changed_features
from featurestore.guard.world.events import Events
from featurestore.guard.world.world import ViewWorld, World, each_view
from featurestore.plan.model import FeaturePlan, TypedExpr, ViewPlan

_HOUR_US = MICROSECONDS["h"]
_SHIFTS_US = tuple(MICROSECONDS[unit] for unit in ("s", "m", "h", "d", "w"))
_GRIDS_US = tuple(MICROSECONDS[unit] for unit in ("m", "h", "d"))
_WHOLE_HOURS = tuple(sign * hours for hours in range(1, 15) for sign in (-1, 1))
_OTHER_OFFSETS_US = tuple(
    sign * minutes * MICROSECONDS["m"] for minutes in (30, 210, 270, 330, 345, 390, 570, 630) for sign in (-1, 1)
)
ZONES_US = (*(hours * _HOUR_US for hours in _WHOLE_HOURS), *_OTHER_OFFSETS_US)
"""By how much clocks of two zones differ, likely ones first."""

_HOURS_BITS = 8.0
"""What several hours cost as an error of a query: where the zone of events explains as much, it is more likely."""


def window_shifted(_: Case) -> Iterator[Variant]:
    """Propose windows that end, begin or are cut a whole unit elsewhere."""
    for unit in _SHIFTS_US:
        for shift_us in (-unit, unit):
            yield _ending(shift_us)
            yield _asked_at(shift_us)
    for hours in _WHOLE_HOURS[2:]:
        for variant in (_ending(hours * _HOUR_US), _asked_at(hours * _HOUR_US)):
            yield replace(variant, bits=_HOURS_BITS)
    for grid in _GRIDS_US:
        yield Variant(
            "window_shifted",
            f"windows end at the last full {_unit(grid)}, not at the instant asked about",
            each_view(_on_grid, grid),
            {"grid_us": grid},
            fix=f"Declare refresh=every('{format_duration(grid)}'), or let serving end windows at as_of.",
        )
    for unit in (*_GRIDS_US, MICROSECONDS["w"]):
        for step in (-unit, unit):
            yield Variant(
                "window_shifted",
                f"windows are {format_duration(unit)} {'longer' if step > 0 else 'shorter'} than defined",
                each_view(_longer, step),
                {"longer_us": step},
                fix="Let serving use the length that .over(…) declares.",
            )
    yield Variant(
        "window_shifted",
        "windows have no lower edge: everything that ever happened counts",
        each_view(_without_window),
        {"window": "lifetime"},
        fix="Let serving apply the length that .over(…) declares, or declare .lifetime().",
    )


def _unit(length_us: int) -> str:
    return {MICROSECONDS["m"]: "minute", MICROSECONDS["h"]: "hour", MICROSECONDS["d"]: "day"}[length_us]


def _ending(shift_us: int) -> Variant:
    direction = "later" if shift_us > 0 else "earlier"
    return Variant(
        "window_shifted",
        f"windows end {format_duration(abs(shift_us))} {direction} than they should",
        each_view(_shifted, shift_us),
        {"shift_us": shift_us},
        fix="Let windows end at the horizon on both roads: as_of, or the refresh grid's last instant.",
    )


def _asked_at(shift_us: int) -> Variant:
    direction = "later" if shift_us > 0 else "earlier"
    return Variant(
        "window_shifted",
        f"questions were answered as of an instant {format_duration(abs(shift_us))} {direction} than the log says",
        lambda world: replace(world, as_of=world.as_of + shift_us),
        {"as_of_shift_us": shift_us},
        fix="Log the instant that is asked about, to the microsecond, and ask about the one that is logged.",
    )


def _shifted(view: ViewWorld, shift_us: int) -> ViewWorld:
    return replace(view, shift_us=view.shift_us + shift_us)


def _on_grid(view: ViewWorld, grid_us: int) -> ViewWorld | None:
    if view.view.refresh.period_us == grid_us:
        return None
    return replace(view, view=replace(view.view, refresh=Refresh(period_us=grid_us)))


def _longer(view: ViewWorld, step_us: int) -> ViewWorld | None:
    return changed_features(
        view,
        {
            feature.name: replace(feature, window_us=feature.window_us + step_us)
            for feature in view.view.features
            if feature.window_us is not None and feature.window_us + step_us > 0
        },
    )


def _without_window(view: ViewWorld) -> ViewWorld | None:
    lifetimes: dict[str, FeaturePlan] = {
        feature.name: replace(feature, window_us=None, resolution_us=0)
        for feature in view.view.features
        if feature.window_us is not None
    }
    return changed_features(view, lifetimes)


def time_zone(case: Case) -> Iterator[Variant]:
    """Propose that times of events were read in a zone other than the declared one."""
    for offset_us in ZONES_US:
        sign = "later" if offset_us > 0 else "earlier"
        yield Variant(
            "time_zone",
            f"times of events were read {format_duration(abs(offset_us))} {sign} than they are",
            each_view(_moved, offset_us),
            {"offset_us": offset_us},
            fix="Write times with their zone, or say timezone='…' on the source; let serving read them the same way.",
        )
    for zone in sorted(zones_of(case.world)):
        yield Variant(
            "time_zone",
            f"times of events were read as {zone} where they are UTC, or the other way round",
            each_view(_as_local, zone),
            {"zone": zone},
            fix=f"Say timezone='{zone}' on the source only if its naive times are local ones.",
        )
        yield Variant(
            "time_zone",
            f"calendar parts were taken in UTC, not in {zone}",
            each_view(_in_utc),
            {"zone": "UTC"},
            fix=f"Take calendar parts in_zone('{zone}') on both roads.",
        )
    yield from _moved_values(case)


def _moved_values(case: Case) -> Iterator[Variant]:
    """Propose that instants which are values themselves were served in another zone."""
    for output in case.outputs:
        if dtype_of(case, output) != TIMESTAMP:
            continue
        for said, change in zone_changes(ZONES_US, sorted(zones_of(case.world))):
            yield Variant(
                "time_zone",
                f"{output} is served {said}",
                changed(change, output),
                {"change": said},
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
    table = view.events.table
    for column in view.view.source.columns:
        if column.dtype == TIMESTAMP and column.name in table.column_names and column.name not in view.events.keys:
            array = table.column(column.name).combine_chunks()
            times = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
            is_null = array.is_null().to_numpy(zero_copy_only=False)
            moved = pa.array(change(times), pa.int64(), mask=is_null)
            at = table.column_names.index(column.name)
            table = table.set_column(at, column.name, moved.cast(TIMESTAMP.arrow))
    return Events(table, view.events.keys, numbers=view.events.numbers)


def zones_of(world: World) -> set[str]:
    """Return the zones that the plan names."""
    found: set[str] = set()
    for view in world.views.values():
        if view.view.source.timezone not in (None, "UTC"):
            found.add(str(view.view.source.timezone))
        for expression in _expressions(view.view):
            found |= {str(value) for name, value in expression.params if name in ("zone", "timezone") and value}
    return found - {"UTC"}


def _expressions(view: ViewPlan) -> Iterator[TypedExpr]:
    waiting = [part for source in view.inputs for part in (source.value, source.where) if part is not None]
    waiting += [view.where] if view.where is not None else []
    while waiting:
        node = waiting.pop()
        yield node
        waiting += node.args


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


WINDOWS = (
    Hypothesis("window_shifted", "windows lie or end a whole unit elsewhere", window_shifted),
    Hypothesis("time_zone", "times were read in another zone", time_zone),
)
