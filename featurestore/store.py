"""The feature store as users hold it: it holds parts, and its verbs hand the work to them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from featurestore.config import FILE_NAME, Config
from featurestore.core.answers import OnlineFeatures
from featurestore.core.errors import FeatureStoreError, RegistryError, listing
from featurestore.core.question import OnlineQuestion
from featurestore.core.temporal import Clock, Instant, instant_us
from featurestore.definitions.sources import Source
from featurestore.guard.verbs import GuardVerbs
from featurestore.offline.dataset import TrainingSet
from featurestore.offline.training_set import build_training_set
from featurestore.online.answering.live import Removed, ServiceState, acting_user
from featurestore.online.answering.readiness import Readiness
from featurestore.online.answering.vitals import LogVitals, Vitals
from featurestore.online.filling.materialize import ViewRun
from featurestore.online.filling.runs import FoldProgress, materialize, refresh_kept
from featurestore.online.forgetting import Forgotten, forget
from featurestore.online.pushing import PushResult
from featurestore.parts import Parts
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
        config: Where it keeps things and what it may use.
        parts: Its parts, made when they are first used; for tests, and for programs that extend the store.
    """

    def __init__(self, config: Config, *, clock: Clock | None = None, parts: Parts | None = None) -> None:
        """Store the configuration; nothing is opened yet.

        Args:
            config: Where things are kept.
            clock: Returns the present instant; the machine's clock if ``None``.
            parts: The parts, if some of them exist already; then their clock counts.
        """
        self.config = config
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
            """Say what the store calls the verbs of Feast."""
            if name in _VERBS_OF_FEAST:
                raise AttributeError(f"FeatureStore has no attribute '{name}'. {_VERBS_OF_FEAST[name]}")
            return object.__getattribute__(self, name)

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
        given = definitions or (self.parts.catalog.import_definitions(),)
        kept = None if promote == "auto" else self.parts.live_plans.kept()
        who = _who(by)
        if self.parts.registry.live():  # what a process that died could not record is the plan that stays live now
            self.parts.live_plans.record("materialize", changed_by=who)
        changes = self.parts.catalog.apply(given, prune=prune, remove=remove, kept_live=kept, changed_by=who)
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
        changes = self.parts.catalog.restore(name, changed_by=who)
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
        live = self.parts.live_plans.promote(service, changed_by=_who(by))
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
        live = self.parts.live_plans.rollback(service, changed_by=_who(by))
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
        changes = self.parts.registry.live_changes(service, limit=limit)
        if service is not None and not changes:
            self.parts.catalog.plan(service)
        return changes

    def status(self) -> tuple[ServiceState, ...]:
        """Return for each applied service which plan is live, which is applied, and how far their views are."""
        return self.parts.live_plans.status()

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
        return self.parts.live_plans.remove_unused(dry_run=dry_run, keep=keep)

    def plan(self, service: str) -> Plan:
        """Return the compiled plan of an applied service.

        Raises:
            UnknownServiceError: No service of that name is applied.
        """
        return self.parts.catalog.plan(service)

    @property
    def registry(self) -> Registry:
        """The registry, for programs that keep records of their own in it."""
        return self.parts.registry

    @property
    def takes_pushes(self) -> bool:
        """Whether any applied source accepts pushes."""
        return bool(self.parts.catalog.streams())

    def exclusive(self, name: str) -> AbstractContextManager[Hold]:
        """Hold a name alone among all processes that share the registry; the hold tells whether it still does.

        Raises:
            StateError: Another process holds it (``code`` is ``"busy"``); or, when it is given back, it was lost
                meanwhile (``"lease-lost"``).
            RegistryError: The registry cannot be asked.
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
        """Whether online state is read within the time that ``featurestore.online.stores.patience`` allows."""
        return self.parts.serving.store.keeps_time

    def service_names(self) -> tuple[str, ...]:
        """Return the names of the applied services, sorted; those known last if the registry is away.

        Raises:
            RegistryError: The registry cannot be read, and no process of this data folder has served yet.
        """
        return self.parts.serving.names()

    def live_services(self) -> tuple[Plan, ...]:
        """Return the plans by which services are answered at present, sorted by name.

        They are the applied ones unless these wait for state or for ``promote``; a change in another process is seen
        within a second.
        """
        return self.parts.serving.services()

    def live_plan(self, service: str, *, expected_fingerprint: str | None = None) -> Plan:
        """Return the plan that answers a service, for a caller that expects this plan or any.

        Raises:
            UnknownServiceError: No service of that name is applied.
            FingerprintMismatchError: Another plan is live, and the expected one has no online state.
            UnknownUdfError: The plan needs a function that this process does not have.
        """
        return self.parts.serving.plan(service, expected_fingerprint)

    def live_views(self) -> tuple[ViewPlan, ...]:
        """Return the plans by which views by themselves are answered at present, sorted by name."""
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
        plan = self.parts.catalog.plan(service)
        with listening(progress, opening="reading the spine") as told:
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
        finally:  # a view that failed does not keep the others from going live
            self._forget()
            self.parts.live_plans.record("materialize", changed_by=_who(by))
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
        """Return what materializing did, newest run first, also what failed.

        Args:
            view: Of this view only.
            limit: At most so many.
        """
        return self.parts.registry.runs(view, limit=limit)

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

        So commands on other machines can name it: what was served and dead letters are kept there.
        """
        self.parts.data_folders.note_use()

    def source(self, name: str) -> Source:
        """Return the definition of an applied source.

        Raises:
            RegistryError: No source of that name is applied.
            ConfigError: It is not stored, and no module that defines it is configured.
        """
        return self.parts.catalog.sources([name])[name]

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
        return self.parts.streams.push(source, events, partial=partial, idempotency_key=idempotency_key)

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
        self.push(source, [])
        definition, row = self.source(source), 0
        for events in read_events(
            Path(path), definition, read_schema(definition, self.parts.settings), self.parts.settings
        ):
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
        return self.parts.streams.catch_up()

    def start_following(self, interval_seconds: float = 1.0) -> None:
        """Catch up now and at an interval from now on, in the background, until the store is closed.

        A process that serves calls this once, so that lookups are complete up to the present instant, and have what
        other processes pushed.
        """
        self.parts.streams.start(interval_seconds)
        self.parts.serving.watch.start()

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
        before_us = self.parts.clock.now_us() if before is None else instant_us(before, where="before")
        return self.parts.streams.compact(source, before_us=before_us)

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
        return self.parts.serving.answer(question)

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
        return self.parts.serving.answer_together(questions)

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
        return self.parts.serving.answer_views(views, entities, as_of=as_of, partial=partial)

    def vitals(self) -> Vitals:
        """Tell how fresh the views are that answer, for monitoring.

        What the online store does not say is in ``store_problem``.

        Raises:
            RegistryError: The views are not known, and the registry cannot be read.
        """
        return self.parts.serving.vitals()

    def problems(self) -> tuple[FeatureStoreError, ...]:
        """Return what is wrong with parts of the store at present, each with what to do; nothing if all is well.

        That is states that are lost or may be dropped, states that hold events which their log has no more, logs whose
        head lies in the future, and a serving log that cannot be written. A part that cannot be asked is named, too.
        """
        found: list[FeatureStoreError] = []
        for part in (self.parts.serving.problems, self.parts.streams.problems):
            try:
                found += part()
            except FeatureStoreError as error:
                found.append(error)
        if self.config.serving_log.enabled and self.parts.serving_log.failure is not None:
            found.append(self.parts.serving_log.failure)
        return tuple(found)

    def logs(self) -> dict[str, LogVitals]:
        """Tell for each source that accepts pushes how far its log goes.

        Raises:
            RegistryError: The registry cannot be read.
            StorageError: The event log cannot be read.
        """
        ahead_us = self.parts.streams.ahead_us()
        heads = self.parts.streams.heads()
        return {name: LogVitals(head.next_ingest_us, ahead_us.get(name, 0)) for name, head in heads.items()}

    def readiness(self) -> Readiness:
        """Tell which services can be answered online, and load what answering needs; for processes that serve.

        The plans that answer are kept in the data folder from now on, so that a process can start while the registry is
        away.
        """
        return self.parts.serving.readiness()

    def log_backlog(self) -> tuple[int, int]:
        """Return how many served rows wait to be written, and how many were lost because too many waited."""
        if not self.config.serving_log.enabled:
            return 0, 0
        return self.parts.serving_log.waiting_rows, self.parts.serving_log.lost_rows

    def log_failures(self) -> tuple[int, str]:
        """Return how often this process could not write, seal or clear up the serving log, and why it cannot now.

        The reason is empty if the last attempt of each kind succeeded.
        """
        if not self.config.serving_log.enabled:
            return 0, ""
        failure = self.parts.serving_log.failure
        return self.parts.serving_log.failure_count, "" if failure is None else str(failure)

    def check(self) -> None:
        """Make sure that every applied service can be answered online, and load what answering needs.

        Raises:
            StateError: A view has no online state.
            RegistryError: The registry cannot be read.
            StorageError: The online store cannot be read.
        """
        self.parts.serving.check()

    def close(self) -> None:
        """Write what waits to be written, and close files and connections; the next use opens them again.

        Every part is closed, also after one that fails.

        Raises:
            FeatureStoreError: A part failed to close; failures before it are its ``__context__``.
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

    def _plans_changed(self, changes: Changes, who: str) -> None:
        """Let the next question ask which plans are live, and record those that are at once, if any can be."""
        self._forget()
        recorded = self.parts.registry.live()
        if any(change.name in recorded and change.outcome != "unchanged" for change in changes):
            self.parts.live_plans.record("apply", changed_by=who)

    def _forget(self) -> None:
        """Let the next question ask which plans are live."""
        for part in (self.parts.made("serving"), self.parts.made("streams")):
            if part is not None:
                part.forget()

    def _views_to_fold(self, names: Iterable[str] | None) -> tuple[ViewPlan, ...]:
        known = self.parts.catalog.views()
        wanted = None if names is None else list(dict.fromkeys(names))
        for name in wanted or ():
            if name not in known:
                hint = listing("Views", known, wrong=name)
                raise RegistryError(f"there is no view '{name}'", where="registry", hint=hint, code="unknown-view")
        return self.parts.live_plans.to_refresh(wanted)


def _who(by: str | None) -> str:
    """Return who acts: the given name, else the user of the process."""
    return by or acting_user()
