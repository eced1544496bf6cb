"""The feature store as users hold it: it holds parts, and its verbs hand the work to them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from featurestore.config import FILE_NAME, Config
from featurestore.core.answers import OnlineFeatures, OnlineQuestion
from featurestore.core.errors import FeatureStoreError, RegistryError, unknown_view
from featurestore.core.temporal import Clock, Instant, instant_us
from featurestore.definitions.sources import Source
from featurestore.guard.verbs import GuardVerbs
from featurestore.offline.dataset import TrainingSet
from featurestore.offline.training_set import build_training_set
from featurestore.online.answering.health import LogVitals, Readiness, Vitals
from featurestore.online.answering.live import Removed, ServiceState, acting_user
from featurestore.online.filling.materialize import ViewRun
from featurestore.online.filling.runs import materialize, refresh_kept
from featurestore.online.forgetting import Forgotten, forget
from featurestore.online.pushing import PushResult
from featurestore.parts import CLOSING_ORDER, Parts
from featurestore.plan.model import Plan, ViewPlan
from featurestore.registry import Live, LiveChange, Registry, RunRecord
from featurestore.registry.api_keys import ApiKeys
from featurestore.registry.catalog import Changes
from featurestore.sources import read_schema
from featurestore.sources.event_files import read_events
from featurestore.storage import Hold
from featurestore.storage.progress import Progress, listening

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


class FeatureStore(GuardVerbs):
    """A feature store.

    Several threads may use it. Close it in the end, or use it as a context manager.

    Attributes:
        parts: Its parts, made when they are first used; for tests, and for programs that extend the store.
    """

    def __init__(self, config: Config, *, clock: Clock | None = None, parts: Parts | None = None) -> None:
        """Store the configuration; nothing is opened yet.

        Args:
            config: Where things are kept.
            clock: Returns the present instant; the machine's clock if ``None``.
            parts: The parts, if some of them exist already; then their clock counts.
        """
        self.parts = parts or Parts(config, clock=clock)

    @classmethod
    def open(cls, path: str | os.PathLike[str] = FILE_NAME, *, clock: Clock | None = None) -> FeatureStore:
        """Open the store that a configuration file describes.

        Args:
            path: The file, or the folder it lies in.
            clock: Returns the present instant; the machine's clock if ``None``.

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
            clock: Returns the present instant; the machine's clock if ``None``.

        Raises:
            ConfigError: An override in the environment is wrong.
        """
        return cls(Config.local(folder), clock=clock)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Name the verb of this store for a verb of Feast; return a part by its former private name."""
            if name in _VERBS_OF_FEAST:
                raise AttributeError(f"FeatureStore has no attribute '{name}'. {_VERBS_OF_FEAST[name]}")
            if name.startswith("_") and name[1:] in CLOSING_ORDER:
                return getattr(self.parts, name[1:])
            return object.__getattribute__(self, name)

    @property
    def config(self) -> Config:
        """Where the store keeps things and what it may use."""
        return self.parts.config

    @property
    def clock(self) -> Clock:
        """What returns the present instant."""
        return self.parts.clock

    @property
    def api_keys(self) -> ApiKeys:
        """The API keys of the server."""
        return self.parts.api_keys

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
            definitions: Modules, definitions, and iterables of these, together with the definitions they refer to.
                Without any, the configured definitions module is applied.
            remove: Names of services, views and sources to remove: ``"name"``, or ``"view:name"`` for one kind only.
                Their online state stays until ``gc`` deletes it. Until then ``restore``, or applying them again, undoes
                the removal.
            prune: Whether to remove everything that is not among the definitions. Only for programs that own the whole
                registry: it removes the definitions of other teams as well.
            promote: When changed services answer by their new plans. ``"auto"``: as soon as these have online state.
                ``False``: not before ``promote`` is called. ``True``: at once, together with every other applied plan
                that is not live yet. A plan that was rolled back from goes live only by ``promote``.
            by: The user who applies, for the history of live plans; ``user@host`` if ``None``.

        Returns:
            The changes, with fingerprints, and the definitions that stay applied although the modules lack them.

        Raises:
            DefinitionError: The definitions hold mistakes; the message names all of them. Nothing was changed.
            SourceError: The columns of a source cannot be read.
            RegistryError: A name to remove was never applied (``unknown-name``), is among the definitions
                (``still-defined``) or is used by what stays (``still-used``); or the registry failed. Nothing was
                changed.
            StateError: A plan to promote has no online state yet. It is applied, and the old plan still answers.
        """
        sources = definitions or (self.parts.catalog.import_definitions(),)
        pinned = None if promote == "auto" else self.parts.live_plans.kept()
        user = _acting(by)
        if self.parts.registry.live():  # a process that died may have left a change unrecorded: its plan is live now
            self.parts.live_plans.record("materialize", changed_by=user)
        changes = self.parts.catalog.apply(sources, prune=prune, remove=remove, kept_live=pinned, changed_by=user)
        self._plans_changed(changes, user)
        if promote is True:
            for state in self.status():
                if state.is_pending and not state.is_withdrawn:
                    self.promote(state.service, by=by)
        return changes

    def restore(self, name: str, *, by: str | None = None) -> Changes:
        """Undo the removal of a service, view or source, and of the removed definitions that it needs.

        A service answers at once by the plan that was live when it was removed, if that plan still has online state.
        ``gc`` keeps the state for 7 days after the removal.

        Args:
            name: Its name; ``"view:name"`` for one kind only.
            by: The user who restores, for the history of live plans; ``user@host`` if ``None``.

        Raises:
            RegistryError: No definition of that name was removed (``unknown-removed``), or a view or source that it
                needs has changed since (``restore-conflict``). Nothing was changed.
        """
        user = _acting(by)
        changes = self.parts.catalog.restore(name, changed_by=user)
        self._plans_changed(changes, user)
        return changes

    def promote(self, service: str, *, by: str | None = None) -> Live:
        """Let a service answer by its applied plan from now on. All processes switch within a second.

        Args:
            service: Name of the service.
            by: The user who promotes, for the history; ``user@host`` if ``None``.

        Raises:
            UnknownServiceError: No service of that name is applied.
            StateError: A view has no online state; the message names it. Nothing was changed.
            RegistryError: The registry failed; nothing was changed.
        """
        live = self.parts.live_plans.promote(service, changed_by=_acting(by))
        self._discard_live_plans()
        return live

    def rollback(self, service: str, *, by: str | None = None) -> Live:
        """Let a service answer by the plan that was live before. The switch is one step, as in ``promote``.

        ``materialize`` refreshes that plan again from then on. The applied definitions do not change. The plan that was
        left does not become live again by ``apply`` or ``materialize``, only by ``promote``. A second call goes back
        one plan further.

        Args:
            service: Name of the service.
            by: The user who rolls back, for the history; ``user@host`` if ``None``.

        Raises:
            UnknownServiceError: No service of that name is applied.
            StateError: No earlier plan was live, or its online state has been deleted. Nothing was changed.
            RegistryError: The registry failed; nothing was changed.
        """
        live = self.parts.live_plans.rollback(service, changed_by=_acting(by))
        self._discard_live_plans()
        return live

    def live_changes(self, service: str | None = None, *, limit: int = 100) -> tuple[LiveChange, ...]:
        """Return the changes of live plans, newest first: when, from which plan to which, by which verb and user.

        Args:
            service: Changes of this service only. The registry keeps the newest thousand of each.
            limit: At most so many.

        Raises:
            UnknownServiceError: The service is not applied and has no history.
        """
        changes = self.parts.registry.live_changes(service, limit=limit)
        if service is not None and not changes:
            self.parts.catalog.plan(service)
        return changes

    def status(self) -> tuple[ServiceState, ...]:
        """Return for each applied service its live plan, its applied plan, and how far their views are filled."""
        return self.parts.live_plans.status()

    def gc(self, *, dry_run: bool = False, keep: int = 1) -> tuple[Removed, ...]:
        """Remove online state that is needed by no plan that is live, applied, or kept for a rollback.

        Args:
            dry_run: Whether only to report what would be removed.
            keep: How many earlier live plans of each service are kept. Unless it is 0, the states of services and views
                that were removed in the last 7 days are kept as well.

        Returns:
            The states that were removed, and those left in place because a run is updating them.

        Raises:
            StateError: Another process has been promoting, rolling back or removing for half a minute.
            StorageError: The online store cannot be written; a second call completes the work.
        """
        return self.parts.live_plans.remove_unused(dry_run=dry_run, keep=keep)

    def plan(self, service: str) -> Plan:
        """Return the compiled plan of an applied service.

        Raises:
            UnknownServiceError: No service of that name is applied.
        """
        return self.parts.catalog.plan(service)

    @property
    def registry(self) -> Registry:
        """The registry, for programs that keep their own records in it."""
        return self.parts.registry

    @property
    def takes_pushes(self) -> bool:
        """Whether any applied source accepts pushes."""
        return bool(self.parts.catalog.streams())

    def exclusive(self, name: str) -> AbstractContextManager[Hold]:
        """Hold a lease on a name among all processes that share the registry; the hold reports whether it still has it.

        Raises:
            StateError: Another process holds it (``code`` is ``"busy"``), or the lease was lost before it was released
                (``"lease-lost"``).
            RegistryError: The registry cannot be read.
        """
        return self.parts.registry.exclusive(name)

    def services(self) -> tuple[Plan, ...]:
        """Return the plans of all applied services, sorted by name."""
        return tuple(plan for _, plan in sorted(self.parts.catalog.services().items()))

    def views(self) -> tuple[ViewPlan, ...]:
        """Return the plans of all applied views, sorted by name."""
        return tuple(view for _, view in sorted(self.parts.catalog.views().items()))

    @property
    def keeps_time(self) -> bool:
        """Whether online state is read within the time that ``featurestore.online.stores.deadline`` allows."""
        return self.parts.serving.store.keeps_time

    def service_names(self) -> tuple[str, ...]:
        """Return the names of the applied services, sorted; the cached ones if the registry cannot be reached.

        Raises:
            RegistryError: The registry cannot be read, and the data folder holds no cached plans yet.
        """
        return self.parts.serving.names()

    def live_services(self) -> tuple[Plan, ...]:
        """Return the live plans of all services, sorted by name.

        A live plan is the applied one unless that waits for online state or for ``promote``. A change by another
        process is seen within a second.
        """
        return self.parts.serving.services()

    def live_plan(self, service: str, *, expected_fingerprint: str | None = None) -> Plan:
        """Return the plan that answers a service, for a caller that expects a certain plan or any.

        Raises:
            UnknownServiceError: No service of that name is applied.
            FingerprintMismatchError: Another plan is live, and the expected one has no online state.
            UnknownUdfError: The plan needs a function that this process does not have.
        """
        return self.parts.serving.plan(service, expected_fingerprint)

    def live_views(self) -> tuple[ViewPlan, ...]:
        """Return the live plans of views that are asked by themselves, sorted by name."""
        return self.parts.serving.views()

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
        progress: bool | Progress | None = None,
    ) -> TrainingSet:
        """Build a training set: a service's features for each row of a spine, at the row's own instant.

        Args:
            service: Name of the service.
            spine: The rows to fill: a pandas or Polars frame, a pyarrow table, a DuckDB relation, any object with
                ``__arrow_c_stream__``, the path of a Parquet file, or a ``SqlSpine``. It has the key columns, the
                column of instants that ``as_of`` names, and the request inputs. Other columns pass through.
            path: The folder to write. If it exists, it must be empty or hold a training set to replace.
            hindsight: Whether to treat every event as known from its event time on, for analysis only.
            statuses: Whether to add a column of statuses for each feature.
            as_of: Column of the spine that holds the instants. It keeps its name.
            as_of_unit: What numbers in ``as_of`` count since 1970: ``"s"``, ``"ms"``, ``"us"`` or ``"ns"``; ``None``
                refuses numbers.
            overwrite: Whether to replace an existing training set, in one step. Readers find the old one or the new
                one, even if the process is killed.
            progress: Whether to show progress on standard error; ``None`` does so if that is a terminal. A function is
                called instead with the step, the rows done and the rows to do.

        Returns:
            The training set: exactly the spine's rows in the spine's order.

        Raises:
            UnknownServiceError: No service of that name is applied.
            SpineError: The spine cannot be used; the message names the column and the fix.
            SourceError: A source cannot be read, or was rewritten during the build.
            ConfigError: A source was a frame of another process; apply it again.
            StorageError: A training set exists and ``overwrite`` is false (``target-exists``), or the target cannot be
                written. Nothing is left behind.
        """
        plan = self.parts.catalog.plan(service)
        with listening(progress, opening="reading the spine") as report_progress:
            return build_training_set(
                plan,
                spine,
                path,
                sources=self.parts.catalog.sources(use.view.source.name for use in plan.uses),
                settings=self.parts.settings,
                clock=self.parts.clock,
                hindsight=hindsight,
                statuses=statuses,
                as_of=as_of,
                as_of_unit=as_of_unit,
                overwrite=overwrite,
                progress=report_progress,
            )

    def materialize(
        self,
        until: Instant | None = None,
        views: Iterable[str] | None = None,
        *,
        full: bool = False,
        wait_seconds: float = 0,
        progress: Progress | None = None,
        by: str | None = None,
    ) -> tuple[ViewRun, ...]:
        """Fold the events of sources into online state, as far as they became known before an instant.

        Several views are updated in parallel; one that fails does not stop the others. The registry records every run
        with counts, times and its outcome. Earlier plans that are kept for a rollback are refreshed last; a failure of
        theirs is logged and is not an error.

        Args:
            until: Exclusive bound of ingest times; the present instant if ``None``. A later instant counts as the
                present one, because the future is not complete.
            views: Names of views; ``None`` means all applied ones, and those that still serve.
            full: Whether to fold all events again instead of the new ones.
            wait_seconds: How long to wait for another run on a view; by default the call is refused at once.
            progress: Called from several threads with the name of a view, the events folded and the events to fold.
            by: The user who materializes, for the history of live plans; ``user@host`` if ``None``.

        Returns:
            One result per view.

        Raises:
            RegistryError: No view of that name is applied.
            SourceError: A source cannot be read.
            StateError: Another process is updating the view.
            StorageError: The online store cannot be written; a second run completes the work.
        """
        views = None if views is None else list(views)
        now_us = self.parts.clock.now_us()
        until_us = now_us if until is None else min(now_us, instant_us(until, where="until"))
        try:
            runs = materialize(
                self._views_to_fold(views),
                catalog=self.parts.catalog,
                registry=self.parts.registry,
                store=self.parts.online,
                settings=self.parts.settings,
                clock=self.parts.clock,
                until_us=until_us,
                full=full,
                wait_seconds=wait_seconds,
                progress=progress,
            )
        finally:  # the plans of the views that did not fail may go live
            self._discard_live_plans()
            self.parts.live_plans.record("materialize", changed_by=_acting(by))
        refresh_kept(
            self.parts.live_plans.kept_views(
                self.parts.catalog.views().keys() if views is None else set(views),
                keep=self.config.schedule.keep_plans,
            ),
            catalog=self.parts.catalog,
            registry=self.parts.registry,
            store=self.parts.online,
            settings=self.parts.settings,
            clock=self.parts.clock,
            until_us=until_us,
            full=full,
        )
        return runs

    def runs(self, view: str | None = None, *, limit: int = 100) -> tuple[RunRecord, ...]:
        """Return the runs of ``materialize``, newest first, including failed ones.

        Args:
            view: Runs of this view only.
            limit: At most so many.
        """
        return self.parts.registry.runs(view, limit=limit)

    def forget(self, entity: str, keys: Mapping[str, Any], *, wait_seconds: float = 60) -> Forgotten:
        """Remove all records of an entity: online states, pushed events, dead letters and rows of the serving log.

        Sources, views and services that were removed count as well. Files and tables that sources read are not changed;
        the result names them, and the data folders of other machines. The next run rebuilds the views that read them,
        with the events of the entity that exist then, or without the entity.

        Args:
            entity: Name of the entity.
            keys: Its key columns.
            wait_seconds: How long to wait for a run on a view to end.

        Returns:
            The counts of removed records, and the places that may still hold some.

        Raises:
            RequestError: The entity does not exist, or the keys are not its key columns.
            StateError: A run on a view did not end in time; forget again.
            StorageError: A log or the online store cannot be written; forget again.
        """
        return forget(
            entity,
            keys,
            catalog=self.parts.catalog,
            registry=self.parts.registry,
            store=self.parts.online,
            settings=self.parts.settings,
            served=self.parts.serving_log,
            data=self.config.data,
            folders=self.parts.data_folders,
            wait_seconds=wait_seconds,
        )

    def note_data_folder(self) -> None:
        """Register, in the background, that this process uses its data folder.

        Commands on other machines can then name it: it holds a serving log and dead letters.
        """
        self.parts.data_folders.note_use()

    def source(self, name: str) -> Source:
        """Return the definition of an applied source.

        Raises:
            RegistryError: No source of that name is applied.
            ConfigError: Its definition is not stored, and no definitions module is configured.
        """
        return self.parts.catalog.sources([name])[name]

    def push(
        self, source: str, events: Any, *, partial: bool = False, idempotency_key: str | None = None
    ) -> PushResult:
        """Push events to a source declared ``stream=True``.

        Args:
            source: Name of the source.
            events: A list of mappings from column to value, or a frame. Every event has the columns that views read.
                The log assigns the ingest time.
            partial: Whether to accept the valid rows if others are invalid; by default no row is accepted then.
            idempotency_key: A name for this push, so that it can be repeated: the same key with the same events is
                accepted once and gets the same answer. The log keeps a key for at least a day.

        Returns:
            The outcome for the events. They are committed now: a crash does not lose them, training sets see them, and
            online state has them or catches up.

        Raises:
            RequestError: The source does not accept pushes, a row is invalid (``field`` points at it), or the
                idempotency key was used for other events (``idempotency-key-reused``). No event was accepted.
            StorageError: The log cannot be written, and no event was accepted. Only the code ``push-outcome-unknown``
                means that the events may have been accepted: push them again with the same idempotency key.
        """
        return self.parts.streams.push(source, events, partial=partial, idempotency_key=idempotency_key)

    def push_file(
        self, source: str, path: str | os.PathLike[str], *, partial: bool = False
    ) -> Iterator[tuple[int, PushResult]]:
        """Push the events of a file in batches of some thousand.

        Args:
            source: Name of the source.
            path: Parquet, CSV, or lines of JSON (``.jsonl``, ``.ndjson``), by its suffix. The text of CSV is read in
                the dtypes of the source.
            partial: Whether to accept the valid rows of a batch if others are invalid; by default none is then.

        Yields:
            After each batch the number of its first row in the file, from 0, and the outcome.

        Raises:
            SourceError: The file cannot be read. Batches pushed before stay, here and below.
            RequestError: The source does not accept pushes, or a row is invalid.
            StorageError: The log cannot be written.
        """
        self.push(source, [])
        definition, row = self.source(source), 0
        for events in read_events(
            Path(path), definition, read_schema(definition, self.parts.settings), self.parts.settings
        ):
            yield row, self.push(source, events, partial=partial)
            row += len(events)

    def catch_up(self) -> int:
        """Fold the pushed events that online state lacks, and return their number, counted once per view.

        A push does this itself. This call is for events that a crash, or an online store that was down, left unfolded,
        and it advances the watermark of lookups to the present although nothing was pushed.

        Raises:
            StateError: A stored state is damaged.
            StorageError: The log or the online store cannot be used.
        """
        return self.parts.streams.catch_up()

    def start_following(self, interval_seconds: float = 1.0) -> None:
        """Call ``catch_up`` now and at an interval, in the background, until the store is closed.

        A process that serves calls this once. Its lookups are then complete up to the present instant and include
        events that other processes pushed.
        """
        self.parts.streams.start(interval_seconds)
        self.parts.serving.watch.start()

    def compact(self, source: str | None = None, *, before: Instant | None = None) -> dict[str, int]:
        """Move pushed events from the log's database to Parquet files under the data folder.

        Args:
            source: Name of the source; all if ``None``.
            before: Only events with an earlier ingest time; all if ``None``.

        Returns:
            The number of moved events by source. No value changes before, during or after the move.

        Raises:
            RequestError: The source does not accept pushes.
            ConfigError: Other processes that use the log might not see the data folder (``data-not-shared``), or
                events that were moved before are not in it (``other-data-folder``). Nothing was moved.
            StorageError: A file or the database cannot be written.
        """
        before_us = self.parts.clock.now_us() if before is None else instant_us(before, where="before")
        return self.parts.streams.compact(source, before_us=before_us)

    def repair_log(self, source: str | None = None) -> dict[str, int]:
        """Repair logs whose head lies in the future, and rebuild the states made from them.

        A clock that was ahead gives events ingest times in the future; the log then refuses pushes
        (``log-head-ahead``). Such events get the present as their ingest time, in their order.

        Args:
            source: Name of the source; all if ``None``.

        Returns:
            The number of events with a new ingest time, by source.

        Raises:
            RequestError: The source does not accept pushes.
            StorageError: The log cannot be written, or events of the future were compacted.
        """
        ahead = {name for name, ahead_us in self.parts.streams.ahead_us().items() if ahead_us > 0}
        moved = self.parts.streams.redate(source)
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
            entities: One mapping per row of the answer: key columns to values of exactly their dtypes.
            request: Request inputs by name: one mapping for all entities, or one per entity.
            as_of: The instant of the answer, exclusive; the present one if ``None``.
            expected_fingerprint: The plan that the caller's model was trained on. It answers, live or not, as long as
                it has online state; else the call fails. Without it the live plan answers.
            request_id: Name of the request in the serving log; generated if ``None``.
            partial: Whether to answer if some views cannot: their values are null with status ``ERROR``, and ``errors``
                gives the reasons. Such an answer is not logged. If no view can answer, the call fails.
            model: Name of the calling model, for the serving log.
            model_version: Its version.

        Returns:
            Values and statuses in the order of ``entities``, with event times, and watermarks of the views.

        Raises:
            UnknownServiceError: No service of that name is applied.
            RequestError: A field is missing, unknown or of a wrong type; ``field`` points at it.
            OutOfReachError: ``as_of`` is earlier than the state of a view covers.
            FingerprintMismatchError: Another plan is live, and the expected one has no online state.
            UnknownUdfError: The plan needs a function that this process does not have.
            StateError: A view has no online state, or a damaged one.
            StorageError: The online store cannot be read.
        """
        question = OnlineQuestion(
            service, entities, request, as_of, expected_fingerprint, request_id, partial, model, model_version
        )
        return self.parts.serving.answer(question)

    def get_online_features_together(self, questions: Sequence[OnlineQuestion]) -> list[OnlineFeatures | Exception]:
        """Answer several questions, each as if it had been asked by itself.

        Questions to one service about the same instant, or about the present one, are read and computed as one batch,
        which costs little more than one question. Servers use it to answer many callers.

        Args:
            questions: The questions, in any order.

        Returns:
            Per question its answer, or the error that ``get_online_features`` raises for it. An error of one question
            does not affect the others.
        """
        return self.parts.serving.answer_many(questions)

    def get_online_views(
        self,
        views: Collection[str],
        entities: Sequence[Mapping[str, Any]],
        as_of: Instant | None = None,
        *,
        partial: bool = False,
    ) -> OnlineFeatures:
        """Answer all features of some views for some entities at one instant, without a service.

        Nothing is written to the serving log, so no audit covers the answer. It is for inspection, and for clients that
        know only views.

        Args:
            views: Names of views; their columns are ``view__feature``.
            entities: One mapping per row of the answer: the key columns of all views to values of exactly their dtypes.
            as_of: The instant of the answer, exclusive; the present one if ``None``.
            partial: Whether to answer if some views cannot, as in ``get_online_features``.

        Returns:
            Values and statuses in the order of ``entities``; ``service`` is empty.

        Raises:
            RequestError: A view does not exist, or a field is missing, unknown or of a wrong type.
            OutOfReachError: ``as_of`` is earlier than the state of a view covers.
            StateError: A view has no online state, or a damaged one.
            StorageError: The online store cannot be read.
        """
        return self.parts.serving.answer_views(views, entities, as_of=as_of, partial=partial)

    def vitals(self) -> Vitals:
        """Return how fresh the live views are, for monitoring.

        If the online store cannot be read, ``store_problem`` gives the reason.

        Raises:
            RegistryError: The views are not cached, and the registry cannot be read.
        """
        return self.parts.serving.vitals()

    def problems(self) -> tuple[FeatureStoreError, ...]:
        """Return the present problems of the parts of the store, each with its remedy; empty if there are none.

        Problems are: states that are lost or may be dropped, states with events that their log has lost, logs whose
        head lies in the future, a serving log that cannot be written, and a part that cannot be reached.
        """
        problems: list[FeatureStoreError] = []
        for part in (self.parts.serving.problems, self.parts.streams.problems):
            try:
                problems += part()
            except FeatureStoreError as error:
                problems.append(error)
        if self.config.serving_log.enabled and self.parts.serving_log.failure is not None:
            problems.append(self.parts.serving_log.failure)
        return tuple(problems)

    def logs(self) -> dict[str, LogVitals]:
        """Return for each source that accepts pushes how far its log goes.

        Raises:
            RegistryError: The registry cannot be read.
            StorageError: The event log cannot be read.
        """
        ahead_us = self.parts.streams.ahead_us()
        heads = self.parts.streams.heads()
        return {name: LogVitals(head.next_ingest_us, ahead_us.get(name, 0)) for name, head in heads.items()}

    def readiness(self) -> Readiness:
        """Return which services can be answered online, and load what answering needs; for processes that serve.

        The live plans are cached in the data folder from now on, so that a process can start while the registry cannot
        be reached.
        """
        return self.parts.serving.readiness()

    def log_backlog(self) -> tuple[int, int]:
        """Return how many served rows wait to be written, and how many were lost because too many were waiting."""
        if not self.config.serving_log.enabled:
            return 0, 0
        return self.parts.serving_log.waiting_rows, self.parts.serving_log.lost_rows

    def log_failures(self) -> tuple[int, str]:
        """Return how often this process failed to write, seal or clean the serving log, and the present reason.

        The reason is empty if the last attempt of each kind succeeded.
        """
        if not self.config.serving_log.enabled:
            return 0, ""
        failure = self.parts.serving_log.failure
        return self.parts.serving_log.failure_count, "" if failure is None else str(failure)

    def check(self) -> None:
        """Check that every applied service can be answered online, and load what answering needs.

        Raises:
            StateError: A view has no online state.
            RegistryError: The registry cannot be read.
            StorageError: The online store cannot be read.
        """
        self.parts.serving.check()

    def close(self) -> None:
        """Write pending rows, and close files and connections; the next use opens them again.

        Every part is closed, also after one that fails.

        Raises:
            FeatureStoreError: The first failure, once all parts are closed; later ones are logged.
        """
        self.parts.close()

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.config.folder)!r})"

    def _plans_changed(self, changes: Changes, user: str) -> None:
        """Discard the cached live plans, and record the plans that went live with the change."""
        self._discard_live_plans()
        recorded = self.parts.registry.live()
        if any(change.name in recorded and change.outcome != "unchanged" for change in changes):
            self.parts.live_plans.record("apply", changed_by=user)

    def _discard_live_plans(self) -> None:
        """Discard the cached live plans: the next question reads them again."""
        for part in (self.parts.made("serving"), self.parts.made("streams")):
            if part is not None:
                part.forget()

    def _views_to_fold(self, names: Iterable[str] | None) -> tuple[ViewPlan, ...]:
        known = self.parts.catalog.views()
        wanted = None if names is None else list(dict.fromkeys(names))
        for name in wanted or ():
            if name not in known:
                raise unknown_view(name, known).error(RegistryError, "registry")
        return self.parts.live_plans.to_refresh(wanted)


def _acting(by: str | None) -> str:
    """Return the name of the acting user: the given one, else the user of the process."""
    return by or acting_user()
