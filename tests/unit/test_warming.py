"""What is compiled ahead is all there is: nothing is left to compile on first use."""

import os

import pytest

from featurestore import FeatureService, FeatureStore
from featurestore.kernels.code_cache import compiled
from featurestore.operations.warming import warm
from tests.server.conftest import LAST, SPENDING

pytestmark = pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="nothing is compiled")


def test_nothing_is_left_to_compile_on_first_use(tmp_path):
    assert warm(tmp_path).folders
    before = compiled()
    with FeatureStore.local(tmp_path / "store") as store:
        store.apply(FeatureService("model", features=[SPENDING, LAST]))
        store.materialize()
        store.get_online_features("model", [{"user": 1}, {"user": 7}])
    assert compiled() == before


def test_overrides_of_the_environment_lead_to_no_other_store(tmp_path, monkeypatch):
    for name in ("REGISTRY", "ONLINE", "EVENT_LOG"):
        monkeypatch.setenv(f"FEATURESTORE_{name}", f"sqlite:///{tmp_path}/real.db")
    monkeypatch.setenv("FEATURESTORE_DATA", str(tmp_path / "data"))
    warm(tmp_path)
    assert list(tmp_path.iterdir()) == []
