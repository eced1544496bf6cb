"""What Feast's own SDK serves, audited: its time to live is not applied online, and late rows are missed.

``FEATURESTORE_TEST_FEAST_PYTHON`` names an interpreter that has Feast. Last run with Feast 0.67.
"""

import os
import subprocess
from pathlib import Path

import pytest

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, agg, col, every
from featurestore.core.temporal import FixedClock
from tests.conftest import FEAST_PYTHON
from tests.foreign.payments import DAY, START, write_payments

PROGRAM = Path(__file__).with_name("feast_program.py")
MAPPING = """
as_of = "served_at"

[keys]
user = "user_id"

[features]
spend__recent = "recent"
spend__ever = "ever"
"""


def service(path):
    source = FileSource("payments", path=str(path), event_time="at", ingest_time="known")
    last = {"recent": agg.last(col("amount")).ttl("2h"), "ever": agg.last(col("amount")).ttl("30d")}
    view = FeatureView("spend", entity=Entity("user", key="user"), source=source, features=last, refresh=every("1h"))
    return FeatureService("feast", features=[view])


@pytest.mark.skipif(not FEAST_PYTHON, reason="FEATURESTORE_TEST_FEAST_PYTHON names no interpreter that has Feast")
def test_feast_ignores_its_time_to_live_online_and_misses_late_rows(tmp_path):
    write_payments(tmp_path / "payments.parquet")
    (tmp_path / "feast").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [FEAST_PYTHON, str(PROGRAM), str(tmp_path / "payments.parquet"), str(tmp_path / "feast"), str(START + DAY)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=environment | {"FEAST_USAGE": "False"},
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "map.toml").write_text(MAPPING)
    with FeatureStore.local(tmp_path / "store", clock=FixedClock(START + 9 * DAY)) as store:
        store.apply(service(tmp_path / "payments.parquet"))
        report = store.audit_foreign("feast", tmp_path / "feast" / "served.parquet", tmp_path / "map.toml")
    assert report.verdict == "fail"
    assert report.compared == 24 * 20
    named = {cause for finding in report.findings for cause in finding.cause.split(" + ")}
    assert {"ttl_ignored", "event_lost"} <= named
    assert report.causes.get("unexplained", 0) <= 0.05 * report.examined
