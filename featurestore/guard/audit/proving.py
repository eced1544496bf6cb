"""From kept rows to findings: the world they were answered in is built anew, and causes are proven in it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Flags, Ints
from featurestore.guard.audit.collecting import Collected, Round
from featurestore.guard.causes.batches import ExplainedBatch, batches_of, joined
from featurestore.guard.causes.explanation import Proof
from featurestore.guard.causes.findings_from_proof import Findings, cause_of
from featurestore.guard.causes.lateness import ValueCounts
from featurestore.guard.causes.model import Case, Facts
from featurestore.guard.causes.prove import PriorKnowledge, prove
from featurestore.guard.causes.trials import count_of
from featurestore.guard.comparing.compare import is_unread
from featurestore.guard.comparing.findings import Event, Finding
from featurestore.guard.world.events import Events
from featurestore.guard.world.world import (
    Values,
    ViewWorld,
    World,
    answer,
)
from featurestore.plan.model import Plan
from featurestore.plan.names import AS_OF
from featurestore.serving_log.columns import REQUEST_ID, ROW, key_column, request_column, status_column, value_column

_NUMBERS_EACH = 1 << 40
"""Numbers kept for the events of a lot: no event of one has the number of an event of another."""


Place = tuple[str, str, int]
"""Names a value: the feature, the request it was served in, and the place of its entity in that request."""

Told = tuple[str, tuple[Event, ...]]
"""The cause of a value, and the events that make the difference."""

Progress = Callable[[str, int, int], None]

_NAMED = "values explained"


@dataclass(frozen=True)
class Explained:
    """What explains the rows of one plan.

    Attributes:
        findings: Why values differ, most values first.
        examined: Values that were to be explained.
        told: What is said of the values that were asked about and examined.
    """

    findings: tuple[Finding, ...]
    examined: int
    told: Mapping[Place, Told]


ExplainRows = Callable[[Collected, Sequence[Place], Progress | None], Explained]
"""Explains kept rows; is given the values to tell of, and what to tell progress to."""


def explain(
    collected: Collected,
    facts: Facts,
    *,
    asked: Sequence[Place] = (),
    each: Callable[[Case, Proof], None] | None = None,
    progress: Progress | None = None,
) -> Explained:
    """Prove why kept rows differ.

    Rows are taken round by round, so that few lie in memory at a time, and each round lot by lot, for the events of
    few entities do. The first round is of entities chosen by a hash of their key. What explains one round is tried
    first on the next. Rows with values that nothing explains are put aside: what is too rare in every round to be told
    from chance may be frequent among them, so in the end they are taken together.

    Args:
        collected: The rows.
        facts: What else is known.
        asked: Values to tell of.
        each: Is given every round, with its proof.
        progress: Is told how far the proof is.

    Raises:
        StorageError: Rows that are put aside do not fit into memory, and not on the disk.
    """
    counted = ValueCounts(collected.clean, collected.different)
    explainer = _Explainer(collected, facts, progress)
    found = Findings()
    told: dict[Place, Told] = {}
    examined = 0
    with closing(Collected(collected.plan)) as aside:
        for case, proof in chain(explainer.begun(aside), explainer.ended(aside)):
            found.add(case, proof, counted)
            told |= _told_of(case, proof, asked)
            examined += count_of(case.differs.values())
            if each is not None:
                each(case, proof)
            del case, proof
            _forget()
    return Explained(found.all(), examined, told)


class _Explainer:
    """Explains round after round, and keeps what is known from those before."""

    def __init__(self, collected: Collected, facts: Facts, progress: Progress | None) -> None:
        self._collected = collected
        self._facts = facts
        self._progress = progress
        self._known = PriorKnowledge()
        self._lots = self._done = 0

    def begun(self, aside: Collected) -> Iterator[tuple[Case, Proof]]:
        """Yield rounds as cases, each with its proof, without rows that have values which nothing explains.

        Args:
            aside: Takes those rows, unless there is but one lot.
        """
        for one in self._collected.rounds():
            lots = batches_of(self._collected.plan, one.log, self._facts)
            is_all = one.share == 1.0 and len(lots) == 1
            case, proof = self._explained(one, lots, is_last=is_all)
            yield (case, proof) if is_all else _settled(case, proof, aside)

    def ended(self, aside: Collected) -> Iterator[tuple[Case, Proof]]:
        """Yield the rows that were put aside, as cases, each with its proof."""
        self._known = PriorKnowledge(self._known.assumptions)
        for one in aside.rounds():
            yield self._explained(one, batches_of(aside.plan, one.log, self._facts), is_last=True)

    def _explained(self, one: Round, lots: Sequence[Ints], *, is_last: bool) -> tuple[Case, Proof]:
        self._known = self._known.for_other_entities()
        parts: list[ExplainedBatch] = []
        for rows in lots:
            parts.append(self._of_lot(one, rows, is_last=is_last))
            _forget()
        case, owner = joined(parts)
        return case, Proof(self._known.assumptions, owner)

    def _of_lot(self, one: Round, rows: Ints, *, is_last: bool) -> ExplainedBatch:
        """Explain one lot; its events are gone from memory when this returns."""
        differs = {name: flags[rows] for name, flags in one.differs.items()}
        log = one.log.take(pa.array(rows))
        case = case_of(self._collected.plan, log, differs, self._facts, first_number=self._lots * _NUMBERS_EACH)
        share = len(rows) / one.log.num_rows * one.share
        clean = {name: int(count * share) for name, count in self._collected.clean.items()}
        proof = prove(case, clean=clean, known=self._known, is_last=is_last, progress=self._tell)
        self._known = self._known.after(case, proof)
        self._lots += 1
        self._done += count_of(differs.values())
        return ExplainedBatch.of(case, proof)

    def _tell(self, explained: int, _: int) -> None:
        if self._progress is not None:
            total = self._collected.to_explain
            self._progress(_NAMED, min(self._done + explained, total), total)


def _settled(case: Case, proof: Proof, aside: Collected) -> tuple[Case, Proof]:
    """Put rows aside that have values which nothing explains; return the others."""
    is_open = np.zeros(len(case.world), dtype=np.bool_)
    for name, flags in case.differs.items():
        is_open |= flags & (proof.owner[name] < 0)
    if not bool(is_open.any()):
        return case, proof
    is_taken = is_open if aside.has_controls else is_open | ~case.suspects()
    aside.put(case.world.log.filter(pa.array(is_taken)), {name: own[is_taken] for name, own in case.differs.items()})
    rows = np.flatnonzero(~is_open)
    return case.take(rows), Proof(proof.assumptions, {name: owner[rows] for name, owner in proof.owner.items()})


def _forget() -> None:
    """Give memory back: what assumptions remember of a lot refers to itself, so that it would stay for a while."""
    gc.collect()
    pa.default_memory_pool().release_unused()


def _told_of(case: Case, proof: Proof, asked: Sequence[Place]) -> dict[Place, Told]:
    """Return what is said of those values among the rows of a case."""
    found = {}
    log = case.world.log
    for feature, request_id, row in asked:
        if feature in case.differs:
            is_it = pc.and_(pc.equal(log.column(REQUEST_ID), request_id), pc.equal(log.column(ROW), row))
            places = np.flatnonzero(is_it.to_numpy() & case.differs[feature])
            if len(places):
                found[feature, request_id, row] = cause_of(case, proof, feature, int(places[0]))
    return found


def case_of(plan: Plan, log: pa.Table, differs: Mapping[str, Flags], facts: Facts, *, first_number: int = 0) -> Case:
    """Build the world of some rows.

    Args:
        plan: The plan that answered them.
        log: The rows.
        differs: Per output the rows that differ.
        facts: What else is known.
        first_number: Number of the first event.
    """
    log = log.combine_chunks()
    world = world_of(plan, log, facts, first_number=first_number)
    served = {
        name: Values(
            log.column(value_column(name)).combine_chunks(),
            np.asarray(log.column(status_column(name)).combine_chunks().to_numpy(zero_copy_only=False), dtype=np.uint8),
        )
        for name in differs
    }
    return Case(
        facts=facts,
        world=world,
        reference=answer(world, list(differs), threads=facts.threads),
        served=served,
        differs=dict(differs),
        holds={name: ~flags & ~is_unread(log, name) for name, flags in differs.items()},
    )


def world_of(plan: Plan, log: pa.Table, facts: Facts, *, first_number: int = 0) -> World:
    """Return the world in which the training set answers the rows of a log."""
    views = {}
    for use in plan.uses:
        keys = tuple(log.column(key_column(name)).combine_chunks() for name in use.keys)
        table = facts.read_events(use.view, keys, False)
        numbers = np.arange(first_number, first_number + table.num_rows, dtype=np.int64) if first_number else None
        events = Events(table, tuple(key.name for key in use.view.entity.keys), numbers=numbers)
        views[use.alias] = ViewWorld(use.view, events, keys)
    as_of = log.column(AS_OF).combine_chunks().cast(pa.int64()).to_numpy(zero_copy_only=False)
    requests = {column.name: log.column(request_column(column.name)).combine_chunks() for column in plan.request}
    return World(plan, log, np.ascontiguousarray(as_of), views, requests)
