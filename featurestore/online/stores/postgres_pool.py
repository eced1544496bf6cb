"""Connections to PostgreSQL, lent one at a time.

A connection that was idle is looked at before it is lent, without a round trip: a server that is gone has closed it,
which makes it readable. So a server's restart costs nobody an error, and one that is down is told about at once, by
the attempt to connect.
"""

from __future__ import annotations

import math
import select
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import psycopg
from psycopg import IsolationLevel
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

from featurestore.online.stores.errors import pooled_by_transaction
from featurestore.storage.database import is_pooled

R = TypeVar("R")

_POOLING_TRIALS = 3
"""How often it is tried whether a pooler keeps sessions; beside other clients one trial could miss that it does not."""

_CHECK_SECONDS = 2.0


class PostgresConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection on which every answer must come within a time.

    Attributes:
        reader: A cursor that is kept for the hot read.
    """

    reader: psycopg.Cursor[tuple[Any, ...]]
    _timeout: float | None = None

    @classmethod
    def open(
        cls,
        conninfo: str,
        *,
        connect_timeout: float,
        timeout: float,
        check: Callable[[PostgresConnection], None] | None = None,
    ) -> Self:
        """Connect.

        Args:
            conninfo: URL that libpq takes.
            connect_timeout: Seconds to wait for a connection.
            timeout: Seconds to wait for each answer, then the connection is closed.
            check: Is called with a connection that goes to a pooler, before anything is set; may refuse it.

        Raises:
            psycopg.Error: The server cannot be reached or refuses.
        """
        opened = cls.connect(
            conninfo,
            autocommit=True,
            connect_timeout=max(2, math.ceil(connect_timeout)),
            fallback_application_name="featurestore",
        )
        opened._timeout = timeout
        try:
            if check is not None and is_pooled(opened):
                check(opened)
        except BaseException:
            opened.close()
            raise
        opened.isolation_level = IsolationLevel.READ_COMMITTED
        opened.reader = opened.cursor(binary=True)
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


@dataclass
class _Session:
    """A connection while a thread holds names with it.

    Attributes:
        connection: The connection.
        lending: Gives it back.
        names: The names, as numbers.
    """

    connection: PostgresConnection
    lending: ExitStack
    names: set[int]


class Sessions:
    """Connections that hold names: one for each thread that holds any, however many names that thread holds.

    So a thread that needs many names at once cannot use up all connections, and wait for another one.
    """

    def __init__(self, pool: Pool) -> None:
        """Take the pool that connections come from."""
        self._pool = pool
        self._own = threading.local()
        self._lock = threading.Lock()

    @contextmanager
    def lent(self, name: int) -> Iterator[PostgresConnection | None]:
        """Lend the thread's connection for one more name; ``None`` if the thread holds that name already.

        The server would let a session take a name twice.

        Raises:
            psycopg.Error: No connection could be opened, or none came free in time.
        """
        session = self._joined(name)
        if session is None:
            yield None
            return
        try:
            yield session.connection
        finally:
            self._leave(session, name)

    def _joined(self, name: int) -> _Session | None:
        with self._lock:
            own: _Session | None = getattr(self._own, "session", None)
            if own is not None and own.names:
                if name in own.names:
                    return None
                own.names.add(name)
                return own
        lending = ExitStack()
        self._own.session = session = _Session(lending.enter_context(self._pool.lent()), lending, {name})
        return session

    def _leave(self, session: _Session, name: int) -> None:
        with self._lock:
            session.names.discard(name)
            is_last = not session.names
        if is_last:
            session.lending.close()


class SessionCheck:
    """Makes sure, once, that connections through a pooler are sessions of the server; remembers if they are not."""

    def __init__(self, conninfo: str) -> None:
        """Check nothing yet."""
        self._conninfo = conninfo
        self._lock = threading.Lock()
        self._is_refused = False

    def __call__(self, connection: PostgresConnection) -> None:
        """Check a connection.

        A setting is made in one session. Another connection must not see it, and this one must always see it: while the
        other one is in a transaction, too, when a pooler that pools by transaction has to choose another session for
        one of the two.

        Raises:
            ConfigError: The pooler pools by transaction, or by statement.
            psycopg.Error: The server cannot be reached or refuses.
        """
        with self._lock:
            if self._is_refused or not self._keeps_session(connection):
                self._is_refused = True
                raise pooled_by_transaction()

    def _keeps_session(self, connection: PostgresConnection) -> bool:
        with PostgresConnection.connect(self._conninfo, prepare_threshold=None, autocommit=True) as other:
            other._timeout = _CHECK_SECONDS
            for _ in range(_POOLING_TRIALS):
                token = uuid.uuid4().hex
                connection.execute("SELECT set_config('featurestore.session', %s, false)", (token,), prepare=False)
                if _setting(other) == token or _setting(connection) != token:
                    return False
            # A transaction that is open keeps a session, so this comes last: of few sessions all may be kept by others.
            with other.transaction():
                return _setting(other) != token and _setting(connection) == token


def _setting(connection: PostgresConnection) -> str | None:
    statement = "SELECT current_setting('featurestore.session', true)"
    row = connection.execute(statement, prepare=False).fetchone()
    return None if row is None else row[0]


def _is_quiet(connection: PostgresConnection) -> bool:
    """Tell whether nothing has come from the server since the last answer."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)
