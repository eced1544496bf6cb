"""The registry: applied objects with their history, materialize runs, audits. One database, no migrations.

Tables are made when they are absent, and a version says what shape they have. Objects are JSON text here: the registry
does not look into plans. What it must not know: how plans are compiled or evaluated, and online state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from types import TracebackType
from typing import Any

import sqlalchemy as sa

from featurestore.database import failures, for_writing, open_database
from featurestore.errors import RegistryError
from featurestore.registry.records import Applied, AuditRecord, Change, Draft, Kind, Outcome, RunRecord

SCHEMA_VERSION = 1
"""Raise it when a table changes its shape."""

_WHERE = "registry"
_METADATA = sa.MetaData()
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_META = sa.Table(
    "registry_meta",
    _METADATA,
    sa.Column("name", sa.String(50), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)
_OBJECTS = sa.Table(
    "registry_objects",
    _METADATA,
    sa.Column("kind", sa.String(20), primary_key=True),
    sa.Column("name", sa.String(500), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("applied_at_us", sa.BigInteger, nullable=False),
)
_HISTORY = sa.Table(
    "registry_history",
    _METADATA,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("name", sa.String(500), nullable=False),
    sa.Column("outcome", sa.String(20), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("applied_at_us", sa.BigInteger, nullable=False),
    sa.Index("registry_history_by_name", "kind", "name", "id"),
    sa.Index("registry_history_by_fingerprint", "kind", "fingerprint"),
)
_RUNS = sa.Table(
    "registry_runs",
    _METADATA,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("view", sa.String(500), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("started_at_us", sa.BigInteger, nullable=False),
    sa.Column("finished_at_us", sa.BigInteger, nullable=False),
    sa.Column("from_us", sa.BigInteger, nullable=False),
    sa.Column("until_us", sa.BigInteger, nullable=False),
    sa.Column("event_count", sa.BigInteger, nullable=False),
    sa.Column("entity_count", sa.BigInteger, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Index("registry_runs_by_view", "view", "id"),
)
_AUDITS = sa.Table(
    "registry_audits",
    _METADATA,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("service", sa.String(500), nullable=False),
    sa.Column("since_us", sa.BigInteger, nullable=False),
    sa.Column("until_us", sa.BigInteger, nullable=False),
    sa.Column("ran_at_us", sa.BigInteger, nullable=False),
    sa.Column("verdict", sa.String(50), nullable=False),
    sa.Column("report", sa.Text, nullable=False),
    sa.Index("registry_audits_by_service", "service", "id"),
)
_REVISION = "revision"
_VERSION = "schema_version"


class Registry:
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
        self._engine = open_database(url, where=_WHERE)
        try:
            self._create()
        except RegistryError:
            self._engine.dispose()
            raise

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def __enter__(self) -> Registry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def revision(self) -> int:
        """A number that grows with every apply that changed something: equal numbers mean equal objects."""
        with self._reading() as connection:
            return connection.execute(_value_of(_REVISION)).scalar_one()

    def apply(self, drafts: Iterable[Draft], *, now_us: int, prune: bool) -> tuple[Change, ...]:
        """Make objects the applied ones, all of them or, on any failure, none.

        Args:
            drafts: The objects; one of each kind and name.
            now_us: Instant of the apply.
            prune: Whether objects that are applied but not among the drafts are removed. They stay in the history.

        Returns:
            What happened to each object, sorted by kind and name.

        Raises:
            RegistryError: The database failed; nothing was changed.
        """
        wanted = {(draft.kind, draft.name): draft for draft in drafts}
        with self._writing() as connection:
            # Taken first, so that two applies come one after the other on databases without a lock at BEGIN.
            connection.execute(sa.select(_META.c.value).where(_META.c.name == _REVISION).with_for_update())
            before = {(item.kind, item.name): item for item in _objects(connection, None)}
            changes = [_change(draft, before.get(key)) for key, draft in wanted.items()]
            gone = [item for key, item in before.items() if prune and key not in wanted]
            changes += [Change(item.kind, item.name, Outcome.REMOVED, None, item.fingerprint) for item in gone]
            for change in changes:
                item = wanted.get((change.kind, change.name)) or before[change.kind, change.name]
                _store(connection, change, item, now_us)
            if any(change.outcome is not Outcome.UNCHANGED for change in changes):
                connection.execute(_META.update().where(_META.c.name == _REVISION).values(value=_META.c.value + 1))
        order = list(Kind)
        return tuple(sorted(changes, key=lambda change: (order.index(change.kind), change.name)))

    def objects(self, kind: Kind) -> tuple[Applied, ...]:
        """Return all applied objects of a kind, sorted by name."""
        with self._reading() as connection:
            return _objects(connection, kind)

    def find(self, kind: Kind, name: str) -> Applied | None:
        """Return one applied object, ``None`` if there is none of that name."""
        with self._reading() as connection:
            where = (_OBJECTS.c.kind == kind) & (_OBJECTS.c.name == name)
            row = connection.execute(sa.select(_OBJECTS).where(where)).one_or_none()
        return None if row is None else _applied(row)

    def history(self, kind: Kind, name: str) -> tuple[Applied, ...]:
        """Return what was ever applied under a name, newest first; equal fingerprints may stand there repeatedly."""
        where = (_HISTORY.c.kind == kind) & (_HISTORY.c.name == name) & (_HISTORY.c.outcome != Outcome.REMOVED)
        with self._reading() as connection:
            rows = connection.execute(sa.select(_HISTORY).where(where).order_by(_HISTORY.c.id.desc())).all()
        return tuple(_applied(row) for row in rows)

    def add_runs(self, runs: Sequence[RunRecord]) -> None:
        """Store materialize runs."""
        self._insert(_RUNS, [asdict(run) for run in runs])

    def runs(self, view: str | None = None, *, limit: int = 100) -> tuple[RunRecord, ...]:
        """Return materialize runs, newest first.

        Args:
            view: Of this view only.
            limit: At most so many.
        """
        return tuple(RunRecord(**row) for row in self._newest(_RUNS, _RUNS.c.view, view, limit))

    def add_audit(self, audit: AuditRecord) -> None:
        """Store an audit."""
        self._insert(_AUDITS, [asdict(audit)])

    def audits(self, service: str | None = None, *, limit: int = 100) -> tuple[AuditRecord, ...]:
        """Return audits, newest first.

        Args:
            service: Of this service only.
            limit: At most so many.
        """
        return tuple(AuditRecord(**row) for row in self._newest(_AUDITS, _AUDITS.c.service, service, limit))

    def _insert(self, table: sa.Table, rows: list[dict[str, Any]]) -> None:
        if rows:
            with self._writing() as connection:
                connection.execute(table.insert(), rows)

    def _newest(
        self, table: sa.Table, column: sa.Column[Any], wanted: str | None, limit: int
    ) -> Iterator[dict[str, Any]]:
        query = sa.select(*(part for part in table.c if part.name != "id")).order_by(table.c.id.desc()).limit(limit)
        with self._reading() as connection:
            rows = connection.execute(query if wanted is None else query.where(column == wanted)).all()
        return (dict(row._mapping) for row in rows)

    def _create(self) -> None:
        """Make the tables unless they are there; reading comes first, so that a full registry needs no write."""
        with self._reading() as connection:
            version = _version(connection) if sa.inspect(connection).has_table(_META.name) else None
        if version is None:
            with self._writing() as connection:
                _METADATA.create_all(connection)
                version = _version(connection)
                if version is None:
                    version = SCHEMA_VERSION
                    starting = [{"name": _VERSION, "value": version}, {"name": _REVISION, "value": 0}]
                    connection.execute(_META.insert(), starting)
        if version != SCHEMA_VERSION:
            raise RegistryError(
                f"its tables have version {version}, this library reads {SCHEMA_VERSION}",
                where=_WHERE,
                hint="Use the version of the library that wrote them, or another registry URL.",
                code="registry-version",
            )

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with failures(_WHERE), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with failures(_WHERE), self._engine.connect() as connection, for_writing(connection).begin():
            yield connection


def _value_of(name: str) -> sa.Select[int]:
    return sa.select(_META.c.value).where(_META.c.name == name)


def _version(connection: sa.Connection) -> int | None:
    return connection.execute(_value_of(_VERSION)).scalar_one_or_none()


def _objects(connection: sa.Connection, kind: Kind | None) -> tuple[Applied, ...]:
    query = sa.select(_OBJECTS).order_by(_OBJECTS.c.kind, _OBJECTS.c.name)
    rows = connection.execute(query if kind is None else query.where(_OBJECTS.c.kind == kind)).all()
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
    """Write what one change makes of an object, and its line in the history."""
    if change.outcome is Outcome.UNCHANGED:
        return
    if change.outcome is not Outcome.ADDED:
        connection.execute(_OBJECTS.delete().where(_OBJECTS.c.kind == item.kind, _OBJECTS.c.name == item.name))
    values = {
        "kind": item.kind,
        "name": item.name,
        "fingerprint": item.fingerprint,
        "document": item.document,
        "applied_at_us": now_us,
    }
    if change.outcome is not Outcome.REMOVED:
        connection.execute(_OBJECTS.insert().values(**values))
    connection.execute(_HISTORY.insert().values(outcome=change.outcome, **values))
