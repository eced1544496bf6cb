"""Answering applied services: which plan is live, and a bound reader for each.

A plan goes live when all its views have online state. Until then the plan that was live before keeps answering, so that
applying a definition interrupts nobody; every answer says which plan it came from.

Which plan is live is asked once a second, in a thread: who has little time is answered by the plan known last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import inf
from threading import Lock, Thread
from typing import Any, TypeAlias

from featurestore.catalog import Catalog
from featurestore.dtypes import DType
from featurestore.errors import FeatureStoreError, RegistryError, RequestError, StateError, StorageError
from featurestore.live import LivePlans
from featurestore.online.guarded import Guarded
from featurestore.online.lookup import OnlineReader
from featurestore.online.patience import seconds_left
from featurestore.online.question import OnlineQuestion
from featurestore.online.result import OnlineFeatures
from featurestore.online.serving_log import Caller, ServingLog
from featurestore.online.store import OnlineStore, loss_error, records_of
from featurestore.online.vitals import Vitals, view_vitals
from featurestore.online.watching import StateWatch
from featurestore.plan.model import Output, Plan, ViewPlan, ViewUse
from featurestore.temporal import Clock, duration_us, instant_us

_LOGGER = logging.getLogger("featurestore.serving")

RECHECK_US = duration_us("1s")
"""How long after an apply in another process the old plan may still answer, beside the time that asking takes."""

_LOOK_SECONDS = 0.25
"""How long a check waits for a look after the states."""

_GLANCE_SECONDS = 0.005
"""How long a question waits for one, at most once a second."""

COMBINATIONS = 64
"""How many combinations of views are kept bound."""


_Asked: TypeAlias = str | tuple[str, ...]
"""A service, or views."""


@dataclass(frozen=True)
class _Live:
    """A reader, and when its plan was last known to be the live one."""

    reader: OnlineReader
    checked_at_us: int


@dataclass(frozen=True)
class _LiveViews:
    """The views that answer by themselves, and when that was last asked."""

    plans: tuple[ViewPlan, ...]
    checked_at_us: int


class Serving:
    """Answers online questions. May be used from several threads.

    Attributes:
        store: Where states are read, through a circuit breaker.
        watch: Looks after the states.
    """

    def __init__(
        self, catalog: Catalog, plans: LivePlans, store: OnlineStore, log: ServingLog | None, clock: Clock
    ) -> None:
        """Take the parts.

        Args:
            catalog: What is applied.
            plans: Knows which plans are live.
            store: Where states are kept.
            log: Takes what was answered; ``None`` keeps nothing.
            clock: Tells the present instant.
        """
        self._catalog = catalog
        self._plans = plans
        self.store = Guarded(store)
        self._log = log
        self._clock = clock
        self._live: dict[_Asked, _Live] = {}
        self._checks: dict[_Asked, Thread] = {}
        self._views: _LiveViews | None = None
        self._lock = Lock()
        self.watch = StateWatch(store, self._answered_views)

    def answer(self, question: OnlineQuestion) -> OnlineFeatures:
        """Answer a question; see ``FeatureStore.get_online_features``."""
        (found,) = self.answer_together([question])
        if isinstance(found, Exception):
            raise found
        return found

    def answer_together(self, questions: Sequence[OnlineQuestion]) -> list[OnlineFeatures | Exception]:
        """Answer several questions; see ``FeatureStore.get_online_features_together``.

        What is only a part of the plan's answer goes to no log: an audit would have nothing to compare it with.
        """
        alike: dict[Hashable, list[int]] = {}
        for place, question in enumerate(questions):
            alike.setdefault((question.service, _instant_of(question), question.partial), []).append(place)
        found: dict[int, OnlineFeatures | Exception] = {}
        for places in alike.values():
            own = [questions[place] for place in places]
            try:
                reader = self._reader(own[0].service)
                answers = reader.get_together(own)
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

    def services(self) -> tuple[Plan, ...]:
        """Return the plans that answer, sorted by service."""
        return tuple(self._reader(service).plan for service in sorted(self._catalog.services()))

    def views(self) -> tuple[ViewPlan, ...]:
        """Return the plans that answer for views by themselves, sorted by name."""
        now_us = self._clock.now_us()
        known = self._views
        if known is None or not 0 <= now_us - known.checked_at_us < RECHECK_US:
            known = _LiveViews(tuple(self._plans.view(name) for name in sorted(self._catalog.views())), now_us)
            self._views = known
        return known.plans

    def problems(self) -> list[FeatureStoreError]:
        """Return what is wrong with the states of the views that answer.

        Raises:
            RegistryError: The registry cannot be read.
            StorageError: The online store cannot be read.
        """
        plans = [self._reader(service).plan for service in sorted(self._catalog.services())]
        self.watch.look(wait_seconds=_LOOK_SECONDS)
        views = {use.view.fingerprint: use.view for plan in plans for use in plan.uses}
        found: list[FeatureStoreError] = [] if self.watch.drops is None else [self.watch.drops]
        for view in views.values():
            try:
                record = records_of(self.store, [view])[view.name]
                loss = self.watch.loss_of(view)
                if record.lost is not None:
                    loss = loss_error(view.name, record.lost)
            except StateError as error:
                loss = error
            if loss is not None:
                found.append(loss)
        return found

    def vitals(self, heads_us: Mapping[str, int], ahead_us: Mapping[str, int]) -> Vitals:
        """Tell how the views are that answer by themselves.

        Args:
            heads_us: By source with a log, the instant before which all its events became known.
            ahead_us: By source with a log, how far its head is ahead of the present.
        """
        now_us = self._clock.now_us()
        views = {view.name: view for view in self.views()}
        records = records_of(self.store, views.values())
        return Vitals(
            {
                name: view_vitals(
                    records[name],
                    now_us=now_us,
                    head_us=heads_us.get(view.source.name),
                    period_us=view.refresh.period_us,
                )
                for name, view in views.items()
            },
            self.store.is_open,
            ahead_us,
        )

    def _answered_views(self) -> Collection[ViewPlan]:
        """Return the views that this process has answered from lately, in their plans."""
        with self._lock:
            readers = [live.reader for live in self._live.values()]
        return {use.view.fingerprint: use.view for reader in readers for use in reader.plan.uses}.values()

    def check(self) -> None:
        """Make sure that every applied service can be answered, and load what answering needs.

        Raises:
            StateError: A view has no online state, a damaged record, or has lost a part of its states; or the store
                may drop states by itself.
            RegistryError: The registry cannot be read.
            StorageError: The online store cannot be read.
        """
        for service in self._catalog.services():
            self._reader(service).get([], request=[])
        for problem in self.problems():
            raise problem

    def forget(self) -> None:
        """Ask anew which plans are live, with the next question."""
        with self._lock:
            self._live.clear()
            self._views = None

    def _reader(self, service: str) -> OnlineReader:
        return self._checked(service, lambda: self._plans.plan(service))

    def _views_reader(self, names: tuple[str, ...]) -> OnlineReader:
        return self._checked(names, lambda: plan_of_views(map(self._plans.view, names)))

    def _checked(self, asked: _Asked, live_plan: Callable[[], Plan]) -> OnlineReader:
        """Return the reader of a service or of views; which plan is live is asked now and then.

        Whoever is first to find that too long ago waits for what is found out, for half the time there is, since the
        store is to be read yet; meanwhile the others are answered by what is known.
        """
        known, now_us = self._live.get(asked), self._clock.now_us()
        if known is not None and not 0 <= now_us - known.checked_at_us < RECHECK_US:
            check = Thread(target=self._check, args=(asked, live_plan, known, now_us), name="live plan", daemon=True)
            if self._checks.setdefault(asked, check) is check:
                check.start()
                left = seconds_left()
                check.join(None if left == inf else left / 2)
                known = self._live.get(asked)
        return self._bind(asked, live_plan(), None, now_us) if known is None else known.reader

    def _check(self, asked: _Asked, live_plan: Callable[[], Plan], known: _Live, now_us: int) -> None:
        """Find out which plan is live: if that cannot be asked, the one known last; if none is, forget that one."""
        self.watch.look(wait_seconds=_GLANCE_SECONDS)
        try:
            self._bind(asked, live_plan(), known, now_us)
        except (RegistryError, StateError, StorageError) as error:
            _LOGGER.warning("which plan is live cannot be asked; the one known last answers on: %s", error)
            self._bind(asked, known.reader.plan, known, now_us)
        except FeatureStoreError:  # whoever asks next is told
            with self._lock:
                self._live.pop(asked, None)
        finally:
            del self._checks[asked]

    def _bind(self, asked: _Asked, plan: Plan, known: _Live | None, now_us: int) -> OnlineReader:
        """Take down which plan is live; one that was live before keeps its reader.

        What became known meanwhile is newer, and stays.
        """
        is_same = known is not None and known.reader.plan == plan
        reader = known.reader if known is not None and is_same else self._open(plan)
        with self._lock:
            if known is None and not isinstance(asked, str):
                self._make_room()
            if self._live.get(asked) is known:
                self._live[asked] = _Live(reader, now_us)
        return reader

    def _open(self, plan: Plan) -> OnlineReader:
        return OnlineReader(plan, self.store, self._clock, self.watch)

    def close(self) -> None:
        """Look after the states no more."""
        self.watch.close()

    def _make_room(self) -> None:
        """Forget all combinations of views if there are too many."""
        combinations = [asked for asked in self._live if not isinstance(asked, str)]
        if len(combinations) >= COMBINATIONS:
            for asked in combinations:
                del self._live[asked]


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
    columns = [(f"{use.alias}__{feature.name}", feature.dtype) for use in uses for feature in use.view.features]
    return Plan("", uses, outputs=tuple(Output(name, name, dtype, "view") for name, dtype in columns))
