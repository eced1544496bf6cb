"""The log of served rows, kept for audits."""

from featurestore.serving_log.columns import log_schema
from featurestore.serving_log.log import MOST_WAITING_ROWS, ServingLog
from featurestore.serving_log.losses import Losses
from featurestore.serving_log.rows import NO_CALLER, Caller

__all__ = ["MOST_WAITING_ROWS", "NO_CALLER", "Caller", "Losses", "ServingLog", "log_schema"]
