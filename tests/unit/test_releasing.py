"""Commands before a release: what they print, what they write, and their exit codes."""

import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import cli
from featurestore.guard.release.certificate import Certificate

DEFINITIONS = """
from featurestore import *

card = Entity("card", key="card", dtype="int64")
tries = FileSource("tries", path="tries.parquet", event_time="at")
seen = FeatureView("seen", entity=card, source=tries, features={"n": agg.count().over("1d")})
model = FeatureService("model", features=[seen])
"""
START, MINUTE = 1_767_225_600_000_000, 60_000_000


def instants(values):
    return pa.array(values, pa.int64()).cast(pa.timestamp("us", tz="UTC"))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Cards are tried ten minutes before a fraud; some spine rows lie a minute after it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    fraud = np.random.default_rng(3).random(400) < 0.4
    as_of = [START + number * 60 * MINUTE for number in range(400)]
    at = [instant - 10 * MINUTE for instant, is_fraud in zip(as_of, fraud, strict=True) if is_fraud]
    pq.write_table(pa.table({"card": np.flatnonzero(fraud), "at": instants(at)}), "tries.parquet")
    spine = {"card": list(range(400)), "as_of": instants(as_of), "fraud": fraud}
    spine["happened"] = instants([at - 20 * MINUTE for at in as_of])
    pq.write_table(pa.table(spine), "spine.parquet")
    (tmp_path / "releasing_definitions.py").write_text(DEFINITIONS)
    (tmp_path / "featurestore.toml").write_text('definitions = "releasing_definitions"')

    def call(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        return ended.value.code, capsys.readouterr().out

    assert call("apply")[0] == 0
    yield call
    sys.modules.pop("releasing_definitions", None)


def test_verify_shows_what_was_asked_of_which_state_and_keeps_a_certificate(run, tmp_path):
    code, out = run("verify", "model", "--rows", "60", "--between", "2", "--json", "certificate.json")
    assert code == 0
    assert "model: pass" in out
    assert [word for word in out.split() if word in ("refreshed", "stale", "pushed")] == ["refreshed", "stale"]
    assert "not asked" not in out
    written = Certificate.from_json((tmp_path / "certificate.json").read_text())
    assert written.between == 2
    assert "not tested: seen: " in run("verify", "model", "--rows", "20", "--instants", "2", "--between", "0")[1]
    assert run("certificates")[1].count("pass") == 2


def test_leakage_fails_for_what_is_proven_and_for_doubts_if_it_is_to_be_strict(run):
    assert run("training-set", "model", "spine.parquet", "built")[0] == 0
    code, out = run("leakage", "built", "--label", "fraud")
    assert code == 0
    assert "seen__n: computed 1h earlier it loses 100%" in " ".join(out.split())
    assert run("leakage", "built", "--label", "fraud", "--strict")[0] == 1
    code, out = run("leakage", "built", "--label", "fraud", "--label-time", "happened", "--json", "-")
    assert code == 1
    assert json.loads(out)["label_time"] == "happened"


def test_simulate_says_what_policies_cost(run):
    code, out = run("simulate", "seen", "--refresh", "every 1d", "--rows", "50", "--json", "-")
    assert code == 0
    assert json.loads(out)["policies"][0]["states_per_day"] > 0
