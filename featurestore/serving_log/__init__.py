"""What was served, kept for audits."""

from featurestore.serving_log.columns import log_schema
from featurestore.serving_log.log import MOST_WAITING_ROWS, Losses, ServingLog
from featurestore.serving_log.rows import NOBODY, Caller

__all__ = ["MOST_WAITING_ROWS", "NOBODY", "Caller", "Losses", "ServingLog", "log_schema"]
