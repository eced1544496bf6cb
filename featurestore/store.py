"""The feature store as users hold it: parts, and the verbs that hand the work to them.

Parts are made when they are first needed, so that a server never loads what only training sets need, and the other
way round.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from featurestore.config import FILE_NAME, Config, PolicyConfig
from featurestore.core.errors import FeatureStoreError, RegistryError, listing
from featurestore.core.question import OnlineQuestion
from featurestore.core.temporal import (
    Clock,
    Refresh,
    SystemClock,
    check_period,
    duration_us,
    instant_us,
    moment_us,
    parse_refresh,
)

if TYPE_CHECKING:
    from featurestore.core.answers import OnlineFeatures
    from featurestore.definitions.sources import Source
    from featurestore.guard.audit.audit import Progress
    from featurestore.guard.audit.auditor import Auditor
    from featurestore.guard.audit.foreign import ForeignMapping
    from featurestore.guard.audit.policy import Policy
    from featurestore.guard.audit.report import AuditReport
    from featurestore.guard.drift.drifter import Drifter
    from featurestore.guard.drift.policy import DriftPolicy
    from featurestore.guard.drift.report import DriftReport
    from featurestore.guard.explain.model import Explanation
    from featurestore.guard.release.certificate import Certificate
    from featurestore.guard.release.gate import Gate
    from featurestore.guard.release.leakage_report import LeakageReport
    from featurestore.guard.release.simulation import Simulation
    from featurestore.offline.dataset import TrainingSet
    from featurestore.online.answering.live import LivePlans, Removed, ServiceState
    from featurestore.online.answering.readiness import Readiness
    from featurestore.online.answering.serving import Serving
    from featurestore.online.answering.vitals import LogVitals, Vitals
    from featurestore.online.filling.materialize import ViewRun
    from featurestore.online.filling.runs import FoldProgress
    from featurestore.online.forgetting import Forgotten
    from featurestore.online.pushing import PushResult, Streams
    from featurestore.online.stores.store import OnlineStore
    from featurestore.plan.model import Plan, ViewPlan
    from featurestore.registry import AuditRecord, DriftRecord, Live, LiveChange, Registry, RunRecord
    from featurestore.registry.api_keys import ApiKeys
    from featurestore.registry.catalog import Catalog, Changes
    from featurestore.registry.data_folders import DataFolders
    from featurestore.serving_log import ServingLog
    from featurestore.sources import ReadSettings
    from featurestore.sources.event_log import EventLog
    from featurestore.storage import Hold
    from featurestore.storage.progress import Progress as StepProgress

_CLOSING_ORDER = (
    "_auditor",
    "_drifter",
    "api_keys",
    "_streams",
    "_serving",
    "_live_plans",
    "_serving_log",
    "_data_folders",
    "_online",
    "_event_log",
    "_settings",
    "_catalog",
    "_registry",
)
"""The parts of a store, those that use others first."""

Instant = datetime | str
"""An aware ``datetime``, or ISO 8601 text with a time zone."""


_VERBS_OF_FEAST = {
    "get_historical_features": "Write training_set(service, spine, path).",
    "materialize_incremental": "Write materialize(); it is incremental.",
    "write_to_online_store": "Write push(source, events).",
    "write_to_offline_store": "Write push(source, events).",
    "list_feature_views": "Write views().",
    "list_feature_services": "Write services().",
    "get_feature_service": "Write plan(service).",
    "teardown": "Write gc() for unused online state, or delete the store's folder.",
}

_T = TypeVar("_T")
_LOGGER = logging.getLogger("featurestore.store")


class _Part(Generic[_T]):
    """A part of a store, made when it is first needed: once, whichever threads need it at the same time.

    It lies in the store's ``__dict__`` from then on, where reading it takes no lock.
    """

    def __init__(self, make: Callable[[FeatureStore], _T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, store: None, owner: type) -> _Part[_T]: ...

    @overload
    def __get__(self, store: FeatureStore, owner: type) -> _T: ...

    def __get__(self, store: FeatureStore | None, owner: type) -> _T | _Part[_T]:
        if store is None:
            return self
        with store._making:
            if self._name not in store.__dict__:
                store.__dict__[self._name] = self._make(store)
            part: _T = store.__dict__[self._name]
            return part


class FeatureStore:
    """A feature store.

    May be used from several threads; close it in the end, or use it as a context manager.

    Attributes:
        config: Where it keeps things and what it may use.
    """

    def __init__(self, config: Config, *, clock: Clock | None = None) -> None:
        """Take the configuration; nothing is opened yet.

        Args:
            config: Where things are kept.
            clock: Tells the present instant; the machine's if ``None``.
        """
        self.config = config
        self._clock = clock or SystemClock()
        self._making = RLock()

    @classmethod
    def open(cls, path: str | os.PathLike[str] = FILE_NAME, *, clock: Clock | None = None) -> FeatureStore:
        """Open the store that a configuration file describes.

        Args:
            path: The file, or the folder it lies in.
            clock: Tells the present instant; the machine's if ``None``.

        Raises:
            ConfigError: The file is missing or wrong.
        """
        return cls(Config.load(path), clock=clock)

    @classmethod
    def local(cls, folder: str | os.PathLike[str], *, clock: Clock | None = None) -> FeatureStore:
        """Open a store that keeps everything, SQLite and Parquet, under one folder.

        Relative paths of sources count from the working directory, not from that folder.

        Args:
            folder: The folder; it is made when something is stored.
            clock: Tells the present instant; the machine's if ``None``.

        Raises:
            ConfigError: An override in the environment is wrong.
        """
        return cls(Config.local(folder), clock=clock)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Say what the store calls the verbs of Feast."""
            if name in _VERBS_OF_FEAST:
                raise AttributeError(f"FeatureStore has no attribute '{name}'. {_VERBS_OF_FEAST[name]}")
            return object.__getattribute__(self, name)

    @property
    def clock(self) -> Clock:
        """What tells the present instant."""
        return self._clock

    @_Part
    def api_keys(self) -> ApiKeys:
        """The API keys of the server."""
        from featurestore.registry.api_keys import ApiKeys

        return ApiKeys(self.config.registry)

    def apply(
        self,
        *definitions: Any,
        remove: Collection[str] = (),
        prune: bool = False,
        promote: bool | Literal["auto"] = "auto",
        by: str | None = None,
    ) -> Changes:
        """Compile definitions and make them the applied ones, all of them or none.

        What is applied but not among the definitions stays applied, unless it is named in ``remove``.

        Args:
            definitions: Modules, definitions, and iterables of these; what they refer to comes along. Without any, the
                configured definitions' module is applied.
            remove: Names of services, views and sources to remove: ``"name"``, or ``"view:name"`` for one kind only.
                Online state stays until ``gc`` deletes it; until then ``restore``, or applying it again, undoes it.
            prune: Whether to remove everything that is not among the definitions. Only for programs that own the whole
                registry: it removes what others applied.
            promote: When changed services answer by their new plans: ``"auto"`` as soon as these have online state;
                ``False`` not before ``promote`` is called; ``True`` at once, together with every other applied plan
                that is not live yet. A plan that was rolled back from goes live by ``promote`` alone.
            by: Who applies, for the history of live plans; ``user@host`` if ``None``.

        Returns:
            What changed, with fingerprints; and what stays applied although the modules do not define it.

        Raises:
            DefinitionError: The definitions hold mistakes; all are named, nothing was changed.
            SourceError: A source's columns cannot be found out.
            RegistryError: A name to remove was never applied (``unknown-name``), is among the definitions
                (``still-defined``) or is used by what stays (``still-used``); or the registry failed. Nothing was
                changed.
            StateError: A plan was to be promoted that has no online state yet. It is applied and the old one answers.
        """
        given = definitions or (self._catalog.import_definitions(),)
        kept = None if promote == "auto" else self._live_plans.kept()
        who = _who(by)
        if self._registry.live():  # what a process that died could not record is the plan that stays live now
            self._record_live("materialize", who)
        changes = self._catalog.apply(given, prune=prune, remove=remove, kept_live=kept, changed_by=who)
        self._plans_changed(changes, who)
        if promote is True:
            for state in self.status():
                if state.is_pending and not state.is_withdrawn:
                    self.promote(state.service, by=by)
        return changes

    def restore(self, name: str, *, by: str | None = None) -> Changes:
        """Undo the removal of a service, view or source, together with what it needs and was removed as well.

        A service answers at once by the plan that was live when it was removed, if its online state is still there.
        ``gc`` keeps the state for 7 days after the removal.

        Args:
            name: Its name; ``"view:name"`` for one kind only.
            by: Who restores, for the history of live plans; ``user@host`` if ``None``.

        Raises:
            RegistryError: Nothing of that name was removed (``unknown-removed``), or a view or source that it needs was
                changed since (``restore-conflict``). Nothing was changed.
        """
        who = _who(by)
        changes = self._catalog.restore(name, changed_by=who)
        self._plans_changed(changes, who)
        return changes

    def promote(self, service: str, *, by: str | None = None) -> Live:
        """Let a service answer by its applied plan from now on: one step, seen by all processes within a second.

        Args:
            service: Name of the service.
            by: Who promotes, for the history; ``user@host`` if ``None``.

        Raises:
            UnknownServiceError: No service of that name is applied.
            StateError: A view has no online state; the message names it. Nothing was changed.
            RegistryError: The registry failed; nothing was changed.
        """
        live = self._live_plans.promote(service, changed_by=_who(by))
        self._forget()
        return live

    def rollback(self, service: str, *, by: str | None = None) -> Live:
        """Let a service answer by the plan again that was live before: one step, as ``promote``.

        Materializing refreshes that plan again from then on. What is applied does not change. The plan that was left
        stays down, whatever is applied or materialized later, until ``promote`` brings it back. Once more goes back
        further.

        Args:
            service: Name of the service.
            by: Who rolls back, for the history; ``user@host`` if ``None``.

        Raises:
            UnknownServiceError: No service of that name is applied.
            StateError: There is no such plan, or its states are gone. Nothing was changed.
            RegistryError: The registry failed; nothing was changed.
        """
        live = self._live_plans.rollback(service, changed_by=_who(by))
        self._forget()
        return live

    def live_changes(self, service: str | None = None, *, limit: int = 100) -> tuple[LiveChange, ...]:
        """Return which plans went live, when, in place of which, by which verb and by whom, newest first.

        Args:
            service: Of this service only. The registry keeps the newest thousand changes of each.
            limit: At most so many.

        Raises:
            UnknownServiceError: The service is not applied and has no history.
        """
        changes = self._registry.live_changes(service, limit=limit)
        if service is not None and not changes:
            self._catalog.plan(service)
        return changes

    def status(self) -> tuple[ServiceState, ...]:
        """Return for each applied service which plan is live, which is applied, and how far their views are."""
        return self._live_plans.status()

    def gc(self, *, dry_run: bool = False, keep: int = 1) -> tuple[Removed, ...]:
        """Remove online state that no plan needs which is live, applied, or kept to roll back to.

        Args:
            dry_run: Whether only to tell what would be removed.
            keep: How many plans of each service are kept that were live before. Unless it is 0, the states of services
                and views that were removed in the last 7 days are kept as well.

        Returns:
            What was removed, and what was left because a run is at work on it.

        Raises:
            StateError: Somebody promotes, rolls back or removes at the same time, for half a minute.
            StorageError: The online store cannot be written; running again completes the work.
        """
        return self._live_plans.remove_unused(dry_run=dry_run, keep=keep)

    def plan(self, service: str) -> Plan:
        """Return the compiled plan of an applied service.

        Raises:
            UnknownServiceError: No service of that name is applied.
        """
        return self._catalog.plan(service)

    @property
    def registry(self) -> Registry:
        """The registry, for programs that keep records of their own in it."""
        return self._registry

    @property
    def takes_pushes(self) -> bool:
        """Whether any applied source accepts pushes."""
        return bool(self._catalog.streams())

    def exclusive(self, name: str) -> AbstractContextManager[Hold]:
        """Hold a name alone among all processes that share the registry; the hold tells whether it still does.

        Raises:
            StateError: Another process holds it (``code`` is ``"busy"``); or, when it is given back, it was lost
                meanwhile (``"lease-lost"``).
            RegistryError: The registry cannot be asked.
        """
        return self._registry.exclusive(name)

    def services(self) -> tuple[Plan, ...]:
        """Return the plans of all applied services, sorted by name."""
        return tuple(plan for _, plan in sorted(self._catalog.services().items()))

    def views(self) -> tuple[ViewPlan, ...]:
        """Return the plans of all applied views, sorted by name."""
        return tuple(view for _, view in sorted(self._catalog.views().items()))

    @property
    def keeps_time(self) -> bool:
        """Whether online state is read within the time that ``featurestore.online.stores.patience`` allows."""
        return self._serving.store.keeps_time

    def service_names(self) -> tuple[str, ...]:
        """Return the names of the applied services, sorted; those known last if the registry is away.

        Raises:
            RegistryError: The registry cannot be read, and no process of this data folder has served yet.
        """
        return self._serving.names()

    def live_services(self) -> tuple[Plan, ...]:
        """Return the plans by which services are answered at present, sorted by name.

        They are the applied ones unless these wait for state or for ``promote``; a change in another process is seen
        within a second.
        """
        return self._serving.services()

    def live_plan(self, service: str, *, expected_fingerprint: str | None = None) -> Plan:
        """Return the plan that answers a service, for a caller that expects this plan or any.

        Raises:
            UnknownServiceError: No service of that name is applied.
            FingerprintMismatchError: Another plan is live, and the expected one has no online state.
            UnknownUdfError: The plan needs a function that this process does not have.
        """
        return self._serving.plan(service, expected_fingerprint)

    def live_views(self) -> tuple[ViewPlan, ...]:
        """Return the plans by which views by themselves are answered at present, sorted by name."""
        return self._serving.views()

    def training_set(
        self,
        service: str,
        spine: Any,
        path: str | os.PathLike[str],
        *,
        hindsight: bool = False,
        statuses: bool = False,
        as_of: str = "as_of",
        as_of_unit: str | None = None,
        overwrite: bool = False,
        progress: bool | StepProgress | None = None,
    ) -> TrainingSet:
        """Build a training set: a service's features for each row of a spine, at the row's own instant.

        Args:
            service: Name of the service.
            spine: Rows to fill: a pandas or Polars frame, a pyarrow table, a DuckDB relation, whatever has
                ``__arrow_c_stream__``, the path of a Parquet file, or a ``SqlSpine``. It has the key columns, the
                column of instants that ``as_of`` names, and the request inputs; other columns pass through.
            path: The folder it will be. What is there must be an empty folder, or a training set to replace.
            hindsight: Whether to treat every event as known from its event time on, for analysis only.
            statuses: Whether to add a column of statuses for each feature.
            as_of: Column of the spine that holds the instants asked about. It keeps its name.
            as_of_unit: What numbers in ``as_of`` count since 1970: ``"s"``, ``"ms"``, ``"us"`` or ``"ns"``; ``None``
                refuses numbers.
            overwrite: Whether a training set that is there is replaced, in one step. Readers find the old or the new
                one, also if the process is killed.
            progress: Whether to show on standard error how far the work is; ``None`` does so if that is a terminal. A
                function is told instead: the step, rows done, rows to do.

        Returns:
            The training set: exactly the spine's rows in the spine's order.

        Raises:
            UnknownServiceError: No service of that name is applied.
            SpineError: The spine cannot be used; the message names the column and the fix.
            SourceError: A source cannot give its rows, or was rewritten meanwhile.
            ConfigError: A source's rows lay in memory and it must be applied again.
            StorageError: There is a training set and it is not to be replaced (``target-exists``), or the target cannot
                be written. Nothing is left behind.
        """
        from featurestore.offline.training_set import build_training_set
        from featurestore.storage.progress import listening

        plan = self._catalog.plan(service)
        with listening(progress, opening="reading the spine") as told:
            return build_training_set(
                plan,
                spine,
                path,
                sources=self._catalog.sources(use.view.source.name for use in plan.uses),
                settings=self._settings,
                clock=self._clock,
                hindsight=hindsight,
                statuses=statuses,
                as_of=as_of,
                as_of_unit=as_of_unit,
                overwrite=overwrite,
                progress=told,
            )

    def materialize(
        self,
        until: Instant | None = None,
        views: Iterable[str] | None = None,
        *,
        full: bool = False,
        wait_seconds: float = 0,
        progress: FoldProgress | None = None,
        by: str | None = None,
    ) -> tuple[ViewRun, ...]:
        """Fold the events of sources into online state, as far as they became known before an instant.

        Several views are done at a time; one that fails does not keep the others from being done. Every run is kept
        in the registry, with counts, times and how it ended. Plans that were live before and are kept to go back to are
        refreshed after the others; if one cannot be, that is logged and no error.

        Args:
            until: Exclusive bound of ingest times; the present instant if ``None``. A later one counts as the present:
                nothing is complete up to the future.
            views: Names of views; ``None`` means all applied ones, and those that still serve.
            full: Whether to fold everything again instead of what is new.
            wait_seconds: How long to wait for another run on a view to end; by default it is refused at once.
            progress: Told, from several threads, how far each view is: its name, events folded, events to fold.
            by: Who materializes, for the history of live plans; ``user@host`` if ``None``.

        Returns:
            What was done, view by view.

        Raises:
            RegistryError: No view of that name is applied.
            SourceError: A source cannot give its rows.
            StateError: Another run on the view is under way.
            StorageError: The online store cannot be written; running again completes the work.
        """
        from featurestore.online.filling.runs import materialize, refresh_kept

        views = None if views is None else list(views)
        now_us = self._clock.now_us()
        until_us = now_us if until is None else min(now_us, instant_us(until, where="until"))
        try:
            runs = materialize(
                self._views_to_fold(views),
                catalog=self._catalog,
                registry=self._registry,
                store=self._online,
                settings=self._settings,
                clock=self._clock,
                until_us=until_us,
                full=full,
                wait_seconds=wait_seconds,
                progress=progress,
            )
        finally:  # a view that failed does not keep the others from going live
            self._forget()
            self._record_live("materialize", _who(by))
        refresh_kept(
            self._live_plans.kept_views(
                self._catalog.views().keys() if views is None else set(views),
                keep=self.config.schedule.keep_plans,
            ),
            catalog=self._catalog,
            registry=self._registry,
            store=self._online,
            settings=self._settings,
            clock=self._clock,
            until_us=until_us,
            full=full,
        )
        return runs

    def runs(self, view: str | None = None, *, limit: int = 100) -> tuple[RunRecord, ...]:
        """Return what materializing did, newest run first, also what failed.

        Args:
            view: Of this view only.
            limit: At most so many.
        """
        return self._registry.runs(view, limit=limit)

    def forget(self, entity: str, keys: Mapping[str, Any], *, wait_seconds: float = 60) -> Forgotten:
        """Remove what is kept about an entity: its online states, its pushed events, dead letters, what was served.

        Sources, views and services that were removed count as well. Files and tables that sources read are not touched;
        they are named, and so are the data folders of other machines. Views that read them are rebuilt by their next
        run: with all events of the entity that are there then, or without the entity.

        Args:
            entity: Name of the entity.
            keys: Its key columns.
            wait_seconds: How long to wait for a run on a view to end.

        Returns:
            What was removed, and what may still hold something of it.

        Raises:
            RequestError: There is no such entity, or the keys are not its keys.
            StateError: A run on a view did not end in time; forget again.
            StorageError: A log or the online store cannot be written; forget again.
        """
        from featurestore.online.forgetting import forget

        return forget(
            entity,
            keys,
            catalog=self._catalog,
            registry=self._registry,
            store=self._online,
            settings=self._settings,
            served=self._serving_log,
            data=self.config.data,
            folders=self._data_folders,
            wait_seconds=wait_seconds,
        )

    def note_data_folder(self) -> None:
        """Register, in the background, that this process uses its data folder.

        So commands on other machines can name it: what was served and dead letters are kept there.
        """
        self._data_folders.note_use()

    def source(self, name: str) -> Source:
        """Return the definition of an applied source.

        Raises:
            RegistryError: No source of that name is applied.
            ConfigError: It is not stored, and no module that defines it is configured.
        """
        return self._catalog.sources([name])[name]

    def push(
        self, source: str, events: Any, *, partial: bool = False, idempotency_key: str | None = None
    ) -> PushResult:
        """Push events to a source declared ``stream=True``.

        Args:
            source: Name of the source.
            events: A list of mappings from column to value, or a frame. Every event has the columns that views read;
                the instant it became known is the log's to say.
            partial: Whether the good rows are taken if others are bad; by default none is.
            idempotency_key: Names this push, so that it can be repeated: the same key with the same events is taken
                once, and answered as it was then. The log remembers a key for a day at least.

        Returns:
            What became of the events. When it returns they are committed: no crash loses them, training sets see them,
            and online state has them or catches up.

        Raises:
            RequestError: The source accepts no pushes, a row is bad (``field`` points at it), or the idempotency key
                was used for other events (``idempotency-key-reused``). Nothing was taken.
            StorageError: The log cannot be written; nothing was taken. Only if the code is ``push-outcome-unknown``
                nobody knows whether all was: push the same events again with the same idempotency key.
        """
        return self._streams.push(source, events, partial=partial, idempotency_key=idempotency_key)

    def push_file(
        self, source: str, path: str | os.PathLike[str], *, partial: bool = False
    ) -> Iterator[tuple[int, PushResult]]:
        """Push the events of a file, some thousand at a time.

        Args:
            source: Name of the source.
            path: Parquet, CSV, or lines of JSON (``.jsonl``, ``.ndjson``); the suffix tells. The text of CSV is read in
                the dtypes of the source.
            partial: Whether the good rows are taken if others are bad; by default none is of those pushed together.

        Yields:
            As soon as some events are pushed, the number of the first of these in the file, from 0, and what became
            of them.

        Raises:
            SourceError: The file cannot be read; what was pushed before stays.
            RequestError: The source accepts no pushes, or a row is bad; what was pushed before stays.
            StorageError: The log cannot be written; what was pushed before stays.
        """
        from featurestore.sources import read_schema
        from featurestore.sources.event_files import read_events

        self.push(source, [])
        definition, row = self.source(source), 0
        for events in read_events(Path(path), definition, read_schema(definition, self._settings), self._settings):
            yield row, self.push(source, events, partial=partial)
            row += len(events)

    def catch_up(self) -> int:
        """Fold the pushed events that online state does not have yet; return how many, once for each view.

        Pushes do that by themselves. What is left for this is what a crash, or an online store that was down, left
        behind; and to let lookups say that they are complete up to now although nothing was pushed.

        Raises:
            StateError: A stored state is damaged.
            StorageError: The log or the online store cannot be used.
        """
        return self._streams.catch_up()

    def start_following(self, interval_seconds: float = 1.0) -> None:
        """Catch up now and at an interval from now on, in the background, until the store is closed.

        A process that serves calls this once, so that lookups are complete up to the present instant, and have what
        other processes pushed.
        """
        self._streams.start(interval_seconds)
        self._serving.watch.start()

    def compact(self, source: str | None = None, *, before: Instant | None = None) -> dict[str, int]:
        """Move pushed events from the log's database to Parquet files under the data folder.

        Args:
            source: Name of the source; all if ``None``.
            before: Only events that became known before it; all if ``None``.

        Returns:
            How many events were moved, by source. What they mean is the same before, during and after it.

        Raises:
            RequestError: The source accepts no pushes.
            ConfigError: Other processes that use the log might not see the data folder (``data-not-shared``), or
                what was moved before is not in it (``other-data-folder``). Nothing was moved.
            StorageError: A file or the database cannot be written.
        """
        before_us = self._clock.now_us() if before is None else instant_us(before, where="before")
        return self._streams.compact(source, before_us=before_us)

    def repair_log(self, source: str | None = None) -> dict[str, int]:
        """Bring logs whose head lies in the future back to the present, and rebuild the states made of them.

        A clock that was ahead gives events ingest times of the future; the log refuses pushes then
        (``log-head-ahead``). These events get the present as their ingest time, in their order.

        Args:
            source: Name of the source; all if ``None``.

        Returns:
            How many events got another ingest time, by source.

        Raises:
            RequestError: The source accepts no pushes.
            StorageError: The log cannot be written, or events of the future were compacted.
        """
        ahead = {name for name, ahead_us in self._streams.ahead_us().items() if ahead_us > 0}
        moved = self._streams.redate(source)
        repaired = ahead & moved.keys()
        views = [view.name for view in self.views() if view.source.name in repaired]
        if views:
            self.materialize(views=views)
        return moved

    def get_online_features(
        self,
        service: str,
        entities: Sequence[Mapping[str, Any]],
        request: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None,
        as_of: Instant | None = None,
        *,
        expected_fingerprint: str | None = None,
        request_id: str | None = None,
        partial: bool = False,
        model: str | None = None,
        model_version: str | None = None,
    ) -> OnlineFeatures:
        """Answer a service for some entities at one instant.

        Args:
            service: Name of the service.
            entities: For each row of the answer the key columns by name; values of exactly their dtypes.
            request: Request inputs by name: one mapping for all entities, or one per entity.
            as_of: Instant asked about, exclusive; the present one if ``None``.
            expected_fingerprint: The plan the caller was trained on. It answers, live or not, as long as it has online
                state; else it is an error. Without it the live plan answers.
            request_id: Name of the request in the serving log; made up if ``None``.
            partial: Whether views may answer if others cannot: their values are null with status ``ERROR``, and
                ``errors`` says why. Such an answer is not logged. If no view can answer, that is an error.
            model: Name of the model that asks, for the serving log.
            model_version: Its version.

        Returns:
            Values and statuses in the order of ``entities``, with event times, and watermarks of the views.

        Raises:
            UnknownServiceError: No service of that name is applied.
            RequestError: A field is missing, unknown or of a wrong type; ``field`` points at it.
            OutOfReachError: ``as_of`` is earlier than the state of a view reaches.
            FingerprintMismatchError: Another plan is live, and the expected one has no online state.
            UnknownUdfError: The plan needs a function that this process does not have.
            StateError: A view has no online state, or a damaged one.
            StorageError: The online store cannot be read.
        """
        question = OnlineQuestion(
            service, entities, request, as_of, expected_fingerprint, request_id, partial, model, model_version
        )
        return self._serving.answer(question)

    def get_online_features_together(self, questions: Sequence[OnlineQuestion]) -> list[OnlineFeatures | Exception]:
        """Answer several questions, each as if it had been asked by itself.

        Questions to one service about the same instant, or about the present one, are read and computed together, which
        costs little more than one of them: for servers that answer many callers.

        Args:
            questions: The questions, in any order.

        Returns:
            Per question its answer, or the error that ``get_online_features`` raises for it: what is wrong with one
            keeps no other from its answer.
        """
        return self._serving.answer_together(questions)

    def get_online_views(
        self,
        views: Collection[str],
        entities: Sequence[Mapping[str, Any]],
        as_of: Instant | None = None,
        *,
        partial: bool = False,
    ) -> OnlineFeatures:
        """Answer all features of some views for some entities at one instant, whatever services there are.

        No service answers, so nothing goes to the serving log and no audit covers it: for looking, and for clients
        that know views only.

        Args:
            views: Names of views; their columns are ``view__feature``.
            entities: For each row of the answer the key columns of all views by name; values of exactly their dtypes.
            as_of: Instant asked about, exclusive; the present one if ``None``.
            partial: Whether views may answer if others cannot, as in ``get_online_features``.

        Returns:
            Values and statuses in the order of ``entities``; ``service`` is empty.

        Raises:
            RequestError: There is no such view, or a field is missing, unknown or of a wrong type.
            OutOfReachError: ``as_of`` is earlier than the state of a view reaches.
            StateError: A view has no online state, or a damaged one.
            StorageError: The online store cannot be read.
        """
        return self._serving.answer_views(views, entities, as_of=as_of, partial=partial)

    def audit(
        self,
        service: str,
        since: Instant | timedelta = "24h",
        until: Instant | timedelta | None = None,
        *,
        sample: float | None = None,
        policy: Policy | None = None,
        by: Sequence[str] = (),
        causes: bool = True,
        explain_rows: int | None = None,
        mismatches: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> AuditReport:
        """Recompute offline what was served, compare it to the bit, and prove why values differ.

        Args:
            service: Name of the service.
            since: First ``as_of`` of the answers to compare: an instant, or how long before now (``"24h"``).
            until: One past the last; now if ``None``.
            sample: Share of the entities to look at, chosen by a hash of their key; ``None`` looks at all.
            policy: What is allowed; by default what configuration and definition say, else nothing but equality.
            by: Columns of the log (keys, request inputs) to look for slices in, beside the usual properties.
            causes: Whether to prove why values differ; without it an audit only counts.
            explain_rows: Of how many rows that differ causes are proven; ``None`` for all.
            mismatches: Folder that receives every value that differs as Parquet, with its cause.
            progress: Is told what is being done, how far it is, and how far it will go.

        Returns:
            The judged report; it is also kept in the registry.

        Raises:
            UnknownServiceError: No service of that name is applied.
            InstantError: A bound is no instant, or the last is not after the first.
            ConfigError: The sample is no share, or ``explain_rows`` no count.
            SourceError: A source cannot give its rows.
            StorageError: The serving log cannot be written or read, or the disk refuses rows that are to be explained.
        """
        from featurestore.guard.comparing.sampling import check_rows, check_share

        since_us, until_us = _period(since, until, now_us=self._clock.now_us(), where="audit")
        return self._auditor.audit(
            service,
            since_us=since_us,
            until_us=until_us,
            policy=policy or self._allowed(service),
            sample=check_share(sample),
            by=by,
            causes=causes,
            explain_rows=check_rows(explain_rows),
            mismatches=None if mismatches is None else Path(mismatches),
            progress=progress,
        )

    def verify(
        self,
        service: str,
        *,
        rows: int = 2_000,
        instants: int | None = None,
        between: int = 10,
        progress: Progress | None = None,
    ) -> Certificate:
        """Replay a service's history on both roads before it is released, and compare to the bit.

        Instants on both sides of the edges at which events begin or cease to count are chosen from what the sources
        hold, and some between them. Up to each, state is filled in a store of its own as it would have been then. It
        is asked about entities that occur and some that do not before that refresh, amid what is pushed (if a source
        accepts pushes), and after it. The store that serves is not touched.

        Args:
            service: Name of the service; it is applied, and need not be materialized.
            rows: About how many pairs of entity and instant.
            instants: At how many instants beside edges; each costs a refresh of all views. ``None`` for at least 20,
                and as many as it takes to ask at every kind of edge.
            between: At how many instants anywhere in the span of these.
            progress: Is told how far it is.

        Returns:
            The certificate, with its verdict; it is also kept in the registry.

        Raises:
            UnknownServiceError: No service of that name is applied.
            SourceError: A source cannot give its rows, there are none, or it is written meanwhile.
        """
        from featurestore.guard.release.verify import Verifier

        now_us = self._clock.now_us()
        verifier = Verifier(self._catalog, self._registry, self._settings, self._auditor.recent)
        return verifier.verify(
            service, rows=rows, instant_count=instants, between_count=between, now_us=now_us, progress=progress
        )

    def simulate(
        self,
        view: str,
        policies: Sequence[Refresh | str],
        *,
        spine: Any = None,
        as_of: str = "as_of",
        rows: int = 20_000,
    ) -> Simulation:
        """Tell how far a view's values would lie from fresh ones under several refresh policies, on real history.

        Args:
            view: Name of the view.
            policies: ``every(…)``, ``continuous()``, or text: ``"every 1h lag 10m"``.
            spine: What to ask, in any form that training sets take. If ``None``, what was served in the last week is
                asked again; if that is little, questions are chosen at and soon after the entities' own events.
            as_of: Column of the spine that holds the instants asked about.
            rows: How many questions to choose.

        Returns:
            Per policy the share of differing values and their sizes, staleness, and runs and states a day.

        Raises:
            RequestError: There is no such view.
            InstantError: A policy is unreadable.
            SourceError: The source cannot give its rows, or there are none.
            SpineError: The spine lacks a column.
        """
        from featurestore.core.errors import RequestError, listing
        from featurestore.guard.release.simulate import served_questions, simulate

        chosen = [parse_refresh(policy) if isinstance(policy, str) else policy for policy in policies]
        views = self._catalog.views()
        if view not in views:
            hint = listing("Views", sorted(views), wrong=view)
            raise RequestError(f"there is no feature view '{view}'", field="/view", hint=hint, code="unknown-view")
        return simulate(
            views[view],
            chosen,
            sources=self._catalog.sources([views[view].source.name]),
            settings=self._settings,
            spine=spine,
            as_of=as_of,
            served=served_questions(views[view], self._catalog.services().values(), self._auditor.recent),
            rows=rows,
            now_us=self._clock.now_us(),
        )

    def leakage(
        self,
        training_set: TrainingSet | str | os.PathLike[str],
        label: str,
        *,
        label_time: str | None = None,
        rows: int = 50_000,
    ) -> LeakageReport:
        """Tell which features of a training set tell of the label only because they see what nobody could know.

        Rows are asked again a microsecond, a minute, an hour and a day earlier, with hindsight, and just before the
        label's own event if its time is known. What a feature loses by it proves a leak or raises a doubt.

        Args:
            training_set: The set, or its folder.
            label: Column of the spine that is predicted.
            label_time: Column of the spine that says when the label's event happened, null where it did not.
            rows: How many rows to look at, chosen by a hash of key and instant.

        Returns:
            What each feature tells and what becomes of it, leaks first, then what may be one; and how late events of
            the sources became known.

        Raises:
            TrainingSetError: There is no training set, or it is damaged.
            RequestError: There is no such label, it holds one value only, or its time is no instant.
            SourceError: A source cannot give its rows.
        """
        from featurestore.guard.release.leakage import look_for_leaks
        from featurestore.offline.dataset import TrainingSet

        built = training_set if isinstance(training_set, TrainingSet) else TrainingSet.open(training_set)
        names = (source.name for source in built.manifest.sources)
        return look_for_leaks(
            built,
            label,
            label_time=label_time,
            sources=self._catalog.sources(names),
            settings=self._settings,
            rows=rows,
        )

    def policy(self, service: str) -> PolicyConfig:
        """Return what is allowed of a service: what the configuration says, else its definition, else the default.

        Args:
            service: Name of the service; it need not be applied.

        Raises:
            ConfigError: A policy, also another service's, names what there is not.
        """
        from featurestore.guard.policies import policy_of

        return policy_of(service, self.config, self._catalog.services())

    def gate(
        self,
        training_set: str | os.PathLike[str],
        *,
        max_audit_age: timedelta | str | None = None,
        max_state_age: timedelta | str | None = None,
    ) -> Gate:
        """Tell whether what would be served now is what a training set was made of.

        Looked at are the definition, the columns of answers, the columns of sources, whether the set was built with
        hindsight, online state, and the verdict of the last audit of what was served and how old that is.

        Args:
            training_set: Its folder, or its manifest's file.
            max_audit_age: How long ago the newest answers that were audited may have been given; what the configuration
                says (7 days) if ``None``.
            max_state_age: Up to how long ago the state of views with ``continuous()`` must be complete; what the
                configuration says (1 day) if ``None``.

        Returns:
            The checks and the verdict.

        Raises:
            TrainingSetError: There is no training set, or its manifest is damaged.
        """
        from featurestore.guard.release.gate import Gatekeeper
        from featurestore.offline.dataset import read_manifest

        gatekeeper = Gatekeeper(self._catalog, self._registry, self._online, self._settings, self._live_plans.plan)
        manifest = read_manifest(training_set)
        policy = self.policy(manifest.service)
        return gatekeeper.look(
            manifest,
            max_audit_age_us=duration_us(policy.max_audit_age if max_audit_age is None else max_audit_age),
            max_state_age_us=duration_us(policy.max_state_age if max_state_age is None else max_state_age),
            now_us=self._clock.now_us(),
        )

    def certificates(self, service: str | None = None, *, limit: int = 100) -> tuple[Certificate, ...]:
        """Return what verifications found, newest first.

        Args:
            service: Of this service only; of all if ``None``.
            limit: At most so many.
        """
        from featurestore.guard.release.certificate import Certificate

        found = self._registry.certificates(service, limit=limit)
        return tuple(Certificate.from_json(record.document) for record in found)

    def audit_foreign(
        self,
        service: str,
        log: Any,
        mapping: ForeignMapping | str | os.PathLike[str],
        *,
        since: Instant | timedelta | None = None,
        until: Instant | timedelta | None = None,
        sample: float | None = None,
        policy: Policy | None = None,
        by: Sequence[str] = (),
        causes: bool = True,
        explain_rows: int | None = None,
        mismatches: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> AuditReport:
        """Compare what another system served with what training sets hold at the same instants, to the bit.

        Args:
            service: Name of the service whose definitions say what the features are.
            log: What was served: a Parquet or CSV file or glob, the SQLAlchemy URL of a database, or a frame (pandas,
                Polars, pyarrow: whatever a ``FrameSource`` takes).
            mapping: Which column holds what: a TOML file, or the same as an object.
            since: First ``as_of`` to compare: an instant, or how long before now; the log's first if ``None``.
            until: One past the last; the log's last included if ``None``.
            sample: Share of the entities to look at, chosen by a hash of their key; ``None`` looks at all.
            policy: What is allowed; by default what configuration and definition say, else nothing but equality.
            by: Keys or request inputs to look for slices in.
            causes: Whether to prove why values differ.
            explain_rows: Of how many rows that differ, as in ``audit``.
            mismatches: Folder that receives every value that differs as Parquet, with its cause.
            progress: Is told what is being done, how far it is, and how far it will go if that is known.

        Returns:
            The judged report; it is also kept in the registry. What the log does not say is not compared.

        Raises:
            UnknownServiceError: No service of that name is applied.
            ConfigError: The mapping is unreadable, or does not fit the service.
            SourceError: The log cannot be read, lacks a column, or holds what is no value of a feature.
        """
        from featurestore.guard.audit.foreign import ForeignMapping, read_mapping
        from featurestore.guard.comparing.sampling import check_rows, check_share

        now_us = self._clock.now_us()
        return self._auditor.audit_foreign(
            service,
            os.fspath(log) if isinstance(log, os.PathLike) else log,
            mapping if isinstance(mapping, ForeignMapping) else read_mapping(mapping),
            since_us=None if since is None else moment_us(since, now_us=now_us, where="since"),
            until_us=None if until is None else moment_us(until, now_us=now_us, where="until"),
            policy=policy or self._allowed(service),
            sample=check_share(sample),
            by=by,
            causes=causes,
            explain_rows=check_rows(explain_rows),
            mismatches=None if mismatches is None else Path(mismatches),
            progress=progress,
        )

    def audit_live(
        self,
        service: str,
        entities: int = 1_000,
        *,
        policy: Policy | None = None,
        causes: bool = True,
        mismatches: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> AuditReport:
        """Ask both roads about some entities at the present instant, and compare their answers to the bit.

        Entities are chosen by a hash of their key from those that sources and the serving log know, evenly from those
        that online state answers in different ways (known, expired, not found) and that were updated at different
        times. What is asked goes to no log.

        Args:
            service: Name of the service.
            entities: How many to ask about.
            policy: What is allowed; by default what configuration and definition say, else nothing but equality.
            causes: Whether to prove why values differ.
            mismatches: Folder that receives every value that differs as Parquet, with its cause.
            progress: Is told what is being done, how far it is, and how far it will go.

        Returns:
            The judged report; it is also kept in the registry.

        Raises:
            UnknownServiceError: No service of that name is applied.
            StateError: A view has no online state.
            SourceError: A source cannot give its rows.
            StorageError: The serving log or the online store cannot be read.
        """
        return self._auditor.audit_live(
            service,
            entities,
            policy=policy or self._allowed(service),
            causes=causes,
            mismatches=None if mismatches is None else Path(mismatches),
            progress=progress,
        )

    def audits(self, service: str | None = None, *, limit: int = 100) -> tuple[AuditRecord, ...]:
        """Return the audits that the registry keeps, newest first.

        Args:
            service: Of this service only.
            limit: At most so many.
        """
        return self._registry.audits(service, limit=limit)

    def audit_report(self, number: int) -> AuditReport:
        """Return the report of an audit that the registry keeps.

        Args:
            number: The audit's number there.

        Raises:
            RegistryError: There is no such audit, or its report is of a form that this library does not read.
        """
        from featurestore.guard.audit.report import AuditReport

        return replace(AuditReport.from_json(self._registry.audit(number).report), id=number)

    def alert(self, report: AuditReport | DriftReport) -> str:
        """Tell the configured people what an audit, or a comparison of distributions, found, if it is news to them.

        What they know is kept apart for the log, live audits and logs of other systems, and by the share of entities:
        an audit of a tenth does not say that what a full one found is over.

        Args:
            report: The judged report.

        Returns:
            ``"delivered"``, ``"undelivered"`` if a way to tell them failed, or nothing if there was nothing to tell.

        Raises:
            RegistryError: The registry failed.
        """
        from featurestore.guard.alerts import Alerts, news_of_audit, news_of_drift
        from featurestore.guard.audit.report import AuditReport

        news = news_of_audit(report) if isinstance(report, AuditReport) else news_of_drift(report)
        return Alerts(self.config.alerts, self._registry, self._clock).tell(news)

    def drift(
        self,
        service: str,
        *,
        reference: str | os.PathLike[str] | TrainingSet | tuple[Instant | timedelta, Instant | timedelta],
        current: tuple[Instant | timedelta, Instant | timedelta | None] = ("24h", None),
        policy: DriftPolicy | None = None,
        recompute: bool = False,
        record: bool = True,
    ) -> DriftReport:
        """Compare the distributions of what was served with those of a training set or of another period.

        Args:
            service: Name of the service.
            reference: A training set or its folder; the path of its manifest alone, whose profiles are coarser; or
                another period of what was served, first ``as_of`` and one past the last: instants, or how long before
                now.
            current: First ``as_of`` of the answers to compare, and one past the last; ``None`` is now.
            policy: What is drift; by default what the configuration says, else what chance does not explain and is
                large enough to matter.
            recompute: Whether to recompute what was served, and split every distance from a training set into the part
                of skew and the part of the population.
            record: Whether the registry keeps the report.

        Returns:
            The judged report.

        Raises:
            UnknownServiceError: No service of that name is applied.
            InstantError: A bound is no instant, or the last is not after the first.
            TrainingSetError: There is no training set, or it is another service's.
            SourceError: A source cannot give its rows.
            StorageError: The serving log cannot be written or read.
        """
        from featurestore.guard.drift.drifter import configured

        now_us = self._clock.now_us()
        since_us, until_us = _period(*current, now_us=now_us, where="current")
        return self._drifter.drift(
            service,
            reference=_period(*reference, now_us=now_us, where="reference")
            if isinstance(reference, tuple)
            else reference,
            since_us=since_us,
            until_us=until_us,
            policy=policy or configured(self.policy(service)),
            recompute=recompute,
            record=record,
        )

    def drifts(self, service: str | None = None, *, limit: int = 100) -> tuple[DriftRecord, ...]:
        """Return the comparisons of distributions that the registry keeps, newest first.

        Args:
            service: Of this service only.
            limit: At most so many.
        """
        return self._registry.drifts(service, limit=limit)

    def drift_report(self, number: int) -> DriftReport:
        """Return the report of a comparison of distributions that the registry keeps.

        Args:
            number: The comparison's number there.

        Raises:
            RegistryError: There is no such comparison, or its report is of a form that this library does not read.
        """
        from featurestore.guard.drift.report import DriftReport

        return replace(DriftReport.from_json(self._registry.drift(number).report), id=number)

    def explain(
        self,
        service: str,
        entity: Mapping[str, Any] | None = None,
        *,
        at: Instant | None = None,
        feature: str | None = None,
        request: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        events: int = 20,
    ) -> Explanation:
        """Say why features of one entity have the values they have, event by event, and what each road says.

        The training road computes the values; the online road is asked at the same instant; and the serving log is
        looked through for a row about this entity and instant. Nothing is logged.

        Args:
            service: Name of the service.
            entity: Key columns by name; may be left out for a request of one entity.
            at: Instant asked about, exclusive; may be left out for a request.
            feature: Column of the answer; ``None`` explains all.
            request: Request inputs; those not given are the logged ones, or null.
            request_id: A request of the serving log: its row is explained, by the plan that answered it.
            events: How many events are listed per feature, of those used and of the others; all are counted.

        Returns:
            The explanation: data, with ``to_json``.

        Raises:
            UnknownServiceError: No service of that name is applied.
            RequestError: A field is missing, unknown or of a wrong type, or no such request was logged.
            InstantError: ``at`` is no instant.
            SourceError: A source cannot give its rows.
            ValueOverflowError: An integer sum does not fit into int64.
            StorageError: The serving log cannot be written or read.
        """
        from featurestore.guard.explain.explain import Explainer

        return Explainer(self._catalog, self._serving_log, self._online, self._settings, self._clock).explain(
            service,
            entity,
            at_us=None if at is None else instant_us(at, where="at"),
            feature=feature,
            request=request,
            request_id=request_id,
            events=events,
        )

    def vitals(self) -> Vitals:
        """Tell how fresh the views are that answer, for monitoring.

        What the online store does not say is in ``store_problem``.

        Raises:
            RegistryError: The views are not known, and the registry cannot be read.
        """
        return self._serving.vitals()

    def problems(self) -> tuple[FeatureStoreError, ...]:
        """Return what is wrong with parts of the store at present, each with what to do; nothing if all is well.

        That is states that are lost or may be dropped, states that hold events which their log has no more, logs whose
        head lies in the future, and a serving log that cannot be written. A part that cannot be asked is named, too.
        """
        found: list[FeatureStoreError] = []
        for part in (self._serving.problems, self._streams.problems):
            try:
                found += part()
            except FeatureStoreError as error:
                found.append(error)
        if self.config.serving_log.enabled and self._serving_log.failure is not None:
            found.append(self._serving_log.failure)
        return tuple(found)

    def logs(self) -> dict[str, LogVitals]:
        """Tell for each source that accepts pushes how far its log goes.

        Raises:
            RegistryError: The registry cannot be read.
            StorageError: The event log cannot be read.
        """
        from featurestore.online.answering.vitals import LogVitals

        ahead_us = self._streams.ahead_us()
        heads = self._streams.heads()
        return {name: LogVitals(head.next_ingest_us, ahead_us.get(name, 0)) for name, head in heads.items()}

    def readiness(self) -> Readiness:
        """Tell which services can be answered online, and load what answering needs; for processes that serve.

        The plans that answer are kept in the data folder from now on, so that a process can start while the registry is
        away.
        """
        return self._serving.readiness()

    def log_backlog(self) -> tuple[int, int]:
        """Return how many served rows wait to be written, and how many were lost because too many waited."""
        if not self.config.serving_log.enabled:
            return 0, 0
        return self._serving_log.waiting_rows, self._serving_log.lost_rows

    def log_failures(self) -> tuple[int, str]:
        """Return how often this process could not write, seal or clear up the serving log, and why it cannot now.

        The reason is empty if the last attempt of each kind succeeded.
        """
        if not self.config.serving_log.enabled:
            return 0, ""
        failure = self._serving_log.failure
        return self._serving_log.failure_count, "" if failure is None else str(failure)

    def check(self) -> None:
        """Make sure that every applied service can be answered online, and load what answering needs.

        Raises:
            StateError: A view has no online state.
            RegistryError: The registry cannot be read.
            StorageError: The online store cannot be read.
        """
        self._serving.check()

    def close(self) -> None:
        """Write what waits to be written, and close files and connections; the next use opens them again.

        Every part is closed, also after one that fails.

        Raises:
            FeatureStoreError: The first failure, once all parts are closed; later ones are logged.
        """
        with self._making:
            parts = [(name, self.__dict__.pop(name)) for name in _CLOSING_ORDER if name in self.__dict__]
        failure: BaseException | None = None
        for name, part in parts:
            try:
                if hasattr(part, "close"):
                    part.close()
            except BaseException as error:
                if failure is None:
                    failure = error
                else:
                    _LOGGER.warning("closing %s failed as well: %s", name.lstrip("_"), error)
        if failure is not None:
            raise failure

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.config.folder)!r})"

    @_Part
    def _registry(self) -> Registry:
        from featurestore.registry import Registry

        return Registry(self.config.registry)

    @_Part
    def _catalog(self) -> Catalog:
        from featurestore.registry.catalog import Catalog

        return Catalog(
            self._registry,
            settings=self._settings,
            clock=self._clock,
            module=self.config.definitions,
            folder=self.config.folder,
        )

    @_Part
    def _settings(self) -> ReadSettings:
        from featurestore.sources import ReadSettings

        return ReadSettings(
            threads=self.config.threads,
            memory_bytes=self.config.memory_limit,
            temp_folder=self.config.temp_folder,
            base_folder=self.config.source_folder,
            event_log=self._event_log,
        )

    @_Part
    def _event_log(self) -> EventLog:
        from featurestore.sources.event_log import EventLog

        return EventLog(self.config.event_log, self.config.data / "event_log", is_shared=self.config.data_is_shared)

    @_Part
    def _streams(self) -> Streams:
        from featurestore.online.pushing import Streams

        return Streams(
            self._catalog,
            self._online,
            self._event_log,
            to_follow=lambda: self._live_plans.to_follow(keep=self.config.schedule.keep_plans),
            settings=self._settings,
            clock=self._clock,
            began=lambda: self._record_live("push", _who(None)),
        )

    @_Part
    def _online(self) -> OnlineStore:
        from featurestore.online.stores.opening import open_online_store

        return open_online_store(self.config.online)

    @_Part
    def _serving_log(self) -> ServingLog:
        from featurestore.serving_log import ServingLog

        settings = self.config.serving_log
        return ServingLog(
            self.config.data / "serving_log",
            clock=self._clock,
            interval_seconds=settings.flush_seconds,
            share=settings.share,
            retention_days=settings.retention_days,
            written=self._data_folders.note_use,
        )

    @_Part
    def _data_folders(self) -> DataFolders:
        from featurestore.registry.data_folders import DataFolders

        return DataFolders(self.config.registry, self.config.data, self._clock)

    @_Part
    def _serving(self) -> Serving:
        from featurestore.online.answering.known_plans import KnownPlans
        from featurestore.online.answering.serving import Serving

        log = self._serving_log if self.config.serving_log.enabled else None
        return Serving(
            lambda: self._catalog,
            lambda: self._live_plans,
            self._online,
            log,
            self._clock,
            KnownPlans(self.config.data / "serving", self.config.registry),
        )

    @_Part
    def _auditor(self) -> Auditor:
        from featurestore.guard.audit.auditor import Auditor

        return Auditor(
            self._catalog,
            self._registry,
            self._serving_log,
            self._online,
            self._settings,
            self._clock,
            self._data_folders,
        )

    @_Part
    def _drifter(self) -> Drifter:
        from featurestore.guard.drift.drifter import Drifter

        return Drifter(self._catalog, self._registry, self._serving_log, self._settings, self._clock)

    @_Part
    def _live_plans(self) -> LivePlans:
        from featurestore.online.answering.live import LivePlans

        return LivePlans(self._catalog, self._registry, self._online, self._clock)

    def _allowed(self, service: str) -> Policy:
        from featurestore.guard.audit.auditor import configured

        return configured(self.policy(service))

    def _plans_changed(self, changes: Changes, who: str) -> None:
        """Let the next question ask which plans are live, and record those that are at once, if any can be."""
        self._forget()
        recorded = self._registry.live()
        if any(change.name in recorded and change.outcome != "unchanged" for change in changes):
            self._record_live("apply", who)

    def _record_live(self, verb: str, who: str) -> None:
        """Record which plans went live by themselves. What fails is recorded by the next verb that does so."""
        try:
            self._live_plans.record(verb, changed_by=who)
        except FeatureStoreError as error:
            _LOGGER.warning("which plans went live could not be recorded: %s", error)

    def _forget(self) -> None:
        """Let the next question ask which plans are live."""
        for part in ("_serving", "_streams"):
            if part in self.__dict__:
                self.__dict__[part].forget()

    def _views_to_fold(self, names: Iterable[str] | None) -> tuple[ViewPlan, ...]:
        known = self._catalog.views()
        wanted = None if names is None else list(dict.fromkeys(names))
        for name in wanted or ():
            if name not in known:
                hint = listing("Views", known, wrong=name)
                raise RegistryError(f"there is no view '{name}'", where="registry", hint=hint, code="unknown-view")
        return self._live_plans.to_refresh(wanted)


def _who(by: str | None) -> str:
    """Return who acts: the given name, else the user of the process."""
    from featurestore.online.answering.live import acting_user

    return by or acting_user()


def _period(
    since: Instant | timedelta, until: Instant | timedelta | None, *, now_us: int, where: str
) -> tuple[int, int]:
    """Read a period: its first instant, and one past the last.

    Raises:
        InstantError: A bound is no instant, or the last is not after the first.
    """
    first_us = moment_us(since, now_us=now_us, where=f"{where}, since")
    last_us = now_us + 1 if until is None else moment_us(until, now_us=now_us, where=f"{where}, until")
    check_period(first_us, last_us, where=where)
    return first_us, last_us
