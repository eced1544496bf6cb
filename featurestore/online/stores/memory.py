"""Online state in the memory of this process: for tests and experiments."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from featurestore.online.stores.errors import WHERE, conflict
from featurestore.storage import Hold, busy


class MemoryOnlineStore:
    """An ``OnlineStore`` in a dictionary, safe to use from several threads; it ends with the process.

    Attributes:
        keeps_time: Reads do not block.
        values: The stored values; change them through the methods only.
    """

    keeps_time = True

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self._held: set[str] = set()
        self._lock = threading.Lock()

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the values of those keys that exist, all from one moment."""
        with self._lock:
            return {key: self.values[key] for key in keys if key in self.values}

    def write(
        self, items: Sequence[tuple[bytes, bytes]], *, expected: Mapping[bytes, bytes | None] | None = None
    ) -> None:
        """Set values, all or none, if some keys still have the values they are expected to have."""
        with self._lock:
            if any(self.values.get(key) != value for key, value in (expected or {}).items()):
                raise conflict()
            self.values.update(items)

    def delete(self, prefix: bytes) -> int:
        """Delete all keys that begin with a prefix; return how many there were."""
        with self._lock:
            gone = [key for key in self.values if key.startswith(prefix)]
            for key in gone:
                del self.values[key]
            return len(gone)

    def count(self, prefix: bytes) -> int:
        """Return how many keys begin with a prefix."""
        with self._lock:
            return sum(key.startswith(prefix) for key in self.values)

    @contextmanager
    def exclusive(self, name: str) -> Iterator[Hold]:
        """Hold a lock exclusively among the threads of this process."""
        with self._lock:
            if name in self._held:
                raise busy(name, WHERE)
            self._held.add(name)
        try:
            yield _Hold()
        finally:
            with self._lock:
                self._held.discard(name)

    def close(self) -> None:
        """Do nothing: values stay."""


class _Hold:
    """A lock in this process, which cannot be lost."""

    def is_held(self) -> bool:
        """Return ``True``."""
        return True


_NAMED: dict[str, MemoryOnlineStore] = {}
_NAMED_LOCK = threading.Lock()


def memory_store(name: str) -> MemoryOnlineStore:
    """Return the store of a name, the same one each time; for an empty name a new store."""
    if not name:
        return MemoryOnlineStore()
    with _NAMED_LOCK:
        return _NAMED.setdefault(name, MemoryOnlineStore())
