"""Requests to the other processes that write a serving log to seal the answers they hold."""

from __future__ import annotations

import time
from pathlib import Path

from featurestore.core.retrying import wait_for
from featurestore.serving_log.segments import segments_in

_MARK = "asked"
_LONGEST_SECONDS = 30.0
_PAUSE_SECONDS = 0.05


class SealRequests:
    """A mark file beside the segments. Every writer looks at it once per interval, and seals if it was touched."""

    def __init__(self, segments: Path) -> None:
        """Take the folder of the segments."""
        self._segments = segments
        self._seen = self._touched()

    def is_requested(self) -> bool:
        """Return whether the mark was touched since the last call."""
        touched, before = self._touched(), self._seen
        self._seen = touched
        return touched != before

    def request(self, interval_seconds: float) -> list[Path]:
        """Let all processes seal the answers they got before this call, and wait for it.

        Args:
            interval_seconds: How long rows may wait in the memory of a process before they are in a segment.

        Returns:
            Segments that still exist after half a minute; normally none.

        Raises:
            OSError: The mark cannot be set.
        """
        if not self._segments.exists():
            return []
        time.sleep(interval_seconds)
        segments = segments_in(self._segments)
        if not segments:
            return []
        (self._segments / _MARK).touch(mode=0o600)
        self._seen = self._touched()
        wait_for(
            lambda: not any(path.exists() for path in segments),
            timeout_seconds=_LONGEST_SECONDS,
            pause_seconds=_PAUSE_SECONDS,
        )
        return [path for path in segments if path.exists()]

    def _touched(self) -> int:
        try:
            return (self._segments / _MARK).stat().st_mtime_ns
        except OSError:
            return 0  # there is no mark, or a folder that cannot be read: then there is nothing to seal either
