"""Verifying a service before release: its history is replayed online and compared with training sets.

Online state is filled up to one instant after another in a temporary store, by runs and pushes as it would have been
filled then. The same entities are asked about before, during and after each refresh. Answers that report complete state
must equal a training set; other answers must equal a training set built from exactly the events that the state has. The
store that serves is not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from featurestore.core.errors import SourceError
from featurestore.core.statuses import Status
from featurestore.core.temporal import format_instant
from featurestore.guard.audit.policy import Policy
from featurestore.guard.audit.run import Options, Reference, audit_tables
from featurestore.guard.comparing.questions import entities, last_inputs, logged_questions, occurrences
from featurestore.guard.release.certificate import Certificate, Phase
from featurestore.guard.release.history import History
from featurestore.guard.release.questions import choose_entities, choose_instants, edge_kinds, request_inputs
from featurestore.guard.release.replay import PhaseAnswers, Replay, TrainingReference
from featurestore.offline.manifest import library_versions, source_entry
from featurestore.online.stores.memory import MemoryOnlineStore
from featurestore.online.stores.store import OnlineStore
from featurestore.plan.model import Plan
from featurestore.registry import CertificateRecord, Registry
from featurestore.registry.catalog import Catalog
from featurestore.serving_log.columns import STATUS_PREFIX, names_of, status_column
from featurestore.sources import ReadSettings, open_scans
from featurestore.storage.progress import Progress

_EVENTS_EACH = 12
"""Events per view whose edges are asked at."""


@dataclass(frozen=True)
class Verifier:
    """Replays the history of applied services.

    Attributes:
        catalog: The applied plans, and their sources.
        registry: Keeps the certificates.
        settings: Resources for reading.
        recent: Returns the recent serving log of a service, for request inputs that occur.
        new_store: Creates the temporary store.
    """

    catalog: Catalog
    registry: Registry
    settings: ReadSettings
    recent: Callable[[str], Iterable[pa.Table]]
    new_store: Callable[[], OnlineStore] = MemoryOnlineStore

    def verify(
        self,
        service: str,
        *,
        rows: int,
        instant_count: int | None,
        between_count: int,
        now_us: int,
        progress: Progress | None = None,
    ) -> Certificate:
        """Replay the history of a service, compare both paths, and record the certificate.

        Args:
            service: Name of the service.
            rows: About how many pairs of entity and instant to compare.
            instant_count: Count of instants beside edges; ``None`` for as many as every kind of edge needs.
            between_count: Count of other instants.
            now_us: The present instant; no later instant is asked about.
            progress: Receives the progress of the replay.

        Raises:
            SourceError: A source has no events, cannot be read, or is written meanwhile.
        """
        plan = self.catalog.plan(service)
        sources = self.catalog.sources(use.view.source.name for use in plan.uses)
        logged = logged_questions(plan, self.recent(service))
        with open_scans(plan.views, sources, self.settings) as scans:
            events = occurrences(plan, _EVENTS_EACH, scans)
            known = entities(plan, rows, logged, scans)
            instants = choose_instants(plan, events, instant_count, between_count, now_us)
            if not known or not instants:
                hint = "Verify the service once its sources have events."
                raise SourceError("there is no history to replay", where=f"service '{service}'", hint=hint)
            rows_each = max(1, -(-rows // len(instants)))
            involved = [{**known[0], **event.keys} for event in events]
            last = last_inputs(plan, logged)
            histories = {view.name: History(scans[view.name], sources[view.source.name].stream) for view in plan.views}
            online = self.new_store()
            replay = Replay(plan, histories, online)
            for number, asked in enumerate(instants):
                if progress is not None:
                    progress("replaying", number, len(instants))
                keys = choose_entities(plan, known, involved, number, rows_each)
                replay.advance(asked.instant_us, keys, request_inputs(plan, keys, last))
            phases = list(replay.phases())
            certificate = Certificate(
                service=plan.name,
                fingerprint=plan.fingerprint,
                views={view.name: view.fingerprint for view in plan.views},
                ran_at=format_instant(now_us),
                since=format_instant(instants[0].instant_us),
                until=format_instant(instants[-1].instant_us),
                instants=len(instants),
                between=sum(not asked.edges for asked in instants),
                edges={kind: sum(kind in asked.edges for asked in instants) for kind in edge_kinds(events)},
                store=type(online).__name__,
                phases=tuple(
                    _compared(
                        phase, plan, TrainingReference(sources, self.settings, histories, phase.incomplete), now_us
                    )
                    for phase in phases
                ),
                sources=tuple(source_entry(view, scans[view.name]) for view in plan.views),
                libraries=library_versions(),
                rows_not_found=sum(map(_rows_not_found, phases)),
            )
        record = CertificateRecord(plan.name, plan.fingerprint, now_us, certificate.verdict, certificate.to_json())
        self.registry.add_certificate(record)
        return certificate


def _rows_not_found(phase: PhaseAnswers) -> int:
    """Count the rows for which no view has an event."""
    count = 0
    for table in phase.tables:
        names = names_of(STATUS_PREFIX, table.column_names)
        statuses = [table.column(status_column(name)).to_numpy() for name in names]
        by_row = np.column_stack(statuses) if statuses else np.zeros((0, 0))
        count += int((by_row == Status.NOT_FOUND).all(axis=1).sum())
    return count


def _compared(phase: PhaseAnswers, plan: Plan, reference: Reference, now_us: int) -> Phase:
    """Compare the answers of one phase with training."""
    report = Policy().judge(
        audit_tables(
            plan.name,
            phase.tables,
            plans={plan.fingerprint: plan},
            reference=reference,
            since_us=phase.instants[0],
            until_us=phase.instants[-1] + 1,
            ran_at_us=now_us,
            options=Options(kind="replay"),
        )
    )
    return Phase(
        name=phase.name,
        rows=report.compared,
        complete=phase.complete,
        values=sum(feature.compared for feature in report.features),
        different=report.different,
        report=report,
    )
