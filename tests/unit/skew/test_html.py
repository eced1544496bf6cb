"""The audit as one file: everything in it, nothing loaded, nothing run, whatever features and values are called."""

from dataclasses import replace

import pytest

from featurestore.guard.audit.policy import Policy
from featurestore.guard.audit.report import AuditReport, Skipped
from featurestore.guard.audit.slices import Bucket, Slice
from featurestore.guard.comparing.compare import FeatureCounts
from featurestore.guard.comparing.confusion import Confusion, ListEdits
from featurestore.guard.comparing.difference import NumberDifferences
from featurestore.guard.comparing.findings import Event, Example, Finding
from featurestore.reports.audit import render_page
from tests.unit.render.pages import HOSTILE, read
from tests.unit.skew.test_report import MISMATCH, report

KINDS = {
    "log": "audit of the serving log",
    "live": "live audit of both paths",
    "replay": "audit of replayed history",
    "foreign": "audit of the log of another system",
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
    found = replace(report(), notes=("the log has no statuses", "not in the log: a"))
    shown = {kind: "".join(read(render_page(replace(found, kind=kind))).text) for kind in KINDS}
    for kind, said in KINDS.items():
        assert said in shown[kind]
        assert "the log has no statuses" in shown[kind]
        assert "not in the log: a" in shown[kind]


def test_hostile_names_stay_text():
    reader = read(render_page(rich(HOSTILE)))
    shown = "".join(reader.text)
    assert shown.count("<script>alert(1)</script>") > 20
    plain = read(render_page(rich("plain")))
    assert reader.tags == plain.tags, "a name must not change the structure of the page"


@pytest.mark.parametrize("given", [report(), report(equal=0), report(differing=3, skipped=[Skipped("why", 1)])])
def test_reports_of_little_are_pages(given):
    shown = "".join(read(render_page(Policy().judge(given))).text)
    assert "Audit of svc" in shown
    assert "nothing may differ; at least 1 row compared; no row skipped" in shown
    assert "Features" in shown


def test_a_cause_that_only_fits_says_so_and_what_is_unexplained_has_nothing_to_prove():
    found = rich("name")
    shown = {}
    for cause in ("event_lost", "unexplained"):
        finding = replace(found.findings[0], cause=cause, is_proven=False)
        shown[cause] = "".join(read(render_page(replace(found, findings=(finding,)))).text)
    assert "not proven: it only fits" in shown["event_lost"]
    assert "proven" not in shown["unexplained"]


def test_what_differs_and_why_comes_before_everything_that_is_long():
    """However many features differ, the causes follow after a few lines."""
    found = rich("name")
    features = tuple(replace(found.features[0], name=f"f{number:03d}") for number in range(200))
    judged = Policy().judge(replace(found, features=features, telling="", notes=()))
    shown = [text for text in read(render_page(judged)).text if text.strip()]
    seen = shown[: shown.index("Why values differ")]
    assert any(text.startswith("8,000 of 20,000 values differ, in 200 of 200 features: f000") for text in seen)
    assert "197 more reasons" in seen
    assert judged.reasons[3] in seen, "folded away, not left out"


def test_instants_on_the_axis_are_written_whole():
    found = replace(rich("name"), over_time=tuple(Bucket(f"2026-01-0{day}T00:00:00Z", "", 5, 1) for day in (1, 2)))
    shown = read(render_page(found)).text
    assert {"2026-01-01 00:00", "2026-01-02 00:00", "as of, UTC →"} <= set(shown)


def test_a_person_finds_everything():
    shown = "".join(read(render_page(replace(rich("name"), verdict="fail"))).text)
    for text in (
        "fail",
        "Why values differ",
        "40 of 100 values differ, in 1 of 1 features: name (40%)",
        "Why: name (75%), other (25%)",
        "30 values, 75%",
        "proven by recomputation",
        "Over time",
        "97%",
        "9.5",
    ):
        assert text in shown, text
