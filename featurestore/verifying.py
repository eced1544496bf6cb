"""Verifying a service before it is released: its history is replayed on the online road and compared with training.

State is filled up to one instant after the other in a store that is thrown away, as materializing would have filled it
then, and asked; the training-set builder is asked about the same entities at the same instants. Nothing of the store
that serves is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from featurestore.catalog import Catalog
from featurestore.dtypes import DType
from featurestore.errors import SourceError
from featurestore.materializing import materialize
from featurestore.offline.manifest import ManifestSource, library_versions, source_entry
from featurestore.offline.training_set import compute_reference
from featurestore.online.lookup import OnlineReader
from featurestore.online.memory import MemoryOnlineStore
from featurestore.online.store import OnlineStore
from featurestore.plan.model import Column, Plan
from featurestore.registry import CertificateRecord, Registry
from featurestore.skew.audit import Options, audit
from featurestore.skew.certificate import Certificate
from featurestore.skew.instants import instants
from featurestore.skew.picking import as_log, entities, last_inputs, logged_questions, occurrences
from featurestore.skew.policy import Policy
from featurestore.sources import ReadSettings, open_scans
from featurestore.temporal import FixedClock, format_instant, to_datetime

Progress = Callable[[str, int, int], None]
"""Is told what is being done, how far it is, and how far it will go if that is known."""

_EVENTS_EACH = 12
_UNKNOWN_SHARE = 10
_AT_ONCE = 1_000


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
        self, service: str, *, rows: int, instant_count: int, now_us: int, progress: Progress | None = None
    ) -> Certificate:
        """Replay a service's history on both roads and compare.

        Args:
            service: Name of the service.
            rows: About how many pairs of entity and instant.
            instant_count: At how many instants.
            now_us: The present instant; nothing later is asked about.
            progress: Is told how far it is.

        Raises:
            SourceError: A source has no events, or cannot give them.
        """
        plan = self.catalog.plan(service)
        sources = self.catalog.sources(use.view.source.name for use in plan.uses)
        logged = logged_questions(plan, self.recent(service))
        each = max(1, -(-rows // instant_count))
        with open_scans(plan.views, sources, self.settings) as scans:
            picked = occurrences(plan, _EVENTS_EACH, scans)
            known = entities(plan, rows, logged, scans)
            read = tuple(source_entry(view, scans[view.name]) for view in plan.views)
        asked_at = instants(picked, instant_count, until_us=now_us)
        if not known or not asked_at:
            hint = "Verify once its sources hold events."
            raise SourceError("there is no history to replay", where=f"service '{service}'", hint=hint)
        involved = [{**known[0], **event.keys} for event in picked]
        inputs = _Inputs(plan, last_inputs(plan, logged))
        online = self.new_store()
        tables: list[pa.Table] = []
        with TemporaryDirectory(prefix="featurestore-verify-") as folder, _registry(Path(folder)) as registry:
            for number, instant in enumerate(asked_at):
                if progress is not None:
                    progress("replaying", number, len(asked_at))
                self._fill(plan, online, registry, instant)
                keys = _asked(plan, known, involved, number, each)
                tables.append(_answers(plan, online, keys, inputs.of(keys), instant))
        return self._certified(plan, tables, asked_at, read, now_us)

    def _fill(self, plan: Plan, online: OnlineStore, registry: Registry, instant: int) -> None:
        """Let state be what materializing at an instant would have made of it."""
        materialize(
            plan.views,
            catalog=self.catalog,
            registry=registry,
            store=online,
            settings=self.settings,
            clock=FixedClock(instant),
            until_us=instant,
            full=False,
        )

    def _certified(
        self,
        plan: Plan,
        tables: Sequence[pa.Table],
        asked_at: Sequence[int],
        read: tuple[ManifestSource, ...],
        now: int,
    ) -> Certificate:
        sources = self.catalog.sources(use.view.source.name for use in plan.uses)
        found = audit(
            plan.name,
            tables,
            plans={plan.fingerprint: plan},
            reference=lambda plan, spine: compute_reference(plan, spine, sources=sources, settings=self.settings),
            since_us=asked_at[0],
            until_us=asked_at[-1] + 1,
            ran_at_us=now,
            options=Options(kind="replay"),
        )
        report = Policy().judge(found)
        certificate = Certificate(
            service=plan.name,
            fingerprint=plan.fingerprint,
            views={view.name: view.fingerprint for view in plan.views},
            ran_at=format_instant(now),
            since=format_instant(asked_at[0]),
            until=format_instant(asked_at[-1]),
            instants=len(asked_at),
            rows=report.compared,
            values=sum(feature.compared for feature in report.features),
            different=report.different,
            sources=read,
            libraries=library_versions(),
            report=report,
        )
        record = CertificateRecord(plan.name, plan.fingerprint, now, certificate.verdict, certificate.to_json())
        self.registry.add_certificate(record)
        return certificate


def _registry(folder: Path) -> Registry:
    """Return a registry for the runs of a replay."""
    return Registry(f"sqlite:///{folder}/registry.db")


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


def _answers(
    plan: Plan, online: OnlineStore, keys: Sequence[dict[str, Any]], request: Sequence[dict[str, Any]], instant: int
) -> pa.Table:
    reader = OnlineReader(plan, online, FixedClock(instant))
    as_of = to_datetime(instant)
    answers = [
        reader.get(keys[at : at + _AT_ONCE], request=request[at : at + _AT_ONCE], as_of=as_of)
        for at in range(0, len(keys), _AT_ONCE)
    ]
    return as_log(plan, [(answer, row) for answer in answers for row in range(len(answer.rows))], instant)


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
