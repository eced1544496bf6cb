"""Fisher's exact test: how likely chance divides the rows of a kind between two samples as unevenly.

The formulas for many rows are wrong for rare kinds: fifteen rows where five are expected occur two hundred times as
often as the normal distribution says, and reports on many features look at such cases.

``scipy.stats.hypergeom`` gives the same probabilities, but takes a hundred times as long for them, and is less exact
for millions of rows (1e-9 instead of 1e-12): a table of all p-values is computed here once, and looked up many times.
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
class FisherTable:
    """P-values of all counts that the rows of a kind may have in one of two samples.

    Attributes:
        together: Rows of the kind in both samples.
        rows: Rows of this sample.
        other_rows: Rows of the other one.
        fewest: Count of the first p-value; counts below it and above the last one have a probability of zero.
        p_values: Per count of the kind in this sample, the probability of a count that is at most as likely.
        middle_p_values: Per count, twice the probability of the counts beyond it on its side and of half of itself.
            Their mean under chance is one half on either side, so sums of many of them are right.
    """

    together: int
    rows: int
    other_rows: int
    fewest: int
    p_values: Floats
    middle_p_values: Floats

    def tail(self, difference: float) -> float:
        """Return the p-value of the count nearest to a difference of shares.

        Args:
            difference: This sample's share minus the other's.
        """
        return self._at(self.p_values, difference)

    def middle_tail(self, difference: float) -> float:
        """Return the middle p-value of the count nearest to a difference of shares."""
        return self._at(self.middle_p_values, difference)

    def _at(self, p_values: Floats, difference: float) -> float:
        each = 1.0 / self.rows + 1.0 / self.other_rows
        place = round((difference + self.together / self.other_rows) / each) - self.fewest
        return float(p_values[place]) if 0 <= place < len(p_values) else 0.0


@lru_cache(maxsize=1024)
def fisher_table(*, together: int, rows: int, other_rows: int) -> FisherTable:
    """Return the p-values under chance: all ways to divide all rows into the two samples are equally likely.

    Args:
        together: Rows of the kind.
        rows: Rows of this sample, at least one.
        other_rows: Rows of the other sample, at least one.

    Source:
        Fisher 1922; the sum over counts that are at most as likely is the usual two-sided form. Lancaster 1961 for the
        middle p-value. The ratios of successive probabilities of the hypergeometric distribution are simple.
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
    # Equally likely counts on both sides differ by rounding.
    upto = np.searchsorted(ordered, chances * _SAME, side="right") - 1
    p_values = np.minimum(1.0, np.cumsum(ordered)[upto])
    fewer, more = np.cumsum(chances), np.cumsum(chances[::-1])[::-1]
    return FisherTable(
        together, rows, other_rows, low, p_values, np.minimum(1.0, 2.0 * np.minimum(fewer, more) - chances)
    )
