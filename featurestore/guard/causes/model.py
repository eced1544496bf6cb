"""The vocabulary of a proof: a case to explain, assumptions that may explain it, hypotheses that propose them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.core.columns import Flags, Floats, Ints
from featurestore.core.dtypes import DType
from featurestore.guard.causes.weights import WEIGHTS
from featurestore.guard.world.events import CountEvents, ReadEvents
from featurestore.guard.world.world import Values, World
from featurestore.plan.model import Plan, ViewPlan
from featurestore.registry import RunRecord

Cause = tuple[str, ...]
"""The names of the hypotheses that explain a value: one, or several where only all of them together explain it."""


def cause_text(cause: Cause) -> str:
    """Return a cause as reports, exports and JSON have it: the names with a plus between.

    Example:
        >>> cause_text(("event_lost", "precision"))
        'event_lost + precision'
    """
    return " + ".join(cause)


@dataclass(frozen=True)
class HeldState:
    """What online state answers today about rows of the past.

    Attributes:
        values: Per output its values and statuses.
        is_answered: Rows that the state still reaches.
    """

    values: Mapping[str, Values]
    is_answered: Flags


@dataclass(frozen=True)
class LateRows:
    """Rows of a source that a materialize run should have read by their times, and that were not there yet.

    Attributes:
        read_until_us: Bound of the ingest times that the newest run without them read.
        seen_at_us: When the first run with them ended; ``None`` if there was none.
        hashes: Their hashes (``sources.content``), one per row.
    """

    read_until_us: int
    seen_at_us: int | None
    hashes: npt.NDArray[np.uint64]


@dataclass(frozen=True)
class SourceChange:
    """How a source differs from what materialize runs read.

    Attributes:
        view: The view whose runs recorded it.
        source: Name of the source.
        descriptions: The changes in words, the most important one first.
        is_rewritten: Whether rows that the last run read were changed or are gone.
        was_rewritten: Whether that is so of rows that an earlier run read.
        late_rows: Rows that came later than they say, where it is proven that nothing else changed; oldest first.
        grown_until_us: Bound of the newest run since which more rows came below it that cannot be told from the
            others; ``None`` if there is none.
    """

    view: str
    source: str
    descriptions: tuple[str, ...]
    is_rewritten: bool
    was_rewritten: bool = False
    late_rows: tuple[LateRows, ...] = ()
    grown_until_us: int | None = None


@dataclass(frozen=True)
class Facts:
    """What an audit knows beside the log and the events.

    Attributes:
        other_plans: Plans that were applied under the service's name, other than the one that answered.
        read_events: Reads the events of some entities from the sources.
        count_events: Counts, per row of some key columns, the events of its entity.
        runs: Materialize runs by view, newest first.
        held: Asks online state about rows of a log; ``None`` if there is no online state to ask.
        changes: How sources differ from what materialize runs read.
        threads: Threads of the kernels.
    """

    other_plans: Sequence[Plan]
    read_events: ReadEvents
    count_events: CountEvents = lambda _, keys: np.zeros(len(keys[0]), dtype=np.int64)
    runs: Mapping[str, Sequence[RunRecord]] = field(default_factory=dict)
    held: Callable[[Plan, pa.Table], HeldState | None] = lambda _, __: None
    changes: Callable[[ViewPlan], SourceChange | None] = lambda _: None
    threads: int = 1


@dataclass
class Case:
    """Rows of one plan whose differences are to be explained, with some rows that do not differ.

    Attributes:
        facts: What else is known.
        world: The world as the training set sees it.
        reference: What it answers, by output.
        served: What was served, by output.
        differs: Per output the rows that differ and are not explained yet.
        holds: Per output the rows in which both roads agree.
        whole: The case this is a part of; ``None`` if it is all there is.
        accepted: Assumptions that explain other rows of the same case already.
        bits: Per output and row what it is worth to explain what was served; empty where nothing is judged.
        memo: Results that several hypotheses need.
    """

    facts: Facts
    world: World
    reference: Mapping[str, Values]
    served: Mapping[str, Values]
    differs: dict[str, Flags]
    holds: Mapping[str, Flags]
    whole: Case | None = None
    accepted: Sequence[Assumption] = ()
    bits: Mapping[str, Floats] = field(default_factory=dict)
    memo: dict[str, Any] = field(default_factory=dict)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Outputs with rows to explain."""
        return tuple(name for name, flags in self.differs.items() if bool(flags.any()))

    def dtype(self, output: str) -> DType:
        """Return the dtype of an output."""
        return next(column.dtype for column in self.world.plan.outputs if column.name == output)

    def suspects(self) -> Flags:
        """Return the rows in which any value is to be explained."""
        rows = np.zeros(len(self.world), dtype=np.bool_)
        for flags in self.differs.values():
            rows |= flags
        return rows

    def narrowed(self) -> Case:
        """Return the same case with only the events of the entities that its rows ask about."""
        views = {
            alias: replace(view, events=view.events.only(view.keys)) if view.row_events is None else view
            for alias, view in self.world.views.items()
        }
        return replace(self, world=replace(self.world, views=views), memo={})

    def take(self, rows: Ints) -> Case:
        """Return the same case for some of its rows."""
        places = pa.array(rows)

        def take_values(values_of: Mapping[str, Values]) -> dict[str, Values]:
            return {
                name: Values(values.values.take(places), values.statuses[rows]) for name, values in values_of.items()
            }

        return Case(
            facts=self.facts,
            world=self.world.take(rows),
            reference=take_values(self.reference),
            served=take_values(self.served),
            differs={name: flags[rows] for name, flags in self.differs.items()},
            holds={name: flags[rows] for name, flags in self.holds.items()},
            whole=self.whole or self,
            accepted=self.accepted,
            bits={name: bits[rows] for name, bits in self.bits.items()},
        )


@dataclass(frozen=True)
class Assumption:
    """One change of the world under which served values may have come about.

    Attributes:
        statement: What is assumed, in a user's words: "windows end 1d earlier".
        apply: Makes the changed world of a world's rows; ``None`` where it changes nothing.
        parameters: What was chosen, for programs.
        cause: The hypotheses that proposed it; ``Hypothesis.assumptions`` sets it.
        outputs: The only outputs it is about; ``None`` for all.
        fix: How to make both roads equal again, in the user's own terms.
        events: Numbers of the events that make the difference, by alias; for examples.
        evidence: More that speaks for it.
        naming_bits: Cost of naming it among all assumptions: less if other facts point at it.
        row_bits: Cost of saying, row by row, what was changed; added to that of the hypothesis.
        least_share: Share of an output's differing values it must explain to be named at all.
        least_held: Share of the values it changes or leaves unexplained that must come out as served: 0 if it may
            hold in some rows only.
        events_per_row: Single events that had to be chosen for each row they were searched for, beyond what the row
            gives.
        is_proven: Whether it explains so much that this is not chance; otherwise it only fits.
    """

    statement: str
    apply: Callable[[World], World | None]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    cause: Cause = ()
    outputs: frozenset[str] | None = None
    fix: str = ""
    events: Mapping[str, Ints] = field(default_factory=dict)
    evidence: tuple[str, ...] = ()
    naming_bits: float = WEIGHTS.naming
    row_bits: float = 0.0
    least_share: float = 0.0
    least_held: float = 0.0
    events_per_row: float = 0.0
    is_proven: bool = True

    @property
    def is_searched(self) -> bool:
        """Whether it is about single events that were searched row by row."""
        return bool(self.events) and "since" not in self.parameters


@dataclass(frozen=True)
class Hypothesis:
    """One way to come to a cause. Several hypotheses may have the same name, and explain the same cause.

    Attributes:
        name: Name of the cause in reports.
        rank: Place in the catalogue. Of hypotheses that gain the same, the one with the lowest rank is named: first
            what the log or the registry says itself, then what happened to the state, then rules that were read
            differently, then what was done to values and requests, and last what is searched event by event.
        meaning: What the cause says, in one sentence.
        propose: Proposes assumptions for a case.
        row_bits: Cost of saying, row by row, what was changed, for a value that is worth ``WEIGHTS.value``; for others
            less by as much. 0 if one assumption is made for all rows.
        most_where_bits: Most that it costs to say in which rows it holds, for a value that is worth ``WEIGHTS.value``,
            as above: little where it may well hold in single ones.
        explains_absence: Whether it is meant for entities that were not found; other hypotheses must explain more.
        alters_values: Whether it is about what was done to values after they were computed.
        searches_events: Whether it searches single events row by row.
    """

    name: str
    rank: int
    meaning: str
    propose: Callable[[Case], Iterable[Assumption]]
    row_bits: float = 0.0
    most_where_bits: float = math.inf
    explains_absence: bool = False
    alters_values: bool = False
    searches_events: bool = False

    def assumptions(self, case: Case) -> Iterator[Assumption]:
        """Yield the assumptions that are proposed for a case, under the name of this hypothesis."""
        for assumption in self.propose(case):
            yield replace(assumption, cause=(self.name,))
