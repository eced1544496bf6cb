"""The registry: applied objects with their history, materialize runs, audits, drift, leases. One database.

Tables are made when they are absent, and a version says what shape they have; those of versions before are brought
up to it when they are opened. Objects are JSON text here: the registry
does not look into plans. What it must not know: how plans are compiled or evaluated, and online state.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any

import sqlalchemy as sa

from featurestore.core.errors import RegistryError
from featurestore.registry.leases import LEASE_SECONDS, RegistryLeases
from featurestore.registry.records import (
    DONE,
    INTERRUPTED,
    RUNNING,
    AlertRecord,
    Applied,
    AuditRecord,
    CertificateRecord,
    Change,
    Draft,
    DriftRecord,
    FileRead,
    JobRecord,
    Kind,
    Live,
    LiveChange,
    Outcome,
    RunRecord,
)
from featurestore.registry.tables import (
    ALERTS,
    ANSWERING,
    AUDIT_COLUMNS_SINCE_5,
    AUDITS,
    CERTIFICATES,
    DRIFTS,
    FILES,
    HISTORY,
    JOBS,
    LIVE,
    LIVE_CHANGES,
    LIVE_COLUMNS_SINCE_7,
    META,
    METADATA,
    OBJECTS,
    REVISION,
    RUN_COLUMNS_SINCE_2,
    RUNS,
    SCHEMA_VERSION,
    VERSION,
)
from featurestore.storage import Hold, LeaseHolder
from featurestore.storage.database import failures, for_writing, open_database

_WHERE = "registry"
_KEPT_JOBS = 200
"""How many records of each job are kept."""

_KEPT_RUNS = 5_000
"""How many runs of each plan of a view are kept: three days of a run a minute, five times what an audit looks at."""

_KEPT_REPORTS = 1_000
"""How many audits of each kind, comparisons of distributions, and certificates of each service are kept."""

_KEPT_LIVE_CHANGES = 1_000
"""How many changes of the live plan of each service are kept."""

Check = Callable[[Mapping[tuple[Kind, str], Draft | Applied]], None]
"""Raises an error if what would be applied does not fit together."""


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
        self._holder = LeaseHolder(RegistryLeases(self._engine, _WHERE), LEASE_SECONDS, _WHERE)
        try:
            self._create()
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
        """Hold a name alone among all processes that share the registry, by a lease that a thread renews.

        It is free again when it is given back, and ``LEASE_SECONDS`` after its holder has died.

        Raises:
            StateError: Somebody else holds it; or, when it is given back, it was lost meanwhile.
            RegistryError: The database cannot be asked.
        """
        return self._holder.hold(name)

    @property
    def revision(self) -> int:
        """A number that grows with every apply that changed something: equal numbers mean equal objects."""
        with self._reading() as connection:
            return connection.execute(_value_of(REVISION)).scalar_one()

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
        """Make objects the applied ones, all of them or, on any failure, none.

        Args:
            drafts: The objects; one of each kind and name.
            now_us: Instant of the apply.
            prune: Whether all objects that are applied but not among the drafts are removed. They stay in the history.
            remove: Kinds and names of objects to remove; those that are not applied are ignored. They stay in the
                history.
            kept_live: For services the fingerprint of the plan that goes on answering if the service changes here and
                nobody decided about it before. ``None`` takes back what was decided about services that change here.
            changed_by: Who applies, for the history of live plans.
            check: Is given all objects that would be applied, in the transaction that applies them.

        Returns:
            What happened to each object, sorted by kind and name.

        Raises:
            RegistryError: The database failed; nothing was changed.
            FeatureStoreError: What ``check`` raised; nothing was changed.
        """
        wanted = {(draft.kind, draft.name): draft for draft in drafts}
        with self._writing() as connection:
            # Taken first, so that two applies come one after the other on databases without a lock at BEGIN.
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
        with self._reading() as connection:
            return _objects(connection, kind)

    def find(self, kind: Kind, name: str) -> Applied | None:
        """Return one applied object, ``None`` if there is none of that name."""
        with self._reading() as connection:
            where = (OBJECTS.c.kind == kind) & (OBJECTS.c.name == name)
            row = connection.execute(sa.select(OBJECTS).where(where)).one_or_none()
        return None if row is None else _applied(row)

    def history(self, kind: Kind, name: str | None = None) -> tuple[Applied, ...]:
        """Return what was ever applied, newest first; equal fingerprints may stand there repeatedly.

        Args:
            kind: The kind.
            name: Under this name only.
        """
        where = (HISTORY.c.kind == kind) & (HISTORY.c.outcome != Outcome.REMOVED)
        query = sa.select(HISTORY).where(where).order_by(HISTORY.c.id.desc())
        with self._reading() as connection:
            rows = connection.execute(query if name is None else query.where(HISTORY.c.name == name)).all()
        return tuple(_applied(row) for row in rows)

    def removed(self, kind: Kind, name: str) -> Applied | None:
        """Return an object as it was when it was last removed, ``None`` if it is applied or never was."""
        of_name = (HISTORY.c.kind == kind) & (HISTORY.c.name == name)
        with self._reading() as connection:
            row = connection.execute(sa.select(HISTORY).where(of_name).order_by(HISTORY.c.id.desc()).limit(1)).first()
        return None if row is None or row.outcome != Outcome.REMOVED else _applied(row)

    def removals(self, kind: Kind) -> tuple[Applied, ...]:
        """Return the objects of a kind that were removed and not applied again, as they were, latest removal first.

        Their ``applied_at_us`` is the instant of the removal.
        """
        newest = sa.select(sa.func.max(HISTORY.c.id)).where(HISTORY.c.kind == kind).group_by(HISTORY.c.name)
        query = sa.select(HISTORY).where(HISTORY.c.id.in_(newest), HISTORY.c.outcome == Outcome.REMOVED)
        with self._reading() as connection:
            return tuple(_applied(row) for row in connection.execute(query.order_by(HISTORY.c.id.desc())))

    def live(self) -> dict[str, Live]:
        """Return which plans were last recorded as live, by service; also of services that are not applied any more."""
        with self._reading() as connection:
            return {row.service: _live(row) for row in connection.execute(sa.select(LIVE))}

    def set_live(self, live: Live, *, verb: str, changed_by: str) -> None:
        """Decide which plan of a service answers; every process sees it as it sees an apply.

        Args:
            live: The decision.
            verb: What was called for it, for the history.
            changed_by: Who did, for the history.

        Raises:
            RegistryError: The database failed; nothing was changed.
        """
        with self._writing() as connection:
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
        with self._writing() as connection:
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
        """Return the fingerprint of the plan that went live by itself last; ``None`` if none has.

        Args:
            kind: Service or view.
            name: Its name.
        """
        with self._reading() as connection:
            found = sa.select(ANSWERING.c.fingerprint).where(ANSWERING.c.kind == kind, ANSWERING.c.name == name)
            return connection.execute(found).scalar()

    def set_answering(self, kind: Kind, name: str, fingerprint: str) -> None:
        """Record which plan has gone live by itself.

        Raises:
            RegistryError: The database failed; nothing was changed.
        """
        with self._writing() as connection:
            connection.execute(sa.select(META.c.value).where(META.c.name == REVISION).with_for_update())
            connection.execute(ANSWERING.delete().where(ANSWERING.c.kind == kind, ANSWERING.c.name == name))
            connection.execute(ANSWERING.insert().values(kind=kind, name=name, fingerprint=fingerprint))

    def add_runs(self, runs: Sequence[RunRecord]) -> None:
        """Store materialize runs that have ended; of each plan some thousand are kept."""
        if runs:
            with self._writing() as connection:
                connection.execute(RUNS.insert(), [asdict(run) for run in runs])
                for fingerprint in {run.fingerprint for run in runs}:
                    _forget_old_runs(connection, fingerprint)

    def begin_run(self, run: RunRecord) -> int:
        """Store a run that begins; only one run of a plan is under way at a time, so others that say so have died.

        Returns:
            Its number, for ``end_run``.
        """
        with self._writing() as connection:
            of_plan = RUNS.update().where(RUNS.c.fingerprint == run.fingerprint, RUNS.c.outcome == RUNNING)
            connection.execute(of_plan.values(outcome=INTERRUPTED, problem="its process ended before it did"))
            number = _insert(connection, RUNS, asdict(run))
            _forget_old_runs(connection, run.fingerprint)
            return number

    def end_run(self, number: int, run: RunRecord) -> None:
        """Store how a run ended that was begun."""
        with self._writing() as connection:
            connection.execute(RUNS.update().where(RUNS.c.id == number).values(**asdict(run)))

    def keep_files(self, files: Sequence[FileRead]) -> str:
        """Keep a list of files, once however often it is given; return what names it, empty for none."""
        if not files:
            return ""
        document = json.dumps([[file.path, file.size, file.mtime_ns, file.row_count] for file in files])
        digest = hashlib.sha256(document.encode()).hexdigest()
        with self._reading() as connection:
            is_known = _has_files(connection, digest)
        if not is_known:
            with self._writing() as connection:
                # Taken first, so that of two processes with the same list one sees the other's.
                connection.execute(sa.select(META.c.value).where(META.c.name == REVISION).with_for_update())
                if not _has_files(connection, digest):
                    connection.execute(FILES.insert().values(digest=digest, document=document))
        return digest

    def files_read(self, digest: str) -> tuple[FileRead, ...]:
        """Return a list of files by what names it; empty if there is none."""
        with self._reading() as connection:
            query = sa.select(FILES.c.document).where(FILES.c.digest == digest)
            document = connection.execute(query).scalar_one_or_none()
        return () if document is None else tuple(FileRead(*file) for file in json.loads(document))

    def last_run(self, fingerprint: str) -> RunRecord | None:
        """Return the newest run of a view's plan that did not fail."""
        query = _runs().where(RUNS.c.fingerprint == fingerprint, RUNS.c.outcome == DONE)
        with self._reading() as connection:
            row = connection.execute(query.limit(1)).one_or_none()
        return None if row is None else RunRecord(**row._mapping)

    def runs(self, view: str | None = None, *, limit: int = 100) -> tuple[RunRecord, ...]:
        """Return materialize runs, newest first.

        Args:
            view: Of this view only.
            limit: At most so many.
        """
        return tuple(RunRecord(**row) for row in self._newest(RUNS, RUNS.c.view, view, limit))

    def add_audit(self, audit: AuditRecord) -> int:
        """Store an audit; return its number."""
        return self._add(AUDITS, audit)

    def audits(
        self, service: str | None = None, *, kinds: Collection[str] | None = None, limit: int = 100
    ) -> tuple[AuditRecord, ...]:
        """Return audits, newest first.

        Args:
            service: Of this service only.
            kinds: Only of these kinds.
            limit: At most so many.
        """
        chosen = [] if kinds is None else [AUDITS.c.kind.in_(kinds)]
        return tuple(AuditRecord(**row) for row in self._of_service(AUDITS, service, limit, *chosen))

    def audit(self, number: int) -> AuditRecord:
        """Return one audit by its number.

        Raises:
            RegistryError: There is no such audit.
        """
        return AuditRecord(**self._numbered(AUDITS, number, "audit"))

    def add_drift(self, drift: DriftRecord) -> int:
        """Store a comparison of distributions; return its number."""
        return self._add(DRIFTS, drift)

    def drifts(self, service: str | None = None, *, limit: int = 100) -> tuple[DriftRecord, ...]:
        """Return comparisons of distributions, newest first.

        Args:
            service: Of this service only.
            limit: At most so many.
        """
        return tuple(DriftRecord(**row) for row in self._of_service(DRIFTS, service, limit))

    def drift(self, number: int) -> DriftRecord:
        """Return one comparison of distributions by its number.

        Raises:
            RegistryError: There is no such comparison.
        """
        return DriftRecord(**self._numbered(DRIFTS, number, "drift"))

    def add_job(self, job: JobRecord) -> None:
        """Store what became of a scheduled job; of each some hundred records are kept."""
        with self._writing() as connection:
            _insert(connection, JOBS, asdict(job))
            _forget_old(connection, JOBS, JOBS.c.name == job.name, keep=_KEPT_JOBS)

    def jobs(self, name: str | None = None, *, limit: int = 100) -> tuple[JobRecord, ...]:
        """Return what became of scheduled jobs, newest first.

        Args:
            name: Of this job only.
            limit: At most so many.
        """
        return tuple(JobRecord(**row) for row in self._newest(JOBS, JOBS.c.name, name, limit))

    def last_job(self, name: str, *, besides: Collection[str]) -> JobRecord | None:
        """Return the newest record of a job, ``None`` if there is none.

        Args:
            name: Name of the job.
            besides: Records with these outcomes do not count.
        """
        query = sa.select(*(part for part in JOBS.c if part.name != "id")).order_by(JOBS.c.id.desc()).limit(1)
        with self._reading() as connection:
            row = connection.execute(query.where(JOBS.c.name == name, JOBS.c.outcome.not_in(besides))).one_or_none()
        return None if row is None else JobRecord(**row._mapping)

    def last_jobs(self, *, besides: str) -> tuple[JobRecord, ...]:
        """Return the newest record of each job that was ever scheduled, sorted by name.

        Args:
            besides: Records with this outcome do not count.
        """
        newest = sa.select(sa.func.max(JOBS.c.id)).where(JOBS.c.outcome != besides).group_by(JOBS.c.name)
        query = sa.select(*(part for part in JOBS.c if part.name != "id")).where(JOBS.c.id.in_(newest))
        with self._reading() as connection:
            return tuple(JobRecord(**row._mapping) for row in connection.execute(query.order_by(JOBS.c.name)))

    def set_alert(self, alert: AlertRecord) -> None:
        """Store what people were told, in place of what they were told of the same before."""
        row = asdict(alert) | {"told": json.dumps(alert.told)}
        same = (ALERTS.c.job == alert.job) & (ALERTS.c.way == alert.way)
        with self._writing() as connection:
            if not connection.execute(ALERTS.update().where(same).values(**row)).rowcount:
                connection.execute(ALERTS.insert().values(**row))

    def alerts(self, job: str | None = None) -> tuple[AlertRecord, ...]:
        """Return what people were told last of everything, by every way, sorted.

        Args:
            job: About this only.
        """
        query = sa.select(ALERTS).order_by(ALERTS.c.job, ALERTS.c.way)
        with self._reading() as connection:
            rows = connection.execute(query if job is None else query.where(ALERTS.c.job == job)).all()
        return tuple(AlertRecord(**{**row._mapping, "told": tuple(json.loads(row.told))}) for row in rows)

    def add_certificate(self, certificate: CertificateRecord) -> None:
        """Store a certificate."""
        self._add(CERTIFICATES, certificate)

    def certificates(self, service: str | None = None, *, limit: int = 100) -> tuple[CertificateRecord, ...]:
        """Return certificates, newest first.

        Args:
            service: Of this service only.
            limit: At most so many.
        """
        return tuple(CertificateRecord(**row) for row in self._of_service(CERTIFICATES, service, limit))

    def _add(self, table: sa.Table, record: AuditRecord | CertificateRecord | DriftRecord) -> int:
        """Store one record and forget the oldest of its service beyond those that are kept; return its number."""
        row = asdict(record)
        del row["id"]
        alike = table.c.service == record.service
        if isinstance(record, AuditRecord):
            alike &= table.c.kind == record.kind
        with self._writing() as connection:
            number = _insert(connection, table, row)
            _forget_old(connection, table, alike, keep=_KEPT_REPORTS)
            return number

    def _of_service(
        self, table: sa.Table, service: str | None, limit: int, *conditions: sa.ColumnElement[bool]
    ) -> list[dict[str, Any]]:
        """Return the newest records of a service, with their numbers."""
        query = sa.select(table).where(*conditions).order_by(table.c.id.desc()).limit(limit)
        with self._reading() as connection:
            rows = connection.execute(query if service is None else query.where(table.c.service == service)).all()
        return [dict(row._mapping) for row in rows]

    def _numbered(self, table: sa.Table, number: int, what: str) -> dict[str, Any]:
        with self._reading() as connection:
            row = connection.execute(sa.select(table).where(table.c.id == number)).one_or_none()
        if row is None:
            hint = f"List the {what}s that are kept."
            raise RegistryError(f"there is no {what} {number}", where=_WHERE, hint=hint, code=f"unknown-{what}")
        return dict(row._mapping)

    def _newest(
        self, table: sa.Table, column: sa.Column[Any], wanted: str | None, limit: int
    ) -> Iterator[dict[str, Any]]:
        query = sa.select(*(part for part in table.c if part.name != "id")).order_by(table.c.id.desc()).limit(limit)
        with self._reading() as connection:
            rows = connection.execute(query if wanted is None else query.where(column == wanted)).all()
        return (dict(row._mapping) for row in rows)

    def _create(self) -> None:
        """Make or complete the tables if need be; reading comes first, so that a full registry needs no write."""
        version = self._known_version() or self._made()
        if version < SCHEMA_VERSION:
            with self._writing() as connection:
                version = _brought_up(connection)
        if version != SCHEMA_VERSION:
            raise RegistryError(
                f"its tables have version {version}, this library reads {SCHEMA_VERSION}",
                where=_WHERE,
                hint="Use the version of the library that wrote them, or another registry URL.",
                code="registry-version",
            )

    def _known_version(self) -> int | None:
        """Return the version of the tables, ``None`` if there are none."""
        with self._reading() as connection:
            return _version(connection) if sa.inspect(connection).has_table(META.name) else None

    def _made(self) -> int:
        """Make the tables, unless another process does at the same time; return their version.

        Raises:
            RegistryError: They cannot be made.
        """
        try:
            with self._writing() as connection:
                METADATA.create_all(connection)
                version = _version(connection)
                if version is None:
                    version = SCHEMA_VERSION
                    starting = [{"name": VERSION, "value": version}, {"name": REVISION, "value": 0}]
                    connection.execute(META.insert(), starting)
        except RegistryError:  # where the other was faster its tables are there now
            version = self._known_version()
            if version is None:
                raise
        return version

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with failures(_WHERE), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with failures(_WHERE), self._engine.connect() as connection, for_writing(connection).begin():
            yield connection


def _value_of(name: str) -> sa.Select[int]:
    return sa.select(META.c.value).where(META.c.name == name)


def _version(connection: sa.Connection) -> int | None:
    return connection.execute(_value_of(VERSION)).scalar_one_or_none()


def _revise(connection: sa.Connection) -> None:
    connection.execute(META.update().where(META.c.name == REVISION).values(value=META.c.value + 1))


def _brought_up(connection: sa.Connection) -> int:
    """Add what this version has more than those before, unless another process did so meanwhile; return the version."""
    version = connection.execute(_value_of(VERSION).with_for_update()).scalar_one()
    if version < SCHEMA_VERSION:
        METADATA.create_all(connection)
        _add_columns(connection, RUNS, RUN_COLUMNS_SINCE_2)
        _add_columns(connection, AUDITS, AUDIT_COLUMNS_SINCE_5)
        _add_columns(connection, LIVE, LIVE_COLUMNS_SINCE_7)
        _add_indexes(connection)
        _say_kinds(connection)
        connection.execute(META.update().where(META.c.name == VERSION).values(value=SCHEMA_VERSION))
    return max(version, SCHEMA_VERSION)


def _add_columns(connection: sa.Connection, table: sa.Table, names: Iterable[str]) -> None:
    """Add the columns that a table of a version before does not have."""
    known = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
    for name in (name for name in names if name not in known):
        column = sa.schema.CreateColumn(table.c[name]).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {column}")


def _add_indexes(connection: sa.Connection) -> None:
    """Add the indexes that tables of a version before do not have."""
    inspector = sa.inspect(connection)
    for table in METADATA.sorted_tables:
        known = {index["name"] for index in inspector.get_indexes(table.name)}
        for index in table.indexes:
            if index.name not in known:
                index.create(connection)


def _say_kinds(connection: sa.Connection) -> None:
    """Take the kinds of audits out of their reports, where alone they stood up to version 4."""
    for number in connection.execute(sa.select(AUDITS.c.id)).scalars().all():
        report = connection.execute(sa.select(AUDITS.c.report).where(AUDITS.c.id == number)).scalar_one()
        with suppress(ValueError):  # what is no report is no report of another system's log either
            kind = json.loads(report).get("kind", "log")
            connection.execute(AUDITS.update().where(AUDITS.c.id == number).values(kind=kind))


def _has_files(connection: sa.Connection, digest: str) -> bool:
    return connection.execute(sa.select(FILES.c.digest).where(FILES.c.digest == digest)).first() is not None


def _runs() -> sa.Select[Any]:
    return sa.select(*(part for part in RUNS.c if part.name != "id")).order_by(RUNS.c.id.desc())


def _insert(connection: sa.Connection, table: sa.Table, row: Mapping[str, Any]) -> int:
    """Insert one row; return its number."""
    key = connection.execute(table.insert().values(**row)).inserted_primary_key
    assert key is not None
    return int(key[0])


def _forget_old(
    connection: sa.Connection, table: sa.Table, alike: sa.ColumnElement[bool], *, keep: int
) -> Sequence[sa.Row[Any]]:
    """Delete the oldest of the rows that are alike, so that so many are left; return the deleted rows."""
    newest = sa.select(table.c.id).where(alike).order_by(table.c.id.desc())
    oldest = connection.execute(newest.offset(keep).limit(1)).scalar_one_or_none()
    if oldest is None:
        return ()
    old = alike & (table.c.id <= oldest)
    rows = connection.execute(sa.select(table).where(old)).all()
    connection.execute(table.delete().where(old))
    return rows


def _forget_old_runs(connection: sa.Connection, fingerprint: str) -> None:
    """Delete the oldest runs of a plan beyond those that are kept, and the lists of files that no run names then."""
    old = _forget_old(connection, RUNS, RUNS.c.fingerprint == fingerprint, keep=_KEPT_RUNS)
    for digest in {run.files for run in old if run.files}:
        if connection.execute(sa.select(RUNS.c.id).where(RUNS.c.files == digest).limit(1)).first() is None:
            connection.execute(FILES.delete().where(FILES.c.digest == digest))


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
        _insert(connection, LIVE_CHANGES, asdict(change))
        alike = LIVE_CHANGES.c.service == live.service
        _forget_old(connection, LIVE_CHANGES, alike, keep=_KEPT_LIVE_CHANGES)


def _keep_live(
    connection: sa.Connection,
    changes: Iterable[Change],
    kept_live: Mapping[str, str] | None,
    now_us: int,
    changed_by: str,
) -> None:
    """Decide which plans of changed services answer, or take back what was decided.

    What is known of a removed service stays, so that applying it again brings back what answered.
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
    """Write what one change makes of an object, and its line in the history."""
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
