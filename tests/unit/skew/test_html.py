"""The audit as one file: everything in it, nothing loaded, nothing run, whatever features and values are called."""

from dataclasses import replace

import pytest

from featurestore.skew.compare import FeatureCounts
from featurestore.skew.confusion import Confusion, ListEdits
from featurestore.skew.difference import NumberDifferences
from featurestore.skew.findings import Event, Example, Finding
from featurestore.skew.html import render_html
from featurestore.skew.policy import Policy
from featurestore.skew.report import AuditReport, Skipped
from featurestore.skew.slices import Bucket, Slice
from tests.unit.render.pages import HOSTILE, read
from tests.unit.skew.test_report import MISMATCH, report

KINDS = {
    "log": "audit of what was served",
    "live": "audit of what both roads say now",
    "replay": "audit of history replayed on both roads",
    "foreign": "audit of what another system served",
}
NUMBERS = NumberDifferences(40, 9.5, 1.5, None, 0.25, 0.3, -1.5, 0.5, 2.0, 8.0, 12)


def rich(name):
    """Return a report in which every part is filled and every text is ``name``."""
    example = Example(name, {name: None}, name, None, name, name, name, (Event(name, name, {name: name, "n": None}),))
    finding = Finding(
        name, name, 30, 0.75, 30, {name: 30}, True, (name,), name, (example,), {name: name}, fingerprint=name
    )
    feature = FeatureCounts(
        name,
        name,
        equal=60,
        mismatch=40,
        largest_difference=9.5,
        status_pairs={name: 100},
        interval=(0.3, 0.5),
        numbers=NUMBERS,
        confusion=(Confusion(name, name, 3),),
        lists=ListEdits(1, 2, 3, 4),
    )
    mismatch = replace(
        MISMATCH,
        feature=name,
        request_id=name,
        keys={name: name},
        as_of=name,
        reference=name,
        current_status=name,
        size=1.5,
    )
    return AuditReport(
        service=name,
        since=name,
        until=name,
        ran_at=name,
        served=103,
        compared=100,
        stale=4,
        beyond_newest_event=2,
        fingerprints={name: 100},
        features=(feature,),
        worst=(mismatch,),
        skipped=(Skipped(name, 3),),
        verdict=name,
        reasons=(name,) * 30,
        sample=0.5,
        sums=name,
        findings=(
            finding,
            replace(finding, cause="other", values=10, is_proven=False, examples=(), evidence=(), fix=""),
        ),
        examined=40,
        over_time=(Bucket(name, name, 50, 0), Bucket(name, name, 50, 40)),
        slices=(Slice(name, name, 40, 39, 0.97, 0.4),),
        telling=name,
        policy=name,
        notes=(name,),
    )


def test_notes_and_what_was_audited_are_shown():
    found = replace(report(), notes=("the log says no statuses", "not in the log: a"))
    shown = {kind: "".join(read(render_html(replace(found, kind=kind))).text) for kind in KINDS}
    for kind, said in KINDS.items():
        assert said in shown[kind]
        assert "the log says no statuses" in shown[kind]
        assert "not in the log: a" in shown[kind]


def test_hostile_names_stay_text():
    reader = read(render_html(rich(HOSTILE)))
    shown = "".join(reader.text)
    assert shown.count("<script>alert(1)</script>") > 20
    plain = read(render_html(rich("plain")))
    assert reader.tags == plain.tags, "a name must not change the structure of the page"


@pytest.mark.parametrize("given", [report(), report(equal=0), report(differing=3, skipped=[Skipped("why", 1)])])
def test_reports_of_little_are_pages(given):
    shown = "".join(read(render_html(Policy().judge(given))).text)
    assert "Audit of svc" in shown
    assert "nothing may differ; at least 1 row compared; no row skipped" in shown
    assert "Features" in shown


def test_a_person_finds_everything():
    shown = "".join(read(render_html(replace(rich("name"), verdict="fail"))).text)
    for text in (
        "fail",
        "Why values differ",
        "30 values, 75.0%",
        "proven by recomputation",
        "Over time",
        "97 %",
        "9.5",
    ):
        assert text in shown, text
