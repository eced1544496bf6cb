"""Auditing what was served: every logged row is recomputed offline at its own instant and compared.

Rows are recomputed by the plan that answered them, so a definition that was changed since does not look like skew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.kernels.events import Status
from featurestore.offline.build import AS_OF, Features
from featurestore.offline.coverage import count_beyond_newest
from featurestore.plan.model import Plan
from featurestore.skew.compare import ComparedFeature, FeatureCounts, compare
from featurestore.skew.report import WORST_ROWS, AuditReport, Mismatch, Skipped
from featurestore.temporal import format_instant, is_stale

Flags = npt.NDArray[np.bool_]

Reference = Callable[[Plan, pa.Table], tuple[Features, Mapping[str, int | None]]]
"""Recomputes a spine offline: its features with statuses, and the newest event time per view."""

BATCH_ROWS = 500_000
"""Rows recomputed at a time; each time the sources are read once."""

_UNKNOWN_PLAN = "the plan that answered them is not in the registry"


@dataclass
class _Findings:
    """What has been found so far."""

    compared: int = 0
    stale: int = 0
    beyond: int = 0
    fingerprints: Counter[str] = field(default_factory=Counter)
    features: dict[str, FeatureCounts] = field(default_factory=dict)
    worst: list[tuple[float, Mismatch]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def audit(
    service: str,
    tables: Iterable[pa.Table],
    *,
    plans: Mapping[str, Plan],
    reference: Reference,
    since_us: int,
    until_us: int,
    ran_at_us: int,
) -> AuditReport:
    """Recompute and compare what a serving log holds.

    Args:
        service: Name of the feature service.
        tables: Pieces of its serving log, each of one plan.
        plans: Every plan that may have answered, by fingerprint.
        reference: The offline road.
        since_us: First instant of the range the log was read for.
        until_us: One past its last instant.
        ran_at_us: The present instant.

    Returns:
        The report, without a verdict.
    """
    findings = _Findings()
    served = 0
    for batch in _batches(tables):
        served += batch.num_rows
        fingerprint = str(batch.column("fingerprint")[0].as_py())
        if fingerprint not in plans:
            findings.skipped[_UNKNOWN_PLAN] += batch.num_rows
            continue
        _compare_batch(plans[fingerprint], batch, reference, findings)
    return AuditReport(
        service=service,
        since=format_instant(since_us),
        until=format_instant(until_us),
        ran_at=format_instant(ran_at_us),
        served=served,
        compared=findings.compared,
        stale=findings.stale,
        beyond_newest_event=findings.beyond,
        fingerprints=dict(sorted(findings.fingerprints.items())),
        features=tuple(findings.features[name] for name in sorted(findings.features)),
        worst=tuple(mismatch for _, mismatch in findings.worst),
        skipped=tuple(Skipped(reason, rows) for reason, rows in sorted(findings.skipped.items())),
    )


def _batches(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Put small pieces of one plan together, large enough to be worth reading the sources for."""
    waiting: dict[str, list[pa.Table]] = {}
    for table in tables:
        fingerprint = str(table.column("fingerprint")[0].as_py())
        group = waiting.setdefault(fingerprint, [])
        group.append(table)
        if sum(piece.num_rows for piece in group) >= BATCH_ROWS:
            yield pa.concat_tables(waiting.pop(fingerprint))
    for group in waiting.values():
        yield pa.concat_tables(group)


def _compare_batch(plan: Plan, log: pa.Table, reference: Reference, findings: _Findings) -> None:
    spine = _spine(plan, log)
    expected, newest = reference(plan, spine)
    stale = _stale_rows(plan, log)
    as_of = log.column(AS_OF).combine_chunks().cast(pa.int64()).to_numpy(zero_copy_only=False)
    findings.compared += log.num_rows
    findings.stale += int(stale.sum())
    findings.beyond += count_beyond_newest(plan, as_of, newest)
    findings.fingerprints[plan.fingerprint] += log.num_rows
    for output in plan.outputs:
        found = compare(
            name=output.name,
            dtype=output.dtype,
            reference=expected.values[output.name],
            current=log.column(f"value__{output.name}").combine_chunks(),
            reference_statuses=expected.statuses[output.name],
            current_statuses=log.column(f"status__{output.name}").combine_chunks().to_numpy(zero_copy_only=False),
            is_stale=stale,
        )
        known = findings.features.get(output.name)
        findings.features[output.name] = found.counts if known is None else known + found.counts
        _keep_worst(plan, output.name, log, expected, found, stale, findings)


def _spine(plan: Plan, log: pa.Table) -> pa.Table:
    """Return what was asked: keys, instants and request inputs."""
    columns = {AS_OF: log.column(AS_OF)}
    columns |= {column.name: log.column(f"key__{column.name}") for column in plan.join_keys}
    columns |= {column.name: log.column(f"request__{column.name}") for column in plan.request}
    return pa.table(columns)


def _stale_rows(plan: Plan, log: pa.Table) -> Flags:
    """Tell per row whether any view was behind what its refresh promises."""
    found = np.zeros(log.num_rows, dtype=np.bool_)
    as_of = log.column(AS_OF).cast(pa.int64()).to_pylist()
    for use in plan.uses:
        refresh, inclusive = use.view.refresh, int(use.view.source.inclusive)
        if refresh.period_us == 0:
            continue
        watermarks = log.column(f"watermark__{use.alias}").cast(pa.int64()).to_pylist()
        behind = [
            is_stale(at, mark, refresh.period_us, refresh.lag_us, inclusive)
            for at, mark in zip(as_of, watermarks, strict=True)
        ]
        found |= np.array(behind, dtype=np.bool_)
    return found


def _keep_worst(
    plan: Plan,
    name: str,
    log: pa.Table,
    expected: Features,
    found: ComparedFeature,
    stale: Flags,
    findings: _Findings,
) -> None:
    """Keep the values that differ most; of equal ones those found first."""
    rows = np.flatnonzero(found.differs)
    largest = rows[np.argsort(-found.size[rows], kind="stable")[:WORST_ROWS]]
    for row in largest.tolist():
        size = float(found.size[row])
        mismatch = _described(plan, name, log, expected, row, is_stale=bool(stale[row]), size=size)
        findings.worst.append((size, mismatch))
    findings.worst.sort(key=lambda item: -item[0])
    del findings.worst[WORST_ROWS:]


def _described(
    plan: Plan, name: str, log: pa.Table, expected: Features, row: int, *, is_stale: bool, size: float
) -> Mismatch:
    def cell(column: str) -> str | None:
        return _text(log.column(column)[row].as_py())

    return Mismatch(
        feature=name,
        request_id=cell("request_id") or "",
        row=int(log.column("row")[row].as_py()),
        keys={column.name: cell(f"key__{column.name}") for column in plan.join_keys},
        as_of=format_instant(log.column(AS_OF)[row].cast(pa.int64()).as_py()),
        reference=_text(expected.values[name][row].as_py()),
        current=cell(f"value__{name}"),
        reference_status=Status(int(expected.statuses[name][row])).name,
        current_status=Status(log.column(f"status__{name}")[row].as_py()).name,
        is_stale=is_stale,
        watermarks={
            use.alias: format_instant(log.column(f"watermark__{use.alias}")[row].cast(pa.int64()).as_py())
            for use in plan.uses
        },
        size=size if np.isfinite(size) else None,
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)
