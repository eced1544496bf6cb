"""How far the sources of a training set reach, and which of its rows ask about more."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from featurestore import temporal
from featurestore.kernels.jit import jit
from featurestore.plan.model import Plan, ViewPlan

_horizons = jit(temporal.horizons)


def count_beyond_newest(plan: Plan, as_of: npt.NDArray[np.int64], newest: Mapping[str, int | None]) -> int:
    """Count the rows whose horizon, in some view, lies beyond the newest event its source held.

    Their values may still change when more events come. Views of inclusive sources are left out: the newest row of a
    dimension table says when a fact changed last, not how far the table reaches.

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


def _mark(view: ViewPlan, as_of: npt.NDArray[np.int64], newest: int | None, is_beyond: npt.NDArray[np.bool_]) -> None:
    if newest is None:
        is_beyond[:] = True
        return
    _mark_rows(as_of, view.refresh.period_us, view.refresh.lag_us, int(view.source.inclusive), newest, is_beyond)


@jit
def _mark_rows(
    as_of: npt.NDArray[np.int64],
    period_us: int,
    lag_us: int,
    inclusive: int,
    newest: int,
    is_beyond: npt.NDArray[np.bool_],
) -> None:
    for row in range(len(as_of)):
        event_bound, _ = _horizons(as_of[row], temporal.NO_WATERMARK, period_us, lag_us, inclusive)
        # The bound is exclusive: one step above the newest event, everything that is known is seen, and no more.
        if event_bound > newest + 1:
            is_beyond[row] = True
