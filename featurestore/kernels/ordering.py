"""The values that words stand for, and their order; several kernels share these functions."""

from __future__ import annotations

import numpy as np

from featurestore.core.columns import Ints
from featurestore.kernels.jit import inner

_FRACTION_BITS = 0x7FFFFFFFFFFFFFFF


@inner
def order_key(word: int, is_float: bool) -> int:
    """Return an integer that sorts as the word's value does. The function is its own inverse.

    Args:
        word: The word.
        is_float: Whether it is the bits of a float.
    """
    return word ^ ((word >> 63) & _FRACTION_BITS) if is_float else word


@inner
def as_float(word: int) -> float:
    """Return the float that a word stands for."""
    return np.int64(word).view(np.float64)


@inner
def as_word(value: float) -> int:
    """Return the word that stands for a float."""
    return np.float64(value).view(np.int64)  # type: ignore[return-value]  # numba's scalar


@inner
def search(times: Ints, begin: int, end: int, bound: int) -> int:
    """Return the first index in [begin, end) whose time is not before ``bound``, ``end`` if there is none.

    Args:
        times: Ascending numbers.
        begin: First index.
        end: Index after the last.
        bound: The number to search for.
    """
    while begin < end:
        middle = (begin + end) >> 1
        if times[middle] < bound:
            begin = middle + 1
        else:
            end = middle
    return begin
