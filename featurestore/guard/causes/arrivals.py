"""When events became known: rows that came after their source had been read, and jobs that never looked back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.core.columns import Ints, Words
from featurestore.core.temporal import (
    MICROSECONDS,
    NO_WATERMARK,
    format_duration,
    format_instant,
    horizons,
    next_refresh,
)
from featurestore.guard.causes.model import (
    Came,
    Case,
    Hypothesis,
    Variant,
)
from featurestore.guard.world.events import Events
from featurestore.guard.world.world import ViewWorld, World, of_view

_PERIODS = tuple(MICROSECONDS[unit] for unit in ("m", "h", "d"))
_DELAYS = (0, *_PERIODS)
LATE_FIX = (
    "Name a column that says when a row became known: ingest_time='…' on the source; then training leaves late events"
    " out as serving had to. Or declare refresh=every(…, lag='…') with a lag as long as events may be late."
)
_LATER_FIX = (
    "Let the column that ingest_time names say when a row can be read from the source: these came later than it says."
    " Or declare refresh=every(…, lag='…') with a lag as long as rows may be late."
)
_RECORDED_BITS = 2.0
"""What it costs to assume what materialize runs took down."""

_FIX = (
    "Let the job that fills online state read by the time events became known, not by the time they happened, as"
    " store.materialize does; or read some time back again at every run."
)


def ingest_times(view: ViewWorld) -> Ints:
    """Return when each row of a view's events became known."""
    name = view.view.source.ingest_time or view.view.source.event_time
    column = view.events.table.column(name).combine_chunks().cast(pa.int64())
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.int64)


def delaying(view: ViewWorld, numbers: Ints, instants: Ints) -> ViewWorld:
    """Let some events become known at other instants."""
    events = view.events
    if events.delays is not None:
        numbers = np.concatenate([events.delays[0], numbers])
        instants = np.concatenate([events.delays[1], instants])
    return replace(view, events=Events(events.table, events.keys, (numbers, instants), events.numbers))


def came_later(case: Case) -> Iterator[Variant]:
    """Propose that rows were not in their source yet which materialize runs did not find there."""
    changes = {alias: case.facts.changes(view.view) for alias, view in case.world.views.items()}
    came = {alias: change.came for alias, change in changes.items() if change is not None and change.came}
    if not came:
        return
    counts = {change.source: _count(change.came) for change in changes.values() if change is not None and change.came}
    events = {alias: _rows_that_came(case.world.views[alias], own)[0] for alias, own in came.items()}
    told = " and ".join(f"{_events(count)} of {source}" for source, count in sorted(counts.items()))
    first = min(one.until_us for own in came.values() for one in own)
    yield Variant(
        "late_event",
        f"{told} came later than {'it says' if sum(counts.values()) == 1 else 'they say'}: when the source was read for"
        " these answers, only what came before was there",
        lambda world: _before_they_came(world, came),
        {"events": sum(counts.values()), "since": format_instant(first)},
        fix=_LATER_FIX if any(case.world.views[alias].view.source.ingest_time for alias in came) else LATE_FIX,
        events={alias: numbers for alias, numbers in events.items() if len(numbers)},
        evidence=tuple(dict.fromkeys(line for alias in came for line in getattr(changes[alias], "said", ()))),
        bits=_RECORDED_BITS,
    )


def _count(came: Sequence[Came]) -> int:
    return sum(len(one.hashes) for one in came)


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count} events"


def _before_they_came(world: World, came: Mapping[str, Sequence[Came]]) -> World | None:
    changed = {}
    for alias, view in world.views.items():
        numbers, instants = _rows_that_came(view, came.get(alias, ()))
        if len(numbers):
            changed[alias] = delaying(view, numbers, instants)
    return replace(world, views={**world.views, **changed}) if changed else None


def _rows_that_came(view: ViewWorld, came: Sequence[Came]) -> tuple[Ints, Ints]:
    """Return the numbers of a view's events that came later, and from when on answers had each."""
    numbers, instants = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for one in came:
        own = view.events.numbers_of(_last_of(view.events.hashes, one.hashes))
        numbers.append(own)
        instants.append(np.full(len(own), _known_from(view, one), dtype=np.int64))
    return np.concatenate(numbers), np.concatenate(instants)


def _last_of(hashes: Words, wanted: Words) -> Ints:
    """Return the rows with some hashes; of several that say the same the last, as many as are wanted."""
    distinct, counts = np.unique(wanted, return_counts=True)
    rows = np.flatnonzero(np.isin(hashes, distinct))[::-1]
    order = rows[np.argsort(hashes[rows], kind="stable")]
    own = hashes[order]
    nth = np.arange(len(order)) - np.searchsorted(own, own)
    return np.sort(order[nth < counts[np.searchsorted(distinct, own)]])


def _known_from(view: ViewWorld, came: Came) -> int:
    """Return the instant from which on answers had rows that came later; ``NO_WATERMARK`` if none had them yet.

    On a refresh grid it is the bound of the last refresh without them, otherwise when the first run with them ended.
    """
    if came.seen_at_us is None:
        return NO_WATERMARK
    refresh, inclusive = view.view.refresh, int(view.view.source.inclusive)
    if refresh.period_us == 0:
        return came.seen_at_us
    return horizons(NO_WATERMARK, came.until_us, refresh.period_us, refresh.lag_us, inclusive)[1]


def late_lost(case: Case) -> Iterator[Variant]:
    """Propose that what became known late never arrived: later than some time, or after its period had been read."""
    for alias, view in case.world.views.items():
        source = view.view.source
        if source.ingest_time is None or not bool((ingest_times(view) > _event_times(view)).any()):
            continue
        for delay in _DELAYS:
            after = f"more than {format_duration(delay)} after they happened" if delay else "after they happened"
            said = f"events of {alias} that became known {after} never arrived"
            yield _variant(alias, said, _losing_if(_later_than(delay)), {"view": alias, "delay_us": delay})
        for period in dict.fromkeys([*filter(None, [view.view.refresh.period_us]), *_PERIODS]):
            said = (
                f"events of {alias} that became known after the {format_duration(period)} they happened in never"
                " arrived: a job read every such period once"
            )
            yield _variant(alias, said, _losing_if(_after_period(period)), {"view": alias, "period_us": period})


def _variant(
    alias: str, said: str, change: Callable[[ViewWorld], ViewWorld | None], parameters: dict[str, object]
) -> Variant:
    return Variant("event_lost", said, of_view(alias, change), parameters, fix=_FIX)


def _losing_if(is_lost: Callable[[Ints, Ints], npt.NDArray[np.bool_]]) -> Callable[[ViewWorld], ViewWorld | None]:
    def change(view: ViewWorld) -> ViewWorld | None:
        rows = np.flatnonzero(is_lost(_event_times(view), ingest_times(view)))
        if len(rows) == 0:
            return None
        return delaying(view, view.events.numbers_of(rows), np.full(len(rows), NO_WATERMARK, dtype=np.int64))

    return change


def _later_than(delay_us: int) -> Callable[[Ints, Ints], npt.NDArray[np.bool_]]:
    return lambda happened, known: known - happened > delay_us


def _after_period(period_us: int) -> Callable[[Ints, Ints], npt.NDArray[np.bool_]]:
    return lambda happened, known: known >= next_refresh(happened, period_us, 0)


def _event_times(view: ViewWorld) -> Ints:
    column = view.events.table.column(view.view.source.event_time).combine_chunks().cast(pa.int64())
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.int64)


CAME_LATER = Hypothesis("late_event", "events became known only after the request", came_later, explains_absence=True)
LATE_LOST = Hypothesis("event_lost", "an event never reached serving", late_lost)
