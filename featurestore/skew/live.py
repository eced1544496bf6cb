"""Live audits: entities that are asked about now, on the online road, in the form of a serving log."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.definitions.sources import Source
from featurestore.online.lookup import OnlineReader
from featurestore.online.result import OnlineFeatures
from featurestore.online.store import OnlineStore
from featurestore.plan.model import Plan
from featurestore.skew.picking import as_log, entities, last_inputs, logged_questions
from featurestore.sources import ReadSettings, open_scans
from featurestore.temporal import MICROSECONDS, Clock, to_datetime

_POOL = 5
"""How many times more entities are looked at than asked about, so that rare kinds are among them."""

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
) -> pa.Table:
    """Choose entities and ask the online road about them.

    Args:
        plan: The service's live plan.
        count: How many entities; all there are if fewer.
        now_us: Instant asked about.
        online: Where states are kept.
        clock: Tells the present instant.
        sources: Definitions of the plan's sources by name.
        settings: What reading may use.
        recent: What was served lately, for entities and request inputs that occur.

    Returns:
        A table with the columns of the service's serving log.
    """
    logged = logged_questions(plan, recent)
    with open_scans([use.view for use in plan.uses], sources, settings) as scans:
        pool = entities(plan, _POOL * count, logged, scans)
    inputs = last_inputs(plan, logged)
    reader = OnlineReader(plan, online, clock)
    keys = [column.name for column in plan.join_keys]
    answers = [
        reader.get(
            chunk,
            request=[inputs.get(tuple(row[key] for key in keys), dict.fromkeys(_requests(plan))) for row in chunk],
            as_of=to_datetime(now_us),
        )
        for chunk in _chunks(pool)
    ]
    chosen = _stratified(answers, count, now_us)
    return as_log(plan, [(answers[number], row) for number, row in chosen], now_us)


def _requests(plan: Plan) -> list[str]:
    return [column.name for column in plan.request]


def _chunks(rows: Sequence[dict[str, Any]]) -> Iterable[Sequence[dict[str, Any]]]:
    return (rows[at : at + _AT_ONCE] for at in range(0, len(rows), _AT_ONCE))


def _stratified(answers: Sequence[OnlineFeatures], count: int, now_us: int) -> list[tuple[int, int]]:
    """Choose rows evenly from those of different statuses and different ages of the newest event."""
    strata: dict[tuple[Any, ...], list[tuple[int, int]]] = defaultdict(list)
    for number, answer in enumerate(answers):
        for row, statuses in enumerate(answer.statuses):
            ages = [_age(newest[row], now_us) for newest in answer.event_times.values()]
            strata[tuple(sorted(set(statuses))), tuple(ages)].append((number, row))
    waiting = [iter(rows) for _, rows in sorted(strata.items(), key=lambda item: repr(item[0]))]
    chosen: list[tuple[int, int]] = []
    while waiting and len(chosen) < count:
        for rows in list(waiting):
            found = next(rows, None)
            if found is None:
                waiting.remove(rows)
            elif len(chosen) < count:
                chosen.append(found)
    return sorted(chosen)


def _age(event_time_us: int | None, now_us: int) -> int:
    return -1 if event_time_us is None else int(np.searchsorted(_AGES, now_us - event_time_us))
