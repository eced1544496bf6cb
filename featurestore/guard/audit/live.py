"""Live audits: the online store is asked about some entities now, and answers in the form of a serving log."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.core.answers import OnlineFeatures
from featurestore.core.errors import StateError
from featurestore.core.temporal import MICROSECONDS, Clock, to_datetime
from featurestore.definitions.sources import Source
from featurestore.guard.audit.tally import Remarks
from featurestore.guard.comparing.questions import (
    Row,
    as_log,
    entities,
    last_inputs,
    logged_questions,
)
from featurestore.online.answering.lookup import OnlineReader
from featurestore.online.stores.store import OnlineStore
from featurestore.plan.model import Plan
from featurestore.sources import ReadSettings, open_scans

_POOL = 5
"""Entities considered per entity chosen, so that rare statuses and ages are among them."""

_AT_ONCE = 1_000
_AGES = np.array([MICROSECONDS["m"], MICROSECONDS["h"], MICROSECONDS["d"], MICROSECONDS["w"]])


def ask_live(
    plan: Plan,
    count: int,
    *,
    now_us: int,
    online: OnlineStore,
    clock: Clock,
    sources: Mapping[str, Source],
    settings: ReadSettings,
    recent: Iterable[pa.Table],
    remarks: Remarks,
) -> pa.Table:
    """Choose entities and ask the online store about them.

    Args:
        plan: The service's live plan.
        count: Count of entities; all entities if there are fewer.
        now_us: Instant asked about.
        online: The online store.
        clock: The present instant.
        sources: Definitions of the plan's sources by name.
        settings: Resources for reading.
        recent: The recent serving log, for entities and request inputs that occur.
        remarks: Receives the count of entities that are left out because their state is damaged.

    Returns:
        A table with the columns of the service's serving log.

    Raises:
        StateError: A view has no online state.
    """
    logged = logged_questions(plan, recent)
    with open_scans([use.view for use in plan.uses], sources, settings) as scans:
        pool = entities(plan, _POOL * count, logged, scans)
    inputs = last_inputs(plan, logged)
    reader = OnlineReader(plan, online, clock)
    keys = [column.name for column in plan.join_keys]

    def ask(chunk: Sequence[Row]) -> OnlineFeatures:
        request = [inputs.get(tuple(row[key] for key in keys), dict.fromkeys(_requests(plan))) for row in chunk]
        return reader.get(chunk, request=request, as_of=to_datetime(now_us))

    # A request without entities fails if a view has no state at all; that is not damage of single entities.
    ask([])
    answers = [answer for chunk in _chunks(pool) for answer in _answers(chunk, ask, remarks)]
    chosen = _stratified(answers, count, now_us)
    return as_log(plan, [(answers[number], row) for number, row in chosen], now_us)


def _requests(plan: Plan) -> list[str]:
    return [column.name for column in plan.request]


def _chunks(rows: Sequence[Row]) -> Iterable[Sequence[Row]]:
    return (rows[at : at + _AT_ONCE] for at in range(0, len(rows), _AT_ONCE))


def _answers(
    chunk: Sequence[Row], ask: Callable[[Sequence[Row]], OnlineFeatures], remarks: Remarks
) -> Iterator[OnlineFeatures]:
    """Ask about some entities; entities whose state is damaged are found by bisection and left out."""
    try:
        yield ask(chunk)
    except StateError as error:
        if len(chunk) == 1:
            remarks.skipped[f"their online state cannot be read: {error.problem}"] += 1
            return
        half = len(chunk) // 2
        yield from _answers(chunk[:half], ask, remarks)
        yield from _answers(chunk[half:], ask, remarks)


def _stratified(answers: Sequence[OnlineFeatures], count: int, now_us: int) -> list[tuple[int, int]]:
    """Choose rows evenly over all combinations of statuses and of ages of the newest event."""
    strata: dict[tuple[Any, ...], list[tuple[int, int]]] = defaultdict(list)
    for number, answer in enumerate(answers):
        for row, statuses in enumerate(answer.statuses):
            ages = [_age(newest[row], now_us) for newest in answer.event_times.values()]
            strata[tuple(sorted(set(statuses))), tuple(ages)].append((number, row))
    waiting = [iter(rows) for _, rows in sorted(strata.items(), key=lambda item: repr(item[0]))]
    chosen: list[tuple[int, int]] = []
    while waiting and len(chosen) < count:
        for rows in list(waiting):
            place = next(rows, None)
            if place is None:
                waiting.remove(rows)
            elif len(chosen) < count:
                chosen.append(place)
    return sorted(chosen)


def _age(event_time_us: int | None, now_us: int) -> int:
    return -1 if event_time_us is None else int(np.searchsorted(_AGES, now_us - event_time_us))
