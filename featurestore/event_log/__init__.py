"""The durable log of pushed events."""

from featurestore.event_log.log import MOST_ROWS, Appended, EventLog
from featurestore.event_log.stored import Head, IdColumn, Stretch

__all__ = ["MOST_ROWS", "Appended", "EventLog", "Head", "IdColumn", "Stretch"]
