"""Simulating refresh policies on real history: how far would values lie from fresh ones?

The view is planned anew with each policy, and the training-set builder answers the same questions under every plan;
what is fresh is what ``continuous()`` answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.definitions.sources import Source
from featurestore.errors import SourceError
from featurestore.offline.build import AS_OF, Features
from featurestore.offline.spine import read_spine
from featurestore.offline.training_set import compute_reference
from featurestore.plan.model import Plan, ViewPlan
from featurestore.serving import plan_of_views
from featurestore.skew.causes.world import event_bounds
from featurestore.skew.compare import FeatureCounts, compare, completed
from featurestore.skew.picking import entities, occurrences
from featurestore.skew.simulation import PolicyOutcome, Simulation
from featurestore.sources import ReadSettings, open_scans
from featurestore.temporal import MICROSECONDS, Refresh, continuous, format_instant

_INSTANTS = 997
"""At how many instants is asked. A prime number of them, spread evenly, falls on no grid."""

_PICKED = 64


def simulate(
    view: ViewPlan,
    policies: Sequence[Refresh],
    *,
    sources: Mapping[str, Source],
    settings: ReadSettings,
    spine: Any = None,
    rows: int,
    now_us: int,
) -> Simulation:
    """Answer the same questions under several refresh policies.

    Args:
        view: The view.
        policies: The policies.
        sources: Definitions of its source, by name.
        settings: What reading may use.
        spine: The questions, in any form that training sets take: keys and ``as_of``. Chosen if ``None``: entities by
            a hash of their key, at instants spread evenly over the time the source covers.
        rows: How many questions to choose.
        now_us: The present instant.

    Raises:
        SourceError: The source has no events, or cannot give them.
        SpineError: The spine lacks a column.
    """
    plan = plan_of_views([view])
    asked = _chosen(plan, sources, settings, rows, now_us) if spine is None else read_spine(spine, plan)
    asked = asked.select([AS_OF, *(column.name for column in plan.join_keys)])
    as_of = np.asarray(asked.column(AS_OF).cast(pa.int64()).to_numpy(), dtype=np.int64)
    if len(as_of) == 0:
        raise SourceError("there is nothing to ask about", where=f"feature view '{view.name}'", hint="Give a spine.")

    def answers(policy: Refresh) -> Features:
        return compute_reference(_under(plan, policy), asked, sources=sources, settings=settings)[0]

    fresh = answers(continuous())
    return Simulation(
        view=view.name,
        declared=str(view.refresh),
        since=format_instant(int(as_of.min())),
        until=format_instant(int(as_of.max())),
        rows=len(as_of),
        policies=tuple(
            PolicyOutcome(
                refresh=str(policy),
                runs_per_day=MICROSECONDS["d"] / policy.period_us if policy.period_us else None,
                staleness_s=_staleness(replace(view, refresh=policy), as_of),
                features=_differences(plan, fresh, answers(policy)),
            )
            for policy in policies
        ),
    )


def _under(plan: Plan, policy: Refresh) -> Plan:
    """Return a plan whose views have another policy."""
    return replace(plan, uses=tuple(replace(use, view=replace(use.view, refresh=policy)) for use in plan.uses))


def _chosen(plan: Plan, sources: Mapping[str, Source], settings: ReadSettings, rows: int, now_us: int) -> pa.Table:
    """Pair entities with instants, so that every instant is asked about several of them."""
    with open_scans(plan.views, sources, settings) as scans:
        picked = occurrences(plan, _PICKED, scans)
        known = entities(plan, rows, None, scans)
    if not known or not picked:
        hint = "Simulate once its source holds events."
        raise SourceError("there is no history", where=f"feature view '{plan.views[0].name}'", hint=hint)
    since = min(event.event_time_us for event in picked)
    until = min(now_us, max(max(event.event_time_us, event.ingest_time_us) for event in picked) + 1)
    instants = np.linspace(since, max(since + 1, until), min(_INSTANTS, rows)).astype(np.int64)
    places = np.arange(rows)
    keys = [known[place % len(known)] for place in places]
    columns: dict[str, pa.Array] = {AS_OF: pa.array(instants[places % len(instants)]).cast(pa.timestamp("us", "UTC"))}
    for column in plan.join_keys:
        columns[column.name] = pa.array([row[column.name] for row in keys], column.dtype.arrow)
    return pa.table(columns)


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


def _staleness(view: ViewPlan, as_of: np.ndarray[Any, np.dtype[np.int64]]) -> tuple[float, float, float]:
    behind = (as_of - event_bounds(view, as_of)[0] + int(view.source.inclusive)) / 1e6
    median, high = np.quantile(behind, [0.5, 0.95])
    return float(median), float(high), float(behind.max())
