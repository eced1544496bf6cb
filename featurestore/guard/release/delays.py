"""When the events of sources became known, as evidence about leaks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Flags, Ints
from featurestore.core.dtypes import TIMESTAMP
from featurestore.core.temporal import format_duration
from featurestore.definitions.sources import Source
from featurestore.offline.training_set import compute_reference
from featurestore.plan.model import FeaturePlan, InputPlan, Output, Plan, TypedExpr, ViewPlan, ViewUse
from featurestore.plan.names import AS_OF
from featurestore.sources import ReadSettings, Scan


@dataclass(frozen=True)
class SourceDelay:
    """How long after they happened the events of a source became known.

    Attributes:
        view: The view that reads it.
        source: Name of the source.
        median_s: Median delay in seconds.
        p95_s: Its 95th percentile.
        longest_s: The longest.
        beyond_lag: Share of events that became known later than the refresh lag of the view.
        says_when_known: Whether the source has an ingest time.
    """

    view: str
    source: str
    median_s: float
    p95_s: float
    longest_s: float
    beyond_lag: float
    says_when_known: bool


def source_delay(view: ViewPlan, scan: Scan) -> SourceDelay:
    """Return how long the events of a source took to become known."""
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


def ordered_delays(delays: Sequence[SourceDelay]) -> tuple[SourceDelay, ...]:
    """Return delays, the largest share beyond the lag first."""
    return tuple(sorted(delays, key=lambda delay: (-delay.beyond_lag, -delay.longest_s, delay.view)))


def newest_events(
    plan: Plan, aliases: Collection[str], table: pa.Table, sources: Mapping[str, Source], settings: ReadSettings
) -> dict[str, pa.Array]:
    """Return for each row the event time of the newest event that a view may see.

    Args:
        plan: The plan of the training set.
        aliases: Aliases of the views.
        table: Rows of the training set, as questions.
        sources: Definitions of the sources, by name.
        settings: Resources for reading.

    Returns:
        Instants by alias; null for rows without a visible event.
    """
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
    features, _ = compute_reference(asking, table, sources=sources, settings=settings)
    return {name.removesuffix("__newest"): values for name, values in features.values.items()}


def delay_evidence(
    use: ViewUse,
    newest: pa.Array,
    delays: Mapping[str, SourceDelay],
    table: pa.Table,
    label: str,
    labels: Ints,
) -> Iterator[str]:
    """Yield the age of the newest events that a view sees, and how late they became known.

    Args:
        use: The use of the view.
        newest: Event time of the newest event per row, see ``newest_events``.
        delays: Delays of sources, by name of the view.
        table: Rows of the training set.
        label: Column to predict.
        labels: Code of the label per row.
    """
    ages = pc.subtract(table.column(AS_OF).cast(pa.int64()), newest.cast(pa.int64())).combine_chunks()
    medians = {
        code: float(np.median(of_class))
        for code in np.unique(labels).tolist()
        if len(of_class := ages.filter(pa.array(labels == code)).drop_null().to_numpy())
    }
    if medians:
        ordered = sorted(medians, key=medians.__getitem__)
        parts = [
            f"{_age(medians[code])} old where {label} is {_named(table.column(label), labels == code)}"
            for code in dict.fromkeys([ordered[0], ordered[-1]])
        ]
        yield f"the newest event of '{use.view.name}' is {', '.join(parts)} (median)"
    delay = delays.get(use.view.name)
    if delay is not None and not delay.says_when_known:
        yield f"source '{delay.source}' has no ingest time; declare an ingest_time if it has such a column"
    elif delay is not None:
        share = f"{delay.beyond_lag:.1%} of its events later than the lag of '{use.view.name}'"
        yield f"source '{delay.source}' has an ingest time, {share}"


def _age(length_us: float) -> str:
    """Write an age, in whole seconds if it is a second or more."""
    return format_duration(round(length_us / 1e6) * 1_000_000 if length_us >= 1e6 else round(length_us))


def _named(label: pa.ChunkedArray, rows: Flags) -> str:
    """Write the values of a class of a label."""
    distinct = label.filter(pa.array(rows)).unique().to_pylist()
    if len(distinct) == 1:
        return str(distinct[0])
    ordered = sorted(distinct, key=lambda value: (value is None, value))
    return f"from {ordered[0]} to {ordered[-1]}"
