"""Reports are data that survive JSON; policies judge them; rendering shows them."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from featurestore.core.errors import RegistryError
from featurestore.guard.audit.policy import Policy
from featurestore.guard.audit.report import AuditReport, Mismatch, Skipped
from featurestore.guard.comparing.compare import FeatureCounts
from featurestore.guard.comparing.confusion import ListEdits
from featurestore.guard.comparing.findings import Finding
from featurestore.reports.audit import render_text

MISMATCH = Mismatch(
    feature="v__f",
    request_id="r",
    row=0,
    keys={"user": "ann"},
    as_of="2026-01-01T00:00:00Z",
    reference="1.0",
    current=None,
    reference_status="PRESENT",
    current_status="NOT_FOUND",
    is_stale=True,
    watermarks={"v": "2025-12-31T00:00:00Z"},
)


def report(*, equal=10, differing=0, skipped=()):
    return AuditReport(
        service="svc",
        since="2026-01-01T00:00:00Z",
        until="2026-01-02T00:00:00Z",
        ran_at="2026-01-03T00:00:00Z",
        served=equal + differing + sum(part.rows for part in skipped),
        compared=equal + differing,
        stale=differing,
        beyond_newest_event=0,
        fingerprints={"abc": equal + differing},
        features=(FeatureCounts("v__f", "float64", equal=equal, only_in_reference=differing),),
        worst=(MISMATCH,) * min(differing, 1),
        skipped=tuple(skipped),
    )


@pytest.mark.parametrize(
    ("given", "policy", "verdict", "exit_code"),
    [
        (report(), Policy(), "pass", 0),
        (report(differing=1), Policy(), "fail", 1),
        (report(differing=1), Policy(allowed_share=0.1), "pass", 0),
        (report(differing=2), Policy(allowed_share=0.1), "fail", 1),
        (report(equal=0), Policy(), "cannot tell", 2),
        (report(), Policy(least_rows=11), "cannot tell", 2),
        (report(skipped=[Skipped("why", 1)]), Policy(), "cannot tell", 2),
        (report(skipped=[Skipped("why", 1)]), Policy(allow_skipped=True), "pass", 0),
        (report(differing=1, skipped=[Skipped("why", 1)]), Policy(), "fail", 1),
    ],
)
def test_verdicts(given, policy, verdict, exit_code):
    judged = policy.judge(given)
    assert (judged.verdict, judged.exit_code) == (verdict, exit_code)
    assert judged.reasons


def test_an_unjudged_report_cannot_tell():
    assert report().exit_code == 2


def test_reports_survive_json():
    judged = Policy().judge(report(differing=1, skipped=[Skipped("why", 1)]))
    assert AuditReport.from_json(judged.to_json()) == judged


@pytest.mark.parametrize("text", ["", "{}", "[1]", report().to_json().replace("featurestore-audit-3", "other-1")])
def test_other_json_is_no_report(text):
    with pytest.raises(RegistryError, match="audit report"):
        AuditReport.from_json(text)


def shown(found):
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(render_text(found))
    return console.export_text()


def test_a_person_sees_verdict_counts_and_the_worst_values():
    text = shown(Policy().judge(report(differing=1)))
    for word in ("fail", "v__f", "user=ann", "PRESENT/NOT_FOUND", "1 of 11 values differ"):
        assert word in text


def test_a_person_sees_how_far_lists_differ_and_no_arrow_to_nowhere():
    lists = FeatureCounts("v__recent", "list<int64>", only_in_current=3, lists=ListEdits(3, 9, 0, 4))
    finding = Finding("missed_refresh", "it was older", 3, 1.0, 3, {"v__recent": 3}, True, (), "", (), {})
    text = shown(replace(report(), features=(lists,), findings=(finding,), examined=3))
    assert "4 items" in text
    assert "it was older" in text
    assert "→" not in text
