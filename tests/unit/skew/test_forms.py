"""All reports have a JSON form that survives a round trip, and one meaning of exit codes."""

import json

import pytest

from featurestore.core.errors import RegistryError
from featurestore.guard.audit.report import AuditReport
from featurestore.guard.drift.report import DriftReport
from featurestore.guard.explain.report import Explanation
from featurestore.guard.release.certificate import Certificate
from featurestore.guard.release.leakage import FeaturePower, LeakageReport
from featurestore.guard.release.simulate import Simulation
from featurestore.guard.report import Judged, Report

AT = "2026-01-01T00:00:00Z"
LEAK = FeaturePower("f", 0.9, 0.01, {}, flags=("it sees the event of the label",))
DOUBT = FeaturePower("f", 0.9, 0.01, {}, doubts=("it loses all within a minute",))
REPORTS = [
    AuditReport("s", AT, AT, AT, 1, 1, 0, 0, {"a": 1}, ()),
    DriftReport("s", "a training set", AT, AT, AT, 1, 1, (), {"f": "only the reference has it"}),
    Explanation("s", "a", {"user": "ann"}, {}, AT, (), (), None),
    Certificate("s", "a", {"v": "b"}, AT, AT, AT, 1, 0, {}, "MemoryOnlineStore", (), (), {}),
    LeakageReport("s", "a", "label", 1, 1, "", 0, (LEAK,), ()),
    Simulation("v", "continuous()", AT, AT, 1, "given", 0.0, 1.0, ()),
]


def test_every_report_is_here():
    assert {type(report) for report in REPORTS} == set(Report.__subclasses__())


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.KIND)
def test_a_report_survives_its_json_form(report):
    read = type(report).from_json(report.to_json())
    assert read == report
    assert read.schema == report.SCHEMA
    assert report.json_schema()["$id"] == f"urn:{report.SCHEMA}"


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.KIND)
def test_other_text_is_refused(report):
    with pytest.raises(RegistryError, match=f"is not a valid {report.KIND}") as caught:
        type(report).from_json("{}")
    assert caught.value.code == "unreadable"
    older = json.dumps({**json.loads(report.to_json()), "schema": "featurestore-0"})
    with pytest.raises(RegistryError, match=f"'featurestore-0', this library reads '{report.SCHEMA}'"):
        type(report).from_json(older)


@pytest.mark.parametrize(
    ("verdict", "code"), [("pass", 0), ("warn", 0), ("doubtful", 0), ("fail", 1), ("cannot tell", 2), ("", 2)]
)
def test_exit_codes(verdict, code):
    class Result(Judged):
        @property
        def verdict(self):
            return verdict

    assert Result().exit_code == code


def test_a_leak_fails_and_a_doubt_does_not():
    verdicts = [
        LeakageReport("s", "a", "label", 1, 1, "", 0, features, ()).verdict
        for features in ((LEAK, DOUBT), (DOUBT,), ())
    ]
    assert verdicts == ["fail", "doubtful", "pass"]
