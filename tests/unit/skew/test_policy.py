"""What is allowed is let pass and shown; what is not is not, however much else is allowed."""

import numpy as np
import pyarrow as pa
import pytest

from featurestore.config import Config
from featurestore.core.dtypes import FLOAT64, INT64, parse_dtype
from featurestore.core.errors import ConfigError
from featurestore.guard.audit.policy import Policy
from featurestore.guard.audit.report import AuditReport
from featurestore.guard.comparing.compare import FeatureCounts
from featurestore.guard.comparing.findings import Finding
from featurestore.guard.comparing.tolerance import Tolerance


def report(*features, findings=()):
    compared = max(feature.compared for feature in features)
    return AuditReport(
        service="svc",
        since="2026-01-01T00:00:00Z",
        until="2026-01-02T00:00:00Z",
        ran_at="2026-01-03T00:00:00Z",
        served=compared,
        compared=compared,
        stale=0,
        beyond_newest_event=0,
        fingerprints={"abc": compared},
        features=features,
        findings=tuple(findings),
    )


def finding(cause, features, *, is_proven=True):
    values = sum(features.values())
    return Finding(cause, "said", values, 1.0, values, features, is_proven, (), "", (), {})


def test_reasons_name_first_what_differs_most():
    features = [
        FeatureCounts(name, "float64", equal=equal, mismatch=10) for name, equal in (("a", 90), ("b", 10), ("c", 10))
    ]
    broken = Policy().judge(report(*features)).reasons
    warned = Policy(allowed_share=1.0, warn_share=0.0).judge(report(*features)).reasons
    for reasons in (broken, warned):
        assert [reason.partition(":")[0] for reason in reasons] == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("tolerance", "dtype", "expected"),
    [
        (Tolerance(absolute=0.5), FLOAT64, [True, True, False, False]),
        (Tolerance(relative=0.1), FLOAT64, [True, False, True, False]),
        (Tolerance(absolute=0.5, relative=0.1), FLOAT64, [True, True, True, False]),
        (Tolerance(), FLOAT64, [False, False, False, False]),
    ],
)
def test_numbers_are_near_enough_by_any_measure_edges_included(tolerance, dtype, expected):
    reference, current = pa.array([10.0, 1.0, 10.0, 0.0]), pa.array([10.5, 1.5, 9.0, 2.0])
    assert tolerance.lets_pass(reference, current, dtype).tolist() == expected


def test_floats_between_are_counted_and_whole_numbers_and_decimals_measured_exactly():
    one, far = pa.array([1.0, -0.5]), pa.array([np.nextafter(1.0, 2.0), np.nextafter(np.nextafter(-0.5, 0), 0)])
    assert Tolerance(ulps=1).lets_pass(one, far, FLOAT64).tolist() == [True, False]
    large = 2**60
    assert Tolerance(absolute=1).lets_pass(pa.array([large]), pa.array([large + 2]), INT64).tolist() == [False]
    cents = [pa.array([text]).cast(pa.decimal128(9, 2)) for text in ("1.10", "1.12")]
    assert Tolerance(absolute=0.02).lets_pass(*cents, parse_dtype("decimal(9,2)")).tolist() == [True]


def test_what_is_near_enough_passes_and_is_still_counted_as_different():
    near = FeatureCounts("v__f", "float64", equal=90, mismatch=10, within_tolerance=10)
    judged = Policy().judge(report(near))
    assert (judged.verdict, judged.different) == ("pass", 10)
    assert judged.reasons == ("10 of 100 values differ, which is allowed",)
    off = FeatureCounts("v__f", "float64", equal=89, mismatch=11, within_tolerance=10)
    judged = Policy().judge(report(off))
    assert judged.verdict == "fail"
    assert judged.reasons == ("v__f: 11 of 100 values differ, 10 of them are allowed",)


def test_a_cause_may_have_a_share_of_all_values_if_it_is_proven():
    features = (
        FeatureCounts("v__f", "float64", equal=97, mismatch=3),
        FeatureCounts("v__g", "float64", equal=100),
    )
    allowing = Policy(causes={"late_event": 0.015})
    assert allowing.judge(report(*features, findings=[finding("late_event", {"v__f": 3})])).verdict == "pass"
    assert allowing.judge(report(*features, findings=[finding("ttl_ignored", {"v__f": 3})])).verdict == "fail"
    unproven = finding("late_event", {"v__f": 3}, is_proven=False)
    assert allowing.judge(report(*features, findings=[unproven])).verdict == "fail"
    mixed = [finding("late_event", {"v__f": 2}), finding("unexplained", {"v__f": 1}, is_proven=False)]
    assert allowing.judge(report(*features, findings=mixed)).verdict == "fail"
    strict = Policy(causes={"late_event": 0.014})
    assert strict.judge(report(*features, findings=[finding("late_event", {"v__f": 3})])).verdict == "fail"


def test_a_value_that_is_let_pass_for_two_reasons_excuses_no_other():
    feature = FeatureCounts("v__f", "float64", equal=96, mismatch=4, within_tolerance=2)
    allowing = Policy(causes={"late_event": 1.0})
    assert allowing.judge(report(feature, findings=[finding("late_event", {"v__f": 2})])).verdict == "fail"


def test_allowed_differences_can_be_a_warning():
    feature = FeatureCounts("v__f", "float64", equal=95, mismatch=5)
    judged = Policy(allowed_share=0.1, warn_share=0.02).judge(report(feature))
    assert (judged.verdict, judged.exit_code) == ("warn", 0)
    assert judged.reasons == ("v__f: 5 of 100 values differ, which is allowed",)
    assert Policy(allowed_share=0.1, warn_share=0.05).judge(report(feature)).verdict == "pass"


CONFIG = """
[policies.default]
least_rows = 10
max_audit_age = "2d"

[policies.churn]
allowed_share = 0.01
[policies.churn.tolerances]
"*" = { relative = 1e-6 }
v__f = { ulps = 4 }
[policies.churn.causes]
late_event = 0.001
"""


def test_policies_are_read_from_the_configuration(tmp_path):
    (tmp_path / "featurestore.toml").write_text(CONFIG)
    config = Config.load(tmp_path)
    churn = Policy.configured(config.policy("churn"))
    assert (churn.allowed_share, churn.least_rows, churn.causes) == (0.01, 10, {"late_event": 0.001})
    assert churn.tolerance_of("v__f") == Tolerance(ulps=4)
    assert churn.tolerance_of("v__g") == Tolerance(relative=1e-6)
    assert config.policy("churn").max_audit_age == "2d"
    other = Policy.configured(config.policy("other"))
    assert (other.allowed_share, other.least_rows, other.tolerance_of("v__f")) == (0.0, 10, None)
    assert Policy.configured(Config.local(tmp_path).policy("any")) == Policy()
    assert "v__f may be off by 4 ulps" in str(churn)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[policies.churn]\nallowed_share = 2", "policies.churn.allowed_share"),
        ("[policies.churn]\nallowed = 0.1", "policies.churn.allowed"),
        ("[policies.churn.tolerances]\nf = { ulp = 1 }", "policies.churn.tolerances.f.ulp"),
    ],
)
def test_mistakes_in_policies_are_named_by_their_place(tmp_path, text, problem):
    (tmp_path / "featurestore.toml").write_text(text)
    with pytest.raises(ConfigError, match=problem):
        Config.load(tmp_path)
