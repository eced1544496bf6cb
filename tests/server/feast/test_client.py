"""Feast's own client reads from a real server, where an interpreter that has Feast is named.

``FEATURESTORE_TEST_FEAST_PYTHON`` names it: Feast wants older versions of what this project depends on, so it lives in
an environment of its own (``python -m venv feast && feast/bin/pip install feast``). Last run with Feast 0.67.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from featurestore import FeatureStore
from featurestore.registry.api_keys import Scope
from tests.conftest import FEAST_PYTHON
from tests.server.process import serving

PROGRAM = Path(__file__).with_name("client_program.py")


@pytest.fixture
def python():
    if not FEAST_PYTHON:
        pytest.skip("FEATURESTORE_TEST_FEAST_PYTHON names no interpreter that has Feast")
    return FEAST_PYTHON


@pytest.fixture(params=["none", "keys"])
def auth(request, project, monkeypatch):
    """Let everybody in, or those with a key: give what Feast is told of it."""
    monkeypatch.setenv("FEATURESTORE_SERVER__AUTH", request.param)
    if request.param == "none":
        return []
    with FeatureStore.open(project) as store:
        _, key = store.api_keys.create("feast", [Scope.READ], now_us=store.clock.now_us())
    return [key]


def test_feasts_remote_online_store_reads_from_this_server(python, project, auth):
    (project / "feast").mkdir()
    with serving(project) as url:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [python, str(PROGRAM), str(project / "feast"), url, *auth],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=environment | {"FEAST_USAGE": "False"},
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["features"]["values"] == {
        "user": [1, 2, 9],
        "orders": [0, 0, 0],
        "total": [None, None, None],
        "expired": [None, None, None],
        "shop": ["ü", None, None],
        "paid": [False, None, None],
        "shipped": [1714532400, 1714539600, None],
        "days": [["2024-04-30", "2024-05-01"], None, None],
        "price": ["2.20", None, None],
    }
    statuses = found["features"]["statuses"]
    assert statuses["expired"] == ["OUTSIDE_MAX_AGE", "NULL_VALUE", "NOT_FOUND"]
    assert statuses["orders"] == ["PRESENT", "PRESENT", "NOT_FOUND"]
    assert found["service"]["values"]["last_order__shop"] == ["ü", None, None]
    assert found["read"] == [
        ["2024-05-01T02:00:00+00:00", {"total": None, "orders": "int64_val: 0\n"}],
        ["2024-05-01T02:00:00+00:00", {"total": None, "orders": "int64_val: 0\n"}],
        ["2024-05-01T02:00:00+00:00", {"total": None, "orders": None}],
    ]
    assert "one request may have 1000" in found["refusal"]
