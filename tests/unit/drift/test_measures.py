"""Distances and p-values equal scipy's, and p-values keep their promise on samples of one distribution."""

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance

from featurestore.guard.drift.measures import (
    beyond_range,
    chi_square,
    jensen_shannon,
    kolmogorov_smirnov,
    largest_share_difference,
    only_one_sample,
    psi,
    share_difference,
    wasserstein,
)
from tests.unit.drift.samples import SHAPES, exactly, in_cells

BINS = np.array([120, 300, 80, 0, 500]), np.array([60, 210, 0, 15, 325])
SPARSE = np.array([120, 300, 80, 0, 500]), np.array([60, 210, 0, 5, 325])


@pytest.fixture
def random():
    return np.random.default_rng(20260102)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sizes", [(1, 1), (7, 5), (400, 900)])
def test_numbers_counted_one_by_one_equal_scipy(shape, sizes, random):
    left, right = (SHAPES[shape](random, size) for size in sizes)
    pair = exactly(left, right)
    found = kolmogorov_smirnov(*pair)
    assert (found.value, found.error) == (pytest.approx(stats.ks_2samp(left, right).statistic), 0.0)
    moved = wasserstein(*pair)
    expected = stats.wasserstein_distance(left, right) / max(left.std(), 0.001)
    assert (moved.value, moved.error) == (pytest.approx(expected, rel=1e-7), 0.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_numbers_counted_in_cells_lie_within_their_error(shape, random):
    left, right = SHAPES[shape](random, 40_000), SHAPES[shape](random, 30_000) * 1.02
    pair = in_cells(left, right)
    for found, expected in [
        (kolmogorov_smirnov(*pair), stats.ks_2samp(left, right).statistic),
        (wasserstein(*pair), stats.wasserstein_distance(left, right) / left.std()),
    ]:
        assert found.value - 1e-9 <= expected <= found.value + found.error + 1e-9
    assert kolmogorov_smirnov(*pair).error < 0.005


@pytest.mark.parametrize("shift", [-20.0, 20.0])
def test_numbers_far_outside_the_cells_keep_their_distance(shift, random):
    left, right = random.normal(size=5_000), random.normal(shift, 3.0, size=4_000)
    found = wasserstein(*in_cells(left, right))
    assert found.value == pytest.approx(stats.wasserstein_distance(left, right) / left.std(), rel=1e-9)
    apart = kolmogorov_smirnov(*in_cells(left, right))
    assert apart.value <= 1.0 <= apart.value + apart.error + 1e-12
    assert apart.error < 0.005


def test_the_kolmogorov_smirnov_test_is_near_the_exact_one(random):
    left, right = random.normal(size=60), random.normal(0.4, 1.0, size=80)
    exact = stats.ks_2samp(left, right, method="exact").pvalue
    assert kolmogorov_smirnov(*exactly(left, right)).p_value == pytest.approx(exact, rel=0.2)


def test_bins_equal_scipy():
    left, right = (counts / counts.sum() for counts in BINS)
    assert jensen_shannon(*BINS).value == pytest.approx(distance.jensenshannon(left, right))
    expected = stats.chi2_contingency(np.stack(BINS), correction=False)
    found = chi_square(*BINS)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.value == pytest.approx(stats.contingency.association(np.stack(BINS), method="cramer"))
    assert largest_share_difference(*BINS).value == distance.chebyshev(left, right)


def test_two_rare_categories_are_told_apart_by_fishers_test():
    rare = np.array([4995, 5]), np.array([56, 4])
    exact = stats.fisher_exact(np.stack(rare)).pvalue
    for measure in (psi, jensen_shannon, chi_square):
        assert measure(*rare).p_value == pytest.approx(exact, rel=1e-9)
    assert chi_square(*rare).p_value > 1e3 * stats.chi2_contingency(np.stack(rare), correction=False).pvalue


def test_many_rows_of_any_categories_are_told_apart_by_pearsons_test():
    many = np.array([40_000, 30_000, 30_000]), np.array([20_000, 15_300, 14_700])
    expected = stats.chi2_contingency(np.stack(many), correction=False).pvalue
    for measure in (psi, jensen_shannon, chi_square):
        assert measure(*many).p_value == pytest.approx(expected, rel=1e-9)


def test_distances_by_chance_are_named_only_where_rows_are_many():
    assert psi(*SPARSE).limit(0.01) is None
    assert jensen_shannon(*SPARSE).limit(0.01) is None
    many = [200 * counts for counts in BINS]
    chance = (1 / many[0].sum() + 1 / many[1].sum()) * stats.chi2.isf(0.01, 4)
    assert psi(*many).limit(0.01) == pytest.approx(chance)
    assert jensen_shannon(*many).limit(0.01) == pytest.approx(np.sqrt(chance / 8))


def test_the_stability_index_by_its_definition():
    left, right = (np.where(counts == 0, 1e-4, counts / counts.sum()) for counts in BINS)
    assert psi(*BINS).value == pytest.approx(np.sum((right - left) * np.log(right / left)))
    full = np.array([120, 300]), np.array([60, 210])
    left, right = (counts / counts.sum() for counts in full)
    assert psi(*full).value == pytest.approx(stats.entropy(left, right) + stats.entropy(right, left))


def test_a_share_of_zero_is_less_than_the_smallest_other():
    rare = np.array([1, 99_999, 0]), np.array([1, 99_999, 50])
    assert psi(*rare).value == pytest.approx(50 / 100_050 * np.log(50 / 100_050 / 1e-11), rel=0.01)


@pytest.mark.parametrize(
    ("nulls", "rows"), [((30, 70), (1000, 1500)), ((0, 3), (200, 60)), ((5, 0), (60, 5000)), ((2, 5), (5, 5))]
)
def test_few_nulls_equal_fishers_test(nulls, rows):
    found = share_difference(reference=nulls[0], reference_rows=rows[0], current=nulls[1], current_rows=rows[1])
    assert found.value == pytest.approx(nulls[1] / rows[1] - nulls[0] / rows[0])
    table = [[count, size - count] for count, size in zip(nulls, rows, strict=True)]
    assert found.p_value == pytest.approx(stats.fisher_exact(table).pvalue, rel=1e-9)


def test_many_nulls_equal_the_two_proportion_test():
    found = share_difference(reference=3000, reference_rows=10_000, current=4600, current_rows=15_000)
    table = np.array([[3000, 7000], [4600, 10_400]])
    assert found.p_value == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue)
    assert share_difference(reference=0, reference_rows=5, current=0, current_rows=5).p_value == 1.0


def test_the_exact_and_the_large_sample_test_meet():
    rows = {"reference_rows": 40_000, "current_rows": 40_000}
    few, many = (share_difference(reference=size, current=size + 150, **rows) for size in (900, 1000))
    assert few.p_value == pytest.approx(stats.fisher_exact([[900, 39_100], [1050, 38_950]]).pvalue, rel=1e-9)
    exact = stats.fisher_exact([[1000, 39_000], [1150, 38_850]]).pvalue
    assert many.p_value == pytest.approx(exact, rel=0.1)


def test_rows_that_are_worth_less_change_p_values_and_no_distance():
    """Forty rows about each entity are as good as one."""
    whole = {"reference": 30, "reference_rows": 1000, "current": 12, "current_rows": 80}
    often = whole | {"current": 12 * 40, "current_rows": 80 * 40}
    assert share_difference(**often, worth=(1.0, 1 / 40)).p_value == share_difference(**whole).p_value
    assert share_difference(**often).p_value < share_difference(**whole).p_value
    many = BINS[0], 40 * BINS[1]
    for measure in (psi, jensen_shannon, largest_share_difference):
        once, repeated = measure(*BINS), measure(*many, (1.0, 1 / 40))
        assert (repeated.value, repeated.p_value) == pytest.approx((once.value, once.p_value)), measure
    left, right = np.arange(200.0), np.arange(60.0, 140.0)
    once, repeated = exactly(left, right), exactly(left, np.repeat(right, 40))
    for measure in (kolmogorov_smirnov, wasserstein):
        assert measure(*repeated, (1.0, 1 / 40)).p_value == pytest.approx(measure(*once).p_value, rel=1e-6)
    sides = {"inside": np.array([40, 0, 7]), "outside": np.array([60, 3, 0])}
    fewer = only_one_sample(**(sides | {"inside": 40 * sides["inside"]}), worth=(1 / 40, 1.0))
    assert fewer == only_one_sample(**sides)
    once = beyond_range(below=0, above=4, rows=50, reference_rows=100)
    assert beyond_range(below=0, above=160, rows=2000, reference_rows=100, worth=(1.0, 1 / 40)) == once


def test_the_range_test_is_the_hypergeometric_chance():
    found = beyond_range(below=0, above=4, rows=50, reference_rows=100)
    assert found.value == 4 / 50
    assert found.p_value == pytest.approx(2 * stats.hypergeom.pmf(4, 150, 50, 4))
    assert beyond_range(below=0, above=0, rows=50, reference_rows=100).p_value == 1.0
    assert beyond_range(below=60, above=0, rows=60, reference_rows=40).p_value < 1e-9


def test_one_frequent_new_category_means_much_and_many_rare_ones_nothing():
    frequent = only_one_sample(inside=np.array([40, 953, 7]), outside=np.array([0, 1000, 0]))
    assert frequent.p_value < 1e-3
    assert frequent.value == 47 / 1000
    rare = only_one_sample(inside=np.array([1, 0] * 500), outside=np.array([0, 1] * 500))
    assert rare.p_value == pytest.approx(1.0)
    assert only_one_sample(inside=np.array([60, 140]), outside=np.array([40, 110])).value == 0.0


ROUNDS = 400


@pytest.mark.parametrize("sizes", [(300, 200), (4000, 1500)])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("measure", [kolmogorov_smirnov, wasserstein])
def test_p_values_of_numbers_keep_their_promise(measure, shape, sizes, random):
    """On samples of one distribution p < 0.05 happens about once in twenty times, and p < 0.005 hardly ever."""
    found = []
    for _ in range(ROUNDS):
        left, right = (SHAPES[shape](random, size) for size in sizes)
        found.append(measure(*in_cells(left, right)).p_value)
    found = np.array(found)
    assert (found < 0.05).mean() < 0.085
    assert (found < 0.005).mean() < 0.02
    if measure is wasserstein:
        assert (found < 0.05).mean() > 0.015


@pytest.mark.parametrize("measure", [psi, jensen_shannon, chi_square, largest_share_difference])
def test_p_values_of_bins_keep_their_promise(measure, random):
    shares = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
    found = np.array(
        [measure(random.multinomial(3000, shares), random.multinomial(2000, shares)).p_value for _ in range(ROUNDS)]
    )
    assert 0.015 < (found < 0.05).mean() < 0.085


def test_p_values_of_new_categories_keep_their_promise(random):
    weights = 1.0 / np.arange(1, 3001) ** 1.2
    weights /= weights.sum()
    found = []
    for _ in range(200):
        left, right = (random.multinomial(size, weights) for size in (2000, 1500))
        found.append(only_one_sample(inside=right, outside=left).p_value)
    assert (np.array(found) < 0.05).mean() <= 0.05


def test_p_values_of_the_range_keep_their_promise(random):
    found = []
    for _ in range(ROUNDS):
        left, right = random.normal(size=300), random.normal(size=200)
        below, above = int((right < left.min()).sum()), int((right > left.max()).sum())
        found.append(beyond_range(below=below, above=above, rows=200, reference_rows=300).p_value)
    assert (np.array(found) < 0.05).mean() < 0.085
