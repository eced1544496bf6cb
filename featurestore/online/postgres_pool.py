"""Connections to PostgreSQL, lent one at a time.

A connection that was idle is looked at before it is lent, without a round trip: a server that is gone has closed it,
which makes it readable. So a server's restart costs nobody an error, and one that is down is told about at once, by
the attempt to connect.
"""

from __future__ import annotations

import math
import select
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import psycopg
from psycopg import IsolationLevel
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

R = TypeVar("R")


class PostgresConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection on which every answer must come within a time.

    Attributes:
        reader: A cursor that is kept for the hot read.
    """

    reader: psycopg.Cursor[tuple[Any, ...]]
    _timeout: float | None = None

    @classmethod
    def open(cls, conninfo: str, *, connect_timeout: float, timeout: float) -> Self:
        """Connect.

        Args:
            conninfo: URL that libpq takes.
            connect_timeout: Seconds to wait for a connection.
            timeout: Seconds to wait for each answer, then the connection is closed.

        Raises:
            psycopg.Error: The server cannot be reached or refuses.
        """
        opened = cls.connect(
            conninfo,
            autocommit=True,
            connect_timeout=max(2, math.ceil(connect_timeout)),
            fallback_application_name="featurestore",
        )
        opened.isolation_level = IsolationLevel.READ_COMMITTED
        opened.reader = opened.cursor(binary=True)
        opened._timeout = timeout
        opened.execute("SET plan_cache_mode = force_generic_plan; SET jit = off")
        opened.execute(f"SET statement_timeout = {round(1000 * timeout)}")
        return opened

    def wait(self, gen: PQGen[R], interval: float = 1.0, timeout: float | None = None) -> R:
        """Wait for an answer; close the connection if it does not come in time."""
        try:
            return super().wait(gen, interval, self._timeout if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()
            raise

    @contextmanager
    def hurried(self, seconds: float) -> Iterator[None]:
        """Wait for answers no longer than that meanwhile."""
        usual = self._timeout
        self._timeout = seconds if usual is None else min(usual, seconds)
        try:
            yield
        finally:
            self._timeout = usual


class Pool:
    """Connections that are idle, most recently used first."""

    def __init__(self, connect: Callable[[], PostgresConnection], size: int, wait_seconds: float) -> None:
        """Hold no connection yet.

        Args:
            connect: Opens one.
            size: How many are lent at most at a time.
            wait_seconds: How long to wait for one.
        """
        self._connect = connect
        self._idle: deque[PostgresConnection] = deque()
        self._slots = threading.BoundedSemaphore(size)
        self._size = size
        self._wait_seconds = wait_seconds
        self._renewals = 0

    @property
    def has_idle(self) -> bool:
        """Whether a connection is open that nobody uses."""
        return bool(self._idle)

    @contextmanager
    def lent(self) -> Iterator[PostgresConnection]:
        """Lend a connection.

        Raises:
            psycopg.Error: None could be opened, or none came free in time.
        """
        if not self._slots.acquire(timeout=self._wait_seconds):
            raise psycopg.OperationalError(f"all {self._size} connections are in use")
        try:
            renewals = self._renewals
            connection = self._take()
            try:
                yield connection
            finally:
                is_current = renewals == self._renewals
                if is_current and connection.info.transaction_status == TransactionStatus.IDLE:
                    self._idle.append(connection)
                else:
                    connection.close()
        finally:
            self._slots.release()

    def _take(self) -> PostgresConnection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._connect()
            if _is_quiet(connection):
                return connection
            connection.close()

    def renew(self) -> None:
        """Close the connections that are idle, and those that are lent when they are given back."""
        self._renewals += 1
        self.close()

    def close(self) -> None:
        """Close the connections that are idle."""
        while True:
            try:
                self._idle.pop().close()
            except IndexError:
                return


def _is_quiet(connection: PostgresConnection) -> bool:
    """Tell whether nothing has come from the server since the last answer."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)
