"""What is applied: definitions on their way into the registry, plans and sources on their way out.

The catalog compiles and remembers; it evaluates nothing and knows neither road.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

from featurestore.definitions.collection import Definitions, collect, import_definitions
from featurestore.definitions.sources import Source
from featurestore.dtypes import DType
from featurestore.errors import (
    ConfigError,
    DefinitionError,
    Mistake,
    RegistryError,
    SourceError,
    UnknownServiceError,
    listing,
)
from featurestore.plan import mistakes
from featurestore.plan.checks import Schema, readable_sources, where_is
from featurestore.plan.codec import from_json, to_json
from featurestore.plan.compiler import compile_definitions
from featurestore.plan.model import Plan, ViewPlan
from featurestore.registry import Change, Draft, Kind, Outcome, Registry, accepts_pushes, read_source, source_draft
from featurestore.sources import ReadSettings, read_schema
from featurestore.sources.pushed import enter_ids
from featurestore.temporal import Clock

_UDF = '"op":"udf"'


@dataclass(frozen=True)
class Changes:
    """What an apply changed.

    Attributes:
        changes: What happened to each source, view and service, sorted by kind and name.
    """

    changes: tuple[Change, ...]

    def __iter__(self) -> Iterator[Change]:
        return iter(self.changes)

    def __len__(self) -> int:
        return len(self.changes)

    def __str__(self) -> str:
        return "\n".join(str(change) for change in self.changes) or "nothing is applied"

    @property
    def is_empty(self) -> bool:
        """Whether everything was applied already, just so."""
        return all(change.outcome is Outcome.UNCHANGED for change in self.changes)


@dataclass(frozen=True)
class _Known:
    """Everything applied, as of one revision of the registry."""

    revision: int
    services: Mapping[str, Plan]
    views: Mapping[str, ViewPlan]


class Catalog:
    """Applied definitions of one registry. May be used from several threads."""

    def __init__(self, registry: Registry, *, settings: ReadSettings, clock: Clock, module: str, folder: Path) -> None:
        """Take the parts; nothing is read yet.

        Args:
            registry: Where plans are kept.
            settings: What reading the schemas of sources may use.
            clock: Tells the instant of an apply.
            module: The definitions' module, for what a registry cannot keep; empty if none is configured.
            folder: Where that module is looked for first.
        """
        self._registry = registry
        self._settings = settings
        self._clock = clock
        self._module = module
        self._folder = folder
        self._lock = Lock()
        self._known: _Known | None = None
        self._sources: dict[str, Source] = {}

    def apply(
        self, given: tuple[Any, ...], *, prune: bool | None, kept_live: Mapping[str, str] | None = None
    ) -> Changes:
        """Compile definitions and make them the applied ones, all of them or none.

        Args:
            given: Modules, definitions and iterables of these.
            prune: Whether what is applied but not given is removed; ``None`` means if modules are given.
            kept_live: For services the fingerprint of the plan that goes on answering although they change; ``None``
                lets changed services answer by their new plans once they are filled.

        Raises:
            DefinitionError: The definitions hold mistakes, sources that cannot be read among them; nothing was changed.
            SourceError: The only mistake is that one source cannot be read.
            RegistryError: The registry failed; nothing was changed.
        """
        definitions = collect(*given)
        schemas, unreadable = self._schemas(definitions)
        try:
            plans = compile_definitions(definitions, schemas, unreadable=_mistakes(unreadable))
        except DefinitionError as error:
            if len(error.mistakes) == len(unreadable) == 1:
                raise next(iter(unreadable.values())) from None
            raise
        for source in definitions.sources:
            self._prepare_log(source, schemas[source.name])
        drafts = [
            *(source_draft(source) for source in definitions.sources),
            *(_draft(Kind.VIEW, name, view) for name, view in plans.views.items()),
            *(_draft(Kind.SERVICE, name, plan) for name, plan in plans.services.items()),
        ]
        is_whole = any(isinstance(item, ModuleType) for item in given)
        changes = self._registry.apply(
            drafts,
            now_us=self._clock.now_us(),
            prune=is_whole if prune is None else prune,
            kept_live=kept_live,
        )
        with self._lock:
            self._sources.update(_by_name(definitions))
            self._known = None
        return Changes(changes)

    def _schemas(self, definitions: Definitions) -> tuple[dict[str, Schema], dict[str, SourceError]]:
        """Return the columns of the sources by name, and the errors of those that cannot be read."""
        schemas: dict[str, Schema] = {}
        unreadable: dict[str, SourceError] = {}
        for source in readable_sources(definitions):
            try:
                schemas[source.name] = read_schema(source, self._settings)
            except SourceError as error:
                unreadable[source.name] = error
        return schemas, unreadable

    def _prepare_log(self, source: Source, schema: Mapping[str, DType | None]) -> None:
        """Let the log of a source know what the source's definition says of it, before that is applied.

        Raises:
            DefinitionError: The source takes no pushes any more, but there are pushed events.
            SourceDataError: Events that were pushed have no ids of the dtype that ``event_id`` has now.
            StorageError: The log cannot be used.
        """
        log = self._settings.event_log
        if log is None:
            return
        if source.stream:
            dtype = None if source.event_id is None else schema[source.event_id]
            if dtype is not None:
                enter_ids(source, dtype, log)
        elif any(map(accepts_pushes, self._registry.history(Kind.SOURCE, source.name))):
            count = sum(stretch.row_count for stretch in log.stretches(source.name))
            if count:
                raise DefinitionError([mistakes.pushed_events_left_out(where_is(source), count)])

    def import_definitions(self) -> ModuleType:
        """Import the configured definitions' module.

        Raises:
            ConfigError: None is configured, or it is not there.
            DefinitionError: It cannot be imported; file and line are named.
        """
        if not self._module:
            raise ConfigError(
                "no definitions' module is configured",
                where="configuration",
                hint='Name it: definitions = "feature_definitions".',
                code="definitions-missing",
            )
        folder = str(self._folder)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        try:
            return import_definitions(self._module)
        except ModuleNotFoundError:
            raise ConfigError(
                f"the module '{self._module}' is not there",
                where="configuration, key 'definitions'",
                hint=f"It is looked for in '{folder}' and on the Python path.",
                code="definitions-missing",
            ) from None

    def services(self) -> Mapping[str, Plan]:
        """Return the plans of all applied services by name."""
        return self._current().services

    def views(self) -> Mapping[str, ViewPlan]:
        """Return the plans of all applied views by name."""
        return self._current().views

    def plan(self, service: str) -> Plan:
        """Return the plan of an applied service.

        Raises:
            UnknownServiceError: No service of that name is applied.
        """
        plans = self._current().services
        if service not in plans:
            raise UnknownServiceError(
                f"there is no service '{service}'", field="/service", hint=listing("Services", plans, wrong=service)
            )
        return plans[service]

    def past_plans(self, service: str) -> Iterator[Plan]:
        """Yield every plan that was ever applied under a service's name, newest first, each fingerprint once."""
        seen: set[str] = set()
        for applied in self._registry.history(Kind.SERVICE, service):
            if applied.fingerprint not in seen:
                seen.add(applied.fingerprint)
                yield from_json(Plan, applied.document)

    @property
    def revision(self) -> int:
        """A number that grows with every apply that changed something."""
        return self._registry.revision

    def past_views(self, view: str) -> Iterator[ViewPlan]:
        """Yield every plan that was ever applied under a view's name, newest first, each fingerprint once."""
        seen: set[str] = set()
        for applied in self._registry.history(Kind.VIEW, view):
            if applied.fingerprint not in seen:
                seen.add(applied.fingerprint)
                yield from_json(ViewPlan, applied.document)

    def every_view(self) -> Iterator[ViewPlan]:
        """Yield every plan of a view that was ever applied, newest first, each fingerprint once."""
        seen: set[str] = set()
        for applied in self._registry.history(Kind.VIEW):
            if applied.fingerprint not in seen:
                seen.add(applied.fingerprint)
                yield from_json(ViewPlan, applied.document)

    def services_ever(self) -> tuple[str, ...]:
        """Return the names of all services that were ever applied, sorted."""
        return tuple(sorted({item.name for item in self._registry.history(Kind.SERVICE)}))

    def took_pushes(self) -> frozenset[str]:
        """Return the names of the sources of which any definition ever accepted pushes."""
        return frozenset(item.name for item in self._registry.history(Kind.SOURCE) if accepts_pushes(item))

    def source_ever(self, name: str) -> Source | None:
        """Return the definition of a source, the last one if it is applied no more; ``None`` if it is not stored."""
        try:
            return self._source(name)
        except ConfigError:
            return None
        except RegistryError as error:
            if error.code != "unknown-source":
                raise
        last = next(iter(self._registry.history(Kind.SOURCE, name)), None)
        try:
            return None if last is None else read_source(last)
        except (ConfigError, RegistryError):
            return None

    def streams(self) -> dict[str, Source]:
        """Return the definitions of the sources that accept pushes."""
        return self.sources(item.name for item in self._registry.objects(Kind.SOURCE) if accepts_pushes(item))

    def sources(self, names: Iterable[str]) -> dict[str, Source]:
        """Return the definitions of sources.

        They come from what was applied in this process, else from the registry, else from the definitions' module.

        Raises:
            ConfigError: A source is not stored and no module that defines it is configured.
            RegistryError: A source was never applied.
        """
        return {name: self._source(name) for name in sorted(set(names))}

    def _source(self, name: str) -> Source:
        applied = self._registry.find(Kind.SOURCE, name)
        if applied is None:
            raise RegistryError(
                "it is not applied", where=f"source '{name}'", hint="Apply the definitions.", code="unknown-source"
            )
        with self._lock:
            known = self._sources.get(name)
        if known is not None and source_draft(known).fingerprint == applied.fingerprint:
            return known
        try:
            return read_source(applied)
        except ConfigError:
            if not self._module:
                raise
        found = _by_name(collect(self.import_definitions()))
        if name not in found:
            return read_source(applied)
        with self._lock:
            return self._sources.setdefault(name, found[name])

    def _current(self) -> _Known:
        revision = self._registry.revision
        with self._lock:
            known = self._known
        if known is None or known.revision != revision:
            known = self._load(revision)
            with self._lock:
                self._known = known
        return known

    def _load(self, revision: int) -> _Known:
        services = self._registry.objects(Kind.SERVICE)
        views = self._registry.objects(Kind.VIEW)
        if self._module and any(_UDF in item.document for item in (*services, *views)):
            self.import_definitions()
        return _Known(
            revision,
            {item.name: from_json(Plan, item.document) for item in services},
            {item.name: from_json(ViewPlan, item.document) for item in views},
        )


def _mistakes(unreadable: Mapping[str, SourceError]) -> dict[str, Mistake]:
    return {name: Mistake(error.where, error.problem, error.hint, error.code) for name, error in unreadable.items()}


def _draft(kind: Kind, name: str, plan: Plan | ViewPlan) -> Draft:
    return Draft(kind, name, plan.fingerprint, to_json(plan))


def _by_name(definitions: Definitions) -> dict[str, Source]:
    return {source.name: source for source in definitions.sources}
