"""How long to wait before asking a busy server again: a schedule without chance, within the caller's time."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.core.errors import ConfigError


@dataclass(frozen=True)
class Retries:
    """When to repeat a request that was answered 503.

    Nothing else is repeated, but for pushes of which the server does not know whether they were committed: another
    status says that the same question would fare the same.

    Attributes:
        count: How often a request is repeated at most.
        first_seconds: Wait before the first repetition; each further one is twice as long.
        most_seconds: The longest wait of the schedule. What a server asks for by ``Retry-After`` may be longer.
    """

    count: int = 3
    first_seconds: float = 0.1
    most_seconds: float = 2.0

    def __post_init__(self) -> None:
        if self.count < 0 or not 0 < self.first_seconds <= self.most_seconds:
            raise ConfigError(
                f"{self} is no schedule",
                where="client",
                hint="count is zero or more, 0 < first_seconds <= most_seconds.",
                code="retries",
            )

    def wait_seconds(self, repeated: int, retry_after: str | None, left_seconds: float) -> float | None:
        """Return how long to wait before the next repetition, ``None`` if there is to be none.

        Args:
            repeated: How often the request was repeated already.
            retry_after: What the server asks for: whole seconds as text. Any other form counts as nothing.
            left_seconds: What is left of the caller's time; a wait that would use it up is not begun.
        """
        if repeated >= self.count:
            return None
        wait = min(self.first_seconds * 2**repeated, self.most_seconds)
        if retry_after is not None and retry_after.isascii() and retry_after.isdigit():
            wait = float(retry_after)
        return wait if wait < left_seconds else None
