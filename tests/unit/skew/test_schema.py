"""Reports are what their published schemas say."""

import json
from pathlib import Path

import jsonschema_rs
import pytest

from featurestore.core.temporal import to_datetime
from featurestore.guard.audit.report import AuditReport
from featurestore.guard.drift.report import DriftReport
from tests.strategies import START_US
from tests.unit.skew.test_batches import HOUR, served_wrong
from tests.unit.skew.test_batches import store as store  # noqa: PLC0414  # a fixture
from tests.unit.skew.test_html import rich

SCHEMAS = Path(__file__).parents[3] / "docs" / "schemas"
REPORTS = {"audit": AuditReport, "drift": DriftReport}


@pytest.mark.parametrize("kind", REPORTS)
def test_the_published_schema_is_that_of_the_library(kind):
    """Write it anew with ``featurestore report-schema KIND > docs/schemas/KIND.json``."""
    assert json.loads((SCHEMAS / f"{kind}.json").read_text()) == json.loads(json.dumps(REPORTS[kind].json_schema()))


def errors(report):
    validator = jsonschema_rs.validator_for(json.loads((SCHEMAS / "audit.json").read_text()))
    return [error.message for error in validator.iter_errors(json.loads(report.to_json()))]


def test_real_reports_are_valid(store):
    span = {"since": to_datetime(START_US), "until": to_datetime(START_US + 99 * HOUR)}
    assert errors(store.audit("model", **span)) == [], "nothing was served"
    served_wrong(store)
    report = store.audit("model", **span)
    assert report.findings[0].examples
    assert report.worst[0].cause == "event_lost"
    assert report.worst[0].events, "the events that make the difference are told"
    assert errors(report) == []
    assert errors(store.audit_live("model", 5)) == []
    assert errors(rich("name")) == []


def test_what_is_no_report_is_not_valid():
    report = json.loads(rich("name").to_json())
    validator = jsonschema_rs.validator_for(json.loads((SCHEMAS / "audit.json").read_text()))
    assert not validator.is_valid(report | {"served": "many"})
    assert not validator.is_valid({name: value for name, value in report.items() if name != "features"})
