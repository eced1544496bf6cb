"""The ways to fold a group of features, which all give the same bits, and the choice among them.

- *scan*: look at every event of every window. It needs no preparation, so it is best for few queries.
- *sweep*: prepare all events once (prefix sums, a stack, a list of members, a tree), so that a window costs little.
  It holds only if no query has an event before its horizon that it does not know yet.
- *late*: the same, where some events become visible out of order: each enters when the first query sees it.

Which kernel is called for a kind of group and a way stands in one table here. Kernels are called by address, so that
each is compiled on its own, and only if a plan needs it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from featurestore.core.columns import Ints
from featurestore.kernels import additive, extremes, holistic, ordered
from featurestore.kernels.jit import jit
from featurestore.kernels.program import (
    ADDITIVE,
    DEVIATION,
    EXTREME,
    FEATURE_FINISH,
    FEATURE_WINDOW,
    GROUP_BEGIN,
    GROUP_END,
    GROUP_KIND,
    HOLISTIC,
    MEAN,
    ORDERED,
    SUM_FLOAT,
    SUM_INT,
    SUM_WIDE,
    VARIANCE,
    Program,
)
from featurestore.kernels.tasks import FINISH, FOLD, FOLD_LATE

SCAN, SWEEP, LATE = range(3)

PASSES = 4
"""A scan may look at every event of an entity this often; to prepare a sweep costs about as much."""

_FREE_SCAN = 64
"""So many events are scanned faster than anything is prepared."""

_FOLDS = {
    ADDITIVE: (additive.scan_additive, additive.sweep_additive, additive.slide_additive),
    EXTREME: (extremes.scan_extremes, extremes.sweep_extremes, extremes.insert_extremes),
    ORDERED: (ordered.scan_ordered, ordered.sweep_ordered, ordered.insert_ordered),
    HOLISTIC: (holistic.scan_holistic, holistic.sweep_holistic, holistic.insert_holistic),
}
_FINISHES = {
    SUM_FLOAT: additive.finish_float_sum,
    SUM_INT: additive.finish_whole_sum,
    SUM_WIDE: additive.finish_whole_sum,
    MEAN: additive.finish_mean,
    VARIANCE: additive.finish_variance,
    DEVIATION: additive.finish_variance,
}


@jit
def choose_way(is_late: bool, edges: Ints, features: Ints) -> int:
    """Choose how to fold a group: scan if that looks at no more events than a few passes over all of them do.

    Args:
        is_late: Whether some query has an event before its horizon that it does not know yet.
        edges: One column per query: the first event of each window, and in the last row the end of all.
        features: Rows of the program, those of one window behind each other.

    Returns:
        ``SCAN``, ``SWEEP`` or ``LATE``.
    """
    upper = edges.shape[0] - 1
    cost = 0
    last = -1
    for f in range(features.shape[0]):
        window = features[f, FEATURE_WINDOW]
        if window != last:
            for q in range(edges.shape[1]):
                cost += edges[upper, q] - edges[window, q]
            last = window
    if cost <= PASSES * edges[upper, edges.shape[1] - 1] + _FREE_SCAN:
        return SCAN
    return LATE if is_late else SWEEP


class BoundKernels(NamedTuple):
    """Addresses, in this process, of the kernels of a program.

    Attributes:
        folds: Per group and way the kernel that folds it.
        finishes: Per feature the kernel that makes it of exact sums; 0 for counts and for kinds that have none.
    """

    folds: Ints
    finishes: Ints


def bind_kernels(program: Program, *, has_one_query: bool = False) -> BoundKernels:
    """Compile the kernels that a program needs, or read them from disk.

    Args:
        program: The program.
        has_one_query: Whether it is only ever asked one query per entity. Then a group of few windows is always
            scanned, and no other way is compiled for it.
    """
    folds = np.zeros((len(program.groups), 3), dtype=np.int64)
    finishes = np.zeros(len(program.features), dtype=np.int64)
    for number, group in enumerate(program.groups.tolist()):
        features = program.features[group[GROUP_BEGIN] : group[GROUP_END]]
        scan, sweep, late = _FOLDS[group[GROUP_KIND]]
        folds[number, SCAN] = FOLD.address_of(scan)
        if not (has_one_query and is_always_scanned(features)):
            folds[number, SWEEP] = FOLD.address_of(sweep)
            folds[number, LATE] = FOLD_LATE.address_of(late)
        if group[GROUP_KIND] == ADDITIVE:
            finishes[group[GROUP_BEGIN] : group[GROUP_END]] = [
                FINISH.address_of(_FINISHES[finish]) if finish in _FINISHES else 0
                for finish in features[:, FEATURE_FINISH].tolist()
            ]
    return BoundKernels(folds, finishes)


def is_always_scanned(features: Ints) -> bool:
    """Tell whether ``choose_way`` chooses to scan a group whatever the events are, if an entity has one query.

    A window holds at most all events before the horizon, so ``PASSES`` windows cost at most as many passes.

    Args:
        features: Rows of the program of the group.
    """
    return len(np.unique(features[:, FEATURE_WINDOW])) <= PASSES
