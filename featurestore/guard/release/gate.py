"""The gate before a release: is what would be served now what a training set was made of?

Each check stands for itself and says what it found, so that a pipeline that stops tells why.
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
from featurestore.guard.comparing.verdicts import CANNOT_TELL, FAIL, PASS, WARN
from featurestore.guard.world.plan_changes import plan_changes
from featurestore.offline.manifest import Manifest
from featurestore.online.stores.store import OnlineStore, records_of
from featurestore.plan.model import Plan
from featurestore.registry import AuditRecord, Registry
from featurestore.registry.catalog import Catalog
from featurestore.sources import ReadSettings, read_schema

_EXIT_CODES = {PASS: 0, FAIL: 1, CANNOT_TELL: 2}
_OWN_KINDS = ("log", "live")
"""Audits of what this store answers: those of other systems' logs say nothing of it."""

_SHOWN = 5


@dataclass(frozen=True)
class GateCheck:
    """One thing that was looked at.

    Attributes:
        name: What.
        result: ``"pass"``, ``"fail"`` or ``"cannot tell"``.
        said: What was found, one line each.
    """

    name: str
    result: str
    said: tuple[str, ...]


@dataclass(frozen=True)
class Gate:
    """Whether what would be served is what was trained on.

    Attributes:
        service: Name of the service.
        trained_on: Fingerprint of the training set's plan.
        serving: Fingerprint of the plan that answers; empty if none does.
        ran_at: When.
        checks: What was looked at.
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

    @property
    def exit_code(self) -> int:
        """0 to go on, 1 to stop, 2 if it could not tell."""
        return _EXIT_CODES[self.verdict]

    def to_json(self) -> str:
        """Return the gate as JSON, its verdict included."""
        return msgspec.json.encode({**msgspec.to_builtins(self), "verdict": self.verdict}).decode()


@dataclass(frozen=True)
class Gatekeeper:
    """Looks at what would be served.

    Attributes:
        catalog: What is applied.
        registry: Knows audits.
        online: Where states are kept.
        settings: What reading may use.
        live: Returns the plan of a service that answers.
    """

    catalog: Catalog
    registry: Registry
    online: OnlineStore
    settings: ReadSettings
    live: Callable[[str], Plan]

    def look(self, manifest: Manifest, *, max_audit_age_us: int, max_state_age_us: int, now_us: int) -> Gate:
        """Compare a training set with what would be served.

        Args:
            manifest: The training set's.
            max_audit_age_us: How long ago the newest answers that were audited may have been given.
            max_state_age_us: Up to how long ago the state of continuous views must be complete.
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
        """Tell whether sources still have the columns that were read, with the same dtypes."""
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
                found = schema.get(column.name)
                if column.name in schema and found != column.dtype:
                    wrong.append(f"source '{name}': column '{column.name}' was {column.dtype}, is {found}")
                elif column.name not in schema and column.name != view.source.ingest_time:
                    wrong.append(f"source '{name}': column '{column.name}' is gone")
        said = tuple(dict.fromkeys(wrong)) or ("every column that was read is there, with the same dtype",)
        return GateCheck("sources", FAIL if wrong else PASS, said)

    def _state(self, live: Plan, max_age_us: int, now_us: int) -> GateCheck:
        """Tell whether every view has online state, as new as its refresh promises, or not too old if that is never."""
        wrong: list[str] = []
        try:
            records = records_of(self.online, live.views)
        except FeatureStoreError as error:
            return GateCheck("online state", CANNOT_TELL, (str(error),))
        for view in live.views:
            watermark_us = records[view.name].watermark_us
            if watermark_us == NOTHING_YET:
                wrong.append(f"view '{view.name}': nothing is materialized")
                continue
            refresh = view.refresh
            complete = f"view '{view.name}': state is complete up to {format_instant(watermark_us)}"
            if is_stale(now_us, watermark_us, refresh.period_us, refresh.lag_us, view.source.inclusive):
                wrong.append(f"{complete}, which is less than it promises ({refresh})")
            elif not refresh.period_us and now_us - watermark_us > max_age_us:
                age = format_age(now_us - watermark_us)
                wrong.append(f"{complete}, {age} ago; it may be {format_duration(max_age_us)} ago")
        said = tuple(wrong) or ("every view has state, as new as it promises or must be",)
        return GateCheck("online state", FAIL if wrong else PASS, said)

    def _audit(self, service: str, live: Plan, max_age_us: int, now_us: int) -> GateCheck:
        """Tell what the last audit that could tell said of the plan that answers, and of how new answers."""
        said: list[str] = []
        for record in self.registry.audits(service, kinds=_OWN_KINDS):
            try:
                report = AuditReport.from_json(record.report)
            except FeatureStoreError as error:
                return GateCheck("last audit", CANNOT_TELL, (f"audit {record.id}: {error}",))
            if record.verdict in (PASS, WARN, FAIL):
                return _judged(record, report, live, max_age_us=max_age_us, now_us=now_us, said=said)
            said = said or [f"{_described(record, report, now_us)}: {record.verdict}", *report.reasons[:_SHOWN]]
        return GateCheck("last audit", CANNOT_TELL, tuple(said) or ("the service was never audited",))


def _judged(
    record: AuditRecord, report: AuditReport, live: Plan, *, max_age_us: int, now_us: int, said: list[str]
) -> GateCheck:
    """Tell what an audit with a verdict says.

    Args:
        record: The audit.
        report: Its report.
        live: The plan that answers.
        max_age_us: How long ago the newest answers that it compared may have been given.
        now_us: The present instant.
        said: What is to be said of newer audits.
    """
    said = [*said, f"{_described(record, report, now_us)}: {record.verdict}"]
    if record.verdict == FAIL:
        return GateCheck("last audit", FAIL, (*said, *report.reasons[:_SHOWN]))
    if now_us - _newest_us(record, report) > max_age_us:
        said.append(f"what was compared may have been served {format_duration(max_age_us)} ago")
    elif live.fingerprint not in report.fingerprints:
        said.append("it saw no answer of the plan that answers now")
    else:
        return GateCheck("last audit", PASS, tuple(said))
    return GateCheck("last audit", CANNOT_TELL, tuple(said))


def _described(record: AuditRecord, report: AuditReport, now_us: int) -> str:
    """Say what an audit looked at: how many answers, of which entities, how old."""
    share = "" if report.sample >= 1 else f" of {report.sample:.3%} of the entities"
    age = format_age(max(0, now_us - _newest_us(record, report)))
    what = "asked" if report.kind == "live" else "served"
    return f"audit {record.id} of {report.compared:,} rows{share}, {what} up to {age} ago"


def _newest_us(record: AuditRecord, report: AuditReport) -> int:
    """Return up to when answers were compared, to the length of the report's stretches of time."""
    ends = [instant_us(stretch.until) for stretch in report.over_time if stretch.rows]
    return min([record.until_us, record.ran_at_us, *([max(ends)] if ends else [])])


def _definition(trained: Plan, live: Plan) -> GateCheck:
    if trained.fingerprint == live.fingerprint:
        return GateCheck("definition", PASS, (f"plan {live.fingerprint[:12]} answers, and was trained on",))
    return GateCheck("definition", FAIL, plan_changes(trained, live))


def _columns(trained: Plan, live: Plan) -> GateCheck:
    """Tell whether answers have the training set's features, with the same dtypes."""
    before, after = ({output.name: output.dtype for output in plan.outputs} for plan in (trained, live))
    wrong = [
        f"{name}: was {before[name]}, {f'is {after[name]}' if name in after else 'is gone'}"
        for name in before
        if before[name] != after.get(name)
    ]
    said = tuple(wrong) or (f"all {len(before)} features are answered, with the same dtypes",)
    return GateCheck("columns", FAIL if wrong else PASS, said)


def _knowledge(manifest: Manifest) -> GateCheck:
    if manifest.hindsight:
        said = "it was built with hindsight: with events that nobody knew yet when they would have been served"
        return GateCheck("hindsight", FAIL, (said,))
    return GateCheck("hindsight", PASS, ("it saw what serving could have seen",))
