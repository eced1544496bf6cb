"""Looking for leaks in a training set: its rows are asked again, a little earlier, on the road that built it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Flags, Ints
from featurestore.core.dtypes import TIMESTAMP
from featurestore.core.errors import RequestError, listing
from featurestore.core.temporal import MAX_INSTANT_US, format_duration
from featurestore.definitions.sources import Source
from featurestore.guard.comparing.compare import agrees
from featurestore.guard.comparing.sampling import row_buckets
from featurestore.guard.release.association import Association, association, coded
from featurestore.guard.release.leakage_report import (
    HINDSIGHT,
    LABEL_TIME,
    SHIFTS,
    LeakageReport,
    SourceDelay,
    judge,
    ordered_delays,
)
from featurestore.guard.world.world import operands
from featurestore.offline.build import Features
from featurestore.offline.dataset import TrainingSet
from featurestore.offline.training_set import compute_reference
from featurestore.plan.model import FeaturePlan, InputPlan, Output, Plan, TypedExpr, ViewPlan, ViewUse
from featurestore.plan.names import AS_OF
from featurestore.sources import ReadSettings, Scan, open_scans

_NEVER = MAX_INSTANT_US


def look_for_leaks(
    built: TrainingSet,
    label: str,
    *,
    label_time: str | None,
    sources: Mapping[str, Source],
    settings: ReadSettings,
    rows: int,
) -> LeakageReport:
    """Tell which features of a training set are leaks, and which may be.

    Args:
        built: The training set.
        label: Column that is predicted.
        label_time: Column that says when the label's event happened, null where it did not; ``None`` if there is none.
        sources: Definitions of the sources of its plan, by name.
        settings: What reading may use.
        rows: How many of its rows to look at, chosen by a hash of key and instant.

    Raises:
        RequestError: There is no such column, it holds one value only, or ``label_time`` holds no instants.
        SourceError: A source cannot give its rows.
    """
    plan = Plan.from_json(msgspec.json.encode(built.manifest.plan))
    table = _sampled(built, plan, _known_columns(built, plan, label, label_time), rows)
    labels = coded(table.column(label))
    if len(np.unique(labels)) < 2:
        problem = f"column '{label}' holds one value only, there is nothing to predict"
        raise RequestError(problem, field="/label", code="constant-label")
    has_hindsight = built.manifest.hindsight
    as_of = _instants(table.column(AS_OF))

    def answers(instants: Ints, *, hindsight: bool = has_hindsight) -> Features:
        spine = _asked_at(table, instants)
        return compute_reference(plan, spine, sources=sources, settings=settings, hindsight=hindsight)[0]

    present = answers(as_of)
    moved = {name: _powers(answers(as_of - shift), labels) for name, shift in SHIFTS.items()}
    moved[HINDSIGHT] = _powers(answers(as_of, hindsight=not has_hindsight), labels)
    after_label = 0
    if label_time is not None:
        happened = _happened(table.column(label_time), label_time)
        after_label = int((happened < as_of).sum())
        moved[LABEL_TIME] = _powers(answers(_before_label(as_of, happened)), labels)
    with open_scans(plan.views, sources, settings) as scans:
        delays = {view.name: _delay(view, scans[view.name]) for view in plan.views if scans[view.name].row_count}
    features = judge(
        plan,
        _powers(present, labels),
        moved,
        has_hindsight=has_hindsight,
        changed=_changed(plan, table, present),
    )
    doubted = {feature.name: _views_of(plan, feature.name) for feature in features if feature.doubts}
    newest = _newest(plan, {use.alias for uses in doubted.values() for use in uses}, table, sources, settings)
    evidence = {
        name: tuple(line for use in uses for line in _evidence(use, newest[use.alias], delays, table, label, labels))
        for name, uses in doubted.items()
    }
    return LeakageReport(
        service=plan.name,
        fingerprint=plan.fingerprint,
        label=label,
        rows=table.num_rows,
        sampled_of=built.manifest.row_count,
        label_time=label_time or "",
        after_label=after_label,
        features=tuple(replace(feature, evidence=evidence.get(feature.name, ())) for feature in features),
        sources=ordered_delays(list(delays.values())),
    )


def _known_columns(built: TrainingSet, plan: Plan, label: str, label_time: str | None) -> list[str]:
    """Return the columns that are needed; the label and its time must be the spine's own."""
    known = built.manifest.spine_columns
    features = [output.name for output in plan.outputs]
    for field, name in {"label": label, "label_time": label_time}.items():
        if name is not None and (name not in known or name in features):
            hint = listing("Columns of the spine", known, wrong=name)
            problem = f"the training set has no {field.replace('_', ' ')} '{name}'"
            raise RequestError(problem, field=f"/{field}", hint=hint, code="unknown-label")
    asked = [column.name for column in (*plan.join_keys, *plan.request)]
    return list(dict.fromkeys([*asked, label, *([label_time] if label_time else []), *features]))


def _sampled(built: TrainingSet, plan: Plan, columns: list[str], rows: int) -> pa.Table:
    """Read some rows, chosen by a hash of what they ask: the same ones whatever the set's order."""
    if built.manifest.row_count <= rows:
        return built.read_questions(columns)
    asked = [column.name for column in plan.join_keys]
    buckets = np.concatenate([row_buckets(plan, pa.table(batch)) for batch in built.scan_questions(asked)])
    places = np.sort(np.argsort(buckets, kind="stable")[:rows])
    kept, begin = [], 0
    for batch in built.scan_questions(columns):
        own = places[np.searchsorted(places, begin) : np.searchsorted(places, begin + batch.num_rows)]
        kept.append(batch.take(pa.array(own - begin)))
        begin += batch.num_rows
    return pa.Table.from_batches(kept)


def _asked_at(table: pa.Table, instants: Ints) -> pa.Table:
    """Return the questions, asked at other instants."""
    return table.set_column(
        table.column_names.index(AS_OF), AS_OF, pa.array(instants, pa.int64()).cast(pa.timestamp("us", "UTC"))
    )


def _happened(column: pa.ChunkedArray, name: str) -> Ints:
    """Return when the label's event happened, ``_NEVER`` where it did not."""
    if not pa.types.is_timestamp(column.type) or column.type.tz is None:
        problem = f"column '{name}' is {column.type}, expected instants with a time zone"
        raise RequestError(problem, field="/label_time", hint="Build the set with an aware column.", code="wrong-type")
    instants = column.cast(pa.timestamp("us", "UTC"), safe=False)
    return _instants(instants.fill_null(pa.scalar(_NEVER, pa.int64()).cast(instants.type)))


def _before_label(as_of: Ints, happened: Ints) -> Ints:
    """Return for each row the last instant, at most its own, that does not see the label's event.

    Rows in which it did not happen are asked as much earlier as the others are: else how much would tell the label.
    """
    has_happened = happened < _NEVER
    asked = np.minimum(as_of, happened - 1)
    if has_happened.any():
        earlier = (as_of - asked)[has_happened]
        asked[~has_happened] = as_of[~has_happened] - np.resize(earlier, int((~has_happened).sum()))
    return asked


def _instants(column: pa.ChunkedArray) -> Ints:
    return np.asarray(column.cast(pa.int64()).to_numpy(), dtype=np.int64)


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
        says_when_known=view.source.ingest_time is not None,
    )


def _views_of(plan: Plan, output: str) -> list[ViewUse]:
    """Return the uses of views that an output is made of."""
    columns = operands(plan, output)
    return [use for use in plan.uses if not columns.isdisjoint(use.columns)]


def _newest(
    plan: Plan, aliases: Collection[str], table: pa.Table, sources: Mapping[str, Source], settings: ReadSettings
) -> dict[str, pa.Array]:
    """Return for each row when the newest event happened that a view may see, by alias."""
    if not aliases:
        return {}
    uses, outputs = [], []
    for use in plan.uses:
        if use.alias in aliases:
            name = f"{use.alias}__newest"
            at = TypedExpr("column", TIMESTAMP, params=(("name", use.view.source.event_time),))
            inputs = (*use.view.inputs, InputPlan(at))
            newest = FeaturePlan("newest", "last", len(use.view.inputs), TIMESTAMP)
            uses.append(replace(use, view=replace(use.view, inputs=inputs, features=(newest,))))
            outputs.append(Output(name, name, TIMESTAMP, "view"))
    asking = replace(plan, uses=tuple(uses), on_demand=(), request=(), outputs=tuple(outputs))
    found, _ = compute_reference(asking, table, sources=sources, settings=settings)
    return {name.removesuffix("__newest"): values for name, values in found.values.items()}


def _evidence(
    use: ViewUse,
    newest: pa.Array,
    delays: Mapping[str, SourceDelay],
    table: pa.Table,
    label: str,
    labels: Ints,
) -> Iterator[str]:
    """Say what is known about the newest events that a view sees, and of when they became known."""
    ages = pc.subtract(table.column(AS_OF).cast(pa.int64()), newest.cast(pa.int64())).combine_chunks()
    medians = {
        code: float(np.median(own))
        for code in np.unique(labels).tolist()
        if len(own := ages.filter(pa.array(labels == code)).drop_null().to_numpy())
    }
    if medians:
        ordered = sorted(medians, key=medians.__getitem__)
        said = [
            f"{_age(medians[code])} old where {label} is {_named(table.column(label), labels == code)}"
            for code in dict.fromkeys([ordered[0], ordered[-1]])
        ]
        yield f"the newest event of '{use.view.name}' is {', '.join(said)} (median)"
    delay = delays.get(use.view.name)
    if delay is not None and not delay.says_when_known:
        yield f"source '{delay.source}' does not say when its events became known; give it an ingest_time if it can"
    elif delay is not None:
        share = f"{delay.beyond_lag:.1%} of its events later than the lag of '{use.view.name}'"
        yield f"source '{delay.source}' says when its events became known, {share}"


def _age(length_us: float) -> str:
    """Write an age, from a second on in whole seconds."""
    return format_duration(round(length_us / 1e6) * 1_000_000 if length_us >= 1e6 else round(length_us))


def _named(label: pa.ChunkedArray, rows: Flags) -> str:
    """Name the values of a class of a label."""
    distinct = label.filter(pa.array(rows)).unique().to_pylist()
    if len(distinct) == 1:
        return str(distinct[0])
    ordered = sorted(distinct, key=lambda value: (value is None, value))
    return f"from {ordered[0]} to {ordered[-1]}"
