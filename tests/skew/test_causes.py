"""Every cause is planted in really served answers, and the audit names it; clean answers are given none."""

from dataclasses import replace

import pytest

from featurestore.guard.audit import kept_rows
from featurestore.guard.causes.catalogue import CAUSES
from tests.budget import sample
from tests.skew.faults import FAULTS, as_float32, shop_of, true_shop
from tests.skew.measuring import SIZES, confusion, fault_of, measured, page
from tests.skew.planting import EQUAL, audit_planted, in_some
from tests.skew.shop import answers
from tests.skew.write_confusion_matrix import PATH

LEAST = 0.85
"""Share of a fault's values that must be given its cause."""

LATE = "rows came after the request"
"""Late rows of a source that does not say when they became known: only later requests tell them from lost ones."""

LEAST_LATE = 0.7
"""The same for those, in all rows; in a fifth of the rows most are called lost, as the page says."""

UNTOLD = {(name, 0.2) for name in (LATE, "counted events lost", "booleans inverted", "dates a day later")}
"""What a few rows do not tell, as the page says."""

SINGLE = [
    ("spend__sum", as_float32, "precision"),
    ("spend__sum", lambda value: value * 100, "unit_or_scale"),
]

PLANTED = [(fault.name, share) for share in SIZES for fault in FAULTS if (fault.name, share) not in UNTOLD]


def test_every_cause_can_be_planted():
    assert {fault.cause for fault in FAULTS} == set(CAUSES)


@pytest.mark.parametrize("share", SIZES)
def test_every_cause_is_required_at_every_size(share):
    assert {fault_of(name).cause for name, own in PLANTED if own == share} == set(CAUSES)


def test_clean_answers_have_no_cause():
    found = audit_planted(true_shop(), [(None, answer) for answer in answers(true_shop())])
    assert (found.report.verdict, found.report.different, found.report.findings) == ("pass", 0, ())
    assert found.named == {}


@pytest.mark.parametrize(("name", "share"), sample(PLANTED, one_in=4))
def test_a_planted_cause_is_named(name, share):
    fault, found = fault_of(name), measured(name, share)
    assert found.report.verdict == "fail"
    assert found.share(fault) >= (LEAST_LATE if name == LATE else LEAST), found.named
    largest = found.report.findings[0]
    assert fault.cause in largest.cause
    assert largest.examples
    assert largest.fix
    if not fault.is_in_store:
        assert not any(planted == EQUAL for planted, _ in found.named)


@pytest.mark.parametrize(
    "names",
    [
        ("state older than promised", "float32", "0 for null"),
        ("keys without zeros", "<= for <", "an input cut"),
        ("times five hours off", "cents for units"),
    ],
)
def test_several_causes_at_once_are_told_apart(names):
    faults = [fault_of(name) for name in names]
    found = audit_planted(true_shop(), in_some(faults, 1 / len(faults)))
    for fault in faults:
        assert found.share(fault) >= LEAST, (fault.name, found.named)


def test_what_is_rare_in_every_round_is_named_in_the_end(monkeypatch):
    """Two values of a kind in each of many rounds are chance; all of them together are not."""
    monkeypatch.setattr(kept_rows, "MOST_ROWS", 25)
    faults = [fault_of(name) for name in ("state older than promised", "float32", "0 for null")]
    found = audit_planted(true_shop(), in_some(faults, 1 / len(faults)))
    for fault in faults:
        assert found.share(fault) >= LEAST, (fault.name, found.named)
    assert found.report.examined == found.report.different


def test_lost_events_are_found_in_values_that_were_cast_as_well():
    """Beside the cast, the events have to be found that some of the values lack."""
    lost = fault_of("some events lost").served()
    served = [
        replace(answer, rows=[[as_float32(value) if isinstance(value, float) else value for value in answer.rows[0]]])
        for answer in lost
    ]
    fault = fault_of("float32")
    found = audit_planted(true_shop(), [(fault, answer) for answer in served]).named
    causes = {cause: count for (_, cause), count in found.items()}
    assert causes["precision"] > 0
    assert causes["event_lost + precision"] > 0
    assert causes.get("unexplained", 0) <= 0.15 * sum(causes.values()), causes


@pytest.mark.parametrize("serves", ["a count", "kinds", "two sources"])
def test_clean_answers_of_other_services_have_no_cause(serves):
    shop = shop_of(serves)
    found = audit_planted(shop, [(None, answer) for answer in answers(shop)])
    assert (found.report.verdict, found.report.different, found.report.findings) == ("pass", 0, ())


@pytest.mark.parametrize(("column", "change", "cause"), SINGLE)
def test_what_fits_a_single_value_is_named_without_a_proof(column, change, cause):
    """One value is too little to pay for naming anything, and saying nothing would help no one."""
    truth = [(None, answer) for answer in answers(true_shop())]
    place = next(place for place, (_, answer) in enumerate(truth) if answer.rows[0][_column(column)])
    row = list(truth[place][1].rows[0])
    row[_column(column)] = change(row[_column(column)])
    truth[place] = (None, replace(truth[place][1], rows=[row]))
    (finding,) = audit_planted(true_shop(), truth).report.findings
    assert (finding.cause, finding.is_proven, finding.values) == (cause, False, 1)


def _column(name: str) -> int:
    return list(answers(true_shop())[0].columns).index(name)


@pytest.mark.nightly
def test_values_of_findings_add_up_to_those_that_differ():
    for fault in FAULTS:
        report = measured(fault.name, 0.2).report
        assert report.examined == report.different == sum(finding.values for finding in report.findings)
        assert sum(finding.share for finding in report.findings) == pytest.approx(1.0)


@pytest.mark.nightly
def test_the_page_of_causes_is_up_to_date():
    """Written anew by ``python -m tests.skew.write_confusion_matrix``."""
    assert PATH.read_text(encoding="utf-8") == page()
    assert all(counts.most_common(1)[0][0] == cause for cause, counts in confusion().items())
