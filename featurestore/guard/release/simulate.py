"""Simulating refresh policies on real history: how far would values be from fresh ones?

The view is planned with each policy, and the training path answers the same questions under every plan. Fresh values
are those under ``continuous()``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

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
from featurestore.guard.report import Report
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


@dataclass(frozen=True)
class PolicyOutcome:
    """How the values of a view under one refresh policy differ from fresh values.

    Attributes:
        refresh: The policy, in words.
        runs_per_day: Count of runs per day; ``None`` for ``continuous``, which applies every event when it arrives.
        states_per_day: Count of entity states written per day: one for each run and entity with events in the run; for
            ``continuous`` at most one for each event.
        staleness_s: Age of the event horizon in seconds: median, 95th percentile, and largest over the questions.
        features: Differences of the features from fresh values, by name; ``mismatch`` and the like count rows.
    """

    refresh: str
    runs_per_day: float | None
    states_per_day: float
    staleness_s: tuple[float, float, float]
    features: tuple[FeatureCounts, ...]

    @property
    def share(self) -> float:
        """Share of all values that differ from fresh values."""
        compared = sum(feature.compared for feature in self.features)
        return sum(feature.different for feature in self.features) / compared if compared else 0.0

    @property
    def worst(self) -> FeatureCounts:
        """The feature with the largest share of differing values."""
        return max(self.features, key=lambda feature: feature.share)


@dataclass(frozen=True)
class Simulation(Report):
    """The outcomes of several policies for one view.

    Attributes:
        view: Name of the view.
        declared: Its present policy, in words.
        since: First instant asked about.
        until: Last instant asked about.
        rows: Questions: pairs of entity and instant.
        questions: Origin of the questions, in words.
        not_found: Share of the questions about entities without events; no policy makes a difference for them.
        events_per_day: Events that became known per day; under every policy each is applied once.
        policies: The outcomes, in the order of the policies passed.
        schema: Name and version of the JSON form.
    """

    SCHEMA: ClassVar[str] = "featurestore-simulation-2"
    KIND: ClassVar[str] = "simulation"

    view: str
    declared: str
    since: str
    until: str
    rows: int
    questions: str
    not_found: float
    events_per_day: float
    policies: tuple[PolicyOutcome, ...]
    schema: str = SCHEMA


_LEAST_SERVED = 1_000
"""Least count of rows of the serving log for using them as questions."""

_MOST_SERVED = 500_000
_COUNTED = 2_000_000
"""About how many events are read to count states; of larger sources, the events of a share of the entities."""

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
        settings: Resources for reading.
        spine: The questions: keys and ``as_of`` in any form that training sets accept. If ``None``, questions are
            chosen from the served ones if there are enough, else at and after the events of the entities.
        as_of: Column of the spine with the instants.
        served: Recent questions about the view: its keys and ``as_of``.
        rows: Count of questions to choose.
        now_us: The present instant.

    Raises:
        SourceError: The source has no events, or cannot be read.
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
        raise SourceError("there are no questions to ask", where=f"feature view '{view.name}'", hint="Pass a spine.")

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
    """Return the recent questions about a view, of all services.

    Args:
        view: The view.
        services: Plans of services.
        recent: Returns the recent serving log of a service.

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
    """Return a plan with another refresh policy of its views."""
    return replace(plan, uses=tuple(replace(use, view=replace(use.view, refresh=policy)) for use in plan.uses))


def _chosen(
    plan: Plan,
    sources: Mapping[str, Source],
    settings: ReadSettings,
    served: Iterable[pa.Table],
    rows: int,
    now_us: int,
) -> tuple[str, pa.Table]:
    """Choose questions; return their origin in words, and the questions."""
    kept = _served(plan, served)
    if kept.num_rows >= min(rows, _LEAST_SERVED):
        order = np.argsort(row_buckets(plan, kept), kind="stable")[:rows]
        return "of those served lately", kept.take(pa.array(np.sort(order)))
    with open_scans(plan.views, sources, settings) as scans:
        picked = occurrences(plan, rows, scans)
    if not picked:
        hint = "Simulate once its source has events."
        raise SourceError("there is no history", where=f"feature view '{plan.views[0].name}'", hint=hint)
    columns = {
        column.name: pa.array([event.keys[column.name] for event in picked], column.dtype.arrow)
        for column in plan.join_keys
    }
    happened = np.array([event.event_time_us for event in picked], dtype=np.int64)
    known = np.array([event.ingest_time_us for event in picked], dtype=np.int64)
    # Services are mostly asked about active entities: at the instant of an event, which is not known yet, or soon
    # after.
    halves = row_buckets(plan, pa.table({AS_OF: _as_instants(happened), **columns})) % 2 == 0
    instants = np.minimum(np.where(halves, happened, np.maximum(happened, known) + _SOON_US), now_us)
    asked = pa.table({AS_OF: _as_instants(instants), **columns})
    return "half at entities' own events, half a minute after these were known", asked


def _as_instants(instants: Ints) -> pa.Array:
    return pa.array(instants).cast(pa.timestamp("us", "UTC"))


def _served(plan: Plan, served: Iterable[pa.Table]) -> pa.Table:
    """Return the served questions; of very many the newest ones, which come first."""
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
    """Return the events that became known per day, and by policy the states written per day."""
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
    """Count the states written for some events: one for each entity and run with any of its events."""
    if not policy.period_us:
        return len(known)
    run = newest_refresh(known, policy.period_us, policy.lag_us) // policy.period_us
    run -= run.min()
    return len(np.unique(entity * (int(run.max()) + 1) + run))


def _differences(plan: Plan, fresh: Features, answered: Features) -> tuple[FeatureCounts, ...]:
    differences = []
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
        differences.append(completed(counts, compared.details, served=counts.compared, is_sample=True))
    return tuple(sorted(differences, key=lambda feature: feature.name))


def _staleness(view: ViewPlan, as_of: Ints) -> tuple[float, float, float]:
    behind = (as_of - event_bounds(view, as_of)[0] + int(view.source.inclusive)) / 1e6
    median, high = np.quantile(behind, [0.5, 0.95])
    return float(median), float(high), float(behind.max())
