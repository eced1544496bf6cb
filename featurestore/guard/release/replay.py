"""Replaying history: online state is filled as time goes on and asked at each instant; training says the answers.

At every instant the state is asked three times: as the previous refresh left it, with half of what was pushed since
then, and refreshed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.core.answers import OnlineFeatures
from featurestore.core.temporal import (
    NO_WATERMARK,
    NOTHING_YET,
    FixedClock,
    Refresh,
    horizons,
    to_datetime,
)
from featurestore.definitions.sources import Source
from featurestore.guard.comparing.questions import as_log
from featurestore.guard.release.history import History
from featurestore.offline.build import Features, compute_features
from featurestore.offline.parts import Resources
from featurestore.offline.training_set import compute_reference
from featurestore.online.answering.lookup import OnlineReader
from featurestore.online.filling.materialize import DEFAULT_HISTORY_US, materialize_view
from featurestore.online.filling.reading import PreviousRead
from featurestore.online.filling.streaming import follow
from featurestore.online.stores.store import OnlineStore
from featurestore.plan.model import Plan, ViewPlan, ViewUse
from featurestore.plan.names import AS_OF
from featurestore.sources import ReadSettings

Row = dict[str, Any]

_AT_ONCE = 1_000


@dataclass(frozen=True)
class StateContent:
    """The events that the state of a view has.

    Attributes:
        outside_us: The state has all events of runs that became known before this instant.
        pushed_us: The state has all pushed events that became known before this instant.
        is_all_pushed: Whether all events are pushed, and none comes by runs.
    """

    outside_us: int = NOTHING_YET
    pushed_us: int = NOTHING_YET
    is_all_pushed: bool = False

    def bound_us(self, view: ViewPlan) -> int:
        """Return the exclusive bound of the ingest times that lookups may use."""
        newest = max(self.outside_us, self.pushed_us)
        return newest if self.is_all_pushed or not view.refresh.period_us else self.outside_us


_ALL = StateContent(NO_WATERMARK, NO_WATERMARK)


@dataclass
class PhaseAnswers:
    """The answers of one phase of a replay.

    Attributes:
        name: The phase.
        tables: The answers in the form of a serving log.
        instants: The instants asked about, ascending.
        incomplete: The instants at which an answer reported that a view was incomplete or late, with the content of the
            state per view; views that reported nothing have everything.
        complete: Count of the rows at all other instants.
    """

    name: str
    tables: list[pa.Table] = field(default_factory=list)
    instants: list[int] = field(default_factory=list)
    incomplete: dict[int, Mapping[str, StateContent]] = field(default_factory=dict)
    complete: int = 0


class Replay:
    """Fills a store as time goes on, and asks it questions."""

    def __init__(self, plan: Plan, histories: Mapping[str, History], online: OnlineStore) -> None:
        self._plan = plan
        self._histories = histories
        self._online = online
        self._clock = FixedClock(0)
        self._reader = OnlineReader(plan, online, self._clock)
        self._held = {name: StateContent(is_all_pushed=history.is_all_pushed) for name, history in histories.items()}
        self._runs: dict[str, PreviousRead] = {}
        self._phases = {name: PhaseAnswers(name) for name in ("refreshed", "stale", "pushed")}

    def phases(self) -> list[PhaseAnswers]:
        """Return the phases that occurred."""
        return [phase for phase in self._phases.values() if phase.tables]

    def advance(self, instant: int, keys: Sequence[Row], request: Sequence[Row]) -> None:
        """Advance to an instant and ask about entities: of the old state, after some pushes, and refreshed."""
        self._clock.instant_us = instant
        if self._runs:
            self._ask("stale", instant, keys, request)
            if self._push(instant):
                self._ask("pushed", instant, keys, request)
        self._refresh(instant)
        self._ask("refreshed", instant, keys, request)

    def _push(self, instant: int) -> bool:
        """Push half of the events that were pushed since the last refresh; return whether there were any."""
        any_pushed = False
        for view in self._plan.views:
            held = self._held[view.name]
            middle = self._histories[view.name].middle_us(held.pushed_us, _until(view, instant))
            stream = None if middle is None else self._histories[view.name].stream(middle)
            if middle is None or stream is None:
                continue
            for _ in range(2):
                # Twice, because following again must not apply any event again.
                follow(view, stream, self._online, until_us=middle, history_us=DEFAULT_HISTORY_US)
            self._held[view.name] = replace(held, pushed_us=middle)
            any_pushed = True
        return any_pushed

    def _refresh(self, instant: int) -> None:
        for view in self._plan.views:
            history, until_us = self._histories[view.name], _until(view, instant)
            run = materialize_view(
                view,
                history.outside(),
                self._online,
                until_us=until_us,
                stream=history.stream(until_us),
                previous_read=self._runs.get(view.name),
            )
            self._runs[view.name] = PreviousRead(run.row_count, run.content or 0, history.scan.files)
            self._held[view.name] = replace(self._held[view.name], outside_us=until_us, pushed_us=until_us)

    def _ask(self, phase: str, instant: int, keys: Sequence[Row], request: Sequence[Row]) -> None:
        as_of = to_datetime(instant)
        answers = [
            self._reader.get(keys[at : at + _AT_ONCE], request=request[at : at + _AT_ONCE], as_of=as_of)
            for at in range(0, len(keys), _AT_ONCE)
        ]
        answered = self._phases[phase]
        answered.instants.append(instant)
        answered.tables.append(
            as_log(self._plan, [(answer, row) for answer in answers for row in range(len(answer.rows))], instant)
        )
        incomplete = {use.view.name for use in self._plan.uses for answer in answers if not _is_complete(answer, use)}
        if incomplete:
            held = self._held.items()
            answered.incomplete[instant] = {name: content if name in incomplete else _ALL for name, content in held}
        else:
            answered.complete += len(keys)


@dataclass(frozen=True)
class TrainingReference:
    """Computes the expected values of the rows of a phase.

    Attributes:
        sources: Definitions of the sources by name.
        settings: Resources for reading.
        histories: The sources as they are replayed, by view.
        incomplete: By instant and view, the content of the state; at all other instants the state has everything.
    """

    sources: Mapping[str, Source]
    settings: ReadSettings
    histories: Mapping[str, History]
    incomplete: Mapping[int, Mapping[str, StateContent]]

    def __call__(self, plan: Plan, spine: pa.Table) -> tuple[Features, dict[str, int | None]]:
        """Compute rows: as a training set where the state was complete, otherwise from the content of the state."""
        as_of = np.asarray(spine.column(AS_OF).cast(pa.int64()).to_numpy(), dtype=np.int64)
        is_complete = ~np.isin(as_of, np.array(list(self.incomplete), dtype=np.int64))
        whole, newest = compute_reference(
            plan, spine.filter(pa.array(is_complete)), sources=self.sources, settings=self.settings
        )
        parts, places = [whole], [np.flatnonzero(is_complete)]
        for instant, held in self.incomplete.items():
            rows = np.flatnonzero(as_of == instant)
            parts.append(self._of_state(plan, spine.take(pa.array(rows)), instant, held))
            places.append(rows)
        back = np.argsort(np.concatenate(places))
        names = [output.name for output in plan.outputs]
        values = {name: pa.concat_arrays([part.values[name] for part in parts]).take(pa.array(back)) for name in names}
        statuses = {name: np.concatenate([part.statuses[name] for part in parts])[back] for name in names}
        return Features(values, statuses), newest

    def _of_state(self, plan: Plan, spine: pa.Table, instant: int, held: Mapping[str, StateContent]) -> Features:
        """Compute the rows of one instant from exactly the events that the states had then.

        A late refresh is one with a longer lag: its horizon is that of the newest refresh that the state covers.
        """
        uses = []
        rows = {}
        for use in plan.uses:
            view, content = use.view, held[use.view.name]
            policy = (view.refresh.period_us, view.refresh.lag_us, int(view.source.inclusive))
            event_bound, ingest_bound = horizons(instant, content.bound_us(view), *policy)
            late_us = horizons(instant, NO_WATERMARK, *policy)[0] - event_bound
            refresh = Refresh(view.refresh.period_us, view.refresh.lag_us + late_us)
            uses.append(replace(use, view=replace(view, refresh=refresh)))
            rows[view.name] = self.histories[view.name].held(
                outside_us=min(content.outside_us, ingest_bound), pushed_us=min(content.pushed_us, ingest_bound)
            )
        resources = Resources(self.settings.threads, self.settings.memory_bytes, self.settings.temp_folder)
        return compute_features(replace(plan, uses=tuple(uses)), spine, rows, resources=resources)


def _is_complete(answer: OnlineFeatures, use: ViewUse) -> bool:
    """Return whether an answer reports that the state of a view has every event it may see."""
    state = answer.views[use.alias]
    return not state.is_stale and state.complete_until_us >= answer.as_of_us


def _until(view: ViewPlan, instant: int) -> int:
    """Return the instant up to which a view must be materialized to answer a question at ``instant``."""
    return instant + int(view.source.inclusive)
