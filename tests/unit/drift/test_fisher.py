"""Fisher's exact test equals scipy's, for any counts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from featurestore.guard.drift.fisher import fisher_table


@st.composite
def tables(draw):
    rows, other_rows = (draw(st.integers(1, 3000)) for _ in range(2))
    together = draw(st.integers(0, min(rows + other_rows, 400)))
    inside = draw(st.integers(max(0, together - other_rows), min(together, rows)))
    return inside, together, rows, other_rows


@given(tables())
def test_p_values_equal_scipys(table):
    inside, together, rows, other_rows = table
    found = fisher_table(together=together, rows=rows, other_rows=other_rows)
    difference = inside / rows - (together - inside) / other_rows
    exact = stats.fisher_exact([[inside, rows - inside], [together - inside, other_rows - together + inside]]).pvalue
    assert found.tail(difference) == pytest.approx(exact, rel=1e-6, abs=1e-30)
    law = stats.hypergeom(rows + other_rows, together, rows)
    sides = law.cdf(inside), law.sf(inside - 1)
    middle = min(1.0, 2.0 * min(sides) - law.pmf(inside))
    assert found.middle_tail(difference) == pytest.approx(middle, rel=1e-6, abs=1e-12)


def test_a_difference_between_two_counts_is_that_of_the_nearest():
    found = fisher_table(together=4, rows=100, other_rows=100)
    assert found.tail(0.019) == found.tail(0.02) == found.tail(0.021) > found.tail(0.04)


def test_what_cannot_be_has_no_probability():
    found = fisher_table(together=4, rows=100, other_rows=100)
    assert (found.tail(0.5), found.tail(-0.5)) == (0.0, 0.0)
    assert fisher_table(together=0, rows=3, other_rows=5).tail(0.0) == 1.0


def test_many_rows_need_few_numbers():
    found = fisher_table(together=2_000, rows=10_000_000, other_rows=10_000_000)
    assert len(found.p_values) < 2_100
    assert np.all(np.diff(found.p_values[:900]) >= 0)
