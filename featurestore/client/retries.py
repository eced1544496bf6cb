"""The backoff before a request to a busy server is retried: deterministic, and within the caller's timeout."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.core.errors import ConfigError


@dataclass(frozen=True)
class Retries:
    """When to retry a request that was answered 503.

    Other statuses are not retried, since the same request would fail again; except pushes of which it is unknown
    whether they were committed.

    Attributes:
        count: Most retries of a request.
        first_seconds: Wait before the first retry; each further wait is twice as long.
        most_seconds: The longest wait of the schedule. The server's ``Retry-After`` may be longer.
    """

    count: int = 3
    first_seconds: float = 0.1
    most_seconds: float = 2.0

    def __post_init__(self) -> None:
        if self.count < 0 or not 0 < self.first_seconds <= self.most_seconds:
            raise ConfigError(
                f"{self} is not a valid schedule",
                where="client",
                hint="Use count >= 0 and 0 < first_seconds <= most_seconds.",
                code="retries",
            )

    def wait_seconds(self, retry_count: int, retry_after: str | None, left_seconds: float) -> float | None:
        """Return how long to wait before the next retry; ``None`` if there is none.

        Args:
            retry_count: How often the request was retried already.
            retry_after: The header ``Retry-After``: whole seconds. Any other form is ignored.
            left_seconds: What is left of the caller's timeout; a wait that would use it up is not started.
        """
        if retry_count >= self.count:
            return None
        wait = min(self.first_seconds * 2**retry_count, self.most_seconds)
        if retry_after is not None and retry_after.isascii() and retry_after.isdigit():
            wait = float(retry_after)
        return wait if wait < left_seconds else None
