"""The gate before a release: compares what would be served now with what a training set was built from.

Every check has a result and reasons of its own, so that a pipeline that stops shows why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from featurestore.core.errors import FeatureStoreError, SourceError
from featurestore.core.temporal import (
    NOTHING_YET,
    format_age,
    format_duration,
    format_instant,
    instant_us,
    is_stale,
)
from featurestore.guard.audit.report import AuditReport
from featurestore.guard.report import CANNOT_TELL, FAIL, PASS, WARN, Judged
from featurestore.guard.world.plan_changes import plan_changes
from featurestore.offline.manifest import Manifest
from featurestore.online.stores.store import OnlineStore, records_of
from featurestore.plan.model import Plan
from featurestore.registry import AuditRecord, Registry
from featurestore.registry.catalog import Catalog
from featurestore.sources import ReadSettings, read_schema

_OWN_KINDS = ("log", "live")
"""Kinds of audits of this store's own answers."""

_SHOWN = 5


@dataclass(frozen=True)
class GateCheck:
    """The result of one check.

    Attributes:
        name: Name of the check.
        result: ``"pass"``, ``"fail"`` or ``"cannot tell"``.
        said: Reasons, one line each.
    """

    name: str
    result: str
    said: tuple[str, ...]


@dataclass(frozen=True)
class Gate(Judged):
    """Whether serving matches a training set.

    Attributes:
        service: Name of the service.
        trained_on: Fingerprint of the training set's plan.
        serving: Fingerprint of the live plan; empty if there is none.
        ran_at: Instant of the checks.
        checks: The checks.
    """

    service: str
    trained_on: str
    serving: str
    ran_at: str
    checks: tuple[GateCheck, ...]

    @property
    def verdict(self) -> str:
        """``"fail"`` if a check failed; else ``"cannot tell"`` if one could not tell; else ``"pass"``."""
        results = {check.result for check in self.checks}
        return FAIL if FAIL in results else CANNOT_TELL if CANNOT_TELL in results else PASS

    def to_json(self) -> str:
        """Return the gate as JSON, its verdict included."""
        return msgspec.json.encode({**msgspec.to_builtins(self), "verdict": self.verdict}).decode()


@dataclass(frozen=True)
class GateChecker:
    """Checks what would be served.

    Attributes:
        catalog: The applied definitions.
        registry: The audits.
        online: The online store.
        settings: Resources for reading.
        live: Returns the live plan of a service.
    """

    catalog: Catalog
    registry: Registry
    online: OnlineStore
    settings: ReadSettings
    live: Callable[[str], Plan]

    def check(self, manifest: Manifest, *, max_audit_age_us: int, max_state_age_us: int, now_us: int) -> Gate:
        """Compare a training set with what would be served.

        Args:
            manifest: Manifest of the training set.
            max_audit_age_us: Largest age of the newest audited answers.
            max_state_age_us: Largest age of the state of continuous views.
            now_us: The present instant.
        """
        trained = Plan.from_json(msgspec.json.encode(manifest.plan))
        try:
            live = self.live(manifest.service)
        except FeatureStoreError as error:
            checks: tuple[GateCheck, ...] = (GateCheck("definition", FAIL, (str(error),)),)
            return Gate(manifest.service, manifest.fingerprint, "", format_instant(now_us), checks)
        checks = (
            _definition(trained, live),
            _columns(trained, live),
            self._sources(trained),
            _knowledge(manifest),
            self._state(live, max_state_age_us, now_us),
            self._audit(manifest.service, live, max_audit_age_us, now_us),
        )
        return Gate(manifest.service, manifest.fingerprint, live.fingerprint, format_instant(now_us), checks)

    def _sources(self, trained: Plan) -> GateCheck:
        """Check that sources still have the columns that were read, with the same dtypes."""
        wrong: list[str] = []
        for view in trained.views:
            name = view.source.name
            try:
                schema = read_schema(self.catalog.sources([name])[name], self.settings)
            except SourceError as error:
                wrong.append(f"source '{name}': {error}")
                continue
            except FeatureStoreError as error:
                return GateCheck("sources", CANNOT_TELL, (str(error),))
            for column in view.source.columns:
                dtype = schema.get(column.name)
                if column.name in schema and dtype != column.dtype:
                    wrong.append(f"source '{name}': column '{column.name}' was {column.dtype}, is {dtype}")
                elif column.name not in schema and column.name != view.source.ingest_time:
                    wrong.append(f"source '{name}': column '{column.name}' is gone")
        reasons = tuple(dict.fromkeys(wrong)) or ("every column that was read is there, with the same dtype",)
        return GateCheck("sources", FAIL if wrong else PASS, reasons)

    def _state(self, live: Plan, max_age_us: int, now_us: int) -> GateCheck:
        """Check that every view has online state, as new as its refresh promises; continuous state must not be old."""
        wrong: list[str] = []
        try:
            records = records_of(self.online, live.views)
        except FeatureStoreError as error:
            return GateCheck("online state", CANNOT_TELL, (str(error),))
        for view in live.views:
            watermark_us = records[view.name].watermark_us
            if watermark_us == NOTHING_YET:
                wrong.append(f"view '{view.name}': no state is materialized")
                continue
            refresh = view.refresh
            complete = f"view '{view.name}': state is complete up to {format_instant(watermark_us)}"
            if is_stale(now_us, watermark_us, refresh.period_us, refresh.lag_us, view.source.inclusive):
                wrong.append(f"{complete}, which is less than it promises ({refresh})")
            elif not refresh.period_us and now_us - watermark_us > max_age_us:
                age = format_age(now_us - watermark_us)
                wrong.append(f"{complete}, {age} ago; it may be {format_duration(max_age_us)} ago")
        reasons = tuple(wrong) or ("every view has state, as new as it promises or must be",)
        return GateCheck("online state", FAIL if wrong else PASS, reasons)

    def _audit(self, service: str, live: Plan, max_age_us: int, now_us: int) -> GateCheck:
        """Check the verdict of the newest audit that has one, and that it compared recent answers of the live plan."""
        reasons: list[str] = []
        for record in self.registry.audits(service, kinds=_OWN_KINDS):
            try:
                report = AuditReport.from_json(record.report)
            except FeatureStoreError as error:
                return GateCheck("last audit", CANNOT_TELL, (f"audit {record.id}: {error}",))
            if record.verdict in (PASS, WARN, FAIL):
                return _judged(record, report, live, max_age_us=max_age_us, now_us=now_us, reasons=reasons)
            reasons = reasons or [f"{_described(record, report, now_us)}: {record.verdict}", *report.reasons[:_SHOWN]]
        return GateCheck("last audit", CANNOT_TELL, tuple(reasons) or ("the service was never audited",))


def _judged(
    record: AuditRecord, report: AuditReport, live: Plan, *, max_age_us: int, now_us: int, reasons: list[str]
) -> GateCheck:
    """Return the check of an audit with a verdict.

    Args:
        record: The audit.
        report: Its report.
        live: The live plan.
        max_age_us: Largest age of the newest answers that it compared.
        now_us: The present instant.
        reasons: Reasons about newer audits, which could not tell.
    """
    reasons = [*reasons, f"{_described(record, report, now_us)}: {record.verdict}"]
    if record.verdict == FAIL:
        return GateCheck("last audit", FAIL, (*reasons, *report.reasons[:_SHOWN]))
    if now_us - _newest_us(record, report) > max_age_us:
        reasons.append(f"the compared answers may be at most {format_duration(max_age_us)} old")
    elif live.fingerprint not in report.fingerprints:
        reasons.append("it compared no answers of the live plan")
    else:
        return GateCheck("last audit", PASS, tuple(reasons))
    return GateCheck("last audit", CANNOT_TELL, tuple(reasons))


def _described(record: AuditRecord, report: AuditReport, now_us: int) -> str:
    """Describe an audit: count of answers, share of entities, age."""
    share = "" if report.sample >= 1 else f" of {report.sample:.3%} of the entities"
    age = format_age(max(0, now_us - _newest_us(record, report)))
    verb = "asked" if report.kind == "live" else "served"
    return f"audit {record.id} of {report.compared:,} rows{share}, {verb} up to {age} ago"


def _newest_us(record: AuditRecord, report: AuditReport) -> int:
    """Return the instant of the newest compared answer, rounded up to the report's stretches of time."""
    ends = [instant_us(stretch.until) for stretch in report.over_time if stretch.rows]
    return min([record.until_us, record.ran_at_us, *([max(ends)] if ends else [])])


def _definition(trained: Plan, live: Plan) -> GateCheck:
    if trained.fingerprint == live.fingerprint:
        return GateCheck("definition", PASS, (f"plan {live.fingerprint[:12]} is live, and was trained on",))
    return GateCheck("definition", FAIL, plan_changes(trained, live))


def _columns(trained: Plan, live: Plan) -> GateCheck:
    """Check that answers have the features of the training set, with the same dtypes."""
    before, after = ({output.name: output.dtype for output in plan.outputs} for plan in (trained, live))
    wrong = [
        f"{name}: was {before[name]}, {f'is {after[name]}' if name in after else 'is gone'}"
        for name in before
        if before[name] != after.get(name)
    ]
    reasons = tuple(wrong) or (f"all {len(before)} features are answered, with the same dtypes",)
    return GateCheck("columns", FAIL if wrong else PASS, reasons)


def _knowledge(manifest: Manifest) -> GateCheck:
    if manifest.hindsight:
        reason = "it was built with hindsight: with events that were not known yet at the time of serving"
        return GateCheck("hindsight", FAIL, (reason,))
    return GateCheck("hindsight", PASS, ("it was built from the events that serving could have seen",))
