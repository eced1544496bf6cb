"""Looking for leaks in a training set: its rows are asked again, a little earlier, on the road that built it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import pyarrow as pa

from featurestore.definitions.sources import Source
from featurestore.errors import RequestError, listing
from featurestore.offline.build import AS_OF, Features
from featurestore.offline.dataset import TrainingSet
from featurestore.offline.training_set import compute_reference
from featurestore.plan.model import Plan, ViewPlan
from featurestore.skew.association import Association, association, coded
from featurestore.skew.compare import agrees
from featurestore.skew.leakage import HINDSIGHT, SHIFTS, LeakageReport, SourceDelay, judge, ordered_delays
from featurestore.sources import ReadSettings, Scan, open_scans


def look_for_leaks(
    built: TrainingSet, label: str, *, sources: Mapping[str, Source], settings: ReadSettings, rows: int
) -> LeakageReport:
    """Tell which features of a training set look like leaks.

    Args:
        built: The training set.
        label: Column that is predicted.
        sources: Definitions of the sources of its plan, by name.
        settings: What reading may use.
        rows: How many of its rows to look at, spread evenly.

    Raises:
        RequestError: There is no such column, or it holds one value only.
        SourceError: A source cannot give its rows.
    """
    plan = Plan.from_json(msgspec.json.encode(built.manifest.plan))
    table = _sampled(built, plan, label, rows)
    labels = coded(table.column(label))
    if len(np.unique(labels)) < 2:
        problem = f"column '{label}' holds one value only, there is nothing to predict"
        raise RequestError(problem, field="/label", code="constant-label")
    has_hindsight = built.manifest.hindsight

    def powers(shift_us: int, *, hindsight: bool) -> dict[str, Association]:
        return _powers(answers(shift_us, hindsight=hindsight), labels)

    def answers(shift_us: int, *, hindsight: bool) -> Features:
        spine = _shifted(table, shift_us)
        return compute_reference(plan, spine, sources=sources, settings=settings, hindsight=hindsight)[0]

    present = answers(0, hindsight=has_hindsight)
    moved = {name: powers(shift, hindsight=has_hindsight) for name, shift in SHIFTS.items()}
    moved[HINDSIGHT] = powers(0, hindsight=not has_hindsight)
    with open_scans(plan.views, sources, settings) as scans:
        delays = [_delay(view, scans[view.name]) for view in plan.views if scans[view.name].row_count]
    return LeakageReport(
        service=plan.name,
        fingerprint=plan.fingerprint,
        label=label,
        rows=table.num_rows,
        features=judge(
            plan,
            _powers(present, labels),
            moved,
            has_hindsight=has_hindsight,
            changed=_changed(plan, table, present),
        ),
        sources=ordered_delays(delays),
    )


def _sampled(built: TrainingSet, plan: Plan, label: str, rows: int) -> pa.Table:
    """Read what is needed of some rows, spread evenly."""
    known = built.manifest.spine_columns
    features = [output.name for output in plan.outputs]
    if label not in known or label in features:
        hint = listing("Columns of the spine", known, wrong=label)
        raise RequestError(f"the training set has no label '{label}'", field="/label", hint=hint, code="unknown-label")
    asked = [AS_OF, *(column.name for column in (*plan.join_keys, *plan.request))]
    table = built.to_arrow(list(dict.fromkeys([*asked, label, *features])))
    places = np.unique(np.linspace(0, max(0, table.num_rows - 1), rows).astype(np.int64))
    return table.take(pa.array(places)) if table.num_rows > rows else table


def _shifted(table: pa.Table, shift_us: int) -> pa.Table:
    """Return the questions, asked so much earlier."""
    instants = table.column(AS_OF).cast(pa.int64()).to_numpy() - shift_us
    return table.set_column(
        table.column_names.index(AS_OF), AS_OF, pa.array(instants, pa.int64()).cast(pa.timestamp("us", "UTC"))
    )


def _powers(features: Features, labels: np.ndarray) -> dict[str, Association]:
    return {name: association(coded(values), labels) for name, values in features.values.items()}


def _changed(plan: Plan, table: pa.Table, present: Features) -> dict[str, int]:
    """Count values of the training set that its sources give otherwise now."""
    statuses = np.zeros(table.num_rows, dtype=np.uint8)
    changed = {}
    for output in plan.outputs:
        built, now = table.column(output.name).combine_chunks(), present.values[output.name]
        changed[output.name] = int((~agrees(built, now, statuses, statuses, output.dtype)).sum())
    return changed


def _delay(view: ViewPlan, scan: Scan) -> SourceDelay:
    """Return how long events took to become known."""
    names = list(dict.fromkeys([view.source.event_time, scan.ingest_column]))
    parts = [
        batch.column(names[-1]).cast(pa.int64()).to_numpy() - batch.column(names[0]).cast(pa.int64()).to_numpy()
        for batch in scan.batches(names)
    ]
    delays = np.concatenate(parts)
    median, high = np.quantile(delays, [0.5, 0.95]) / 1e6
    return SourceDelay(
        view=view.name,
        source=view.source.name,
        median_s=float(median),
        p95_s=float(high),
        longest_s=float(delays.max()) / 1e6,
        beyond_lag=float((delays > view.refresh.lag_us).mean()),
    )
