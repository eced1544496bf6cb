"""When events became known, and jobs that never looked back for those that became known late."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.skew.causes.events import Events
from featurestore.skew.causes.model import Case, Hypothesis, Variant
from featurestore.skew.causes.world import ViewWorld, of_view
from featurestore.temporal import MICROSECONDS, NO_WATERMARK, format_duration

Ints = npt.NDArray[np.int64]

_PERIODS = tuple(MICROSECONDS[unit] for unit in ("m", "h", "d"))
_DELAYS = (0, *_PERIODS)
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
    return lambda happened, known: known >= (happened // period_us + 1) * period_us


def _event_times(view: ViewWorld) -> Ints:
    column = view.events.table.column(view.view.source.event_time).combine_chunks().cast(pa.int64())
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.int64)


LATE_LOST = Hypothesis("event_lost", "an event never reached serving", late_lost)
