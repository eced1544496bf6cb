"""``definition_changed``: another definition that was applied under the service's name reproduces what was served."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from featurestore.guard.causes.model import Assumption, Case, Hypothesis
from featurestore.guard.world.events import Events, ReadEvents
from featurestore.guard.world.plan_changes import plan_changes
from featurestore.guard.world.world import ViewWorld, World
from featurestore.plan.model import Plan
from featurestore.serving_log.columns import key_column, request_column


def _propose(case: Case) -> Iterator[Assumption]:
    """Propose every other definition that was ever applied under the service's name."""
    for plan in case.facts.other_plans:
        changes = plan_changes(case.world.plan, plan)
        yield Assumption(
            f"values come from the definition {plan.fingerprint[:12]}, not from {case.world.plan.fingerprint[:12]}",
            _answered_by(plan, case.facts.read_events),
            {"fingerprint": plan.fingerprint, "changes": list(changes)},
            fix="Train on the definition that is served, or apply the one the model was trained on; send the manifest's"
            " fingerprint as expected_fingerprint with every request.",
            evidence=changes,
        )


def _answered_by(plan: Plan, read_events: ReadEvents) -> Callable[[World], World | None]:
    return lambda world: _under(world, plan, read_events)


def _under(world: World, plan: Plan, read_events: ReadEvents) -> World | None:
    """Return the world in which another definition answers; ``None`` if it cannot be asked the same questions."""
    columns = set(world.log.column_names)
    needed = {key_column(column.name) for column in plan.join_keys}
    needed |= {request_column(column.name) for column in plan.request}
    dtypes = {output.name: output.dtype for output in world.plan.outputs}
    kept = tuple(output for output in plan.outputs if dtypes.get(output.name) == output.dtype)
    if not needed <= columns or not kept:
        return None
    views = {}
    for use in plan.uses:
        keys = tuple(world.column(key_column(name)) for name in use.keys if key_column(name) in columns)
        if len(keys) != len(use.keys):
            return None
        known = world.views.get(use.alias)
        if known is not None and known.view.source == use.view.source and known.view.entity == use.view.entity:
            views[use.alias] = replace(known, view=use.view)
            continue
        table = read_events(use.view, keys, False)
        events = Events(table, tuple(key.name for key in use.view.entity.keys))
        views[use.alias] = ViewWorld(use.view, events, keys)
    requests = {column.name: world.column(request_column(column.name)) for column in plan.request}
    return replace(world, plan=replace(plan, outputs=kept), views=views, requests=requests)


DEFINITION_CHANGED = Hypothesis(
    "definition_changed", rank=20, meaning="another definition of the service reproduces it", propose=_propose
)
