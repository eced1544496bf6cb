"""The policies of applied services: from the configuration, or from the definition of the service."""

from __future__ import annotations

import json
from collections.abc import Mapping

from featurestore.config import DEFAULT_POLICY, Config, PolicyConfig, read_policy
from featurestore.core.errors import ConfigError, listing, unknown_feature, unknown_service
from featurestore.definitions.services import ANY_FEATURE
from featurestore.guard.causes.catalogue import CAUSES
from featurestore.guard.drift.policy import DriftPolicy
from featurestore.plan.model import Plan


def policy_of(service: str, config: Config, plans: Mapping[str, Plan]) -> PolicyConfig:
    """Return the policy of a service: from the configuration, else from its definition, else the default.

    Args:
        service: Name of the service; it need not be applied.
        config: The configuration.
        plans: The plans of all applied services by name.

    Raises:
        ConfigError: Any policy is wrong, see ``check_policies``.
    """
    check_policies(config, plans)
    return config.policy(service, _declared(plans.get(service)))


def check_policies(config: Config, plans: Mapping[str, Plan]) -> None:
    """Check that all policies are of known services and name known features, causes, measures and thresholds.

    Args:
        config: The configuration.
        plans: The plans of all applied services by name.

    Raises:
        ConfigError: A policy names something unknown.
    """
    columns = {name: {output.name for output in plan.outputs} for name, plan in plans.items()}
    for name, policy in config.policies.items():
        where = f"policies.{name}"
        if name != DEFAULT_POLICY and name not in plans:
            raise unknown_service(name, {*plans, DEFAULT_POLICY}).error(ConfigError, where)
        known = set().union(*columns.values()) if name == DEFAULT_POLICY else columns[name]
        for feature in policy.tolerances:
            if feature not in known and feature != ANY_FEATURE:
                raise unknown_feature(feature, known).error(ConfigError, f"{where}.tolerances")
        _check_names(policy, where)
    for name, plan in plans.items():
        _check_names(_declared(plan), f"service '{name}', policy")


def _check_names(policy: PolicyConfig, where: str) -> None:
    """Raise ``ConfigError`` if a policy names an unknown cause, or an unknown measure or threshold of drift."""
    DriftPolicy.configured(policy)
    for cause in policy.causes:
        if cause not in CAUSES:
            hint = listing("Causes", CAUSES, wrong=cause)
            raise ConfigError(f"there is no cause '{cause}'", where=f"{where}.causes", hint=hint, code="unknown-cause")


def _declared(plan: Plan | None) -> PolicyConfig:
    if plan is None or not plan.policy:
        return PolicyConfig()
    return read_policy(json.loads(plan.policy), f"service '{plan.name}', policy")
