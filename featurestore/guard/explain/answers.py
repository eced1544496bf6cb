"""The answers of each path to a question: the real paths are asked, and their answers are compared to the bit."""

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
from featurestore.guard.explain.question import Question, inputs_of
from featurestore.guard.explain.report import Answer, LogFacts, StateFacts
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
class PathAnswers:
    """The answers of one path.

    Attributes:
        values: Values by column, one row each, without columns that have no answer.
        states: Completeness of the views, by alias.
        watermarks_us: Watermarks, by alias.
        refused: Why columns have no answer; empty if all have one.
    """

    values: Mapping[str, Values]
    states: Mapping[str, StateFacts]
    watermarks_us: Mapping[str, int]
    refused: str = ""


def plan_of_columns(question: Question) -> Plan:
    """Return a plan that answers only the columns to explain, each under its own name."""
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
    """Compute the values of a training set; add a note if events may still arrive."""
    spine = question.spine()
    features, newest = compute_reference(plan, spine, sources=sources, settings=settings)
    if count_beyond_newest(plan, np.array([question.as_of_us], dtype=np.int64), newest):
        question.notes.append("a horizon is after the newest event of a source: values may still change")
    return {name: Values(features.values[name], features.statuses[name]) for name in features.values}


def ask_online(question: Question, plan: Plan, store: StateReads, clock: Clock) -> PathAnswers:
    """Ask the online path at the same instant; failures are in ``refused``."""
    reader = OnlineReader(plan, store, clock)
    try:
        answer = reader.get(
            [question.keys], request=question.requests or None, as_of=to_datetime(question.as_of_us), partial=True
        )
    except FeatureStoreError as error:
        return PathAnswers({}, {}, {}, str(error))
    values = {
        output.name: Values(pa.array([value], type=output.dtype.arrow), np.array([status_code(status)], dtype=np.uint8))
        for output, value, status in zip(plan.outputs, answer.rows[0], answer.statuses[0], strict=True)
        if status != ERROR
    }
    return PathAnswers(
        values,
        {
            alias: StateFacts(format_instant(state.watermark_us), state.is_stale)
            for alias, state in answer.views.items()
        },
        {alias: state.watermark_us for alias, state in answer.views.items()},
        "; ".join(f"{alias}: {error.problem}" for alias, error in answer.errors.items()),
    )


def read_served(question: Question) -> PathAnswers:
    """Return the answers of the serving log to this question."""
    logged = question.logged
    if logged is None:
        return PathAnswers({}, {}, {})
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
    return PathAnswers(values, states, watermarks)


def log_facts(question: Question) -> LogFacts | None:
    """Describe the row of the serving log."""
    if question.logged is None:
        return None
    row = question.logged.to_pylist()[0]
    model = [name for name in (row.get("model"), row.get("model_version")) if name]
    return LogFacts(
        request_id=row["request_id"],
        row=row["row"],
        as_of=format_instant(question.as_of_us),
        logged_at=text(row["logged_at"]) or "",
        fingerprint=row["fingerprint"],
        model=" ".join(model) or None,
    )


def answer_of(values: Values) -> Answer:
    """Return one answer as text."""
    return Answer(text(values.values[0].as_py()), Status(int(values.statuses[0])).name)


def is_equal(output: Output, reference: Values, current: Values) -> bool:
    """Return whether two answers are equal to the bit, including the status."""
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
