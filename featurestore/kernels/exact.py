"""Exact sums: fixed-point numbers as limbs of 32 bits in int64 words, and their one rounding to float64.

A float64 is ``mantissa * 2**(position - 1074)`` with a mantissa below 2**53 and a position of 0 to 2045; an int64 is
its magnitude at position 0 of the unit 2**0. Added up as limbs nothing is lost, so sums can be taken apart again (a
window is the difference of two prefixes) and do not depend on the order of addition. A limb may hold up to 2**29
addends before it could overflow; digits are limbs with carries resolved, each in [0, 2**32).

The functions are compiled; all arithmetic on limbs is in int64, which for magnitudes of 2**63 is read as a bit pattern.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from featurestore.core.columns import Ints
from featurestore.kernels.jit import inner, jit

_MASK = 0xFFFFFFFF
_MASK_U = np.uint64(0xFFFFFFFF)
_SHIFT_U = np.uint64(32)
_FRACTION = (1 << 52) - 1
_FLOAT_UNIT = -1074
_ROOT_BITS = 116
_QUOTIENT_BITS = 62
_ROUNDABLE = 1 << 54
"""From here on a quotient has more bits than a float64, and one more that says whether it lies at a half."""

_SPLIT = 134217729.0
_SMALLEST_SPLIT, _LARGEST_SPLIT = 1e-140, 1e140
_SPLIT_ERROR = 2.0**-50

VALUE_LIMBS = 3
"""Limbs that one value touches."""

SQUARE_LIMBS = 5
"""Limbs that the square of one value touches."""


@jit
def position_of(word: int, is_float: bool) -> int:
    """Return the bit position of a value's mantissa: its exponent above the smallest subnormal; 0 for integers."""
    if not is_float:
        return 0
    exponent = (word >> 52) & 0x7FF
    return exponent - 1 if exponent > 0 else 0


@inner
def _magnitude(word: int, is_float: bool) -> int:
    """Return the magnitude of an integer, or the mantissa of a float, as a pattern of 64 bits."""
    if not is_float:
        return -word if word < 0 else word
    exponent = (word >> 52) & 0x7FF
    fraction = word & _FRACTION
    return fraction | (1 << 52) if exponent > 0 else fraction


@jit
def add_value(limbs: Ints, at: int, word: int, is_float: bool, base: int) -> None:
    """Add one value to a sum.

    Args:
        limbs: Words; ``VALUE_LIMBS`` of them change.
        at: Index of the sum's first limb, which stands for bit ``32 * base``.
        word: The value.
        is_float: Whether the word is the bits of a float.
        base: Limb of the unit at which the sum begins; no value may lie below it.
    """
    magnitude = _magnitude(word, is_float)
    position = position_of(word, is_float)
    shift = position & 31
    limb = at + (position >> 5) - base
    low = (magnitude & _MASK) << shift
    high = ((magnitude >> 32) & _MASK) << shift
    sign = -1 if word < 0 else 1
    limbs[limb] += sign * (low & _MASK)
    limbs[limb + 1] += sign * ((low >> 32) + (high & _MASK))
    limbs[limb + 2] += sign * (high >> 32)


@jit
def add_square(limbs: Ints, at: int, word: int, is_float: bool, base: int) -> None:
    """Add the square of one value to a sum of squares.

    Args:
        limbs: Words; ``SQUARE_LIMBS`` of them change.
        at: Index of the sum's first limb, which stands for bit ``64 * base``.
        word: The value.
        is_float: Whether the word is the bits of a float.
        base: Limb of the unit at which the sum of the values begins.
    """
    magnitude = _magnitude(word, is_float)
    position = 2 * position_of(word, is_float)
    shift = position & 31
    limb = at + (position >> 5) - 2 * base
    low = np.uint64(magnitude & _MASK)
    high = np.uint64((magnitude >> 32) & _MASK)
    low_low = low * low
    low_high = low * high * np.uint64(2)
    high_high = np.int64(high * high)
    second = np.int64(low_low >> _SHIFT_U) + np.int64(low_high & _MASK_U)
    third = np.int64(low_high >> _SHIFT_U) + (high_high & _MASK) + (second >> 32)
    fourth = (high_high >> 32) + (third >> 32)
    first_shifted = np.int64(low_low & _MASK_U) << shift
    second_shifted = (second & _MASK) << shift
    third_shifted = (third & _MASK) << shift
    fourth_shifted = fourth << shift
    limbs[limb] += first_shifted & _MASK
    limbs[limb + 1] += (first_shifted >> 32) + (second_shifted & _MASK)
    limbs[limb + 2] += (second_shifted >> 32) + (third_shifted & _MASK)
    limbs[limb + 3] += (third_shifted >> 32) + (fourth_shifted & _MASK)
    limbs[limb + 4] += fourth_shifted >> 32


@inner
def _carry(limbs: Ints, at: int, count: int, digits: Ints) -> bool:
    """Resolve the carries of a sum.

    Args:
        limbs: Words that hold the sum.
        at: Index of its first limb.
        count: Count of its limbs.
        digits: Receives the magnitude as ``count + 2`` digits, least significant first.

    Returns:
        Whether the number is negative.
    """
    carry = 0
    for i in range(count):
        total = limbs[at + i] + carry
        digits[i] = total & _MASK
        carry = total >> 32
    is_negative = carry < 0
    if is_negative:
        carry = 0
        for i in range(count):
            total = carry - limbs[at + i]
            digits[i] = total & _MASK
            carry = total >> 32
    digits[count] = carry & _MASK
    digits[count + 1] = carry >> 32
    return is_negative


@inner
def _top_bit(digits: Ints, count: int) -> int:
    """Return the index of the highest bit set, -1 for zero."""
    for i in range(count - 1, -1, -1):
        if digits[i] != 0:
            return 32 * i + int((np.float64(digits[i]).view(np.int64) >> 52) & 0x7FF) - 1023
    return -1


@inner
def _bits(digits: Ints, count: int, start: int) -> int:
    """Return the first ``count`` digits shifted right by ``start`` bits; the result must fit into 63 bits."""
    first = start >> 5
    shift = start & 31
    bits = digits[first] >> shift if first < count else 0
    if first + 1 < count:
        bits |= digits[first + 1] << (32 - shift)
    if first + 2 < count and shift > 0:
        bits |= digits[first + 2] << (64 - shift)
    return bits


@inner
def _any_below(digits: Ints, count: int, stop: int) -> bool:
    """Return whether any bit below ``stop`` is set."""
    whole = stop >> 5
    for i in range(min(whole, count)):
        if digits[i] != 0:
            return True
    return whole < count and digits[whole] & ((1 << (stop & 31)) - 1) != 0


@inner
def _round(digits: Ints, count: int, unit: int, has_rest: bool) -> float:
    """Return ``digits * 2**unit`` rounded once, half to even; infinite if it is too large for float64.

    Args:
        digits: The number, least significant digit first.
        count: Count of its digits.
        unit: Power of two that the lowest bit stands for.
        has_rest: Whether the true number lies above the digits, by less than one unit.
    """
    top = _top_bit(digits, count)
    if top < 0:
        return 0.0
    cut = max(top - 52, _FLOAT_UNIT - unit)
    if cut <= 0:
        return math.ldexp(float(_bits(digits, count, 0)), unit)
    mantissa = _bits(digits, count, cut) if top >= cut else 0
    half = (digits[(cut - 1) >> 5] >> ((cut - 1) & 31)) & 1 if (cut - 1) >> 5 < count else 0
    if half == 1 and (mantissa & 1 == 1 or has_rest or _any_below(digits, count, cut - 1)):
        mantissa += 1
    return math.ldexp(float(mantissa), unit + cut)


@inner
def _unit(is_float: bool, base: int) -> int:
    """Return the power of two that the lowest bit of a sum's first limb stands for."""
    return 32 * base + _FLOAT_UNIT if is_float else 0


@jit
def round_sum(limbs: Ints, at: int, count: int, is_float: bool, base: int, digits: Ints) -> float:
    """Return the float64 nearest to a sum, half to even; ``inf`` with its sign if it is too large.

    Args:
        limbs: Words that hold the exact sum.
        at: Index of its first limb.
        count: Count of its limbs.
        is_float: Whether the values are floats (unit 2**-1074) or integers.
        base: Limb of the unit at which the limbs begin.
        digits: Scratch of at least ``count + 2`` words.
    """
    is_negative = _carry(limbs, at, count, digits)
    magnitude = _round(digits, count + 2, _unit(is_float, base), False)
    return -magnitude if is_negative and magnitude != 0.0 else magnitude


@jit
def round_mean(limbs: Ints, at: int, count: int, is_float: bool, base: int, rows: int, digits: Ints) -> float:
    """Return the float64 nearest to a sum of limbs divided by a count of rows, half to even.

    The 63 highest bits of the sum are divided, and as many of the following ones as it takes to have a quotient that
    rounds right; of the rest it only matters whether there is any.

    Args:
        limbs: The exact sum.
        at: Index of its first limb.
        count: Count of its limbs.
        is_float: Whether the values are floats (unit 2**-1074) or integers.
        base: Limb of the unit at which the limbs begin.
        rows: The divisor, 1 to 2**31 - 1.
        digits: Scratch of at least ``count + 2`` words.

    Returns:
        The mean, finite even where the sum is too large for a float64.
    """
    is_negative = _carry(limbs, at, count, digits)
    length = count + 2
    top = _top_bit(digits, length)
    if top < 0:
        return 0.0
    start = top - _QUOTIENT_BITS
    divisor = np.uint64(rows)
    whole = np.uint64(_bits(digits, length, start) if start >= 0 else _bits(digits, length, 0) << -start)
    quotient = whole // divisor
    rest = whole - quotient * divisor
    if quotient < np.uint64(_ROUNDABLE):
        more = 0
        while quotient < np.uint64(_ROUNDABLE >> more):
            more += 1
        following = 0
        if start > 0:
            lower = max(start - more, 0)
            following = (_bits(digits, length, lower) & ((1 << (start - lower)) - 1)) << (more - (start - lower))
        dividend = (rest << np.uint64(more)) | np.uint64(following)
        part = dividend // divisor
        rest = dividend - part * divisor
        quotient = (quotient << np.uint64(more)) | part
        start -= more
    is_inexact = rest != np.uint64(0) or (start > 0 and _any_below(digits, length, start))
    digits[0] = np.int64(quotient & _MASK_U)
    digits[1] = np.int64(quotient >> _SHIFT_U)
    magnitude = _round(digits, 2, _unit(is_float, base) + start, is_inexact)
    return -magnitude if is_negative and magnitude != 0.0 else magnitude


@jit
def round_between(lower: int, upper: int, share: float, is_float: bool) -> float:
    """Return the float64 nearest to a number between two others, half to even.

    Args:
        lower: Word of the smaller number.
        upper: Word of the larger one.
        share: How far the result lies from the smaller towards the larger one, 0 to below 1.
        is_float: Whether the words are floats or integers.

    Returns:
        ``lower + (upper - lower) * share`` as of unlimited precision, rounded once. So it is never outside the two, and
        between equal numbers it is that number.
    """
    low = np.int64(lower).view(np.float64) if is_float else float(lower)
    if lower == upper or share == 0.0:
        return low
    if is_float and share == 0.5:
        total = low + np.int64(upper).view(np.float64)
        # A sum that is not normal is exact; halving one that is loses nothing. A sum that is too large has large terms.
        return total * 0.5 if np.isfinite(total) else low * 0.5 + np.int64(upper).view(np.float64) * 0.5
    high = np.int64(upper).view(np.float64) if is_float else float(upper)
    quick = _nearly_weighted(low, high, share)
    if np.isfinite(quick) and (is_float or (abs(lower) <= 1 << 53 and abs(upper) <= 1 << 53)):
        return quick
    return _weighted(lower, upper, share, is_float)


@inner
def _nearly_weighted(low: float, high: float, share: float) -> float:
    """Return ``low * (1 - share) + high * share`` rounded once where two floats hold it well enough, else NaN.

    Source:
        Dekker 1971, for products and sums of two floats without loss. Ziv 1991, for rounding an approximation if all
        numbers within its error round alike.
    """
    other = 1.0 - share
    if 1.0 - other != share or not _is_splittable(low) or not _is_splittable(high) or share < _SMALLEST_SPLIT:
        return np.nan
    left, left_rest = _product(low, other)
    right, right_rest = _product(high, share)
    total = left + right
    shifted = total - left
    total_rest = (left - (total - shifted)) + (right - shifted)
    rest = total_rest + (left_rest + right_rest)
    error = (abs(total_rest) + abs(left_rest) + abs(right_rest)) * _SPLIT_ERROR
    rounded = total + (rest - error)
    return rounded if rounded == total + (rest + error) else np.nan


@inner
def _is_splittable(value: float) -> bool:
    return value == 0.0 or _SMALLEST_SPLIT < abs(value) < _LARGEST_SPLIT


@inner
def _product(left: float, right: float) -> tuple[float, float]:
    """Return a product of two floats as the float nearest to it, and what is left."""
    product = left * right
    left_high = left * _SPLIT - (left * _SPLIT - left)
    right_high = right * _SPLIT - (right * _SPLIT - right)
    left_low, right_low = left - left_high, right - right_high
    rest = left_low * right_low - (((product - left_high * right_high) - left_low * right_high) - left_high * right_low)
    return product, rest


@inner
def _weighted(lower: int, upper: int, share: float, is_float: bool) -> float:
    """Return ``(lower * (2**bits - part) + upper * part) / 2**bits`` rounded once, where ``share = part / 2**bits``."""
    word: Any = np.float64(share).view(np.int64)
    part = _magnitude(word, True)
    bits = -(position_of(word, True) + _FLOAT_UNIT)
    while part & 1 == 0:
        part >>= 1
        bits -= 1
    first, second = position_of(lower, is_float), position_of(upper, is_float)
    base = min(first, second)
    # Words of 32 bits: the products, and shifted by ``bits`` the smaller number as a whole.
    count = ((max(first, second) - base + bits + 64) >> 5) + 4
    limbs = np.zeros(count, dtype=np.int64)
    digits = np.empty(count + 2, dtype=np.int64)
    sign = -1 if lower < 0 else 1
    _add_shifted(limbs, _magnitude(lower, is_float), first - base + bits, sign)
    _add_product(limbs, _magnitude(lower, is_float), part, first - base, -sign)
    _add_product(limbs, _magnitude(upper, is_float), part, second - base, -1 if upper < 0 else 1)
    is_negative = _carry(limbs, 0, count, digits)
    magnitude = _round(digits, count + 2, base + (_FLOAT_UNIT if is_float else 0) - bits, False)
    return -magnitude if is_negative and magnitude != 0.0 else magnitude


@inner
def _add_shifted(limbs: Ints, magnitude: int, shift: int, sign: int) -> None:
    """Add ``sign * magnitude * 2**shift`` to limbs; the magnitude is an int64 read as a pattern of 64 bits."""
    limb = shift >> 5
    low = (magnitude & _MASK) << (shift & 31)
    high = ((magnitude >> 32) & _MASK) << (shift & 31)
    limbs[limb] += sign * (low & _MASK)
    limbs[limb + 1] += sign * ((low >> 32) + (high & _MASK))
    limbs[limb + 2] += sign * (high >> 32)


@inner
def _add_product(limbs: Ints, magnitude: int, factor: int, shift: int, sign: int) -> None:
    """Add ``sign * magnitude * factor * 2**shift`` to limbs; the factor is below 2**53."""
    low, high = factor & _MASK, factor >> 32
    for i in range(2):
        digit = np.uint64((magnitude >> (32 * i)) & _MASK)
        below: Any = np.int64(digit * np.uint64(low))
        above: Any = np.int64(digit * np.uint64(high))
        _add_shifted(limbs, below, shift + 32 * i, sign)
        _add_shifted(limbs, above, shift + 32 * i + 32, sign)


@jit
def whole_sum(limbs: Ints, at: int) -> Any:
    """Return an integer sum of three limbs as ``(low word, high word)`` of a signed 128-bit number.

    It fits into an int64 exactly if the high word is the sign of the low one.

    Args:
        limbs: Words that hold the sum.
        at: Index of its first limb.
    """
    carry = limbs[at] >> 32
    low = limbs[at] & _MASK
    middle = limbs[at + 1] + carry
    high = limbs[at + 2] + (middle >> 32)
    return ((middle & _MASK) << 32) | low, high


@inner
def _deviation(limbs: Ints, at: int, value_limbs: int, square_limbs: int, rows: int, out: Ints, digits: Ints) -> int:
    """Write the digits of ``rows * sum(x**2) - sum(x)**2``, both sums exact.

    Args:
        limbs: Words that hold both sums, that of the squares behind that of the values.
        at: Index of the first limb.
        value_limbs: Count of limbs of the sum.
        square_limbs: Count of limbs of the sum of squares.
        rows: Count of values, below 2**31.
        out: Receives the digits.
        digits: Scratch.

    Returns:
        Count of digits.
    """
    _carry(limbs, at, value_limbs, digits)
    terms = value_limbs + 2
    count = max(2 * terms, square_limbs + 3)
    product = np.zeros(count, dtype=np.uint64)
    for i in range(terms):
        carry = np.uint64(0)
        for j in range(terms):
            total = np.uint64(digits[i]) * np.uint64(digits[j]) + product[i + j] + carry
            product[i + j] = total & _MASK_U
            carry = total >> _SHIFT_U
        if i + terms < count:
            product[i + terms] = carry
    _carry(limbs, at + value_limbs, square_limbs, digits)
    carry_in = np.uint64(0)
    borrow = 0
    for i in range(count):
        digit = np.uint64(digits[i]) if i < square_limbs + 2 else np.uint64(0)
        scaled = digit * np.uint64(rows) + carry_in
        carry_in = scaled >> _SHIFT_U
        difference = int(np.int64(scaled & _MASK_U)) - int(np.int64(product[i])) + borrow
        out[i] = difference & _MASK
        borrow = difference >> 32
    return count


@inner
def _divide(digits: Ints, count: int, divisor: int) -> bool:
    """Divide the first ``count`` digits in place by a number below 2**31; return whether there is a remainder."""
    rest = 0
    for i in range(count - 1, -1, -1):
        current = (rest << 32) | digits[i]
        digits[i] = current // divisor
        rest = current % divisor
    return rest != 0


@inner
def _round_root(digits: Ints, count: int, unit: int, has_rest: bool) -> float:
    """Return the square root of ``digits * 2**unit`` rounded once.

    The digits are cut to an even power of two with 115 or 116 bits before it; the integer root of these has 58, more
    than the 54 that rounding needs, and all bits cut off or left over only show that the root is not exact.

    Args:
        digits: The number, least significant digit first.
        count: Count of its digits.
        unit: Power of two that the lowest bit stands for.
        has_rest: Whether the true number lies above the digits, by less than one unit.

    Source:
        The digit-by-digit method for integer square roots.
    """
    top = _top_bit(digits, count)
    if top < 0:
        return 0.0
    cut = top + 1 - _ROOT_BITS
    if (unit + cut) % 2 != 0:
        cut += 1
    is_inexact = has_rest or (cut > 0 and _any_below(digits, count, cut))
    root = 0
    rest = 0
    for pair in range(_ROOT_BITS // 2 - 1, -1, -1):
        for bit in (2 * pair + 1, 2 * pair):
            index = cut + bit
            is_set = index >= 0 and (index >> 5) < count and (digits[index >> 5] >> (index & 31)) & 1 == 1
            rest = (rest << 1) | (1 if is_set else 0)
        trial = (root << 2) | 1
        root <<= 1
        if rest >= trial:
            rest -= trial
            root |= 1
    root_digits = np.empty(2, dtype=np.int64)
    root_digits[0] = root & _MASK
    root_digits[1] = root >> 32
    return _round(root_digits, 2, (unit + cut) // 2, is_inexact or rest != 0)


@jit
def round_variance(
    limbs: Ints,
    at: int,
    value_limbs: int,
    square_limbs: int,
    is_float: bool,
    base: int,
    rows: int,
    ddof: int,
    is_root: bool,
    digits: Ints,
) -> float:
    """Return variance or standard deviation, from exact sums of values and squares, rounded once.

    The variance is ``(rows * sum(x**2) - sum(x)**2) / (rows * (rows - ddof))``.

    Args:
        limbs: Sum of values in ``value_limbs`` limbs, then sum of squares in ``square_limbs`` limbs.
        at: Index of the first of them.
        value_limbs: Count of limbs of the sum.
        square_limbs: Count of limbs of the sum of squares.
        is_float: Whether the values are floats (unit 2**-1074) or integers.
        base: Limb of the unit at which the values' limbs begin.
        rows: Count of values, more than ``ddof``.
        ddof: Delta degrees of freedom.
        is_root: Whether to return the standard deviation.
        digits: Scratch of at least ``square_limbs + value_limbs + 4`` words.

    Returns:
        The float64 nearest to the exact value; ``inf`` if it is too large.
    """
    guard = 6
    quotient = np.zeros(2 * (value_limbs + 2) + square_limbs + 3 + guard, dtype=np.int64)
    count = guard + _deviation(limbs, at, value_limbs, square_limbs, rows, quotient[guard:], digits)
    has_rest = _divide(quotient, count, rows)
    has_rest = _divide(quotient, count, rows - ddof) or has_rest
    unit = 2 * _unit(is_float, base) - 32 * guard
    if is_root:
        return _round_root(quotient, count, unit, has_rest)
    return _round(quotient, count, unit, has_rest)
