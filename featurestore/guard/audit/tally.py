"""Counts of an audit, added up batch by batch, and the report made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Bytes, Flags, Ints
from featurestore.core.dtypes import argument_text
from featurestore.core.statuses import Status, status_name
from featurestore.core.temporal import NO_WATERMARK, format_instant
from featurestore.guard.audit.proving import Explained
from featurestore.guard.audit.report import WORST_ROWS, AuditReport, Mismatch, Skipped
from featurestore.guard.audit.slices import BY, SliceTally, age_classes, as_text, null_classes, width_of
from featurestore.guard.comparing.compare import (
    ComparedFeature,
    Details,
    FeatureCounts,
    completed,
    is_unread,
    status_names,
    unread_texts,
)
from featurestore.guard.comparing.sampling import shards
from featurestore.guard.world.world import event_bounds, stale_rows
from featurestore.offline.build import Features
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

_WORST_OF_FEATURE = 4
_UNKNOWN_PLAN = "the plan that answered them is not in the registry"
_LOST = "the serving log could not keep them"


@dataclass
class Remarks:
    """Remarks on the rows of a log by those who read it.

    Attributes:
        notes: Notes for readers of the report, one line each.
        skipped: Count of rows that were served and cannot be compared, by reason.
    """

    notes: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass
class AuditTally:
    """Counts of an audit.

    Attributes:
        slices: Rows and differing rows by time and by property.
        served: Rows that were served.
        compared: Rows that were compared.
        stale: Rows answered by a view behind its refresh.
        beyond: Rows that ask about more than the sources hold yet.
        fingerprints: Compared rows by the plan that answered.
        features: Counts by feature.
        details: Details of the differences by feature.
        served_by_feature: Rows in which a feature was served.
        worst: The values that differ most, largest difference first.
        skipped: Rows that were not compared, by reason.
        unread: Served values that are not values of their feature, by feature.
        unread_example: One of them, by feature.
    """

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
    unread: Counter[str] = field(default_factory=Counter)
    unread_example: dict[str, str] = field(default_factory=dict)

    @classmethod
    def over(cls, since_us: int, until_us: int) -> AuditTally:
        """Return an empty tally for rows of a range of time."""
        return cls(SliceTally(width_of(since_us, until_us)))

    def add_unknown_plan(self, log: pa.Table) -> None:
        """Count rows whose plan is not in the registry."""
        self.served += log.num_rows
        self.skipped[_UNKNOWN_PLAN] += log.num_rows
        for name in names_of(VALUE_PREFIX, log.column_names):
            self.served_by_feature[name] += log.num_rows

    def add_skipped(self, skipped: Counter[str], *, lost: int) -> None:
        """Count rows that were left out while the log was read, and rows that are missing from it.

        Args:
            skipped: Count of the rows left out, by reason.
            lost: Count of the rows that are missing.
        """
        for name in self.features:
            self.served_by_feature[name] += skipped.total()
        left_out = skipped + Counter({_LOST: lost})
        self.served += left_out.total()
        self.skipped += left_out

    def begin_batch(self, plan: Plan, log: pa.Table, is_stale: Flags, *, beyond: int) -> None:
        """Count the rows of a batch.

        Args:
            plan: The plan that answered.
            log: The rows.
            is_stale: Per row, whether it was answered by a view behind its refresh.
            beyond: Count of rows that ask about more than the sources hold yet.
        """
        self.served += log.num_rows
        self.compared += log.num_rows
        self.stale += int(is_stale.sum())
        self.beyond += beyond
        self.fingerprints[plan.fingerprint] += log.num_rows

    def add_feature(
        self,
        plan: Plan,
        name: str,
        log: pa.Table,
        expected: Features,
        compared: ComparedFeature,
        *,
        is_stale: Flags,
        unread: Flags,
    ) -> None:
        """Add the comparison of one feature of a batch.

        Args:
            plan: The plan that answered.
            name: The feature.
            log: The rows.
            expected: Their offline values.
            compared: The comparison.
            is_stale: Per row, whether it was answered by a view behind its refresh.
            unread: Per row, whether the served value is not a value of the feature.
        """
        counts = self.features.get(name)
        self.features[name] = compared.counts if counts is None else counts + compared.counts
        self.details.setdefault(name, Details()).add(compared.details)
        self.served_by_feature[name] += log.num_rows
        if bool(unread.any()):
            self.unread[name] += int(unread.sum())
            self.unread_example.setdefault(name, unread_texts(log, name)[int(np.argmax(unread))].as_py())
        self._keep_worst(plan, name, log, expected, compared, is_stale)

    def add_slices(
        self,
        plan: Plan,
        log: pa.Table,
        expected: Features,
        is_stale: Flags,
        differs: Mapping[str, Flags],
        *,
        by: Sequence[str],
    ) -> None:
        """Count the rows of a batch by time and property; ``differs`` has the differing rows per feature."""
        any_differs = np.any(list(differs.values()), axis=0) if differs else np.zeros(log.num_rows, dtype=np.bool_)
        self.slices.add(instants(log, AS_OF), any_differs, _properties(plan, log, expected, is_stale, by))

    def _keep_worst(
        self, plan: Plan, name: str, log: pa.Table, expected: Features, compared: ComparedFeature, is_stale: Flags
    ) -> None:
        """Keep the values that differ most, at most a few per feature; the earlier one of equal differences."""
        rows = np.flatnonzero(compared.differs)
        largest = rows[np.argsort(-compared.size[rows], kind="stable")[:_WORST_OF_FEATURE]]
        for row in largest.tolist():
            size = float(compared.size[row])
            self.worst.append(
                (size, _mismatch(plan, name, log, expected, row, is_stale=bool(is_stale[row]), size=size))
            )
        self.worst.sort(key=lambda item: -item[0])
        of_feature = [item for item in self.worst if item[1].feature == name]
        for item in of_feature[_WORST_OF_FEATURE:]:
            self.worst.remove(item)
        del self.worst[WORST_ROWS:]

    def report(
        self,
        service: str,
        explained: Sequence[Explained],
        *,
        since_us: int,
        until_us: int,
        ran_at_us: int,
        kind: str,
        sample: float,
        notes: Sequence[str],
    ) -> AuditReport:
        """Return the report, not judged.

        Args:
            service: Name of the service.
            explained: Causes, by plan.
            since_us: First instant of the range that was read.
            until_us: One past its last.
            ran_at_us: Instant of the audit.
            kind: Kind of the rows.
            sample: Share of the entities compared.
            notes: Notes for readers.
        """
        is_sample = sample < 1.0 or kind == "live"
        features = tuple(
            completed(
                self.features[name],
                self.details[name],
                served=self.served_by_feature[name],
                is_sample=is_sample,
            )
            for name in sorted(self.features)
        )
        skipped = tuple(Skipped(reason, rows) for reason, rows in sorted(self.skipped.items()))
        telling = self.slices.telling()
        findings = tuple(finding for part in explained for finding in part.findings)
        return AuditReport(
            service=service,
            since=format_instant(since_us),
            until=format_instant(until_us),
            ran_at=format_instant(ran_at_us),
            served=self.served,
            compared=self.compared,
            stale=self.stale,
            beyond_newest_event=self.beyond,
            fingerprints=dict(sorted(self.fingerprints.items())),
            features=features,
            worst=tuple(_with_cause(mismatch, explained) for _, mismatch in self.worst),
            skipped=skipped,
            kind=kind,
            sample=sample,
            sums=_sums(self.served, self.compared, skipped, features),
            findings=tuple(sorted(findings, key=lambda finding: -finding.values)),
            examined=sum(part.examined for part in explained),
            over_time=self.slices.buckets(),
            slices=self.slices.slices(),
            telling="" if telling is None else str(telling),
            notes=(*notes, *self._unread_notes(features)),
        )

    def _unread_notes(self, features: Sequence[FeatureCounts]) -> Iterator[str]:
        for feature in features:
            if count := self.unread[feature.name]:
                example = self.unread_example[feature.name]
                yield f"{feature.name}: {count:,} served values are not {feature.dtype}, for example {example!r}"


def _with_cause(mismatch: Mismatch, explained: Sequence[Explained]) -> Mismatch:
    place = mismatch.feature, mismatch.request_id, mismatch.row
    cause, events = next((part.causes[place] for part in explained if place in part.causes), ("", ()))
    return replace(mismatch, cause=cause, events=events)


def _sums(served: int, compared: int, skipped: Sequence[Skipped], features: Sequence[FeatureCounts]) -> str:
    """Check that the parts of an audit add up, and write the sums."""
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


def instants(log: pa.Table, name: str) -> Ints:
    """Return a column of instants in microseconds, null as an instant beyond all others."""
    column = log.column(name).combine_chunks().cast(pa.int64())
    return np.asarray(column.fill_null(NO_WATERMARK).to_numpy(zero_copy_only=False), dtype=np.int64)


def status_codes(log: pa.Table, name: str) -> Bytes:
    """Return the ``Status`` codes that were served of a feature."""
    return np.asarray(log.column(status_column(name)).combine_chunks().to_numpy(zero_copy_only=False), dtype=np.uint8)


def rows_behind_refresh(plan: Plan, log: pa.Table) -> Flags:
    """Return per row whether any view was behind the state that its refresh promises."""
    is_stale = np.zeros(log.num_rows, dtype=np.bool_)
    as_of = instants(log, AS_OF)
    for use in plan.uses:
        if watermark_column(use.alias) in log.column_names:
            is_stale |= stale_rows(use.view, as_of, instants(log, watermark_column(use.alias)))
    return is_stale


def _properties(
    plan: Plan, log: pa.Table, expected: Features, is_stale: Flags, by: Sequence[str]
) -> dict[str, pa.Array]:
    """Return the properties of rows by which slices are formed, as text."""
    as_of = instants(log, AS_OF)
    properties = {
        f"staleness of {use.alias}": age_classes(
            event_bounds(use.view, as_of)[1] - instants(log, watermark_column(use.alias))
        )
        for use in plan.uses
        if watermark_column(use.alias) in log.column_names
    }
    properties["state"] = pa.array(["on time", "behind its refresh"]).take(pa.array(is_stale.astype(np.int8)))
    properties["key shard"] = pa.array(shards(plan, log)).cast(pa.string())
    properties["nulls served"] = null_classes([_is_null(log, output.name) for output in plan.outputs])
    properties["fingerprint"] = log.column(FINGERPRINT).combine_chunks()
    for name in (MODEL, MODEL_VERSION):
        if name in log.column_names:
            properties[name.replace("_", " ")] = as_text(log.column(name).combine_chunks())
    for name in by:
        places = (f"{BY}{name}", name, key_column(name), request_column(name))
        column = next((place for place in places if place in log.column_names), None)
        if column is not None:
            properties[name] = as_text(log.column(column).combine_chunks())
    trained = [expected.statuses[output.name] for output in plan.outputs]
    served = [status_codes(log, output.name) for output in plan.outputs]
    worst = [status_names(np.max(codes, axis=0)) for codes in (trained, served)]
    properties["worst statuses"] = pc.binary_join_element_wise(*worst, "/")
    return properties


def _is_null(log: pa.Table, name: str) -> Flags:
    """Return per row whether null was served for a feature."""
    is_null = log.column(value_column(name)).combine_chunks().is_null().to_numpy(zero_copy_only=False)
    return np.asarray(is_null & ~is_unread(log, name), dtype=np.bool_)


def _mismatch(
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
