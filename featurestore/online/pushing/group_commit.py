"""Group commit: what comes while another commit is under way is committed together with the next.

A commit costs the same for one push and for twenty: a lock, a transaction, a sync of the disk. So whoever waits for a
commit to end joins the others who wait; one of them commits for all.
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
class _Waiting(Generic[T, R]):
    """One caller's part, and what became of it once it was committed."""

    part: T
    outcome: Future[R] = field(default_factory=Future)


class GroupCommit(Generic[T, R]):
    """Commits parts of several threads at once, in the order in which they came."""

    def __init__(self, commit: Callable[[Sequence[T]], Sequence[R]], *, size: Callable[[T], int], most: int) -> None:
        """Take the parts.

        Args:
            commit: Commits some parts, all or none, and gives the result of each.
            size: How large a part is.
            most: Parts are added to a commit as long as they are not larger than this together; one always goes.
        """
        self._commit = commit
        self._size = size
        self._most = most
        self._waiting: deque[_Waiting[T, R]] = deque()
        self._committing = threading.Lock()

    def commit(self, part: T) -> R:
        """Commit a part, alone or with others; return its result.

        Raises:
            Exception: Whatever the commit raised that the part was in; nothing of the part was committed then.
        """
        own: _Waiting[T, R] = _Waiting(part)
        self._waiting.append(own)
        # Parts leave in order: this one leaves with the first commit here or with a later one.
        with self._committing:
            while not own.outcome.done():
                self._commit_next()
        return own.outcome.result()

    def _commit_next(self) -> None:
        """Commit those who have waited longest."""
        some = [self._waiting.popleft()]
        size = self._size(some[0].part)
        while self._waiting and (size := size + self._size(self._waiting[0].part)) <= self._most:
            some.append(self._waiting.popleft())
        try:
            results = self._commit([one.part for one in some])
        except Exception as error:  # it is each caller's, and raised there
            for one in some:
                one.outcome.set_exception(error)
        except BaseException:
            for one in some:
                one.outcome.set_exception(InterruptedError("the thread that committed was interrupted"))
            raise
        else:
            for one, result in zip(some, results, strict=True):
                one.outcome.set_result(result)
