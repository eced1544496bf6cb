"""How sure a share is that was found in a sample. Pure."""

from __future__ import annotations

import math

_Z = 1.959963984540054
"""The normal quantile of 97.5 %: two sides of 95 %."""


def wilson(count: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share.

    Args:
        count: How many of the sample have the property.
        total: Size of the sample.

    Returns:
        Lower and upper bound, between 0 and 1; ``(0.0, 1.0)`` for an empty sample.

    Source:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    Example:
        >>> [round(bound, 4) for bound in wilson(0, 100)]
        [0.0, 0.037]
    """
    if total == 0:
        return 0.0, 1.0
    share = count / total
    spread = _Z * math.sqrt(share * (1 - share) / total + _Z * _Z / (4 * total * total))
    middle = share + _Z * _Z / (2 * total)
    scale = 1 + _Z * _Z / total
    low = 0.0 if count == 0 else (middle - spread) / scale
    high = 1.0 if count == total else (middle + spread) / scale
    return max(0.0, low), min(1.0, high)
