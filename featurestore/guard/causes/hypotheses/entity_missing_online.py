"""``entity_missing_online``: the entity had no online state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Flags
from featurestore.core.statuses import NOT_FOUND, NOT_LOGGED
from featurestore.guard.causes.model import Assumption, Case, Hypothesis
from featurestore.guard.causes.weights import WEIGHTS
from featurestore.guard.world.world import World
from featurestore.kernels.words import validity
from featurestore.plan.model import Output, Plan
from featurestore.plan.names import view_of
from featurestore.serving_log.columns import status_column, value_column


def _propose(case: Case) -> Iterator[Assumption]:
    """Propose that the entity was not there: in one view, then in any."""
    for alias in case.world.views:
        if any(_may_be_missing(case, output) for output in _features_of(case.world.plan, alias)):
            yield Assumption(
                f"the entity had no online state in {alias}",
                partial(_without_state, (alias,)),
                {"view": alias},
                fix=f"Materialize the view behind {alias}: store.materialize(full=True); look for entities that the"
                " online store lets expire or evicts.",
            )
    yield Assumption(
        "the entity had no online state in any view",
        partial(_without_state, tuple(case.world.views)),
        {"view": "all"},
        fix="Look for entities that were never written to the online store, or were evicted from it.",
    )


def _features_of(plan: Plan, alias: str) -> list[Output]:
    """Return the outputs that show features of a view."""
    return [output for output in plan.outputs if output.kind == "view" and view_of(output.column) == alias]


def _may_be_missing(case: Case, output: Output) -> bool:
    """Return whether an output was served as not found, or without a status, where it differs."""
    if output.name not in case.differs:
        return False
    statuses = case.served[output.name].statuses[case.differs[output.name]]
    return bool(np.isin(statuses, (NOT_FOUND, NOT_LOGGED)).any())


def _without_state(aliases: tuple[str, ...], world: World) -> World | None:
    """Take the entity away in rows in which every feature of a view was served as if it were not there.

    An entity is there for all features of a view or for none: a null beside a value of the same view has another cause.
    """
    views = dict(world.views)
    for alias in aliases:
        if alias in views:
            views[alias] = replace(views[alias], is_missing=_looks_missing(world, alias))
    is_any = any(view.is_missing is not None and bool(view.is_missing.any()) for view in views.values())
    return replace(world, views=views) if is_any else None


def _looks_missing(world: World, alias: str) -> Flags:
    """Return per row whether all of a view was served as not found; without statuses, null or a count of 0 says so."""
    looks_missing = np.ones(len(world), dtype=np.bool_)
    for output in _features_of(world.plan, alias):
        served = world.column(value_column(output.name))
        statuses = world.column(status_column(output.name)).to_numpy(zero_copy_only=False)
        is_nothing = ~validity(served)
        if pa.types.is_integer(served.type):
            is_nothing |= pc.equal(served, 0).fill_null(False).to_numpy(zero_copy_only=False)
        looks_missing &= (statuses == NOT_FOUND) | ((statuses == NOT_LOGGED) & is_nothing)
    return looks_missing


ENTITY_MISSING_ONLINE = Hypothesis(
    "entity_missing_online",
    rank=10,
    meaning="the entity had no online state",
    propose=_propose,
    row_bits=WEIGHTS.row_without_entity,
    explains_absence=True,
)
