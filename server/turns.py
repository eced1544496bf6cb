"""Answering together what comes in neighbouring turns of the event loop.

While a server is busy, requests lie on its sockets whenever it looks there. Reading the online store for one of them
costs nearly what reading it for all of them does, and so does a call of the kernels. So questions wait for as long as
every turn brings more of them: while there is nothing else to do that is one look at the sockets.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Turns(Generic[Q, A]):
    """Takes questions in an event loop, and has those that come close together answered so, in their order.

    What is done for several requests is done in a context of its own, and not in that of any of them.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Q]], Sequence[A | Exception]],
        *,
        kind: Callable[[Q], Hashable],
        size: Callable[[Q], int],
        most: int,
    ) -> None:
        """Take the parts.

        Args:
            answer: Answers some questions: per question the answer, or what its asker is to be told.
            kind: What questions have in common that are answered together.
            size: How large a question is.
            most: Questions are answered together as long as they are not larger than this; one always is.
        """
        self._answer = answer
        self._kind = kind
        self._size = size
        self._most = most
        self._waiting: deque[tuple[Q, Callable[[A | Exception], None]]] = deque()
        self._waiting_size = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    async def ask(self, question: Q) -> A:
        """Have a question answered with those that are asked about now.

        Raises:
            Exception: What was answered, if that is one; or what kept all these questions from being answered.
        """
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()

        def tell(answer: A | Exception) -> None:
            if future.done():  # its asker has gone away
                return
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

        self.put(question, tell)
        return await future

    def put(self, question: Q, tell: Callable[[A | Exception], None]) -> None:
        """Have a question answered likewise.

        Args:
            question: The question.
            tell: Is told the answer, or the exception.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._begin_anew(loop)
        if not self._waiting:
            loop.call_soon(self._look, loop, 0, context=Context())
        self._waiting.append((question, tell))
        self._waiting_size += self._size(question)

    def _begin_anew(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take questions in another event loop; who still waits in the one before has gone with it."""
        self._loop = loop
        self._waiting.clear()
        self._waiting_size = 0

    def _look(self, loop: asyncio.AbstractEventLoop, before: int) -> None:
        """Answer, unless more questions have come since the turn before and there is room for others."""
        waiting = len(self._waiting)
        if waiting > before and self._waiting_size < self._most:
            loop.call_soon(self._look, loop, waiting, context=Context())
            return
        self._answer_some(loop)
        if self._waiting:
            loop.call_soon(self._look, loop, 0, context=Context())

    def _answer_some(self, loop: asyncio.AbstractEventLoop) -> None:
        taken = self._take()
        try:
            answers = self._answer([question for question, _ in taken])
        except Exception as error:  # it is the askers'
            answers = [error] * len(taken)
        for (_, tell), answer in zip(taken, answers, strict=True):
            try:
                tell(answer)
            except Exception as error:  # nobody else shall go without
                loop.call_exception_handler({"message": "an answer was not taken", "exception": error})

    def _take(self) -> list[tuple[Q, Callable[[A | Exception], None]]]:
        """Take who has waited longest, and those who ask likewise."""
        taken: list[tuple[Q, Callable[[A | Exception], None]]] = []
        left: deque[tuple[Q, Callable[[A | Exception], None]]] = deque()
        kind, size = self._kind(self._waiting[0][0]), 0
        for waiting in self._waiting:
            own = self._size(waiting[0])
            if self._kind(waiting[0]) == kind and (not taken or size + own <= self._most):
                taken.append(waiting)
                size += own
            else:
                left.append(waiting)
        self._waiting = left
        self._waiting_size -= size
        return taken
