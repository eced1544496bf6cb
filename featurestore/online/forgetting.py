"""Forgetting an entity: what is kept about it here is removed, and what lies elsewhere is named.

Sources are not ours: a file or a table that holds events of the entity still holds them afterwards, so every view that
had state of it from outside the event log is rebuilt by its next run. If the events are gone from the source by then,
so is the entity; if not, it is back with all its events. Between the two it has no value, or, where events are also
pushed, those of the events pushed since.
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
        fingerprint: Of its plan.
        is_rebuilt: Whether the next run rebuilds the view, because its source may still hold events of the entity, or
            other deliveries of its events.
    """

    view: str
    fingerprint: str
    is_rebuilt: bool


@dataclass(frozen=True)
class Forgotten:
    """What became of an entity.

    Attributes:
        entity: Name of the entity.
        states: States that were removed.
        events: Pushed events that were removed from the log, by source.
        served: Rows that were removed from the serving log, by service.
        dead_letters: Dead letters that were removed, by source: all whose message holds an event of it.
        unreachable: What may still hold something of it, and what to do there; one sentence each.
    """

    entity: str
    states: tuple[ForgottenState, ...]
    events: Mapping[str, int]
    served: Mapping[str, int]
    dead_letters: Mapping[str, int]
    unreachable: tuple[str, ...]


class ServedRows(Protocol):
    """What was served, kept."""

    def forget(self, wanted: Mapping[str, Sequence[Mapping[str, Any]]]) -> Mapping[str, int]:
        """Remove the rows that were served about some keys, given by service; return how many, by service."""
        ...

    def services(self) -> Sequence[str]:
        """Return the names of the services of which rows are kept, once all of them are in files."""
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
    """Remove what is kept about an entity, by every source, view and service that ever was.

    Args:
        entity: Name of the entity.
        keys: Its key columns.
        catalog: What is applied, and was.
        registry: Keeps audits.
        store: Where states are kept.
        settings: What reading may use, the event log among it.
        served: The serving log.
        data: The data folder, where dead letters are.
        folders: Knows the data folders of other machines.
        wait_seconds: How long to wait for a run on a view to end.

    Raises:
        RequestError: There is no such entity, or the keys are not its keys.
        StateError: A run on a view did not end in time; what was removed is removed, forget again.
        StorageError: A log, a file of dead letters or the online store cannot be written; forget again.
    """
    everything = {view.fingerprint: view for view in catalog.every_view()}
    ever = [view for view in everything.values() if view.entity.name == entity]
    if not ever:
        names = sorted({view.entity.name for view in everything.values()})
        raise unknown_entity(entity, names).in_request("/entity")
    one = _EntityKeys.read(ever, keys)
    views = [view for view in ever if one.keys_in(view) is not None]
    sources = {name: catalog.source_ever(name) for name in sorted({view.source.name for view in views})}
    pushed = catalog.took_pushes()
    states: list[ForgottenState] = []
    events: dict[str, int] = {}
    missing: list[str] = []
    for name, source in sources.items():
        log = settings.event_log if name in pushed else None
        readers = [view for view in views if view.source.name == name]
        remover = _Remover(readers, one, source, store, settings, wait_seconds)
        # Most of the log is looked through while everybody goes on; what came meanwhile, while nobody folds or pushes.
        head = Head() if log is None else log.head(name)
        count = 0 if log is None else forget_events(log, name, one.is_in, missing=missing)
        with remover.alone():
            if log is not None:
                count += forget_events(log, name, one.is_in, from_us=head.next_ingest_us, missing=missing)
            states += remover.remove()
        if count:
            events[name] = count
    letters = {name: remove_letters(letters_file(data, name), one.is_held_by) for name in sources}
    services = catalog.services_ever()
    asked = {name: found for name in services if (found := _asked(catalog, name, entity, one))}
    removed = served.forget(asked)
    return Forgotten(
        entity=entity,
        states=tuple(states),
        events=events,
        served=removed,
        dead_letters={name: found.count for name, found in letters.items() if found.count},
        unreachable=(
            *_outside(sources, settings),
            *_unreadable(letters, data),
            *_left(sources.keys() & pushed, settings, store),
            *_elsewhere(folders, missing),
            *_unknown_services(set(served.services()) - set(services)),
            *_unread(pushed - {view.source.name for view in everything.values()}),
            *_otherwise(ever, one),
            *_others(entity, views, everything.values()),
            *_records(asked, registry),
        ),
    )


@dataclass(frozen=True)
class _EntityKeys:
    """The entity in question.

    Its keys may have had other dtypes in other plans, and in events that were pushed then. In another plan a value is
    the same if it becomes one of that dtype and comes back as it was. An event is the entity's if one of these plans
    reads it so.

    Attributes:
        keys: Its keys by name, in the dtypes of the newest plan that takes them.
        variants: Its keys in the dtypes of all plans that can have it, each once.
    """

    keys: Mapping[str, pa.Scalar]
    variants: Sequence[Mapping[str, pa.Scalar]]

    @classmethod
    def read(cls, views: Sequence[ViewPlan], given: Mapping[str, Any]) -> _EntityKeys:
        """Read the keys of an entity.

        Args:
            views: Every plan of the entity's views, newest first.
            given: What was given as keys.

        Raises:
            RequestError: No plan has, or had, such keys.
        """
        named = [view for view in views if _names(view) == set(given)]
        if not named:
            known = " or ".join(dict.fromkeys(map(_key_names, views)))
            raise RequestError(
                f"got the keys {', '.join(map(repr, given)) or 'none'}",
                field="/keys",
                hint=f"The keys of entity '{views[0].entity.name}' are {known}.",
                code="wrong-keys",
            )
        wrong: list[RequestError] = []
        for view in named:
            try:
                keys = {key.name: _scalar(key, given[key.name]) for key in view.entity.keys}
            except RequestError as error:
                wrong.append(error)
                continue
            shapes = dict.fromkeys(frozenset((key.name, key.dtype) for key in view.entity.keys) for view in named)
            found = ({name: _same(keys[name], dtype.arrow) for name, dtype in shape} for shape in shapes)
            return cls(keys, [variant for variant in found if None not in variant.values()])
        raise wrong[0]

    def keys_in(self, view: ViewPlan) -> dict[str, Any] | None:
        """Return the keys as values of a plan's dtypes, in its order; ``None`` if it cannot have such an entity."""
        if _names(view) != set(self.keys):
            return None
        found: dict[str, Any] = {}
        for key in view.entity.keys:
            value = _same(self.keys[key.name], key.dtype.arrow)
            if value is None:
                return None
            found[key.name] = read_value(key.dtype, value.as_py())
        return found

    def is_in(self, table: pa.Table) -> pa.Array:
        """Tell which events of a table are the entity's."""
        found = pa.repeat(pa.scalar(False), table.num_rows)
        if set(self.keys) <= set(table.column_names):
            for variant in self.variants:
                mask = pa.repeat(pa.scalar(True), table.num_rows)
                for name, value in variant.items():
                    mask = pc.and_(mask, _reads_as(table.column(name).combine_chunks(), value))
                found = pc.or_(found, mask)
        return found

    def is_held_by(self, events: Any) -> bool:
        """Tell whether a message holds an event of the entity, as far as it is one.

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
            all(name in event and _is_given(event[name], value) for name, value in variant.items())
            for variant in self.variants
        )


def _is_given(given: Any, value: pa.Scalar) -> bool:
    """Tell whether a value of JSON is a key, or is written as it is."""
    dtype, own = from_arrow(value.type), value.as_py()
    assert dtype is not None
    try:
        return bool(read_value(dtype, given) == own)
    except ValueError:
        return str(given) == str(own)


def _reads_as(column: pa.Array, value: pa.Scalar) -> pa.Array:
    """Tell which values of a column are read as a value of a type that the column may not have."""
    dtype = from_arrow(value.type)
    assert dtype is not None
    try:
        return pc.equal(to_contract(column, dtype, timezone=None, where="events")[0], value).fill_null(False)
    except SourceDataError:
        if len(column) == 1:
            return pa.array([False])
    # Some values are none of the dtype: each is looked at by itself, however often it is there.
    known = pc.unique(column)
    wanted = [_reads_as(known.slice(place, 1), value)[0].as_py() for place in range(len(known))]
    return pc.is_in(column, known.filter(pa.array(wanted, pa.bool_())))


def _scalar(key: Column, given: Any) -> pa.Scalar:
    try:
        value = read_value(key.dtype, given)
    except ValueError as error:
        raise RequestError(str(error), field=json_pointer("keys", key.name), code="wrong-dtype") from None
    if value is None:
        raise RequestError("a key is never null", field=json_pointer("keys", key.name), code="null-key")
    return pa.scalar(value, key.dtype.arrow)


def _same(value: pa.Scalar, kind: pa.DataType) -> pa.Scalar | None:
    """Return a value in another type; ``None`` if none of that type is the same."""
    try:
        found = value.cast(kind)
        return found if found.cast(value.type).equals(value) else None
    except pa.ArrowException:
        return None


def _names(view: ViewPlan) -> set[str]:
    return {key.name for key in view.entity.keys}


def _key_names(view: ViewPlan) -> str:
    return ", ".join(repr(key.name) for key in view.entity.keys)


@dataclass(frozen=True)
class _Remover:
    """Removes the states of an entity that were made of the events of one source.

    Attributes:
        views: The views that read it, in all their plans.
        one: The entity.
        source: Its definition; ``None`` if that is not to be had any more.
        store: Where states are kept.
        settings: What reading may use.
        wait_seconds: How long to wait for a run on a view to end.
    """

    views: Sequence[ViewPlan]
    one: _EntityKeys
    source: Source | None
    store: OnlineStore
    settings: ReadSettings
    wait_seconds: float

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold off runs and pushes: what they have read is written before, or they read what is left after."""
        views = sorted(self.views, key=lambda view: view.fingerprint)
        with ExitStack() as stack:
            for view in views:
                name = run_lock(view.fingerprint)
                stack.enter_context(hold_lock(self.store, name, wait_seconds=self.wait_seconds, backoff=LONG_WAITS))
            stack.enter_context(folding(views, self.store))
            yield

    def remove(self) -> Iterator[ForgottenState]:
        """Remove the states; give those that were there."""
        source = self.source
        is_outside = source is None or not source.stream or not has_nothing_outside(source, self.settings)
        for view in self.views:
            is_rebuilt = is_outside or self._repeats_ids(view)
            if self._remove_of(view, is_outside=is_rebuilt):
                yield ForgottenState(view.name, view.fingerprint, is_rebuilt)

    def _repeats_ids(self, view: ViewPlan) -> bool:
        """Tell whether the log may hold another delivery of an event that was removed: it may count now."""
        column = id_column(view.source)
        if column is None or self.source is None or self.settings.event_log is None:
            return False
        return self.settings.event_log.unique_from_us(self.source.name, column) > NOTHING_YET

    def _remove_of(self, view: ViewPlan, *, is_outside: bool) -> bool:
        """Remove the states in all generations of a view; tell whether there was one.

        The record is changed before and after: what was read of the states before is not written any more, whatever
        became of the locks. A rebuild is asked for before, so that it is if this dies half-way.
        """
        keys = self.one.keys_in(view)
        assert keys is not None
        encoded = key_encoder([key.dtype for key in view.entity.keys])(list(keys.values()))
        assert encoded is not None
        stored = self.store.read([record_key(view)]).get(record_key(view))
        generation = decode_record(view, stored).generation
        generations = range(max(0, generation - 1), generation + 2)
        # Keys say themselves where they end, so none but these begin with these bytes.
        found = self.store.read([state_prefix(view, generation) + encoded for generation in generations])
        if not found:
            return False
        count = decode_record(view, stored).states
        stored = self._mark(view, stored, UNCOUNTED, is_outside=is_outside)
        for key in found:
            self.store.delete(key)
        removed = sum(key.startswith(state_prefix(view, generation)) for key in found)
        count = count if count == UNCOUNTED else count - removed
        self._mark(view, stored, count, is_outside=is_outside)
        return True

    def _mark(self, view: ViewPlan, stored: bytes | None, states: int, *, is_outside: bool) -> bytes:
        """Note in a view's record that states are removed, and how many are left; return its stored form."""
        record = decode_record(view, stored)
        record = msgspec.structs.replace(record, forgets=record.forgets + 1, states=states)
        if is_outside:
            record = msgspec.structs.replace(record, rows_below=ENTITY_FORGOTTEN, filling=None)
        marked = encode_record(record)
        self.store.write([(record_key(view), marked)], expected={record_key(view): stored})
        return marked


def _asked(catalog: Catalog, service: str, entity: str, one: _EntityKeys) -> list[dict[str, Any]]:
    """Return the columns and values by which a service was ever asked about an entity: under every role it plays."""
    found: list[dict[str, Any]] = []
    for plan in catalog.past_plans(service):
        for use in plan.uses:
            keys = one.keys_in(use.view) if use.view.entity.name == entity else None
            role = None if keys is None else dict(zip(use.keys, keys.values(), strict=True))
            if role is not None and role not in found:
                found.append(role)
    return found


def _outside(sources: Mapping[str, Source | None], settings: ReadSettings) -> Iterator[str]:
    """Say what sources hold that are not ours."""
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


def _unreadable(letters: Mapping[str, RemovedLetters], data: Path) -> Iterator[str]:
    """Say where messages lie that nobody can read."""
    for name, found in letters.items():
        if found.unreadable:
            yield (
                f"{letters_file(data, name)} holds {found.unreadable} messages that cannot be read: "
                "look for its keys there, or delete the file"
            )


def _left(pushed: Collection[str], settings: ReadSettings, store: OnlineStore) -> Iterator[str]:
    """Say where databases may still have what was deleted."""
    log = settings.event_log if pushed else None
    yield from filter(None, dict.fromkeys(["" if log is None else log.what_is_left(), what_is_left(store)]))


def _elsewhere(folders: DataFolders, missing: Iterable[str]) -> Iterator[str]:
    """Say what lies on other machines: served rows, dead letters and compacted events in their data folders."""
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
    """Say of which services rows are kept that cannot be read as answers about an entity."""
    for service in sorted(services):
        yield f"the serving log holds rows of service '{service}', which was never applied: look there for its keys"


def _unread(sources: Iterable[str]) -> Iterator[str]:
    """Say which logs hold events of which no view says whose they are."""
    for name in sorted(sources):
        yield f"source '{name}' accepted pushes and no feature view ever read it: its events in the log are as before"


def _otherwise(ever: Sequence[ViewPlan], one: _EntityKeys) -> Iterator[str]:
    """Say by which other keys the entity's views are kept, or were."""
    others = [view for view in ever if _names(view) != set(one.keys)]
    for name, names in sorted({(view.name, _key_names(view)) for view in others}):
        yield (
            f"feature view '{name}' is, or was, kept by {names}: forget what these keys name, too, "
            "or materialize it anew (full=True)"
        )


def _others(entity: str, views: Sequence[ViewPlan], everything: Iterable[ViewPlan]) -> Iterator[str]:
    """Say which other entities' values may contain events of this one, and which entities contain its key."""
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


def _records(services: Iterable[str], registry: Registry) -> Iterator[str]:
    """Say what was written down about answers."""
    for service in services:
        if registry.audits(service, limit=1):
            yield f"audits of service '{service}' in the registry may name its keys and values"
        if registry.drifts(service, limit=1):
            yield f"drift reports of service '{service}' in the registry may name its values"
    yield "training sets and backups made before keep its rows; where they lie is not known here"
