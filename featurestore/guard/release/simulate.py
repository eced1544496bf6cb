"""Simulating refresh policies on real history: how far would values lie from fresh ones?

The view is planned anew with each policy, and the training-set builder answers the same questions under every plan;
what is fresh is what ``continuous()`` answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Ints
from featurestore.core.errors import SourceError
from featurestore.core.statuses import NOT_FOUND
from featurestore.core.temporal import MICROSECONDS, Refresh, continuous, format_instant, newest_refresh
from featurestore.definitions.sources import Source
from featurestore.guard.comparing.compare import FeatureCounts, compare, completed
from featurestore.guard.comparing.questions import occurrences
from featurestore.guard.comparing.sampling import row_buckets, sampled
from featurestore.guard.release.simulation import PolicyOutcome, Simulation
from featurestore.guard.world.world import event_bounds
from featurestore.kernels.keys import KeyIndex
from featurestore.offline.build import Features, questions_of
from featurestore.offline.spine import read_spine
from featurestore.offline.training_set import compute_reference
from featurestore.online.answering.serving import plan_of_views
from featurestore.plan.model import Plan, ViewPlan
from featurestore.plan.names import AS_OF
from featurestore.serving_log.columns import key_column
from featurestore.sources import ReadSettings, open_scans

_LEAST_SERVED = 1_000
"""Rows that the serving log must have to be asked again."""

_MOST_SERVED = 500_000
_COUNTED = 2_000_000
"""About how many events are looked at to count states; of larger sources those of a share of the entities."""

_KNOWN = "known"
_SOON_US = MICROSECONDS["m"]
_LEAST_SPAN_US = MICROSECONDS["h"]


def simulate(
    view: ViewPlan,
    policies: Sequence[Refresh],
    *,
    sources: Mapping[str, Source],
    settings: ReadSettings,
    spine: Any = None,
    as_of: str = AS_OF,
    served: Iterable[pa.Table] = (),
    rows: int,
    now_us: int,
) -> Simulation:
    """Answer the same questions under several refresh policies.

    Args:
        view: The view.
        policies: The policies.
        sources: Definitions of its source, by name.
        settings: What reading may use.
        spine: The questions, in any form that training sets take: keys and ``as_of``. Chosen if ``None``: of what was
            served, if that is enough, else at and after the entities' own events.
        as_of: Column of the spine that holds the instants.
        served: What was asked of the view lately: its keys and ``as_of``.
        rows: How many questions to choose.
        now_us: The present instant.

    Raises:
        SourceError: The source has no events, or cannot give them.
        SpineError: The spine lacks a column.
    """
    plan = plan_of_views([view])
    if spine is None:
        questions, asked = _chosen(plan, sources, settings, served, rows, now_us)
    else:
        questions, asked = "given", questions_of(read_spine(spine, plan, as_of=as_of), plan, as_of)
    asked = asked.select([AS_OF, *(column.name for column in plan.join_keys)])
    instants = np.asarray(asked.column(AS_OF).cast(pa.int64()).to_numpy(), dtype=np.int64)
    if len(instants) == 0:
        raise SourceError("there is nothing to ask about", where=f"feature view '{view.name}'", hint="Give a spine.")

    def answers(policy: Refresh) -> Features:
        return compute_reference(_under(plan, policy), asked, sources=sources, settings=settings)[0]

    fresh = answers(continuous())
    events_per_day, states_per_day = _costs(plan, policies, sources, settings)
    return Simulation(
        view=view.name,
        declared=str(view.refresh),
        since=format_instant(int(instants.min())),
        until=format_instant(int(instants.max())),
        rows=len(instants),
        questions=questions,
        not_found=float(np.mean(fresh.statuses[plan.outputs[0].name] == NOT_FOUND)),
        events_per_day=events_per_day,
        policies=tuple(
            PolicyOutcome(
                refresh=str(policy),
                runs_per_day=MICROSECONDS["d"] / policy.period_us if policy.period_us else None,
                states_per_day=states,
                staleness_s=_staleness(replace(view, refresh=policy), instants),
                features=_differences(plan, fresh, answers(policy)),
            )
            for policy, states in zip(policies, states_per_day, strict=True)
        ),
    )


def served_questions(
    view: ViewPlan, services: Iterable[Plan], recent: Callable[[str], Iterable[pa.Table]]
) -> Iterator[pa.Table]:
    """Return what was asked of a view lately, by whatever service.

    Args:
        view: The view.
        services: Plans of services.
        recent: Gives what was served of a service.

    Yields:
        Tables of the view's keys and ``as_of``.
    """
    for plan in services:
        for use in plan.uses:
            if use.view.name == view.name:
                columns = [AS_OF, *(key_column(name) for name in use.keys)]
                names = [AS_OF, *(key.name for key in view.entity.keys)]
                for table in recent(plan.name):
                    if set(columns) <= set(table.column_names):
                        yield table.select(columns).rename_columns(names)


def _under(plan: Plan, policy: Refresh) -> Plan:
    """Return a plan whose views have another policy."""
    return replace(plan, uses=tuple(replace(use, view=replace(use.view, refresh=policy)) for use in plan.uses))


def _chosen(
    plan: Plan,
    sources: Mapping[str, Source],
    settings: ReadSettings,
    served: Iterable[pa.Table],
    rows: int,
    now_us: int,
) -> tuple[str, pa.Table]:
    """Choose questions; say where they come from."""
    kept = _served(plan, served)
    if kept.num_rows >= min(rows, _LEAST_SERVED):
        order = np.argsort(row_buckets(plan, kept), kind="stable")[:rows]
        return "of those served lately", kept.take(pa.array(np.sort(order)))
    with open_scans(plan.views, sources, settings) as scans:
        picked = occurrences(plan, rows, scans)
    if not picked:
        hint = "Simulate once its source holds events."
        raise SourceError("there is no history", where=f"feature view '{plan.views[0].name}'", hint=hint)
    columns = {
        column.name: pa.array([event.keys[column.name] for event in picked], column.dtype.arrow)
        for column in plan.join_keys
    }
    happened = np.array([event.event_time_us for event in picked], dtype=np.int64)
    known = np.array([event.ingest_time_us for event in picked], dtype=np.int64)
    # A service is mostly asked about entities that act: as they do, not knowing it yet, or soon after.
    halves = row_buckets(plan, pa.table({AS_OF: _as_instants(happened), **columns})) % 2 == 0
    instants = np.minimum(np.where(halves, happened, np.maximum(happened, known) + _SOON_US), now_us)
    asked = pa.table({AS_OF: _as_instants(instants), **columns})
    return "half at entities' own events, half a minute after these were known", asked


def _as_instants(instants: Ints) -> pa.Array:
    return pa.array(instants).cast(pa.timestamp("us", "UTC"))


def _served(plan: Plan, served: Iterable[pa.Table]) -> pa.Table:
    """Return what was served, as questions; of very much the newest part, which comes first."""
    dtypes = {AS_OF: pa.timestamp("us", "UTC")} | {column.name: column.dtype.arrow for column in plan.join_keys}
    kept, count = [pa.schema(dtypes).empty_table()], 0
    for table in served:
        kept.append(table.select(list(dtypes)).cast(kept[0].schema))
        count += table.num_rows
        if count > _MOST_SERVED:
            break
    return pa.concat_tables(kept)


def _costs(
    plan: Plan, policies: Sequence[Refresh], sources: Mapping[str, Source], settings: ReadSettings
) -> tuple[float, list[float]]:
    """Count the events that became known a day, and by policy the states that are written a day."""
    view = plan.views[0]
    keys = {key.name: key_column(key.name) for key in view.entity.keys}
    with open_scans([view], sources, settings) as scans:
        scan = scans[view.name]
        share = min(1.0, _COUNTED / max(1, scan.row_count))
        kept = [
            sampled(plan, pa.table([*batch.columns], names=[*keys.values(), _KNOWN]), share)
            for batch in scan.batches([*keys, scan.ingest_column])
        ]
    if not sum(table.num_rows for table in kept):
        return 0.0, [0.0] * len(policies)
    events = pa.concat_tables(kept)
    _, entity = KeyIndex.build([events.column(name).combine_chunks() for name in keys.values()])
    known = np.asarray(events.column(_KNOWN).cast(pa.int64()).to_numpy(), dtype=np.int64)
    scale = MICROSECONDS["d"] / max(_LEAST_SPAN_US, int(known.max() - known.min())) / share
    return len(known) * scale, [_states(policy, entity, known) * scale for policy in policies]


def _states(policy: Refresh, entity: Ints, known: Ints) -> int:
    """Count the states that are written of some events: one for each entity and run that has any of it."""
    if not policy.period_us:
        return len(known)
    run = newest_refresh(known, policy.period_us, policy.lag_us) // policy.period_us
    run -= run.min()
    return len(np.unique(entity * (int(run.max()) + 1) + run))


def _differences(plan: Plan, fresh: Features, answered: Features) -> tuple[FeatureCounts, ...]:
    found = []
    for output in plan.outputs:
        compared = compare(
            name=output.name,
            dtype=output.dtype,
            reference=fresh.values[output.name],
            current=answered.values[output.name],
            reference_statuses=fresh.statuses[output.name],
            current_statuses=answered.statuses[output.name],
            is_stale=np.zeros(len(fresh.statuses[output.name]), dtype=np.bool_),
        )
        counts = compared.counts
        found.append(completed(counts, compared.details, served=counts.compared, is_sample=True))
    return tuple(sorted(found, key=lambda feature: feature.name))


def _staleness(view: ViewPlan, as_of: Ints) -> tuple[float, float, float]:
    behind = (as_of - event_bounds(view, as_of)[0] + int(view.source.inclusive)) / 1e6
    median, high = np.quantile(behind, [0.5, 0.95])
    return float(median), float(high), float(behind.max())
