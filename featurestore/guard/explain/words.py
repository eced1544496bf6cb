"""Values, keys, horizons and rules in the words of an explanation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.core.temporal import (
    MIN_INSTANT_US,
    NO_WATERMARK,
    Refresh,
    format_duration,
    format_instant,
    horizons,
    window_start,
)
from featurestore.guard.world.plan_changes import declared
from featurestore.guard.world.plan_changes import shown as expression_text
from featurestore.plan.model import FeaturePlan, InputPlan, TypedExpr, ViewPlan


def text(value: Any) -> str | None:
    """Write one value; ``None`` stays ``None``."""
    if value is None:
        return None
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, list):
        return f"[{', '.join(shown(text(item)) for item in value)}]"
    return value.hex() if isinstance(value, bytes) else str(value)


def texts(values: Mapping[str, Any]) -> dict[str, str | None]:
    """Write several values."""
    return {name: text(value) for name, value in values.items()}


def shown(value: str | None) -> str:
    """Write a text, or ``null`` for ``None``."""
    return "null" if value is None else value


def counted(count: int, what: str) -> str:
    """Write a count of things.

    Example:
        >>> counted(1, "event"), counted(2, "event")
        ('1 event', '2 events')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def numbered(numbers: Sequence[int] | npt.NDArray[np.int64], most: int = 5) -> str:
    """Write numbers of events, from 1; of many events only the newest.

    Example:
        >>> numbered([2]), numbered([0, 1, 2, 3], most=2)
        ('event 3', 'events 3, 4 and 2 older ones')
    """
    kept = ", ".join(str(number + 1) for number in numbers[-most:])
    left = len(numbers) - most
    older = f" and {left:,} older {'one' if left == 1 else 'ones'}" if left > 0 else ""
    return f"event{'' if len(numbers) == 1 else 's'} {kept}{older}"


def expression_words(expression: TypedExpr | None) -> str:
    """Write an expression as it is declared; user-defined functions by their name."""
    return "" if expression is None else expression_text(_plain(expression))


def feature_words(view: ViewPlan, feature: FeaturePlan) -> str:
    """Write a feature as it is declared."""
    source = view.inputs[feature.input]
    plain = InputPlan(*(None if part is None else _plain(part) for part in (source.value, source.where)))
    return declared(replace(view, inputs=(plain,)), replace(feature, input=0))


def _plain(expression: TypedExpr) -> TypedExpr:
    """Return an expression in which user-defined functions have a name but no source text."""
    args = tuple(_plain(arg) for arg in expression.args)
    if expression.op == "udf":
        return TypedExpr(str(expression.param("name")), expression.dtype, args)
    return replace(expression, args=args)


def refresh_words(refresh: Refresh) -> str:
    """Write the promise of a refresh policy."""
    if refresh.period_us == 0:
        return "continuous: answers at as_of itself"
    period, lag = format_duration(refresh.period_us), format_duration(refresh.lag_us)
    return f"every {period}, lag {lag}: answers as of the last multiple of {period} that is {lag} or more before as_of"


def bounds(view: ViewPlan, as_of_us: int, watermark_us: int = NO_WATERMARK) -> tuple[int, int]:
    """Return the event bound and the ingest bound of a question; by default for complete state."""
    refresh, inclusive = view.refresh, int(view.source.inclusive)
    return horizons(as_of_us, watermark_us, refresh.period_us, refresh.lag_us, inclusive)


def state_words(view: ViewPlan, as_of_us: int, watermark_us: int) -> str:
    """Write the watermark of a state, and its horizon if that is earlier than that of complete state."""
    horizon, _ = bounds(view, as_of_us, watermark_us)
    earlier = horizon < bounds(view, as_of_us)[0]
    at = f", which answers as of {instant(horizon - int(view.source.inclusive))}," if earlier else ""
    return f"a state complete up to {instant(watermark_us)}{at}"


def visible_words(view: ViewPlan, as_of_us: int) -> str:
    """Write the events that a question may see."""
    event_bound, ingest_bound = bounds(view, as_of_us)
    if view.source.inclusive:
        return f"event_time <= {instant(event_bound - 1)} and ingest_time <= {instant(ingest_bound - 1)}"
    return f"event_time < {instant(event_bound)} and ingest_time < {instant(ingest_bound)}"


def window_words(view: ViewPlan, feature: FeaturePlan, as_of_us: int) -> str:
    """Return the first instant of a feature's window; an empty text if it has no lower edge."""
    if feature.window_us is None:
        return ""
    event_bound, _ = bounds(view, as_of_us)
    return instant(window_start(event_bound, feature.window_us, feature.resolution_us, int(view.source.inclusive)))


def instant(instant_us: int) -> str:
    """Write an instant that may be before the year 1."""
    return format_instant(instant_us) if instant_us >= MIN_INSTANT_US else "the beginning of time"
