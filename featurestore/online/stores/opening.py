"""Opening online stores by URL. The client of a store is imported when its scheme is used first.

Another package adds a store by an entry point of the group ``featurestore.online_stores``: its name is the scheme, and
its object takes the URL and returns the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from urllib.parse import urlsplit

from featurestore.core.errors import ConfigError, listing
from featurestore.online.stores.errors import WHERE
from featurestore.online.stores.store import OnlineStore

GROUP = "featurestore.online_stores"
"""Group of entry points for stores of other packages."""


def _sqlite(url: str) -> OnlineStore:
    from featurestore.online.stores.sql import SqlOnlineStore

    return SqlOnlineStore(url)


def _memory(url: str) -> OnlineStore:
    from featurestore.online.stores.memory import memory_store

    return memory_store(url.partition("://")[2].strip("/"))


def _redis(url: str) -> OnlineStore:
    with _extra("redis"):
        from featurestore.online.stores.redis import RedisOnlineStore
    return RedisOnlineStore(url)


def _postgres(url: str) -> OnlineStore:
    with _extra("postgres"):
        from featurestore.online.stores.postgres import PostgresOnlineStore
    return PostgresOnlineStore(url)


_SCHEMES: dict[str, Callable[[str], OnlineStore]] = {
    "memory": _memory,
    "postgres": _postgres,
    "postgresql": _postgres,
    "postgresql+psycopg": _postgres,
    "redis": _redis,
    "rediss": _redis,
    "sqlite": _sqlite,
    "valkey": _redis,
    "valkeys": _redis,
}


def open_online_store(url: str) -> OnlineStore:
    """Open the online store of a URL.

    Nothing is sent to a server yet: the first read or write reports a server that is down.

    Args:
        url: ``sqlite:///path/to/online.db``; ``postgresql://user:password@host/database``;
            ``redis://host:6379/0`` or ``valkey://…``, with TLS ``rediss://…``; ``memory://name`` for a store that is
            shared by name in this process, ``memory://`` for a new store.

    Raises:
        ConfigError: No store has that scheme, the URL is wrong, or the store's client is not installed.
        StorageError: A SQLite file cannot be opened or made.
    """
    scheme = urlsplit(url).scheme
    if scheme in _SCHEMES:
        return _SCHEMES[scheme](url)
    others = entry_points(group=GROUP)
    if scheme not in others.names:
        raise ConfigError(
            f"no online store has the scheme '{scheme}'" if scheme else "its URL has no scheme",
            where=WHERE,
            hint=listing("Schemes", {*_SCHEMES, *others.names}, wrong=scheme),
            code="store-scheme",
        )
    opened: OnlineStore = others[scheme].load()(url)
    return opened


@contextmanager
def _extra(name: str) -> Iterator[None]:
    """Turn a failing import into an error that names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the package '{error.name}' is not installed",
            where=WHERE,
            hint=f"Run pip install 'featurestore[{name}]'.",
            code="missing-extra",
        ) from error
