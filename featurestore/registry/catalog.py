"""What is applied: definitions on their way into the registry, plans and sources on their way out.

The catalog compiles and remembers; it evaluates nothing and knows neither road.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any, assert_never

from featurestore.core.dtypes import DType
from featurestore.core.errors import (
    ConfigError,
    DefinitionError,
    Mistake,
    RegistryError,
    SourceError,
    listing,
    unknown_service,
    unknown_source,
)
from featurestore.core.temporal import Clock
from featurestore.definitions.collection import Definitions, collect, import_definitions
from featurestore.definitions.sources import Source
from featurestore.plan import mistakes
from featurestore.plan.checks import Schema, readable_sources, where_is
from featurestore.plan.codec import from_json, to_json
from featurestore.plan.compiler import compile_definitions
from featurestore.plan.model import Plan, ViewPlan
from featurestore.registry import (
    Applied,
    Change,
    Draft,
    Kind,
    Outcome,
    Registry,
    accepts_pushes,
    read_source,
    source_draft,
)
from featurestore.sources import ReadSettings, read_schema
from featurestore.sources.pushed import enter_ids

_UDF = '"op":"udf"'


@dataclass(frozen=True)
class Changes:
    """What an apply changed.

    Attributes:
        changes: The change of each source, view and service, sorted by kind and name.
        missing: Objects that stay applied although the modules do not define them, sorted by kind and name; empty if
            only single definitions were passed.
        withdrawn: Names of the changed services whose new plan was rolled back from: it stays down until it is promoted
            by the name of the service.
    """

    changes: tuple[Change, ...]
    missing: tuple[Change, ...] = ()
    withdrawn: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Change]:
        return iter(self.changes)

    def __len__(self) -> int:
        return len(self.changes)

    def __str__(self) -> str:
        lines = [str(change) for change in self.changes] or ["nothing is applied"]
        if self.missing:
            kept = ", ".join(f"{item.kind} '{item.name}'" for item in self.missing)
            names = " ".join(f"--allow-removal {name}" for name in dict.fromkeys(item.name for item in self.missing))
            lines.append(f"still applied though not in the module: {kept}; remove with {names}")
        for service in self.withdrawn:
            lines.append(f"service '{service}': this plan was rolled back from; it stays down until promote {service}")
        return "\n".join(lines)

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
        self,
        objects: tuple[Any, ...],
        *,
        prune: bool = False,
        remove: Collection[str] = (),
        kept_live: Mapping[str, str] | None = None,
        changed_by: str = "",
    ) -> Changes:
        """Compile definitions and make them the applied ones, all of them or none.

        Args:
            objects: Modules, definitions and iterables of these.
            prune: Whether all applied objects that are not defined here are removed.
            remove: Names of services, views and sources to remove: ``"name"``, or ``"view:name"`` for one kind only.
            kept_live: For services the fingerprint of the plan that goes on answering although they change; ``None``
                lets changed services answer by their new plans once they are filled.
            changed_by: The user that applies.

        Raises:
            DefinitionError: The definitions hold mistakes, sources that cannot be read among them; nothing was changed.
            SourceError: The only mistake is that one source cannot be read.
            RegistryError: A name to remove was never applied, is among the definitions, or is used by what stays; or
                the registry failed. Nothing was changed.
        """
        definitions = collect(*objects)
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
        defined = {(draft.kind, draft.name) for draft in drafts}
        removed = self._to_remove(remove, defined)
        self._check_not_live(removed)
        changes = self._registry.apply(
            drafts,
            now_us=self._clock.now_us(),
            prune=prune,
            remove=removed,
            kept_live=kept_live,
            changed_by=changed_by,
            check=(lambda after: _check_unused(removed, after)) if removed else None,
        )
        with self._lock:
            self._sources.update(_by_name(definitions))
            self._known = None
        is_whole = any(isinstance(item, ModuleType) for item in objects)
        live = self._registry.live()
        return Changes(
            changes,
            missing=self._missing(defined) if is_whole else (),
            withdrawn=tuple(
                change.name
                for change in changes
                if change.kind is Kind.SERVICE
                and change.outcome in (Outcome.ADDED, Outcome.CHANGED)
                and change.name in live
                and change.fingerprint in live[change.name].withdrawn
            ),
        )

    def restore(self, name: str, *, changed_by: str = "") -> Changes:
        """Apply again what was removed under a name, with the views and sources that it needs and that were removed.

        Args:
            name: Name of a service, view or source; ``"view:name"`` for one kind only.
            changed_by: The user that does it.

        Raises:
            RegistryError: Nothing of that name was removed, or a view or source that it needs was changed since.
        """
        kinds, plain = _kinds_of(name)
        removed = [item for kind in kinds if (item := self._registry.removed(kind, plain)) is not None]
        if not removed:
            known = (item.name for kind in Kind for item in self._registry.removals(kind))
            raise RegistryError(
                f"nothing was removed under the name '{name}'",
                where="registry",
                hint=listing("Removed", sorted(set(known)), wrong=plain),
                code="unknown-removed",
            )
        wanted: dict[tuple[Kind, str], Draft] = {}
        for item in removed:
            self._add_needed(item, wanted)
        changes = self._registry.apply(wanted.values(), now_us=self._clock.now_us(), changed_by=changed_by)
        with self._lock:
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

    def _add_needed(self, item: Applied, wanted: dict[tuple[Kind, str], Draft]) -> None:
        """Add a removed object to what is to be applied, and what it needs."""
        wanted[item.kind, item.name] = Draft(item.kind, item.name, item.fingerprint, item.document)
        for kind, name, fingerprint in _needs(item):
            if (kind, name) in wanted:
                continue
            applied = self._registry.find(kind, name)
            needed = applied or self._registry.removed(kind, name)
            if needed is None or (fingerprint is not None and needed.fingerprint != fingerprint):
                raise RegistryError(
                    f"it needs {kind} '{name}', which was changed since it was removed",
                    where=f"{item.kind} '{item.name}'",
                    hint="Apply its definitions instead.",
                    code="restore-conflict",
                )
            if applied is None:
                self._add_needed(needed, wanted)

    def _to_remove(self, names: Collection[str], defined: Collection[tuple[Kind, str]]) -> frozenset[tuple[Kind, str]]:
        """Return the objects of some names; of a name of several kinds, those that are not defined."""
        if isinstance(names, str):
            names = (names,)
        applied = {(kind, item.name) for kind in Kind for item in self._registry.objects(kind)}
        to_remove: set[tuple[Kind, str]] = set()
        for name in names:
            kinds, plain = _kinds_of(name)
            keys = {(kind, plain) for kind in kinds}
            missing = (keys & applied) - set(defined)
            if not missing and keys & set(defined):
                raise RegistryError(
                    f"'{name}' cannot be removed: it is among the definitions",
                    where="registry",
                    hint="Take it out of the definitions, or do not name it for removal.",
                    code="still-defined",
                )
            if not missing and not any(self._registry.removed(kind, plain) for kind in kinds):
                raise RegistryError(
                    f"'{name}' cannot be removed: it is not applied",
                    where="registry",
                    hint=listing("Applied", sorted({one for _, one in applied}), wrong=plain),
                    code="unknown-name",
                )
            to_remove |= missing
        return frozenset(to_remove)

    def _check_not_live(self, removed: Collection[tuple[Kind, str]]) -> None:
        """Refuse to remove what a plan needs that answers, also if a newer plan of its service is applied.

        Raises:
            RegistryError: A service that stays answers by such a plan.
        """
        for service, live in self._registry.live().items() if removed else ():
            if (Kind.SERVICE, service) in removed or self._registry.find(Kind.SERVICE, service) is None:
                continue
            for applied in self._registry.history(Kind.SERVICE, service):
                if applied.fingerprint == live.fingerprint:
                    _check_needs(applied, removed)
                    break

    def _missing(self, defined: Collection[tuple[Kind, str]]) -> tuple[Change, ...]:
        """Return the objects that are applied and not defined."""
        return tuple(
            Change(kind, item.name, Outcome.UNCHANGED, item.fingerprint, item.fingerprint)
            for kind in Kind
            for item in self._registry.objects(kind)
            if (kind, item.name) not in defined
        )

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
            raise unknown_service(service, plans).in_request("/service")
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
            names = (item.name for item in self._registry.objects(Kind.SOURCE))
            raise unknown_source(name, names).error(RegistryError, "registry")
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


def _kinds_of(name: str) -> tuple[tuple[Kind, ...], str]:
    """Read ``"name"`` or ``"view:name"``: which kinds are meant, and the plain name."""
    kind, mark, plain = name.rpartition(":")
    return ((Kind(kind),), plain) if mark and kind in tuple(Kind) else (tuple(Kind), name)


def _needs(item: Applied | Draft) -> Iterator[tuple[Kind, str, str | None]]:
    """Yield the kind and name of what an object needs, and the fingerprint if it needs just that one."""
    match item.kind:
        case Kind.SERVICE:
            for use in from_json(Plan, item.document).uses:
                yield Kind.VIEW, use.view.name, use.view.fingerprint
                yield Kind.SOURCE, use.view.source.name, None
        case Kind.VIEW:
            yield Kind.SOURCE, from_json(ViewPlan, item.document).source.name, None
        case Kind.SOURCE:
            pass
        case _:
            assert_never(item.kind)


def _check_needs(item: Applied | Draft, removed: Collection[tuple[Kind, str]]) -> None:
    """Refuse to remove what an object that stays needs."""
    for kind, name, _ in _needs(item):
        if (kind, name) in removed:
            raise RegistryError(
                f"{kind} '{name}' cannot be removed: {item.kind} '{item.name}' uses it",
                where="registry",
                hint=f"Remove {item.kind} '{item.name}' as well, or change it first and let the new plan go live.",
                code="still-used",
            )


def _check_unused(removed: Collection[tuple[Kind, str]], after: Mapping[tuple[Kind, str], Draft | Applied]) -> None:
    for item in after.values():
        _check_needs(item, removed)


def _by_name(definitions: Definitions) -> dict[str, Source]:
    return {source.name: source for source in definitions.sources}
