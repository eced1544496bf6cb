"""Records of the registry, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from featurestore.core.temporal import format_instant

DONE = "done"
FAILED = "failed"
RUNNING = "running"
INTERRUPTED = "interrupted"
"""Outcomes of a run; the first two also of a job."""

MISSED = "missed"
"""Outcome of a job that fell due and did not run: it was still running, or no process ran."""

SKIPPED = "skipped"
"""Outcome of a job that may not do its work as the store is configured; its text explains it."""

PLANNED = "planned"
"""Outcome of a job that waits for its first time."""

REMOVED = "removed"
"""Outcome of a job that is no longer scheduled."""


class Kind(StrEnum):
    """Kinds of applied objects."""

    SOURCE = "source"
    VIEW = "view"
    SERVICE = "service"


class Outcome(StrEnum):
    """The outcome of an apply for one object."""

    ADDED = "added"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    REMOVED = "removed"


@dataclass(frozen=True)
class Draft:
    """An object to apply.

    Attributes:
        kind: What it is.
        name: Its name, unique among its kind.
        fingerprint: Hash of everything that can change a value; for a source, of its place and the way it is read.
        document: Its canonical JSON.
    """

    kind: Kind
    name: str
    fingerprint: str
    document: str


@dataclass(frozen=True)
class Applied:
    """An object as it was applied.

    Attributes:
        kind: What it is.
        name: Its name.
        fingerprint: Hash of what can change a value.
        document: Its canonical JSON.
        applied_at_us: Instant of the apply that brought this document.
    """

    kind: Kind
    name: str
    fingerprint: str
    document: str
    applied_at_us: int


@dataclass(frozen=True)
class Change:
    """What an apply did to one object.

    Attributes:
        kind: What it is.
        name: Its name.
        outcome: Added, changed, unchanged or removed.
        fingerprint: Its fingerprint after the apply; ``None`` if it was removed.
        previous: Its fingerprint before; ``None`` if it was added. Equal to ``fingerprint`` although changed means that
            no value changes, only the order of columns or a name that is not part of the answer.
    """

    kind: Kind
    name: str
    outcome: Outcome
    fingerprint: str | None
    previous: str | None

    def __str__(self) -> str:
        shown = (self.previous, self.fingerprint) if self.outcome is Outcome.CHANGED else (self.fingerprint,)
        prints = " → ".join(print_[:12] for print_ in shown if print_)
        return f"{self.outcome} {self.kind} '{self.name}' {prints}".rstrip()


@dataclass(frozen=True)
class FileRead:
    """A file of a source as it was when a run read it.

    Attributes:
        path: Its path.
        size: Bytes.
        mtime_ns: When it was last written, nanoseconds since the epoch.
        row_count: Its rows.
    """

    path: str
    size: int
    mtime_ns: int
    row_count: int


@dataclass(frozen=True)
class Live:
    """The plan of a service that was last recorded as live.

    Attributes:
        service: Name of the service.
        fingerprint: Fingerprint of the live plan.
        previous: Fingerprint of the plan that was live before; empty if none was.
        changed_at_us: When that changed.
        is_decided: Whether ``promote``, ``rollback`` or an apply without promotion chose it. If not, a newer plan goes
            live as soon as it has state.
        withdrawn: Fingerprints of the plans that were rolled back from and not promoted since. They never go live by
            themselves.
    """

    service: str
    fingerprint: str
    previous: str
    changed_at_us: int
    is_decided: bool = True
    withdrawn: tuple[str, ...] = ()


@dataclass(frozen=True)
class LiveChange:
    """One change of the live plan of a service.

    Attributes:
        service: Name of the service.
        previous: Fingerprint of the plan that was live before; empty if none was.
        fingerprint: Fingerprint of the plan that is live from then on.
        changed_at_us: When it changed.
        verb: The command that changed it: ``"apply"``, ``"materialize"``, ``"push"``, ``"promote"`` or ``"rollback"``.
            The first three stand for a plan that went live by itself when its last missing state was filled.
        changed_by: The user: ``user@host``, or the name passed by the caller.
    """

    service: str
    previous: str
    fingerprint: str
    changed_at_us: int
    verb: str
    changed_by: str

    def __str__(self) -> str:
        prints = " → ".join(fingerprint[:12] for fingerprint in (self.previous, self.fingerprint) if fingerprint)
        when = format_instant(self.changed_at_us)
        return f"{when} service '{self.service}' {prints} ({self.verb}, {self.changed_by})"


@dataclass(frozen=True)
class JobRecord:
    """One run of a scheduled job, or a time at which it did not run.

    Attributes:
        name: Name of the job.
        started_at_us: When it began.
        finished_at_us: When it ended.
        outcome: Its outcome in one word.
        said: Its result, or why it failed.
    """

    name: str
    started_at_us: int
    finished_at_us: int
    outcome: str
    said: str


@dataclass(frozen=True)
class AlertRecord:
    """The last alert about one job by one channel.

    Attributes:
        job: Name of the job.
        way: The channel: ``"webhook"``, ``"mail"``, ``"command"``.
        told: The problems in the last delivered alert, one text each; empty if it reported that all is well.
        told_at_us: When an alert was last delivered.
        tried_at_us: When delivery was last tried.
        problem: Why delivery failed, perhaps for some recipients; empty if it did not.
    """

    job: str
    way: str
    told: tuple[str, ...]
    told_at_us: int
    tried_at_us: int
    problem: str = ""


@dataclass(frozen=True)
class CertificateRecord:
    """One verification of one service.

    Attributes:
        service: Name of the service.
        fingerprint: The plan that was verified.
        ran_at_us: When.
        verdict: Its verdict.
        document: The certificate, JSON text.
        id: Its number; ``None`` before it is stored.
    """

    service: str
    fingerprint: str
    ran_at_us: int
    verdict: str
    document: str
    id: int | None = None


@dataclass(frozen=True)
class RunRecord:
    """One materialize run of one view.

    Attributes:
        view: Name of the view.
        fingerprint: The plan that was materialized.
        started_at_us: When it began.
        finished_at_us: When it ended; when it began if it is running.
        from_us: First ingest time that was aggregated; ``NOTHING_YET`` for a first or full run.
        until_us: One past the last ingest time: the new watermark.
        event_count: Events that were read.
        entity_count: Entities whose state was written.
        note: Anything else worth knowing, for instance why the view was rebuilt in full.
        outcome: ``"done"``, ``"failed"`` or ``"running"``; ``"interrupted"`` if the next run of the plan found that it
            had died.
        problem: Why it failed; empty if it did not.
        row_count: Events of the source, pushed ones apart, that were aggregated up to ``until_us``; -1 if unknown.
        content: Hash of these events (``sources.content``), empty if unknown: another one for the same bound means
            that the source was rewritten.
        files: Names the list of files that were read, for ``Registry.files_read``; empty if there were none.
    """

    view: str
    fingerprint: str
    started_at_us: int
    finished_at_us: int
    from_us: int
    until_us: int
    event_count: int
    entity_count: int
    note: str = ""
    outcome: str = DONE
    problem: str = ""
    row_count: int = -1
    content: str = ""
    files: str = ""

    @property
    def is_done(self) -> bool:
        """Whether the run completed."""
        return self.outcome == DONE

    def __str__(self) -> str:
        if not self.is_done:
            return f"view '{self.view}': {self.outcome}{': ' if self.problem else ''}{self.problem}"
        span = f"{format_instant(self.from_us)} to {format_instant(self.until_us)}"
        return f"view '{self.view}': {self.event_count} events, {self.entity_count} entities, {span}"


@dataclass(frozen=True)
class AuditRecord:
    """One audit of a service.

    Attributes:
        service: Name of the service.
        since_us: First instant of serving.
        until_us: One past the last instant of serving.
        ran_at_us: When the audit ran.
        verdict: Its verdict in one word.
        report: The whole report as JSON.
        kind: The kind of comparison: ``"log"``, ``"live"`` or ``"foreign"``, as the report says.
        id: Its number in the registry; ``None`` until it is stored.
    """

    service: str
    since_us: int
    until_us: int
    ran_at_us: int
    verdict: str
    report: str
    kind: str = "log"
    id: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class DriftRecord:
    """One comparison of the distributions of a service.

    Attributes:
        service: Name of the service.
        since_us: First instant of serving.
        until_us: One past the last instant of serving.
        ran_at_us: When they were compared.
        verdict: Its verdict in one word.
        report: The whole report as JSON.
        id: Its number in the registry; ``None`` until it is stored.
    """

    service: str
    since_us: int
    until_us: int
    ran_at_us: int
    verdict: str
    report: str
    id: int | None = field(default=None, compare=False)
