"""Rules of the contract that serving may have read differently: bounds, time to live, ties, definitions, knowledge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from featurestore.guard.causes.model import Case, Hypothesis, Variant
from featurestore.guard.world.events import Events, ReadEvents, TieOrder
from featurestore.guard.world.plan_changes import plan_changes
from featurestore.guard.world.world import ViewWorld, World, each_view
from featurestore.plan.model import FeaturePlan, Plan
from featurestore.serving_log.columns import key_column, request_column


def boundary(_: Case) -> Iterator[Variant]:
    """Propose that an event at the very edge was counted, or was not."""
    yield Variant(
        "boundary",
        "an event at the horizon itself counts where the definition excludes it, or the other way round (<= for <)",
        each_view(_other_inclusive),
        {"edge": "horizon"},
        fix="Compare event times with < on both roads; say inclusive=True on the source if its rows hold from their"
        " instant on.",
    )
    for step, said in ((-1, "excludes"), (1, "reaches 1 µs beyond")):
        yield Variant(
            "boundary",
            f"a window {said} its lower edge",
            each_view(_windows, step),
            {"edge": "window", "step_us": step},
            fix="A window is horizon - length <= event_time < horizon; let serving use the same edge.",
        )
    for step in (-1, 1):
        yield Variant(
            "boundary",
            f"a value exactly as old as its ttl is {'expired' if step < 0 else 'kept 1 µs longer'}",
            each_view(_ttls, step),
            {"edge": "ttl", "step_us": step},
            fix="A value expires when event_time < as_of - ttl; let serving use the same edge.",
        )


def _other_inclusive(view: ViewWorld) -> ViewWorld:
    source = view.view.source
    return replace(view, view=replace(view.view, source=replace(source, inclusive=not source.inclusive)))


def changed_features(view: ViewWorld, change: dict[str, FeaturePlan]) -> ViewWorld | None:
    """Return a view with some of its features changed; ``None`` if none is."""
    if not change:
        return None
    features = tuple(change.get(feature.name, feature) for feature in view.view.features)
    return replace(view, view=replace(view.view, features=features))


def _windows(view: ViewWorld, step_us: int) -> ViewWorld | None:
    return changed_features(
        view,
        {
            feature.name: replace(feature, window_us=feature.window_us + step_us)
            for feature in view.view.features
            if feature.window_us is not None
        },
    )


def _ttls(view: ViewWorld, step_us: int) -> ViewWorld | None:
    return changed_features(
        view,
        {
            feature.name: replace(feature, ttl_us=feature.ttl_us + step_us)
            for feature in view.view.features
            if feature.ttl_us is not None
        },
    )


def ttl_ignored(case: Case) -> Iterator[Variant]:
    """Propose that values were served however old."""
    if any(feature.ttl_us is not None for view in case.world.views.values() for feature in view.view.features):
        yield Variant(
            "ttl_ignored",
            "values older than their ttl were served",
            each_view(_without_ttl),
            fix="Let serving drop values older than .ttl(…), or take the ttl out of the definition.",
        )


def _without_ttl(view: ViewWorld) -> ViewWorld | None:
    return changed_features(
        view,
        {feature.name: replace(feature, ttl_us=None) for feature in view.view.features if feature.ttl_us is not None},
    )


_TIES: tuple[tuple[TieOrder, str], ...] = (
    ("content reversed", "of events with equal times the one with the smallest content came last"),
    ("source", "events with equal times stood in the order of the source's rows"),
    ("source reversed", "events with equal times stood in the reverse order of the source's rows"),
)


def tie_order(_: Case) -> Iterator[Variant]:
    """Propose that events of equal times stood in another order."""
    for ties, said in _TIES:
        yield Variant(
            "tie_order",
            said,
            each_view(_tied, ties),
            {"order": ties},
            fix="Order events by (event_time, ingest_time, content) on both roads, or give them times that differ.",
        )


def _tied(view: ViewWorld, ties: TieOrder) -> ViewWorld:
    return replace(view, ties=ties)


def late_event(case: Case) -> Iterator[Variant]:
    """Propose that serving used events by the time they happened, however late they became known."""
    if any(view.view.source.ingest_time is not None for view in case.world.views.values()):
        yield Variant(
            "late_event",
            "events count from their event time on, also those that became known only after the request",
            each_view(_hindsight),
            {"hindsight": True},
            fix="Values were computed after the fact: log what was served, or build the training set with"
            " hindsight=True to see what it would hold.",
        )


def _hindsight(view: ViewWorld) -> ViewWorld | None:
    return replace(view, hindsight=True) if view.view.source.ingest_time is not None else None


def definition_changed(case: Case) -> Iterator[Variant]:
    """Propose every other definition that was ever applied under the service's name."""
    for plan in case.facts.other_plans:
        changed = plan_changes(case.world.plan, plan)
        yield Variant(
            "definition_changed",
            f"values come from the definition {plan.fingerprint[:12]}, not from {case.world.plan.fingerprint[:12]}",
            _answered_by(plan, case.facts.read_events),
            {"fingerprint": plan.fingerprint, "changes": list(changed)},
            fix="Train on the definition that is served, or apply the one the model was trained on; send the manifest's"
            " fingerprint as expected_fingerprint with every request.",
            evidence=changed,
        )


def _answered_by(plan: Plan, read_events: ReadEvents) -> Callable[[World], World | None]:
    return lambda world: _under(world, plan, read_events)


def _under(world: World, plan: Plan, read_events: ReadEvents) -> World | None:
    """Return the world in which another definition answers; ``None`` if it cannot be asked the same questions."""
    columns = set(world.log.column_names)
    asked = {key_column(column.name) for column in plan.join_keys}
    asked |= {request_column(column.name) for column in plan.request}
    own = {output.name: output.dtype for output in world.plan.outputs}
    if not asked <= columns or not any(own.get(output.name) == output.dtype for output in plan.outputs):
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
    kept = tuple(output for output in plan.outputs if own.get(output.name) == output.dtype)
    requests = {column.name: world.column(request_column(column.name)) for column in plan.request}
    return replace(world, plan=replace(plan, outputs=kept), views=views, requests=requests)


LATE = Hypothesis("late_event", "events became known only after the request", late_event)
DEFINITION = Hypothesis("definition_changed", "another definition of the service reproduces it", definition_changed)
RULES = (
    Hypothesis("boundary", "an edge was inclusive where the contract says exclusive, or the reverse", boundary),
    Hypothesis("ttl_ignored", "the time to live was not applied", ttl_ignored),
    Hypothesis("tie_order", "events with equal times stood in another order", tie_order),
)
