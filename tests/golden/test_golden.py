"""Plans are what they were, or the change is meant."""

import json

import pytest

from featurestore.plan.codec import VERSION, canonical
from featurestore.plan.model import Plan
from tests.golden.goldens import CASES, FOLDER, compiled_text, golden_path


@pytest.mark.parametrize("case", CASES)
def test_definitions_compile_to_the_plans_on_record(case):
    """If the change is meant: ``python -m tests.golden.rewrite``, and read the diff."""
    assert compiled_text(case) == golden_path(case).read_text()


@pytest.mark.parametrize("case", CASES)
def test_plans_on_record_can_be_read_and_have_the_fingerprint_on_record(case):
    for entry in json.loads(golden_path(case).read_text())["services"].values():
        plan = Plan.from_json(canonical({"kind": "Plan", "version": VERSION, "value": entry["plan"]}))
        assert plan.fingerprint == entry["fingerprint"]


def test_every_record_has_its_definitions():
    assert {path.stem for path in FOLDER.glob("*.json")} == set(CASES)
