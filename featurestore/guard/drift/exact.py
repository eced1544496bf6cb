"""Fisher's exact test: how likely chance parts the rows of a kind between two samples as unevenly. Pure functions.

The formulas for many rows are wrong for rare kinds: of five rows to be expected fifteen come two hundred times as often
as a normal variable says, and a report on many features looks just there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from featurestore.core.columns import Floats

_REACH = 40.0
_SAME = 1.0 + 1e-7


@dataclass(frozen=True)
class Parting:
    """The ways in which rows of a kind may fall into a sample.

    Attributes:
        together: Rows of the kind in both samples.
        rows: Rows of this sample.
        other_rows: Rows of the other one.
        fewest: Count that the first p-value belongs to; fewer have a probability of zero, as have more than the last.
        p_values: Per count of the kind in this sample, the probability of a count that is at most as likely.
        middle_p_values: Per count, twice the probability of the counts beyond it on its side and of half of itself: by
            chance one half on average on either side, so that what is made of many of them is right.
    """

    together: int
    rows: int
    other_rows: int
    fewest: int
    p_values: Floats
    middle_p_values: Floats

    def tail(self, difference: float) -> float:
        """Return the p-value of the count that comes nearest to a difference of shares.

        Args:
            difference: This sample's share minus the other's.
        """
        return self._at(self.p_values, difference)

    def middle_tail(self, difference: float) -> float:
        """Return the middle p-value of the count that comes nearest to a difference of shares."""
        return self._at(self.middle_p_values, difference)

    def _at(self, p_values: Floats, difference: float) -> float:
        each = 1.0 / self.rows + 1.0 / self.other_rows
        place = round((difference + self.together / self.other_rows) / each) - self.fewest
        return float(p_values[place]) if 0 <= place < len(p_values) else 0.0


@lru_cache(maxsize=1024)
def parting(*, together: int, rows: int, other_rows: int) -> Parting:
    """Return how chance parts rows of a kind: every way to part all rows into the two samples is as likely.

    Args:
        together: Rows of the kind.
        rows: Rows of the sample whose count is asked about, at least one.
        other_rows: Rows of the other one, at least one.

    Source:
        Fisher 1922; the sum over counts that are at most as likely is the usual two-sided form. Lancaster 1961 for the
        middle p-value. From count to count the probabilities of the hypergeometric distribution have simple ratios.
    """
    share = together / (rows + other_rows)
    middle, spread = share * rows, math.sqrt(share * (1.0 - share) * rows)
    reach = _REACH * (1.0 + spread)
    low = max(0, together - other_rows, math.floor(middle - reach))
    high = min(together, rows, math.ceil(middle + reach))
    counts = np.arange(low, high, dtype=np.float64)
    ratios = (together - counts) * (rows - counts) / ((counts + 1.0) * (other_rows - together + counts + 1.0))
    logs = np.concatenate([[0.0], np.cumsum(np.log(ratios))])
    chances = np.exp(logs - logs.max())
    chances /= chances.sum()
    ordered = np.sort(chances)
    # Counts on either side that are as likely differ by rounding.
    upto = np.searchsorted(ordered, chances * _SAME, side="right") - 1
    p_values = np.minimum(1.0, np.cumsum(ordered)[upto])
    fewer, more = np.cumsum(chances), np.cumsum(chances[::-1])[::-1]
    return Parting(together, rows, other_rows, low, p_values, np.minimum(1.0, 2.0 * np.minimum(fewer, more) - chances))
