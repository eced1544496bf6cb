"""The durable log of pushed events."""

from featurestore.event_log.log import Appended, EventLog
from featurestore.event_log.stored import Head, Stretch

__all__ = ["Appended", "EventLog", "Head", "Stretch"]
