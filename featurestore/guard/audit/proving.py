"""From kept rows to findings: causes are proven in the world in which the rows were answered."""

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
from featurestore.guard.audit.kept_rows import KeptRows, Round
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
from featurestore.storage.progress import Progress

_NUMBERS_EACH = 1 << 40
"""Size of the range of numbers for the events of one batch, so that event numbers are unique over all batches."""


Place = tuple[str, str, int]
"""Identifies a value: its feature, the id of its request, and the place of its entity in that request."""

Cause = tuple[str, tuple[Event, ...]]
"""The cause of a difference, and the events that make it."""

_STEP = "values explained"


@dataclass(frozen=True)
class Explained:
    """Causes of the differing rows of one plan.

    Attributes:
        findings: Causes of differences, most values first.
        examined: Count of values to explain.
        causes: Cause of each value that was asked about and examined.
    """

    findings: tuple[Finding, ...]
    examined: int
    causes: Mapping[Place, Cause]


ExplainRows = Callable[[KeptRows, Sequence[Place], Progress | None], Explained]
"""Explains kept rows; also takes the values whose causes to return, and the receiver of the progress."""


def explain(
    kept: KeptRows,
    facts: Facts,
    *,
    asked: Sequence[Place] = (),
    each: Callable[[Case, Proof], None] | None = None,
    progress: Progress | None = None,
) -> Explained:
    """Prove why kept rows differ.

    Rows are explained in rounds, so that only the rows of one round are in memory, and each round in batches, so that
    only the events of few entities are. The first round has entities chosen by a hash of their key. Causes found in one
    round are tried first in the next. Rows with unexplained values are put aside and explained together at the end: a
    cause that is too rare in every round to be distinguished from chance may be frequent among them.

    Args:
        kept: The rows.
        facts: What else is known.
        asked: Values whose causes to return.
        each: Receives every round, with its proof.
        progress: Receives the progress of the proof.

    Raises:
        StorageError: The rows put aside fit neither into memory nor on the disk.
    """
    counted = ValueCounts(kept.clean, kept.different)
    explainer = _Explainer(kept, facts, progress)
    findings = Findings()
    causes: dict[Place, Cause] = {}
    examined = 0
    with closing(KeptRows(kept.plan)) as aside:
        for case, proof in chain(explainer.rounds(aside), explainer.rounds_aside(aside)):
            findings.add(case, proof, counted)
            causes |= _causes_of(case, proof, asked)
            examined += count_of(case.differs.values())
            if each is not None:
                each(case, proof)
            del case, proof
            _free_memory()
    return Explained(findings.all(), examined, causes)


class _Explainer:
    """Explains round after round, and keeps the causes found so far."""

    def __init__(self, kept: KeptRows, facts: Facts, progress: Progress | None) -> None:
        self._kept = kept
        self._facts = facts
        self._progress = progress
        self._known = PriorKnowledge()
        self._batches = self._done = 0

    def rounds(self, aside: KeptRows) -> Iterator[tuple[Case, Proof]]:
        """Yield every round as a case with its proof, without the rows that have unexplained values.

        Args:
            aside: Receives those rows, unless there is only one batch.
        """
        for part in self._kept.rounds():
            batches = batches_of(self._kept.plan, part.log, self._facts)
            is_all = part.share == 1.0 and len(batches) == 1
            case, proof = self._explained(part, batches, is_last=is_all)
            yield (case, proof) if is_all else _without_unexplained(case, proof, aside)

    def rounds_aside(self, aside: KeptRows) -> Iterator[tuple[Case, Proof]]:
        """Yield the rows that were put aside as cases, each with its proof."""
        self._known = PriorKnowledge(self._known.assumptions)
        for part in aside.rounds():
            yield self._explained(part, batches_of(aside.plan, part.log, self._facts), is_last=True)

    def _explained(self, part: Round, batches: Sequence[Ints], *, is_last: bool) -> tuple[Case, Proof]:
        self._known = self._known.for_other_entities()
        parts: list[ExplainedBatch] = []
        for rows in batches:
            parts.append(self._explained_batch(part, rows, is_last=is_last))
            _free_memory()
        case, owner = joined(parts)
        return case, Proof(self._known.assumptions, owner)

    def _explained_batch(self, part: Round, rows: Ints, *, is_last: bool) -> ExplainedBatch:
        """Explain one batch; its events are freed when this returns."""
        differs = {name: flags[rows] for name, flags in part.differs.items()}
        log = part.log.take(pa.array(rows))
        case = case_of(self._kept.plan, log, differs, self._facts, first_number=self._batches * _NUMBERS_EACH)
        share = len(rows) / part.log.num_rows * part.share
        clean = {name: int(count * share) for name, count in self._kept.clean.items()}
        proof = prove(case, clean=clean, known=self._known, is_last=is_last, progress=self._report)
        self._known = self._known.after(case, proof)
        self._batches += 1
        self._done += count_of(differs.values())
        return ExplainedBatch.of(case, proof)

    def _report(self, explained: int, _: int) -> None:
        if self._progress is not None:
            total = self._kept.to_explain
            self._progress(_STEP, min(self._done + explained, total), total)


def _without_unexplained(case: Case, proof: Proof, aside: KeptRows) -> tuple[Case, Proof]:
    """Put the rows with unexplained values aside; return the others."""
    is_open = np.zeros(len(case.world), dtype=np.bool_)
    for name, flags in case.differs.items():
        is_open |= flags & (proof.owner[name] < 0)
    if not bool(is_open.any()):
        return case, proof
    is_moved = is_open if aside.has_controls else is_open | ~case.suspects()
    aside.put(
        case.world.log.filter(pa.array(is_moved)), {name: flags[is_moved] for name, flags in case.differs.items()}
    )
    rows = np.flatnonzero(~is_open)
    return case.take(rows), Proof(proof.assumptions, {name: owner[rows] for name, owner in proof.owner.items()})


def _free_memory() -> None:
    """Free the memory of a batch at once: the caches of assumptions have reference cycles."""
    gc.collect()
    pa.default_memory_pool().release_unused()


def _causes_of(case: Case, proof: Proof, asked: Sequence[Place]) -> dict[Place, Cause]:
    """Return the causes of the values asked about that are among the rows of a case."""
    causes = {}
    log = case.world.log
    for feature, request_id, row in asked:
        if feature in case.differs:
            is_row = pc.and_(pc.equal(log.column(REQUEST_ID), request_id), pc.equal(log.column(ROW), row))
            places = np.flatnonzero(is_row.to_numpy() & case.differs[feature])
            if len(places):
                causes[feature, request_id, row] = cause_of(case, proof, feature, int(places[0]))
    return causes


def case_of(plan: Plan, log: pa.Table, differs: Mapping[str, Flags], facts: Facts, *, first_number: int = 0) -> Case:
    """Return some rows as a case: their world, their offline values, and what was served.

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
