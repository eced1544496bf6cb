"""Words as what they stand for, in order: what several folds share."""

from __future__ import annotations

import numpy as np

from featurestore.core.columns import Ints
from featurestore.kernels.jit import jit

_FRACTION_BITS = 0x7FFFFFFFFFFFFFFF


@jit
def order_key(word: int, is_float: bool) -> int:
    """Return an integer that orders as the word's value does; its own inverse."""
    return word ^ ((word >> 63) & _FRACTION_BITS) if is_float else word


@jit
def as_float(word: int) -> float:
    """Return the float that a word stands for."""
    return np.int64(word).view(np.float64)


@jit
def as_word(value: float) -> int:
    """Return the word that stands for a float."""
    return np.float64(value).view(np.int64)  # type: ignore[return-value]  # numba's scalar


@jit
def search(times: Ints, begin: int, end: int, bound: int) -> int:
    """Return the first index in [begin, end) of which the time is not before ``bound``."""
    while begin < end:
        middle = (begin + end) >> 1
        if times[middle] < bound:
            begin = middle + 1
        else:
            end = middle
    return begin
