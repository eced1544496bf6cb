"""Batching of requests in the event loop.

While a server is busy, requests lie on its sockets whenever the event loop polls them. Reading the online store for one
request costs nearly as much as reading it for all of them, and so does a call of the kernels. Requests are therefore
batched: answering is deferred as long as each iteration of the event loop adds more requests. When the server is idle,
this costs one extra iteration.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextvars import Context
from typing import Generic, TypeAlias, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")

_Pending: TypeAlias = tuple[Q, Callable[[A | Exception], None]]
"""A question, and the callback that receives its answer."""


class RequestBatcher(Generic[Q, A]):
    """Collects questions in an event loop and answers those that arrive close together in one call, in their order.

    A batch is answered in a context of its own, not in the context of any of its requests.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Q]], Sequence[A | Exception]],
        *,
        kind: Callable[[Q], Hashable],
        size: Callable[[Q], int],
        max_size: int,
    ) -> None:
        """Create a batcher without questions.

        Args:
            answer: Answers a batch: for each question its answer, or the exception that its caller gets.
            kind: Returns what all questions of one batch must have in common.
            size: Returns the size of a question.
            max_size: Largest sum of sizes in a batch. A single question may be larger.
        """
        self._answer = answer
        self._kind = kind
        self._size = size
        self._max_size = max_size
        self._pending: deque[_Pending[Q, A]] = deque()
        self._pending_size = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    async def ask(self, question: Q) -> A:
        """Return the answer to a question, which is answered in a batch.

        Raises:
            Exception: The question, or the whole batch, failed.
        """
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()

        def resolve(answer: A | Exception) -> None:
            if future.done():  # the caller was cancelled
                return
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

        self.submit(question, resolve)
        return await future

    def submit(self, question: Q, callback: Callable[[A | Exception], None]) -> None:
        """Add a question to a batch.

        Args:
            question: The question.
            callback: Receives the answer, or the exception.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the callers in a previous loop ended with it
            self._loop = loop
            self._pending.clear()
            self._pending_size = 0
        if not self._pending:
            loop.call_soon(self._answer_or_defer, loop, 0, context=Context())
        self._pending.append((question, callback))
        self._pending_size += self._size(question)

    def _answer_or_defer(self, loop: asyncio.AbstractEventLoop, previous_count: int) -> None:
        """Answer a batch, unless questions were added since the last iteration and there is room for more."""
        count = len(self._pending)
        if count > previous_count and self._pending_size < self._max_size:
            loop.call_soon(self._answer_or_defer, loop, count, context=Context())
            return
        self._answer_batch(loop)
        if self._pending:
            loop.call_soon(self._answer_or_defer, loop, 0, context=Context())

    def _answer_batch(self, loop: asyncio.AbstractEventLoop) -> None:
        batch = self._take_batch()
        try:
            answers = self._answer([question for question, _ in batch])
        except Exception as error:  # every caller of the batch gets it
            answers = [error] * len(batch)
        for (_, callback), answer in zip(batch, answers, strict=True):
            try:
                callback(answer)
            except Exception as error:  # the other callers still get their answers
                loop.call_exception_handler({"message": "a callback of the batcher failed", "exception": error})

    def _take_batch(self) -> list[_Pending[Q, A]]:
        """Remove and return the oldest question, and all others of its kind for which there is room."""
        batch: list[_Pending[Q, A]] = []
        rest: deque[_Pending[Q, A]] = deque()
        kind, batch_size = self._kind(self._pending[0][0]), 0
        for pending in self._pending:
            size = self._size(pending[0])
            if self._kind(pending[0]) == kind and (not batch or batch_size + size <= self._max_size):
                batch.append(pending)
                batch_size += size
            else:
                rest.append(pending)
        self._pending = rest
        self._pending_size -= batch_size
        return batch
