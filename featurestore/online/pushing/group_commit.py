"""Group commit: parts that arrive during a commit are committed together with the next one.

A commit costs the same for one push as for twenty: a lock, a transaction, a sync of the disk. So all threads that wait
for a commit to end are served by the next: one of them commits the parts of all.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class _Pending(Generic[T, R]):
    """A caller's part, with its result once it is committed."""

    part: T
    result: Future[R] = field(default_factory=Future)


class GroupCommit(Generic[T, R]):
    """Commits parts of several threads together, in the order of their arrival."""

    def __init__(self, commit: Callable[[Sequence[T]], Sequence[R]], *, size: Callable[[T], int], most: int) -> None:
        """Take the parts.

        Args:
            commit: Commits some parts, all or none, and returns the result of each.
            size: Returns the size of a part.
            most: The largest total size of a commit with several parts; a single part may be larger.
        """
        self._commit = commit
        self._size = size
        self._most = most
        self._pending: deque[_Pending[T, R]] = deque()
        self._commit_lock = threading.Lock()

    def commit(self, part: T) -> R:
        """Commit a part, alone or with others; return its result.

        Raises:
            Exception: The error of the commit with this part; then the part was not committed.
        """
        pending: _Pending[T, R] = _Pending(part)
        self._pending.append(pending)
        # Parts leave in order: this one leaves with the next commit or with a later one.
        with self._commit_lock:
            while not pending.result.done():
                self._commit_next()
        return pending.result.result()

    def _commit_next(self) -> None:
        """Commit the parts that have waited longest."""
        batch = [self._pending.popleft()]
        size = self._size(batch[0].part)
        while self._pending and (size := size + self._size(self._pending[0].part)) <= self._most:
            batch.append(self._pending.popleft())
        try:
            results = self._commit([pending.part for pending in batch])
        except Exception as error:  # raised to each caller
            for pending in batch:
                pending.result.set_exception(error)
        except BaseException:
            for pending in batch:
                pending.result.set_exception(InterruptedError("the thread that committed was interrupted"))
            raise
        else:
            for pending, result in zip(batch, results, strict=True):
                pending.result.set_result(result)
