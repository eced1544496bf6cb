"""Answering applied services: which plan is live, and a bound reader for each.

A plan goes live when all its views have online state. Until then the plan that was live before keeps answering, so that
applying a definition interrupts nobody; every answer says which plan it came from. A caller that expects a plan is
answered by it as long as its states are there, whichever plan is live.

The live plan is looked up at most once a second, in a thread; requests with little time use the plan known last. So
does a process that lacks a function of the live plan, because its code is older: it answers on by a plan before it. A
process that starts while the registry is away begins with the plans that were kept on disk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from threading import Lock
from typing import Any, TypeAlias

from featurestore.core.answers import OnlineFeatures, OnlineQuestion
from featurestore.core.dtypes import DType
from featurestore.core.errors import (
    FeatureStoreError,
    RegistryError,
    RequestError,
    StateError,
    StorageError,
    UnknownUdfError,
)
from featurestore.core.temporal import NOTHING_YET, Clock, instant_us
from featurestore.online.answering.cached_value import CachedValue, RecentTimeout
from featurestore.online.answering.health import Readiness, ServiceReadiness, Vitals, view_vitals
from featurestore.online.answering.live import LivePlans
from featurestore.online.answering.lookup import OnlineReader
from featurestore.online.answering.plan_cache import PlanCache
from featurestore.online.answering.requests import fingerprint_mismatch
from featurestore.online.answering.state_watch import StateWatch
from featurestore.online.stores.circuit_breaker import CircuitBreaker
from featurestore.online.stores.store import (
    OnlineStore,
    ViewRecord,
    loss_error,
    records_of,
)
from featurestore.plan.model import Output, Plan, ViewPlan, ViewUse
from featurestore.registry.catalog import Catalog
from featurestore.serving_log import Caller, ServingLog

_LOGGER = logging.getLogger("featurestore.online.answering")

_WHERE = "registry"

_LOOK_SECONDS = 0.25
"""How long a check waits for a look after the states."""

_GLANCE_SECONDS = 0.005
"""How long a question waits for one, at most once a second."""

_FIRST_LOOK_SECONDS = 1.0
"""How long the first question about a view waits until its states are counted."""

COMBINATIONS = 64
"""How many combinations of views, and plans that callers expect, are kept bound."""


@dataclass(frozen=True)
class _ServicePlan:
    """A service, to be answered by one plan."""

    service: str
    fingerprint: str


_ReaderKey: TypeAlias = str | tuple[str, ...] | _ServicePlan
"""A service; views; or a service by one plan."""


class Serving:
    """Answers online questions. May be used from several threads.

    Attributes:
        store: Where states are read, through a circuit breaker.
        watch: Looks after the states.
    """

    def __init__(
        self,
        catalog: Callable[[], Catalog],
        plans: Callable[[], LivePlans],
        store: OnlineStore,
        log: ServingLog | None,
        clock: Clock,
        known: PlanCache,
    ) -> None:
        """Take the parts.

        Args:
            catalog: Gives what is applied, as soon as the registry can be opened.
            plans: Gives what knows which plans are live, likewise.
            store: Where states are kept.
            log: Takes what was answered; ``None`` keeps nothing.
            clock: Tells the present instant.
            known: Keeps the plans that answer for the next start.
        """
        self._catalog = catalog
        self._plans = plans
        self.store = CircuitBreaker(store)
        self._log = log
        self._clock = clock
        self._known = known
        self._lock = Lock()
        self.watch = StateWatch(store, self._answered_views)
        self._stall = RecentTimeout()
        self._readers: dict[_ReaderKey, CachedValue[OnlineReader | None]] = {}
        self._names = CachedValue(self._find_names, clock, self._stall, where=_WHERE)
        self._views = CachedValue(self._find_views, clock, self._stall, where=_WHERE)
        self._bounds_us: dict[str, int] = {}
        self._answered: set[str] = set()
        self._keeps_plans = False
        self._warned = ""
        self._registry_problem: FeatureStoreError | None = None

    def answer(self, question: OnlineQuestion) -> OnlineFeatures:
        """Answer a question; see ``FeatureStore.get_online_features``."""
        (found,) = self.answer_many([question])
        if isinstance(found, Exception):
            raise found
        return found

    def answer_many(self, questions: Sequence[OnlineQuestion]) -> list[OnlineFeatures | Exception]:
        """Answer several questions; see ``FeatureStore.get_online_features_together``.

        What is only a part of the plan's answer goes to no log: an audit would have nothing to compare it with.
        """
        readers: dict[tuple[str, str | None], OnlineReader | Exception] = {}
        alike: dict[tuple[OnlineReader, Hashable, bool], list[int]] = {}
        found: dict[int, OnlineFeatures | Exception] = {}
        for place, question in enumerate(questions):
            asked = question.service, question.expected_fingerprint
            reader = readers.get(asked)
            if reader is None:
                reader = readers[asked] = self._reader_or_error(*asked)
            if isinstance(reader, Exception):
                found[place] = reader
            else:
                alike.setdefault((reader, _instant_of(question), question.partial), []).append(place)
        for (reader, _, _), places in alike.items():
            own = [questions[place] for place in places]
            try:
                answers = reader.get_many(own)
            except Exception as error:  # it is the askers'
                found |= dict.fromkeys(places, error)
                continue
            for place, question, answer in zip(places, own, answers, strict=True):
                found[place] = self._logged(reader.plan, question, answer)
        return [found[place] for place in range(len(questions))]

    def _logged(
        self, plan: Plan, question: OnlineQuestion, answer: OnlineFeatures | Exception
    ) -> OnlineFeatures | Exception:
        """Put an answer into the serving log and return it; what cannot be logged is not given either."""
        if self._log is not None and isinstance(answer, OnlineFeatures) and not answer.errors:
            try:
                self._log.append(plan, answer, Caller(question.model, question.model_version))
            except Exception as error:  # it is the asker's
                return error
        return answer

    def answer_views(
        self,
        names: Collection[str],
        entities: Sequence[Mapping[str, Any]],
        *,
        as_of: datetime | str | None,
        partial: bool = False,
    ) -> OnlineFeatures:
        """Answer all features of some views; see ``FeatureStore.get_online_views``."""
        return self._views_reader(tuple(sorted(set(names)))).get(entities, as_of=as_of, partial=partial)

    def names(self) -> tuple[str, ...]:
        """Return the names of all applied services, sorted."""
        return self._names.get()

    def plan(self, service: str, expected: str | None) -> Plan:
        """Return the plan that answers a service; see ``FeatureStore.live_plan``."""
        plan = self._reader_for(service, expected).plan
        if expected not in (None, plan.fingerprint):
            raise fingerprint_mismatch(plan, expected)
        return plan

    def services(self) -> tuple[Plan, ...]:
        """Return the plans that answer, sorted by service; services that this process cannot answer are left out."""
        found = []
        for service in self._names.get():
            try:
                found.append(self._reader(service).plan)
            except UnknownUdfError:
                continue
        return tuple(found)

    def views(self) -> tuple[ViewPlan, ...]:
        """Return the plans that answer for views by themselves, sorted by name."""
        return self._views.get()

    def problems(self) -> list[FeatureStoreError]:
        """Return what is wrong with the states of the views that answer.

        Raises:
            RegistryError: The services are not known.
            StorageError: The online store cannot be read.
        """
        self.watch.look(wait_seconds=_LOOK_SECONDS)
        views = {use.view.fingerprint: use.view for plan in self.services() for use in plan.uses}
        losses = [loss for view in views.values() if (loss := self._loss_of(view)) is not None]
        return losses if self.watch.drops is None else [self.watch.drops, *losses]

    def _loss_of(self, view: ViewPlan) -> FeatureStoreError | None:
        """Return what says that a part of a view's states is gone, ``None`` if nothing does."""
        try:
            record = records_of(self.store, [view])[view.name]
        except StateError as error:
            return error
        return self.watch.loss_of(view) if record.lost is None else loss_error(view.name, record.lost)

    def vitals(self) -> Vitals:
        """Tell how the views are that answer by themselves.

        Of a view without state, or while the store cannot be read, staleness is counted from the last instant that it
        was complete up to.

        Raises:
            RegistryError: The views are not known.
        """
        now_us = self._clock.now_us()
        views = {view.name: view for view in self.views()}
        problem: FeatureStoreError | None = None
        records: Mapping[str, ViewRecord] = {}
        try:
            records = records_of(self.store, views.values())
        except (StateError, StorageError) as error:
            problem = error
        found = {}
        for name, view in views.items():
            record = records.get(name, ViewRecord(name, view.fingerprint))
            if record.watermark_us != NOTHING_YET:
                self._bounds_us[view.fingerprint] = record.bound_us(view.refresh.period_us)
            complete_us = self._bounds_us.get(view.fingerprint)
            found[name] = view_vitals(view.source.name, record, now_us=now_us, complete_us=complete_us)
        return Vitals(found, self.store.is_open, problem)

    def _answered_views(self) -> Collection[ViewPlan]:
        """Return the views that this process has answered from lately, in their plans."""
        readers = [refreshed.value for refreshed in self._readers.copy().values()]
        plans = [reader.plan for reader in readers if reader is not None]
        return {use.view.fingerprint: use.view for plan in plans for use in plan.uses}.values()

    def check(self) -> None:
        """Make sure that every applied service can be answered, and load what answering needs.

        Raises:
            StateError: A view has no online state, a damaged record, or has lost a part of its states; or the store
                may drop states by itself.
            RegistryError: The registry cannot be read.
            StorageError: The online store cannot be read.
        """
        for service in self._catalog().services():
            self._reader(service).get([], request=[])
        for problem in self.problems():
            raise problem

    def readiness(self) -> Readiness:
        """Tell which services can be answered, and load what answering them needs.

        Plans that answer are kept for the next start from now on.
        """
        if not self._keeps_plans:
            self._answered |= {plan.name for plan in self._known.read()}
            self._keeps_plans = True
        try:
            names = self._names.get()
        except FeatureStoreError as error:
            return Readiness((), error)
        self.watch.look(wait_seconds=_LOOK_SECONDS)
        services = []
        for name in names:
            problem = self._problem_of(name)
            services.append(ServiceReadiness(name, name in self._answered, problem))
            if problem is None:
                self._answered.add(name)
        self._keep_plans()
        return Readiness(tuple(services), self._registry_problem)

    def _problem_of(self, service: str) -> FeatureStoreError | None:
        """Return why a service cannot be answered, ``None`` if it can."""
        if self.watch.drops is not None:
            return self.watch.drops
        try:
            reader = self._reader(service)
            reader.get([], request=[])
            losses = map(self._loss_of, reader.plan.views)
            return next((loss for loss in losses if loss is not None), None)
        except FeatureStoreError as error:
            return error

    def forget(self) -> None:
        """Look up which plans are live with the next question."""
        with self._lock:
            self._readers = {}
            self._names = CachedValue(self._find_names, self._clock, self._stall, where=_WHERE)
            self._views = CachedValue(self._find_views, self._clock, self._stall, where=_WHERE)
        self.watch.forget()

    def _find_names(self, known: tuple[str, ...] | None) -> tuple[str, ...]:
        """Return the names of all applied services, those known last if the registry cannot be asked."""
        try:
            names = tuple(sorted(self._catalog().services()))
        except (RegistryError, StorageError) as error:
            self._registry_problem = error
            names = known or tuple(sorted({plan.name for plan in self._known.read()}))
            if not names:
                raise
            return names
        self._registry_problem = None
        return names

    def _find_views(self, known: tuple[ViewPlan, ...] | None) -> tuple[ViewPlan, ...]:
        """Return the plans that answer for views, those known last if the registry cannot be asked."""
        try:
            return tuple(self._plans().view(name) for name in sorted(self._catalog().views()))
        except (RegistryError, StateError, StorageError) as error:
            self._warn(error)
            views = known or tuple(
                view
                for _, view in sorted({view.name: view for plan in self._known.read() for view in plan.views}.items())
            )
            if not views:
                raise
            return views

    def _reader(self, service: str) -> OnlineReader:
        known = self._readers.get(service)
        return _there((known or self._refreshed(service, partial(self._find_reader, service))).get())

    def _views_reader(self, names: tuple[str, ...]) -> OnlineReader:
        def find(known: OnlineReader | None) -> OnlineReader:
            self.watch.look(wait_seconds=_GLANCE_SECONDS)
            try:
                return self._bound(plan_of_views(map(self._plans().view, names)), known)
            except (RegistryError, StateError, StorageError) as error:
                self._warn(error)
                if known is not None:
                    return known
                views = {view.name: view for view in self.views()}
                if not views.keys() >= set(names):
                    raise
                return self._bound(plan_of_views(views[name] for name in names), known)

        return _there(self._refreshed(names, find).get())

    def _reader_or_error(self, service: str, expected: str | None) -> OnlineReader | Exception:
        """Return what answers a question; what is wrong is the asker's."""
        try:
            return self._reader_for(service, expected)
        except Exception as error:  # it is the asker's
            return error

    def _reader_for(self, service: str, expected: str | None) -> OnlineReader:
        """Return what answers a caller that expects a plan: that plan if it can, else the live one, which refuses."""
        try:
            reader = self._reader(service)
        except (UnknownUdfError, StateError):
            if expected is None or (pinned := self._pinned_reader(service, expected)) is None:
                raise
            return pinned
        if expected is None or expected == reader.plan.fingerprint:
            return reader
        return self._pinned_reader(service, expected) or reader

    def _pinned_reader(self, service: str, fingerprint: str) -> OnlineReader | None:
        """Return what answers a service by one plan, ``None`` if it has no state."""
        asked = _ServicePlan(service, fingerprint)
        return self._refreshed(asked, partial(self._find_pinned, asked)).get()

    def _refreshed(
        self, asked: _ReaderKey, find: Callable[[OnlineReader | None], OnlineReader | None]
    ) -> CachedValue[OnlineReader | None]:
        known = self._readers.get(asked)
        if known is not None:
            return known
        made: CachedValue[OnlineReader | None] = CachedValue(find, self._clock, self._stall, where=_WHERE)
        with self._lock:
            if asked not in self._readers:
                self._make_room()
            return self._readers.setdefault(asked, made)

    def close(self) -> None:
        """Look after the states no more."""
        self.watch.close()

    def _make_room(self) -> None:
        """Forget what callers made up if there is too much of it: names that are none, plans, combinations of views."""
        if len(self._readers) >= COMBINATIONS + len(self._names.value or ()):
            names = set(self._names.value or ())
            for asked in [asked for asked in self._readers if asked not in names]:
                del self._readers[asked]

    def _find_reader(self, service: str, known: OnlineReader | None) -> OnlineReader:
        """Return what answers a service: by the live plan, or the one known last if that cannot be looked up."""
        self.watch.look(wait_seconds=_GLANCE_SECONDS)
        try:
            return self._bound(self._plans().plan(service), known)
        except UnknownUdfError as error:
            return self._bound_before(service, known, error)
        except (RegistryError, StateError, StorageError) as error:
            self._warn(error)
            if known is not None:
                return known
            plan = next((plan for plan in self._known.read() if plan.name == service), None)
            if plan is None:
                raise
            return self._bound(plan, None)

    def _bound_before(self, service: str, known: OnlineReader | None, error: UnknownUdfError) -> OnlineReader:
        """Return what answers a service by an earlier plan, because this process lacks a function of the live one.

        Raises:
            UnknownUdfError: There is none that has state and that this process can compute.
        """
        for plan in self._plans().previous(service):
            try:
                reader = self._bound(plan, known)
            except UnknownUdfError:
                continue
            if reader is not known:
                _LOGGER.warning("service '%s' is answered by an earlier plan, %s: %s", service, plan.fingerprint, error)
            return reader
        raise error

    def _find_pinned(self, asked: _ServicePlan, known: OnlineReader | None) -> OnlineReader | None:
        """Return what answers a service by one plan, ``None`` if it was never applied or has no state."""
        self.watch.look(wait_seconds=_GLANCE_SECONDS)
        try:
            if known is not None:
                return known if self._plans().is_filled(known.plan) else None
            plan = self._plans().filled(asked.service, asked.fingerprint)
        except (RegistryError, StateError, StorageError) as error:
            self._warn(error)
            if known is not None:
                return known
            plans = (plan for plan in self._known.read() if plan.name == asked.service)
            plan = next((plan for plan in plans if plan.fingerprint == asked.fingerprint), None)
            if plan is None:
                raise
        return None if plan is None else self._bound(plan, None)

    def _bound(self, plan: Plan, known: OnlineReader | None) -> OnlineReader:
        """Return what answers by a plan; one that was bound before keeps its reader."""
        if known is not None and known.plan == plan:
            return known
        self.watch.look_first(plan.views, wait_seconds=0.0 if self.store.is_open else _FIRST_LOOK_SECONDS)
        return OnlineReader(plan, self.store, self._clock, self.watch)

    def _keep_plans(self) -> None:
        """Keep the plans that answer for the next start, the live ones first."""
        names = set(self._names.value or ()) & self._answered
        readers = {asked: refreshed.value for asked, refreshed in self._readers.copy().items()}
        live = [reader.plan for asked, reader in readers.items() if asked in names and reader is not None]
        pinned = [
            reader.plan
            for asked, reader in readers.items()
            if isinstance(asked, _ServicePlan) and asked.service in names and reader is not None
        ]
        self._known.keep([*live, *pinned])

    def _warn(self, error: FeatureStoreError) -> None:
        """Say that plans cannot be looked up, once for each reason."""
        if str(error) != self._warned:
            self._warned = str(error)
            _LOGGER.warning("which plans are live cannot be looked up; those known last answer on: %s", error)


def _there(reader: OnlineReader | None) -> OnlineReader:
    assert reader is not None, "only plans that a caller names may be missing"
    return reader


def _instant_of(question: OnlineQuestion) -> Hashable:
    """Return the instant a question is about, ``None`` for the present one; what is no instant is like no other.

    The instant itself, because two instants an hour apart are equal to Python where clocks are put back.
    """
    if question.as_of is None:
        return None
    try:
        return instant_us(question.as_of, where="as_of")
    except FeatureStoreError:
        return object()


def plan_of_views(views: Iterable[ViewPlan]) -> Plan:
    """Return the plan that answers all features of some views, each under its own name and by its own keys.

    Raises:
        RequestError: Two views have a key of one name with different dtypes.
    """
    uses = tuple(
        ViewUse(view.name, view, tuple(key.name for key in view.entity.keys))
        for view in sorted(views, key=lambda view: view.name)
    )
    dtypes: dict[str, DType] = {}
    for use in uses:
        for key in use.view.entity.keys:
            if dtypes.setdefault(key.name, key.dtype) != key.dtype:
                raise RequestError(
                    f"key '{key.name}' is {dtypes[key.name]} for one view and {key.dtype} for another",
                    field="/entities",
                    hint="Ask for these views one by one.",
                    code="keys-differ",
                )
    outputs = [
        Output(column, column, feature.dtype, "view")
        for use in uses
        for column, feature in zip(use.columns, use.view.features, strict=True)
    ]
    return Plan("", uses, outputs=tuple(outputs))
