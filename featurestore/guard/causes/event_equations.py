"""Which events are missing, or counted twice, is read from the differences between features.

Let ``S`` be the events that serving did not have. For every *linear* feature with window ``W``

    sum of x(e) over the events e of S in W  =  recomputed - served

where ``x`` is 1 for a count, the value for a sum, and the value less the served mean for a mean, whose right-hand side
is then the recomputed sum less the served mean for each event that was recomputed. Events that count twice satisfy the
same equations with the opposite sign. Windows of one request end together, so their lower edges cut its events into
shells; shells are solved from the newest on, each by the features whose window begins with it, after the solution of
newer ones is subtracted.

Within a shell the solver finds single events, pairs, triples and fours (one or two are combined, and the rest is looked
up among single events or pairs, sorted by the feature that tells events apart best), and runs of neighbours of any
length. Each is bounded, by the constants below: of larger shells triples and fours are sought among the newest events,
of many solutions the newest are taken. The solutions most consistent with the entity's other rows are handed on; that
they are right is for the kernels to say, which must give what was served, in all features of the view together.

The rows of an entity are solved in the order of time: an event that is missing in one is assumed to be missing in the
next, unless it is there again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Flags, Floats, Ints
from featurestore.core.temporal import NOTHING_YET, window_start
from featurestore.kernels.events import EventBlock
from featurestore.kernels.program import need_of
from featurestore.plan.aggregations import Contribution, aggregate_of
from featurestore.plan.model import FeaturePlan, ViewPlan

_MOST_SETS = 32
"""Solutions of a shell that are kept, and of a row that are compared with other rows."""

_MOST_TRIED = 4
"""Solutions of a row that the kernels evaluate."""

_MOST_IN_PAIRS = 1_000
"""Events of a shell among which pairs are sought, newest first."""

_MOST_COMBINED_OF = 200
"""Events of a shell among which triples and fours are sought, newest first."""

_MOST_COMBINED = 20_000
"""Combinations that are looked at where the feature that tells events apart best tells few."""

_LONGEST_RUN = 64
"""Longest run of neighbours that is sought where no count says how long it is."""

_ROUNDING = 2.0**-48
"""Largest error of a difference of two floats that are each rounded once, relative to their size."""

_NUMBERS = ("float64", "int64", "decimal")


@dataclass(frozen=True)
class LinearFeature:
    """A feature that adds up what its events contribute.

    Attributes:
        output: Name of the output.
        feature: Its definition.
    """

    output: str
    feature: FeaturePlan


def linear_features(view: ViewPlan, outputs: Mapping[str, str]) -> tuple[LinearFeature, ...]:
    """Return the features of a view that differences can be read from.

    Args:
        view: The view.
        outputs: Names of outputs by feature.
    """
    return tuple(
        LinearFeature(outputs[feature.name], feature)
        for feature in view.features
        if feature.name in outputs and _is_linear(view, feature)
    )


def _is_linear(view: ViewPlan, feature: FeaturePlan) -> bool:
    contribution, value = aggregate_of(feature).contribution, view.inputs[feature.input].value
    if contribution is None or contribution is Contribution.ONE:
        return contribution is not None
    return value is not None and value.dtype.kind in _NUMBERS


@dataclass(frozen=True)
class EventEquations:
    """The equations of one row.

    Attributes:
        columns: Contribution of each event to each equation, 0 outside of its window; events from the oldest on.
        since: Per equation the first event of its window.
        wanted: Per equation the sum of the contributions of the events that are sought.
        slack: Per equation how far off that may be.
    """

    columns: Floats
    since: Ints
    wanted: Floats
    slack: Floats

    def is_solved(self, wanted: Floats | None = None) -> bool:
        """Return whether no event is left to be found."""
        return bool(np.all(np.abs(self.wanted if wanted is None else wanted) <= self.slack))

    def left(self, taken: Ints) -> Floats:
        """Return the sums that are still wanted when some events are subtracted."""
        return np.asarray(self.wanted - self.columns[taken].sum(axis=0), dtype=np.float64)

    def solutions(self, taken: Ints) -> list[Ints]:
        """Return sets of events that solve all equations beside some that are taken already, newest first."""
        partial: list[tuple[Ints, Floats]] = [(taken, self.left(taken))]
        free = np.ones(len(self.columns), dtype=np.bool_)
        free[taken] = False
        end = len(self.columns)
        for edge in np.unique(self.since)[::-1].tolist():
            equations = np.flatnonzero(self.since == edge)
            shell = (edge + np.flatnonzero(free[edge:end]))[::-1]
            partial = [
                (np.concatenate([chosen, shell[more]]), wanted - self.columns[shell[more]].sum(axis=0))
                for chosen, wanted in partial
                for more in _sets(self.columns[np.ix_(shell, equations)], wanted[equations], self.slack[equations])
            ][:_MOST_SETS]
            end = edge
        return [chosen for chosen, _ in partial]


def _sets(columns: Floats, wanted: Floats, slack: Floats) -> list[Ints]:
    """Return the smallest sets of a shell's events that add up to the wanted sums; the empty set if these are 0."""
    if bool(np.all(np.abs(wanted) <= slack)):
        return [np.zeros(0, dtype=np.int64)]
    if len(columns) == 0:
        return []
    is_positive = np.all(columns >= 0, axis=0)
    if bool(np.any(is_positive & (wanted < -slack))):
        return []
    # An event that contributes more than is wanted to a sum without negative summands is in no solution.
    useful = np.flatnonzero(~np.any(is_positive & (columns > wanted + slack), axis=1))
    is_count = np.all(columns == 1.0, axis=0)
    size = round(float(wanted[is_count][0])) if bool(is_count.any()) else None
    useful_columns = columns[useful]
    for count, seek in ((1, _singles), (2, _pairs), (3, _triples), (4, _fours)):
        if size in (None, count):
            sets = seek(useful_columns, wanted, slack)
            if len(sets):
                return [useful[chosen] for chosen in sets[:_MOST_SETS]]
    return _runs(columns, wanted, slack, size)[:_MOST_SETS]


def _singles(columns: Floats, wanted: Floats, slack: Floats) -> Ints:
    return np.flatnonzero(np.all(np.abs(columns - wanted) <= slack, axis=1)).reshape(-1, 1)


def _pairs(columns: Floats, wanted: Floats, slack: Floats) -> Ints:
    singles = np.arange(min(len(columns), _MOST_IN_PAIRS)).reshape(-1, 1)
    return _completed(columns, singles, singles, wanted, slack)


def _triples(columns: Floats, wanted: Floats, slack: Floats) -> Ints:
    count = min(len(columns), _MOST_COMBINED_OF)
    return _completed(columns, _pairs_of(count), np.arange(count).reshape(-1, 1), wanted, slack)


def _fours(columns: Floats, wanted: Floats, slack: Floats) -> Ints:
    pairs = _pairs_of(min(len(columns), _MOST_COMBINED_OF))
    return _completed(columns, pairs, pairs, wanted, slack)


def _pairs_of(count: int) -> Ints:
    return np.column_stack(np.triu_indices(count, 1))


def _completed(columns: Floats, begun: Ints, rest: Ints, wanted: Floats, slack: Floats) -> Ints:
    """Complete sets by others of later events, so that they add up to the wanted sums."""
    if len(begun) == 0 or len(rest) == 0:
        return np.zeros((0, begun.shape[1] + rest.shape[1]), dtype=np.int64)
    key = int(np.argmax([len(np.unique(column)) for column in columns.T]))
    sums = columns[rest, key].sum(axis=1)
    order = np.argsort(sums, kind="stable")
    ranked = sums[order]
    missing = wanted[key] - columns[begun, key].sum(axis=1)
    low = np.searchsorted(ranked, missing - slack[key])
    counts = np.searchsorted(ranked, missing + slack[key], side="right") - low
    room = int(np.searchsorted(np.cumsum(counts), _MOST_COMBINED, side="right"))
    begun, low, counts = begun[:room], low[:room], counts[:room]
    places = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - low, counts)
    first, second = np.repeat(begun, counts, axis=0), rest[order[places]]
    is_later = second[:, 0] > first[:, -1]
    sets = np.column_stack([first[is_later], second[is_later]])
    fits = np.all(np.abs(columns[sets].sum(axis=1) - wanted) <= slack, axis=1)
    return np.asarray(sets[fits], dtype=np.int64)


def _runs(columns: Floats, wanted: Floats, slack: Floats, size: int | None) -> list[Ints]:
    """Return runs of neighbours that add up to the wanted sums, short ones first."""
    total = np.vstack([np.zeros(columns.shape[1]), np.cumsum(columns, axis=0)])
    slack = slack + _ROUNDING * np.abs(columns).sum(axis=0)
    lengths = range(2, min(len(columns), _LONGEST_RUN) + 1) if size is None else [size]
    return [
        np.arange(begin, begin + length)
        for length in lengths
        if 0 < length <= len(columns)
        for begin in np.flatnonzero(np.all(np.abs(total[length:] - total[:-length] - wanted) <= slack, axis=1)).tolist()
    ]


@dataclass(frozen=True)
class ViewDifferences:
    """Rows of one view, with the values of both roads.

    Attributes:
        view: The view.
        block: Its events.
        codes: Per row its entity; negative if it has no events.
        bound: Per row the event bound.
        ingest_bound: Per row the ingest bound.
        linear: The features that differences are read from.
        reference: Recomputed values, one array per feature.
        served: Served values, one array per feature.
        slack: Per feature how far off values may be, relative to themselves, because they are rounded before serving.
        differs: Rows with any value to explain.
        is_doubled: Whether events that count twice are sought, rather than those that are missing.
    """

    view: ViewPlan
    block: EventBlock
    codes: Ints
    bound: Ints
    ingest_bound: Ints
    linear: tuple[LinearFeature, ...]
    reference: Sequence[pa.Array]
    served: Sequence[pa.Array]
    slack: Sequence[float]
    differs: Flags
    is_doubled: bool

    def entities(self) -> Iterator[Ints]:
        """Yield the rows of each entity in the order of time."""
        rows = np.flatnonzero(self.codes >= 0)
        rows = rows[np.lexsort([self.bound[rows], self.codes[rows]])]
        yield from np.split(rows, np.flatnonzero(np.diff(self.codes[rows])) + 1)


@dataclass(frozen=True)
class _Row:
    """One row's equations, and the place in the block of each of its events."""

    equations: EventEquations
    places: Ints

    def inside(self, places: Ints) -> Ints:
        """Return which of its events some places are; those it does not see are left out."""
        return np.flatnonzero(np.isin(self.places, places))


class _EquationBuilder:
    """Builds the equations of rows."""

    def __init__(self, differences: ViewDifferences) -> None:
        self._differences = differences
        self._reference = [_numbers(array) for array in differences.reference]
        self._served = [_numbers(array) for array in differences.served]

    def row(self, row: int) -> _Row:
        """Return the equations of a row, over the events that its longest window holds."""
        differences = self._differences
        block = differences.block
        low, high = (int(block.offsets[differences.codes[row] + step]) for step in (0, 1))
        high = low + int(np.searchsorted(block.event_time[low:high], differences.bound[row]))
        starts = [self._window_start(linear.feature, row) for linear in differences.linear]
        low += int(np.searchsorted(block.event_time[low:high], min(starts, default=NOTHING_YET)))
        places = low + np.flatnonzero(block.ingest_time[low:high] < differences.ingest_bound[row])
        since = np.searchsorted(block.event_time[places], np.array(starts, dtype=np.int64))
        columns = np.zeros((len(places), len(starts)))
        wanted, slack = np.zeros(len(starts)), np.zeros(len(starts))
        for number, linear in enumerate(differences.linear):
            values, is_counted = self._contributions(linear.feature, places[since[number] :])
            reference, served = self._reference[number][row], self._served[number][row]
            if aggregate_of(linear.feature).contribution is Contribution.DEVIATION:
                # A mean of no events has no value; then the sum that is left is 0.
                values = np.where(is_counted, values - served, 0.0)
                count = int(is_counted.sum())
                reference, served = reference * count, served * count
            columns[since[number] :, number] = values
            wanted[number] = served - reference if differences.is_doubled else reference - served
            slack[number] = (_ROUNDING + differences.slack[number]) * (abs(reference) + abs(served))
        return _Row(EventEquations(columns, since, wanted, slack), places)

    def _window_start(self, feature: FeaturePlan, row: int) -> int:
        if feature.window_us is None:
            return NOTHING_YET
        inclusive = int(self._differences.view.source.inclusive)
        return window_start(int(self._differences.bound[row]), feature.window_us, feature.resolution_us, inclusive)

    def _contributions(self, feature: FeaturePlan, places: Ints) -> tuple[Floats, Flags]:
        """Return what events add to a count or sum, and whether they are counted at all."""
        block = self._differences.block
        is_counted = block.flags[feature.input, places] >= need_of(feature)
        if aggregate_of(feature).contribution is Contribution.ONE:
            return is_counted.astype(np.float64), is_counted
        value = self._differences.view.inputs[feature.input].value
        assert value is not None
        words = block.values[feature.input, places]
        numbers = words.view(np.float64) if value.dtype.kind == "float64" else words.astype(np.float64)
        if value.dtype.kind == "decimal":
            numbers = numbers / 10.0**value.dtype.scale
        return np.where(is_counted, numbers, 0.0), is_counted


def _numbers(array: pa.Array) -> Floats:
    return np.asarray(array.cast(pa.float64(), safe=False).fill_null(0.0).to_numpy(zero_copy_only=False))


CountExplained = Callable[[Ints, Sequence[Ints]], Ints]
"""Returns, for rows and the places of the events that each is tried without (or with twice), how many values come
out."""


@dataclass(frozen=True)
class SolvedRows:
    """Rows that events explain.

    Attributes:
        rows: Rows in which events make a difference.
        places: For each the places of the events in the block.
        silent: Rows that differ, but not in any linear feature: nothing can be read from them.
    """

    rows: list[int]
    places: list[Ints]
    silent: Ints


def solve_rows(differences: ViewDifferences, count_explained: CountExplained) -> SolvedRows:
    """Find the events of each row by its differences.

    Rows of different entities are tried together, one of each at a time.

    Args:
        differences: The rows.
        count_explained: Evaluates the kernels.
    """
    builder = _EquationBuilder(differences)
    silent: list[int] = []
    solvers = [_EntitySolver(differences, builder, rows, silent) for rows in differences.entities()]
    solved: list[tuple[int, Ints]] = []
    while True:
        tried = [(solver, solver.row, chosen) for solver in solvers for chosen in solver.next_candidates()]
        if not tried:
            break
        counts = count_explained(
            np.array([row for _, row, _ in tried], dtype=np.int64), [chosen for _, _, chosen in tried]
        )
        for (solver, _, chosen), count in zip(tried, counts.tolist(), strict=True):
            solver.rate(chosen, count)
        solved += [solution for solver in solvers if (solution := solver.decide()) is not None]
    return SolvedRows([row for row, _ in solved], [places for _, places in solved], np.array(silent, dtype=np.int64))


class _EntitySolver:
    """Solves the rows of one entity in the order of time.

    Attributes:
        row: The row that candidates are for.
    """

    def __init__(self, differences: ViewDifferences, builder: _EquationBuilder, rows: Ints, silent: list[int]) -> None:
        """Build the equations of all rows.

        Args:
            differences: The rows of all entities.
            builder: Builds equations.
            rows: The rows of the entity, in the order of time.
            silent: Receives the rows that nothing can be read from.
        """
        self.row = -1
        self._differs = differences.differs
        self._rows = {row: builder.row(row) for row in rows.tolist()}
        self._unsolved = iter(self._rows)
        self._silent = silent
        is_count = [aggregate_of(linear.feature).contribution is Contribution.ONE for linear in differences.linear]
        self._is_count = np.array(is_count, dtype=np.bool_)
        self._absent = np.zeros(0, dtype=np.int64)
        self._best: tuple[int, Ints] | None = None

    def next_candidates(self) -> list[Ints]:
        """Go on to the next row with solutions; return the sets of places to be tried, none at the end."""
        for row in self._unsolved:
            self.row = row
            candidates = self._candidates(self._rows[row])
            if candidates:
                return candidates
        return []

    def _candidates(self, row: _Row) -> list[Ints]:
        absent = row.inside(self._absent)
        differs = bool(self._differs[self.row])
        if row.equations.is_solved(row.equations.left(absent)):
            if differs and len(absent):
                return [row.places[absent]]
            if differs:
                self._silent.append(self.row)
            return []
        if row.equations.is_solved():
            # The events that were missing are there again.
            self._absent = np.setdiff1d(self._absent, row.places[absent])
            return []
        if not differs:
            return []
        nothing = np.zeros(0, dtype=np.int64)
        sets = row.equations.solutions(absent) or (row.equations.solutions(nothing) if len(absent) else [])
        return self._most_consistent([np.sort(row.places[chosen]) for chosen in sets])

    def _most_consistent(self, sets: list[Ints]) -> list[Ints]:
        """Return the sets with which the entity's other rows come out best as well."""
        if len(sets) > 1:
            sets = sorted(sets, key=self._inconsistency)
        return sets[:_MOST_TRIED]

    def _inconsistency(self, chosen: Ints) -> tuple[float, int]:
        """Return how far counts of the entity are off under a set, and how many equations do not come out."""
        absent = self._absent_with(chosen)
        count_error, wrong = 0.0, 0
        for row in self._rows.values():
            left = np.abs(row.equations.left(row.inside(absent)))
            count_error += float(left[self._is_count].sum())
            wrong += int((left > row.equations.slack).sum())
        return count_error, wrong

    def _absent_with(self, chosen: Ints) -> Ints:
        """Return the absent events if those that the present row sees are those of a set."""
        return np.union1d(np.setdiff1d(self._absent, self._rows[self.row].places), chosen)

    def rate(self, chosen: Ints, explained: int) -> None:
        """Note how many values of the row come out under a set."""
        if explained > 0 and (self._best is None or explained > self._best[0]):
            self._best = (explained, chosen)

    def decide(self) -> tuple[int, Ints] | None:
        """Assume the best set of the row for the rows after it; return the row and the set, ``None`` without one."""
        if self._best is None:
            return None
        chosen = self._best[1]
        self._best = None
        self._absent = self._absent_with(chosen)
        return self.row, chosen
