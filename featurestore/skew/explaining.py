"""From kept rows to findings: the world they were answered in is built anew, and causes are proven in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from featurestore.plan.model import Plan
from featurestore.skew.causes.events import Events
from featurestore.skew.causes.model import Case, Facts
from featurestore.skew.causes.prove import Proof, prove
from featurestore.skew.causes.telling import findings
from featurestore.skew.causes.world import Values, ViewWorld, World, answer
from featurestore.skew.collecting import Collected
from featurestore.skew.findings import Finding


@dataclass(frozen=True)
class Explained:
    """What explains the rows of one plan.

    Attributes:
        case: The rows.
        proof: What explains each value.
        findings: The same in words, counts and examples.
        examined: Values that were to be explained.
    """

    case: Case
    proof: Proof
    findings: tuple[Finding, ...]
    examined: int


ExplainRows = Callable[[Collected, Callable[[str, int, int | None], None] | None], Explained]
"""Explains kept rows; is given what to tell progress to."""


def explain(
    collected: Collected, facts: Facts, progress: Callable[[str, int, int | None], None] | None = None
) -> Explained:
    """Prove why kept rows differ.

    Args:
        collected: The rows.
        facts: What else is known.
        progress: Is told how far the proof is.
    """
    case = case_of(collected, facts)

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress("proving causes", done, total)

    proof = prove(case, clean=collected.clean, progress=tell)
    examined = sum(int(flags.sum()) for flags in case.differs.values())
    return Explained(case, proof, tuple(findings(case, proof)), examined)


def case_of(collected: Collected, facts: Facts) -> Case:
    """Build the world of kept rows."""
    plan, log = collected.plan, collected.table().combine_chunks()
    world = world_of(plan, log, facts)
    differs = collected.flags()
    names = list(differs)
    served = {
        name: Values(
            log.column(f"value__{name}").combine_chunks(),
            np.asarray(log.column(f"status__{name}").combine_chunks().to_numpy(zero_copy_only=False), dtype=np.uint8),
        )
        for name in names
    }
    return Case(
        facts=facts,
        world=world,
        reference=answer(world, names, threads=facts.threads),
        served=served,
        differs=differs,
        holds={name: ~flags for name, flags in differs.items()},
    )


def world_of(plan: Plan, log: pa.Table, facts: Facts) -> World:
    """Return the world in which the training set answers the rows of a log."""
    views = {}
    for use in plan.uses:
        keys = tuple(log.column(f"key__{name}").combine_chunks() for name in use.keys)
        table = facts.read_events(use.view, keys, False)
        events = Events(table, tuple(key.name for key in use.view.entity.keys))
        views[use.alias] = ViewWorld(use.view, events, keys)
    as_of = log.column("as_of").combine_chunks().cast(pa.int64()).to_numpy(zero_copy_only=False)
    requests = {column.name: log.column(f"request__{column.name}").combine_chunks() for column in plan.request}
    return World(plan, log, np.ascontiguousarray(as_of), views, requests)
