"""What is allowed comes from the configuration, the definition and the default, in this order; names must be there."""

import pyarrow.parquet as pq
import pytest

from featurestore import FeatureService, FeatureStore, FeatureView, FileSource, agg, col
from featurestore.config import Config
from featurestore.core.errors import ConfigError
from tests.server.conftest import ORDERS, USER


@pytest.fixture
def opened(tmp_path):
    pq.write_table(ORDERS, tmp_path / "orders.parquet")
    source = FileSource("orders", path=str(tmp_path / "orders.parquet"), event_time="at")
    total = {"total": agg.sum(col("amount")).over("1d")}
    view = FeatureView("spending", entity=USER, source=source, features=total)
    stores = []

    def open_store(policy=None, policies=None):
        config = Config(policies=policies or {}, folder=tmp_path)
        local = Config.local(tmp_path / "store")
        stores.append(FeatureStore(local.model_copy(update={"policies": config.policies})))
        stores[-1].apply(FeatureService("model", features=[view], policy=policy or {}))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.mark.parametrize(
    ("policies", "problem"),
    [
        ({"modle": {}}, r"policies\.modle: there is no service 'modle'.*Did you mean 'model'"),
        ({"model": {"tolerances": {"spending__totl": {"ulps": 1}}}}, r"no feature 'spending__totl'.*'spending__total'"),
        ({"default": {"tolerances": {"nothing": {"ulps": 1}}}}, r"policies\.default.*no feature 'nothing'"),
        ({"model": {"drift": {"fixed": ["psy-0.2"]}}}, "psy-0.2"),
        ({"model": {"causes": {"late_evnt": 0.1}}}, r"no cause 'late_evnt'.*'late_event'"),
    ],
)
def test_policies_about_what_there_is_not_are_refused(opened, policies, problem):
    store = opened(policies=policies)
    for use in (store.policy, store.audit, store.audit_live):
        with pytest.raises(ConfigError, match=problem):
            use("model")


def test_what_the_configuration_says_comes_before_the_definition_and_that_before_the_default(opened):
    policies = {"default": {"allowed_share": 0.1, "warn_share": 0.2, "least_rows": 3}, "model": {"least_rows": 7}}
    declared = {"warn_share": 0.5, "least_rows": 5, "tolerances": {"*": {"ulps": 2}}}
    store = opened(policy=declared, policies=policies)
    policy = store.policy("model")
    assert (policy.allowed_share, policy.warn_share, policy.least_rows) == (0.1, 0.5, 7)
    assert store._audit_policy("model").tolerance_of("spending__total").ulps == 2
    before = store.plan("model").fingerprint
    assert opened(policies=policies).plan("model").fingerprint == before, "a policy changes no value"
    assert store.policy("model").warn_share == 0.2, "what is applied counts"


def test_what_a_definition_says_of_causes_must_be_there(opened):
    store = opened(policy={"causes": {"late_evnt": 0.1}})
    with pytest.raises(ConfigError, match=r"service 'model', policy.*no cause 'late_evnt'"):
        store.policy("model")


def test_tables_inside_a_policy_are_put_together_key_by_key(opened):
    policies = {
        "default": {"drift": {"significance": 0.5, "allowed_features": 1}},
        "model": {"drift": {"least_rows": 7}},
    }
    drift = opened(policy={"drift": {"allowed_features": 2}}, policies=policies).policy("model").drift
    assert (drift.significance, drift.allowed_features, drift.least_rows) == (0.5, 2, 7)


def test_a_service_that_is_not_applied_has_the_default(opened):
    assert opened(policies={"default": {"least_rows": 5}}).policy("another").least_rows == 5
