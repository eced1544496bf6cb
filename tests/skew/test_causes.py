"""Every cause is planted in really served answers, and the audit names it; clean answers are given none."""

import pytest

from featurestore.skew.causes.catalogue import CAUSES
from tests.skew.faults import FAULTS, true_shop
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

PLANTED = [(fault.name, share) for share in SIZES for fault in FAULTS if (fault.name, share) != (LATE, 0.2)]


def test_every_cause_can_be_planted():
    assert {fault.cause for fault in FAULTS} == set(CAUSES)


def test_clean_answers_have_no_cause():
    found = audit_planted(true_shop(), [(None, answer) for answer in answers(true_shop())])
    assert (found.report.verdict, found.report.different, found.report.findings) == ("pass", 0, ())
    assert found.named == {}


@pytest.mark.parametrize(("name", "share"), PLANTED)
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


def test_values_of_findings_add_up_to_those_that_differ():
    for fault in FAULTS:
        report = measured(fault.name, 0.2).report
        assert report.examined == report.different == sum(finding.values for finding in report.findings)
        assert sum(finding.share for finding in report.findings) == pytest.approx(1.0)


def test_the_page_of_causes_is_up_to_date():
    """Written anew by ``python -m tests.skew.write_confusion_matrix``."""
    assert PATH.read_text(encoding="utf-8") == page()
    assert all(counts.most_common(1)[0][0] == cause for cause, counts in confusion().items())
