"""Policies say what is drift; reports survive JSON; a person sees the verdict."""

import io
import json

import jsonschema_rs
import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console
from scipy import stats

from featurestore.config import Config
from featurestore.core.errors import ConfigError, RegistryError
from featurestore.guard.drift.policy import DriftPolicy, FixedThreshold, adjust
from featurestore.guard.drift.report import DriftReport
from featurestore.reports.drift import render_text
from tests.unit.drift.test_collect import drift, table

P_VALUES = [0.001, 0.2, 0.04, 0.03, 0.5, 0.004]


@pytest.fixture(scope="module")
def moved():
    random = np.random.default_rng(3)
    return drift(table(random, 4000), table(random, 3000, shift=0.2), recomputed=table(random, 3000))


def test_benjamini_and_hochberg_equal_scipy():
    assert adjust(P_VALUES, "benjamini-hochberg") == pytest.approx(stats.false_discovery_control(P_VALUES))


def test_holm_by_hand():
    assert adjust(P_VALUES, "holm") == pytest.approx([0.006, 0.4, 0.12, 0.12, 0.5, 0.02])
    assert adjust(P_VALUES, "none") == P_VALUES
    assert adjust([], "holm") == []


@pytest.mark.parametrize(
    ("policy", "verdict"),
    [
        (DriftPolicy(), "fail"),
        (DriftPolicy(correction="benjamini-hochberg"), "fail"),
        (DriftPolicy(least_effects={"kolmogorov_smirnov": 0.5}), "pass"),
        (DriftPolicy(allowed_features=1), "pass"),
        (DriftPolicy(fixed=("psi-0.2",)), "pass"),
        (DriftPolicy(fixed=("psi-0.02",)), "fail"),
        (DriftPolicy(fixed=("ks-p-0.01",)), "fail"),
        (DriftPolicy(fixed=("wasserstein-0.1",)), "fail"),
        (DriftPolicy(least_rows=3001), "cannot tell"),
    ],
)
def test_verdicts(policy, verdict, moved):
    judged = policy.judge(moved)
    assert judged.verdict == verdict
    assert judged.exit_code == {"pass": 0, "fail": 1, "cannot tell": 2}[verdict]
    assert judged.reasons


def test_a_small_move_of_many_rows_is_no_drift():
    """Chance does not explain it, but it does not matter."""
    random = np.random.default_rng(5)
    report = drift(*(pa.table({"number": random.normal(mean, 1.0, size=200_000)}) for mean in (0.0, 0.03)))
    found = report.features[0].measured("kolmogorov_smirnov")
    assert found.adjusted < 0.01
    assert report.verdict == "pass"


def test_many_features_of_one_distribution_do_not_drift():
    random = np.random.default_rng(11)
    names = [f"f{i}" for i in range(100)]
    from featurestore.core.dtypes import FLOAT64
    from featurestore.guard.drift.compare import compare_drift
    from featurestore.guard.drift.reference import Reference

    sides = [pa.table({name: random.normal(size=60) for name in names}) for _ in range(2)]
    dtypes = dict.fromkeys(names, FLOAT64)
    policies = {}
    for correction in ("holm", "none"):
        policy = DriftPolicy(significance=0.05, correction=correction)
        policies[correction] = compare_drift(
            service="s",
            reference=Reference("r", dtypes, sides[0].to_batches),
            current=sides[1].to_batches,
            current_dtypes=dtypes,
            policy=policy,
            since="",
            until="",
            ran_at="",
        )
    assert policies["holm"].drifted == ()
    assert policies["none"].drifted, "uncorrected, chance looks like drift"


@pytest.mark.parametrize("name", ["psi", "psi-", "psi-x", "psi--1", "other-0.2", "psi-inf", "ks-p-0"])
def test_unknown_thresholds_are_named(name):
    with pytest.raises(ConfigError, match="drift policy"):
        DriftPolicy(fixed=(name,))


def test_wrong_policies_are_named():
    with pytest.raises(ConfigError, match="not a measure of drift"):
        DriftPolicy(least_effects={"psy": 0.1})
    with pytest.raises(ConfigError, match="significance"):
        DriftPolicy(significance=0.0)
    assert FixedThreshold.named("chi2-p-0.05").of_p_value


CONFIG = """
[policies.default.drift]
significance = 0.05
fixed = ["psi-0.2"]

[policies.churn.drift]
allowed_features = 2
fixed = []
least_effects = { null_share = 0.1 }
"""


def test_policies_are_read_from_the_configuration(tmp_path):
    (tmp_path / "featurestore.toml").write_text(CONFIG)
    config = Config.load(tmp_path)
    assert DriftPolicy.configured(config.policy("other")) == DriftPolicy(significance=0.05, fixed=("psi-0.2",))
    assert DriftPolicy.configured(config.policy("churn")) == DriftPolicy(
        significance=0.05, allowed_features=2, least_effects={"null_share": 0.1}
    )
    assert DriftPolicy.configured(Config.local(tmp_path).policy("any")) == DriftPolicy()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("significance = 2", "policies.churn.drift.significance"),
        ("correction = 'some'", "policies.churn.drift.correction"),
        ("least_effects = { null_share = -1 }", "policies.churn.drift.least_effects.null_share"),
        ("allowed = 1", "policies.churn.drift.allowed"),
        ("least_effects = { nulls = 0.1 }", "'nulls' is not a measure of drift"),
        ("fixed = ['psy-0.2']", "'psy-0.2' is not a valid drift threshold"),
    ],
)
def test_mistakes_in_policies_are_named_by_their_place(tmp_path, text, problem):
    (tmp_path / "featurestore.toml").write_text(f"[policies.churn.drift]\n{text}")
    with pytest.raises(ConfigError, match=problem):
        DriftPolicy.configured(Config.load(tmp_path).policy("churn"))


def test_reports_survive_json(moved):
    assert DriftReport.from_json(moved.to_json()) == moved


def test_reports_fit_their_schema(moved):
    schema = DriftReport.json_schema()
    assert jsonschema_rs.meta.is_valid(schema)
    jsonschema_rs.validate(schema, json.loads(moved.to_json()))
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validate(schema, {"service": 3})


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"schema": "other"}'])
def test_other_json_is_no_report(text):
    with pytest.raises(RegistryError, match="drift report"):
        DriftReport.from_json(text)


def test_a_person_sees_verdict_distances_and_causes(moved):
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(render_text(moved))
    shown = console.export_text()
    for word in ("fail", "number", "kolmogorov_smirnov", "population", "skew", "training"):
        assert word in shown
