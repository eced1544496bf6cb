"""Planting faults in a serving log, auditing it, and comparing the causes named with those planted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp

import pyarrow.parquet as pq

from featurestore.core.answers import OnlineFeatures
from featurestore.core.temporal import to_datetime
from featurestore.guard.audit.report import AuditReport
from tests.skew.faults import Answers, Fault
from tests.skew.shop import END_US, SERVICE, START_US, Shop, answers, opened

EQUAL = "equal"


@dataclass(frozen=True)
class Audited:
    """What an audit made of planted faults.

    Attributes:
        report: Its report.
        named: How often a value planted by one fault was given a cause: (name of the fault, cause).
    """

    report: AuditReport
    named: Counter[tuple[str, str]]

    def share(self, fault: Fault) -> float:
        """Return the share of a fault's values that were given its cause."""
        own = sum(count for (name, _), count in self.named.items() if name == fault.name)
        right = sum(
            count
            for (name, cause), count in self.named.items()
            if name == fault.name and fault.cause in cause.split(" + ")
        )
        return right / own if own else 0.0


def audit_planted(truth: Shop, planted: Sequence[tuple[Fault | None, OnlineFeatures]]) -> Audited:
    """Log answers as the truth's, audit them, and tell which fault's values were given which cause.

    Args:
        truth: The shop that is recomputed.
        planted: One answer per row of the log, and the fault it comes from; ``None`` for the right answer.
    """
    folder = Path(mkdtemp())
    with opened(truth, folder) as store:
        for fault in {fault.name: fault for fault, _ in planted if fault is not None}.values():
            fault.prepare(store, folder)
        plan = store.plan(SERVICE)
        for place, (_, answer) in enumerate(planted):
            logged = replace(answer, fingerprint=plan.fingerprint, request_id=f"r{place:05d}")
            store.parts.serving_log.append(plan, logged)
        report = store.audit(
            SERVICE, since=to_datetime(START_US), until=to_datetime(END_US), mismatches=folder / "mismatches"
        )
    rows = pq.read_table(folder / "mismatches" / "mismatches.parquet").to_pylist()
    faults = {f"r{place:05d}": fault.name if fault else EQUAL for place, (fault, _) in enumerate(planted)}
    named = Counter((faults[row["request_id"]], row["cause"]) for row in rows)
    return Audited(report, named)


def everywhere(fault: Fault) -> list[tuple[Fault | None, OnlineFeatures]]:
    """Plant a fault in all rows."""
    return [(fault, answer) for answer in fault.served()]


def in_some(faults: Sequence[Fault], share: float) -> list[tuple[Fault | None, OnlineFeatures]]:
    """Plant faults of one truth in a share of the rows each, every so many rows."""
    truth: Answers = answers(faults[0].truth())
    served = [fault.served() for fault in faults]
    step = max(len(faults), round(1 / share))
    found: list[tuple[Fault | None, OnlineFeatures]] = []
    for place, answer in enumerate(truth):
        number = place % step
        found.append((faults[number], served[number][place]) if number < len(faults) else (None, answer))
    return found
