"""Running an explanation: both paths are asked, the events are listed, and every list of events is checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.core.dtypes import TIMESTAMP
from featurestore.core.temporal import Clock, format_instant
from featurestore.guard.audit.facts import event_reader
from featurestore.guard.explain.answers import (
    PathAnswers,
    answer_of,
    ask_offline,
    ask_online,
    is_equal,
    log_facts,
    plan_of_columns,
    read_served,
)
from featurestore.guard.explain.entity import EntityEvents, read_candidates
from featurestore.guard.explain.events import EventList, arithmetic
from featurestore.guard.explain.question import Question, leaves, read_question
from featurestore.guard.explain.report import (
    Explanation,
    Operand,
    PathAnswer,
    Value,
    ViewFacts,
)
from featurestore.guard.explain.words import (
    bounds,
    expression_words,
    feature_words,
    instant,
    numbered,
    refresh_words,
    shown,
    state_words,
    text,
    texts,
    visible_words,
    window_words,
)
from featurestore.guard.world.world import Values, missing
from featurestore.kernels.on_demand import finish
from featurestore.online.stores.store import OnlineStore
from featurestore.plan.model import FeaturePlan, OnDemandFeature, Output, Plan, ViewUse
from featurestore.registry.catalog import Catalog
from featurestore.serving_log import ServingLog
from featurestore.sources import ReadSettings

SHOWN_EVENTS = 20
"""Default count of used events, and of other events, that an explanation lists."""


@dataclass(frozen=True)
class Explainer:
    """Explains values of applied services.

    Attributes:
        catalog: The plans and their sources.
        log: The serving log.
        online: The online store.
        settings: Resources for reading.
        clock: The present instant.
    """

    catalog: Catalog
    log: ServingLog
    online: OnlineStore
    settings: ReadSettings
    clock: Clock

    def explain(
        self,
        service: str,
        entity: Mapping[str, Any] | None,
        *,
        at_us: int | None,
        feature: str | None = None,
        request: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        events: int = SHOWN_EVENTS,
    ) -> Explanation:
        """Explain features of one entity; see ``FeatureStore.explain``."""
        question = read_question(
            self.catalog.plan(service),
            self.catalog.past_plans(service),
            self.log,
            entity=entity,
            at_us=at_us,
            feature=feature,
            request=request,
            request_id=request_id,
        )
        plan = plan_of_columns(question)
        sources = self.catalog.sources(use.view.source.name for use in plan.uses)
        offline = ask_offline(question, plan, sources=sources, settings=self.settings)
        read = event_reader(self.catalog.sources, self.settings)
        entities = {}
        for use in _uses_needed(plan):
            keys = [pa.array([question.keys[name]], key.dtype.arrow) for name, key in _key_columns(use)]
            entities[use.alias] = EntityEvents(use.view, read_candidates(use.view, keys, read), question.as_of_us)
        return _ExplanationBuilder(
            question, plan, offline, ask_online(question, plan, self.online, self.clock), entities, events
        ).explanation()


def _uses_needed(plan: Plan) -> Iterator[ViewUse]:
    columns = {output.column for output in plan.outputs}
    for use in plan.uses:
        if not columns.isdisjoint(use.columns):
            yield use


def _key_columns(use: ViewUse) -> Iterator[tuple[str, Any]]:
    return zip(use.keys, use.view.entity.keys, strict=True)


class _ExplanationBuilder:
    """Builds an explanation from answers and events."""

    def __init__(
        self,
        question: Question,
        plan: Plan,
        offline: Mapping[str, Values],
        online: PathAnswers,
        entities: Mapping[str, EntityEvents],
        most_events: int,
    ) -> None:
        self._question = question
        self._plan = plan
        self._offline = offline
        self._online = online
        self._served = read_served(question)
        self._entities = entities
        self._most_events = most_events
        self._features: dict[str, tuple[str, FeaturePlan]] = {
            column: (use.alias, feature)
            for use in plan.uses
            if use.alias in entities
            for column, feature in zip(use.columns, use.view.features, strict=True)
        }
        self._again = self._answer_again()

    def explanation(self) -> Explanation:
        """Return the explanation."""
        question = self._question
        return Explanation(
            service=question.plan.name,
            fingerprint=question.plan.fingerprint,
            keys=texts(question.keys),
            requests=texts(question.requests),
            as_of=format_instant(question.as_of_us),
            values=tuple(self._value(output) for output in self._plan.outputs),
            views=tuple(self._view(use) for use in self._plan.uses if use.alias in self._entities),
            served=log_facts(question),
            notes=tuple(question.notes),
        )

    def _answer_again(self) -> dict[str, Values]:
        """Evaluate the plan with the used events alone."""
        again = {}
        for column, (alias, feature) in self._features.items():
            if column in self._question.columns:
                computed = self._entities[alias].from_used(feature)
                again[column] = computed or Values(pa.nulls(1, feature.dtype.arrow), missing(1))
        spine = self._question.spine()
        arrays, statuses = finish(
            self._plan,
            {column: values.values for column, values in again.items()},
            {column: values.statuses for column, values in again.items()},
            {column.name: spine.column(column.name).combine_chunks() for column in self._plan.request},
            pa.array([self._question.as_of_us], pa.int64()).cast(TIMESTAMP.arrow),
        )
        return {name: Values(arrays[name], statuses[name]) for name in arrays}

    def _value(self, output: Output) -> Value:
        column, reference = output.column, self._offline[output.column]
        is_checked = is_equal(output, reference, self._again[column])
        name = self._question.output_of(column) or column
        if column not in self._features:
            return self._on_demand_value(output, name, is_checked=is_checked)
        alias, feature = self._features[column]
        events = self._entities[alias]
        listed = EventList(events, feature)
        return Value(
            name=name,
            dtype=str(output.dtype),
            declared=feature_words(events.view, feature),
            offline=answer_of(reference),
            online=self._path_answer(output, self._online),
            served=self._path_answer(output, self._served) if column in self._served.values else None,
            arithmetic=arithmetic(events, feature, listed, answer_of(reference)),
            is_checked=is_checked,
            view=alias,
            window_start=window_words(events.view, feature, self._question.as_of_us),
            fates=listed.counts,
            events=listed.listed(reference.values[0].as_py(), self._most_events),
        )

    def _on_demand_value(self, output: Output, name: str, *, is_checked: bool) -> Value:
        feature = next(plan for plan in self._plan.on_demand if plan.column == output.column)
        operands = tuple(self._operands(feature))
        values = ", ".join(f"{operand.name} = {shown(operand.value)}" for operand in operands)
        reference = answer_of(self._offline[output.column])
        expression = expression_words(feature.expression)
        return Value(
            name=name,
            dtype=str(output.dtype),
            declared=expression,
            offline=reference,
            online=self._path_answer(output, self._online),
            served=self._path_answer(output, self._served) if output.column in self._served.values else None,
            arithmetic=f"with {values or 'no operands'} this is {shown(reference.value)}",
            is_checked=is_checked,
            operands=operands,
        )

    def _operands(self, feature: OnDemandFeature) -> Iterator[Operand]:
        seen = set()
        for node in leaves(feature.expression):
            name = "as_of" if node.op == "as_of" else str(node.param("column" if node.op == "feature" else "name"))
            if (node.op, name) in seen:
                continue
            seen.add((node.op, name))
            if node.op == "feature":
                yield Operand(name, "feature", text(self._offline[name].values[0].as_py()))
            elif node.op == "request":
                yield Operand(name, "request input", text(self._question.requests[name]))
            else:
                yield Operand(name, "instant asked about", format_instant(self._question.as_of_us))

    def _path_answer(self, output: Output, answered: PathAnswers) -> PathAnswer:
        """Return the answer of another path, with the cause of a difference if it is the watermark of the state."""
        if output.column not in answered.values:
            return PathAnswer(None, said=answered.refused)
        current = answered.values[output.column]
        agrees = is_equal(output, self._offline[output.column], current)
        cause = ""
        if not agrees and output.column in self._features:
            cause = self._watermark_cause(output, current, answered)
        elif not agrees:
            cause = self._operand_cause(output, answered)
        return PathAnswer(answer_of(current), agrees, cause)

    def _watermark_cause(self, output: Output, current: Values, answered: PathAnswers) -> str:
        alias, feature = self._features[output.column]
        events = self._entities[alias]
        watermark_us = answered.watermarks_us[alias]
        computed = events.answer(feature, watermark_us=watermark_us)
        if computed is None or not is_equal(output, current, computed):
            return "the watermark of the state does not explain it; an audit looks for other causes"
        used, then = events.used(feature), events.used(feature, watermark_us=watermark_us)
        changes = (("without", np.setdiff1d(used, then)), ("with", np.setdiff1d(then, used)))
        parts = [f"{word} {numbered(numbers)}" for word, numbers in changes if len(numbers)]
        state = state_words(events.view, self._question.as_of_us, watermark_us)
        return f"{state} gives this: {' and '.join(parts)}".removesuffix(": ")

    def _operand_cause(self, output: Output, answered: PathAnswers) -> str:
        feature = next(plan for plan in self._plan.on_demand if plan.column == output.column)
        operands = {str(leaf.param("column")) for leaf in leaves(feature.expression) if leaf.op == "feature"}
        differ = [
            other.column
            for other in self._plan.outputs
            if other.column in operands & answered.values.keys()
            and not is_equal(other, self._offline[other.column], answered.values[other.column])
        ]
        return f"because of {', '.join(differ)}" if differ else ""

    def _view(self, use: ViewUse) -> ViewFacts:
        events, view = self._entities[use.alias], use.view
        event_bound, ingest_bound = bounds(view, self._question.as_of_us)
        candidates = events.candidates
        return ViewFacts(
            alias=use.alias,
            view=view.name,
            source=view.source.name,
            keys=texts({key.name: self._question.keys[name] for name, key in _key_columns(use)}),
            refresh=refresh_words(view.refresh),
            visible=visible_words(view, self._question.as_of_us),
            event_horizon=instant(event_bound),
            ingest_horizon=instant(ingest_bound),
            where=expression_words(view.where),
            rows=candidates.table.num_rows + candidates.repeated.num_rows,
            newest_visible=None if events.newest_visible is None else events.newest_visible + 1,
            other_spellings=candidates.other_spellings,
            online=self._online.states.get(use.alias),
            served=self._served.states.get(use.alias),
        )
