"""The durable log of pushed events."""

from featurestore.sources.event_log.database import OUTCOME_UNKNOWN
from featurestore.sources.event_log.log import (
    MOST_AHEAD_US,
    MOST_ROWS,
    Appended,
    EventLog,
    KnownKeysError,
    PushKey,
    head_ahead,
)
from featurestore.sources.event_log.stored import Head, IdColumn, Stretch

__all__ = [
    "MOST_AHEAD_US",
    "MOST_ROWS",
    "OUTCOME_UNKNOWN",
    "Appended",
    "EventLog",
    "Head",
    "IdColumn",
    "KnownKeysError",
    "PushKey",
    "Stretch",
    "head_ahead",
]
