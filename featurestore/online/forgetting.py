"""Forgetting an entity: records of it in this store are removed, and other places that may hold some are named.

Sources are not changed: a file or a table with events of the entity still has them afterwards. So every view with state
from outside the event log is rebuilt by its next run. If the events are deleted from the source by then, the entity
stays forgotten; otherwise it returns with all its events. In between it has no values, or those of events pushed since.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.dtypes import from_arrow, read_value
from featurestore.core.errors import RequestError, SourceDataError, json_pointer, unknown_entity
from featurestore.core.temporal import NOTHING_YET
from featurestore.definitions.sources import FileSource, FrameSource, Source, SqlSource
from featurestore.online.filling.streaming import folding
from featurestore.online.pushing.dead_letters import RemovedLetters, letters_file, remove_letters
from featurestore.online.state.keys import key_encoder
from featurestore.online.stores.locks import LONG_WAITS, hold_lock, run_lock
from featurestore.online.stores.store import (
    ENTITY_FORGOTTEN,
    UNCOUNTED,
    OnlineStore,
    decode_record,
    encode_record,
    record_key,
    state_prefix,
    what_is_left,
)
from featurestore.plan.model import Column, ViewPlan
from featurestore.registry import Registry
from featurestore.registry.catalog import Catalog
from featurestore.registry.data_folders import DataFolders
from featurestore.sources import ReadSettings
from featurestore.sources.convert import to_contract
from featurestore.sources.event_log import Head
from featurestore.sources.event_log.maintenance import forget as forget_events
from featurestore.sources.outside import has_nothing_outside
from featurestore.sources.pushed import id_column

_NAMED_FOLDERS = 50


@dataclass(frozen=True)
class ForgottenState:
    """Online state of an entity that was removed.

    Attributes:
        view: Name of the view.
        fingerprint: Fingerprint of its plan.
        is_rebuilt: Whether the next run rebuilds the view, because its source may still hold events of the entity, or
            other deliveries of its events.
    """

    view: str
    fingerprint: str
    is_rebuilt: bool


@dataclass(frozen=True)
class Forgotten:
    """The result of forgetting an entity.

    Attributes:
        entity: Name of the entity.
        states: Removed states.
        events: Counts of pushed events removed from the log, by source.
        served: Counts of rows removed from the serving log, by service.
        dead_letters: Counts of removed dead letters, by source: all whose message holds an event of the entity.
        unreachable: Places that may still hold records of it, with what to do there; one sentence each.
    """

    entity: str
    states: tuple[ForgottenState, ...]
    events: Mapping[str, int]
    served: Mapping[str, int]
    dead_letters: Mapping[str, int]
    unreachable: tuple[str, ...]


class ServedRows(Protocol):
    """The serving log."""

    def forget(self, wanted: Mapping[str, Sequence[Mapping[str, Any]]]) -> Mapping[str, int]:
        """Remove the rows with some keys, given by service; return their counts by service."""
        ...

    def services(self) -> Sequence[str]:
        """Return the names of the services with rows in the log, after writing all rows to files."""
        ...


def forget(
    entity: str,
    keys: Mapping[str, Any],
    *,
    catalog: Catalog,
    registry: Registry,
    store: OnlineStore,
    settings: ReadSettings,
    served: ServedRows,
    data: Path,
    folders: DataFolders,
    wait_seconds: float,
) -> Forgotten:
    """Remove all records of an entity, of every source, view and service that was ever applied.

    Args:
        entity: Name of the entity.
        keys: Its key columns.
        catalog: The applied definitions and the earlier ones.
        registry: Keeps audits and drift reports.
        store: Where states are kept.
        settings: The resources that reading may use, with the event log.
        served: The serving log.
        data: The data folder, with the dead letters.
        folders: The data folders of other machines.
        wait_seconds: How long to wait for a run on a view to end.

    Raises:
        RequestError: There is no such entity, or the keys are not its keys.
        StateError: A run on a view did not end in time. Some records are removed; forget again.
        StorageError: A log, a file of dead letters or the online store cannot be written; forget again.
    """
    everything = {view.fingerprint: view for view in catalog.every_view()}
    ever = [view for view in everything.values() if view.entity.name == entity]
    if not ever:
        names = sorted({view.entity.name for view in everything.values()})
        raise unknown_entity(entity, names).in_request("/entity")
    entity_keys = _EntityKeys.read(ever, keys)
    views = [view for view in ever if entity_keys.keys_in(view) is not None]
    sources = {name: catalog.source_ever(name) for name in sorted({view.source.name for view in views})}
    pushed = catalog.took_pushes()
    states: list[ForgottenState] = []
    events: dict[str, int] = {}
    missing: list[str] = []
    for name, source in sources.items():
        log = settings.event_log if name in pushed else None
        readers = [view for view in views if view.source.name == name]
        remover = _Remover(readers, entity_keys, source, store, settings, wait_seconds)
        # Most of the log is searched while pushes go on; only the rest while no process folds or pushes.
        head = Head() if log is None else log.head(name)
        count = 0 if log is None else forget_events(log, name, entity_keys.is_in, missing=missing)
        with remover.exclusive():
            if log is not None:
                count += forget_events(log, name, entity_keys.is_in, from_us=head.next_ingest_us, missing=missing)
            states += remover.remove()
        if count:
            events[name] = count
    letters = {name: remove_letters(letters_file(data, name), entity_keys.is_held_by) for name in sources}
    services = catalog.services_ever()
    roles = {name: of_service for name in services if (of_service := _roles(catalog, name, entity, entity_keys))}
    removed_rows = served.forget(roles)
    return Forgotten(
        entity=entity,
        states=tuple(states),
        events=events,
        served=removed_rows,
        dead_letters={name: removed.count for name, removed in letters.items() if removed.count},
        unreachable=(
            *_sources_outside(sources, settings),
            *_unreadable_letters(letters, data),
            *_database_remains(sources.keys() & pushed, settings, store),
            *_other_machines(folders, missing),
            *_unknown_services(set(served.services()) - set(services)),
            *_logs_without_views(pushed - {view.source.name for view in everything.values()}),
            *_other_keys(ever, entity_keys),
            *_other_entities(entity, views, everything.values()),
            *_reports(roles, registry),
        ),
    )


@dataclass(frozen=True)
class _EntityKeys:
    """The keys of the entity to forget.

    The keys may have other dtypes in other plans, and in events that were pushed under those. A value is the same in
    another dtype if a cast to it and back gives the value again. An event belongs to the entity if it does by the
    dtypes of one of the plans.

    Attributes:
        keys: The keys by name, in the dtypes of the newest plan that accepts them.
        variants: The keys in the dtypes of all plans that can have the entity, each once.
    """

    keys: Mapping[str, pa.Scalar]
    variants: Sequence[Mapping[str, pa.Scalar]]

    @classmethod
    def read(cls, views: Sequence[ViewPlan], values: Mapping[str, Any]) -> _EntityKeys:
        """Read the keys of an entity.

        Args:
            views: Every plan of the entity's views, newest first.
            values: The keys by name.

        Raises:
            RequestError: No plan has, or had, such keys.
        """
        matching = [view for view in views if _names(view) == set(values)]
        if not matching:
            known = " or ".join(dict.fromkeys(map(_key_names, views)))
            raise RequestError(
                f"got the keys {', '.join(map(repr, values)) or 'none'}",
                field="/keys",
                hint=f"The keys of entity '{views[0].entity.name}' are {known}.",
                code="wrong-keys",
            )
        errors: list[RequestError] = []
        for view in matching:
            try:
                keys = {key.name: _scalar(key, values[key.name]) for key in view.entity.keys}
            except RequestError as error:
                errors.append(error)
                continue
            shapes = dict.fromkeys(frozenset((key.name, key.dtype) for key in view.entity.keys) for view in matching)
            variants = ({name: _cast_exactly(keys[name], dtype.arrow) for name, dtype in shape} for shape in shapes)
            return cls(keys, [variant for variant in variants if None not in variant.values()])
        raise errors[0]

    def keys_in(self, view: ViewPlan) -> dict[str, Any] | None:
        """Return the keys in the dtypes and order of a plan; ``None`` if the plan cannot have the entity."""
        if _names(view) != set(self.keys):
            return None
        keys: dict[str, Any] = {}
        for key in view.entity.keys:
            value = _cast_exactly(self.keys[key.name], key.dtype.arrow)
            if value is None:
                return None
            keys[key.name] = read_value(key.dtype, value.as_py())
        return keys

    def is_in(self, table: pa.Table) -> pa.Array:
        """Return a mask of the table's events that belong to the entity."""
        matches = pa.repeat(pa.scalar(False), table.num_rows)
        if set(self.keys) <= set(table.column_names):
            for variant in self.variants:
                mask = pa.repeat(pa.scalar(True), table.num_rows)
                for name, value in variant.items():
                    mask = pc.and_(mask, _reads_as(table.column(name).combine_chunks(), value))
                matches = pc.or_(matches, mask)
        return matches

    def is_held_by(self, events: Any) -> bool:
        """Return whether a message holds an event of the entity.

        Raises:
            ValueError: The message is damaged.
        """
        if isinstance(events, list):
            return any(self._is_row(event) for event in events)
        try:
            events.validate(full=True)
            return bool(pc.any(self.is_in(events)).as_py())
        except pa.ArrowException as error:
            raise ValueError(str(error)) from None

    def _is_row(self, event: Any) -> bool:
        return isinstance(event, Mapping) and any(
            all(name in event and _is_key(event[name], value) for name, value in variant.items())
            for variant in self.variants
        )


def _is_key(json_value: Any, value: pa.Scalar) -> bool:
    """Return whether a value of JSON is a key, or has the same text."""
    dtype, key = from_arrow(value.type), value.as_py()
    assert dtype is not None
    try:
        return bool(read_value(dtype, json_value) == key)
    except ValueError:
        return str(json_value) == str(key)


def _reads_as(column: pa.Array, value: pa.Scalar) -> pa.Array:
    """Return a mask of the values of a column that equal a value, which may be of another type."""
    dtype = from_arrow(value.type)
    assert dtype is not None
    try:
        return pc.equal(to_contract(column, dtype, timezone=None, where="events")[0], value).fill_null(False)
    except SourceDataError:
        if len(column) == 1:
            return pa.array([False])
    # Some values cannot be read in the dtype: check each distinct value by itself.
    distinct = pc.unique(column)
    matches = [_reads_as(distinct.slice(i, 1), value)[0].as_py() for i in range(len(distinct))]
    return pc.is_in(column, distinct.filter(pa.array(matches, pa.bool_())))


def _scalar(key: Column, key_value: Any) -> pa.Scalar:
    try:
        value = read_value(key.dtype, key_value)
    except ValueError as error:
        raise RequestError(str(error), field=json_pointer("keys", key.name), code="wrong-dtype") from None
    if value is None:
        raise RequestError("a key is never null", field=json_pointer("keys", key.name), code="null-key")
    return pa.scalar(value, key.dtype.arrow)


def _cast_exactly(value: pa.Scalar, kind: pa.DataType) -> pa.Scalar | None:
    """Cast a value to another type; ``None`` if the cast changes it."""
    try:
        result = value.cast(kind)
        return result if result.cast(value.type).equals(value) else None
    except pa.ArrowException:
        return None


def _names(view: ViewPlan) -> set[str]:
    return {key.name for key in view.entity.keys}


def _key_names(view: ViewPlan) -> str:
    return ", ".join(repr(key.name) for key in view.entity.keys)


@dataclass(frozen=True)
class _Remover:
    """Removes the states of an entity that were computed from the events of one source.

    Attributes:
        views: The views that read it, in all their plans.
        entity_keys: The keys of the entity.
        source: Its definition; ``None`` if it is no longer available.
        store: Where states are kept.
        settings: The resources that reading may use.
        wait_seconds: How long to wait for a run on a view to end.
    """

    views: Sequence[ViewPlan]
    entity_keys: _EntityKeys
    source: Source | None
    store: OnlineStore
    settings: ReadSettings
    wait_seconds: float

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Exclude runs and pushes: they write what they have read before, or read what remains afterwards."""
        views = sorted(self.views, key=lambda view: view.fingerprint)
        with ExitStack() as stack:
            for view in views:
                name = run_lock(view.fingerprint)
                stack.enter_context(hold_lock(self.store, name, wait_seconds=self.wait_seconds, backoff=LONG_WAITS))
            stack.enter_context(folding(views, self.store))
            yield

    def remove(self) -> Iterator[ForgottenState]:
        """Remove the states; yield those that existed."""
        source = self.source
        is_outside = source is None or not source.stream or not has_nothing_outside(source, self.settings)
        for view in self.views:
            is_rebuilt = is_outside or self._repeats_ids(view)
            if self._remove_states(view, is_rebuilt=is_rebuilt):
                yield ForgottenState(view.name, view.fingerprint, is_rebuilt)

    def _repeats_ids(self, view: ViewPlan) -> bool:
        """Return whether the log may hold another delivery of a removed event, which may count now."""
        column = id_column(view.source)
        if column is None or self.source is None or self.settings.event_log is None:
            return False
        return self.settings.event_log.unique_from_us(self.source.name, column) > NOTHING_YET

    def _remove_states(self, view: ViewPlan, *, is_rebuilt: bool) -> bool:
        """Remove the states in all generations of a view; return whether there was one.

        The record is changed before and after: states that were read before are no longer written, even if locks were
        lost. The rebuild is requested before, so that it happens even if this process dies half-way.
        """
        keys = self.entity_keys.keys_in(view)
        assert keys is not None
        encoded = key_encoder([key.dtype for key in view.entity.keys])(list(keys.values()))
        assert encoded is not None
        stored = self.store.read([record_key(view)]).get(record_key(view))
        generation = decode_record(view, stored).generation
        generations = range(max(0, generation - 1), generation + 2)
        # Encoded keys are self-delimiting, so no other key begins with these bytes.
        states = self.store.read([state_prefix(view, generation) + encoded for generation in generations])
        if not states:
            return False
        count = decode_record(view, stored).states
        stored = self._update_record(view, stored, UNCOUNTED, is_rebuilt=is_rebuilt)
        for key in states:
            self.store.delete(key)
        removed = sum(key.startswith(state_prefix(view, generation)) for key in states)
        count = count if count == UNCOUNTED else count - removed
        self._update_record(view, stored, count, is_rebuilt=is_rebuilt)
        return True

    def _update_record(self, view: ViewPlan, stored: bytes | None, states: int, *, is_rebuilt: bool) -> bytes:
        """Write into a view's record that states are removed, and how many remain; return its stored form."""
        record = decode_record(view, stored)
        record = msgspec.structs.replace(record, forgets=record.forgets + 1, states=states)
        if is_rebuilt:
            record = msgspec.structs.replace(record, rows_below=ENTITY_FORGOTTEN, filling=None)
        updated = encode_record(record)
        self.store.write([(record_key(view), updated)], expected={record_key(view): stored})
        return updated


def _roles(catalog: Catalog, service: str, entity: str, entity_keys: _EntityKeys) -> list[dict[str, Any]]:
    """Return the key columns and values by which requests to a service name an entity, for each role it plays."""
    roles: list[dict[str, Any]] = []
    for plan in catalog.past_plans(service):
        for use in plan.uses:
            keys = entity_keys.keys_in(use.view) if use.view.entity.name == entity else None
            role = None if keys is None else dict(zip(use.keys, keys.values(), strict=True))
            if role is not None and role not in roles:
                roles.append(role)
    return roles


def _sources_outside(sources: Mapping[str, Source | None], settings: ReadSettings) -> Iterator[str]:
    """Name the sources that may hold events outside this store."""
    for name, source in sources.items():
        if source is not None and source.stream and has_nothing_outside(source, settings):
            continue
        match source:
            case None:
                place = "a source that is not defined any more"
            case FileSource():
                place = f"files, {source.path}"
            case SqlSource():
                place = f"database, {source.table or 'a query'}"
            case FrameSource():
                place = "a frame"
            case _:
                place = "rows outside"
        yield (
            f"source '{name}' ({place}) holds its events as before: delete them there, then materialize; "
            "if they are still there then, the entity is back"
        )


def _unreadable_letters(letters: Mapping[str, RemovedLetters], data: Path) -> Iterator[str]:
    """Name the files with dead letters that cannot be read."""
    for name, removed in letters.items():
        if removed.unreadable:
            yield (
                f"{letters_file(data, name)} holds {removed.unreadable} messages that cannot be read: "
                "look for its keys there, or delete the file"
            )


def _database_remains(pushed: Collection[str], settings: ReadSettings, store: OnlineStore) -> Iterator[str]:
    """Name the databases that may still hold deleted data."""
    log = settings.event_log if pushed else None
    yield from filter(None, dict.fromkeys(["" if log is None else log.what_is_left(), what_is_left(store)]))


def _other_machines(folders: DataFolders, missing: Iterable[str]) -> Iterator[str]:
    """Name the data folders of other machines, with served rows, dead letters and compacted events."""
    others = folders.others()
    for folder in others[:_NAMED_FOLDERS]:
        yield (
            f"the serving log and dead letters in another data folder may hold it: {folder}; "
            "forget there as well, or delete that folder"
        )
    if len(others) > _NAMED_FOLDERS:
        yield f"so may {len(others) - _NAMED_FOLDERS} other data folders that were used before these"
    for path in dict.fromkeys(missing):
        yield f"compacted events lie in {path}, which is not on this machine: forget where it is"


def _unknown_services(services: Iterable[str]) -> Iterator[str]:
    """Name the services in the serving log whose keys are not known."""
    for service in sorted(services):
        yield f"the serving log holds rows of service '{service}', which was never applied: look there for its keys"


def _logs_without_views(sources: Iterable[str]) -> Iterator[str]:
    """Name the logs whose events belong to no known entity, because no view ever read them."""
    for name in sorted(sources):
        yield f"source '{name}' accepted pushes and no feature view ever read it: its events in the log are as before"


def _other_keys(ever: Sequence[ViewPlan], entity_keys: _EntityKeys) -> Iterator[str]:
    """Name the entity's views with other key columns, now or earlier."""
    others = [view for view in ever if _names(view) != set(entity_keys.keys)]
    for name, names in sorted({(view.name, _key_names(view)) for view in others}):
        yield (
            f"feature view '{name}' is, or was, kept by {names}: forget what these keys name, too, "
            "or materialize it anew (full=True)"
        )


def _other_entities(entity: str, views: Sequence[ViewPlan], everything: Iterable[ViewPlan]) -> Iterator[str]:
    """Name the views of other entities that read the same events or have a key column of the same name."""
    sources = {view.source.name for view in views}
    keys = {key.name for view in views for key in view.entity.keys}
    others = {(view.name, view.entity.name): view for view in everything if view.entity.name != entity}
    for (name, other), view in sorted(others.items()):
        if view.source.name in sources:
            yield (
                f"feature view '{name}' of entity '{other}' was computed from the same events: "
                f"materialize it anew (full=True) to leave them out"
            )
        elif keys & {key.name for key in view.entity.keys}:
            yield f"feature view '{name}' is kept by entity '{other}', whose key has a column of the same name"


def _reports(services: Iterable[str], registry: Registry) -> Iterator[str]:
    """Name the audits and drift reports with values of the services, and the training sets."""
    for service in services:
        if registry.audits(service, limit=1):
            yield f"audits of service '{service}' in the registry may name its keys and values"
        if registry.drifts(service, limit=1):
            yield f"drift reports of service '{service}' in the registry may name its values"
    yield "training sets and backups made before keep its rows; where they lie is not known here"
