"""Reports on samples of one distribution alarm as seldom as is claimed; a category that moves is found at all sizes."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from featurestore.guard.drift.assess import assess
from featurestore.guard.drift.counts import CategoryCounts
from featurestore.guard.drift.distribution import Distribution
from featurestore.guard.drift.policy import LEAST_EFFECTS, DriftPolicy
from featurestore.guard.drift.report import DriftReport
from tests.unit.drift.samples import exactly
from tests.unit.drift.test_collect import drift

CLAIMED = 0.05
REPORTS = 160
FEATURES = 8
MOST = CLAIMED + 3 * np.sqrt(CLAIMED * (1 - CLAIMED) / REPORTS)

ANY_EFFECT = dict.fromkeys([*LEAST_EFFECTS, "psi", "l_infinity"], 0.0)
"""Everything that can be judged, and no distance too small: chance alone is what keeps a report quiet."""

SIZES = [(1000, 60), (60, 1000), (20_000, 200)]


def judged(pairs, policy):
    features = [
        assess(f"f{i}", "string", reference=left, current=right, significance=0.01)
        for i, (left, right) in enumerate(pairs)
    ]
    empty = DriftReport("s", "r", "", "", "", 1000, 1000, tuple(features), {})
    return policy.judge(empty)


def share_of_alarms(draw, seed, *, effects=ANY_EFFECT):
    """Return the share of reports that call any of their features drift."""
    random = np.random.default_rng(seed)
    policy = DriftPolicy(significance=CLAIMED, least_effects=effects)
    found = [bool(judged([draw(random) for _ in range(FEATURES)], policy).drifted) for _ in range(REPORTS)]
    return np.mean(found)


def categories(counts, nulls=0):
    named = Counter({str(i): int(count) for i, count in enumerate(counts) if count})
    return Distribution(int(np.sum(counts)) + nulls, nulls, CategoryCounts(named), np.zeros(0))


@pytest.mark.parametrize("sizes", SIZES)
def test_rare_nulls_are_no_alarm(sizes):
    def draw(random):
        nulls = [int(random.binomial(size, 0.003)) for size in sizes]
        return [categories([size - count], count) for size, count in zip(sizes, nulls, strict=True)]

    assert share_of_alarms(draw, 1) <= MOST


@pytest.mark.parametrize("shares", [(0.997, 0.003), (0.5, 0.3, 0.19, 0.005, 0.005), tuple([0.02] * 50)])
@pytest.mark.parametrize("sizes", SIZES)
def test_rare_categories_are_no_alarm(sizes, shares):
    def draw(random):
        return [categories(random.multinomial(size, shares)) for size in sizes]

    assert share_of_alarms(draw, 2) <= MOST


@pytest.mark.parametrize("sizes", [(1000, 60), (60, 1000), (60, 60)])
def test_small_samples_of_numbers_are_no_alarm(sizes):
    def draw(random):
        values = [random.normal(size=size) for size in sizes]
        bins = np.sort(values[0])[:: max(1, sizes[0] // 20)]
        sides = zip(exactly(*values), sizes, strict=True)
        return [Distribution(size, 0, counts, bins) for counts, size in sides]

    assert share_of_alarms(draw, 3) <= MOST


@pytest.mark.parametrize(("entities", "most_rows"), [(80, 40), (300, 10)])
def test_entities_that_are_asked_about_repeatedly_are_no_alarm(entities, most_rows):
    """A few of a thousand entities, some asked about much more often than others; the population is the same."""
    random = np.random.default_rng(4)
    policy = DriftPolicy(significance=CLAIMED, least_effects=ANY_EFFECT)
    alarms = {False: 0, True: 0}
    for _ in range(REPORTS // 4):
        numbers, words = random.normal(size=1000), random.choice(list("aaaaaabcdefghijk"), size=1000)
        asked = np.repeat(random.choice(1000, entities, replace=False), random.integers(1, most_rows, size=entities))
        sides = []
        for rows in (np.arange(1000), asked):
            word = pa.array(words[rows], mask=numbers[rows] > 1.5)
            sides.append(pa.table({"number": numbers[rows], "word": word, "bucket": rows}))
        for is_known in alarms:
            known = dict.fromkeys(("number", "word"), "bucket") if is_known else None
            alarms[is_known] += bool(drift(*sides, policy=policy, entities=known).drifted)
    assert alarms[True] <= MOST * (REPORTS // 4)
    assert alarms[False] > 3 * CLAIMED * (REPORTS // 4), "rows taken for independent"


@pytest.mark.parametrize("rows", [200, 5_000])
@pytest.mark.parametrize("times", [0.1, 1, 10, 100, 1000])
def test_a_category_that_moves_is_found_at_all_ratios_of_sizes(times, rows):
    """Half the rows become a third of them; of two rare ones one doubles and a new one comes."""
    random = np.random.default_rng(5)
    sizes = int(rows * times), rows
    if min(sizes) < 200:
        sizes = max(sizes), 200
    for before, now in [((0.5, 0.5), (1 / 3, 2 / 3)), ((0.95, 0.05, 0.0), (0.8, 0.1, 0.1))]:
        pair = [categories(random.multinomial(size, shares)) for size, shares in zip(sizes, (before, now), strict=True)]
        others = [[categories(random.multinomial(size, before)) for size in sizes] for _ in range(FEATURES)]
        report = judged([pair, *others], DriftPolicy())
        assert [feature.name for feature in report.drifted] == ["f0"], (before, report.drifted)


def test_a_move_of_half_the_points_is_found_and_one_that_does_not_matter_is_not():
    def found(before, now):
        sides = [categories(np.array([share, 1 - share]) * 10_000_000) for share in (before, now)]
        return bool(judged([sides], DriftPolicy()).drifted)

    assert found(0.5, 0.4)
    assert found(0.01, 0.041)
    assert found(0.001, 0.03), "a rare flag that is thirty times as frequent"
    assert not found(0.5, 0.42)
    assert not found(0.001, 0.01)
