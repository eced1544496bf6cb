"""Pushing events: checking them, committing them to the log, and bringing them into online state."""

from featurestore.online.result import PushResult, RejectedRow
from featurestore.pushing.streams import Streams

__all__ = ["PushResult", "RejectedRow", "Streams"]
