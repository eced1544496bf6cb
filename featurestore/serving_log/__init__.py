"""What was served, kept for audits."""

from featurestore.serving_log.log import MOST_WAITING_ROWS, Losses, ServingLog
from featurestore.serving_log.rows import NOBODY, Caller, log_schema

__all__ = ["MOST_WAITING_ROWS", "NOBODY", "Caller", "Losses", "ServingLog", "log_schema"]
