"""Searching single events that serving did not have, or counted twice.

Where counts, sums or means are served, their differences say which events to try (``event_equations``). Where none is,
the newest events of the entity are left out, or doubled, one after the other, until the served values come out. What is
found is then assumed for all rows of the entity.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Ints
from featurestore.core.errors import FeatureStoreError
from featurestore.core.temporal import NOTHING_YET
from featurestore.guard.causes.event_equations import (
    LinearFeature,
    SolvedRows,
    ViewDifferences,
    linear_features,
    solve_rows,
)
from featurestore.guard.causes.model import Assumption, Case
from featurestore.guard.comparing.compare import agrees
from featurestore.guard.world.events import (
    join_ranges,
    loose,
    pick,
)
from featurestore.guard.world.world import (
    ViewWorld,
    answer,
    event_bounds,
    views_read,
)
from featurestore.kernels.events import EventBlock
from featurestore.kernels.keys import KeyIndex
from featurestore.plan.model import ViewPlan
from featurestore.plan.names import split_column, view_of

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
_MOST_ROWS = 500
_MOST_ROWS_TOGETHER = 60
_MOST_ROWS_BY_DIFFERENCES = 1_000
_MOST_MOVED = 0.01
"""Most that a value may have been moved before it was served for its feature still to say which events are missing."""


@dataclass(frozen=True)
class EventChange:
    """What is done to events that are tried.

    Attributes:
        arrange: Makes the places of each row's events, and the offsets of rows, from the first place of each row, the
            place after its last, and the rows and places that are tried.
        is_doubled: Whether events count twice, rather than not at all.
    """

    arrange: Callable[[Ints, Ints, Ints, Ints], tuple[Ints, Ints]]
    is_doubled: bool


def _left_out(begin: Ints, end: Ints, rows: Ints, tried: Ints) -> tuple[Ints, Ints]:
    places, _ = join_ranges(begin, end)
    row = np.repeat(np.arange(len(begin)), end - begin)
    size = int(end.max(initial=0)) + 1
    kept = ~np.isin(row * size + places, rows * size + tried)
    counts = np.bincount(row[kept], minlength=len(begin))
    return places[kept], np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _doubled(begin: Ints, end: Ints, rows: Ints, tried: Ints) -> tuple[Ints, Ints]:
    places, offsets = join_ranges(begin, end)
    row = np.concatenate([np.repeat(np.arange(len(begin)), end - begin), rows])
    places = np.concatenate([places, tried])
    added = np.cumsum(np.bincount(rows, minlength=len(begin)))
    return places[np.lexsort([places, row])], offsets + np.concatenate([[0], added])


LEFT_OUT = EventChange(_left_out, is_doubled=False)
DOUBLED = EventChange(_doubled, is_doubled=True)

_ABSENT = ("event_lost", "late_event")
"""Causes that say which events were not there; what one has found the other goes on from."""


@dataclass(frozen=True)
class FoundEvents:
    """Events of one view that make a difference.

    Attributes:
        alias: The view.
        numbers: Their numbers.
        last: For each the instant of the last request in which it made one.
        events_per_row: Events that had to be chosen for each row: those beyond the first, which a difference gives by
            itself, or the distinct ones per row where rows share them.
    """

    alias: str
    numbers: Ints
    last: Ints
    events_per_row: float

    @classmethod
    def of(cls, search: _ViewSearch, rows: Sequence[int], places: Sequence[Ints]) -> FoundEvents:
        """Name the events at some places of the searched view's block, found for some rows."""
        view = search.view
        table_rows = view.events.arranged(view.view, hindsight=view.hindsight, ties=view.ties).rows
        chosen = np.unique(np.concatenate(places))
        last = np.full(len(chosen), NOTHING_YET, dtype=np.int64)
        for row, row_places in zip(rows, places, strict=True):
            np.maximum.at(last, np.searchsorted(chosen, row_places), search.case.world.as_of[row])
        events_per_row = min(len(chosen), sum(len(row_places) - 1 for row_places in places)) / len(rows)
        return cls(search.alias, view.events.numbers_of(table_rows[chosen]), last, events_per_row)


def missing_events(case: Case) -> list[FoundEvents]:
    """Return events without which served values come out, beside those found already; searched once per case."""
    if "missing events" not in case.memo:
        case.memo["missing events"] = list(search_events(case, _ABSENT, LEFT_OUT))
    events: list[FoundEvents] = case.memo["missing events"]
    return events


def with_known_delays(case: Case, alias: str, numbers: Ints, instants: Ints) -> tuple[Ints, Ints]:
    """Put missing events together with those found before for other rows; of two instants the later one holds."""
    known = _assuming_known(case, _ABSENT).world.views[alias].events.delays
    if known is None or known is case.world.views[alias].events.delays:
        return numbers, instants
    together, place = np.unique(np.concatenate([known[0], numbers]), return_inverse=True)
    latest = np.full(len(together), NOTHING_YET, dtype=np.int64)
    np.maximum.at(latest, place, np.concatenate([known[1], instants]))
    return together, latest


def accepted_searches(case: Case, causes: Collection[str]) -> list[Assumption]:
    """Return the assumptions about single events, of some causes, that explain other rows of the case."""
    names = {(cause,) for cause in causes}
    return [assumption for assumption in case.accepted if assumption.cause in names and assumption.is_searched]


def events_in_words(count: int) -> str:
    """Return a count of events with its noun."""
    return "1 event" if count == 1 else f"{count} events"


def search_events(case: Case, causes: Collection[str], change: EventChange) -> Iterator[FoundEvents]:
    """Search the events that make a difference, on top of those found already.

    Args:
        case: The rows.
        causes: Causes under which some may have been found already.
        change: What is done to events.
    """
    for search in _searches(case):
        if search.linear:
            on_top = replace(search, case=_assuming_known(_of_entities(search), causes))
            solved = on_top.by_differences(change)
            if solved.rows:
                yield FoundEvents.of(on_top, solved.rows, solved.places)
            rows = solved.silent[:_MOST_ROWS]
        else:
            on_top = replace(search, case=_assuming_known(case, causes))
            rows = _rows_of_many_entities(search)
        if len(rows):
            yield from _search_newest(replace(on_top, case=on_top.case.take(rows)), change)


def _search_newest(search: _ViewSearch, change: EventChange) -> Iterator[FoundEvents]:
    """Try the newest events of each row one by one; for some of the rows left, several together."""
    rows, places = search.newest(change, _SINGLE)
    left = np.setdiff1d(np.arange(len(search.case.world)), rows)[:_MOST_ROWS_TOGETHER]
    rows_of_left, more_places = left, list[Ints]()
    if len(left):
        rows_of_left, more_places = replace(search, case=search.case.take(left)).newest(change, _TOGETHER)
    if places or more_places:
        yield FoundEvents.of(search, [*rows.tolist(), *left[rows_of_left].tolist()], [*places, *more_places])


def _searches(case: Case) -> Iterator[_ViewSearch]:
    """Yield a search for each view with rows to explain."""
    for alias in case.world.views:
        plan = case.world.plan
        names = [output.name for output in plan.outputs if output.name in case.differs]
        outputs = [name for name in names if alias in views_read(plan, name)]
        if any(bool(case.differs[name].any()) for name in outputs):
            yield _ViewSearch(case, alias, outputs)


def _assuming_known(case: Case, causes: Collection[str]) -> Case:
    """Return a case in whose world what explains other rows is assumed already, so that more is found on top of it."""
    world = case.world
    latest = {assumption.parameters.get("view"): assumption for assumption in accepted_searches(case, causes)}
    for assumption in latest.values():
        world = assumption.apply(world) or world
    return replace(case, world=world, memo={})


def _rows_of_many_entities(search: _ViewSearch) -> Ints:
    """Return rows to explain: first one of each entity, then others."""
    rows = np.flatnonzero(np.any([search.case.differs[name] for name in search.outputs], axis=0))
    _, codes = search.view.entities()
    _, first = np.unique(codes[rows], return_index=True)
    one_of_each = rows[np.sort(first)]
    return np.concatenate([one_of_each, np.setdiff1d(rows, one_of_each)])[:_MOST_ROWS]


def _of_entities(search: _ViewSearch) -> Case:
    """Return all rows of the entities that have rows to explain: those too in which both roads agree."""
    whole = search.case.whole or search.case
    index, codes = KeyIndex.build([loose(key) for key in whole.world.views[search.alias].keys])
    wanted = index.codes([loose(key) for key in search.view.take(_rows_of_many_entities(search)).keys])
    rank = np.full(len(index) + 1, len(codes), dtype=np.int64)
    np.minimum.at(rank, wanted, np.arange(len(wanted)))
    is_judged = np.any([whole.differs[name] for name in search.outputs], axis=0)
    is_judged |= np.all([whole.holds[name] for name in search.outputs], axis=0)
    rows = np.flatnonzero((rank[codes] < len(codes)) & is_judged)
    rows = rows[np.argsort(rank[codes[rows]], kind="stable")][:_MOST_ROWS_BY_DIFFERENCES]
    return replace(whole.take(np.sort(rows)).narrowed(), accepted=search.case.accepted)


class _EventRange(NamedTuple):
    """Per row, places in the arranged block of its entity.

    Attributes:
        begin: The first place that can matter.
        end: The place after the last.
        newest: The newest event that the row sees; before ``begin`` if there is none.
    """

    begin: Ints
    end: Ints
    newest: Ints


@dataclass(frozen=True)
class _ViewSearch:
    """Rows of one view whose events are tried.

    Attributes:
        case: The rows.
        alias: The view.
        outputs: The outputs computed from it that have rows to explain or to respect.
    """

    case: Case
    alias: str
    outputs: list[str]

    @property
    def view(self) -> ViewWorld:
        """The view."""
        return self.case.world.views[self.alias]

    @property
    def linear(self) -> tuple[LinearFeature, ...]:
        """The features of the view that differences can be read from."""
        served = {
            split_column(output.column)[1]: output.name
            for output in self.case.world.plan.outputs
            if output.kind == "view" and view_of(output.column) == self.alias and output.name in self.outputs
        }
        return linear_features(self.view.view, served)

    def newest(self, change: EventChange, tries: Sequence[tuple[int, ...]]) -> tuple[Ints, list[Ints]]:
        """Try the newest events of each row.

        Args:
            change: What is done to events.
            tries: Which events are tried together, counted back from the newest visible one, in this order.

        Returns:
            Rows of the case that events explain, and for each the places of these events in the arranged block.
        """
        block, codes = self.view.entities()
        begin, end, newest = self._ranges(block, codes)
        best_try = np.full(len(codes), -1, dtype=np.int64)
        most_explained = np.zeros(len(codes), dtype=np.int64)
        differing = np.sum([self.case.differs[name] for name in self.outputs], axis=0)
        for number, steps in enumerate(tries):
            rows = np.flatnonzero((newest - max(steps) >= begin) & (most_explained < differing))
            if len(rows) == 0:
                continue
            tried = np.concatenate([newest[rows] - step for step in steps])
            changed = change.arrange(begin[rows], end[rows], np.tile(np.arange(len(rows)), len(steps)), tried)
            explained = self._count_explained(rows, pick(block, *changed))
            is_better = explained > most_explained[rows]
            most_explained[rows[is_better]] = explained[is_better]
            best_try[rows[is_better]] = number
        rows = np.flatnonzero(best_try >= 0)
        return rows, [newest[row] - np.array(tries[best_try[row]], dtype=np.int64) for row in rows]

    def by_differences(self, change: EventChange) -> SolvedRows:
        """Find the events of rows by the differences of their linear features."""
        world = self.case.world
        block, codes = self.view.entities()
        begin, end, _ = self._ranges(block, codes)
        names = [feature.output for feature in self.linear]
        threads = self.case.facts.threads
        try:
            unaltered = answer(replace(world, transforms=()), names, threads=threads)
            altered = answer(world, names, threads=threads) if world.transforms else unaltered
        except FeatureStoreError:
            return SolvedRows([], [], np.zeros(0, dtype=np.int64))

        def count_explained(rows: Ints, tried: Sequence[Ints]) -> Ints:
            of_row = np.repeat(np.arange(len(rows)), [len(places) for places in tried])
            changed = change.arrange(begin[rows], end[rows], of_row, np.concatenate(tried))
            return self._count_explained(rows, pick(block, *changed))

        moved = {name: _largest_change(unaltered[name].values, altered[name].values) for name in names}
        linear = tuple(feature for feature in self.linear if moved[feature.output] <= _MOST_MOVED)
        bound, ingest_bound = event_bounds(self.view.view, world.as_of)
        differences = ViewDifferences(
            view=self.view.view,
            block=block,
            codes=codes,
            bound=bound,
            ingest_bound=ingest_bound,
            linear=linear,
            reference=[unaltered[feature.output].values for feature in linear],
            served=[self.case.served[feature.output].values for feature in linear],
            slack=[moved[feature.output] for feature in linear],
            differs=np.any([self.case.differs[name] for name in self.outputs], axis=0),
            is_doubled=change.is_doubled,
        )
        return solve_rows(differences, count_explained)

    def _ranges(self, block: EventBlock, codes: Ints) -> _EventRange:
        """Return per row the events that can matter."""
        if len(block.offsets) < 2:
            nothing = np.zeros(len(codes), dtype=np.int64)
            return _EventRange(nothing, nothing, nothing - 1)
        is_known = codes >= 0
        safe = np.where(is_known, codes, 0)
        begin, end = block.offsets[safe], block.offsets[safe + 1]
        bound, _ = event_bounds(self.view.view, self.case.world.as_of)
        newest = _last_before(block.event_time, begin, end, bound)
        reach = _reach(self.view.view)
        if reach is not None:
            begin = np.maximum(begin, _last_before(block.event_time, begin, end, bound - reach))
        return _EventRange(np.where(is_known, begin, 0), np.where(is_known, end, 0), np.where(is_known, newest, -1))

    def _count_explained(self, rows: Ints, row_events: EventBlock) -> Ints:
        """Answer rows from changed events.

        Args:
            rows: Rows of the case.
            row_events: The events of each.

        Returns:
            Per row how many differing values come out, 0 if a value that holds no longer does.
        """
        part = self.case.world.take(rows)
        view = replace(part.views[self.alias], row_events=row_events)
        trial = replace(part, views={**part.views, self.alias: view})
        try:
            answers = answer(trial, self.outputs, threads=self.case.facts.threads)
        except FeatureStoreError:
            return np.zeros(len(rows), dtype=np.int64)
        explained = np.zeros(len(rows), dtype=np.int64)
        spoiled = np.zeros(len(rows), dtype=np.bool_)
        for name in self.outputs:
            served = self.case.served[name]
            same = agrees(
                answers[name].values,
                served.values.take(pa.array(rows)),
                answers[name].statuses,
                served.statuses[rows],
                self.case.dtype(name),
            )
            explained += same & self.case.differs[name][rows]
            spoiled |= ~same & self.case.holds[name][rows]
        return np.where(spoiled, 0, explained)


def _last_before(times: Ints, begin: Ints, end: Ints, bounds: Ints) -> Ints:
    """Return for each range of times the place of the last one below a bound; the one before the range if none is."""
    ranges = zip(begin.tolist(), end.tolist(), bounds.tolist(), strict=True)
    places = [low + int(np.searchsorted(times[low:high], bound)) - 1 for low, high, bound in ranges]
    return np.array(places, dtype=np.int64)


def _reach(view: ViewPlan) -> int | None:
    """Return how far back events of a view can matter, ``None`` if there is no bound."""
    if any(feature.window_us is None for feature in view.features):
        return None
    return max((feature.window_us or 0) + feature.resolution_us for feature in view.features)


def _largest_change(unaltered: pa.Array, altered: pa.Array) -> float:
    """Return by how much of themselves values are moved at most by what is done to them before they are served."""
    if altered is unaltered:
        return 0.0
    before, after = (array.cast(pa.float64(), safe=False) for array in (unaltered, altered))
    moved = pc.divide(pc.abs(pc.subtract(before, after)), pc.max_element_wise(pc.abs(before), pc.abs(after)))
    return float(pc.max(moved.filter(pc.not_equal(before, after).fill_null(False))).as_py() or 0.0)
