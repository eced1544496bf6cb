"""What every feature value is, in loops short enough to be trusted by reading (DESIGN.md, sections 2 and 3)."""

import math
import operator
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from fractions import Fraction

from tests.oracle.expressions import evaluate
from tests.oracle.rounding import root, total, variance

EPOCH, MICROSECOND, OUTSIDE = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1), object()


def answers(view, events, as_of):
    """Return {feature: (value, status)} of one entity at an instant in µs; events are dicts from column to value."""
    period, lag, source = view.refresh.period_us, view.refresh.lag_us, view.source
    grid = (as_of - lag) // (period or 1) * period
    horizon, known = (grid, grid + lag) if period else (as_of, as_of)
    is_before = operator.le if source.inclusive else operator.lt
    seen = []
    for event in events:
        times = event[source.event_time], event[source.ingest_time or source.event_time]
        happened, learned = ((time - EPOCH) // MICROSECOND for time in times)
        if is_before(happened, horizon) and is_before(learned, known) and is_true(view.where, event):
            seen.append((happened, learned, [operand(found, event) for found in view.inputs]))
    seen.sort(key=lambda event: (event[0], event[1], [rank(value) for value in event[2]]))
    return {feature.name: answer(feature, seen, horizon, as_of) for feature in view.features}


def is_true(expression, event):
    return expression is None or evaluate(expression, event) is True


def operand(found, event):
    value = 1 if found.value is None else evaluate(found.value, event)
    return value if is_true(found.where, event) else OUTSIDE


def rank(value):
    if isinstance(value, tuple):
        return 2, [(item is not None, item) for item in value]
    return (0,) if value is OUTSIDE else (1,) if value is None else (2, value)


def answer(feature, seen, horizon, as_of):
    options, value = dict(feature.params), None
    start = -math.inf if feature.window_us is None else horizon - feature.window_us
    if feature.resolution_us > 0:
        start = start // feature.resolution_us * feature.resolution_us
    members = [(at, values[feature.input]) for at, _, values in seen if at >= start]
    nulls = bool(options.get("respect_nulls"))
    members = [(at, value) for at, value in members if value is not OUTSIDE and (nulls or value is not None)]
    if feature.ttl_us is not None and members and members[-1][0] < as_of - feature.ttl_us:
        return None, "EXPIRED"
    with suppress(OverflowError):
        value = fold(feature.aggregation, options, [value for _, value in members], [as_of - at for at, _ in members])
    return value, "NOT_FOUND" if not seen else "NULL" if value is None else "PRESENT"


def fold(name, options, values, since):
    if len(values) <= options.get("ddof", 0) and not name.startswith("count"):
        return None
    folds = {
        "count": lambda: len(values),
        "count_distinct": lambda: len(set(values)),
        "sum": lambda: total(values),
        "mean": lambda: float(sum(map(Fraction, values)) / len(values)) + 0.0,
        "var": lambda: float(variance(values, options["ddof"])),
        "std": lambda: root(variance(values, options["ddof"])),
        "min": lambda: min(values),
        "max": lambda: max(values),
        "first": lambda: values[0],
        "last": lambda: values[-1],
        "first_n": lambda: values[: options["n"]],
        "last_n": lambda: values[-options["n"] :],
        "quantile": lambda: quantile(sorted(map(Fraction, values)), options["q"] * (len(values) - 1)),
        "mode": lambda: min(Counter(values).items(), key=lambda item: (-item[1], item[0]))[0],
        "time_since_last": lambda: since[-1] / options["unit_us"],
    }
    return folds[name]()


def quantile(ordered, place):
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return float(low + (high - low) * Fraction(place % 1)) + 0.0
