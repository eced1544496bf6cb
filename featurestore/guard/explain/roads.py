"""What each road says of a question: the real roads are asked, and their answers compared to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from featurestore.core.errors import FeatureStoreError
from featurestore.core.statuses import ERROR, Status, status_code
from featurestore.core.temporal import Clock, format_instant, to_datetime
from featurestore.definitions.sources import Source
from featurestore.guard.comparing.compare import compare
from featurestore.guard.explain.model import LogFacts, StateFacts, Told
from featurestore.guard.explain.question import Question, inputs_of
from featurestore.guard.explain.words import text
from featurestore.guard.world.world import Values, stale_rows
from featurestore.offline.coverage import count_beyond_newest
from featurestore.offline.training_set import compute_reference
from featurestore.online.answering.lookup import OnlineReader
from featurestore.online.stores.store import StateReads
from featurestore.plan.model import Output, Plan
from featurestore.serving_log.columns import status_column, value_column, watermark_column
from featurestore.sources import ReadSettings


@dataclass(frozen=True)
class Answered:
    """One road's answer.

    Attributes:
        values: What it says, one row each, by column; columns it does not answer are not in it.
        states: How complete the views were, by alias.
        watermarks_us: Up to where, by alias.
        refused: Why columns are missing; empty if none is.
    """

    values: Mapping[str, Values]
    states: Mapping[str, StateFacts]
    watermarks_us: Mapping[str, int]
    refused: str = ""


def plan_of_columns(question: Question) -> Plan:
    """Return the plan that answers just the columns to explain, each under its own name."""
    plan = question.plan
    dtypes = {
        column: feature.dtype
        for use in plan.uses
        for column, feature in zip(use.columns, use.view.features, strict=True)
    }
    on_demand = {feature.column: feature.dtype for feature in plan.on_demand}
    return replace(
        plan,
        on_demand=tuple(feature for feature in plan.on_demand if feature.column in question.columns),
        outputs=tuple(
            Output(column, column, on_demand[column], "on_demand")
            if column in on_demand
            else Output(column, column, dtypes[column], "view")
            for column in question.columns
        ),
    )


def ask_offline(
    question: Question, plan: Plan, *, sources: Mapping[str, Source], settings: ReadSettings
) -> dict[str, Values]:
    """Compute what a training set would hold; note if events may still come."""
    spine = question.spine()
    features, newest = compute_reference(plan, spine, sources=sources, settings=settings)
    if count_beyond_newest(plan, np.array([question.as_of_us], dtype=np.int64), newest):
        question.notes.append("a horizon lies beyond the newest event a source holds: values may still change")
    return {name: Values(features.values[name], features.statuses[name]) for name in features.values}


def ask_online(question: Question, plan: Plan, store: StateReads, clock: Clock) -> Answered:
    """Ask the online road at the same instant; what cannot answer says why."""
    reader = OnlineReader(plan, store, clock)
    try:
        found = reader.get(
            [question.keys], request=question.requests or None, as_of=to_datetime(question.as_of_us), partial=True
        )
    except FeatureStoreError as error:
        return Answered({}, {}, {}, str(error))
    values = {
        output.name: Values(pa.array([value], type=output.dtype.arrow), np.array([status_code(status)], dtype=np.uint8))
        for output, value, status in zip(plan.outputs, found.rows[0], found.statuses[0], strict=True)
        if status != ERROR
    }
    return Answered(
        values,
        {alias: StateFacts(format_instant(one.watermark_us), one.is_stale) for alias, one in found.views.items()},
        {alias: one.watermark_us for alias, one in found.views.items()},
        "; ".join(f"{alias}: {error.problem}" for alias, error in found.errors.items()),
    )


def read_served(question: Question) -> Answered:
    """Return what the serving log says was answered to this question."""
    logged = question.logged
    if logged is None:
        return Answered({}, {}, {})
    values = {
        column: Values(
            logged.column(value_column(name)).combine_chunks(),
            np.asarray(logged.column(status_column(name)).combine_chunks().to_numpy(zero_copy_only=False)),
        )
        for column in question.columns
        if (name := question.output_of(column)) is not None
        and not question.other_inputs & inputs_of(question.plan, column)
    }
    as_of = np.array([question.as_of_us], dtype=np.int64)
    watermarks = {
        use.alias: int(logged.column(watermark_column(use.alias)).cast(pa.int64())[0].as_py())
        for use in question.plan.uses
    }
    states = {
        use.alias: StateFacts(
            format_instant(watermarks[use.alias]),
            bool(stale_rows(use.view, as_of, np.array([watermarks[use.alias]], dtype=np.int64))[0]),
        )
        for use in question.plan.uses
    }
    return Answered(values, states, watermarks)


def log_facts(question: Question) -> LogFacts | None:
    """Describe the row of the serving log."""
    if question.logged is None:
        return None
    row = question.logged.to_pylist()[0]
    named = [one for one in (row.get("model"), row.get("model_version")) if one]
    return LogFacts(
        request_id=row["request_id"],
        row=row["row"],
        as_of=format_instant(question.as_of_us),
        logged_at=text(row["logged_at"]) or "",
        fingerprint=row["fingerprint"],
        model=" ".join(named) or None,
    )


def told(values: Values) -> Told:
    """Write one answer."""
    return Told(text(values.values[0].as_py()), Status(int(values.statuses[0])).name)


def is_equal(output: Output, reference: Values, current: Values) -> bool:
    """Tell whether two answers are equal to the bit, status included."""
    compared = compare(
        name=output.name,
        dtype=output.dtype,
        reference=reference.values,
        current=current.values,
        reference_statuses=reference.statuses,
        current_statuses=current.statuses,
        is_stale=np.zeros(1, dtype=np.bool_),
    )
    return not bool(compared.differs[0])
