"""Which plan of a service answers: the newest that can, unless somebody decided otherwise; and what may be removed.

A changed definition has states of its own. They are filled beside those that serve, so applying interrupts nobody. If
nothing was decided about a service, its new plan goes live by itself as soon as all its views have state. An apply
without promotion keeps the plan that is live; promoting and rolling back then switch in one transaction of the
registry, which every process sees within a second. A plan that was rolled back from goes live again only when it is
promoted. Every change of the live plan is recorded. Every answer says which plan it came from.
"""

from __future__ import annotations

import getpass
import logging
import os
import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice, takewhile
from typing import TypeVar

from featurestore.core.errors import FeatureStoreError, RegistryError, StateError, unknown_view
from featurestore.core.temporal import NOTHING_YET, Clock, duration_us
from featurestore.online.filling.removal import discard, discard_dead
from featurestore.online.stores.locks import hold_lock, is_busy
from featurestore.online.stores.store import (
    OnlineStore,
    PlanOfView,
    ViewRecord,
    loss_error,
    records_of,
)
from featurestore.plan.model import Plan, ViewPlan
from featurestore.registry import Kind, Live, LiveChange, Registry
from featurestore.registry.catalog import Catalog

_LOCK_SECONDS = 30.0

RESTORABLE_US = duration_us("7d")
"""How long ``gc`` keeps the states of services and views that were removed, so that the removal can be undone."""

_LOGGER = logging.getLogger("featurestore.online.answering")


@dataclass(frozen=True)
class ViewState:
    """The online state of one plan of a view.

    Attributes:
        view: Name of the view.
        fingerprint: Of the plan.
        watermark_us: Up to where it is complete; ``None`` if nothing is materialized.
        is_live: Whether the service answers from it.
        is_applied: Whether it is part of the applied plan.
    """

    view: str
    fingerprint: str
    watermark_us: int | None
    is_live: bool
    is_applied: bool


@dataclass(frozen=True)
class ServiceState:
    """Which plans of a service there are.

    Attributes:
        service: Name of the service.
        live: Fingerprint of the plan that answers.
        applied: Fingerprint of the applied plan.
        previous: Fingerprint of the plan that a rollback would go back to; ``None`` if there is none.
        is_decided: Whether the applied plan goes live only when it is promoted; if not, it does when it is filled.
        is_withdrawn: Whether the applied plan was rolled back from, and not promoted since.
        views: The views of the live plan and of the applied one.
    """

    service: str
    live: str
    applied: str
    previous: str | None
    is_decided: bool
    views: tuple[ViewState, ...]
    is_withdrawn: bool = False

    @property
    def is_pending(self) -> bool:
        """Whether the applied plan does not answer yet."""
        return self.live != self.applied


@dataclass(frozen=True)
class Removed:
    """Online state that was removed, or would be.

    Attributes:
        view: Name of the view.
        fingerprint: Of its plan.
        reason: Why nobody needs it.
        count: Keys that were removed; 0 in a dry run.
        is_busy: Whether it was left because a run is at work on it.
    """

    view: str
    fingerprint: str
    reason: str
    count: int = 0
    is_busy: bool = False


class LivePlans:
    """Decides which plans answer. May be used from several threads and processes."""

    def __init__(self, catalog: Catalog, registry: Registry, store: OnlineStore, clock: Clock) -> None:
        """Take the parts.

        Args:
            catalog: What is applied, and was.
            registry: Keeps what is decided.
            store: Where states are kept.
            clock: Tells when it was decided.
        """
        self._catalog = catalog
        self._registry = registry
        self._store = store
        self._clock = clock

    def plan(self, service: str) -> Plan:
        """Return the plan that answers: the decided one, else the newest that can, else the applied one.

        No plan gives way to an older one by itself: if states of the plan that answered last are gone, it stays the
        one that is asked.

        Raises:
            UnknownServiceError: No service of that name is applied.
        """
        return self._answering(self._catalog.plan(service), self._registry.live().get(service))

    def _answering(self, applied: Plan, known: Live | None) -> Plan:
        """Return the plan of a service that answers.

        A plan that was recorded as live stays it until the applied one has state or another is chosen: no plan between
        the two goes live. It stays so if its own state is lost, too: then answers fail by name instead of coming from
        another plan.
        """
        if known is None:
            return next(filter(self.is_filled, (applied, *self._catalog.past_plans(applied.name))), applied)
        if not _is_held(known, applied) and self.is_filled(applied):
            return applied
        return self._past(applied, known.fingerprint) or applied

    def view(self, name: str) -> ViewPlan:
        """Return the plan that answers for a view by itself.

        That is the one of a service whose live plan was decided; else the applied one if it has state; else that of a
        service's live plan; else the newest that has state. One that was rolled back from is the last choice.

        Raises:
            RequestError: There is no view of that name.
        """
        views = self._catalog.views()
        if name not in views:
            raise unknown_view(name, views).in_request()
        withdrawn = self._withdrawn_views()
        held = [view for view in self._held_views() if view.name == name]
        if held:
            return next((view for view in held if view.fingerprint not in withdrawn), held[0])
        plans = chain([views[name]], self._live_views(name), self._catalog.past_views(name))
        allowed = (view for view in plans if view.fingerprint not in withdrawn)
        return self._newest(name, allowed) or views[name]

    def _newest(self, name: str, plans: Iterable[ViewPlan]) -> ViewPlan | None:
        """Return the newest plan of a view with state, and record that it answers; the last one is never left.

        Args:
            name: Name of the view.
            plans: Its plans, those to prefer first.
        """
        known = self._registry.answering(Kind.VIEW, name)
        for plan in plans:
            if self._has_state(plan):
                if plan.fingerprint != known:
                    # A registry that cannot be written does not keep a plan from answering.
                    with suppress(RegistryError):
                        self._registry.set_answering(Kind.VIEW, name, plan.fingerprint)
                return plan
            if plan.fingerprint == known:
                return plan
        return None

    def filled(self, service: str, fingerprint: str) -> Plan | None:
        """Return a plan of a service by its fingerprint, whether it is live or not; ``None`` if it has no state.

        Raises:
            UnknownServiceError: No service of that name is applied.
        """
        self._catalog.plan(service)
        plans = (plan for plan in self._catalog.past_plans(service) if plan.fingerprint == fingerprint)
        return next(filter(self.is_filled, plans), None)

    def previous(self, service: str) -> Iterator[Plan]:
        """Yield the plans of a service that were live before the live one, latest first, as far as they have state."""
        return self._previous(self.plan(service))

    def _live_views(self, name: str) -> Iterator[ViewPlan]:
        """Yield the plans of a view that live plans of services use."""
        recorded = self._registry.live()
        for service, applied in sorted(self._catalog.services().items()):
            if service in recorded:
                yield from (
                    use.view for use in self._answering(applied, recorded[service]).uses if use.view.name == name
                )

    def record(self, verb: str, *, changed_by: str) -> None:
        """Record the plans that went live by themselves since that was last recorded.

        A failure is logged: the next verb that records includes what this one missed.

        Args:
            verb: What gave them their last missing state.
            changed_by: The user who called it.
        """
        try:
            self._record_changes(verb, changed_by)
        except FeatureStoreError as error:
            _LOGGER.warning("which plans went live could not be recorded: %s", error)

    def _record_changes(self, verb: str, changed_by: str) -> None:
        recorded = self._registry.live()
        for service, applied in self._catalog.services().items():
            known = recorded.get(service)
            if known is not None and (known.fingerprint == applied.fingerprint or _is_held(known, applied)):
                continue
            live, before = self._answering(applied, known), "" if known is None else known.fingerprint
            if live.fingerprint != before and self.is_filled(live):
                now_us = self._clock.now_us()
                change = LiveChange(service, before, live.fingerprint, now_us, verb, changed_by)
                self._registry.record_live(service, change)
        for view in self._catalog.views():
            self.view(view)  # which records what answers for it

    def kept(self) -> dict[str, str]:
        """Return for each service the fingerprint of the plan that answers now, if one can."""
        plans = [self.plan(service) for service in self._catalog.services()]
        return {plan.name: plan.fingerprint for plan in plans if self.is_filled(plan)}

    def to_refresh(self, names: Iterable[str] | None) -> tuple[ViewPlan, ...]:
        """Return the views that need events: the applied ones, and those of live plans that no applied one replaces.

        Args:
            names: Only of these names.
        """
        applied = self._catalog.views()
        known = {view.fingerprint: view for view in (*applied.values(), *self._held_views())}
        order = sorted({view.name for view in known.values()}) if names is None else list(names)
        return tuple(view for name in order for view in known.values() if view.name == name)

    def kept_views(self, names: Collection[str], *, keep: int) -> tuple[ViewPlan, ...]:
        """Return the views with state that only plans need which are kept to go back to, or answer until others do.

        Callers that expect such a plan are answered by it, so it is worth to keep it fresh.

        Args:
            names: Only of these names.
            keep: How many plans of each service are kept that were live before.
        """
        kept: dict[str, ViewPlan] = {}
        for service in self._catalog.services():
            live = self.plan(service)
            for plan in (live, *islice(self._previous(live), keep)):
                kept |= {use.view.fingerprint: use.view for use in plan.uses if use.view.name in names}
        refreshed = {view.fingerprint for view in self.to_refresh(None)}
        return tuple(view for one, view in kept.items() if one not in refreshed and self._has_state(view))

    def to_follow(self, *, keep: int) -> tuple[ViewPlan, ...]:
        """Return the views whose states pushes keep complete, each plan once.

        They are those of plans that are applied, live, or kept to roll back to. Where nobody decided which plan is
        live, they are those of plans in between as well: one of these goes live if a run that fills it ends before the
        applied plan is filled. Older states are not kept complete; a rollback makes their plan live, and they catch up
        from the log. So the answer is right until definitions or decisions change.

        Args:
            keep: How many plans of each service are kept that were live before.
        """
        found = dict(self._used(keep))
        decided = self._registry.live()
        for service in self._catalog.services():
            if service not in decided:
                for plan in _newer(self._catalog.past_plans(service), self.plan(service)):
                    found |= {use.view.fingerprint: use.view for use in plan.uses}
        for name in self._catalog.views():
            found |= {view.fingerprint: view for view in _newer(self._catalog.past_views(name), self.view(name))}
        return tuple(found.values())

    def promote(self, service: str, *, changed_by: str = "") -> Live:
        """Let the applied plan answer from now on, in one step, also if it was rolled back from.

        Args:
            service: Name of the service.
            changed_by: Who promotes.

        Raises:
            UnknownServiceError: No service of that name is applied.
            StateError: A view of it has no online state, or a damaged record; nothing was changed.
        """
        with self._deciding():
            applied, live = self._catalog.plan(service), self.plan(service)
            self._check_filled(applied, "it cannot go live")
            return self._decide(applied, live, verb="promote", changed_by=changed_by)

    def rollback(self, service: str, *, changed_by: str = "") -> Live:
        """Let the plan that answered before answer again, in one step.

        The plan that is left stays down until it is promoted. Once more goes back further.

        Args:
            service: Name of the service.
            changed_by: Who rolls back.

        Raises:
            UnknownServiceError: No service of that name is applied.
            StateError: There is no such plan, or its states are gone; nothing was changed.
        """
        with self._deciding():
            live = self.plan(service)
            target = next(self._previous(live), None)
            if target is None:
                raise StateError(
                    "there is no earlier plan to roll back to: none was live, or its online state was deleted",
                    where=f"service '{service}'",
                    hint="To go forward to the applied plan, promote it. To go back, apply the definitions as they "
                    "were, materialize, then promote.",
                    code="nothing-to-roll-back",
                )
            self._check_filled(target, "there is no going back to it")
            return self._decide(target, live, verb="rollback", changed_by=changed_by)

    def status(self) -> tuple[ServiceState, ...]:
        """Return which plans of the applied services there are, sorted by name."""
        return tuple(self._status(service) for service in sorted(self._catalog.services()))

    def remove_unused(self, *, dry_run: bool, keep: int) -> tuple[Removed, ...]:
        """Remove the states that no plan needs which is live, applied, or could be rolled back to.

        Whenever it dies, what is left of a state is none, never a part that answers.

        Args:
            dry_run: Whether only to tell.
            keep: How many plans of each service are kept that were live before; 0 also removes the states of services
                and views that were removed less than ``RESTORABLE_US`` ago.
        """
        with self._deciding():
            used = self._used(keep)
            found: list[Removed] = []
            seen: set[str] = set()
            for view in self._registry.history(Kind.VIEW):
                if view.fingerprint in seen:
                    continue
                seen.add(view.fingerprint)
                if view.fingerprint in used:
                    found += self._without_dead(used[view.fingerprint], dry_run=dry_run)
                else:
                    found += self._without(view, dry_run=dry_run, keep=keep)
            return tuple(found)

    def _used(self, keep: int) -> dict[str, ViewPlan]:
        """Return the views by fingerprint that are applied, answer, or are of so many plans that were live before."""
        used = {view.fingerprint: view for view in self._catalog.views().values()}
        answering = (self.view(name) for name in self._catalog.views())
        used |= {view.fingerprint: view for view in answering}
        for service in self._catalog.services():
            live = self.plan(service)
            for plan in (live, *islice(self._previous(live), keep)):
                used |= {use.view.fingerprint: use.view for use in plan.uses}
        if keep:
            used |= {view.fingerprint: view for view in self._restorable()}
        return used

    def _restorable(self) -> Iterator[ViewPlan]:
        """Yield the views that were removed a short while ago, alone or with a service that answered by them."""
        since_us = self._clock.now_us() - RESTORABLE_US
        recorded = self._registry.live()
        for item in self._registry.removals(Kind.VIEW):
            if item.applied_at_us >= since_us:
                past = self._catalog.past_views(item.name)
                yield from (view for view in past if view.fingerprint == item.fingerprint)
        for item in self._registry.removals(Kind.SERVICE):
            if item.applied_at_us >= since_us:
                prints = {item.fingerprint, *(one.fingerprint for one in recorded.values() if one.service == item.name)}
                for plan in self._catalog.past_plans(item.name):
                    if plan.fingerprint in prints:
                        yield from (use.view for use in plan.uses)

    def _without(self, view: PlanOfView, *, dry_run: bool, keep: int) -> Iterator[Removed]:
        """Remove all state of a plan, unless somebody has applied it meanwhile."""
        if records_of(self._store, [view])[view.name] == ViewRecord(view.name, view.fingerprint):
            return

        def remove() -> int | None:
            if dry_run:
                return 0
            return discard(self._store, view, is_needed=lambda: view.fingerprint in self._used(keep))

        removed = _removed(view, "no plan that is live, applied or kept has it", remove)
        if removed is not None:
            yield removed

    def _without_dead(self, view: PlanOfView, *, dry_run: bool) -> Iterator[Removed]:
        """Remove what rebuilds left behind of a plan that is needed."""
        if not dry_run:
            removed = _removed(view, "a rebuild left it behind", lambda: discard_dead(self._store, view))
            if removed is not None and removed.count:
                yield removed

    @contextmanager
    def _deciding(self) -> Iterator[None]:
        """Hold off others who decide which plans answer and which states are removed."""
        with hold_lock(self._store, "live-plans", wait_seconds=_LOCK_SECONDS):
            yield

    def _decide(self, plan: Plan, live: Plan, *, verb: str, changed_by: str) -> Live:
        known = self._registry.live().get(plan.name)
        is_same = plan.fingerprint == live.fingerprint
        if is_same and known is not None and known.is_decided:
            return known
        withdrawn = [one for one in (known.withdrawn if known is not None else ()) if one != plan.fingerprint]
        if verb == "rollback":
            withdrawn.append(live.fingerprint)
        previous = live.fingerprint if not is_same else known.previous if known is not None else ""
        decided = Live(plan.name, plan.fingerprint, previous, self._clock.now_us(), True, tuple(withdrawn))
        self._registry.set_live(decided, verb=verb, changed_by=changed_by)
        return decided

    def _previous(self, live: Plan) -> Iterator[Plan]:
        """Yield the plans to roll back to, latest first, as far as their states are there.

        Plans that were rolled back from are not among them.
        """
        known = self._registry.live().get(live.name)
        withdrawn = () if known is None else known.withdrawn
        past = list(self._catalog.past_plans(live.name))
        prints = [plan.fingerprint for plan in past]
        older = past[prints.index(live.fingerprint) + 1 :] if live.fingerprint in prints else past
        if known is not None and known.previous in prints and known.previous != live.fingerprint:
            first = past[prints.index(known.previous)]
            older = [first, *(plan for plan in older if plan.fingerprint != first.fingerprint)]
        yield from (plan for plan in older if plan.fingerprint not in withdrawn and self.is_filled(plan))

    def _status(self, service: str) -> ServiceState:
        known = self._registry.live().get(service)
        applied = self._catalog.plan(service)
        live = self._answering(applied, known)
        previous = next(self._previous(live), None)
        records = {}
        for plan in (live, applied):
            for use in plan.uses:
                records[use.view.fingerprint] = records_of(self._store, [use.view])[use.view.name]
        in_live, in_applied = ({use.view.fingerprint for use in plan.uses} for plan in (live, applied))
        return ServiceState(
            service=service,
            live=live.fingerprint,
            applied=applied.fingerprint,
            previous=None if previous is None else previous.fingerprint,
            is_decided=_is_held(known, applied),
            is_withdrawn=known is not None and applied.fingerprint in known.withdrawn,
            views=tuple(
                ViewState(
                    view=record.view,
                    fingerprint=fingerprint,
                    watermark_us=None if record.watermark_us == NOTHING_YET else record.watermark_us,
                    is_live=fingerprint in in_live,
                    is_applied=fingerprint in in_applied,
                )
                for fingerprint, record in records.items()
            ),
        )

    def _held_views(self) -> Iterator[ViewPlan]:
        """Yield the views of the live plans of services whose applied plan does not go live by itself."""
        services = self._catalog.services()
        for service, known in sorted(self._registry.live().items()):
            if service in services and _is_held(known, services[service]):
                for use in self._answering(services[service], known).uses:
                    yield use.view

    def _withdrawn_views(self) -> frozenset[str]:
        """Return the fingerprints of views that a service lost when it was rolled back and does not use by now."""
        services = self._catalog.services()
        withdrawn: set[str] = set()
        for service, known in self._registry.live().items():
            if service in services and known.withdrawn:
                plans = [plan for plan in self._catalog.past_plans(service) if plan.fingerprint in known.withdrawn]
                live = _views_of(self._answering(services[service], known))
                withdrawn |= {one for plan in plans for one in _views_of(plan)} - live
        return frozenset(withdrawn)

    def _past(self, applied: Plan, fingerprint: str) -> Plan | None:
        if applied.fingerprint == fingerprint:
            return applied
        past = self._catalog.past_plans(applied.name)
        return next((plan for plan in past if plan.fingerprint == fingerprint), None)

    def is_filled(self, plan: Plan) -> bool:
        """Tell whether all views of a plan have state."""
        return all(self._has_state(use.view) for use in plan.uses)

    def _has_state(self, view: ViewPlan) -> bool:
        """Tell whether a view has state; damaged state counts, and is for those to report who read it."""
        try:
            return self._is_materialized(view)
        except StateError:
            return True

    def _is_materialized(self, view: ViewPlan) -> bool:
        return self._record(view).watermark_us != NOTHING_YET

    def _record(self, view: ViewPlan) -> ViewRecord:
        return records_of(self._store, [view])[view.name]

    def _check_filled(self, plan: Plan, consequence: str) -> None:
        for use in plan.uses:
            if (lost := self._record(use.view).lost) is not None:
                raise loss_error(use.view.name, lost)
        empty = [use.view.name for use in plan.uses if not self._is_materialized(use.view)]
        if empty:
            raise StateError(
                f"the view '{empty[0]}' has no online state for the plan {plan.fingerprint[:12]}: {consequence}",
                where=f"service '{plan.name}'",
                hint=f"Run store.materialize(views=[{', '.join(map(repr, empty))}]), then promote.",
                code="not-materialized",
            )


P = TypeVar("P", Plan, ViewPlan)


def _newer(plans: Iterable[P], than: P) -> Iterator[P]:
    """Yield the first of some plans, newest first, up to one."""
    return takewhile(lambda plan: plan.fingerprint != than.fingerprint, plans)


def acting_user() -> str:
    """Return who runs this process: ``user@host``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user id that no file names
        user = f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _is_held(known: Live | None, applied: Plan) -> bool:
    """Tell whether the applied plan of a service goes live only when it is promoted."""
    return known is not None and (known.is_decided or applied.fingerprint in known.withdrawn)


def _views_of(plan: Plan) -> set[str]:
    return {use.view.fingerprint for use in plan.uses}


def _removed(view: PlanOfView, reason: str, remove: Callable[[], int | None]) -> Removed | None:
    try:
        count = remove()
    except StateError as error:
        if not is_busy(error):
            raise
        return Removed(view.name, view.fingerprint, reason, is_busy=True)
    return None if count is None else Removed(view.name, view.fingerprint, reason, count)
