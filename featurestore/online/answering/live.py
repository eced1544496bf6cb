"""The live plan of each service: the newest plan with state, unless a user decided otherwise; and the unused states.

A changed definition has its own states. They are filled beside those that serve, so applying does not interrupt
serving. A service for which no user has decided goes live with its new plan as soon as all views of the plan have
state. An apply without promotion keeps the live plan. Promoting and rolling back switch the plan in one transaction of
the registry, which every process sees within a second. A plan that was rolled back from goes live again only when it is
promoted. Every change of the live plan is recorded. Every answer names its plan.
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
"""How long ``gc`` keeps the states of removed services and views, so that the removal can be undone."""

_LOGGER = logging.getLogger("featurestore.online.answering")


@dataclass(frozen=True)
class ViewState:
    """The online state of one plan of a view.

    Attributes:
        view: Name of the view.
        fingerprint: Of the plan.
        watermark_us: The instant up to which it is complete; ``None`` if nothing is materialized.
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
    """The plans of a service.

    Attributes:
        service: Name of the service.
        live: Fingerprint of the plan that answers.
        applied: Fingerprint of the applied plan.
        previous: Fingerprint of the plan that a rollback would go back to; ``None`` if there is none.
        is_decided: Whether the applied plan goes live only when it is promoted; otherwise it goes live when it has
            state.
        is_withdrawn: Whether the service was rolled back from the applied plan, and the plan was not promoted since.
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
        reason: Why it is unused.
        count: Keys that were removed; 0 in a dry run.
        is_busy: Whether it was left in place because a run is updating it.
    """

    view: str
    fingerprint: str
    reason: str
    count: int = 0
    is_busy: bool = False


class LivePlans:
    """Decides which plans are live. May be used from several threads and processes."""

    def __init__(self, catalog: Catalog, registry: Registry, store: OnlineStore, clock: Clock) -> None:
        """Take the parts.

        Args:
            catalog: The applied definitions and the earlier ones.
            registry: Keeps the decisions.
            store: Where states are kept.
            clock: Returns the instant of a decision.
        """
        self._catalog = catalog
        self._registry = registry
        self._store = store
        self._clock = clock

    def plan(self, service: str) -> Plan:
        """Return the live plan: the decided one, else the newest with state, else the applied one.

        A plan is never replaced by an older one automatically: if states of the live plan are lost, it stays live.

        Raises:
            UnknownServiceError: No service of that name is applied.
        """
        return self._live_plan(self._catalog.plan(service), self._registry.live().get(service))

    def _live_plan(self, applied: Plan, recorded: Live | None) -> Plan:
        """Return the live plan of a service.

        A plan that was recorded as live stays live until the applied one has state or a user decides otherwise; no plan
        between the two goes live. It stays live even if its state is lost: then requests fail with an error that names
        the view, and are not answered with another plan.
        """
        if recorded is None:
            return next(filter(self.is_filled, (applied, *self._catalog.past_plans(applied.name))), applied)
        if not _needs_promotion(recorded, applied) and self.is_filled(applied):
            return applied
        if applied.fingerprint == recorded.fingerprint:
            return applied
        past = self._catalog.past_plans(applied.name)
        return next((plan for plan in past if plan.fingerprint == recorded.fingerprint), applied)

    def view(self, name: str) -> ViewPlan:
        """Return the plan that answers for a view by itself, outside any service.

        That is the view's plan in a service whose live plan a user has decided; else the applied one if it has state;
        else that of a service's live plan; else the newest that has state. A plan that was rolled back from is the
        last choice.

        Raises:
            RequestError: There is no view of that name.
        """
        views = self._catalog.views()
        if name not in views:
            raise unknown_view(name, views).in_request()
        withdrawn = self._withdrawn_views()
        pinned = [view for view in self._pinned_views() if view.name == name]
        if pinned:
            return next((view for view in pinned if view.fingerprint not in withdrawn), pinned[0])
        plans = chain([views[name]], self._live_views(name), self._catalog.past_views(name))
        allowed = (view for view in plans if view.fingerprint not in withdrawn)
        return self._newest(name, allowed) or views[name]

    def _newest(self, name: str, plans: Iterable[ViewPlan]) -> ViewPlan | None:
        """Return the first of some plans of a view with state, and record that it answers.

        Args:
            name: Name of the view.
            plans: Its plans in the order of preference; none after the recorded one is returned.
        """
        recorded = self._registry.answering(Kind.VIEW, name)
        for plan in plans:
            if self._has_state(plan):
                if plan.fingerprint != recorded:
                    # The plan answers even if the registry cannot be written.
                    with suppress(RegistryError):
                        self._registry.set_answering(Kind.VIEW, name, plan.fingerprint)
                return plan
            if plan.fingerprint == recorded:
                return plan
        return None

    def filled(self, service: str, fingerprint: str) -> Plan | None:
        """Return a plan of a service by its fingerprint, live or not; ``None`` if it has no state.

        Raises:
            UnknownServiceError: No service of that name is applied.
        """
        self._catalog.plan(service)
        plans = (plan for plan in self._catalog.past_plans(service) if plan.fingerprint == fingerprint)
        return next(filter(self.is_filled, plans), None)

    def previous(self, service: str) -> Iterator[Plan]:
        """Yield the earlier live plans of a service that have state, latest first."""
        return self._previous(self.plan(service))

    def _live_views(self, name: str) -> Iterator[ViewPlan]:
        """Yield the plans of a view in the live plans of services."""
        recorded = self._registry.live()
        for service, applied in sorted(self._catalog.services().items()):
            if service in recorded:
                yield from (
                    use.view for use in self._live_plan(applied, recorded[service]).uses if use.view.name == name
                )

    def record(self, verb: str, *, changed_by: str) -> None:
        """Record the plans that went live automatically since the last record.

        A failure is logged: the next call records what this one missed.

        Args:
            verb: The verb that gave them their last missing state.
            changed_by: The user who called it.
        """
        try:
            self._record_changes(verb, changed_by)
        except FeatureStoreError as error:
            _LOGGER.warning("the plans that went live could not be recorded: %s", error)

    def _record_changes(self, verb: str, changed_by: str) -> None:
        recorded = self._registry.live()
        for service, applied in self._catalog.services().items():
            last = recorded.get(service)
            if last is not None and (last.fingerprint == applied.fingerprint or _needs_promotion(last, applied)):
                continue
            live, before = self._live_plan(applied, last), "" if last is None else last.fingerprint
            if live.fingerprint != before and self.is_filled(live):
                now_us = self._clock.now_us()
                change = LiveChange(service, before, live.fingerprint, now_us, verb, changed_by)
                self._registry.record_live(service, change)
        for view in self._catalog.views():
            self.view(view)  # which records the plan that answers

    def kept(self) -> dict[str, str]:
        """Return for each service the fingerprint of its live plan, if that has state."""
        plans = [self.plan(service) for service in self._catalog.services()]
        return {plan.name: plan.fingerprint for plan in plans if self.is_filled(plan)}

    def to_refresh(self, names: Iterable[str] | None) -> tuple[ViewPlan, ...]:
        """Return the views to materialize: the applied ones, and those of live plans that need a promotion to change.

        Args:
            names: Only of these names.
        """
        applied = self._catalog.views()
        views = {view.fingerprint: view for view in (*applied.values(), *self._pinned_views())}
        order = sorted({view.name for view in views.values()}) if names is None else list(names)
        return tuple(view for name in order for view in views.values() if view.name == name)

    def kept_views(self, names: Collection[str], *, keep: int) -> tuple[ViewPlan, ...]:
        """Return the views with state that only live plans to be replaced, and plans kept for a rollback, need.

        Callers that expect such a plan are answered with it, so it is kept fresh.

        Args:
            names: Only of these names.
            keep: How many earlier live plans of each service are kept.
        """
        kept: dict[str, ViewPlan] = {}
        for service in self._catalog.services():
            live = self.plan(service)
            for plan in (live, *islice(self._previous(live), keep)):
                kept |= {use.view.fingerprint: use.view for use in plan.uses if use.view.name in names}
        others = {view.fingerprint for view in self.to_refresh(None)}
        return tuple(view for fingerprint, view in kept.items() if fingerprint not in others and self._has_state(view))

    def to_follow(self, *, keep: int) -> tuple[ViewPlan, ...]:
        """Return the views whose states are updated by pushes, each plan once.

        They are those of plans that are applied, live, or kept for a rollback. Where no user decided on the live plan,
        they include those of plans in between: such a plan goes live if a run fills it before the applied plan. Older
        states are not updated; after a rollback to their plan they catch up from the log. The result is valid until
        definitions or decisions change.

        Args:
            keep: How many earlier live plans of each service are kept.
        """
        views = dict(self._used(keep))
        decided = self._registry.live()
        for service in self._catalog.services():
            if service not in decided:
                for plan in _newer(self._catalog.past_plans(service), self.plan(service)):
                    views |= {use.view.fingerprint: use.view for use in plan.uses}
        for name in self._catalog.views():
            views |= {view.fingerprint: view for view in _newer(self._catalog.past_views(name), self.view(name))}
        return tuple(views.values())

    def promote(self, service: str, *, changed_by: str = "") -> Live:
        """Make the applied plan live in one step, even if the service was rolled back from it.

        Args:
            service: Name of the service.
            changed_by: The user who promotes.

        Raises:
            UnknownServiceError: No service of that name is applied.
            StateError: A view of it has no online state, or a damaged record; nothing was changed.
        """
        with self._lock():
            applied, live = self._catalog.plan(service), self.plan(service)
            self._check_filled(applied, "it cannot go live")
            return self._decide(applied, live, verb="promote", changed_by=changed_by)

    def rollback(self, service: str, *, changed_by: str = "") -> Live:
        """Make the previous live plan live again, in one step.

        The plan that is left does not go live until it is promoted. A second rollback goes back one plan further.

        Args:
            service: Name of the service.
            changed_by: The user who rolls back.

        Raises:
            UnknownServiceError: No service of that name is applied.
            StateError: There is no earlier live plan, or its states are lost; nothing was changed.
        """
        with self._lock():
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
            self._check_filled(target, "the service cannot be rolled back to it")
            return self._decide(target, live, verb="rollback", changed_by=changed_by)

    def status(self) -> tuple[ServiceState, ...]:
        """Return the plans of the applied services, sorted by name."""
        return tuple(self._status(service) for service in sorted(self._catalog.services()))

    def remove_unused(self, *, dry_run: bool, keep: int) -> tuple[Removed, ...]:
        """Remove the states that no plan needs which is live, applied or kept for a rollback.

        If the process dies meanwhile, no partly removed state answers.

        Args:
            dry_run: Whether only to report what would be removed.
            keep: How many earlier live plans of each service are kept; 0 also removes the states of services and views
                that were removed less than ``RESTORABLE_US`` ago.
        """
        with self._lock():
            used = self._used(keep)
            removed: list[Removed] = []
            seen: set[str] = set()
            for view in self._registry.history(Kind.VIEW):
                if view.fingerprint in seen:
                    continue
                seen.add(view.fingerprint)
                if view.fingerprint in used:
                    removed += self._remove_dead(used[view.fingerprint], dry_run=dry_run)
                else:
                    removed += self._remove(view, dry_run=dry_run, keep=keep)
            return tuple(removed)

    def _used(self, keep: int) -> dict[str, ViewPlan]:
        """Return by fingerprint the views that are applied, answer, or belong to plans that are kept."""
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
        """Yield the views that were removed recently, alone or with a service that answered with them."""
        since_us = self._clock.now_us() - RESTORABLE_US
        recorded = self._registry.live()
        for item in self._registry.removals(Kind.VIEW):
            if item.applied_at_us >= since_us:
                past = self._catalog.past_views(item.name)
                yield from (view for view in past if view.fingerprint == item.fingerprint)
        for item in self._registry.removals(Kind.SERVICE):
            if item.applied_at_us >= since_us:
                last = recorded.get(item.name)
                fingerprints = {item.fingerprint} | (set() if last is None else {last.fingerprint})
                for plan in self._catalog.past_plans(item.name):
                    if plan.fingerprint in fingerprints:
                        yield from (use.view for use in plan.uses)

    def _remove(self, view: PlanOfView, *, dry_run: bool, keep: int) -> Iterator[Removed]:
        """Remove all state of a plan, unless it was applied meanwhile."""
        if records_of(self._store, [view])[view.name] == ViewRecord(view.name, view.fingerprint):
            return

        def remove() -> int | None:
            if dry_run:
                return 0
            return discard(self._store, view, is_needed=lambda: view.fingerprint in self._used(keep))

        removed = _removed(view, "no plan that is live, applied or kept has it", remove)
        if removed is not None:
            yield removed

    def _remove_dead(self, view: PlanOfView, *, dry_run: bool) -> Iterator[Removed]:
        """Remove the states that rebuilds of a needed plan left behind."""
        if not dry_run:
            removed = _removed(view, "a rebuild left it behind", lambda: discard_dead(self._store, view))
            if removed is not None and removed.count:
                yield removed

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the lock of decisions: no other process promotes, rolls back or removes states meanwhile."""
        with hold_lock(self._store, "live-plans", wait_seconds=_LOCK_SECONDS):
            yield

    def _decide(self, plan: Plan, live: Plan, *, verb: str, changed_by: str) -> Live:
        recorded = self._registry.live().get(plan.name)
        is_same = plan.fingerprint == live.fingerprint
        if is_same and recorded is not None and recorded.is_decided:
            return recorded
        withdrawn = [] if recorded is None else [other for other in recorded.withdrawn if other != plan.fingerprint]
        if verb == "rollback":
            withdrawn.append(live.fingerprint)
        previous = live.fingerprint if not is_same else recorded.previous if recorded is not None else ""
        decided = Live(plan.name, plan.fingerprint, previous, self._clock.now_us(), True, tuple(withdrawn))
        self._registry.set_live(decided, verb=verb, changed_by=changed_by)
        return decided

    def _previous(self, live: Plan) -> Iterator[Plan]:
        """Yield the plans to roll back to that have state, latest first.

        Plans that the service was rolled back from are not among them.
        """
        recorded = self._registry.live().get(live.name)
        withdrawn = () if recorded is None else recorded.withdrawn
        past = list(self._catalog.past_plans(live.name))
        fingerprints = [plan.fingerprint for plan in past]
        older = past[fingerprints.index(live.fingerprint) + 1 :] if live.fingerprint in fingerprints else past
        if recorded is not None and recorded.previous in fingerprints and recorded.previous != live.fingerprint:
            first = past[fingerprints.index(recorded.previous)]
            older = [first, *(plan for plan in older if plan.fingerprint != first.fingerprint)]
        yield from (plan for plan in older if plan.fingerprint not in withdrawn and self.is_filled(plan))

    def _status(self, service: str) -> ServiceState:
        recorded = self._registry.live().get(service)
        applied = self._catalog.plan(service)
        live = self._live_plan(applied, recorded)
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
            is_decided=_needs_promotion(recorded, applied),
            is_withdrawn=recorded is not None and applied.fingerprint in recorded.withdrawn,
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

    def _pinned_views(self) -> Iterator[ViewPlan]:
        """Yield the views of the live plans of services whose applied plan needs a promotion to go live."""
        services = self._catalog.services()
        for service, recorded in sorted(self._registry.live().items()):
            if service in services and _needs_promotion(recorded, services[service]):
                for use in self._live_plan(services[service], recorded).uses:
                    yield use.view

    def _withdrawn_views(self) -> frozenset[str]:
        """Return the fingerprints of views in plans that services were rolled back from but not in their live plans."""
        services = self._catalog.services()
        withdrawn: set[str] = set()
        for service, recorded in self._registry.live().items():
            if service in services and recorded.withdrawn:
                plans = [plan for plan in self._catalog.past_plans(service) if plan.fingerprint in recorded.withdrawn]
                live = _fingerprints_of(self._live_plan(services[service], recorded))
                withdrawn |= set().union(*map(_fingerprints_of, plans)) - live
        return frozenset(withdrawn)

    def is_filled(self, plan: Plan) -> bool:
        """Return whether all views of a plan have state."""
        return all(self._has_state(use.view) for use in plan.uses)

    def _has_state(self, view: ViewPlan) -> bool:
        """Return whether a view has state; a damaged record counts, and requests report it."""
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
    """Yield the plans that are newer than a plan, from plans that come newest first."""
    return takewhile(lambda plan: plan.fingerprint != than.fingerprint, plans)


def acting_user() -> str:
    """Return the user of this process: ``user@host``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id of a container that has no entry in the password file
        user = f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _needs_promotion(recorded: Live | None, applied: Plan) -> bool:
    """Return whether the applied plan of a service goes live only when it is promoted."""
    return recorded is not None and (recorded.is_decided or applied.fingerprint in recorded.withdrawn)


def _fingerprints_of(plan: Plan) -> set[str]:
    return {use.view.fingerprint for use in plan.uses}


def _removed(view: PlanOfView, reason: str, remove: Callable[[], int | None]) -> Removed | None:
    try:
        count = remove()
    except StateError as error:
        if not is_busy(error):
            raise
        return Removed(view.name, view.fingerprint, reason, is_busy=True)
    return None if count is None else Removed(view.name, view.fingerprint, reason, count)
