"""Verifying a service before it is released: its history is replayed on the online road and compared with training.

State is filled up to one instant after the other in a store that is thrown away, by runs and by pushes as it would have
been then, and asked about the same entities before, amid and after. What answers say to be complete must be what a
training set holds; the rest must be what it would hold had it seen just what state has. Nothing of the store that
serves is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.core.dtypes import DType
from featurestore.core.errors import SourceError
from featurestore.core.statuses import Status
from featurestore.core.temporal import format_instant, to_datetime
from featurestore.guard.audit.audit import Options, Reference, audit
from featurestore.guard.audit.policy import Policy
from featurestore.guard.comparing.questions import (
    Occurrence,
    entities,
    last_inputs,
    logged_questions,
    occurrences,
)
from featurestore.guard.release.certificate import Certificate, Phase
from featurestore.guard.release.history import History
from featurestore.guard.release.instants import (
    Asked,
    at_edges,
    between,
    kinds,
)
from featurestore.guard.release.replay import Answers, Replay, Training
from featurestore.offline.manifest import library_versions, source_entry
from featurestore.online.stores.memory import MemoryOnlineStore
from featurestore.online.stores.store import OnlineStore
from featurestore.plan.model import Column, Plan
from featurestore.registry import CertificateRecord, Registry
from featurestore.registry.catalog import Catalog
from featurestore.serving_log.columns import STATUS_PREFIX, names_of, status_column
from featurestore.sources import ReadSettings, open_scans

Progress = Callable[[str, int, int], None]
"""Is told what is being done, how far it is, and how far it will go if that is known."""

_EVENTS_EACH = 12
_UNKNOWN_SHARE = 10


@dataclass(frozen=True)
class Verifier:
    """Replays what is applied.

    Attributes:
        catalog: What is applied.
        registry: Takes the certificate down.
        settings: What reading may use.
        recent: What was served of a service lately, for request inputs that occur.
        new_store: Makes the store that is thrown away.
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
        """Replay a service's history on both roads and compare.

        Args:
            service: Name of the service.
            rows: About how many pairs of entity and instant.
            instant_count: At how many instants beside edges; ``None`` for as many as every kind of edge needs.
            between_count: At how many others.
            now_us: The present instant; nothing later is asked about.
            progress: Is told how far it is.

        Raises:
            SourceError: A source has no events, or cannot give them, or is written meanwhile.
        """
        plan = self.catalog.plan(service)
        sources = self.catalog.sources(use.view.source.name for use in plan.uses)
        logged = logged_questions(plan, self.recent(service))
        with open_scans(plan.views, sources, self.settings) as scans:
            picked = occurrences(plan, _EVENTS_EACH, scans)
            known = entities(plan, rows, logged, scans)
            asked_at = _instants(plan, picked, instant_count, between_count, now_us)
            if not known or not asked_at:
                hint = "Verify once its sources hold events."
                raise SourceError("there is no history to replay", where=f"service '{service}'", hint=hint)
            each = max(1, -(-rows // len(asked_at)))
            involved = [{**known[0], **event.keys} for event in picked]
            inputs = _Inputs(plan, last_inputs(plan, logged))
            histories = {view.name: History(scans[view.name], sources[view.source.name].stream) for view in plan.views}
            online = self.new_store()
            replay = Replay(plan, histories, online)
            for number, asked in enumerate(asked_at):
                if progress is not None:
                    progress("replaying", number, len(asked_at))
                keys = _asked(plan, known, involved, number, each)
                replay.go(asked.instant_us, keys, inputs.of(keys))
            phases = list(replay.phases())
            certificate = Certificate(
                service=plan.name,
                fingerprint=plan.fingerprint,
                views={view.name: view.fingerprint for view in plan.views},
                ran_at=format_instant(now_us),
                since=format_instant(asked_at[0].instant_us),
                until=format_instant(asked_at[-1].instant_us),
                instants=len(asked_at),
                between=sum(not asked.edges for asked in asked_at),
                edges={kind: sum(kind in asked.edges for asked in asked_at) for kind in kinds(picked)},
                store=type(online).__name__,
                phases=tuple(
                    _compared(phase, plan, Training(sources, self.settings, histories, phase.incomplete), now_us)
                    for phase in phases
                ),
                sources=tuple(source_entry(view, scans[view.name]) for view in plan.views),
                libraries=library_versions(),
                rows_not_found=sum(map(_rows_not_found, phases)),
            )
        record = CertificateRecord(plan.name, plan.fingerprint, now_us, certificate.verdict, certificate.to_json())
        self.registry.add_certificate(record)
        return certificate


def _rows_not_found(phase: Answers) -> int:
    """Count the rows for which no view found an event."""
    count = 0
    for table in phase.tables:
        names = names_of(STATUS_PREFIX, table.column_names)
        statuses = [table.column(status_column(name)).to_numpy() for name in names]
        found = np.column_stack(statuses) if statuses else np.zeros((0, 0))
        count += int((found == Status.NOT_FOUND).all(axis=1).sum())
    return count


def _compared(phase: Answers, plan: Plan, reference: Reference, now_us: int) -> Phase:
    """Compare what was answered in one phase with training."""
    found = audit(
        plan.name,
        phase.tables,
        plans={plan.fingerprint: plan},
        reference=reference,
        since_us=phase.instants[0],
        until_us=phase.instants[-1] + 1,
        ran_at_us=now_us,
        options=Options(kind="replay"),
    )
    report = Policy().judge(found)
    return Phase(
        name=phase.name,
        rows=report.compared,
        complete=phase.complete,
        values=sum(feature.compared for feature in report.features),
        different=report.different,
        report=report,
    )


def _instants(
    plan: Plan, picked: Sequence[Occurrence], at_edges_count: int | None, between_count: int, now_us: int
) -> list[Asked]:
    """Choose when to ask: at edges, and anywhere in the span from the first of these to the last."""
    edges = at_edges(picked, at_edges_count, until_us=now_us)
    if not edges:
        return []
    since_us, until_us = edges[0].instant_us, edges[-1].instant_us
    others = between(plan.fingerprint, between_count, since_us=since_us, until_us=until_us)
    distinct = {asked.instant_us: asked for asked in (*others, *edges)}
    return [distinct[instant] for instant in sorted(distinct)]


def _asked(
    plan: Plan, known: Sequence[dict[str, Any]], involved: Sequence[dict[str, Any]], number: int, count: int
) -> list[dict[str, Any]]:
    """Choose whom to ask about at one instant: those whose events brought it, others in turn, and some unknown."""
    begin = number * count % len(known)
    others = [*known[begin:], *known[:begin]]
    unknown = [
        {column.name: _never_seen(column.dtype, row[column.name]) for column in plan.join_keys}
        for row in others[: max(1, count // _UNKNOWN_SHARE)]
    ]
    chosen = [*involved, *unknown, *others][: max(count, len(involved) + len(unknown))]
    distinct = {tuple(row[column.name] for column in plan.join_keys): row for row in chosen}
    return list(distinct.values())


def _never_seen(dtype: DType, value: Any) -> Any:
    """Return a key that most likely does not occur, of the same dtype as one that does."""
    if value is None:
        return None
    match dtype.kind:
        case "string":
            return f"{value}\N{SYMBOL FOR NULL}"
        case "int64":
            return -(value // 2) - 7_919
        case "bool":
            return not value
        case "binary":
            return value + b"\x00"
        case "timestamp" | "date":
            return value + timedelta(days=7_919)
        case "decimal":
            return -value - Decimal(1)
        case _:
            return value


class _Inputs:
    """Request inputs: what was sent for an entity last, else made up."""

    def __init__(self, plan: Plan, known: Mapping[tuple[Any, ...], dict[str, Any]]) -> None:
        self._plan = plan
        self._known = known

    def of(self, keys: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        names = [column.name for column in self._plan.join_keys]
        return [
            self._known.get(tuple(row[name] for name in names))
            or {column.name: _made_up(column, number) for column in self._plan.request}
            for number, row in enumerate(keys)
        ]


def _made_up(column: Column, number: int) -> Any:
    """Return a value for a request input; every fifth is null."""
    if number % 5 == 4:
        return None
    match column.dtype.kind:
        case "bool":
            return number % 2 == 0
        case "int64":
            return number - 3
        case "float64":
            return number / 3 - 1
        case "string":
            return "abc"[: number % 4]
        case "timestamp":
            return to_datetime(number * 3_600_000_000)
        case "date":
            return to_datetime(number * 86_400_000_000).date()
        case "binary":
            return bytes(number % 4)
        case _:
            return None
