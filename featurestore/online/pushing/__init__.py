"""Pushing events: checking them, committing them to the log, and bringing them into online state."""

from featurestore.core.answers import PushResult, RejectedRow
from featurestore.online.pushing.streams import Streams

__all__ = ["PushResult", "RejectedRow", "Streams"]
