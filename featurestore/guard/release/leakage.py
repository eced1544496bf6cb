"""Finding leaks: features that predict a label only because they see events that were not known yet.

The rows of a training set are computed again for earlier instants, and the loss of association with the label is
measured. Proof and suspicion are kept apart. A feature that sees the event it predicts loses its association when it is
computed a microsecond earlier, or just before the event of the label: no honest feature does, so it is flagged. A
minute or an hour earlier, an honest feature may lose as much, because new events matter, and a feature of events dated
before they were known looks the same. No count of values can distinguish these two, so such a loss is a doubt, reported
with its evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import hypot
from statistics import NormalDist
from typing import ClassVar

import msgspec
import numpy as np
import pyarrow as pa

from featurestore.core.columns import Ints
from featurestore.core.errors import RequestError, listing
from featurestore.core.temporal import MAX_INSTANT_US, MICROSECONDS
from featurestore.definitions.sources import Source
from featurestore.guard.comparing.compare import agrees
from featurestore.guard.comparing.sampling import row_buckets
from featurestore.guard.release.association import Association, association, coded
from featurestore.guard.release.delays import SourceDelay, delay_evidence, newest_events, ordered_delays, source_delay
from featurestore.guard.report import DOUBTFUL, FAIL, PASS, Judged, Report
from featurestore.guard.world.world import operands
from featurestore.offline.build import Features
from featurestore.offline.dataset import TrainingSet
from featurestore.offline.training_set import compute_reference
from featurestore.plan.aggregations import Kind, aggregate_of
from featurestore.plan.model import Plan, ViewUse
from featurestore.plan.names import AS_OF
from featurestore.sources import ReadSettings, open_scans

SHIFTS: Mapping[str, int] = {"1us": 1, "1m": MICROSECONDS["m"], "1h": MICROSECONDS["h"], "1d": MICROSECONDS["d"]}
"""How much earlier features are computed, by name."""

HINDSIGHT = "hindsight"
LABEL_TIME = "label time"
LEAST_SHARE = 0.05
"""Least share of the label's entropy that a feature removes for its losses to raise doubts."""

LEAST_EFFECT = 0.01
"""Least share of the label's entropy that counts as a loss."""

LEAST_LOSS = 0.5
"""Least share of a feature's association that counts as lost."""

MISTAKES = 0.01
"""Probability that noise alone flags or doubts any feature, over all features and shifts, for independent rows."""

_SOON_US = MICROSECONDS["h"]
_SMALL = 10
_NEVER = MAX_INSTANT_US


@dataclass(frozen=True)
class FeaturePower:
    """How much one feature says about the label.

    Attributes:
        name: Column of the training set.
        share: Share of the label's entropy that it removes.
        error: Standard error of ``share``.
        earlier: ``share`` of the feature computed earlier, by ``SHIFTS``; with ``hindsight``, or without if the
            training set has it; and just before the label's event, if its time is known.
        flags: Proofs that it is a leak.
        doubts: Reasons why it may be a leak; none for a flagged feature.
        evidence: Evidence about the doubts.
        notes: Other remarks.
        changed: Count of values of the training set that differ from what its sources give now.
    """

    name: str
    share: float
    error: float
    earlier: dict[str, float]
    flags: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    changed: int = 0


@dataclass(frozen=True)
class LeakageReport(Report, Judged):
    """The leaks of a training set.

    Attributes:
        service: Name of the feature service.
        fingerprint: Fingerprint of its plan.
        label: Column to predict.
        rows: Count of rows examined.
        sampled_of: Count of rows of the training set.
        label_time: Column with the time of the label's event; empty if none was named.
        after_label: Rows whose ``as_of`` is after the label's event.
        features: The features: flagged ones first, then doubted ones, largest ``share`` first.
        sources: Delays of sources, largest share beyond the lag first.
        schema: Name and version of the JSON form.
    """

    SCHEMA: ClassVar[str] = "featurestore-leakage-2"
    KIND: ClassVar[str] = "leakage report"

    service: str
    fingerprint: str
    label: str
    rows: int
    sampled_of: int
    label_time: str
    after_label: int
    features: tuple[FeaturePower, ...]
    sources: tuple[SourceDelay, ...]
    schema: str = SCHEMA

    @property
    def flagged(self) -> tuple[FeaturePower, ...]:
        """The features that are leaks, proven."""
        return tuple(feature for feature in self.features if feature.flags)

    @property
    def doubted(self) -> tuple[FeaturePower, ...]:
        """The features that may be leaks."""
        return tuple(feature for feature in self.features if feature.doubts)

    @property
    def verdict(self) -> str:
        """``"fail"`` if any feature is a leak, else ``"doubtful"`` if any may be one, else ``"pass"``."""
        return FAIL if self.flagged else DOUBTFUL if self.doubted else PASS


def judge(
    plan: Plan,
    base: Mapping[str, Association],
    moved: Mapping[str, Mapping[str, Association]],
    *,
    has_hindsight: bool,
    changed: Mapping[str, int],
) -> tuple[FeaturePower, ...]:
    """Decide which features are leaks, and which may be.

    Args:
        plan: The plan of the training set.
        base: Association of each feature as in the training set.
        moved: By shift (and ``HINDSIGHT``, and ``LABEL_TIME`` if it is known), the association computed otherwise.
        has_hindsight: Whether the training set was built with hindsight; then ``HINDSIGHT`` is without hindsight.
        changed: Count of values per feature that differ from what sources give now.

    Returns:
        The features: flagged ones first, then doubted ones, largest ``share`` first.
    """
    spans = feature_spans(plan)
    deviations = NormalDist().inv_cdf(1 - MISTAKES / max(1, len(base) * len(moved)))
    features = []
    for name, power in base.items():
        others = {move: powers[name] for move, powers in moved.items()}
        flags = tuple(_flags(power, others, deviations, has_hindsight=has_hindsight))
        other = others[HINDSIGHT]
        notes = []
        if not has_hindsight and _grows(power, other, deviations):
            notes.append(f"with hindsight it would say {other.share:.3f}, from events that became known too late")
        features.append(
            FeaturePower(
                name=name,
                share=power.share,
                error=power.error,
                earlier={move: moved.share for move, moved in others.items()},
                flags=flags,
                doubts=() if flags else tuple(_doubts(power, others, deviations, spans[name])),
                notes=tuple(notes),
                changed=changed[name],
            )
        )
    return tuple(
        sorted(features, key=lambda feature: (not feature.flags, not feature.doubts, -feature.share, feature.name))
    )


def _flags(
    power: Association, others: Mapping[str, Association], deviations: float, *, has_hindsight: bool
) -> Iterator[str]:
    at_once = others["1us"]
    if _vanishes(power, at_once, deviations):
        yield (
            f"computed 1us earlier it loses {_lost(power, at_once):.0%} of its association: it sees an event at as_of"
            " itself; is its source inclusive, or as_of the time of the label's event?"
        )
    at_label = others.get(LABEL_TIME)
    if at_label is not None and _shrinks(power, at_label, deviations):
        yield (
            f"computed just before the label's event it loses {_lost(power, at_label):.0%} of its association: it sees"
            " that event or what followed from it"
        )
    if has_hindsight and _vanishes(power, others[HINDSIGHT], deviations):
        yield (
            f"without hindsight it loses {_lost(power, others[HINDSIGHT]):.0%} of its association: the events were not"
            " known yet"
        )


def _doubts(power: Association, others: Mapping[str, Association], deviations: float, span_us: int) -> Iterator[str]:
    """Yield the shortest shift with a loss, if it is short, also in comparison with the window of the feature."""
    for shift, length in SHIFTS.items():
        is_short = length <= _SOON_US or length * _SMALL <= span_us
        if power.share >= LEAST_SHARE and is_short and _vanishes(power, others[shift], deviations):
            yield (
                f"computed {shift} earlier it loses {_lost(power, others[shift]):.0%} of its association: a leak if its"
                " newest events have a time before they were known, honest if not"
            )
            return


def feature_spans(plan: Plan) -> dict[str, int]:
    """Return the shortest window of each output in microseconds; 0 if any of its features has no window.

    Latest values and lifetimes have no window: the last event may honestly say most.
    """
    windows = {
        column: 0 if aggregate_of(feature).kind is Kind.ORDERED else feature.window_us or 0
        for use in plan.uses
        for column, feature in zip(use.columns, use.view.features, strict=True)
    }
    return {
        output.name: min((windows[column] for column in operands(plan, output.name) if column in windows), default=0)
        for output in plan.outputs
    }


def _vanishes(before: Association, after: Association, deviations: float) -> bool:
    loss = before.share - after.share
    is_large = loss >= LEAST_EFFECT and loss >= LEAST_LOSS * before.share
    return is_large and loss > deviations * hypot(before.error, after.error)


def _shrinks(before: Association, after: Association, deviations: float) -> bool:
    return before.share - after.share > max(LEAST_EFFECT, deviations * hypot(before.error, after.error))


def _grows(before: Association, after: Association, deviations: float) -> bool:
    return _shrinks(after, before, deviations)


def _lost(before: Association, after: Association) -> float:
    return 1 - after.share / before.share if before.share else 0.0


def look_for_leaks(
    built: TrainingSet,
    label: str,
    *,
    label_time: str | None,
    sources: Mapping[str, Source],
    settings: ReadSettings,
    rows: int,
) -> LeakageReport:
    """Find the features of a training set that are leaks, and those that may be.

    Args:
        built: The training set.
        label: Column to predict.
        label_time: Column with the time of the label's event, null if it did not happen; ``None`` if there is none.
        sources: Definitions of the sources of its plan, by name.
        settings: Resources for reading.
        rows: Count of rows to examine, chosen by a hash of key and instant.

    Raises:
        RequestError: There is no such column, it has only one value, or ``label_time`` is not a column of instants.
        SourceError: A source cannot be read.
    """
    plan = Plan.from_json(msgspec.json.encode(built.manifest.plan))
    table = _sampled(built, plan, _known_columns(built, plan, label, label_time), rows)
    labels = coded(table.column(label))
    if len(np.unique(labels)) < 2:
        problem = f"column '{label}' has only one value, there is nothing to predict"
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
        delays = {view.name: source_delay(view, scans[view.name]) for view in plan.views if scans[view.name].row_count}
    features = judge(
        plan,
        _powers(present, labels),
        moved,
        has_hindsight=has_hindsight,
        changed=_changed(plan, table, present),
    )
    doubted = {feature.name: _views_of(plan, feature.name) for feature in features if feature.doubts}
    newest = newest_events(plan, {use.alias for uses in doubted.values() for use in uses}, table, sources, settings)
    evidence = {
        name: tuple(
            line for use in uses for line in delay_evidence(use, newest[use.alias], delays, table, label, labels)
        )
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
    """Return the needed columns; the label and its time must be columns of the spine."""
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
    """Read some rows, chosen by a hash of their question: the same rows in any order of the set."""
    if built.manifest.row_count <= rows:
        return built.read_questions(columns)
    asked = [column.name for column in plan.join_keys]
    buckets = np.concatenate([row_buckets(plan, pa.table(batch)) for batch in built.scan_questions(asked)])
    places = np.sort(np.argsort(buckets, kind="stable")[:rows])
    kept, begin = [], 0
    for batch in built.scan_questions(columns):
        chosen = places[np.searchsorted(places, begin) : np.searchsorted(places, begin + batch.num_rows)]
        kept.append(batch.take(pa.array(chosen - begin)))
        begin += batch.num_rows
    return pa.Table.from_batches(kept)


def _asked_at(table: pa.Table, instants: Ints) -> pa.Table:
    """Return the questions at other instants."""
    return table.set_column(
        table.column_names.index(AS_OF), AS_OF, pa.array(instants, pa.int64()).cast(pa.timestamp("us", "UTC"))
    )


def _happened(column: pa.ChunkedArray, name: str) -> Ints:
    """Return the times of the label's event, ``_NEVER`` if it did not happen."""
    if not pa.types.is_timestamp(column.type) or column.type.tz is None:
        problem = f"column '{name}' is {column.type}, expected instants with a time zone"
        raise RequestError(
            problem, field="/label_time", hint="Build the set with a column that has a time zone.", code="wrong-type"
        )
    instants = column.cast(pa.timestamp("us", "UTC"), safe=False)
    return _instants(instants.fill_null(pa.scalar(_NEVER, pa.int64()).cast(instants.type)))


def _before_label(as_of: Ints, happened: Ints) -> Ints:
    """Return for each row the last instant, at most its own, that does not see the label's event.

    Rows in which the event did not happen are moved by the same shifts as the others: otherwise the size of the shift
    would reveal the label.
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
    """Count the values of the training set that differ from what its sources give now."""
    statuses = np.zeros(table.num_rows, dtype=np.uint8)
    changed = {}
    for output in plan.outputs:
        built, now = table.column(output.name).combine_chunks(), present.values[output.name]
        changed[output.name] = int((~agrees(built, now, statuses, statuses, output.dtype)).sum())
    return changed


def _views_of(plan: Plan, output: str) -> list[ViewUse]:
    """Return the uses of views that an output is computed from."""
    columns = operands(plan, output)
    return [use for use in plan.uses if not columns.isdisjoint(use.columns)]
