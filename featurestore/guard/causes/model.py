"""What a hypothesis is: a name, and the changed assumptions under which an answer may have come about."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.core.columns import Flags, Floats, Ints
from featurestore.guard.world.events import CountEvents, ReadEvents
from featurestore.guard.world.world import Values, World
from featurestore.plan.model import Plan, ViewPlan
from featurestore.registry import RunRecord


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
class Came:
    """Rows of a source that a materialize run should have read by their times, and that were not there yet.

    Attributes:
        until_us: Bound of the ingest times that the newest run without them read.
        seen_at_us: When the first run with them ended; ``None`` if there was none.
        hashes: Their hashes (``sources.content``), one per row.
    """

    until_us: int
    seen_at_us: int | None
    hashes: npt.NDArray[np.uint64]


@dataclass(frozen=True)
class SourceChange:
    """How a source differs from what materialize runs read.

    Attributes:
        view: The view whose runs recorded it.
        source: Name of the source.
        said: What changed, in words, most telling first.
        is_rewritten: Whether rows that the last run read were changed or are gone.
        was_rewritten: Whether that is so of rows that an earlier run read.
        came: Rows that came later than they say, where it is proven that beside them nothing changed; oldest first.
        grown_until_us: Bound of the newest run since which more rows came below it, and it cannot be told which;
            ``None`` if there is none.
    """

    view: str
    source: str
    said: tuple[str, ...]
    is_rewritten: bool
    was_rewritten: bool = False
    came: tuple[Came, ...] = ()
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
    """Rows of one plan about which hypotheses are asked: some that differ, some that do not.

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
        memo: What hypotheses found out and need again.
    """

    facts: Facts
    world: World
    reference: Mapping[str, Values]
    served: Mapping[str, Values]
    differs: dict[str, Flags]
    holds: Mapping[str, Flags]
    whole: Case | None = None
    accepted: Sequence[Variant] = ()
    bits: Mapping[str, Floats] = field(default_factory=dict)
    memo: dict[str, Any] = field(default_factory=dict)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Outputs with rows to explain."""
        return tuple(name for name, flags in self.differs.items() if bool(flags.any()))

    def suspects(self) -> Flags:
        """Return the rows in which anything is to be explained."""
        found = np.zeros(len(self.world), dtype=np.bool_)
        for flags in self.differs.values():
            found |= flags
        return found

    def narrowed(self) -> Case:
        """Return the same case with only the events of the entities that its rows ask about."""
        views = {
            alias: replace(view, events=view.events.only(view.keys)) if view.own is None else view
            for alias, view in self.world.views.items()
        }
        return replace(self, world=replace(self.world, views=views), memo={})

    def take(self, rows: Ints) -> Case:
        """Return the same case for some of its rows."""
        places = pa.array(rows)

        def taken(values: Mapping[str, Values]) -> dict[str, Values]:
            return {name: Values(found.values.take(places), found.statuses[rows]) for name, found in values.items()}

        return Case(
            facts=self.facts,
            world=self.world.take(rows),
            reference=taken(self.reference),
            served=taken(self.served),
            differs={name: flags[rows] for name, flags in self.differs.items()},
            holds={name: flags[rows] for name, flags in self.holds.items()},
            whole=self.whole or self,
            accepted=self.accepted,
            bits={name: bits[rows] for name, bits in self.bits.items()},
        )


Example = Mapping[str, Any]


@dataclass(frozen=True)
class Variant:
    """One changed assumption.

    Attributes:
        cause: Name of the hypothesis.
        said: What is assumed, in a user's words: "windows end 1d earlier".
        apply: Makes the changed world of a world's rows; ``None`` where it changes nothing.
        parameters: What was chosen, for programs.
        outputs: The only outputs it is about; ``None`` for all.
        fix: What would make both roads equal again, in the user's own terms.
        events: Numbers of the events that make the difference, by alias; for examples.
        evidence: More that speaks for it.
        bits: Bits that it takes to name it among all assumptions: fewer if other facts point at it.
        row_bits: Bits that it takes to say, row by row, what was changed; more than the hypothesis says by itself.
        least_share: Share of an output's differing values it must explain to be named at all.
        least_held: Share of the values it changes or leaves unexplained that must come out as served: 0 if it may
            hold in some rows only.
        events_each: Single events that had to be chosen for each row they were searched for, beyond what the row gives.
        is_proven: Whether it explains so much that this is not chance; otherwise it only fits.
    """

    cause: str
    said: str
    apply: Callable[[World], World | None]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    outputs: frozenset[str] | None = None
    fix: str = ""
    events: Mapping[str, Ints] = field(default_factory=dict)
    evidence: tuple[str, ...] = ()
    bits: float = 7.0
    row_bits: float = 0.0
    least_share: float = 0.0
    least_held: float = 0.0
    events_each: float = 0.0
    is_proven: bool = True

    @property
    def is_searched(self) -> bool:
        """Whether it is about single events that were searched row by row."""
        return bool(self.events) and "since" not in self.parameters


@dataclass(frozen=True)
class Hypothesis:
    """One cause that an audit can prove.

    Attributes:
        name: Its name in reports.
        meaning: What it says, in one sentence.
        variants: Proposes changed assumptions for a case.
        row_bits: Bits that it takes to say, row by row, what was changed, for a value that is worth ``MOST_BITS``; for
            others less by as much. 0 if one assumption is made for all rows.
        most_bits: Most bits that it takes to say in which rows it holds, for a value that is worth ``MOST_BITS``, as
            above: little where it may well hold in single ones.
        explains_absence: Whether it is meant for entities that were not found; other hypotheses must explain more.
    """

    name: str
    meaning: str
    variants: Callable[[Case], Iterable[Variant]]
    row_bits: float = 0.0
    most_bits: float = math.inf
    explains_absence: bool = False
