"""The journal of the registry: what ran and what it found. Materialize runs, audits, drift, certificates, jobs, alerts.

Of each kind a bounded number of records is kept, the newest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from featurestore.core.errors import RegistryError
from featurestore.registry.records import (
    DONE,
    INTERRUPTED,
    RUNNING,
    AlertRecord,
    AuditRecord,
    CertificateRecord,
    DriftRecord,
    FileRead,
    JobRecord,
    RunRecord,
)
from featurestore.registry.tables import ALERTS, AUDITS, CERTIFICATES, DRIFTS, FILES, JOBS, META, REVISION, RUNS
from featurestore.registry.versions import WHERE, reading, writing

_KEPT_JOBS = 200
"""How many records of each job are kept."""

_KEPT_RUNS = 5_000
"""How many runs of each plan of a view are kept: three days of a run a minute, five times what an audit looks at."""

_KEPT_REPORTS = 1_000
"""How many audits of each kind, comparisons of distributions, and certificates of each service are kept."""


class Journal:
    """Records of what ran, in the database of a registry. May be used from several threads and processes."""

    def __init__(self, engine: sa.Engine) -> None:
        """Take the database, which has the registry's tables."""
        self._engine = engine

    def add_runs(self, runs: Sequence[RunRecord]) -> None:
        """Store materialize runs that have ended; of each plan some thousand are kept."""
        if runs:
            with writing(self._engine) as connection:
                connection.execute(RUNS.insert(), [asdict(run) for run in runs])
                for fingerprint in {run.fingerprint for run in runs}:
                    _forget_old_runs(connection, fingerprint)

    def begin_run(self, run: RunRecord) -> int:
        """Store a run that begins; runs of the same plan that are still recorded as active have died.

        Returns:
            Its number, for ``end_run``.
        """
        with writing(self._engine) as connection:
            of_plan = RUNS.update().where(RUNS.c.fingerprint == run.fingerprint, RUNS.c.outcome == RUNNING)
            connection.execute(of_plan.values(outcome=INTERRUPTED, problem="its process ended before it did"))
            number = insert(connection, RUNS, asdict(run))
            _forget_old_runs(connection, run.fingerprint)
            return number

    def end_run(self, number: int, run: RunRecord) -> None:
        """Store the end of a run that was begun."""
        with writing(self._engine) as connection:
            connection.execute(RUNS.update().where(RUNS.c.id == number).values(**asdict(run)))

    def keep_files(self, files: Sequence[FileRead]) -> str:
        """Store a list of files, equal ones once; return its digest, empty for an empty list."""
        if not files:
            return ""
        document = json.dumps([[file.path, file.size, file.mtime_ns, file.row_count] for file in files])
        digest = hashlib.sha256(document.encode()).hexdigest()
        with reading(self._engine) as connection:
            is_known = _has_files(connection, digest)
        if not is_known:
            with writing(self._engine) as connection:
                # Locked first, so that of two processes with the same list one sees the other's.
                connection.execute(sa.select(META.c.value).where(META.c.name == REVISION).with_for_update())
                if not _has_files(connection, digest):
                    connection.execute(FILES.insert().values(digest=digest, document=document))
        return digest

    def files_read(self, digest: str) -> tuple[FileRead, ...]:
        """Return the list of files with a digest; empty if there is none."""
        with reading(self._engine) as connection:
            query = sa.select(FILES.c.document).where(FILES.c.digest == digest)
            document = connection.execute(query).scalar_one_or_none()
        return () if document is None else tuple(FileRead(*file) for file in json.loads(document))

    def last_run(self, fingerprint: str) -> RunRecord | None:
        """Return the newest run of a view's plan that did not fail."""
        query = _runs().where(RUNS.c.fingerprint == fingerprint, RUNS.c.outcome == DONE)
        with reading(self._engine) as connection:
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
        """Store a record of a scheduled job; of each job some hundred are kept."""
        with writing(self._engine) as connection:
            insert(connection, JOBS, asdict(job))
            forget_old(connection, JOBS, JOBS.c.name == job.name, keep=_KEPT_JOBS)

    def jobs(self, name: str | None = None, *, limit: int = 100) -> tuple[JobRecord, ...]:
        """Return records of scheduled jobs, newest first.

        Args:
            name: Of this job only.
            limit: At most so many.
        """
        return tuple(JobRecord(**row) for row in self._newest(JOBS, JOBS.c.name, name, limit))

    def last_job(self, name: str, *, besides: Collection[str]) -> JobRecord | None:
        """Return the newest record of a job, ``None`` if there is none.

        Args:
            name: Name of the job.
            besides: Records with these outcomes are ignored.
        """
        query = sa.select(*(part for part in JOBS.c if part.name != "id")).order_by(JOBS.c.id.desc()).limit(1)
        with reading(self._engine) as connection:
            row = connection.execute(query.where(JOBS.c.name == name, JOBS.c.outcome.not_in(besides))).one_or_none()
        return None if row is None else JobRecord(**row._mapping)

    def last_jobs(self, *, besides: str) -> tuple[JobRecord, ...]:
        """Return the newest record of each job that was ever scheduled, sorted by name.

        Args:
            besides: Records with this outcome are ignored.
        """
        newest = sa.select(sa.func.max(JOBS.c.id)).where(JOBS.c.outcome != besides).group_by(JOBS.c.name)
        query = sa.select(*(part for part in JOBS.c if part.name != "id")).where(JOBS.c.id.in_(newest))
        with reading(self._engine) as connection:
            return tuple(JobRecord(**row._mapping) for row in connection.execute(query.order_by(JOBS.c.name)))

    def set_alert(self, alert: AlertRecord) -> None:
        """Store the state of an alert, in place of the earlier one of the same job and channel."""
        row = asdict(alert) | {"told": json.dumps(alert.told)}
        same = (ALERTS.c.job == alert.job) & (ALERTS.c.way == alert.way)
        with writing(self._engine) as connection:
            if not connection.execute(ALERTS.update().where(same).values(**row)).rowcount:
                connection.execute(ALERTS.insert().values(**row))

    def alerts(self, job: str | None = None) -> tuple[AlertRecord, ...]:
        """Return the state of all alerts, sorted by job and channel.

        Args:
            job: Of this job only.
        """
        query = sa.select(ALERTS).order_by(ALERTS.c.job, ALERTS.c.way)
        with reading(self._engine) as connection:
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
        """Store one record and delete the oldest of its service beyond those that are kept; return its number."""
        row = asdict(record)
        del row["id"]
        alike = table.c.service == record.service
        if isinstance(record, AuditRecord):
            alike &= table.c.kind == record.kind
        with writing(self._engine) as connection:
            number = insert(connection, table, row)
            forget_old(connection, table, alike, keep=_KEPT_REPORTS)
            return number

    def _of_service(
        self, table: sa.Table, service: str | None, limit: int, *conditions: sa.ColumnElement[bool]
    ) -> list[dict[str, Any]]:
        """Return the newest records of a service, with their numbers."""
        query = sa.select(table).where(*conditions).order_by(table.c.id.desc()).limit(limit)
        with reading(self._engine) as connection:
            rows = connection.execute(query if service is None else query.where(table.c.service == service)).all()
        return [dict(row._mapping) for row in rows]

    def _numbered(self, table: sa.Table, number: int, kind: str) -> dict[str, Any]:
        with reading(self._engine) as connection:
            row = connection.execute(sa.select(table).where(table.c.id == number)).one_or_none()
        if row is None:
            hint = f"List the {kind}s that are kept."
            raise RegistryError(f"there is no {kind} {number}", where=WHERE, hint=hint, code=f"unknown-{kind}")
        return dict(row._mapping)

    def _newest(
        self, table: sa.Table, column: sa.Column[Any], wanted: str | None, limit: int
    ) -> Iterator[dict[str, Any]]:
        query = sa.select(*(part for part in table.c if part.name != "id")).order_by(table.c.id.desc()).limit(limit)
        with reading(self._engine) as connection:
            rows = connection.execute(query if wanted is None else query.where(column == wanted)).all()
        return (dict(row._mapping) for row in rows)


def _has_files(connection: sa.Connection, digest: str) -> bool:
    return connection.execute(sa.select(FILES.c.digest).where(FILES.c.digest == digest)).first() is not None


def _runs() -> sa.Select[Any]:
    return sa.select(*(part for part in RUNS.c if part.name != "id")).order_by(RUNS.c.id.desc())


def insert(connection: sa.Connection, table: sa.Table, row: Mapping[str, Any]) -> int:
    """Insert one row; return its number."""
    key = connection.execute(table.insert().values(**row)).inserted_primary_key
    assert key is not None
    return int(key[0])


def forget_old(
    connection: sa.Connection, table: sa.Table, alike: sa.ColumnElement[bool], *, keep: int
) -> Sequence[sa.Row[Any]]:
    """Delete the oldest rows of a group beyond those that are kept; return the deleted rows.

    Args:
        connection: The connection.
        table: The table, whose ``id`` grows.
        alike: The condition of the group.
        keep: How many rows are kept.
    """
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
    old = forget_old(connection, RUNS, RUNS.c.fingerprint == fingerprint, keep=_KEPT_RUNS)
    for digest in {run.files for run in old if run.files}:
        if connection.execute(sa.select(RUNS.c.id).where(RUNS.c.files == digest).limit(1)).first() is None:
            connection.execute(FILES.delete().where(FILES.c.digest == digest))
