"""From kept rows to findings: the world they were answered in is built anew, and causes are proven in it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.plan.model import Plan
from featurestore.skew.causes.events import Events
from featurestore.skew.causes.lags import Counted
from featurestore.skew.causes.lots import Part, joined, lots_of
from featurestore.skew.causes.model import Case, Facts, Variant
from featurestore.skew.causes.prove import Proof, prove
from featurestore.skew.causes.telling import cause_of, findings
from featurestore.skew.causes.world import Values, ViewWorld, World, answer
from featurestore.skew.collecting import Collected
from featurestore.skew.findings import Event, Finding
from featurestore.skew.unread import is_unread

Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_NUMBERS_EACH = 1 << 40
"""Numbers kept for the events of a lot: no event of one has the number of an event of another."""


@dataclass(frozen=True)
class Explained:
    """What explains the rows of one plan.

    Attributes:
        case: The rows.
        proof: What explains each value.
        findings: The same in words, counts and examples.
        examined: Values that were to be explained.
        left: Rows of the log that were not examined, because they have too many events.
        left_differs: Per output which of them differ.
    """

    case: Case
    proof: Proof
    findings: tuple[Finding, ...]
    examined: int
    left: pa.Table
    left_differs: Mapping[str, Flags]

    def about(self, feature: str, request_id: str, row: int) -> tuple[str, tuple[Event, ...]] | None:
        """Return the cause of one value and the events that make the difference; ``None`` if it was not examined.

        Args:
            feature: Column of the answer.
            request_id: The request it was served in.
            row: Place of the entity in that request.
        """
        if feature not in self.case.differs:
            return None
        log = self.case.world.log
        is_it = pc.and_(pc.equal(log.column("request_id"), request_id), pc.equal(log.column("row"), row))
        places = np.flatnonzero(is_it.to_numpy() & self.case.differs[feature])
        return cause_of(self.case, self.proof, feature, int(places[0])) if len(places) else None


ExplainRows = Callable[[Collected, Callable[[str, int, int], None] | None], Explained]
"""Explains kept rows; is given what to tell progress to."""


def explain(collected: Collected, facts: Facts, progress: Callable[[str, int, int], None] | None = None) -> Explained:
    """Prove why kept rows differ.

    Rows are taken lot by lot, so that the events of few entities lie in memory at a time. What explains one lot is
    tried first on the next. There is an end to the lots, unless somebody said how many rows are to be explained: with
    very many events some rows are not examined.

    Args:
        collected: The rows.
        facts: What else is known.
        progress: Is told how far the proof is.
    """
    log, differs = collected.table(), collected.flags()
    lots = lots_of(collected.plan, log, facts, is_bounded=collected.most is None)
    total = sum(int(flags[rows].sum()) for rows in lots for flags in differs.values())
    variants: tuple[Variant, ...] = ()
    parts: list[Part] = []
    done = 0
    for number, rows in enumerate(lots):

        def tell(explained: int, _: int, done: int = done) -> None:
            if progress is not None:
                progress("values explained", done + explained, total)

        part, variants = _explained(collected, log, differs, rows, facts, variants, number, tell)
        parts.append(part)
        done += sum(int(flags[rows].sum()) for flags in differs.values())
        # What assumptions remember of a lot refers to itself: without this several lots are in memory at a time.
        gc.collect()
        pa.default_memory_pool().release_unused()
    case, owner = joined(parts)
    proof = Proof(variants, owner)
    found = findings(case, proof, Counted(collected.clean, collected.different))
    left = np.setdiff1d(np.arange(log.num_rows), np.concatenate(lots))
    left_differs = {name: flags[left] for name, flags in differs.items()}
    return Explained(case, proof, tuple(found), total, log.take(pa.array(left)), left_differs)


def _explained(
    collected: Collected,
    log: pa.Table,
    differs: Mapping[str, Flags],
    rows: Ints,
    facts: Facts,
    known: tuple[Variant, ...],
    number: int,
    progress: Callable[[int, int], None],
) -> tuple[Part, tuple[Variant, ...]]:
    """Explain one lot; its events are gone from memory when this returns."""
    own = {name: flags[rows] for name, flags in differs.items()}
    case = case_of(collected.plan, log.take(pa.array(rows)), own, facts, first_number=number * _NUMBERS_EACH)
    share = len(rows) / log.num_rows * collected.kept_share
    clean = {name: int(count * share) for name, count in collected.clean.items()}
    proof = prove(case, clean=clean, known=known, progress=progress)
    return Part.of(case, proof), proof.variants


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
            log.column(f"value__{name}").combine_chunks(),
            np.asarray(log.column(f"status__{name}").combine_chunks().to_numpy(zero_copy_only=False), dtype=np.uint8),
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
        keys = tuple(log.column(f"key__{name}").combine_chunks() for name in use.keys)
        table = facts.read_events(use.view, keys, False)
        numbers = np.arange(first_number, first_number + table.num_rows, dtype=np.int64) if first_number else None
        events = Events(table, tuple(key.name for key in use.view.entity.keys), numbers=numbers)
        views[use.alias] = ViewWorld(use.view, events, keys)
    as_of = log.column("as_of").combine_chunks().cast(pa.int64()).to_numpy(zero_copy_only=False)
    requests = {column.name: log.column(f"request__{column.name}").combine_chunks() for column in plan.request}
    return World(plan, log, np.ascontiguousarray(as_of), views, requests)
