"""What every run of the tests tries, and what only the nightly run tries.

``make test`` runs a fair sample: of long lists of cases a share that is chosen by a hash of the case, few examples of
each property, a few rounds of each crash. ``make nightly`` runs every case, marked ``nightly`` where the sample leaves
it out, with more examples and rounds. ``HYPOTHESIS_PROFILE=search`` looks for new counterexamples at random, 20 times
as long; otherwise the same examples are tried every time.
"""

from collections.abc import Callable, Iterable
from typing import Any
from zlib import crc32

import pytest
from hypothesis import settings

FACTORS = {"search": 20.0, "nightly": 4.0, "interpreted": 0.3}


def times(usual: int) -> int:
    """Return how often a run repeats what it draws by lot: crashes, histories; ten times as often by night."""
    return usual * (10 if settings.get_current_profile_name() == "nightly" else 1)


def examples(count: int) -> settings:
    """Return settings that try three quarters of ``count`` examples, more by night, fewer if interpreted."""
    factor = FACTORS.get(settings.get_current_profile_name(), 0.75)
    return settings(max_examples=max(2, int(count * factor)))


def sample(cases: Iterable[Any], *, one_in: int, always: Callable[[Any], bool] = lambda case: False) -> list[Any]:
    """Return cases for ``pytest.mark.parametrize``; all but a share of them are left to the nightly run.

    Args:
        cases: The cases; a tuple is the values of several arguments.
        one_in: The inverse of the share of cases that every run tries. A hash of the case chooses them.
        always: Whether every run tries a case.
    """
    return [
        case
        if always(case) or crc32(repr(case).encode()) % one_in == 0
        else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.nightly)
        for case in cases
    ]
