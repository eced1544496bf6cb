"""Events that serving did not have, had too late, or counted twice.

Which event it was is searched row by row. Where counts, sums or means are served, their differences say which events
to try (``guided``); where none is, the newest events of the entity are left out, or doubled, one after the other, until
the served values come out. What is found is then assumed for all rows of the entity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Ints
from featurestore.core.errors import FeatureStoreError
from featurestore.core.temporal import NO_WATERMARK, NOTHING_YET, format_instant
from featurestore.guard.causes.arrivals import LATE_FIX, delaying, ingest_times
from featurestore.guard.causes.guided import (
    Found,
    Linear,
    Questions,
    find_events,
    linear_features,
)
from featurestore.guard.causes.model import Case, Hypothesis, Variant
from featurestore.guard.comparing.compare import agrees
from featurestore.guard.world.events import (
    Events,
    loose,
    picked,
    spread,
)
from featurestore.guard.world.world import (
    ViewWorld,
    answer,
    event_bounds,
    of_view,
    operands,
)
from featurestore.kernels.events import EventBlock
from featurestore.kernels.keys import KeyIndex
from featurestore.plan.model import ViewPlan

_NEWEST = 32
"""Newest events of an entity that are tried one by one."""

_NEWEST_TOGETHER = 14
"""Newest events of an entity of which two are tried together."""

_SINGLE = tuple((step,) for step in range(_NEWEST))
_TOGETHER = (
    *((step, step + 1, step + 2) for step in range(_NEWEST)),
    *((step, step + 1, step + 2, step + 3) for step in range(_NEWEST)),
    *((near, far) for far in range(1, _NEWEST_TOGETHER) for near in range(far)),
)
_MOST_ROWS_TOGETHER = 60

_ABSENT = ("event_lost", "late_event")
"""Causes that say which events were not there; what one has found the other goes on from."""

_Change = Callable[[Ints, Ints, Ints, Ints], tuple[Ints, Ints]]
"""Makes the places of each row's events, and the offsets of rows, from (begin, end, rows, places that are tried)."""

_MOST_ROWS = 500
_MOST_ROWS_GUIDED = 1_000
_MOST_MOVED = 0.01
"""Most that a value may have been moved before it was served for its feature still to say which events are missing."""

_MOST_RUNS = 40

_LOST_FIX = (
    "Find why the event never reached the state: a source that was rewritten, a poll that was skipped, a consumer that"
    " dropped it. materialize(full=True) folds everything again."
)
_TWICE_FIX = "Name the column that identifies an event: event_id='…' on the source; deliveries of one event count once."


def _outputs_of(case: Case, alias: str) -> list[str]:
    """Return the outputs of a view that have rows to explain or to respect."""
    prefix = f"{alias}__"
    return [
        output.name
        for output in case.world.plan.outputs
        if output.name in case.differs
        and any(name.startswith(prefix) for name in operands(case.world.plan, output.name))
    ]


@dataclass(frozen=True)
class _Search:
    """Rows of one view whose events are tried, one row per entity.

    Attributes:
        case: The rows.
        alias: The view.
        outputs: Its outputs.
    """

    case: Case
    alias: str
    outputs: list[str]

    def found(self, change: _Change, tries: Sequence[tuple[int, ...]] = _SINGLE) -> tuple[Ints, list[Ints]]:
        """Try the newest events of each row.

        Args:
            change: Makes the places of each row's events: (begin, end, tried places) to places and offsets.
            tries: Which events are tried together, counted back from the newest visible one, in this order.

        Returns:
            Rows of the case, and for each try that belongs together the place in the arranged block that explains it.
        """
        world = self.case.world
        view = world.views[self.alias]
        block, codes = view.entities()
        begin, end, newest = self._ranges(view, block.offsets, block.event_time, codes)
        chosen = np.full(len(world), -1, dtype=np.int64)
        best = np.zeros(len(world), dtype=np.int64)
        wanted = np.sum([self.case.differs[name] for name in self.outputs], axis=0)
        for number, back in enumerate(tries):
            rows = np.flatnonzero((newest - max(back) >= begin) & (best < wanted))
            if len(rows) == 0:
                continue
            tried = np.concatenate([newest[rows] - step for step in back])
            own = change(begin[rows], end[rows], np.tile(np.arange(len(rows)), len(back)), tried)
            gained = self._gained(rows, picked(block, *own))
            better = gained > best[rows]
            best[rows[better]] = gained[better]
            chosen[rows[better]] = number
        explained = np.flatnonzero(chosen >= 0)
        return explained, [newest[row] - np.array(tries[chosen[row]], dtype=np.int64) for row in explained]

    def _ranges(self, view: ViewWorld, offsets: Ints, times: Ints, codes: Ints) -> tuple[Ints, Ints, Ints]:
        """Return per row the first place that can matter, one past the last, and the newest visible one."""
        bound, _ = event_bounds(view.view, self.case.world.as_of)
        if len(offsets) < 2:
            nothing = np.zeros(len(codes), dtype=np.int64)
            return nothing, nothing, nothing - 1
        known = codes >= 0
        safe = np.where(known, codes, 0)
        begin, end = offsets[safe], offsets[safe + 1]
        newest = np.array(
            [
                low + int(np.searchsorted(times[low:high], limit)) - 1
                for low, high, limit in zip(begin.tolist(), end.tolist(), bound.tolist(), strict=True)
            ],
            dtype=np.int64,
        ).reshape(-1)
        reach = _reach(view.view)
        if reach is not None:
            earliest = [
                max(low, low + int(np.searchsorted(times[low:high], limit - reach)) - 1)
                for low, high, limit in zip(begin.tolist(), end.tolist(), bound.tolist(), strict=True)
            ]
            begin = np.array(earliest, dtype=np.int64).reshape(-1)
        empty = np.where(known, begin, 0)
        return empty, np.where(known, end, 0), np.where(known, newest, -1)

    def guided(self, change: _Change, *, is_doubled: bool) -> Found:
        """Find the events of rows by the differences of their linear features."""
        case, world = self.case, self.case.world
        view = world.views[self.alias]
        block, codes = view.entities()
        begin, end, _ = self._ranges(view, block.offsets, block.event_time, codes)
        names = [one.output for one in self.linear]
        try:
            plain = answer(replace(world, transforms=()), names, threads=case.facts.threads)
            changed = answer(world, names, threads=case.facts.threads) if world.transforms else plain
        except FeatureStoreError:
            return Found([], [], np.zeros(0, dtype=np.int64))

        def gained(rows: Ints, tried: Sequence[Ints]) -> Ints:
            of_row = np.repeat(np.arange(len(rows)), [len(places) for places in tried])
            return self._gained(rows, picked(block, *change(begin[rows], end[rows], of_row, np.concatenate(tried))))

        moved = {name: _largest_change(plain[name].values, changed[name].values) for name in names}
        linear = [one for one in self.linear if moved[one.output] <= _MOST_MOVED]
        bound, ingest_bound = event_bounds(view.view, world.as_of)
        asked = Questions(
            view=view.view,
            block=block,
            codes=codes,
            bound=bound,
            ingest_bound=ingest_bound,
            linear=tuple(linear),
            reference=[plain[one.output].values for one in linear],
            served=[case.served[one.output].values for one in linear],
            slack=[moved[one.output] for one in linear],
            differs=np.any([case.differs[name] for name in self.outputs], axis=0),
            is_doubled=is_doubled,
        )
        return find_events(asked, gained)

    @property
    def linear(self) -> tuple[Linear, ...]:
        """The features of the view that differences can be read from."""
        prefix = f"{self.alias}__"
        served = {
            output.column.removeprefix(prefix): output.name
            for output in self.case.world.plan.outputs
            if output.kind == "view" and output.column.startswith(prefix) and output.name in self.outputs
        }
        return linear_features(self.case.world.views[self.alias].view, served)

    def _gained(self, rows: Ints, own: EventBlock) -> Ints:
        """Ask rows with events of their own.

        Args:
            rows: Rows of the case.
            own: Events of each.

        Returns:
            Per row how many differing values come out, 0 if a value that holds no longer does.
        """
        part = self.case.world.take(rows)
        view = replace(part.views[self.alias], own=own)
        trial = replace(part, views={**part.views, self.alias: view})
        try:
            found = answer(trial, self.outputs, threads=self.case.facts.threads)
        except FeatureStoreError:
            return np.zeros(len(rows), dtype=np.int64)
        gained = np.zeros(len(rows), dtype=np.int64)
        spoiled = np.zeros(len(rows), dtype=np.bool_)
        dtypes = {output.name: output.dtype for output in self.case.world.plan.outputs}
        for name in self.outputs:
            served = self.case.served[name]
            same = agrees(
                found[name].values,
                served.values.take(pa.array(rows)),
                found[name].statuses,
                served.statuses[rows],
                dtypes[name],
            )
            gained += same & self.case.differs[name][rows]
            spoiled |= ~same & self.case.holds[name][rows]
        return np.where(spoiled, 0, gained)


def _reach(view: ViewPlan) -> int | None:
    """Return how far back events of a view can matter, ``None`` if there is no bound."""
    if any(feature.window_us is None for feature in view.features):
        return None
    return max((feature.window_us or 0) + feature.resolution_us for feature in view.features)


def _based(case: Case, *causes: str) -> Case:
    """Return a case in whose world what explains other rows is assumed already, so that more is found on top of it."""
    world = case.world
    latest = {one.parameters.get("view"): one for one in case.accepted if _is_searched(one, *causes)}
    for variant in latest.values():
        world = variant.apply(world) or world
    return replace(case, world=world, memo={})


def _is_searched(variant: Variant, *causes: str) -> bool:
    return variant.cause in causes and variant.is_searched


def _largest_change(plain: pa.Array, changed: pa.Array) -> float:
    """Return by how much of themselves values are moved at most by what is done to them before they are served."""
    if changed is plain:
        return 0.0
    left, right = (array.cast(pa.float64(), safe=False) for array in (plain, changed))
    moved = pc.divide(pc.abs(pc.subtract(left, right)), pc.max_element_wise(pc.abs(left), pc.abs(right)))
    return float(pc.max(moved.filter(pc.not_equal(left, right).fill_null(False))).as_py() or 0.0)


def _searches(case: Case) -> Iterator[_Search]:
    """Yield a search for each view with rows to explain."""
    for alias in case.world.views:
        outputs = _outputs_of(case, alias)
        if any(bool(case.differs[name].any()) for name in outputs):
            yield _Search(case, alias, outputs)


def _one_each(search: _Search) -> Ints:
    """Return rows to explain: first one of each entity, then others."""
    rows = np.flatnonzero(np.any([search.case.differs[name] for name in search.outputs], axis=0))
    _, codes = search.case.world.views[search.alias].entities()
    _, first = np.unique(codes[rows], return_index=True)
    one_each = rows[np.sort(first)]
    return np.concatenate([one_each, np.setdiff1d(rows, one_each)])[:_MOST_ROWS]


def _of_entities(search: _Search) -> Case:
    """Return all rows of the entities that have rows to explain: those too in which both roads agree."""
    whole = search.case.whole or search.case
    index, codes = KeyIndex.build([loose(key) for key in whole.world.views[search.alias].keys])
    asked = [loose(key) for key in search.case.world.views[search.alias].take(_one_each(search)).keys]
    order = np.full(len(index) + 1, len(codes), dtype=np.int64)
    wanted = index.codes(asked)
    np.minimum.at(order, wanted, np.arange(len(wanted)))
    is_judged = np.any([whole.differs[name] for name in search.outputs], axis=0)
    is_judged |= np.all([whole.holds[name] for name in search.outputs], axis=0)
    rows = np.flatnonzero((order[codes] < len(codes)) & is_judged)
    rows = rows[np.argsort(order[codes[rows]], kind="stable")][:_MOST_ROWS_GUIDED]
    found = whole.take(np.sort(rows)).narrowed()
    return replace(found, accepted=search.case.accepted)


def _searched(case: Case, causes: tuple[str, ...], change: _Change, *, is_doubled: bool) -> Iterator[_Events]:
    """Search the events that make a difference, on top of those found already.

    Args:
        case: The rows.
        causes: Causes under which some may have been found already.
        change: What is done to events.
        is_doubled: Whether they count twice, rather than not at all.
    """
    for search in _searches(case):
        if search.linear:
            on_top = replace(search, case=_based(_of_entities(search), *causes))
            found = on_top.guided(change, is_doubled=is_doubled)
            if found.rows:
                yield _Events.of(on_top, found.rows, found.places)
            rows = found.silent[:_MOST_ROWS]
        else:
            on_top = replace(search, case=_based(case, *causes))
            rows = _one_each(search)
        if len(rows) == 0:
            continue
        tried = replace(on_top, case=on_top.case.take(rows))
        own, places = tried.found(change)
        rest = np.setdiff1d(np.arange(len(rows)), own)[:_MOST_ROWS_TOGETHER]
        left = replace(tried, case=tried.case.take(rest))
        more, others = left.found(change, _TOGETHER) if len(rest) else (rest, [])
        if places or others:
            yield _Events.of(tried, [*own.tolist(), *rest[more].tolist()], [*places, *others])


@dataclass(frozen=True)
class _Events:
    """Events that make a difference.

    Attributes:
        alias: Their view.
        numbers: Their numbers.
        last: For each the instant of the last question in which it made one.
        each: Events that had to be chosen for each row: those beyond the first, which a difference gives by itself, or
            the distinct ones per row where rows share them.
    """

    alias: str
    numbers: Ints
    last: Ints
    each: float

    @classmethod
    def of(cls, search: _Search, rows: Sequence[int], places: Sequence[Ints]) -> _Events:
        """Name the events at some places of the searched view's block, found for some rows."""
        view = search.case.world.views[search.alias]
        arranged = view.events.arranged(view.view, hindsight=view.hindsight, ties=view.ties).rows
        chosen = np.unique(np.concatenate(places))
        last = np.full(len(chosen), NOTHING_YET, dtype=np.int64)
        for row, own in zip(rows, places, strict=True):
            np.maximum.at(last, np.searchsorted(chosen, own), search.case.world.as_of[row])
        each = min(len(chosen), sum(len(own) - 1 for own in places)) / len(rows)
        return cls(search.alias, view.events.numbers_of(arranged[chosen]), last, each)


def _without(begin: Ints, end: Ints, rows: Ints, tried: Ints) -> tuple[Ints, Ints]:
    """Leave out events."""
    places, _ = spread(begin, end)
    row = np.repeat(np.arange(len(begin)), end - begin)
    size = int(end.max(initial=0)) + 1
    kept = ~np.isin(row * size + places, rows * size + tried)
    counts = np.bincount(row[kept], minlength=len(begin))
    return places[kept], np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _doubled(begin: Ints, end: Ints, rows: Ints, tried: Ints) -> tuple[Ints, Ints]:
    """Count events twice."""
    places, offsets = spread(begin, end)
    row = np.concatenate([np.repeat(np.arange(len(begin)), end - begin), rows])
    places = np.concatenate([places, tried])
    more = np.cumsum(np.bincount(rows, minlength=len(begin)))
    return places[np.lexsort([places, row])], offsets + np.concatenate([[0], more])


def lost_events(case: Case) -> list[_Events]:
    """Return events without which served values come out, beside those found already; searched once per case."""
    if "lost events" not in case.memo:
        case.memo["lost events"] = list(_searched(case, _ABSENT, _without, is_doubled=False))
    found: list[_Events] = case.memo["lost events"]
    return found


def event_lost(case: Case) -> Iterator[Variant]:
    """Propose events that never reached serving: those of one run, then single ones."""
    yield from _lost_ranges(case)
    for found in lost_events(case):
        alias = found.alias
        if _came_after_all(case, alias, found.numbers):
            continue
        never = np.full(len(found.numbers), NO_WATERMARK, dtype=np.int64)
        numbers, instants = _with_known(case, alias, found.numbers, never)
        yield Variant(
            "event_lost",
            f"{_events(len(numbers))} of {alias} never reached serving",
            of_view(alias, delaying, numbers, instants),
            {"view": alias, "events": len(numbers)},
            events={alias: numbers},
            fix=_LOST_FIX,
            events_each=found.each,
        )


def _came_after_all(case: Case, alias: str, numbers: Ints) -> bool:
    """Tell whether events lie where the source had fewer rows when it was read: so they are late, not lost."""
    view = case.world.views[alias]
    change = case.facts.changes(view.view)
    if change is None or change.grown_until_us is None:
        return False
    return bool((ingest_times(view)[view.events.rows_of(numbers)] < change.grown_until_us).all())


def late_event(case: Case) -> Iterator[Variant]:
    """Propose events that were not there when they were asked for, but later."""
    for found in lost_events(case):
        alias = found.alias
        numbers, instants = _with_known(case, alias, found.numbers, found.last + 1)
        yield Variant(
            "late_event",
            f"{_events(len(numbers))} of {alias} became known only after the requests that miss"
            f" {'it' if len(numbers) == 1 else 'them'}",
            of_view(alias, delaying, numbers, instants),
            {"view": alias, "events": len(numbers), "known_after": _known_after(instants)},
            events={alias: numbers},
            fix=LATE_FIX,
            events_each=found.each,
        )


def _known_after(instants: Ints) -> str:
    """Return the last instant at which an event that came later was still missed."""
    return format_instant(int(instants[instants < NO_WATERMARK].max(initial=NOTHING_YET)) - 1)


def _with_known(case: Case, alias: str, numbers: Ints, instants: Ints) -> tuple[Ints, Ints]:
    """Put what is found together with what was found before for other rows; of two instants the later one holds."""
    known = _based(case, *_ABSENT).world.views[alias].events.delays
    if known is None or known is case.world.views[alias].events.delays:
        return numbers, instants
    together, place = np.unique(np.concatenate([known[0], numbers]), return_inverse=True)
    latest = np.full(len(together), NOTHING_YET, dtype=np.int64)
    np.maximum.at(latest, place, np.concatenate([known[1], instants]))
    return together, latest


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count} events"


def _losing(view: ViewWorld, since: int, until: int) -> ViewWorld:
    """Let what became known within a range of time never arrive."""
    times = ingest_times(view)
    lost = view.events.numbers_of(np.flatnonzero((times >= since) & (times < until)))
    return delaying(view, lost, np.full(len(lost), NO_WATERMARK, dtype=np.int64))


def _lost_ranges(case: Case) -> Iterator[Variant]:
    """Propose that what one materialize run was to fold never arrived."""
    for alias, view in case.world.views.items():
        times = ingest_times(view)
        if len(times) == 0:
            continue
        marks = sorted({run.until_us for run in case.facts.runs.get(view.view.name, ())})
        useful = [mark for mark in marks if int(times.min()) <= mark <= int(times.max()) + 86_400_000_000][-_MOST_RUNS:]
        for since, until in pairwise(useful):
            rows = np.flatnonzero((times >= since) & (times < until))
            if len(rows) == 0 or _came_after_all(case, alias, view.events.numbers_of(rows)):
                continue
            yield Variant(
                "event_lost",
                f"what became known from {format_instant(since)} to {format_instant(until)} never reached serving",
                of_view(alias, _losing, since, until),
                {"view": alias, "since": format_instant(since), "until": format_instant(until)},
                events={alias: view.events.numbers_of(rows)},
                fix=_LOST_FIX,
            )


def duplicate_counted(case: Case) -> Iterator[Variant]:
    """Propose that deliveries of one event counted each, that all events counted twice, or single ones."""
    for alias, view in case.world.views.items():
        if view.view.source.event_id is not None:
            yield Variant(
                "duplicate_counted",
                f"every delivery of an event of {alias} counted, also those with the same {view.view.source.event_id}",
                of_view(alias, _every_delivery, case),
                {"view": alias, "event_id": view.view.source.event_id},
                fix=f"Let serving drop deliveries whose {view.view.source.event_id} it has seen.",
            )
        yield Variant(
            "duplicate_counted",
            f"every event of {alias} counted twice",
            of_view(alias, _all_twice),
            {"view": alias, "events": "all"},
            fix=_TWICE_FIX,
        )
    yield from _single_duplicates(case)


def _single_duplicates(case: Case) -> Iterator[Variant]:
    """Propose single events that counted twice, beside those found already."""
    for found in _searched(case, ("duplicate_counted",), _doubled, is_doubled=True):
        known = next(
            (
                variant.events[found.alias]
                for variant in reversed(case.accepted)
                if _is_searched(variant, "duplicate_counted") and found.alias in variant.events
            ),
            np.zeros(0, dtype=np.int64),
        )
        twice = np.concatenate([known, found.numbers])
        yield Variant(
            "duplicate_counted",
            f"{_events(len(twice))} of {found.alias} counted twice",
            of_view(found.alias, _twice, twice),
            {"view": found.alias, "events": len(twice)},
            events={found.alias: twice},
            fix=_TWICE_FIX,
            events_each=found.each,
        )


def _every_delivery(view: ViewWorld, case: Case) -> ViewWorld:
    whole = case.whole or case
    alias = next(name for name, found in whole.world.views.items() if found.view.name == view.view.name)
    name = f"every delivery of {alias}"
    if name not in whole.memo:
        table = case.facts.read_events(view.view, whole.world.views[alias].keys, True)
        whole.memo[name] = Events(table, view.events.keys)
    found: Events = whole.memo[name]
    return replace(view, events=found.only(view.keys))


def _all_twice(view: ViewWorld) -> ViewWorld:
    return _again(view, np.arange(view.events.table.num_rows, dtype=np.int64))


def _twice(view: ViewWorld, numbers: Ints) -> ViewWorld:
    return _again(view, view.events.rows_of(numbers))


def _again(view: ViewWorld, rows: Ints) -> ViewWorld:
    """Add some rows of the table of events once more."""
    events = view.events
    table = pa.concat_tables([events.table, events.table.take(pa.array(rows))])
    numbers = events.numbers_of(np.concatenate([np.arange(events.table.num_rows, dtype=np.int64), rows]))
    return replace(view, events=Events(table, events.keys, events.delays, numbers))


DELIVERIES = (
    Hypothesis("duplicate_counted", "one event counted more than once", duplicate_counted, row_bits=5.0, most_bits=1.0),
    Hypothesis(
        "event_lost", "an event never reached serving", event_lost, row_bits=5.0, most_bits=2.0, explains_absence=True
    ),
)
LATE_SEARCHED = Hypothesis(
    "late_event", "events became known only after the request", late_event, row_bits=6.0, explains_absence=True
)
