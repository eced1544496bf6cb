"""How far the sources of a training set reach, which of its rows reach beyond, and why rows have no values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from featurestore.core import temporal
from featurestore.core.columns import Flags, Ints
from featurestore.core.dtypes import INT64
from featurestore.core.statuses import Status
from featurestore.kernels.jit import jit
from featurestore.offline.engine import ViewColumns, evaluate_view
from featurestore.offline.parts import Resources, Rows
from featurestore.plan.aggregations import aggregate_of
from featurestore.plan.model import FeaturePlan, InputPlan, Plan, ViewPlan, ViewUse

_horizons = jit(temporal.horizons)


def count_beyond_newest(plan: Plan, as_of: Ints, newest: Mapping[str, int | None]) -> int:
    """Count the rows whose horizon, in some view, is beyond the newest event of its source.

    Their values may still change when more events come. Views of inclusive sources are left out: the newest row of a
    dimension table is the last change of a fact, and does not show how far the table reaches.

    Args:
        plan: The service.
        as_of: The instants asked about, microseconds.
        newest: Newest event time by view name; ``None`` if the source held no event.

    Returns:
        The count of such rows.
    """
    is_beyond = np.zeros(len(as_of), dtype=np.bool_)
    for view in {use.view.name: use.view for use in plan.uses if not use.view.source.inclusive}.values():
        _mark(view, as_of, newest[view.name], is_beyond)
    return int(is_beyond.sum())


def _mark(view: ViewPlan, as_of: Ints, newest: int | None, is_beyond: Flags) -> None:
    if newest is None:
        is_beyond[:] = True
        return
    _mark_rows(as_of, view.refresh.period_us, view.refresh.lag_us, int(view.source.inclusive), newest, is_beyond)


@jit
def _mark_rows(
    as_of: Ints,
    period_us: int,
    lag_us: int,
    inclusive: int,
    newest: int,
    is_beyond: Flags,
) -> None:
    for row in range(len(as_of)):
        event_bound, _ = _horizons(as_of[row], temporal.NO_WATERMARK, period_us, lag_us, inclusive)
        # The bound is exclusive: one step above the newest event, everything that is known is seen, and no more.
        if event_bound > newest + 1:
            is_beyond[row] = True


@dataclass(frozen=True)
class RowsWithoutValues:
    """The rows of a training set for which one view has no value, counted by reason.

    A row has no value if no feature of the view has one in it; a count of 0 is not a value here. The reasons are
    disjoint and add up to ``row_count``.

    Attributes:
        view: Alias of the view in the service.
        row_count: Rows without a value.
        no_event: The source holds no event of the entity.
        not_yet_happened: Every event of the entity happens at or after the row's horizon.
        known_only_later: Events happened before the horizon, but every one of them became known after it.
        expired: There are only values older than their time to live.
        outside_window: Every visible event is older than the longest window.
        no_value: There are visible events in the window, but they hold only nulls, or a ``where`` leaves them out.
    """

    view: str
    row_count: int
    no_event: int = 0
    not_yet_happened: int = 0
    known_only_later: int = 0
    expired: int = 0
    outside_window: int = 0
    no_value: int = 0

    @property
    def with_events(self) -> int:
        """Rows without a value although the source holds events of their entity."""
        return self.row_count - self.no_event

    def reasons(self) -> dict[str, int]:
        """Return the rows by reason in words, the most frequent reason first; reasons without rows are left out."""
        counted = {words: getattr(self, name) for name, words in _REASONS.items()}
        return {words: count for words, count in sorted(counted.items(), key=lambda pair: -pair[1]) if count}


_REASONS = {
    "known_only_later": "the events became known only later",
    "not_yet_happened": "the events happen later",
    "expired": "the values are older than their ttl",
    "outside_window": "the events are older than the window",
    "no_value": "the events hold no value",
    "no_event": "the source has no event of the entity",
}

_MOST = 0.5
"""Share of rows without values beyond which the reasons are counted."""


def warning_of(rows: RowsWithoutValues, row_count: int, ingest_time: str | None) -> str | None:
    """Return a warning about rows without values, ``None`` if most rows have values.

    Args:
        rows: The rows without values of one view.
        row_count: Rows of the training set.
        ingest_time: The column with the instants at which the source's events became known.
    """
    if rows.with_events <= _MOST * row_count:
        return None
    reasons = ", ".join(f"{words}: {count:,}" for words, count in rows.reasons().items())
    text = f"view '{rows.view}': {rows.row_count:,} of {row_count:,} rows found no value. {reasons[0].upper()}"
    text += f"{reasons[1:]}."
    if rows.known_only_later > _MOST * rows.row_count and ingest_time is not None:
        text += (
            f" Column '{ingest_time}' is declared as ingest_time, the instant at which an event became known. If it"
            " holds the time of a later load or update, leave ingest_time out."
        )
    return text


class EmptyRows:
    """Finds the rows for which a view has no value, and counts the reasons if these are most rows.

    Training sets are built in pieces: ``add`` gets the features of each use of a view for one piece, and ``count``
    finds the reasons at the end.
    """

    def __init__(self) -> None:
        self._pieces: dict[str, list[tuple[Flags, Flags]]] = {}

    def add(self, use: ViewUse, answer: ViewColumns) -> None:
        """Add the features of a view for the next piece of the spine."""
        is_empty = np.ones(answer.statuses.shape[1], dtype=np.bool_)
        is_expired = np.zeros_like(is_empty)
        for feature, column, statuses in zip(use.view.features, answer.columns, answer.statuses, strict=True):
            is_expired |= statuses == Status.EXPIRED
            over_no_rows = aggregate_of(feature).over_no_rows
            if over_no_rows is None:
                is_empty &= statuses != Status.PRESENT
            else:
                is_empty &= column.to_numpy(zero_copy_only=False) == over_no_rows
            if not is_empty.any():
                break
        self._pieces.setdefault(use.alias, []).append((is_empty, is_expired & is_empty))

    def count(
        self, plan: Plan, spine: pa.Table, sources: Mapping[str, Rows], resources: Resources
    ) -> tuple[RowsWithoutValues, ...]:
        """Count the reasons for each view without a value in most rows.

        The kernels count the events that a row sees, those that it would see if every event had been known at once, and
        all events of its entity. So no rule of visibility is written a second time.

        Args:
            plan: The service.
            spine: Key columns and ``as_of`` in contract dtypes.
            sources: The events each view of the plan reads, by view name.
            resources: Threads and memory.

        Returns:
            One entry for each such view, in the order of aliases.
        """
        counts = []
        for use in plan.uses:
            pieces = self._pieces.get(use.alias, [])
            is_empty = np.concatenate([np.zeros(0, dtype=np.bool_), *(piece[0] for piece in pieces)])
            if is_empty.sum() <= _MOST * len(is_empty):
                continue
            is_expired = np.concatenate([piece[1] for piece in pieces])[is_empty]
            questions = spine.filter(pa.array(is_empty))
            counts.append(_reasons(use, questions, is_expired, sources[use.view.name], resources))
        return tuple(counts)


def _reasons(use: ViewUse, spine: pa.Table, is_expired: Flags, rows: Rows, resources: Resources) -> RowsWithoutValues:
    keys = [spine.column(key).combine_chunks() for key in use.keys]
    as_of = np.ascontiguousarray(spine.column("as_of").combine_chunks().cast(pa.int64()).to_numpy(zero_copy_only=False))
    windows = [feature.window_us for feature in use.view.features if not aggregate_of(feature).needs_newest_only]
    longest = None if not windows or None in windows else max(window for window in windows if window is not None)
    probe = replace(
        use.view,
        inputs=(InputPlan(),),
        features=(
            FeaturePlan("reached", "count", 0, INT64, window_us=longest),
            FeaturePlan("seen", "count", 0, INT64),
        ),
    )

    def count(instants: Ints, *, hindsight: bool) -> tuple[Ints, Ints]:
        answer = evaluate_view(probe, rows, keys, instants, resources=resources, hindsight=hindsight)
        reached, seen = (column.to_numpy(zero_copy_only=False) for column in answer.columns)
        return reached, seen

    reached, seen = count(as_of, hindsight=False)
    _, seen_if_known = count(as_of, hindsight=True)
    _, ever = count(np.full_like(as_of, temporal.MAX_INSTANT_US), hindsight=True)
    is_seen = seen > 0
    return RowsWithoutValues(
        view=use.alias,
        row_count=len(as_of),
        no_event=int((ever == 0).sum()),
        not_yet_happened=int(((ever > 0) & (seen_if_known == 0)).sum()),
        known_only_later=int(((seen_if_known > 0) & ~is_seen).sum()),
        expired=int((is_seen & is_expired).sum()),
        outside_window=int((is_seen & ~is_expired & (reached == 0)).sum()),
        no_value=int((is_seen & ~is_expired & (reached > 0)).sum()),
    )
