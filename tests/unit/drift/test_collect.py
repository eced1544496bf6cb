"""Samples read in batches: exact where small, within a stated error where large, the same for any batches."""

import io

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console
from scipy import stats
from scipy.spatial import distance

from featurestore.core.dtypes import parse_dtype
from featurestore.guard.drift.compare import Recomputed, compare_drift
from featurestore.guard.drift.counts import MOST_CATEGORIES, CategoryCounts
from featurestore.guard.drift.distribution import from_profile
from featurestore.guard.drift.policy import DriftPolicy
from featurestore.guard.drift.reference import Reference
from featurestore.offline.profile import profile_column
from featurestore.reports.drift import render_text

DTYPES = {"number": "float64", "whole": "int64", "word": "string", "flag": "bool", "tags": "list<string>"}


def table(random, rows, *, shift=0.0, words="abcd"):
    numbers = random.normal(shift, 1.0, size=rows)
    return pa.table(
        {
            "number": pa.array(numbers, mask=random.uniform(size=rows) < 0.1),
            "whole": pa.array(random.poisson(3.0, size=rows)),
            "word": pa.array(random.choice(list(words), size=rows)),
            "flag": pa.array(random.uniform(size=rows) < 0.3),
            "tags": pa.array([["t"] * int(size) for size in random.poisson(2.0, size=rows)], pa.list_(pa.string())),
        }
    )


def drift(
    reference,
    current,
    *,
    batch=10_000,
    policy=None,
    profiles=None,
    rows=True,
    threads=2,
    recomputed=None,
    by_reference=None,
    entities=None,
):
    """Compare two tables.

    ``recomputed`` is what the definition that answered has for the current rows, ``by_reference`` what the reference's
    has if it is another; ``entities`` names, by feature, the columns with buckets.
    """
    dtypes = {name: parse_dtype(DTYPES[name]) for name in reference.column_names if name in DTYPES}
    found = profiles and {name: profile_column(name, reference.column(name), dtypes[name]) for name in dtypes}
    read = (lambda: reference.to_batches(batch)) if rows else None
    known = Reference("training", dtypes, read, found, entities or {})
    again = recomputed and Recomputed(by_reference or recomputed, recomputed, current)
    return compare_drift(
        service="s",
        reference=known,
        current=lambda: current.to_batches(batch),
        current_dtypes=dtypes,
        policy=policy or DriftPolicy(),
        since="a",
        until="b",
        ran_at="c",
        threads=threads,
        current_entities=entities,
        recomputed=again and (lambda: [again]),
    )


def values(report, feature):
    found = {one.name: one for one in report.features}[feature]
    return {one.measure: one for one in found.measures}


@pytest.fixture
def random():
    return np.random.default_rng(7)


@pytest.mark.parametrize("rows", [500, 60_000])
def test_samples_of_one_distribution_do_not_drift(rows, random):
    report = drift(table(random, rows), table(random, rows))
    assert (report.verdict, report.exit_code) == ("pass", 0), report.reasons


@pytest.mark.parametrize("rows", [800, 60_000])
def test_numbers_equal_scipy_through_the_whole_road(rows, random):
    left, right = table(random, rows), table(random, rows // 2, shift=0.3)
    report = drift(left, right)
    numbers = [side.column("number").drop_null().to_numpy() for side in (left, right)]
    found = values(report, "number")
    one = found["kolmogorov_smirnov"]
    assert one.value - 1e-12 <= stats.ks_2samp(*numbers).statistic <= one.value + one.error + 1e-12
    assert one.error == 0.0 if rows == 800 else one.error < 0.01
    assert found["wasserstein"].value == pytest.approx(
        stats.wasserstein_distance(*numbers) / numbers[0].std(), rel=1e-9 if rows == 800 else 1e-4
    )
    assert report.verdict == "fail"
    assert {feature.name for feature in report.drifted} == {"number"}


def test_categories_equal_scipy_through_the_whole_road(random):
    left, right = table(random, 3000), table(random, 2000, words="abbce")
    found = values(drift(left, right), "word")
    counts = [np.array([side.column("word").to_pylist().count(word) for word in "abcde"]) for side in (left, right)]
    shares = [one / one.sum() for one in counts]
    assert found["l_infinity"].value == pytest.approx(distance.chebyshev(*shares))
    assert found["jensen_shannon"].value == pytest.approx(distance.jensenshannon(*shares))
    assert found["chi_square"].p_value == pytest.approx(stats.chi2_contingency(np.stack(counts)).pvalue, abs=1e-12)
    assert found["new_categories"].value == pytest.approx(shares[1][4])
    assert found["vanished_categories"].value == pytest.approx(shares[0][3])


def test_new_and_vanished_categories_have_names(random):
    report = drift(table(random, 3000), table(random, 2000, words="abce"))
    word = {one.name: one for one in report.features}["word"]
    assert [one.value for one in word.new_categories] == ["e"]
    assert [one.value for one in word.vanished_categories] == ["d"]
    assert word.is_drift


@pytest.mark.parametrize("rows", [900, 50_000])
def test_neither_batches_nor_threads_change_a_number(rows, random):
    left, right = table(random, rows), table(random, rows, shift=0.1)
    expected = drift(left, right, batch=rows)
    found = drift(left, right, batch=777, threads=1)
    for name in DTYPES:
        one, other = values(found, name), values(expected, name)
        assert {m: one[m].value for m in one} == pytest.approx({m: other[m].value for m in other}, rel=1e-9)


def test_a_manifest_alone_gives_the_same_bins_and_a_stated_error(random):
    left, right = table(random, 20_000), table(random, 10_000, shift=0.3)
    full = drift(left, right, profiles=True)
    alone = drift(left, right, profiles=True, rows=False)
    for name in ("number", "whole", "word", "flag"):
        for measure in ("psi", "jensen_shannon", "chi_square", "null_share"):
            assert values(alone, name)[measure].value == pytest.approx(values(full, name)[measure].value), measure
    coarse, fine = (values(report, "number")["kolmogorov_smirnov"] for report in (alone, full))
    assert coarse.value <= fine.value + fine.error
    assert fine.value <= coarse.value + coarse.error
    rough, sharp = (values(report, "number")["wasserstein"] for report in (alone, full))
    assert rough.value == pytest.approx(sharp.value, rel=0.2)
    assert {feature.name for feature in alone.drifted} == {"number"}


def test_a_manifest_alone_is_exact_for_whole_numbers_in_bins_of_one(random):
    left, right = (pa.table({"whole": pa.array(random.poisson(mean, size=4000))}) for mean in (3.0, 3.5))
    full, alone = (drift(left, right, profiles=True, rows=rows) for rows in (True, False))
    for measure in ("kolmogorov_smirnov", "wasserstein"):
        assert values(alone, "whole")[measure].value == pytest.approx(values(full, "whole")[measure].value)
    assert values(alone, "whole")["kolmogorov_smirnov"].error == 0.0


@pytest.mark.parametrize(("rows", "current_rows"), [(500, 100_000), (100_000, 500)])
def test_a_small_sample_beside_a_large_one_is_counted_whole(rows, current_rows, random):
    left, right = table(random, rows), table(random, current_rows)
    report = drift(left, right)
    number = {one.name: one for one in report.features}["number"]
    known = [len(side) - side.column("number").null_count for side in (left, right)]
    assert [sum(number.bins.reference), sum(number.bins.current)] == known
    both = [side.column("number").drop_null().to_numpy() for side in (left, right)]
    expected = stats.wasserstein_distance(*both) / both[0].std()
    found = number.measured("wasserstein")
    assert found.value - 1e-9 <= expected <= found.value + found.error + 1e-9


def test_a_profile_keeps_mean_deviation_and_range(random):
    column = pa.chunked_array([pa.array(random.lognormal(size=5000))])
    numbers = from_profile(profile_column("x", column, parse_dtype("float64"))).values
    expected = column.to_numpy()
    assert numbers.mean == pytest.approx(expected.mean())
    assert numbers.std == pytest.approx(expected.std())
    assert tuple(numbers.extremes) == (expected.min(), expected.max())


def test_values_out_of_the_reference_range_are_counted(random):
    left = pa.table({"number": pa.array(np.arange(1000.0))})
    right = pa.table({"number": pa.array([-1.0] * 30 + [500.0] * 900 + [1000.0] * 70)})
    for rows in (True, False):
        assert values(drift(left, right, profiles=True, rows=rows), "number")["beyond_range"].value == 0.1


@pytest.mark.parametrize("rows", [True, False])
def test_a_constant_that_changes_differs_in_every_measure(rows):
    sides = [pa.table({"number": pa.array([value] * 300)}) for value in (3.0, 2.0)]
    for left, right in (sides, sides[::-1]):
        report = drift(left, right, profiles=True, rows=rows, policy=DriftPolicy(fixed=("psi-0.2",)), recomputed=right)
        assert report.verdict == "fail"
        found = values(report, "number")
        assert found["jensen_shannon"].value == pytest.approx(np.sqrt(np.log(2)))
        assert found["chi_square"].value == found["kolmogorov_smirnov"].value == 1.0
        psi = {part.measure: part for part in report.features[0].split}["psi"]
        assert psi.total == psi.population == pytest.approx(found["psi"].value)


@pytest.mark.parametrize(
    ("left", "right"), [([None] * 60, [1.0] * 60), ([1.0] * 60, [None] * 60), ([2.0] * 60, [2.0] * 60)]
)
def test_columns_of_nulls_and_constants(left, right):
    report = drift(*(pa.table({"number": pa.array(side, pa.float64())}) for side in (left, right)))
    assert report.verdict == ("pass" if left == right else "fail")


def test_a_feature_without_rows_cannot_be_told():
    empty = pa.table({"number": pa.array([], pa.float64())})
    assert drift(empty, empty).verdict == "cannot tell"


def test_distributions_add_up(random):
    values = random.choice(list("abc"), size=1000)
    whole, first, second = CategoryCounts(), CategoryCounts(), CategoryCounts()
    whole.add(pa.array(values))
    first.add(pa.array(values[:300]))
    second.add(pa.array(values[300:]))
    assert first + second == whole


def test_too_many_categories_stay_within_their_bound():
    counts = CategoryCounts()
    for start in range(0, 3 * MOST_CATEGORIES, MOST_CATEGORIES // 2):
        counts.add(pa.array([f"v{i}" for i in range(start, start + MOST_CATEGORIES // 2)] + ["often"] * 1000))
    assert len(counts.counts) <= MOST_CATEGORIES
    assert counts.total == 3 * MOST_CATEGORIES + 6000
    assert 6000 - counts.lowered <= counts.counts["often"] <= 6000
    assert counts.lowered <= counts.total / (MOST_CATEGORIES + 1)


@pytest.mark.parametrize("rows", [900, 40_000])
def test_skew_and_population_add_up_to_the_whole(rows, random):
    training, recomputed = table(random, rows), table(random, rows, shift=0.5)
    served = recomputed.set_column(
        0, "number", pa.array(recomputed.column("number").to_numpy() * 2.0, from_pandas=True)
    )
    report = drift(training, served, recomputed=recomputed)
    number = {one.name: one for one in report.features}["number"]
    parts = {part.measure: part for part in number.split}
    assert parts.keys() == {"null_share", "kolmogorov_smirnov", "wasserstein", "psi"}
    for part in parts.values():
        assert part.definition == 0.0
        assert part.population + part.skew == pytest.approx(part.total, abs=1e-12)
    for measure in ("kolmogorov_smirnov", "wasserstein", "psi"):
        assert parts[measure].total == pytest.approx(number.measured(measure).value, rel=1e-6)
        assert parts[measure].skew > 0
    same = {one.name: one for one in report.features}["word"]
    assert all(part.skew == pytest.approx(0.0, abs=1e-12) for part in same.split)


def test_without_population_change_all_is_skew(random):
    training = table(random, 5000)
    served = training.set_column(0, "number", pa.array(training.column("number").to_numpy() + 1.0, from_pandas=True))
    number = {one.name: one for one in drift(training, served, recomputed=training).features}["number"]
    for part in number.split:
        assert (part.population, part.skew) == (pytest.approx(0.0, abs=1e-12), pytest.approx(part.total))


def test_population_definition_and_skew_add_up_to_the_whole(random):
    """Each step moves the numbers by another amount."""
    training = table(random, 5000)

    def shifted(side, by):
        return side.set_column(0, "number", pa.array(side.column("number").to_numpy() + by, from_pandas=True))

    by_reference = table(random, 4000, shift=0.1)
    by_answering, served = shifted(by_reference, 0.3), shifted(by_reference, 0.3 + 0.5)
    report = drift(training, served, recomputed=by_answering, by_reference=by_reference)
    number = {one.name: one for one in report.features}["number"]
    parts = {part.measure: part for part in number.split}
    for part in parts.values():
        assert part.population + part.definition + part.skew == pytest.approx(part.total, abs=1e-12)
    std = training.column("number").drop_null().to_numpy().std()
    found = parts["wasserstein"]
    assert (found.definition * std, found.skew * std) == pytest.approx((0.3, 0.5), rel=1e-6)
    assert found.population * std == pytest.approx(0.1, abs=0.05)


def test_nothing_leads_back_from_nothing(random):
    side = table(random, 300)
    parts = [part for feature in drift(side, side, recomputed=side).features for part in feature.split]
    numbers = [number for part in parts for number in (part.total, part.population, part.definition, part.skew)]
    assert len(numbers) > 40
    assert not any(np.signbit(numbers)), "no -0"


def test_rows_about_few_entities_are_too_few(random):
    """The samples have 3,000 rows each, the current one of forty entities."""
    left, right = (table(random, 3000).append_column("of", pa.array(np.arange(3000) % n)) for n in (3000, 40))
    report = drift(left, right, entities=dict.fromkeys(DTYPES, "of"))
    assert report.verdict == "cannot tell"
    assert report.reasons == ("the smaller sample is worth 40 independent rows, at least 50 are needed",)
    assert (report.current_rows, report.effective_rows) == (3000, (3000, 40))
    assert "effective sample sizes 3000 and 40" in shown(report)


def shown(report):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render_text(report))
    return console.export_text()


def test_a_manifest_alone_sees_a_feature_of_mostly_zeros_move(random):
    sides = [
        pa.table({"number": np.where(random.uniform(size=5000) < zeros, 0.0, random.normal(3, 1, 5000))})
        for zeros in (0.97, 0.8)
    ]
    report = drift(*sides, profiles=True, rows=False)
    assert report.verdict == "fail"
    assert values(report, "number")["kolmogorov_smirnov"].value == pytest.approx(0.17, abs=0.02)
