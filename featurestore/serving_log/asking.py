"""Asking the other processes that write a serving log to seal what they have taken."""

from __future__ import annotations

import time
from pathlib import Path

from featurestore.core.retrying import wait_for
from featurestore.serving_log.segments import segments_in

_MARK = "asked"
_LONGEST_SECONDS = 30.0
_PAUSE_SECONDS = 0.05


class SealRequests:
    """A mark beside the segments: whoever writes one looks at it at every interval, and seals when it was touched."""

    def __init__(self, segments: Path) -> None:
        self._segments = segments
        self._seen = self._touched()

    def is_asked(self) -> bool:
        """Tell whether somebody has asked since this was asked last."""
        touched, before = self._touched(), self._seen
        self._seen = touched
        return touched != before

    def ask(self, interval_seconds: float) -> list[Path]:
        """Have everybody seal what was taken before this call, and wait for it.

        Args:
            interval_seconds: How long rows may wait in the memory of a process before they are in a segment.

        Returns:
            Segments that are still there after half a minute; most often none.

        Raises:
            OSError: The mark cannot be set.
        """
        if not self._segments.exists():
            return []
        time.sleep(interval_seconds)
        waited = self._open_segments()
        if not waited:
            return []
        (self._segments / _MARK).touch(mode=0o600)
        self._seen = self._touched()
        wait_for(
            lambda: not any(path.exists() for path in waited),
            timeout_seconds=_LONGEST_SECONDS,
            pause_seconds=_PAUSE_SECONDS,
        )
        return [path for path in waited if path.exists()]

    def _open_segments(self) -> list[Path]:
        return segments_in(self._segments)

    def _touched(self) -> int:
        try:
            return (self._segments / _MARK).stat().st_mtime_ns
        except OSError:
            return 0  # no mark, or a folder that cannot be read: then there is nothing to seal either
