"""Answering applied services: the live plan of each, and a bound reader for each plan.

A plan goes live when all its views have online state. Until then the previous live plan keeps answering, so applying a
definition does not interrupt serving. Every answer names its plan. A caller that expects a certain plan is answered
with it as long as its online state exists, whichever plan is live.

The live plan is refreshed at most once per second in a background thread. Requests near their deadline use the cached
plan. A process whose older code lacks a function of the live plan answers with an earlier plan. A process that starts
while the registry cannot be reached uses the plans that it cached on disk.
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

_HEALTH_CHECK_SECONDS = 0.25
"""How long a health check waits for the check of the states."""

_REQUEST_CHECK_SECONDS = 0.005
"""How long a request waits for the check of the states, at most once per second."""

_FIRST_LOOK_SECONDS = 1.0
"""How long the first request for a view waits until its states are counted."""

COMBINATIONS = 64
"""How many readers are cached for combinations of views and for expected plans, beside those of the services."""


@dataclass(frozen=True)
class _ServicePlan:
    """One plan of a service."""

    service: str
    fingerprint: str


_ReaderKey: TypeAlias = str | tuple[str, ...] | _ServicePlan
"""Identifies a reader: a service with its live plan, some views, or one plan of a service."""


class Serving:
    """Answers online requests. May be used from several threads.

    Attributes:
        store: Reads states through a circuit breaker.
        watch: Detects lost states.
    """

    def __init__(
        self,
        catalog: Callable[[], Catalog],
        plans: Callable[[], LivePlans],
        store: OnlineStore,
        log: ServingLog | None,
        clock: Clock,
        plan_cache: PlanCache,
    ) -> None:
        """Take the parts.

        Args:
            catalog: Returns the catalog of applied definitions; it fails while the registry cannot be opened.
            plans: Returns the live plans; it fails while the registry cannot be opened.
            store: Where states are kept.
            log: Records the answers; ``None`` records none.
            clock: Returns the present instant.
            plan_cache: Keeps the live plans on disk for the next start.
        """
        self._catalog = catalog
        self._plans = plans
        self.store = CircuitBreaker(store)
        self._log = log
        self._clock = clock
        self._plan_cache = plan_cache
        self._lock = Lock()
        self.watch = StateWatch(store, self._answered_views)
        self._timeout = RecentTimeout()
        self._readers: dict[_ReaderKey, CachedValue[OnlineReader | None]] = {}
        self._names = CachedValue(self._find_names, clock, self._timeout, where=_WHERE)
        self._views = CachedValue(self._find_views, clock, self._timeout, where=_WHERE)
        self._bounds_us: dict[str, int] = {}
        self._answered: set[str] = set()
        self._keeps_plans = False
        self._warned = ""
        self._registry_problem: FeatureStoreError | None = None

    def answer(self, question: OnlineQuestion) -> OnlineFeatures:
        """Answer a request; see ``FeatureStore.get_online_features``."""
        (answer,) = self.answer_many([question])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def answer_many(self, questions: Sequence[OnlineQuestion]) -> list[OnlineFeatures | Exception]:
        """Answer several requests; see ``FeatureStore.get_online_features_together``.

        Partial answers in which a view failed are not logged: an audit could not compare them.
        """
        readers: dict[tuple[str, str | None], OnlineReader | Exception] = {}
        batches: dict[tuple[OnlineReader, Hashable, bool], list[int]] = {}
        answers: dict[int, OnlineFeatures | Exception] = {}
        for position, question in enumerate(questions):
            plan_key = question.service, question.expected_fingerprint
            reader = readers.get(plan_key)
            if reader is None:
                reader = readers[plan_key] = self._reader_or_error(*plan_key)
            if isinstance(reader, Exception):
                answers[position] = reader
            else:
                batches.setdefault((reader, _instant_of(question), question.partial), []).append(position)
        for (reader, _, _), positions in batches.items():
            batch = [questions[position] for position in positions]
            try:
                batch_answers = reader.get_many(batch)
            except Exception as error:  # the callers get it
                answers |= dict.fromkeys(positions, error)
                continue
            for position, question, answer in zip(positions, batch, batch_answers, strict=True):
                answers[position] = self._log_answer(reader.plan, question, answer)
        return [answers[position] for position in range(len(questions))]

    def _log_answer(
        self, plan: Plan, question: OnlineQuestion, answer: OnlineFeatures | Exception
    ) -> OnlineFeatures | Exception:
        """Record an answer in the serving log and return it; an answer that cannot be logged becomes the error."""
        if self._log is not None and isinstance(answer, OnlineFeatures) and not answer.errors:
            try:
                self._log.append(plan, answer, Caller(question.model, question.model_version))
            except Exception as error:  # only this caller gets it
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
        """Return the plan that answers for a service; see ``FeatureStore.live_plan``."""
        plan = self._reader_for(service, expected).plan
        if expected not in (None, plan.fingerprint):
            raise fingerprint_mismatch(plan, expected)
        return plan

    def services(self) -> tuple[Plan, ...]:
        """Return the plans that answer, sorted by service, without the services that this process cannot answer."""
        plans = []
        for service in self._names.get():
            try:
                plans.append(self._reader(service).plan)
            except UnknownUdfError:
                continue
        return tuple(plans)

    def views(self) -> tuple[ViewPlan, ...]:
        """Return the plans that answer for views by themselves, sorted by name."""
        return self._views.get()

    def problems(self) -> list[FeatureStoreError]:
        """Return the problems with the states of the views that answer.

        Raises:
            RegistryError: The services cannot be read, and none are cached.
            StorageError: The online store cannot be read.
        """
        self.watch.look(wait_seconds=_HEALTH_CHECK_SECONDS)
        views = {use.view.fingerprint: use.view for plan in self.services() for use in plan.uses}
        losses = [loss for view in views.values() if (loss := self._loss_of(view)) is not None]
        return losses if self.watch.drops is None else [self.watch.drops, *losses]

    def _loss_of(self, view: ViewPlan) -> FeatureStoreError | None:
        """Return the error that reports lost states of a view; ``None`` if none are known to be lost."""
        try:
            record = records_of(self.store, [view])[view.name]
        except StateError as error:
            return error
        return self.watch.loss_of(view) if record.lost is None else loss_error(view.name, record.lost)

    def vitals(self) -> Vitals:
        """Measure the views that answer by themselves.

        While a view has no state, or the store cannot be read, staleness counts from the last instant up to which the
        view was complete.

        Raises:
            RegistryError: The views cannot be read, and none are cached.
        """
        now_us = self._clock.now_us()
        views = {view.name: view for view in self.views()}
        problem: FeatureStoreError | None = None
        records: Mapping[str, ViewRecord] = {}
        try:
            records = records_of(self.store, views.values())
        except (StateError, StorageError) as error:
            problem = error
        measured = {}
        for name, view in views.items():
            record = records.get(name, ViewRecord(name, view.fingerprint))
            if record.watermark_us != NOTHING_YET:
                self._bounds_us[view.fingerprint] = record.bound_us(view.refresh.period_us)
            complete_us = self._bounds_us.get(view.fingerprint)
            measured[name] = view_vitals(view.source.name, record, now_us=now_us, complete_us=complete_us)
        return Vitals(measured, self.store.is_open, problem)

    def _answered_views(self) -> Collection[ViewPlan]:
        """Return the plans of the views whose readers are cached."""
        readers = [cached.value for cached in self._readers.copy().values()]
        plans = [reader.plan for reader in readers if reader is not None]
        return {use.view.fingerprint: use.view for plan in plans for use in plan.uses}.values()

    def check(self) -> None:
        """Check that every applied service can be answered, and load the kernels and plans for it.

        Raises:
            StateError: A view has no online state, a damaged record, or lost states; or the store may evict states.
            RegistryError: The registry cannot be read.
            StorageError: The online store cannot be read.
        """
        for service in self._catalog().services():
            self._reader(service).get([], request=[])
        for problem in self.problems():
            raise problem

    def readiness(self) -> Readiness:
        """Check which services can be answered, and load the kernels and plans for it.

        From the first call on, the live plans are cached on disk for the next start.
        """
        if not self._keeps_plans:
            self._answered |= {plan.name for plan in self._plan_cache.read()}
            self._keeps_plans = True
        try:
            names = self._names.get()
        except FeatureStoreError as error:
            return Readiness((), error)
        self.watch.look(wait_seconds=_HEALTH_CHECK_SECONDS)
        services = []
        for name in names:
            problem = self._problem_of(name)
            services.append(ServiceReadiness(name, name in self._answered, problem))
            if problem is None:
                self._answered.add(name)
        self._keep_plans()
        return Readiness(tuple(services), self._registry_problem)

    def _problem_of(self, service: str) -> FeatureStoreError | None:
        """Return the reason why a service cannot be answered; ``None`` if it can."""
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
        """Look up the live plans again with the next request."""
        with self._lock:
            self._readers = {}
            self._names = CachedValue(self._find_names, self._clock, self._timeout, where=_WHERE)
            self._views = CachedValue(self._find_views, self._clock, self._timeout, where=_WHERE)
        self.watch.forget()

    def _find_names(self, known: tuple[str, ...] | None) -> tuple[str, ...]:
        """Return the names of all applied services, the cached ones if the registry cannot be read."""
        try:
            names = tuple(sorted(self._catalog().services()))
        except (RegistryError, StorageError) as error:
            self._registry_problem = error
            names = known or tuple(sorted({plan.name for plan in self._plan_cache.read()}))
            if not names:
                raise
            return names
        self._registry_problem = None
        return names

    def _find_views(self, known: tuple[ViewPlan, ...] | None) -> tuple[ViewPlan, ...]:
        """Return the plans that answer for views, the cached ones if the registry cannot be read."""
        try:
            return tuple(self._plans().view(name) for name in sorted(self._catalog().views()))
        except (RegistryError, StateError, StorageError) as error:
            self._warn(error)
            views = known or tuple(
                view
                for _, view in sorted(
                    {view.name: view for plan in self._plan_cache.read() for view in plan.views}.items()
                )
            )
            if not views:
                raise
            return views

    def _reader(self, service: str) -> OnlineReader:
        known = self._readers.get(service)
        return _existing((known or self._cached_reader(service, partial(self._find_reader, service))).get())

    def _views_reader(self, names: tuple[str, ...]) -> OnlineReader:
        def find(known: OnlineReader | None) -> OnlineReader:
            self.watch.look(wait_seconds=_REQUEST_CHECK_SECONDS)
            try:
                return self._bind(plan_of_views(map(self._plans().view, names)), known)
            except (RegistryError, StateError, StorageError) as error:
                self._warn(error)
                if known is not None:
                    return known
                views = {view.name: view for view in self.views()}
                if not views.keys() >= set(names):
                    raise
                return self._bind(plan_of_views(views[name] for name in names), known)

        return _existing(self._cached_reader(names, find).get())

    def _reader_or_error(self, service: str, expected: str | None) -> OnlineReader | Exception:
        try:
            return self._reader_for(service, expected)
        except Exception as error:  # only this caller gets it
            return error

    def _reader_for(self, service: str, expected: str | None) -> OnlineReader:
        """Return the reader of the expected plan if it can answer; else that of the live plan, which refuses."""
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
        """Return the reader of one plan of a service; ``None`` if the plan has no state."""
        key = _ServicePlan(service, fingerprint)
        return self._cached_reader(key, partial(self._find_pinned, key)).get()

    def _cached_reader(
        self, key: _ReaderKey, find: Callable[[OnlineReader | None], OnlineReader | None]
    ) -> CachedValue[OnlineReader | None]:
        cached = self._readers.get(key)
        if cached is not None:
            return cached
        new: CachedValue[OnlineReader | None] = CachedValue(find, self._clock, self._timeout, where=_WHERE)
        with self._lock:
            if key not in self._readers:
                self._evict_readers()
            return self._readers.setdefault(key, new)

    def close(self) -> None:
        """Stop checking the states."""
        self.watch.close()

    def _evict_readers(self) -> None:
        """Drop all readers but those of applied services if callers have asked for too many others."""
        if len(self._readers) >= COMBINATIONS + len(self._names.value or ()):
            names = set(self._names.value or ())
            for key in [key for key in self._readers if key not in names]:
                del self._readers[key]

    def _find_reader(self, service: str, known: OnlineReader | None) -> OnlineReader:
        """Return the reader of the live plan, or the cached one if the live plan cannot be looked up."""
        self.watch.look(wait_seconds=_REQUEST_CHECK_SECONDS)
        try:
            return self._bind(self._plans().plan(service), known)
        except UnknownUdfError as error:
            return self._bind_earlier_plan(service, known, error)
        except (RegistryError, StateError, StorageError) as error:
            self._warn(error)
            if known is not None:
                return known
            plan = next((plan for plan in self._plan_cache.read() if plan.name == service), None)
            if plan is None:
                raise
            return self._bind(plan, None)

    def _bind_earlier_plan(self, service: str, known: OnlineReader | None, error: UnknownUdfError) -> OnlineReader:
        """Return the reader of an earlier plan, because this process lacks a function of the live one.

        Raises:
            UnknownUdfError: No earlier plan has state and functions that this process has.
        """
        for plan in self._plans().previous(service):
            try:
                reader = self._bind(plan, known)
            except UnknownUdfError:
                continue
            if reader is not known:
                _LOGGER.warning("service '%s' is answered by an earlier plan, %s: %s", service, plan.fingerprint, error)
            return reader
        raise error

    def _find_pinned(self, key: _ServicePlan, known: OnlineReader | None) -> OnlineReader | None:
        """Return the reader of one plan of a service; ``None`` if the plan was never applied or has no state."""
        self.watch.look(wait_seconds=_REQUEST_CHECK_SECONDS)
        try:
            if known is not None:
                return known if self._plans().is_filled(known.plan) else None
            plan = self._plans().filled(key.service, key.fingerprint)
        except (RegistryError, StateError, StorageError) as error:
            self._warn(error)
            if known is not None:
                return known
            plans = (plan for plan in self._plan_cache.read() if plan.name == key.service)
            plan = next((plan for plan in plans if plan.fingerprint == key.fingerprint), None)
            if plan is None:
                raise
        return None if plan is None else self._bind(plan, None)

    def _bind(self, plan: Plan, known: OnlineReader | None) -> OnlineReader:
        """Return the reader of a plan: the known reader if it is of that plan."""
        if known is not None and known.plan == plan:
            return known
        self.watch.look_first(plan.views, wait_seconds=0.0 if self.store.is_open else _FIRST_LOOK_SECONDS)
        return OnlineReader(plan, self.store, self._clock, self.watch)

    def _keep_plans(self) -> None:
        """Cache the plans that answer for the next start, the live ones first."""
        names = set(self._names.value or ()) & self._answered
        readers = {key: cached.value for key, cached in self._readers.copy().items()}
        live = [reader.plan for key, reader in readers.items() if key in names and reader is not None]
        pinned = [
            reader.plan
            for key, reader in readers.items()
            if isinstance(key, _ServicePlan) and key.service in names and reader is not None
        ]
        self._plan_cache.keep([*live, *pinned])

    def _warn(self, error: FeatureStoreError) -> None:
        """Log that plans cannot be looked up, once for each reason."""
        if str(error) != self._warned:
            self._warned = str(error)
            _LOGGER.warning("the live plans cannot be looked up; the cached plans answer: %s", error)


def _existing(reader: OnlineReader | None) -> OnlineReader:
    assert reader is not None, "only a plan that a caller expects can be missing"
    return reader


def _instant_of(question: OnlineQuestion) -> Hashable:
    """Return the instant a request is about, ``None`` for the present; an invalid instant equals no other.

    The instant in microseconds is compared, because Python takes two instants an hour apart for equal where clocks are
    put back.
    """
    if question.as_of is None:
        return None
    try:
        return instant_us(question.as_of, where="as_of")
    except FeatureStoreError:
        return object()


def plan_of_views(views: Iterable[ViewPlan]) -> Plan:
    """Return a plan with all features of some views, each view under its own name and read by its own keys.

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
