"""Configuration of a store: ``featurestore.toml``, with overrides from the environment."""

from featurestore.config.config import CONFIG_VARIABLE, FILE_NAME, Config, read_policy
from featurestore.config.tables import (
    DEFAULT_POLICY,
    AlertsConfig,
    AuditJobConfig,
    DriftJobConfig,
    DriftPolicyConfig,
    PolicyConfig,
    ScheduleConfig,
    ServerConfig,
    ServingLogConfig,
    SmtpConfig,
    ToleranceConfig,
)
from featurestore.config.values import NEVER, read_bytes

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT_POLICY",
    "FILE_NAME",
    "NEVER",
    "AlertsConfig",
    "AuditJobConfig",
    "Config",
    "DriftJobConfig",
    "DriftPolicyConfig",
    "PolicyConfig",
    "ScheduleConfig",
    "ServerConfig",
    "ServingLogConfig",
    "SmtpConfig",
    "ToleranceConfig",
    "read_bytes",
    "read_policy",
]
