"""Exact sums and roots of Python numbers, rounded once."""

import math
from fractions import Fraction


def total(values):
    """Return the sum: of integers and decimals exactly, of floats as ``math.fsum`` does.

    Raises:
        OverflowError: The sum of floats is too large for a float.
    """
    if not isinstance(values[0], float):
        return sum(values, type(values[0])(0))
    try:
        return math.fsum(values) + 0.0
    except OverflowError:  # perhaps of an intermediate sum only
        return float(sum(map(Fraction, values)))


def variance(values, ddof):
    """Return the exact variance."""
    mean = sum(map(Fraction, values)) / len(values)
    return sum((value - mean) ** 2 for value in map(Fraction, values)) / (len(values) - ddof)


def root(square):
    """Return the float nearest to a root: its first 64 bits or more, and one bit that says whether a rest is left."""
    shift = max(0, 64 + (square.denominator.bit_length() - square.numerator.bit_length() + 1) // 2)
    scaled = square * 4**shift
    whole = math.isqrt(math.floor(scaled))
    return float(Fraction(2 * whole + (whole * whole != scaled), 2 ** (shift + 1)))
