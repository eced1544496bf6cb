"""A pool of connections to PostgreSQL.

An idle connection is checked before it is used, without a round trip: a server that has gone away has closed it, which
makes its socket readable. So a restart of the server causes no error, and a server that is down is reported at once, by
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
"""How often to test whether a pooler keeps sessions; with other clients a single test could pass by chance."""

_CHECK_SECONDS = 2.0


class PostgresConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection on which every answer must come within a time.

    Attributes:
        reader: The cursor of the hot read.
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
            timeout: Seconds to wait for each answer; after that the connection is closed.
            check: Called with a connection to a pooler before any setting is made; it may refuse the connection.

        Raises:
            psycopg.Error: The server cannot be reached or refuses.
        """
        connection = cls.connect(
            conninfo,
            autocommit=True,
            connect_timeout=max(2, math.ceil(connect_timeout)),
            fallback_application_name="featurestore",
        )
        connection._timeout = timeout
        try:
            if check is not None and is_pooled(connection):
                check(connection)
        except BaseException:
            connection.close()
            raise
        connection.isolation_level = IsolationLevel.READ_COMMITTED
        connection.reader = connection.cursor(binary=True)
        connection.execute("SET plan_cache_mode = force_generic_plan; SET jit = off")
        connection.execute(f"SET statement_timeout = {round(1000 * timeout)}")
        return connection

    def wait(self, gen: PQGen[R], interval: float = 1.0, timeout: float | None = None) -> R:
        """Wait for an answer; close the connection if it does not come in time."""
        try:
            return super().wait(gen, interval, self._timeout if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()
            raise

    @contextmanager
    def time_limit(self, seconds: float) -> Iterator[None]:
        """Shorten the time to wait for answers inside a ``with`` block."""
        usual = self._timeout
        self._timeout = seconds if usual is None else min(usual, seconds)
        try:
            yield
        finally:
            self._timeout = usual


class Pool:
    """Idle connections, most recently used first."""

    def __init__(self, connect: Callable[[], PostgresConnection], size: int, wait_seconds: float) -> None:
        """Hold no connection yet.

        Args:
            connect: Opens a connection.
            size: The most connections in use at a time.
            wait_seconds: How long to wait for a connection.
        """
        self._connect = connect
        self._idle: deque[PostgresConnection] = deque()
        self._slots = threading.BoundedSemaphore(size)
        self._size = size
        self._wait_seconds = wait_seconds
        self._renewals = 0

    @property
    def has_idle(self) -> bool:
        """Whether an open connection is idle."""
        return bool(self._idle)

    @contextmanager
    def connection(self) -> Iterator[PostgresConnection]:
        """Hand out a connection for a ``with`` block.

        Raises:
            psycopg.Error: No connection could be opened, or none became free in time.
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
        """Close the idle connections now, and those in use when they are returned."""
        self._renewals += 1
        self.close()

    def close(self) -> None:
        """Close the idle connections."""
        while True:
            try:
                self._idle.pop().close()
            except IndexError:
                return


@dataclass
class _Session:
    """A connection while a thread holds locks with it.

    Attributes:
        connection: The connection.
        use: Returns it to the pool when it is closed.
        locks: The numbers of the locks.
    """

    connection: PostgresConnection
    use: ExitStack
    locks: set[int]


class Sessions:
    """Connections that hold locks: one for each thread with locks, however many it has.

    So a thread that needs many locks at once cannot use up all connections and then wait for another one.
    """

    def __init__(self, pool: Pool) -> None:
        """Take the pool of the connections."""
        self._pool = pool
        self._local = threading.local()
        self._lock = threading.Lock()

    @contextmanager
    def connection(self, lock: int) -> Iterator[PostgresConnection | None]:
        """Hand out the thread's connection for one more lock; ``None`` if the thread holds that lock already.

        The server would let a session take a lock twice.

        Raises:
            psycopg.Error: No connection could be opened, or none became free in time.
        """
        session = self._join(lock)
        if session is None:
            yield None
            return
        try:
            yield session.connection
        finally:
            self._leave(session, lock)

    def _join(self, lock: int) -> _Session | None:
        with self._lock:
            current: _Session | None = getattr(self._local, "session", None)
            if current is not None and current.locks:
                if lock in current.locks:
                    return None
                current.locks.add(lock)
                return current
        use = ExitStack()
        self._local.session = session = _Session(use.enter_context(self._pool.connection()), use, {lock})
        return session

    def _leave(self, session: _Session, lock: int) -> None:
        with self._lock:
            session.locks.discard(lock)
            is_last = not session.locks
        if is_last:
            session.use.close()


class SessionCheck:
    """Checks that connections through a pooler are sessions of the server; a refusal is remembered."""

    def __init__(self, conninfo: str) -> None:
        """Check nothing yet."""
        self._conninfo = conninfo
        self._lock = threading.Lock()
        self._is_refused = False

    def __call__(self, connection: PostgresConnection) -> None:
        """Check a connection.

        A setting is made in one session. Another connection must not see it, and this one must always see it, even
        while
        the other one is in a transaction: a pooler that pools by transaction must then use another session for one of
        the two.

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
            # An open transaction occupies a session, so this comes last: there may be few sessions.
            with other.transaction():
                return _setting(other) != token and _setting(connection) == token


def _setting(connection: PostgresConnection) -> str | None:
    statement = "SELECT current_setting('featurestore.session', true)"
    row = connection.execute(statement, prepare=False).fetchone()
    return None if row is None else row[0]


def _is_quiet(connection: PostgresConnection) -> bool:
    """Return whether the server has sent nothing since its last answer."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)
