"""Online state in Redis or Valkey.

A read is one ``MGET`` and a write is one script, so each is atomic on the server: readers see all of a write or nothing
of it, and its expected values are compared in the same step. A script that does not fit in memory is refused before its
first change. Whether acknowledged writes survive a crash of the server, or the promotion of a replica, depends on the
server's settings (``appendfsync``, ``min-replicas-to-write``).

The server must not evict keys (``maxmemory-policy noeviction``). The first write checks that, and a serving process
checks it every second. A cluster is not supported, because it cannot read or write many keys atomically.

Commands are never sent twice, because after a timeout the server may have executed them.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from queue import Empty
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from featurestore.core.errors import ConfigError
from featurestore.online.stores.deadline import SHORT_SECONDS, out_of_time, seconds_left
from featurestore.online.stores.errors import (
    WHERE,
    conflict,
    drops_keys,
    failed,
    unavailable,
)
from featurestore.online.stores.options import (
    choice,
    count,
    existing_file,
    existing_folder,
    read_url,
    seconds,
    switch,
)
from featurestore.online.stores.store import is_state_key
from featurestore.storage import Hold, LeaseHolder

T = TypeVar("T")

_WRITE = """
local absent, present, kept, expiring, lifetime =
    tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
for i = 1, absent do
    if redis.call('EXISTS', KEYS[i]) == 1 then return 0 end
end
for i = 1, present do
    if redis.call('GET', KEYS[absent + i]) ~= ARGV[5 + i] then return 0 end
end
local key, value = absent + present, 5 + present
for i = 1, kept do
    redis.call('SET', KEYS[key + i], ARGV[value + i])
end
key, value = key + kept, value + kept
for i = 1, expiring do
    redis.call('SET', KEYS[key + i], ARGV[value + i], 'PX', lifetime)
end
return 1
"""
_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

_COUNT = """
local step = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
return {step[1], #step[2]}
"""
"""One step of counting keys; the keys are not sent to the client."""

_SCANNED_AT_ONCE = 5_000
_AWAY = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterDownError,
)
_LOCKED_OUT = (
    redis.exceptions.AuthenticationError,
    redis.exceptions.AuthorizationError,
)


def _prefix(text: str) -> str:
    if _MARK in text:
        raise ValueError(f"a prefix must not contain '{_MARK}'")
    return text


_MARK = "|"
"""Ends the prefix of every key, so that the keys of one store never begin with the prefix of another."""

_OPTIONS = {
    "connect_timeout": seconds,
    "expire": seconds,
    "lease": seconds,
    "pool": count,
    "prefix": _prefix,
    "timeout": seconds,
}
_TLS = {
    "ssl_ca_certs": existing_file,
    "ssl_ca_path": existing_folder,
    "ssl_cert_reqs": choice("required", "optional", "none"),
    "ssl_certfile": existing_file,
    "ssl_check_hostname": switch,
    "ssl_keyfile": existing_file,
}
_TLS_HINT = (
    "rediss:// needs a server that speaks TLS; ssl_ca_certs names the authority that signed its certificate, "
    "ssl_certfile and ssl_keyfile the client's own."
)
_CUT_OFF = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
"""Errors of TLS when a connection ended: the server may have been stopped, and TLS is set up correctly."""


class RedisOnlineStore:
    """An ``OnlineStore`` in Redis or Valkey, safe to use from several threads and processes.

    Attributes:
        items_at_once: The server executes one command at a time; a write of a thousand states takes some milliseconds.
        keeps_time: A read closes its connection at the deadline.
        drops_after_us: How long after its last write a state expires; 0 for never.
    """

    items_at_once = 1_000
    keeps_time = True

    def __init__(self, url: str) -> None:
        """Parse the URL; nothing is connected yet.

        Args:
            url: ``redis://[user:password@]host[:6379][/0]``, ``valkey://…`` the same. Options:
                ``prefix`` of all keys (``fs``), ``timeout`` of an answer (``5s``), ``connect_timeout`` (``2s``),
                ``pool``, the most connections (64), ``lease``, how long a lock stays held after its holder has died
                (``15s``), and ``expire``: a state that was not written for so long expires, and its entity is then
                answered like one that was never seen; records of views do not expire.
                With TLS ``rediss://…`` or ``valkeys://…``; the server's certificate is checked, by the machine's
                authorities or those of the file ``ssl_ca_certs``. More options: ``ssl_ca_path`` (a folder of them),
                ``ssl_certfile`` and ``ssl_keyfile`` (the client's certificate), ``ssl_check_hostname`` (``true``),
                ``ssl_cert_reqs`` (``required``; ``none`` encrypts and trusts everybody).

        Raises:
            ConfigError: The URL is invalid, or names a file that does not exist.
        """
        tls = _TLS if url.startswith(("rediss:", "valkeys:")) else {}
        parsed = read_url(url, options=_OPTIONS | tls, client_options=frozenset())
        options = parsed.options
        self._place = parsed.shown
        self._lifetime_ms = max(1, round(1000 * options["expire"])) if "expire" in options else 0
        self.drops_after_us = 1_000 * self._lifetime_ms
        prefix = f"{options.get('prefix', 'fs')}{_MARK}".encode()
        self._states = prefix + b"s"
        self._is_checked = False
        if not parsed.url.hostname or not re.fullmatch(r"/?|/\d+", parsed.url.path):
            hint = "Write it as redis://host:6379/0."
            raise ConfigError(f"'{parsed.shown}' does not name a server", where=WHERE, hint=hint, code="store-url")
        wait = self._wait_seconds = float(options.get("timeout", 5.0))
        self._pool = redis.BlockingConnectionPool.from_url(
            parsed.url._replace(scheme=parsed.url.scheme.replace("valkey", "redis")).geturl(),
            max_connections=options.get("pool", 64),
            timeout=wait,
            socket_timeout=wait,
            socket_connect_timeout=options.get("connect_timeout", 2.0),
            retry=Retry(NoBackoff(), 0),
            client_name="featurestore",
            **{name: value for name, value in options.items() if name in tls},
        )
        self._client = redis.Redis(connection_pool=self._pool)
        self._renewals = 0
        self._write = self._client.register_script(_WRITE)
        self._count = self._client.register_script(_COUNT)
        leases = _Leases(self._client, prefix + b"l", self._place, self._on_primary)
        self._holder = LeaseHolder(leases, options.get("lease", 15.0), WHERE)

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the values of those keys that exist, all from one moment."""
        if not keys:
            return {}
        with _Failures("read", self._place):
            values = self._command(_get_many(self._states, keys), seconds=seconds_left())
        return {key: value for key, value in zip(keys, values, strict=True) if value is not None}

    def _command(self, command: bytes, *, seconds: float) -> Any:
        """Send one command and return its answer, without the client's checks around it.

        The client's own method takes twice the time. Neither repeats a command.
        """
        is_short_of_time = seconds < self._wait_seconds
        renewals = self._renewals
        if seconds < SHORT_SECONDS and not self._has_idle():
            raise out_of_time(self._place)
        connection = self._take()
        try:
            connection.send_packed_command((command,), check_health=False)
            return connection.read_response(timeout=seconds) if is_short_of_time else connection.read_response()
        except redis.exceptions.TimeoutError:
            connection.disconnect()
            if is_short_of_time:
                raise out_of_time(self._place) from None
            raise
        except BaseException:
            connection.disconnect()
            raise
        finally:
            if renewals != self._renewals:
                connection.disconnect()
            self._return(connection)

    def _take(self) -> Any:
        """Take an idle connection if one is ready; otherwise the client's pool opens one."""
        places: Any = self._pool.pool
        with suppress(Empty):
            connection = places.get_nowait()
            if _is_ready(connection):
                return connection
            places.put_nowait(connection)
        return self._pool.get_connection()  # type: ignore[no-untyped-call]  # untyped in the client

    def _return(self, connection: Any) -> None:
        if connection.should_reconnect():
            self._pool.release(connection)  # type: ignore[no-untyped-call]  # untyped in the client
        else:
            self._pool.pool.put_nowait(connection)

    def _has_idle(self) -> bool:
        """Return whether an open connection is idle."""
        places: Any = self._pool.pool
        return bool(places.queue) and places.queue[-1] is not None

    def write(
        self, items: Sequence[tuple[bytes, bytes]], *, expected: Mapping[bytes, bytes | None] | None = None
    ) -> None:
        """Set values, all or none, if some keys still have the values they are expected to have."""
        expected = expected or {}
        absent = [key for key, value in expected.items() if value is None]
        present = [(key, value) for key, value in expected.items() if value is not None]
        kept = [item for item in items if not self._lifetime_ms or not is_state_key(item[0])]
        expiring = [item for item in items if is_state_key(item[0])] if self._lifetime_ms else []
        compared = [*present, *kept, *expiring]
        if not compared and not absent:
            return
        if not self._is_checked:
            self._check_eviction()
        keys = [*absent, *[key for key, _ in compared]]
        counts = [len(absent), len(present), len(kept), len(expiring), self._lifetime_ms]
        keys = [self._states + key for key in keys]
        args = [*counts, *[value for _, value in compared]]
        with _Failures("write", self._place):
            is_written = self._on_primary(lambda: self._write(keys=keys, args=args))
        if not is_written:
            raise conflict()

    def _on_primary(self, command: Callable[[], T]) -> T:
        """Execute a command that writes; once more on a new connection if the server has become a replica.

        A replica refuses such a command before it changes anything. New connections may lead to the primary.
        """
        try:
            return command()
        except redis.exceptions.ReadOnlyError:
            self._renew_connections()
            return command()

    def _renew_connections(self) -> None:
        """Close the idle connections now, and those in use when they are returned."""
        self._renewals += 1
        _disconnect_idle(self._pool)

    def why_it_drops_keys(self) -> str:
        """Return the reason why the server may currently evict states; empty if it does not.

        If the server has become a replica, its connections are closed: the next command opens a new one.
        """
        with _Failures("ask", self._place):
            try:
                memory: Any = self._client.info("memory")
                replication: Any = self._client.info("replication")
            except redis.exceptions.NoPermissionError:
                return ""
        if replication.get("role") == "slave":
            self._renew_connections()
        policy = str(memory.get("maxmemory_policy", "noeviction"))
        is_affected = policy.startswith("allkeys-") or (policy.startswith("volatile-") and self._lifetime_ms > 0)
        if not memory.get("maxmemory") or not is_affected:
            return ""
        return f"{self._place} evicts keys when its memory is full ({policy})"

    def _check_eviction(self) -> None:
        """Check that the server does not evict states when its memory is full.

        Raises:
            StorageError: It evicts them.
        """
        if reason := self.why_it_drops_keys():
            raise drops_keys(reason)
        self._is_checked = True

    def count(self, prefix: bytes) -> int | None:
        """Return how many keys begin with a prefix; ``None`` with the option ``expire``.

        The server scans all of its keys for that, a few thousand at a time.
        """
        if self._lifetime_ms:
            return None
        pattern = _escaped(self._states + prefix) + b"*"
        total, cursor = 0, b"0"
        with _Failures("read", self._place):
            while True:
                answer: Any = self._count(args=[cursor, pattern, _SCANNED_AT_ONCE])
                cursor, step = answer
                total += int(step)
                if cursor == b"0":
                    return total

    def delete(self, prefix: bytes) -> int:
        """Delete all keys that begin with a prefix; return how many there were.

        The server scans all of its keys for that, a few thousand at a time.
        """
        pattern = _escaped(self._states + prefix) + b"*"
        deleted = cursor = 0
        with _Failures("delete from", self._place):
            while True:
                answer: Any = self._client.scan(cursor, match=pattern, count=_SCANNED_AT_ONCE)
                cursor, keys = answer
                if keys:
                    count: Any = self._on_primary(partial(self._client.unlink, *keys))
                    deleted += count
                if cursor == 0:
                    return deleted

    def what_is_left(self) -> str:
        """Return a sentence on where deleted data may remain."""
        return (
            "Redis keeps deleted keys in its append-only file and snapshots, if it has any, until these are rewritten "
            "(BGREWRITEAOF, BGSAVE)"
        )

    def exclusive(self, name: str) -> AbstractContextManager[Hold]:
        """Hold a lock exclusively among all processes, by a lease that a thread renews."""
        return self._holder.hold(name)

    def close(self) -> None:
        """Close the idle connections."""
        try:
            self._holder.close()
        finally:
            _disconnect_idle(self._pool)


def _get_many(prefix: bytes, keys: Sequence[bytes]) -> bytes:
    """Return the command that reads some keys, in the wire format."""
    parts = [b"*%d\r\n$4\r\nMGET\r\n" % (len(keys) + 1)]
    width = len(prefix)
    parts += [b"$%d\r\n%b%b\r\n" % (width + len(key), prefix, key) for key in keys]
    return b"".join(parts)


def _is_ready(connection: Any) -> bool:
    """Return whether a connection is open, belongs to this process and has nothing to read, not even its end."""
    if connection is None or not connection.is_connected or connection.pid != os.getpid():
        return False
    try:
        return not (connection.should_reconnect() or connection.can_read())
    except redis.exceptions.ConnectionError:
        return False


def _disconnect_idle(pool: redis.BlockingConnectionPool) -> None:
    """Disconnect the idle connections. Meanwhile they are taken out of the pool, so that none is used.

    The pool's own method may disconnect a connection that has just been handed out.
    """
    places: Any = pool.pool
    taken = []
    with suppress(Empty):
        while True:
            taken.append(places.get_nowait())
    for connection in reversed(taken):
        if connection is not None:
            connection.disconnect()
        places.put_nowait(connection)


def _escaped(text: bytes) -> bytes:
    """Return the pattern that matches exactly these bytes."""
    return b"".join(b"\\" + bytes([byte]) if byte in b"*?[]\\^-" else bytes([byte]) for byte in text)


class _Leases:
    """Leases, each in a key that expires."""

    def __init__(
        self, client: redis.Redis, prefix: bytes, place: str, on_primary: Callable[[Callable[[], Any]], Any]
    ) -> None:
        self._client = client
        self._on_primary = on_primary
        self._prefix = prefix
        self._place = place
        self._renew = client.register_script(_RENEW)
        self._release = client.register_script(_RELEASE)

    def take(self, name: str, token: bytes, seconds: float) -> bool:
        """Take a free lease for a token; return whether the token holds it now."""
        with _Failures("lock", self._place):
            key, milliseconds = self._prefix + name.encode(), round(1000 * seconds)
            return bool(self._on_primary(lambda: self._client.set(key, token, nx=True, px=milliseconds)))

    def renew(self, name: str, token: bytes, seconds: float) -> bool:
        """Renew a lease from now on; return whether the token still held it."""
        with _Failures("lock", self._place):
            keys, milliseconds = [self._prefix + name.encode()], round(1000 * seconds)
            return bool(self._on_primary(lambda: self._renew(keys=keys, args=[token, milliseconds])))

    def release(self, name: str, token: bytes) -> bool:
        """Release the lease of a token; return whether the token still held it."""
        with _Failures("unlock", self._place):
            keys = [self._prefix + name.encode()]
            return bool(self._on_primary(lambda: self._release(keys=keys, args=[token])))


class _Failures:
    """Turns the client's errors into the library's, as a context manager."""

    __slots__ = ("_place", "_verb")

    def __init__(self, verb: str, place: str) -> None:
        self._verb = verb
        self._place = place

    def __enter__(self) -> None:
        """Enter the block."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Raise the library's error for an error of the client.

        Raises:
            StorageError: The client failed.
        """
        if not isinstance(error, redis.RedisError):
            return
        if _is_distrust(error):
            raise failed(self._verb, self._place, error, hint=_TLS_HINT) from error
        is_away = isinstance(error, _AWAY) and not isinstance(error, _LOCKED_OUT)
        raise (unavailable if is_away else failed)(self._verb, self._place, error) from error


def _is_distrust(error: redis.RedisError) -> bool:
    """Return whether the error is a wrong setup of TLS, which does not pass by itself."""
    cause = error.__cause__ or error.__context__
    return isinstance(cause, ssl.SSLError) and not isinstance(cause, _CUT_OFF)
