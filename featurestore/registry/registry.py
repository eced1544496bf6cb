"""The registry: applied objects with their history, which plans are live, leases, and the journal. One database.

Objects are JSON text here: the registry does not look into plans. It must not know how plans are compiled or
evaluated, nor anything about online state.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any

import sqlalchemy as sa

from featurestore.core.errors import RegistryError
from featurestore.registry.journal import Journal, forget_old, insert
from featurestore.registry.leases import LEASE_SECONDS, RegistryLeases
from featurestore.registry.records import (
    Applied,
    Change,
    Draft,
    Kind,
    Live,
    LiveChange,
    Outcome,
)
from featurestore.registry.tables import (
    ANSWERING,
    HISTORY,
    LIVE,
    LIVE_CHANGES,
    META,
    OBJECTS,
    REVISION,
)
from featurestore.registry.versions import WHERE, prepare_tables, reading, value_of, writing
from featurestore.storage import Hold, LeaseHolder
from featurestore.storage.database import open_database

_KEPT_LIVE_CHANGES = 1_000
"""How many changes of the live plan of each service are kept."""

Check = Callable[[Mapping[tuple[Kind, str], Draft | Applied]], None]
"""Raises an error if the objects that would be applied contradict each other."""


class Registry(Journal):
    """The registry in one database. May be used from several threads and processes.

    Example:
        >>> with Registry("sqlite://") as registry:
        ...     changes = registry.apply([Draft(Kind.VIEW, "delays", "f1", "{}")], now_us=0, prune=True)
        ...     print(changes[0])
        added view 'delays' f1
    """

    def __init__(self, url: str) -> None:
        """Open a registry and make its tables if they are absent.

        Args:
            url: SQLAlchemy URL.

        Raises:
            RegistryError: The database cannot be used, or its tables are of another version.
        """
        super().__init__(open_database(url, where=WHERE))
        self._holder = LeaseHolder(RegistryLeases(self._engine, WHERE), LEASE_SECONDS, WHERE)
        try:
            prepare_tables(self._engine)
        except RegistryError:
            self._engine.dispose()
            raise

    def close(self) -> None:
        """Close all connections."""
        try:
            self._holder.close()
        finally:
            self._engine.dispose()

    def __enter__(self) -> Registry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def exclusive(self, name: str) -> AbstractContextManager[Hold]:
        """Hold a named lock among all processes that share the registry, by a lease that a thread renews.

        It is free again when it is released, and ``LEASE_SECONDS`` after its holder has died.

        Raises:
            StateError: Another process holds it (``busy``); or, when it is released, it was lost meanwhile
                (``lease-lost``).
            RegistryError: The database cannot be used.
        """
        return self._holder.hold(name)

    @property
    def revision(self) -> int:
        """A number that grows with every apply that changed something: equal numbers mean equal objects."""
        with reading(self._engine) as connection:
            return connection.execute(value_of(REVISION)).scalar_one()

    def apply(
        self,
        drafts: Iterable[Draft],
        *,
        now_us: int,
        prune: bool = False,
        remove: Collection[tuple[Kind, str]] = (),
        kept_live: Mapping[str, str] | None = None,
        changed_by: str = "",
        check: Check | None = None,
    ) -> tuple[Change, ...]:
        """Apply objects, all of them or, on any failure, none.

        Args:
            drafts: The objects; one of each kind and name.
            now_us: Instant of the apply.
            prune: Whether all objects that are applied but not among the drafts are removed. They stay in the history.
            remove: Kinds and names of objects to remove; those that are not applied are ignored. They stay in the
                history.
            kept_live: For services the fingerprint of the plan that stays live if the service changes here and its
                live plan was not decided before. ``None`` undoes earlier decisions about services that change here.
            changed_by: Name of the user that applies, for the history of live plans.
            check: Called with all objects that would be applied, in the transaction that applies them.

        Returns:
            The change of each object, sorted by kind and name.

        Raises:
            RegistryError: The database failed; nothing was changed.
            FeatureStoreError: The error of ``check``; nothing was changed.
        """
        wanted = {(draft.kind, draft.name): draft for draft in drafts}
        with writing(self._engine) as connection:
            # Locked first, so that applies are serial on databases without a lock at BEGIN.
            connection.execute(sa.select(META.c.value).where(META.c.name == REVISION).with_for_update())
            before = {(item.kind, item.name): item for item in _objects(connection, None)}
            changes = [_change(draft, before.get(key)) for key, draft in wanted.items()]
            gone = [item for key, item in before.items() if key not in wanted and (prune or key in remove)]
            if check is not None:
                left = {(item.kind, item.name) for item in gone}
                check({key: item for key, item in (before | wanted).items() if key not in left})
            changes += [Change(item.kind, item.name, Outcome.REMOVED, None, item.fingerprint) for item in gone]
            for change in changes:
                item = wanted.get((change.kind, change.name)) or before[change.kind, change.name]
                _store(connection, change, item, now_us)
            _keep_live(connection, changes, kept_live, now_us, changed_by)
            if any(change.outcome is not Outcome.UNCHANGED for change in changes):
                _revise(connection)
        order = list(Kind)
        return tuple(sorted(changes, key=lambda change: (order.index(change.kind), change.name)))

    def objects(self, kind: Kind) -> tuple[Applied, ...]:
        """Return all applied objects of a kind, sorted by name."""
        with reading(self._engine) as connection:
            return _objects(connection, kind)

    def find(self, kind: Kind, name: str) -> Applied | None:
        """Return one applied object, ``None`` if there is none of that name."""
        with reading(self._engine) as connection:
            where = (OBJECTS.c.kind == kind) & (OBJECTS.c.name == name)
            row = connection.execute(sa.select(OBJECTS).where(where)).one_or_none()
        return None if row is None else _applied(row)

    def history(self, kind: Kind, name: str | None = None) -> tuple[Applied, ...]:
        """Return all objects that were ever applied, newest first; a fingerprint may occur several times.

        Args:
            kind: The kind.
            name: Under this name only.
        """
        where = (HISTORY.c.kind == kind) & (HISTORY.c.outcome != Outcome.REMOVED)
        query = sa.select(HISTORY).where(where).order_by(HISTORY.c.id.desc())
        with reading(self._engine) as connection:
            rows = connection.execute(query if name is None else query.where(HISTORY.c.name == name)).all()
        return tuple(_applied(row) for row in rows)

    def removed(self, kind: Kind, name: str) -> Applied | None:
        """Return an object as it was when it was last removed, ``None`` if it is applied or never was."""
        of_name = (HISTORY.c.kind == kind) & (HISTORY.c.name == name)
        with reading(self._engine) as connection:
            row = connection.execute(sa.select(HISTORY).where(of_name).order_by(HISTORY.c.id.desc()).limit(1)).first()
        return None if row is None or row.outcome != Outcome.REMOVED else _applied(row)

    def removals(self, kind: Kind) -> tuple[Applied, ...]:
        """Return the objects of a kind that were removed and not applied again, as they were, latest removal first.

        Their ``applied_at_us`` is the instant of the removal.
        """
        newest = sa.select(sa.func.max(HISTORY.c.id)).where(HISTORY.c.kind == kind).group_by(HISTORY.c.name)
        query = sa.select(HISTORY).where(HISTORY.c.id.in_(newest), HISTORY.c.outcome == Outcome.REMOVED)
        with reading(self._engine) as connection:
            return tuple(_applied(row) for row in connection.execute(query.order_by(HISTORY.c.id.desc())))

    def live(self) -> dict[str, Live]:
        """Return which plans were last recorded as live, by service; also of services that are no longer applied."""
        with reading(self._engine) as connection:
            return {row.service: _live(row) for row in connection.execute(sa.select(LIVE))}

    def set_live(self, live: Live, *, verb: str, changed_by: str) -> None:
        """Decide which plan of a service is live; other processes notice it as they notice an apply.

        Args:
            live: The decision.
            verb: The command that decided, for the history.
            changed_by: Name of the user, for the history.

        Raises:
            RegistryError: The database failed; nothing was changed.
        """
        with writing(self._engine) as connection:
            connection.execute(sa.select(META.c.value).where(META.c.name == REVISION).with_for_update())
            _write_live(connection, live, verb, changed_by)
            _revise(connection)

    def record_live(self, service: str, change: LiveChange) -> bool:
        """Record that a plan went live by itself, unless another change was recorded or decided meanwhile.

        Args:
            service: Name of the service.
            change: The change; ``previous`` is the plan that was recorded before it, empty if none was.

        Returns:
            Whether it was recorded.
        """
        with writing(self._engine) as connection:
            connection.execute(sa.select(META.c.value).where(META.c.name == REVISION).with_for_update())
            row = connection.execute(sa.select(LIVE).where(LIVE.c.service == service)).one_or_none()
            known = None if row is None else _live(row)
            if (known.fingerprint if known else "") != change.previous or (known is not None and known.is_decided):
                return False
            live = Live(service, change.fingerprint, change.previous, change.changed_at_us, is_decided=False)
            live = live if known is None else replace(live, withdrawn=known.withdrawn)
            _write_live(connection, live, change.verb, change.changed_by)
            return True

    def live_changes(self, service: str | None = None, *, limit: int = 100) -> tuple[LiveChange, ...]:
        """Return the changes of live plans, newest first; of each service some hundred are kept.

        Args:
            service: Of this service only.
            limit: At most so many.
        """
        return tuple(LiveChange(**row) for row in self._newest(LIVE_CHANGES, LIVE_CHANGES.c.service, service, limit))

    def answering(self, kind: Kind, name: str) -> str | None:
        """Return the fingerprint of the plan that last went live by itself; ``None`` if none did.

        Args:
            kind: Service or view.
            name: Its name.
        """
        with reading(self._engine) as connection:
            query = sa.select(ANSWERING.c.fingerprint).where(ANSWERING.c.kind == kind, ANSWERING.c.name == name)
            return connection.execute(query).scalar()

    def set_answering(self, kind: Kind, name: str, fingerprint: str) -> None:
        """Record which plan has gone live by itself.

        Raises:
            RegistryError: The database failed; nothing was changed.
        """
        with writing(self._engine) as connection:
            connection.execute(sa.select(META.c.value).where(META.c.name == REVISION).with_for_update())
            connection.execute(ANSWERING.delete().where(ANSWERING.c.kind == kind, ANSWERING.c.name == name))
            connection.execute(ANSWERING.insert().values(kind=kind, name=name, fingerprint=fingerprint))


def _revise(connection: sa.Connection) -> None:
    connection.execute(META.update().where(META.c.name == REVISION).values(value=META.c.value + 1))


def _live(row: sa.Row[Any]) -> Live:
    stored = dict(row._mapping)
    withdrawn = tuple(json.loads(stored.pop("withdrawn")))
    return Live(**stored | {"is_decided": bool(stored["is_decided"])}, withdrawn=withdrawn)


def _write_live(connection: sa.Connection, live: Live, verb: str, changed_by: str) -> None:
    """Write which plan of a service is live, and its line in the history if that changes."""
    of_service = LIVE.c.service == live.service
    before = connection.execute(sa.select(LIVE.c.fingerprint).where(of_service)).scalar_one_or_none() or ""
    row = asdict(live) | {"is_decided": int(live.is_decided), "withdrawn": json.dumps(live.withdrawn)}
    connection.execute(LIVE.delete().where(of_service))
    connection.execute(LIVE.insert().values(**row))
    if before != live.fingerprint:
        change = LiveChange(live.service, before, live.fingerprint, live.changed_at_us, verb, changed_by)
        insert(connection, LIVE_CHANGES, asdict(change))
        alike = LIVE_CHANGES.c.service == live.service
        forget_old(connection, LIVE_CHANGES, alike, keep=_KEPT_LIVE_CHANGES)


def _keep_live(
    connection: sa.Connection,
    changes: Iterable[Change],
    kept_live: Mapping[str, str] | None,
    now_us: int,
    changed_by: str,
) -> None:
    """Decide which plans of changed services are live, or undo earlier decisions.

    The record of a removed service stays, so that applying it again brings its live plan back.
    """
    known = {row.service: _live(row) for row in connection.execute(sa.select(LIVE))}
    for change in changes:
        if change.kind is not Kind.SERVICE or change.outcome in (Outcome.UNCHANGED, Outcome.REMOVED):
            continue
        live = known.get(change.name)
        if kept_live is None:
            if live is not None and live.is_decided:
                _write_live(connection, replace(live, is_decided=False), "apply", changed_by)
        elif live is None or not live.is_decided:
            kept = kept_live.get(change.name) if change.outcome is Outcome.CHANGED else live and live.fingerprint
            if kept:
                base = live or Live(change.name, "", "", now_us)
                moved = base if kept == base.fingerprint else replace(base, previous=base.fingerprint, fingerprint=kept)
                pin = replace(moved, is_decided=True, changed_at_us=now_us)
                _write_live(connection, pin, "apply", changed_by)


def _objects(connection: sa.Connection, kind: Kind | None) -> tuple[Applied, ...]:
    query = sa.select(OBJECTS).order_by(OBJECTS.c.kind, OBJECTS.c.name)
    rows = connection.execute(query if kind is None else query.where(OBJECTS.c.kind == kind)).all()
    return tuple(_applied(row) for row in rows)


def _applied(row: sa.Row[Any]) -> Applied:
    return Applied(Kind(row.kind), row.name, row.fingerprint, row.document, row.applied_at_us)


def _change(draft: Draft, before: Applied | None) -> Change:
    if before is None:
        return Change(draft.kind, draft.name, Outcome.ADDED, draft.fingerprint, None)
    is_same = before.fingerprint == draft.fingerprint and before.document == draft.document
    outcome = Outcome.UNCHANGED if is_same else Outcome.CHANGED
    return Change(draft.kind, draft.name, outcome, draft.fingerprint, before.fingerprint)


def _store(connection: sa.Connection, change: Change, item: Draft | Applied, now_us: int) -> None:
    """Store an object as a change leaves it, and a line of its history."""
    if change.outcome is Outcome.UNCHANGED:
        return
    if change.outcome is not Outcome.ADDED:
        connection.execute(OBJECTS.delete().where(OBJECTS.c.kind == item.kind, OBJECTS.c.name == item.name))
    values = {
        "kind": item.kind,
        "name": item.name,
        "fingerprint": item.fingerprint,
        "document": item.document,
        "applied_at_us": now_us,
    }
    if change.outcome is not Outcome.REMOVED:
        connection.execute(OBJECTS.insert().values(**values))
    _forget_repeated(connection, change, item)
    connection.execute(HISTORY.insert().values(outcome=change.outcome, **values))


def _forget_repeated(connection: sa.Connection, change: Change, item: Draft | Applied) -> None:
    """Delete the older lines of an object's history that the next one repeats: only the newest of each plan is read.

    So the history grows with the number of different definitions, not with that of applies.
    """
    is_removal = change.outcome is Outcome.REMOVED
    of_name = (HISTORY.c.kind == item.kind) & (HISTORY.c.name == item.name)
    alike = (
        HISTORY.c.outcome == Outcome.REMOVED
        if is_removal
        else (HISTORY.c.outcome != Outcome.REMOVED) & (HISTORY.c.fingerprint == item.fingerprint)
    )
    connection.execute(HISTORY.delete().where(of_name & alike))
