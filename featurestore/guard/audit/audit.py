"""Auditing what was served: every logged row is recomputed offline at its own instant and compared.

Rows are recomputed by the plan that answered them, so a definition that was changed since does not look like skew. The
log is gone through piece by piece; what is kept of a piece are counts that add up, and the rows that differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Bytes, Flags, Ints
from featurestore.core.dtypes import argument_text
from featurestore.core.statuses import Status, status_name
from featurestore.core.temporal import NO_WATERMARK, format_instant
from featurestore.guard.audit.collecting import Collected
from featurestore.guard.audit.proving import Explained, ExplainRows
from featurestore.guard.audit.report import (
    WORST_ROWS,
    AuditReport,
    Mismatch,
    Skipped,
)
from featurestore.guard.audit.slices import (
    BY,
    SliceTally,
    age_classes,
    as_text,
    null_classes,
    width_of,
)
from featurestore.guard.comparing.compare import (
    ComparedFeature,
    Details,
    FeatureCounts,
    compare,
    completed,
    is_unread,
    status_names,
    unread_texts,
)
from featurestore.guard.comparing.sampling import sampled, shards
from featurestore.guard.comparing.tolerance import Tolerance
from featurestore.guard.world.world import event_bounds, stale_rows
from featurestore.offline.build import Features
from featurestore.offline.coverage import count_beyond_newest
from featurestore.plan.model import Plan
from featurestore.plan.names import AS_OF
from featurestore.serving_log.columns import (
    FINGERPRINT,
    MODEL,
    MODEL_VERSION,
    REQUEST_ID,
    ROW,
    VALUE_PREFIX,
    key_column,
    names_of,
    request_column,
    status_column,
    value_column,
    watermark_column,
)

Reference = Callable[[Plan, pa.Table], tuple[Features, Mapping[str, int | None]]]
"""Recomputes a spine offline: its features with statuses, and the newest event time per view."""

Progress = Callable[[str, int, int], None]
"""Is told what is being done, how far it is, and how far it will go."""

Unexamined = Callable[[Plan, pa.Table, Features, Mapping[str, Flags]], None]
"""Is given the plan, rows of its log, what the training set has for them, and per output the rows that are meant."""

BATCH_VALUES = 13_000_000
"""Values recomputed at a time; each time the sources are read once."""

_WORST_OF_FEATURE = 4
_UNKNOWN_PLAN = "the plan that answered them is not in the registry"
_LOST = "the serving log could not keep them"


@dataclass
class Remarks:
    """What is said of rows while they are brought; it is complete once all of them were taken.

    Attributes:
        notes: What readers of the report should know, one line each.
        skipped: Rows that were served and cannot be compared, by reason.
    """

    notes: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass
class _Found:
    """What has been found so far."""

    slices: SliceTally
    served: int = 0
    compared: int = 0
    stale: int = 0
    beyond: int = 0
    fingerprints: Counter[str] = field(default_factory=Counter)
    features: dict[str, FeatureCounts] = field(default_factory=dict)
    details: dict[str, Details] = field(default_factory=dict)
    served_by_feature: Counter[str] = field(default_factory=Counter)
    worst: list[tuple[float, Mismatch]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    collected: dict[str, Collected] = field(default_factory=dict)
    unread: Counter[str] = field(default_factory=Counter)
    unread_example: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """How an audit goes about it.

    Attributes:
        sample: Share of the entities to look at, by hash of their key.
        by: Columns of the log to look for slices in, beside the usual properties.
        explain: Proves causes of the rows that differ; ``None`` leaves causes out.
        explain_rows: Of how many rows that differ; ``None`` for all.
        progress: Is told how far the audit is.
        kind: What the rows are: ``"log"``, ``"live"``, ``"replay"`` or ``"foreign"``.
        batch_values: Values recomputed at a time.
        lost: Count of rows that were served and are not in the log.
        rows: Count of rows that will come, for those who are told how far the audit is.
        unexamined: Is given values that differ and are not to be explained, or cannot be.
        remarks: What those who bring the rows say of them, once all were taken.
        tolerance: Gives by feature how far numbers may lie apart to be near enough; ``None`` for not at all.
    """

    sample: float = 1.0
    by: Sequence[str] = ()
    explain: ExplainRows | None = None
    explain_rows: int | None = None
    progress: Progress | None = None
    kind: str = "log"
    batch_values: int = BATCH_VALUES
    lost: int = 0
    rows: int = 0
    unexamined: Unexamined | None = None
    remarks: Remarks = field(default_factory=Remarks)
    tolerance: Callable[[str], Tolerance | None] = lambda _: None


def audit(
    service: str,
    tables: Iterable[pa.Table],
    *,
    plans: Mapping[str, Plan],
    reference: Reference,
    since_us: int,
    until_us: int,
    ran_at_us: int,
    options: Options | None = None,
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
        options: How to go about it.

    Returns:
        The report, without a verdict.
    """
    options = options or Options()
    found = _Found(SliceTally(width_of(since_us, until_us)))
    try:
        _take_all(tables, plans, reference, found, options)
        explained = _explained(found, reference, options)
    finally:
        for collected in found.collected.values():
            collected.close()
    for name in found.features:
        found.served_by_feature[name] += options.remarks.skipped.total()
    left_out = options.remarks.skipped + Counter({_LOST: options.lost})
    found.served += left_out.total()
    found.skipped += left_out
    return _report(service, found, explained, since_us, until_us, ran_at_us, options)


def _explained(found: _Found, reference: Reference, options: Options) -> list[Explained]:
    """Explain what differs, plan by plan; of what is not to be explained others are told."""
    if options.explain is None:
        return []
    asked = [(mismatch.feature, mismatch.request_id, mismatch.row) for _, mismatch in found.worst]
    explained = []
    for _, collected in sorted(found.collected.items()):
        if collected.seen:
            explained.append(options.explain(collected, asked, options.progress))
            if options.unexamined is not None:
                for rows, flags in collected.rest():
                    options.unexamined(
                        collected.plan, rows, reference(collected.plan, spine_of(collected.plan, rows))[0], flags
                    )
    return explained


def _take_all(
    tables: Iterable[pa.Table],
    plans: Mapping[str, Plan],
    reference: Reference,
    found: _Found,
    options: Options,
) -> None:
    """Take batch by batch; none of them is in memory any more when this returns."""
    seen = 0
    for batch in _batches(tables, options.batch_values):
        _take_batch(batch, plans, reference, found, options)
        seen += batch.num_rows
        del batch
        pa.default_memory_pool().release_unused()
        if options.progress is not None:
            options.progress("rows compared", seen, max(seen, options.rows))


def _take_batch(
    batch: pa.Table, plans: Mapping[str, Plan], reference: Reference, found: _Found, options: Options
) -> None:
    fingerprint = str(batch.column(FINGERPRINT)[0].as_py())
    plan = plans.get(fingerprint)
    if plan is None:
        found.served += batch.num_rows
        found.skipped[_UNKNOWN_PLAN] += batch.num_rows
        for name in names_of(VALUE_PREFIX, batch.column_names):
            found.served_by_feature[name] += batch.num_rows
        return
    part = sampled(plan, batch, options.sample)
    found.served += part.num_rows
    if part.num_rows:
        _compare_batch(plan, part, reference, found, options)


def _report(
    service: str,
    found: _Found,
    explained: Sequence[Explained],
    since_us: int,
    until_us: int,
    ran_at_us: int,
    options: Options,
) -> AuditReport:
    is_sample = options.sample < 1.0 or options.kind == "live"
    features = tuple(
        completed(
            found.features[name],
            found.details[name],
            served=found.served_by_feature[name],
            is_sample=is_sample,
        )
        for name in sorted(found.features)
    )
    skipped = tuple(Skipped(reason, rows) for reason, rows in sorted(found.skipped.items()))
    telling = found.slices.telling()
    findings = tuple(finding for one in explained for finding in one.findings)
    return AuditReport(
        service=service,
        since=format_instant(since_us),
        until=format_instant(until_us),
        ran_at=format_instant(ran_at_us),
        served=found.served,
        compared=found.compared,
        stale=found.stale,
        beyond_newest_event=found.beyond,
        fingerprints=dict(sorted(found.fingerprints.items())),
        features=features,
        worst=tuple(_with_cause(mismatch, explained) for _, mismatch in found.worst),
        skipped=skipped,
        kind=options.kind,
        sample=options.sample,
        sums=_sums(found.served, found.compared, skipped, features),
        findings=tuple(sorted(findings, key=lambda finding: -finding.values)),
        examined=sum(one.examined for one in explained),
        over_time=found.slices.buckets(),
        slices=found.slices.slices(),
        telling="" if telling is None else str(telling),
        notes=(*options.remarks.notes, *_unread_notes(features, found)),
    )


def _unread_notes(features: Sequence[FeatureCounts], found: _Found) -> Iterator[str]:
    """Say of which features something was served that is none of their values."""
    for feature in features:
        if count := found.unread[feature.name]:
            example = found.unread_example[feature.name]
            yield f"{feature.name}: {count:,} served values are no {feature.dtype}, for instance {example!r}"


def _with_cause(mismatch: Mismatch, explained: Sequence[Explained]) -> Mismatch:
    place = mismatch.feature, mismatch.request_id, mismatch.row
    cause, events = next((one.told[place] for one in explained if place in one.told), ("", ()))
    return replace(mismatch, cause=cause, events=events)


def _sums(served: int, compared: int, skipped: Sequence[Skipped], features: Sequence[FeatureCounts]) -> str:
    """Make sure that the parts of an audit add up, and say so."""
    left_out = sum(part.rows for part in skipped)
    assert served == compared + left_out, "rows of an audit do not add up"
    equal = sum(feature.equal for feature in features)
    both_null = sum(feature.both_null for feature in features)
    different = sum(feature.different for feature in features)
    values = sum(feature.compared for feature in features)
    assert values == equal + both_null + different, "values of an audit do not add up"
    return (
        f"{served} rows served = {compared} compared + {left_out} skipped; "
        f"{values} values = {equal} equal + {both_null} null on both + {different} different"
    )


def _batches(tables: Iterable[pa.Table], batch_values: int) -> Iterator[pa.Table]:
    """Put small pieces of one plan together, large enough to be worth reading the sources for."""
    waiting: dict[str, list[pa.Table]] = {}
    for table in tables:
        fingerprint = str(table.column(FINGERPRINT)[0].as_py())
        group = waiting.setdefault(fingerprint, [])
        group.append(table)
        values = len(names_of(VALUE_PREFIX, table.column_names))
        if values * sum(piece.num_rows for piece in group) >= batch_values:
            yield pa.concat_tables(waiting.pop(fingerprint))
    for group in waiting.values():
        yield pa.concat_tables(group)


def _compare_batch(plan: Plan, log: pa.Table, reference: Reference, found: _Found, options: Options) -> None:
    expected, newest = reference(plan, spine_of(plan, log))
    stale = _stale_rows(plan, log)
    as_of = _instants(log, AS_OF)
    found.compared += log.num_rows
    found.stale += int(stale.sum())
    found.beyond += count_beyond_newest(plan, as_of, newest)
    found.fingerprints[plan.fingerprint] += log.num_rows
    differs: dict[str, Flags] = {}
    unread: dict[str, Flags] = {}
    for output in plan.outputs:
        name = output.name
        unread[name] = _take_unread(log, name, found)
        compared = compare(
            name=name,
            dtype=output.dtype,
            reference=expected.values[name],
            current=log.column(value_column(name)).combine_chunks(),
            reference_statuses=expected.statuses[name],
            current_statuses=_codes(log, name),
            is_stale=stale,
            tolerance=options.tolerance(name),
            unread=unread[name],
        )
        known = found.features.get(name)
        found.features[name] = compared.counts if known is None else known + compared.counts
        found.details.setdefault(name, Details()).add(compared.details)
        found.served_by_feature[name] += log.num_rows
        differs[name] = compared.differs
        _keep_worst(plan, name, log, expected, compared, stale, found)
    any_differs = np.any(list(differs.values()), axis=0) if differs else np.zeros(log.num_rows, dtype=np.bool_)
    found.slices.add(as_of, any_differs, _properties(plan, log, expected, stale, options.by))
    left = differs
    if options.explain is not None:
        # What is no value cannot be reproduced.
        examined = {name: flags & ~unread[name] for name, flags in differs.items()}
        found.collected.setdefault(plan.fingerprint, Collected(plan, options.explain_rows)).add(log, examined)
        left = {name: flags & unread[name] for name, flags in differs.items()}
    if options.unexamined is not None:
        options.unexamined(plan, log, expected, left)


def _take_unread(log: pa.Table, name: str, found: _Found) -> Flags:
    """Count what was served and is no value of a feature; return in which rows."""
    unread = is_unread(log, name)
    if bool(unread.any()):
        found.unread[name] += int(unread.sum())
        found.unread_example.setdefault(name, unread_texts(log, name)[int(np.argmax(unread))].as_py())
    return unread


def _instants(log: pa.Table, name: str) -> Ints:
    column = log.column(name).combine_chunks().cast(pa.int64())
    return np.asarray(column.fill_null(NO_WATERMARK).to_numpy(zero_copy_only=False), dtype=np.int64)


def spine_of(plan: Plan, log: pa.Table) -> pa.Table:
    """Return what was asked in some rows of a log: keys, instants and request inputs."""
    columns = {AS_OF: log.column(AS_OF)}
    columns |= {column.name: log.column(key_column(column.name)) for column in plan.join_keys}
    columns |= {column.name: log.column(request_column(column.name)) for column in plan.request}
    return pa.table(columns)


def _properties(plan: Plan, log: pa.Table, expected: Features, stale: Flags, by: Sequence[str]) -> dict[str, pa.Array]:
    """Return the properties that rows are told apart by; statuses are those of training and of serving."""
    as_of = _instants(log, AS_OF)
    found = {
        f"staleness of {use.alias}": age_classes(
            event_bounds(use.view, as_of)[1] - _instants(log, watermark_column(use.alias))
        )
        for use in plan.uses
        if watermark_column(use.alias) in log.column_names
    }
    found["state"] = pa.array(["on time", "behind its refresh"]).take(pa.array(stale.astype(np.int8)))
    found["key shard"] = pa.array(shards(plan, log)).cast(pa.string())
    found["nulls served"] = null_classes([_is_null(log, output.name) for output in plan.outputs])
    found["fingerprint"] = log.column(FINGERPRINT).combine_chunks()
    for name in (MODEL, MODEL_VERSION):
        if name in log.column_names:
            found[name.replace("_", " ")] = as_text(log.column(name).combine_chunks())
    for name in by:
        places = (f"{BY}{name}", name, key_column(name), request_column(name))
        column = next((place for place in places if place in log.column_names), None)
        if column is not None:
            found[name] = as_text(log.column(column).combine_chunks())
    trained = [expected.statuses[output.name] for output in plan.outputs]
    served = [_codes(log, output.name) for output in plan.outputs]
    worst = [status_names(np.max(codes, axis=0)) for codes in (trained, served)]
    found["worst statuses"] = pc.binary_join_element_wise(*worst, "/")
    return found


def _is_null(log: pa.Table, name: str) -> Flags:
    """Tell per row whether nothing was served of a feature."""
    is_null = log.column(value_column(name)).combine_chunks().is_null().to_numpy(zero_copy_only=False)
    return np.asarray(is_null & ~is_unread(log, name), dtype=np.bool_)


def _codes(log: pa.Table, name: str) -> Bytes:
    return np.asarray(log.column(status_column(name)).combine_chunks().to_numpy(zero_copy_only=False), dtype=np.uint8)


def _stale_rows(plan: Plan, log: pa.Table) -> Flags:
    """Tell per row whether any view was behind what its refresh promises."""
    found = np.zeros(log.num_rows, dtype=np.bool_)
    as_of = _instants(log, AS_OF)
    for use in plan.uses:
        if watermark_column(use.alias) in log.column_names:
            found |= stale_rows(use.view, as_of, _instants(log, watermark_column(use.alias)))
    return found


def _keep_worst(
    plan: Plan, name: str, log: pa.Table, expected: Features, compared: ComparedFeature, stale: Flags, found: _Found
) -> None:
    """Keep the values that differ most, not too many of one feature; of equal ones those found first."""
    rows = np.flatnonzero(compared.differs)
    largest = rows[np.argsort(-compared.size[rows], kind="stable")[:_WORST_OF_FEATURE]]
    for row in largest.tolist():
        size = float(compared.size[row])
        mismatch = _described(plan, name, log, expected, row, is_stale=bool(stale[row]), size=size)
        found.worst.append((size, mismatch))
    found.worst.sort(key=lambda item: -item[0])
    own = [item for item in found.worst if item[1].feature == name]
    for item in own[_WORST_OF_FEATURE:]:
        found.worst.remove(item)
    del found.worst[WORST_ROWS:]


def _described(
    plan: Plan, name: str, log: pa.Table, expected: Features, row: int, *, is_stale: bool, size: float
) -> Mismatch:
    def cell(column: str) -> str | None:
        return _text(log.column(column)[row].as_py())

    def argument(column: str) -> str | None:
        value = log.column(column)[row].as_py()
        return None if value is None else argument_text(value)

    unread = unread_texts(log, name)[row].as_py()
    return Mismatch(
        feature=name,
        request_id=cell(REQUEST_ID) or "",
        row=int(log.column(ROW)[row].as_py()),
        keys={column.name: argument(key_column(column.name)) for column in plan.join_keys},
        requests={column.name: argument(request_column(column.name)) for column in plan.request},
        as_of=format_instant(log.column(AS_OF)[row].cast(pa.int64()).as_py()),
        reference=_text(expected.values[name][row].as_py()),
        current=cell(value_column(name)) if unread is None else unread,
        reference_status=Status(int(expected.statuses[name][row])).name,
        current_status=status_name(log.column(status_column(name))[row].as_py()),
        is_stale=is_stale,
        watermarks={
            use.alias: format_instant(log.column(watermark_column(use.alias))[row].cast(pa.int64()).as_py())
            for use in plan.uses
            if watermark_column(use.alias) in log.column_names
        },
        size=size if np.isfinite(size) else None,
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)
